"""DistillationTrainer: a Trainer whose loss is an objective over student and teacher."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import BatchSampler, Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from hfdistill import labels as spaces
from hfdistill.arguments import option
from hfdistill.data import LengthGroupedSampler, row_lengths
from hfdistill.objectives import Blend, Objective, Setting, as_blend, default_objective
from hfdistill.pretrained import load_classifier
from hfdistill.teachers import Teacher, as_teacher
from hfdistill.trace import Batch, Trace, accepted_inputs, run
from hfdistill.trainer import preflight
from hfdistill.trainer.batches import REPEATED, own_rows, rows
from hfdistill.trainer.given import GivenLoss
from hfdistill.trainer.ledger import Ledger, NonFiniteError
from hfdistill.trainer.resumable import ResumableTrainer

logger = logging.getLogger(__name__)


class DistillationTrainer(ResumableTrainer):
    """A `Trainer` that learns from a teacher. Everything that Trainer takes keeps its meaning.

    The loss of an optimizer step is the objective over all its rows: the same gradient however they are split
    into micro-batches and processes. `eval_loss` is the student's own task loss, so that evaluation needs no
    teacher.

    Args:
        model: the student: a model, a Hub id or a path (or None with `model_init`).
        args: `TrainingArguments` or `DistillationArguments`.
        *positional: the further arguments of Trainer, in its order.
        teacher: a model, a Hub id, a path or a `Teacher`. None trains on the hard labels alone, in the same
            loop:
            the fair baseline.
        objective: terms such as `0.1 * CrossEntropy() + 0.9 * KD(temperature=4)`. None means half hard labels
            and half teacher, 0.5 * CrossEntropy() + 0.5 * KD(temperature=4), that is L = α·CE +
            (1-α)·T²·KL(teacher ‖ student) with α = 0.5 (Hinton et al. 2015, arXiv 1503.02531); for regression
            0.5 * LabelMSE() + 0.5 * LogitMSE().
        label_map: teacher class → student class, where their names do not say it.
        **options: the further arguments of Trainer, by name. A `datasets.Dataset` with a `text` (and
            `text_pair`) column is tokenised with `processing_class`; one with `input_ids` is taken as it is.

    Raises:
        ValueError: before the first step, where objective, classes, labels or arguments do not fit together.

    Example:
        >>> trainer = DistillationTrainer(student, args, teacher=teacher)  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
    """

    loss_is_scaled_for_ga: ClassVar[bool] = True

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | str | Path | None = None,
        args: TrainingArguments | None = None,
        *positional: Any,
        teacher: PreTrainedModel | nn.Module | Teacher | str | Path | None,
        objective: Objective | Blend | None = None,
        label_map: Mapping[str | int, str | int] | None = None,
        **options: Any,
    ) -> None:
        names = list(inspect.signature(Trainer.__init__).parameters)[3:]
        options |= dict(zip(names, positional, strict=False))
        args = args or TrainingArguments("tmp_trainer")
        preflight.refuse_data_parallel(args)
        if isinstance(model, (str, Path)):
            model = load_classifier(model, role="student")
        self.teacher = None if teacher is None else as_teacher(teacher)
        for name in ("train_dataset", "eval_dataset"):
            options[name] = self._encoded(options.get(name), args, tokenizer=options.get("processing_class"))
        super().__init__(model, args, **options)
        preflight.refuse_self_teaching(self.model, self.teacher)
        self.args.logging_nan_inf_filter = False  # a run stops at such a loss, so there is nothing to hide
        if self.teacher is not None:
            self.teacher.to(self.args.device)
        self._label_map = label_map
        self._bind(objective)
        self._ledger = Ledger(self.blend.names)
        self._eval_losses: list[Tensor] | None = None
        self._sampler: Any = None
        self._teacher_print: str | None = None
        config = getattr(self.model, "config", None)
        preflight.check_data(self.train_dataset, self.eval_dataset, config=config, objective=self.blend)

    # ---- before the first step ----

    def _bind(self, objective: Objective | Blend | None) -> None:
        """Fix task, teacher columns and objective from the two configs."""
        config, theirs = getattr(self.model, "config", None), getattr(self.teacher, "config", None)
        self.task = spaces.task_kind(config)
        self._columns: list[int] | None = None
        if config is not None and theirs is not None:
            spaces.check_same_task(config, theirs)
            self._columns = spaces.match_labels(config, theirs, label_map=self._label_map)
        given = None if self.compute_loss_func is None else GivenLoss(self.compute_loss_func)
        if objective is not None and given is not None:
            raise ValueError(
                "Both objective and compute_loss_func are given, and each is the whole loss. Leave one out: "
                "without an objective, compute_loss_func takes the place of CrossEntropy in the default one."
            )
        self.blend = (
            default_objective(self.task, hard=given, taught=self.teacher is not None)
            if objective is None
            else as_blend(objective)
        )
        if self.teacher is None and self.blend.needs_teacher:
            raise ValueError(
                f"{self.blend} learns from a teacher, and teacher=None. Name one, or drop that term."
            )
        smoothing = self.args.label_smoothing_factor if self.task == "single_label" else 0.0
        self._classes = getattr(config, "num_labels", 2)
        self.blend.bind(Setting(task=self.task, classes=self._classes, label_smoothing=smoothing))
        self.blend.to(self.args.device)
        self._weights = torch.tensor(self.blend.weights, device=self.args.device)
        self._accepts = accepted_inputs(self.model)
        logger.info("Objective: %s", self.blend)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_for_training(*args, **kwargs)
        self._look_at_teacher()
        return prepared

    def _look_at_teacher(self) -> None:
        """Log the teacher's accuracy on the first rows of the evaluation data."""
        data = self.eval_dataset
        data = next(iter(data.values()), None) if isinstance(data, dict) else data
        limit = option(self.args, "teacher_check_rows")
        if self.teacher is None or self.task != "single_label" or not isinstance(data, Dataset) or not limit:
            return
        if not self.is_world_process_zero():
            return
        data = self._remove_unused_columns(data, "teacher check")
        answers, gold, size = [], [], self.args.eval_batch_size
        for start in range(0, min(limit, len(data)), size):
            part = [data[i] for i in range(start, min(start + size, limit, len(data)))]
            batch = dict(self._prepare_inputs(self.data_collator(part)))
            labels = self._labels(batch)
            answers += self._teach(batch).logits.argmax(-1)[labels != -100].tolist()
            gold += labels[labels != -100].tolist()
        if gold:
            self.log(preflight.judge_teacher(answers, gold))

    # ---- data ----

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """As Trainer's; raw text is tokenised first."""
        return super().get_eval_dataloader(
            self._encoded(eval_dataset, self.args, tokenizer=self.processing_class)
        )

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """As Trainer's; raw text is tokenised first."""
        return super().get_test_dataloader(
            self._encoded(test_dataset, self.args, tokenizer=self.processing_class)
        )

    def _encoded(self, data: Any, args: TrainingArguments, *, tokenizer: Any) -> Any:
        return preflight.encoded(data, args, tokenizer=tokenizer, teacher_inputs=self._teacher_inputs())

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns += sorted(self._teacher_inputs() - set(self._signature_columns) - {"labels"})

    def _teacher_inputs(self) -> frozenset[str]:
        return frozenset() if self.teacher is None else self.teacher.inputs()

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        """Batches of like length whose order (seed, epoch) alone decide, so that resuming is exact."""
        data = self.train_dataset if train_dataset is None else train_dataset
        strategy = self.args.train_sampling_strategy
        grouped = strategy == "group_by_length" or (
            strategy == "random" and option(self.args, "length_grouping")
        )
        if not grouped or not hasattr(data, "__len__"):
            self._sampler = super()._get_train_sampler(train_dataset)
            return self._sampler
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        window = self._train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        lengths = row_lengths(data, column=self.args.length_column_name)
        size = len(data) if lengths is None else None
        self._sampler = LengthGroupedSampler(lengths, size=size, group_size=window, seed=seed)
        return self._sampler

    def _run_epoch(self, *args: Any, epoch: int, **kwargs: Any) -> Any:
        """Tell the sampler the epoch: accelerate cannot, where several processes resume in its middle."""
        if isinstance(self._sampler, LengthGroupedSampler):
            self._sampler.set_epoch(epoch)
        return super()._run_epoch(*args, epoch=epoch, **kwargs)

    # ---- one optimizer step ----

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | None]:
        """The micro-batches of one optimizer step, and each term's count over them, on all processes."""
        batches = [self._own_rows(dict(batch)) for batch in itertools.islice(epoch_iterator, num_batches)]
        self._ledger.open_window()
        if not batches:
            return [], None
        each = [self._counts(batch, self._labels(batch)) for batch in batches]
        counts = torch.stack(each).sum(0).to(device)
        return batches, self.accelerator.reduce(counts, "sum") if self.args.world_size > 1 else counts

    def _own_rows(self, batch: dict[str, Any]) -> dict[str, Any]:
        state, size = self.accelerator.gradient_state, self._train_batch_size
        if self.args.world_size == 1 or not state.end_of_dataloader or self.args.dataloader_drop_last:
            return batch
        remainder = state.remainder  # unknown to accelerate in an epoch that is resumed in its middle
        if self._sampler is not None and not isinstance(self._sampler, BatchSampler):
            remainder = len(self._sampler) % (size * self.args.world_size)
        return own_rows(batch, remainder=remainder, rank=self.args.process_index, batch_size=size)

    def _counts(self, batch: Batch, labels: Tensor) -> Tensor:
        counts = self.blend.counts(labels)
        return torch.zeros_like(counts) if REPEATED in batch else counts

    def _labels(self, batch: Batch) -> Tensor:
        """The batch's labels in the task's shape; missing ones where there are none."""
        labels = batch.get(self.label_names[0] if self.label_names else "labels")
        if labels is None:
            labels = spaces.unlabelled(rows(batch), self._classes, self.task).to(self.args.device)
        return spaces.as_targets(labels, self.task)

    def _teach(self, batch: Batch) -> Trace:
        """The teacher's view of a batch, its columns in the student's order."""
        assert self.teacher is not None  # noqa: S101 - compute_loss asks only where an objective reads a teacher
        with self.accelerator.autocast():
            trace = self.teacher.trace(batch)
        if self._columns is None:
            return trace
        return dataclasses.replace(trace, logits=trace.logits[:, self._columns])

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """The objective on one micro-batch, scaled so that an optimizer step sums to its mean over all rows.

        Args:
            num_items_in_batch: (terms,) from `get_batch_samples`; None gives the mean over this batch alone.
        """
        batch = dict(inputs)
        labels = self._labels(batch)
        counts = self._counts(batch, labels)
        batch = {name: value for name, value in batch.items() if name not in (REPEATED, *self.label_names)}
        student = run(model, batch, accepts=self._accepts)
        teacher = self._teach(batch) if self.blend.needs_teacher else student
        _refuse_other_shape(student, teacher)
        weights = self._weights
        if num_items_in_batch is not None:  # DDP, FSDP and ZeRO average gradients over processes
            share = counts / num_items_in_batch.clamp(min=torch.finfo(torch.float32).tiny)
            weights = weights * share * self.accelerator.num_processes
        with torch.autocast(student.logits.device.type, enabled=False):
            parts = self.blend(student, teacher, labels) * weights
        if num_items_in_batch is not None:
            self._ledger.add(parts, batch=batch, student=student, teacher=teacher)
        loss = parts.sum()
        return (loss, SequenceClassifierOutput(loss=loss, logits=student.logits)) if return_outputs else loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Trainer's last call before the optimizer moves: stop here where a number is no number."""
        grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        fine = self._ledger.is_finite().to(self.args.device)
        if self.accelerator.scaler is None:  # fp16: the gradient scaler skips such steps and lowers the scale
            fine = fine & torch.isfinite(torch.as_tensor(grad_norm, device=fine.device))
        if self.args.world_size > 1:
            fine = self.accelerator.reduce(fine.float(), "sum") == self.args.world_size
        if not fine:
            step = self.state.global_step + 1
            raise NonFiniteError(self._ledger.explain(step, self.model, show=self._show_row))
        return grad_norm

    def _show_row(self, batch: Batch, row: int) -> str:
        ids = batch.get("input_ids")
        if ids is None or not isinstance(self.processing_class, PreTrainedTokenizerBase):
            return ""
        return repr(self.processing_class.decode(ids[row], skip_special_tokens=True)[:80])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As Trainer's; beside `loss` stand its parts as `loss_<name>`, which add up to it."""
        if "loss" in logs:
            logs |= self._ledger.take(average=lambda part: self.accelerator.reduce(part, "mean"))
        super().log(logs, start_time)

    # ---- evaluation ----

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """The student alone: its task loss, logits and labels."""
        inputs = self._prepare_inputs(inputs)
        given = inputs.get(self.label_names[0]) if self.label_names else None
        plain = {
            name: value
            for name, value in inputs.items()
            if name in self._accepts and name not in self.label_names
        }
        _, logits, _ = super().prediction_step(model, plain, False, ignore_keys=ignore_keys)
        loss = None
        if given is not None:
            loss = self._book_eval(logits[0] if isinstance(logits, tuple) else logits, self._labels(inputs))
        return (loss, None, None) if prediction_loss_only else (loss, logits, given)

    def _book_eval(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Keep each row's loss, gathered without repeats, and return the batch's mean."""
        if self.compute_loss_func is None:
            sums = spaces.row_losses(logits.float(), labels, self.task)  # (B, 2): sum and count
        else:
            value = GivenLoss(self.compute_loss_func)(Trace(logits), Trace(logits), labels)
            sums = torch.stack([value.float(), torch.ones_like(value)]).expand(len(labels), 2).contiguous()
        if self._eval_losses is not None:
            self._eval_losses.append(self.accelerator.gather_for_metrics(sums).cpu())
        return sums[:, 0].sum() / sums[:, 1].sum().clamp(min=1)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """As Trainer's; the loss is the mean over rows, exact for any number of rows and processes.

        Raises:
            NonFiniteError: where a row's loss is not finite, naming the rows.
        """
        self._eval_losses = []
        try:
            output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
            sums = torch.cat(self._eval_losses).double() if self._eval_losses else torch.zeros(0, 2)
        finally:
            self._eval_losses = None
        bad = (~torch.isfinite(sums[:, 0])).nonzero().view(-1).tolist()
        if bad:
            raise NonFiniteError(
                f"{metric_key_prefix}_loss is not finite on rows {bad[:5]} ({len(bad)} of {len(sums)}) at "
                f"step {self.state.global_step}. Look at these rows and at the weights."
            )
        output.metrics.pop(f"{metric_key_prefix}_loss", None)
        if sums[:, 1].sum() > 0:
            output.metrics[f"{metric_key_prefix}_loss"] = (sums[:, 0].sum() / sums[:, 1].sum()).item()
        return output

    # ---- resuming ----

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any
    ) -> TrainOutput:
        """As Trainer's; see `ResumableTrainer.train`."""
        self._ledger.start()
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def run_facts(self) -> dict[str, Any]:
        """Objective, teacher and label order: what must be the same when a run is resumed."""
        if self._teacher_print is None and self.teacher is not None:
            self._teacher_print = self.teacher.fingerprint()  # once: it reads every weight
        return {"objective": str(self.blend), "teacher": self._teacher_print, "columns": self._columns}


def _refuse_other_shape(student: Trace, teacher: Trace) -> None:
    if student.logits.shape != teacher.logits.shape:
        raise spaces.LabelSpaceError(
            f"The student's logits have shape {tuple(student.logits.shape)}, the teacher's "
            f"{tuple(teacher.logits.shape)}: they cannot be compared. Give both the same number of classes."
        )
