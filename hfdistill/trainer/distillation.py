"""DistillationTrainer: a Trainer whose loss is an objective over student and teacher.

`train` records the teacher's answers where that is asked for, then runs Trainer's loop, in which one
optimizer step is:

    batches, total = get_batch_samples()    # the micro-batches, and what each term's mean is over
    for batch in batches:
        training_step(batch, total)         # compute_loss: student, teacher, weighted terms; then backward
    _get_grad_norm()                        # clip; stop at a NaN, before any weight has moved
    optimizer.step()                        # Trainer's
    end_step()                              # tell a teacher that moves with the student

The trainer owns what it needs for this, each an object or functions in a file of its own: `Reader` (text to
ids), `JointObjective` (the terms of student and peer), `LossWindow` (their sums, and why a step stopped),
`ExtraParameters` (projections, a peer), `Mixup`, `EvalLosses`; `Theseus` is a callback.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from accelerate.utils import send_to_device
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Sampler
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.trainer_utils import EvalLoopOutput, RemoveColumnsCollator, TrainOutput

from hfdistill.data import FreshCopies, LengthGroupedSampler
from hfdistill.network import label_space as spaces
from hfdistill.network import task as tasks
from hfdistill.network.divided import whole
from hfdistill.network.loading import load_student
from hfdistill.network.tokenizers import tokenizer_print
from hfdistill.network.trace import Batch, Tap, Trace, run
from hfdistill.objectives import Blend, Objective
from hfdistill.teachers import CachedTeacher, Teacher, as_teacher
from hfdistill.teachers.base import compile_models
from hfdistill.trainer import checks
from hfdistill.trainer.arguments import freeze, option, shown
from hfdistill.trainer.batches import REPEATED, length_grouped, own_rows, rows
from hfdistill.trainer.changing_teacher import broadcast_teacher, changing, load_teacher, save_teacher
from hfdistill.trainer.checkpointing import CheckpointingTrainer
from hfdistill.trainer.description import described, facts_of_run
from hfdistill.trainer.dropout import StudentDropout
from hfdistill.trainer.exact_evaluation import EvalLosses
from hfdistill.trainer.extra_parameters import ExtraParameters
from hfdistill.trainer.inputs import REQUIRED, Reader, reads_by_itself, trainer_options
from hfdistill.trainer.joint_objective import JointObjective, own_objective, setting_of
from hfdistill.trainer.label_guard import guarded
from hfdistill.trainer.loss_window import LossWindow, NonFiniteError
from hfdistill.trainer.mixup import SHARE, Mixup, embeddings_mixed
from hfdistill.trainer.process_end import end_in_order
from hfdistill.trainer.teacher_cache import asked_members, cached_teacher, publish_answers, record_teacher
from hfdistill.trainer.teacher_check import judge_teacher, rows_to_check
from hfdistill.trainer.theseus import replacements

logger = logging.getLogger(__name__)

MICRO_BATCH = "hfdistill_micro_batch"
"""Batch key of a micro-batch's number in its optimizer step."""


