"""Teachers: anything that turns a batch into a Trace."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel, TrainingArguments

from hfdistill.network.architectures import unwrapped
from hfdistill.network.divided import make_whole
from hfdistill.network.fingerprints import fingerprint_of
from hfdistill.network.inputs import ModelInputs, name_padding
from hfdistill.network.loading import load_classifier, load_tokenizer, refuse_other_heads
from hfdistill.network.task import name_architecture
from hfdistill.network.tokenizers import difference
from hfdistill.network.trace import Batch, Tap, Trace, run

logger = logging.getLogger(__name__)

PREFIX = "teacher_"
"""Begins the names of a batch's columns for a teacher that has a tokenizer of its own."""


_EARLIER_NAMES = {"start": "bind_student", "reads": "select_inputs", "for_taps": "inspectable"}
"""Methods of teachers that users wrote before these were renamed."""


class Teacher(nn.Module):
    """Anything that turns a batch into a Trace. A subclass needs `trace(batch)` alone.

    Where the objective looks inside the teacher, it is asked for `trace(batch, taps=…)`. Its networks are put
    into evaluation mode, unless it learns. `config` names its classes, so that they are matched with the
    student's and `measure` can show it; a `fingerprint` lets its answers be recorded.

    Example:
        >>> import torch
        >>> class Coin(Teacher):
        ...     '''Knows nothing, and says so.'''
        ...     def trace(self, batch):
        ...         return Trace(logits=torch.zeros(len(batch["input_ids"]), 2))
    """

    config: Any = None
    """The config that names its classes (id2label); None where the order is the student's by construction."""

    same_tokens: bool = True
    """False where it reads other tokens than the student: terms that compare token by token then refuse."""

    tokenizer: Any = None
    """What makes its token ids of a text, where that is known; see `assign_column_prefixes`."""

    prefix: str = ""
    """Begins the names of its columns in a batch, where it has columns of its own."""

    wants_labels: bool = False
    """True where `trace` reads `batch["labels"]`, gold labels in the order of its own classes, when there."""

    learns: ClassVar[bool] = False
    """True where its `model` is trained with the student: it is then asked with a graph."""

    saved_as: ClassVar[str] = ""
    """Where its `model` is saved beside the student's files; "" for a teacher that stays as it is."""

    ripens: ClassVar[bool] = False
    """True where it knows nothing at first: in the default objective its weight rises from 0 to 1."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Let a subclass override methods by their earlier names."""
        super().__init_subclass__(**options)
        for earlier, name in _EARLIER_NAMES.items():
            if earlier in vars(cls) and name not in vars(cls):
                setattr(cls, name, vars(cls)[earlier])

    def __getattr__(self, name: str) -> Any:
        """Return a method by its earlier name; see `nn.Module` for all else."""
        return getattr(self, _EARLIER_NAMES[name]) if name in _EARLIER_NAMES else super().__getattr__(name)

    def trace(self, batch: Batch, *, taps: Collection[Tap] = frozenset()) -> Trace:
        """Return the teacher's view of a batch: logits (B, C), and readings of the taps, without a graph.

        Args:
            batch: what the collator made, on the run's device; with labels for teachers that want them.
            taps: what to read inside; none for objectives on logits.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a `trace(batch)` that returns a Trace.")

    def check_taps(self, taps: Collection[Tap]) -> None:
        """Refuse, before anything runs, taps that `trace` could not read."""

    def select_inputs(self, batch: Batch) -> Batch:
        """Return the batch as this teacher's own model takes it: its token ids under the names of a forward.

        The student's columns, unless the teacher has a tokenizer of its own.

        Raises:
            ValueError: where its own columns are missing.
        """
        if not self.prefix:
            return batch
        own = {name.removeprefix(self.prefix): x for name, x in batch.items() if name.startswith(self.prefix)}
        if "input_ids" not in own:
            raise ValueError(
                f"The teacher has a tokenizer of its own and reads {self.prefix}input_ids, but the batch has "
                f"{', '.join(batch)}. Give the data with its text, or collate with "
                "DistillationCollator(tokenizer, teacher_tokenizer)."
            )
        return own

    def inputs(self) -> frozenset[str]:
        """Return the batch columns that it reads beside the student's, so that none is dropped."""
        return frozenset()

    def bind_tokenizer(self, tokenizer: Any) -> None:
        """Called with the tokenizer that makes and pads the rows of `trace`: its own, or the student's."""

    def parts(self) -> Sequence[Teacher]:
        """Return the teachers that read the batch: itself, unless it is made of others."""
        return (self,)

    def inspectable(self) -> Teacher | None:
        """Return the teacher that can be looked into: itself, unless it is made of others."""
        return self

    def embedders(self) -> Sequence[nn.Module]:
        """Return the models that read the batch's token ids, whose word embeddings mixup mixes (MixKD).

        Empty for a teacher that cannot answer to a mixture of rows, because it looks its answers up. The
        default is `self.model`, where there is one.
        """
        model = getattr(self, "model", None)
        return (model,) if isinstance(model, nn.Module) else ()

    def bind_student(self, student: nn.Module) -> None:
        """Called with the run's student, before anything else is asked."""

    def before_training(self, *, steps: int) -> None:
        """Called when a run begins, with its number of optimizer steps."""

    def after_step(self, student: nn.Module, *, step: int) -> None:
        """Called when the student has moved.

        Args:
            student: as it is now.
            step: optimizer steps of the run so far, from 1.
        """

    def answerable(self, rows: Any) -> Any:
        """Return the rows of tokenised data that it can answer: all, unless its answers stand in a file."""
        return rows

    def fingerprint(self) -> str:
        """Return a text that identifies this teacher on resuming; it does not change as a teacher learns."""
        return type(self).__name__


