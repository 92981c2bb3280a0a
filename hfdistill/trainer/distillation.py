"""DistillationTrainer: a Trainer whose loss is an objective over student and teacher."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import itertools
import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, Sampler
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput

from hfdistill.data import FreshCopies, LengthGroupedSampler, row_lengths
from hfdistill.network import label_space as spaces
from hfdistill.network.architectures import known_anatomy
from hfdistill.network.loading import load_student
from hfdistill.network.tokenizers import tokenizer_print
from hfdistill.network.trace import Batch, Tap, Trace, accepted_inputs, run
from hfdistill.objectives import Blend, Objective, Setting, as_blend, default_objective
from hfdistill.teachers import Teacher, as_teacher
from hfdistill.trainer import checks
from hfdistill.trainer.arguments import option
from hfdistill.trainer.batches import REPEATED, own_rows, rows
from hfdistill.trainer.joint_objective import Lessons
from hfdistill.trainer.loss_window import Ledger, NonFiniteError
from hfdistill.trainer.mixup import MixingTrainer
from hfdistill.trainer.processes import leave_in_order
from hfdistill.trainer.theseus import Theseus
from hfdistill.trainer.user_loss import GivenLoss

logger = logging.getLogger(__name__)


class DistillationTrainer(MixingTrainer):
    """A `Trainer` that learns from a teacher. Everything that Trainer takes keeps its meaning.

    The loss of an optimizer step is the objective over all its rows: the same gradient however they are split
    into micro-batches and processes. `eval_loss` is the student's own task loss, so that evaluation needs no
    teacher.

    Args:
        model: the student: a model, a Hub id or a path (or None with `model_init`).
        args: `TrainingArguments` or `DistillationArguments`.
        *positional: the further arguments of Trainer, in its order.
        teacher: a model, a Hub id, a path or a `Teacher`. None trains on the hard labels alone, in the same
            loop: the fair baseline.
        objective: terms such as `0.1 * CrossEntropy() + 0.9 * KD(temperature=4)`. None means half hard labels
            and half teacher, 0.5 * CrossEntropy() + 0.5 * KD(temperature=4), that is L = α·CE +
            (1-α)·T²·KL(teacher ‖ student) with α = 0.5 (Hinton et al. 2015, arXiv 1503.02531); for regression
            0.5 * LabelMSE() + 0.5 * LogitMSE().
        teacher_cache: a folder where the teacher's answers are recorded at the start of `train()`, and then
            read in its place; rows that are there already are not asked again. See `CachedTeacher`.
        label_map: teacher class → student class, where their names do not say it.
        **options: the further arguments of Trainer, by name. A `datasets.Dataset` with a `text` (and
            `text_pair`) column is tokenised with `processing_class`, and a second time for a teacher whose
            tokenizer is another; one with `input_ids` is taken as it is.

    Raises:
        ValueError: before the first step, where objective, classes, labels or arguments do not fit together.

    Example:
        >>> trainer = DistillationTrainer(student, args, teacher=teacher)  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
    """

    loss_is_scaled_for_ga: ClassVar[bool] = True
    _sampler: Any = None
    _teacher_seen = False
    _teacher_print: str | None = None

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | str | Path | None = None,
        args: TrainingArguments | None = None,
        *positional: Any,
        teacher: PreTrainedModel | nn.Module | Teacher | str | Path | None,
        objective: Objective | Blend | None = None,
        teacher_cache: str | Path | None = None,
        label_map: Mapping[str | int, str | int] | None = None,
        **options: Any,
    ) -> None:
        given = inspect.signature(Trainer.__init__).bind_partial(self, model, args, *positional, **options)
        options = {
            name: value for name, value in given.arguments.items() if name not in ("self", "model", "args")
        }
        args = args or TrainingArguments("tmp_trainer")
        checks.refuse_data_parallel(args)
        self.teacher = None if teacher is None else as_teacher(teacher)
        if model is not None:
            model = load_student(model, like=getattr(self.teacher, "config", None))
        self._label_map = label_map
        tokenizer = options.get("processing_class")
        own = getattr(model, "config", None)
        self._reader = checks.Reader.of(args, own, self.teacher, options, label_map)
        options["data_collator"] = self._reader.collate(tokenizer)
        for name in ("train_dataset", "eval_dataset"):
            options[name] = self._reader(options.get(name), tokenizer, name)
        super().__init__(model, args, **options)
        leave_in_order()
        checks.check_teacher(self.teacher, student=self.model)
        self.args.logging_nan_inf_filter = False  # a run stops at such a loss, so there is nothing to hide
        self.blend = self._chosen(objective)
        self._lessons = Lessons(self.blend, teacher=self.teacher)
        self._bind(self.model)
        self._ledger = Ledger(self._lessons.names)
        self.use_cache(teacher_cache)
        data, config = (self.train_dataset, self.eval_dataset), getattr(self.model, "config", None)
        checks.check_data(*data, config=config, objective=self.blend, reader=self._reader)

    # ---- before the first step ----

    def _chosen(self, objective: Objective | Blend | None) -> Blend:
        """The objective as a blend of this trainer's own."""
        given = None if self.compute_loss_func is None else GivenLoss(self.compute_loss_func)
        if objective is not None and given is not None:
            raise ValueError(
                "Both objective and compute_loss_func are given, and each is the whole loss. Leave one out: "
                "without an objective, compute_loss_func takes the place of CrossEntropy in the default one."
            )
        if objective is not None:
            blend = copy.deepcopy(as_blend(objective))  # two trainers must not share projections
        else:
            task = spaces.task_kind(getattr(self.model, "config", None))
            taught, mutual = self.teacher is not None, self.teacher is not None and self.teacher.learns
            blend = default_objective(task, hard=given, taught=taught, mutual=mutual)
        if self.teacher is None and blend.needs_teacher:
            raise ValueError(f"{blend} learns from a teacher, and teacher=None. Name one, or drop that term.")
        return blend

    def _bind(self, model: nn.Module) -> None:
        """Fix task, teacher columns and what the objective reads, from the two models."""
        config = getattr(model, "config", None)
        self.task = spaces.name_task(config)  # before a teacher copies it
        if self.teacher is not None:
            self.teacher.start(model)
            if self.teacher.learns:
                spaces.name_task(self.teacher.config)
            self.teacher.to(self.args.device)
        theirs = getattr(self.teacher, "config", None)
        self._columns: list[int] | None = None
        if config is not None and theirs is not None:
            spaces.check_same_task(config, theirs)
            self._columns = spaces.match_labels(config, theirs, label_map=self._label_map)
        smoothing = self.args.label_smoothing_factor if self.task in ("single_label", "token") else 0.0
        self._classes = getattr(config, "num_labels", 2)
        inner = None if self.teacher is None else self.teacher.for_taps()
        sizes = {"student": known_anatomy(model)}
        sizes["teacher"] = known_anatomy(inner) or known_anatomy(getattr(inner, "model", None))
        tokens = getattr(inner, "same_tokens", True)
        if self.task == "token" and self.teacher is not None:
            tokens = all(part.same_tokens for part in self.teacher.parts())
        self._lessons.bind(Setting(self.task, self._classes, smoothing, **sizes, same_tokens=tokens))
        self._lessons.to(self.args.device)
        checks.check_inside(self.blend, self.args, student=model, teacher=inner)
        self._accepts = accepted_inputs(model)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        self._ledger.start()
        self._teacher_seen = False
        summary = "\n".join(["Objective:", *(f"  {line}" for line in self._lessons.summary())])
        logger.info("%s", summary)
        if self.is_world_process_zero() and not self.args.disable_tqdm:
            tqdm.write(summary)
        return super()._prepare_for_training(*args, **kwargs)

    def call_model_init(self, trial: Any = None) -> Any:
        """As Trainer's."""
        model = spaces.name_architecture(super().call_model_init(trial))
        if hasattr(self, "blend"):
            self._bind(model)  # another student: other sizes, and projections of its own
        return model

    def _look_at_teacher(self) -> None:
        """Log the teacher's accuracy on the first rows of the evaluation data, once a run."""
        self._teacher_seen = True
        data = self.checked_rows()
        if data is None or not self.is_world_process_zero():
            return
        data = self._remove_unused_columns(data, "teacher check")
        answers, gold, size = [], [], self.args.eval_batch_size
        for start in range(0, len(data), size):
            part = [data[i] for i in range(start, min(start + size, len(data)))]
            batch = dict(self._prepare_inputs(self.data_collator(part)))
            labels = self._labels(batch)
            answers += self._teach(self.without_labels(batch)).logits.argmax(-1)[labels >= 0].tolist()
            gold += labels[labels >= 0].tolist()
        if gold:
            unit = "words" if self.task == "token" else "rows"
            self.log(checks.judge_teacher(answers, gold, unit=unit))

    # ---- data ----

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """As Trainer's; raw text is tokenised first."""
        return super().get_eval_dataloader(self._reader(eval_dataset, self.processing_class))

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """As Trainer's; raw text is tokenised first."""
        return super().get_test_dataloader(self._reader(test_dataset, self.processing_class))

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

    def get_train_dataloader(self) -> Any:
        """As Trainer's."""
        self._sampler = None
        return super().get_train_dataloader()

    def _run_epoch(self, *args: Any, epoch: int, **kwargs: Any) -> Any:
        """Tell the sampler the epoch: accelerate cannot, where several processes resume in its middle."""
        if isinstance(self._sampler, LengthGroupedSampler):
            self._sampler.set_epoch(epoch)
        if isinstance(self.train_dataset, FreshCopies):
            self.train_dataset.set_epoch(epoch)
        if not self._teacher_seen:
            self._look_at_teacher()
        # Data without a length can end within an accumulation window: what it left must not join a step.
        self.model.zero_grad()
        return super()._run_epoch(*args, epoch=epoch, **kwargs)

    # ---- one optimizer step ----

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | None]:
        """The micro-batches of one optimizer step, and each term's count over them, on all processes."""
        taken = [self._own_rows(dict(batch)) for batch in itertools.islice(epoch_iterator, num_batches)]
        batches = self.mixed(taken)
        if not batches:
            return [], None
        self._lessons.open(min(1.0, self.state.global_step / max(1, self.state.max_steps)))
        for learner in self._learners().values():
            learner.zero_grad()  # Trainer clears the student's gradients alone
        self._ledger.open_window()
        each = [self._counts(batch, self._labels(batch)) for batch in batches]
        counts = torch.stack(each).sum(0).to(device)
        return batches, self.accelerator.reduce(counts, "sum") if self.args.world_size > 1 else counts

    def _own_rows(self, batch: dict[str, Any]) -> dict[str, Any]:
        state, world = self.accelerator.gradient_state, self.args.world_size
        if world == 1 or not state.end_of_dataloader or self.args.dataloader_drop_last:
            return batch
        remainder = state.remainder  # unknown to accelerate in an epoch that is resumed in its middle
        if self._sampler is not None and not isinstance(self._sampler, BatchSampler):
            remainder = len(self._sampler) % (rows(batch) * world)
        return own_rows(batch, remainder=remainder, rank=self.args.process_index)

    def _counts(self, batch: Batch, labels: Tensor) -> Tensor:
        counts = self._lessons.counts(labels)
        return torch.zeros_like(counts) if REPEATED in batch else counts

    def _labels(self, batch: Batch) -> Tensor:
        """The batch's labels in the task's shape; missing ones where there are none."""
        labels = self.given_labels(batch)
        if labels is None:
            labels = spaces.unlabelled(rows(batch), self._classes, self.task).to(self.args.device)
        labels = spaces.as_targets(labels, self.task)
        if self.task != "token":
            return labels
        mask = batch.get("attention_mask")
        return spaces.word_labels(labels, torch.ones_like(batch["input_ids"]) if mask is None else mask)

    def _teach(
        self, batch: Batch, taps: Collection[Tap] = frozenset(), labels: Tensor | None = None
    ) -> Trace:
        """The teacher's view of a batch, its columns in the student's order."""
        assert self.teacher is not None  # noqa: S101 - compute_loss asks only where an objective reads a teacher
        if self.teacher.wants_labels and labels is not None:
            batch = {**batch, "labels": spaces.in_order_of(labels, self._columns)}
        with torch.set_grad_enabled(self.teacher.learns), self.accelerator.autocast():
            trace = self.teacher.trace(batch, taps=taps) if taps else self.teacher.trace(batch)
        if self._columns is None:
            return trace
        return dataclasses.replace(trace, logits=trace.logits[..., self._columns])

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
        own, other = self.blend.taps()
        student = run(model, batch, accepts=self._accepts, taps=own)
        taught = self._lessons.needs_teacher_now
        teacher = self._teach(batch, other, labels) if taught else Trace(student.logits.detach())
        _refuse_other_shape(student, teacher)
        weights = torch.tensor(self._lessons.weights, device=student.logits.device)
        if num_items_in_batch is not None:  # DDP, FSDP and ZeRO average gradients over processes
            share = counts / num_items_in_batch.clamp(min=torch.finfo(torch.float32).tiny)
            weights = weights * share * self.accelerator.num_processes
        with torch.autocast(student.logits.device.type, enabled=False):
            parts = self._lessons(student, teacher, labels) * weights
        if num_items_in_batch is not None:
            self._ledger.add(parts, batch=batch, student=student, teacher=teacher if taught else None)
            if self.is_deepspeed_enabled:  # its engine moves the weights within backward
                self._stop_at_nonsense(None)
        # DDP waits for every parameter behind an output, also where no term reads the logits now.
        loss = parts.sum() + 0.0 * student.logits.float().sum()
        return (loss, SequenceClassifierOutput(loss=loss, logits=student.logits)) if return_outputs else loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Trainer's last call before the optimizer moves: stop here where a number is no number."""
        grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self._ledger.close_window()
        self._stop_at_nonsense(grad_norm)
        return grad_norm

    def _stop_at_nonsense(self, grad_norm: Any) -> None:
        """Raise on every process where one of them has met a number that is none; one sync of the device."""
        fine = self._ledger.is_finite().to(self.args.device)
        scaled = self.accelerator.mixed_precision == "fp16"  # its scaler skips such steps
        for norm in (grad_norm, *self._other_norms):
            if norm is not None and not scaled:
                fine = fine & torch.isfinite(torch.as_tensor(norm, device=fine.device))
        if self.args.world_size > 1:
            fine = self.accelerator.reduce(fine.float(), "sum") == self.args.world_size
        if not fine:
            step = self.state.global_step + 1
            message = self._ledger.explain(step, self.model, others=self._learners(), show=self._show_row)
            raise NonFiniteError(message)

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

    # ---- resuming ----

    def run_facts(self) -> dict[str, Any]:
        """What decides a run's outcome and must be the same when it is resumed; its length may grow."""
        if self._teacher_print is None and self.teacher is not None:
            self._teacher_print = self.teacher.fingerprint()  # once: it reads every weight
        facts: dict[str, Any] = {"objective": str(self.blend), "teacher": self._teacher_print}
        facts["columns"] = self._columns
        facts["tokens"] = [tokenizer_print(each.tokenizer) for each in self._reader.others.values()]
        config = getattr(self.accelerator.unwrap_model(self.model), "config", None)
        shape = ("model_type", "num_hidden_layers", "hidden_size", "num_labels", "shrunk_from")
        facts["student"] = {name: getattr(config, name, None) for name in shape}
        facts["rows"] = len(self.train_dataset) if hasattr(self.train_dataset, "__len__") else None
        parts = (self.train_dataset, *self.callback_handler.callbacks)
        drawn = [part for part in parts if isinstance(part, (FreshCopies, Theseus))]
        facts["drawn"] = {type(part).__name__: part.fingerprint() for part in drawn}
        facts["mixup"] = option(self.args, "mixup")
        facts |= {name: getattr(self.args, name) for name in ("seed", "data_seed", "learning_rate")}
        accumulated = self.args.gradient_accumulation_steps * self.args.world_size
        return {**facts, "rows a step": self._train_batch_size * accumulated}


def _refuse_other_shape(student: Trace, teacher: Trace) -> None:
    if student.logits.shape != teacher.logits.shape:
        raise spaces.LabelSpaceError(
            f"The student's logits have shape {tuple(student.logits.shape)}, the teacher's "
            f"{tuple(teacher.logits.shape)}: they cannot be compared. Give both the same number of classes."
        )