class DistillationTrainer(CheckpointingTrainer):
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
            and half teacher, 0.5 * CrossEntropy() + 0.5 * KD(temperature=4): L = α·CE + (1-α)·T²·KL(teacher ‖
            student), α = 0.5 (Hinton et al. 2015, arXiv 1503.02531); for regression 0.5 * LabelMSE() + 0.5 *
            LogitMSE(). "recommended" is `recommended_objective` of the two models.
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

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | str | Path | None = None,
        args: TrainingArguments | None = None,
        *positional: Any,
        teacher: PreTrainedModel | nn.Module | Teacher | str | Path | None = REQUIRED,
        objective: Objective | Blend | Literal["recommended"] | None = None,
        teacher_cache: str | Path | None = None,
        label_map: Mapping[str | int, str | int] | None = None,
        **options: Any,
    ) -> None:
        options = trainer_options(model, args, *positional, teacher=teacher, **options)
        args = args or TrainingArguments("tmp_trainer")
        checks.refuse_processes(args)
        self.teacher = None if teacher is None else as_teacher(teacher)
        self._label_map = label_map
        self._sampler: Any = None
        self._teacher_print: str | None = None
        self._teacher_is_checked, self._trial_result = False, None
        self._dropout = StudentDropout(args)
        if model is not None:
            model = load_student(model, like=getattr(self.teacher, "config", None))
        self._reader = Reader.of(args, getattr(model, "config", None), self.teacher, options, label_map)
        options["data_collator"] = self._reader.make_collator()
        for name in ("train_dataset", "eval_dataset"):
            checks.check_rows_or_stream(options.get(name), args, split=name)
            options[name] = self._reader(options.get(name), name)
        super().__init__(model, args, **options)
        end_in_order(self)
        checks.check_models(self.model, self.teacher, self.args)
        self.blend, self.left_out = own_objective(
            objective, self.compute_loss_func, self.teacher, self.model, args, recorded=bool(teacher_cache)
        )
        self._objectives = JointObjective(self.blend, teacher=self.teacher)
        self._loss_window = LossWindow(self._objectives.names)
        self._bind(self.model)
        self._make_parts(teacher_cache)
        sets, config = (self.train_dataset, self.eval_dataset), getattr(self.model, "config", None)
        read = {*self._student_inputs.names, *self._teacher_inputs()}
        checks.check_data(*sets, config=config, objective=self.blend, reader=self._reader, read=read)

    # ---- before the first step ----

    def _bind(self, model: nn.Module) -> None:
        """Derive the task, the teacher's columns and what the objective reads from the two models."""
        config = getattr(model, "config", None)
        self.task = tasks.name_task(config)  # before a teacher copies it
        if self.teacher is not None:
            self.teacher.bind_student(model)
            if self.teacher.learns:
                tasks.name_task(self.teacher.config)
            self.teacher.to(self.args.device)
        theirs = getattr(self.teacher, "config", None)
        self._columns: list[int] | None = None
        if config is not None and theirs is not None:
            spaces.check_same_task(config, theirs)
            self._columns = spaces.match_labels(config, theirs, label_map=self._label_map)
        setting = setting_of(model, self.teacher, label_smoothing=self.args.label_smoothing_factor)
        self._classes = setting.classes
        self._objectives.bind(setting)
        self._objectives.to(self.args.device)
        inner = None if self.teacher is None else self.teacher.inspectable()
        checks.check_inside(self.blend, self.args, student=model, teacher=inner)
        self._student_inputs = self._reader.student_inputs(model)
        freeze(model, self.args)

    def _make_parts(self, teacher_cache: str | Path | None) -> None:
        """Make the parts of this run beside its objective, once both models are known."""
        checks.check_changing(self.teacher, self.sharding, fresh=self.model_init is not None)
        checks.check_replacements(self.callback_handler.callbacks, self.sharding, self.blend)
        if teacher_cache is not None:
            checks.check_cache(self.teacher, self.task)
        self._cache_folder = teacher_cache
        alpha, self._mixup = option(self.args, "mixup"), None
        if alpha is not None:
            cached = teacher_cache is not None
            checks.check_mixup(alpha, self.teacher, student=self.model, task=self.task, cached=cached)
            seed, process = self.args.seed, self.args.process_index
            self._mixup = Mixup(alpha, seed=seed, process=process, task=self.task, classes=self._classes)
        teacher: Any = self.teacher
        peer = {teacher.saved_as: teacher.model} if teacher is not None and teacher.learns else {}
        self._extra_parameters = ExtraParameters(self.blend, others=peer)
        smoothing, function = self.args.label_smoothing_factor, self.compute_loss_func
        self._eval_losses = EvalLosses(self.task, smoothing=smoothing, function=function)

    @property
    def objective(self) -> Any:
        """What the student learns by, a `Blend`; while `hyperparameter_search` runs, Trainer's own number."""
        return self._trial_result if self.hp_search_backend is not None else self.blend

    @objective.setter
    def objective(self, value: Any) -> None:
        if self.hp_search_backend is None:
            raise AttributeError("The objective is fixed when the trainer is made: objective=KD(), say.")
        self._trial_result = value

    def __repr__(self) -> str:
        return described(self.model, self.teacher, self.blend, self.train_dataset, self.eval_dataset)

    def call_model_init(self, trial: Any = None) -> Any:
        """As in Trainer."""
        model = load_student(super().call_model_init(trial))
        if hasattr(self, "blend"):
            self._bind(model)  # another student: other sizes, and projections of its own
        return model

    # ---- a run ----

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As in Trainer, once the teacher's answers are there; see `CheckpointingTrainer.train`.

        Raises:
            CacheError: where answers can be neither found nor recorded.
            NonFiniteError: where a loss, a gradient or an answer of the teacher is not finite.
        """
        self._record_teacher()
        filters, self.args.logging_nan_inf_filter = self.args.logging_nan_inf_filter, False  # a run stops
        try:
            return super().train(*args, **kwargs)
        finally:  # Trainer tells its callbacks nothing of a run that fails or is interrupted
            self.args.logging_nan_inf_filter = filters
            for replacement in replacements(self.callback_handler.callbacks):
                replacement.release()
            self._dropout.restore()
            publish_answers(self.teacher)

    def _record_teacher(self) -> None:
        """Let the teacher answer from disk, where that is asked for."""
        precision = self.accelerator.mixed_precision
        cached = cached_teacher(self.teacher, self.blend, folder=self._cache_folder, precision=precision)
        for one in asked_members(self.teacher) if cached is None else [cached]:
            record_teacher(
                one,
                train=self.train_dataset,
                checked=self._rows_to_check(),
                as_batches=self._as_teacher_reads,
                accelerator=self.accelerator,
                progress=shown(self.args),
            )
        self.teacher = self.teacher if cached is None else cached

    def create_optimizer(self, model: Any = None) -> Any:
        """As in Trainer, with groups for what learns beside the student.

        Raises:
            ValueError: where the optimizer and its scheduler were made by the user.
        """
        for replacement in replacements(self.callback_handler.callbacks):
            replacement.freeze(self.model, self.args)
        made = isinstance(self.optimizer, torch.optim.Optimizer)
        optimizer = super().create_optimizer(model)
        self._extra_parameters.add_to(optimizer, trainer=self, sharding=self.sharding, made=made)
        return optimizer

    def begin_run(self) -> None:
        """Show the objective, and put a teacher that changes in step on all processes."""
        super().begin_run()
        self._dropout.apply(self.model)
        self._loss_window.start()
        self._teacher_is_checked = False
        if changing(self.teacher) and self.args.world_size > 1:
            broadcast_teacher(self.teacher)
        if self.teacher is not None:
            self.teacher.before_training(steps=self.state.max_steps)
            compile_models(self.teacher, self.args)
        summary = "\n".join(["Objective:", *(f"  {line}" for line in self._objectives.summary())])
        logger.info("%s", summary)
        if shown(self.args) == "bar":
            tqdm.write(summary)

    def begin_epoch(self) -> None:
        """Tell the sampler and the data which epoch begins; check the teacher in the first one.

        accelerate cannot tell the sampler where several processes resume in the middle of an epoch.
        """
        super().begin_epoch()
        for part in (self._sampler, self.train_dataset):
            if isinstance(part, (LengthGroupedSampler, FreshCopies)):
                part.set_epoch(self._epoch)
        if not self._teacher_is_checked:
            self._check_teacher()

    def _check_teacher(self) -> None:
        """Log the teacher's accuracy on the first rows of the evaluation data, once a run."""
        self._teacher_is_checked = True
        data = self._rows_to_check()
        if data is None or not self.is_world_process_zero():
            return
        data, _ = self._as_teacher_reads(data)
        options = {"generator": torch.Generator(), "collate_fn": self.data_collator}  # else it draws globally
        loader = DataLoader(data, self.args.eval_batch_size, **options)
        batches = (send_to_device(dict(batch), self.args.device) for batch in loader)
        answered = ((self._ask_teacher(self._inputs(b)).logits, self._targets(b)) for b in batches)
        accuracy = judge_teacher(answered, task=self.task)
        if accuracy:
            self.log(accuracy)

    def _rows_to_check(self) -> Dataset | None:
        limit = option(self.args, "teacher_check_rows")
        return rows_to_check(self.eval_dataset, limit=limit, teacher=self.teacher, task=self.task)

    # ---- data ----

    def get_train_dataloader(self) -> Any:
        """As in Trainer; labels of the user's own making are looked at batch by batch."""
        self._sampler = None
        return self._guarded(super().get_train_dataloader(), self.train_dataset, "train_dataset")

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """As in Trainer; raw text is tokenised first."""
        data = self._reader(eval_dataset, sets=self.eval_dataset)
        loader = super().get_eval_dataloader(data)
        return self._guarded(loader, self.eval_dataset if data is None else data, "eval_dataset")

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """As in Trainer; raw text is tokenised first."""
        data = self._reader(test_dataset, "test_dataset")
        return self._guarded(super().get_test_dataloader(data), data, "test_dataset")

    def _guarded(self, loader: Any, data: Any, split: str) -> Any:
        """Check the labels of data that could not be checked before the first step."""
        rows = data.rows if isinstance(data, FreshCopies) else data
        if isinstance(rows, Dataset) and not reads_by_itself(self.args, self._reader.collator, rows):
            return loader
        config = getattr(self.model, "config", None)
        return guarded(loader, data, name=self._label_name, config=config, split=split)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        """Batch rows of similar length, in an order that follows from (seed, epoch): resuming is exact."""
        data = self.train_dataset if train_dataset is None else train_dataset
        window = self.get_total_train_batch_size(self.args)
        grouped = length_grouped(data, self.args, window=window)
        self._sampler = super()._get_train_sampler(train_dataset) if grouped is None else grouped
        return self._sampler

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns += sorted(self._teacher_inputs() - set(self._signature_columns) - {"labels"})

    def _teacher_inputs(self) -> frozenset[str]:
        return frozenset() if self.teacher is None else self.teacher.inputs()

    def _as_teacher_reads(self, data: Any) -> tuple[Any, Callable[[Any], Any]]:
        """Return data, and a collator for it, as the teacher is given them in a step."""
        collate: Any = self.data_collator
        read = {*self._student_inputs.names, *self._teacher_inputs(), *self.label_names, "label", "label_ids"}
        if self.args.remove_unused_columns and isinstance(data, Dataset):
            data = data.remove_columns([name for name in data.column_names if name not in read])
        elif self.args.remove_unused_columns:
            collate = RemoveColumnsCollator(collate, read)
        return data, lambda examples: self._inputs(collate(examples))

    def _inputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the batch without labels."""
        return {name: value for name, value in batch.items() if name not in self.label_names}

    @property
    def _label_name(self) -> str:
        """The batch key of the labels that the objective reads."""
        return self.label_names[0] if self.label_names else "labels"

    def _targets(self, batch: Batch) -> Tensor:
        """Return the batch's labels in the task's shape; missing ones where there are none."""
        labels = batch.get(self._label_name)
        if labels is None:
            labels = tasks.unlabelled(rows(batch), self._classes, self.task, device=self.args.device)
        labels = tasks.as_targets(labels, self.task)
        if self.task != "token":
            return labels
        mask = batch.get("attention_mask")
        return tasks.word_labels(labels, torch.ones_like(batch["input_ids"]) if mask is None else mask)

    # ---- one optimizer step ----

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | None]:
        """Begin an optimizer step: its micro-batches, and each term's count over them, on all processes."""
        batches = [self._own_rows(dict(batch)) for batch in itertools.islice(epoch_iterator, num_batches)]
        if len(batches) < num_batches:  # data without a length ends within an accumulation window
            return [], None
        self._objectives.set_progress(min(1.0, self.state.global_step / max(1, self.state.max_steps)))
        self._extra_parameters.zero_grad()
        counts = []
        for number, batch in enumerate(batches):
            if self._mixup is not None:  # mixtures of its rows join it, without a label
                labels, step = batch.get(self._label_name), self.state.global_step
                mixed, labels = self._mixup.mix(self._inputs(batch), labels, step=step, number=number)
                batch = batches[number] = {self._label_name: labels, **mixed}
            repeated = batch.pop(REPEATED, None) is not None
            each = self._objectives.counts(self._targets(batch))
            counts.append(torch.zeros_like(each) if repeated else each)
            batch[MICRO_BATCH] = number
        self._loss_window.open(counts)
        total = torch.stack(counts).sum(0).to(device)
        return batches, self.accelerator.reduce(total, "sum") if self.args.world_size > 1 else total

    def _own_rows(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Drop the rows that accelerate repeats in an epoch's last batch."""
        state, world = self.accelerator.gradient_state, self.args.world_size
        if world == 1 or not state.end_of_dataloader or self.args.dataloader_drop_last:
            return batch
        remainder = state.remainder  # unknown to accelerate in an epoch that is resumed in its middle
        if self._sampler is not None and not isinstance(self._sampler, BatchSampler):
            remainder = len(self._sampler) % (rows(batch) * world)
        return own_rows(batch, remainder=remainder, rank=self.args.process_index)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """As in Trainer: the loss of one micro-batch, and its backward."""
        with contextlib.ExitStack() as mixing:
            if self.teacher is not None and SHARE in inputs:
                for each in (self.accelerator.unwrap_model(model), *self.teacher.embedders()):
                    mixing.enter_context(embeddings_mixed(each, inputs))
            loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:  # the step's last micro-batch
            self._extra_parameters.average(self.accelerator)
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the objective on a micro-batch, scaled so that a step sums to its mean over all rows.

        As in Trainer, but for `num_items_in_batch`: what each term's mean is over, in the whole step,
        (terms,) from `get_batch_samples`, or one number for all; None gives the mean over this batch alone.
        """
        batch, labels = self._inputs(inputs), self._targets(inputs)
        number = batch.pop(MICRO_BATCH, None)  # None for a batch of the user's own
        (student_taps, teacher_taps), asks = self.blend.taps(), self._objectives.needs_teacher_now
        is_recorded = asks and isinstance(self.teacher, CachedTeacher)  # and reads ids back from the device
        teacher = self._ask_teacher(batch, teacher_taps, labels) if is_recorded else None
        with self._dropout.attention():
            student = run(model, batch, accepts=self._student_inputs, taps=student_taps)
        if teacher is None:
            own = Trace(student.logits.detach())
            teacher = self._ask_teacher(batch, teacher_taps, labels) if asks else own
        weights = torch.tensor(self._objectives.weights).to(student.logits.device, non_blocking=True)
        if num_items_in_batch is not None:  # DDP, FSDP and ZeRO average gradients over processes
            counts = self._objectives.counts(labels) if number is None else self._loss_window.counts[number]
            total = torch.as_tensor(num_items_in_batch, device=weights.device)
            share = counts.to(weights.device) / total.clamp(min=torch.finfo(torch.float32).tiny)
            weights = weights * share * self.accelerator.num_processes
        with torch.autocast(student.logits.device.type, enabled=False):
            parts = self._objectives(student, teacher, labels) * weights
        if number is not None:
            self._loss_window.add(parts, batch=batch, student=student, teacher=teacher if asks else None)
            if self.is_deepspeed_enabled:  # its engine moves the weights within backward
                self._raise_if_not_finite([])
        # DDP waits for every parameter behind an output, also where no term reads the logits now.
        loss = parts.sum() + 0.0 * student.logits.float().sum()
        return (loss, SequenceClassifierOutput(loss=loss, logits=student.logits)) if return_outputs else loss

    def _ask_teacher(
        self, batch: Batch, taps: Collection[Tap] = frozenset(), labels: Tensor | None = None
    ) -> Trace:
        """Return the teacher's view of a batch, its columns in the student's order."""
        assert self.teacher is not None  # noqa: S101 - compute_loss asks only where an objective reads a teacher
        if self.teacher.wants_labels and labels is not None:
            batch = {**batch, "labels": spaces.in_order_of(labels, self._columns)}
        with torch.set_grad_enabled(self.teacher.learns), self.accelerator.autocast():
            trace = self.teacher.trace(batch, taps=taps) if taps else self.teacher.trace(batch)
        if self._columns is None:
            return trace
        return dataclasses.replace(trace, logits=spaces.in_columns(trace.logits, self._columns))

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Clip the other learners too, and stop at what is not finite: the last call before a step."""
        grad_norm = whole(super()._get_grad_norm(model, grad_norm=grad_norm))
        norms = self._extra_parameters.clip(self.args.max_grad_norm)
        self._loss_window.close()
        self._raise_if_not_finite([grad_norm, *norms])
        self._extra_parameters.step(self.optimizer)
        return grad_norm

    def _raise_if_not_finite(self, norms: Sequence[Any]) -> None:
        """Raise on every process where one of them has met a NaN or an infinity; one sync of the device."""
        fine = self._loss_window.is_finite().to(self.args.device)
        if self.accelerator.mixed_precision != "fp16":  # its scaler skips steps whose gradients overflow
            for norm in norms:
                fine = fine & torch.isfinite(torch.as_tensor(norm, device=fine.device))
        if self.args.world_size > 1:  # and end in the same step, where one of them is interrupted
            going = torch.tensor(self._interrupts.requested is None).to(fine.device, non_blocking=True)
            both = self.accelerator.reduce(torch.stack([fine, going]).float(), "sum") == self.args.world_size
            fine, self._interrupts.agreed = both[0], not both[1]
        if not fine:
            step, others = self.state.global_step + 1, self._extra_parameters.learners
            message = self._loss_window.explain(step, self.model, others=others, show=self._text_of)
            raise NonFiniteError(message)

    def _text_of(self, batch: Batch, row: int) -> str:
        """Return the text of a row for a message; "" where it is not known."""
        ids = batch.get("input_ids")
        if ids is None or not isinstance(self.processing_class, PreTrainedTokenizerBase):
            return ""
        return repr(self.processing_class.decode(ids[row], skip_special_tokens=True)[:80])

    def end_step(self) -> None:
        """Tell the teacher that the student has moved, before the step is logged or saved."""
        super().end_step()
        if self.teacher is not None:
            self.teacher.after_step(self.model, step=self.state.global_step)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in Trainer; beside `loss` stand its parts as `loss_<name>`, which add up to it."""
        if "loss" in logs:
            logs |= self._loss_window.take_averages(average=lambda x: self.accelerator.reduce(x, "mean"))
        super().log(logs, start_time)

    # ---- evaluation: the student alone ----

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """Return the student's task loss, logits and labels; the teacher is not asked."""
        inputs = send_to_device(dict(inputs), self.args.device)
        targets, loss = inputs.get(self._label_name), None
        batch = self._student_inputs.select(self._inputs(inputs))
        _, logits, _ = super().prediction_step(model, batch, False, ignore_keys=ignore_keys)
        if targets is not None:
            gather = self.accelerator.gather_for_metrics
            first = logits[0] if isinstance(logits, tuple) else logits
            loss = self._eval_losses.add(first, tasks.as_targets(targets, self.task), gather=gather)
            if self.task == "token":  # metrics know no other sign of a missing label than -100
                inputs[self._label_name] = targets.clamp(min=-100)
        labels: Any = tuple(inputs.get(name) for name in self.label_names)
        labels = None if not labels or any(label is None for label in labels) else labels
        labels = labels[0] if labels is not None and len(labels) == 1 else labels
        return (loss, None, None) if prediction_loss_only else (loss, logits, labels)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """As in Trainer; the loss is the mean over rows, exact for any number of rows and processes.

        Raises:
            NonFiniteError: where a row's loss is not finite, naming the rows.
        """
        self._eval_losses.start()
        with torch.random.fork_rng(devices=[]):  # loaders draw: what is trained next must not hang on it
            output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        self._eval_losses.replace(output.metrics, prefix=metric_key_prefix, step=self.state.global_step)
        return output

    # ---- checkpoints ----

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in Trainer; a teacher that changes is saved beside the student, in a folder of its own."""
        if changing(self.teacher) and self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            save_teacher(self.teacher, folder, tokenizer=self.processing_class)
        super().save_model(output_dir, _internal_call=_internal_call)

    def save_extra_state(self, folder: Path) -> None:
        """Write what the objective owns; and publish the teacher's answers that this run has used."""
        publish_answers(self.teacher)
        if self.args.should_save and not self.args.save_only_model:
            self._extra_parameters.save(folder)

    def load_extra_state(self, folder: Path) -> None:
        """Read what the objective owns, and a teacher that changes."""
        if changing(self.teacher):
            load_teacher(self.teacher, folder)
        self._extra_parameters.load(folder)

    def end_run(self) -> None:
        """Load the teacher of the best step, where Trainer has loaded the student of that step."""
        super().end_run()
        best = self.state.best_model_checkpoint
        if changing(self.teacher) and self.args.load_best_model_at_end and best is not None:
            load_teacher(self.teacher, Path(best))

    def run_facts(self) -> dict[str, Any]:
        """Return what decides a run's outcome and may not change on resuming; its length may grow."""
        if self._teacher_print is None and self.teacher is not None:
            self._teacher_print = self.teacher.fingerprint()  # once: it reads every weight
        student, callbacks = self.accelerator.unwrap_model(self.model), self.callback_handler.callbacks
        facts = {
            "objective": str(self.blend),
            "teacher": self._teacher_print,
            "columns": self._columns,
            "tokens": [tokenizer_print(each.tokenizer) for each in self._reader.others.values()],
            **facts_of_run(self.args, student, self.train_dataset, callbacks),
        }
        if not self.args.auto_find_batch_size:  # which resumes with the size that it has found
            facts["rows a step"] = self.get_total_train_batch_size(self.args)
        return facts
