"""The objectives of one run: the student's, and where the teacher learns too, the teacher's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput

from hfdistill.network.architectures import known_spec
from hfdistill.network.label_space import LabelSpaceError, class_names
from hfdistill.network.layer_map import layers_of_cut
from hfdistill.network.task import name_task, task_kind
from hfdistill.network.trace import Trace
from hfdistill.objectives import (
    Blend,
    Objective,
    Setting,
    as_blend,
    default_objective,
    recommended_objective,
)
from hfdistill.objectives.logits import LabelledRows
from hfdistill.teachers import CachedTeacher, Teacher
from hfdistill.trainer.checks import check_inside

RECOMMENDED = "recommended"
"""The objective that is chosen for the two networks of a run; see `recommended_objective`."""


def own_objective(
    objective: Objective | Blend | str | None,
    function: Callable[..., Tensor] | None,
    teacher: Teacher | None,
    student: Any,
    args: TrainingArguments,
    *,
    recorded: bool = False,
) -> tuple[Blend, list[str]]:
    """Return what the student learns by, as a blend of one trainer alone: two must not share projections.

    None is the default of the task; a user's `compute_loss_func` then takes the place of the task's loss.
    "recommended" is chosen by the two networks; the second value says why it leaves a term out.

    Raises:
        ValueError: for both an objective and a function, for another word than "recommended", and for terms
            that want a teacher where none is.
    """
    if objective is not None and function is not None:
        raise ValueError(
            "Both objective and compute_loss_func are given, and each is the whole loss. Leave one out: "
            "without an objective, compute_loss_func takes the place of CrossEntropy in the default one."
        )
    reasons: list[str] = []
    if isinstance(objective, str):
        if objective != RECOMMENDED:
            raise ValueError(
                f"objective={objective!r} is no objective. Type objective='recommended', or terms such as "
                "0.5 * CrossEntropy() + 0.5 * KD(temperature=4)."
            )
        blend, reasons = _recommended(teacher, student, args=args, recorded=recorded)
    elif objective is not None:
        blend = copy.deepcopy(as_blend(objective))
    else:
        blend = _default(student, teacher, None if function is None else UserLoss(function))
    if teacher is None and blend.needs_teacher:
        raise ValueError(f"{blend} learns from a teacher, and teacher=None. Name one, or drop that term.")
    return blend, reasons


def _default(student: Any, teacher: Teacher | None, hard: Objective | None = None) -> Blend:
    """Return the default objective of the student's task and the kind of teacher."""
    return default_objective(
        task_kind(getattr(student, "config", None)),
        hard=hard,
        has_teacher=teacher is not None,
        mutual=teacher is not None and teacher.learns,
        ripening=teacher is not None and teacher.ripens,
    )


def _recommended(
    teacher: Teacher | None, student: Any, *, args: TrainingArguments, recorded: bool
) -> tuple[Blend, list[str]]:
    """Return the recommended objective; the default one where there is no teacher to look into."""
    if teacher is None:
        return _default(student, None), ["there is no teacher"]
    if teacher.learns or teacher.ripens:
        return _default(student, teacher), [
            f"the teacher, {type(teacher).__name__}, changes with the student"
        ]
    inner = teacher.inspectable()
    if recorded or isinstance(teacher, CachedTeacher) or isinstance(inner, CachedTeacher):
        reason = "the teacher's answers are recorded, and its hidden states would take kilobytes a token"
        return _default(student, teacher), [reason]
    config = getattr(student, "config", None)
    name_task(config)  # before a teacher copies it
    teacher.bind_student(student)
    layers = layers_of_cut(config, getattr(inner, "config", None))
    look = partial(check_inside, args=args, student=student, teacher=inner)
    return recommended_objective(setting_of(student, teacher), layers=layers, check=look)


def setting_of(student: nn.Module, teacher: Teacher | None, *, label_smoothing: float = 0.0) -> Setting:
    """Return the facts of a run that objectives are bound to."""
    config = getattr(student, "config", None)
    task = task_kind(config)
    inner = None if teacher is None else teacher.inspectable()
    same_tokens = getattr(inner, "same_tokens", True)
    if task == "token" and teacher is not None:
        same_tokens = all(part.same_tokens for part in teacher.parts())
    return Setting(
        task,
        getattr(config, "num_labels", 2),
        label_smoothing if task in ("single_label", "token") else 0.0,
        student=known_spec(student),
        teacher=known_spec(inner) or known_spec(getattr(inner, "model", None)),
        same_tokens=same_tokens,
        class_names=tuple(class_names(config)),
    )