class TeacherOfSeveral(Teacher):
    """A teacher that is made of others."""

    def made_of(self) -> Sequence[Teacher]:
        """Return the teachers that it is made of."""
        raise NotImplementedError(f"{type(self).__name__} needs a `made_of()` that returns its teachers.")

    def refuse_changing(self, why_not: str) -> None:
        """Refuse teachers that change with the student, naming the first.

        `why_not` goes on from "changes with the student, which".
        """
        changing = [type(teacher).__name__ for teacher in self.made_of() if teacher.saved_as]
        if changing:
            raise ValueError(
                f"{changing[0]} changes with the student, which {why_not}. Use it as the teacher itself."
            )

    def inputs(self) -> frozenset[str]:
        """Return the columns that any of its teachers reads."""
        return frozenset().union(*(teacher.inputs() for teacher in self.made_of()))

    def parts(self) -> Sequence[Teacher]:
        """Return the parts of all its teachers."""
        return tuple(part for teacher in self.made_of() for part in teacher.parts())

    def bind_student(self, student: nn.Module) -> None:
        """Tell each of its teachers."""
        for teacher in self.made_of():
            teacher.bind_student(student)


class ModelTeacher(Teacher):
    """A frozen model: in `eval()` and without grad at every forward, whatever happened to it in between.

    With a tokenizer of its own it reads columns of its own in the batch, `teacher_input_ids` and so on, so
    that a byte-level model can teach a WordPiece one. The trainer makes these columns out of the text, and
    leaves them out where the tokenizer turns out to be the student's.

    Args:
        model: a classifier, or any module whose output has logits. It is frozen in place.
        tokenizer: its own, where it reads other token ids than the student. Texts are cut to the model's
            limit and the tokenizer's `model_max_length`.
    """

    def __init__(self, model: nn.Module, *, tokenizer: Any = None) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        if tokenizer is not None:
            self.prefix, self.same_tokens = PREFIX, False
        self.model = name_architecture(model).requires_grad_(False).eval()
        self.config = getattr(model, "config", None)
        self._padding = getattr(self.config, "pad_token_id", None)
        self._compiled: tuple[Any, ...] = ()  # a tuple, so that it is neither saved nor counted
        self.bind_tokenizer(tokenizer)

    def bind_tokenizer(self, tokenizer: Any) -> None:
        """Fix which columns its model reads; see `ModelInputs.of`."""
        name_padding(self.model, self.tokenizer)
        name_padding(self.model, tokenizer)
        self.model_inputs = ModelInputs.of(self.model, self.tokenizer, padded_by=tokenizer)

    def trace(self, batch: Batch, *, taps: Collection[Tap] = frozenset()) -> Trace:
        """Return one forward pass; see `Teacher.trace`."""
        if any(part.training for part in self.model.modules()):  # `eval()` itself costs more than to look
            self.model.eval()
        model = self._compiled[0] if self._compiled and not taps else self.model
        with torch.no_grad():
            return run(model, self.select_inputs(batch), accepts=self.model_inputs, taps=taps)

    def compile_model(self, **settings: Any) -> None:
        """Run the model through `torch.compile` from here on where nothing is read inside it.

        The model itself stays as it is, so that it can still be cut, saved or looked into.
        """
        self._compiled = self._compiled or (torch.compile(self.model, **settings),)

    def inputs(self) -> frozenset[str]:
        """Return the arguments of the model's forward, under the names that they have in a batch."""
        return frozenset(self.prefix + name for name in self.model_inputs.names)

    def fingerprint(self) -> str:
        """Return the sha256 over config and weights; the tokenizer has no part in the answer to given ids."""
        padding = {"pad_token_id": self._padding}  # as it came
        return fingerprint_of(self.model, config=self.config, settings=padding)