class JointObjective:
    """Computes the terms of all objectives of a run side by side, from one forward pass of each model.

    A teacher that learns adds its own objective, by default a copy of the student's.
    """

    def __init__(self, blend: Blend, *, teacher: Teacher | None) -> None:
        self.blends, self.names = [blend], list(blend.names)
        if teacher is not None and teacher.learns:
            own = getattr(teacher, "objective", None)
            peer = copy.deepcopy(as_blend(blend if own is None else own))
            self.blends.append(peer)
            self.names += [f"{teacher.saved_as}_{name}" for name in peer.names]

    def bind(self, setting: Setting) -> None:
        """Bind all objectives to the task and the networks; two models learn by each other's logits alone."""
        self.task = setting.task
        for blend in self.blends:
            blend.bind(setting)
        if len(self.blends) == 1:
            return
        for blend in self.blends:
            if any(blend.taps(ever=True)) or any(True for _ in blend.parameters()):
                raise ValueError(
                    f"{blend} looks inside the networks, and two that learn from each other do so by their "
                    "logits alone. Use CrossEntropy() + KD(temperature=1)."
                )
        if not any(blend.needs_teacher for blend in self.blends):
            raise ValueError(
                f"The teacher learns too, but neither {self.blends[0]} nor {self.blends[1]} reads the other. "
                "Use CrossEntropy() + KD(temperature=1)."
            )

    def to(self, device: torch.device) -> None:
        """Move the terms' own parameters and buffers."""
        for blend in self.blends:
            blend.to(device)

    @property
    def weights(self) -> list[float]:
        """The weight of each term now."""
        return [weight for blend in self.blends for weight in blend.weights]

    @property
    def needs_teacher_now(self) -> bool:
        """Whether the teacher has to be asked at this moment."""
        return len(self.blends) > 1 or self.blends[0].needs_teacher_now

    def set_progress(self, progress: float) -> None:
        """Advance the schedules of all terms, before each optimizer step; see `Blend.set_progress`."""
        for blend in self.blends:
            blend.set_progress(progress)

    def summary(self) -> list[str]:
        """Return a line per term."""
        lines = self.blends[0].summary()
        return [*lines, *(f"peer: {line}" for blend in self.blends[1:] for line in blend.summary())]

    def counts(self, labels: Tensor) -> Tensor:
        """Return what each term's mean is over, as `Blend.counts` counts it: (terms,), float32."""
        return torch.cat([blend.counts(labels) for blend in self.blends])

    def __call__(self, student: Trace, teacher: Trace, labels: Tensor) -> Tensor:
        """Return the unweighted mean of each term: (terms,), float32.

        No gradient of one model's objective reaches the other model.

        Raises:
            LabelSpaceError: where the logits have a shape that the task does not have, or the two differ.
        """
        if student.logits.dim() == 1 and self.task != "regression":
            raise LabelSpaceError(
                f"The student's logits have shape {tuple(student.logits.shape)}, one number a row, and its "
                "task is to tell classes apart. Return logits of shape (rows, classes); for values, give the "
                "model a config with num_labels=1 and problem_type='regression'."
            )
        if student.logits.shape != teacher.logits.shape:
            raise LabelSpaceError(
                f"The student's logits have shape {tuple(student.logits.shape)}, the teacher's "
                f"{tuple(teacher.logits.shape)}: they cannot be compared. Give both the same number of "
                "classes."
            )
        if len(self.blends) == 1:
            return self.blends[0](student, teacher, labels)
        own = self.blends[0](student, _without_graph(teacher), labels)
        return torch.cat([own, self.blends[1](teacher, _without_graph(student), labels)])


def _without_graph(trace: Trace) -> Trace:
    return replace(trace, logits=trace.logits.detach())


class UserLoss(LabelledRows):
    """Calls `compute_loss_func(outputs, labels, num_items_in_batch)` with the batch's number of labels."""

    name = "compute_loss_func"
    needs_teacher: ClassVar[bool] = False

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def __repr__(self) -> str:
        """Name the function by where it was written: its address differs in every process."""
        name = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return f"compute_loss_func({getattr(self.function, '__module__', '')}.{name})"

    def forward(self, student: Trace, teacher: Trace, labels: Tensor) -> Tensor:
        """Return the value of the function; 0 where nothing is labelled."""
        count = self.count(labels)
        if not count:
            return student.logits.sum() * 0.0
        outputs = SequenceClassifierOutput(logits=student.logits)
        return self.function(outputs, labels, num_items_in_batch=count)