def compile_models(teacher: nn.Module, args: TrainingArguments) -> None:
    """Compile the models of a teacher as the run compiles its student, where `torch_compile` is on."""
    for part in teacher.modules() if args.torch_compile else ():
        if isinstance(part, ModelTeacher):
            part.compile_model(backend=args.torch_compile_backend, mode=args.torch_compile_mode)


def as_teacher(source: str | Path | PreTrainedModel | nn.Module | Teacher) -> Teacher:
    """Return a Teacher from an id, a path, a model, or itself; with the tokenizer that lies beside it.

    Raises:
        TypeError: for anything else.
        MissingHead: for a language model, or another one whose logits are not classes.
    """
    model = unwrapped(source.model if isinstance(source, ModelTeacher) else source)
    if isinstance(model, PreTrainedModel):
        refuse_other_heads(type(model).__name__, role="teacher")
    if isinstance(source, Teacher):
        teacher = make_whole(source)
        return teacher if teacher.learns else teacher.eval()
    if isinstance(source, (str, Path)):
        teacher = ModelTeacher(load_classifier(source))
        teacher.tokenizer = load_tokenizer(source)
        teacher.bind_tokenizer(teacher.tokenizer)
        if teacher.tokenizer is None:
            logger.warning(
                "No tokenizer lies beside the teacher %s: it is taken to read the student's ids.", source
            )
        return teacher
    if isinstance(source, nn.Module):
        return ModelTeacher(make_whole(source))
    raise TypeError(
        f"teacher is a Hub id, a path, a model or a hfdistill.Teacher; found {type(source).__name__}. "
        "Type teacher='textattack/bert-base-uncased-SST-2' or the folder of a fine-tuned model."
    )


def assign_column_prefixes(teacher: Teacher, tokenizer: Any) -> dict[str, list[Teacher]]:
    """Compare a teacher's tokenizers with the student's, and name the columns of those that differ.

    Args:
        teacher: its parts get their `prefix` and `same_tokens`: "teacher_", or "teacher0_", "teacher1_", …
            for the distinct tokenizers of a teacher made of several.
        tokenizer: the student's; None where it is not known, and then what was said at construction holds.

    Returns:
        For each prefix, the parts that read its columns; empty where all read the student's.
    """
    groups: list[list[Teacher]] = []
    for part in teacher.parts():
        if part.tokenizer is None:
            part.bind_tokenizer(tokenizer)
            continue
        other = bool(part.prefix) if tokenizer is None else difference(tokenizer, part.tokenizer) is not None
        part.prefix, part.same_tokens = "", not other
        part.bind_tokenizer(part.tokenizer if other else tokenizer)
        if not other:
            continue
        group = next((g for g in groups if difference(g[0].tokenizer, part.tokenizer) is None), [])
        if not group:
            groups.append(group)
        group.append(part)
    alone = len(teacher.parts()) == 1
    named = {PREFIX if alone else f"teacher{i}_": group for i, group in enumerate(groups)}
    for prefix, group in named.items():
        for part in group:
            part.prefix = prefix
    return named
