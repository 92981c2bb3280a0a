"""The objectives of one run: the student's, and where the teacher learns too, the teacher's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hfdistill.network.architectures import known_spec
from hfdistill.network.label_space import LabelSpaceError
from hfdistill.network.task import TaskKind, task_kind
from hfdistill.network.trace import Trace
from hfdistill.objectives import Blend, Objective, Setting, as_blend, default_objective
from hfdistill.teachers import Teacher
from hfdistill.trainer.user_loss import UserLoss


def own_objective(
    objective: Objective | Blend | None,
    function: Callable[..., Tensor] | None,
    teacher: Teacher | None,
    config: Any,
) -> Blend:
    """Return what the student learns by, as a blend of one trainer alone: two must not share projections.

    None is the default of the task; a user's `compute_loss_func` then takes the place of the task's loss.

    Raises:
        ValueError: for both an objective and a function, and for terms that want a teacher where none is.
    """
    if objective is not None and function is not None:
        raise ValueError(
            "Both objective and compute_loss_func are given, and each is the whole loss. Leave one out: "
            "without an objective, compute_loss_func takes the place of CrossEntropy in the default one."
        )
    if objective is not None:
        blend = copy.deepcopy(as_blend(objective))
    else:
        blend = default_objective(
            task_kind(config),
            hard=None if function is None else UserLoss(function),
            taught=teacher is not None,
            mutual=teacher is not None and teacher.learns,
            ripening=teacher is not None and teacher.ripens,
        )
    if teacher is None and blend.needs_teacher:
        raise ValueError(f"{blend} learns from a teacher, and teacher=None. Name one, or drop that term.")
    return blend


class JointObjective:
    """Computes the terms of all objectives of a run side by side, from one forward pass of each model.

    Args:
        blend: the objective of the student.
        teacher: the run's; where it learns, its own objective is added, by default a copy of the student's.
    """

    def __init__(self, blend: Blend, *, teacher: Teacher | None) -> None:
        self.blends, self.names = [blend], list(blend.names)
        if teacher is not None and teacher.learns:
            own = getattr(teacher, "objective", None)
            peer = copy.deepcopy(as_blend(blend if own is None else own))
            self.blends.append(peer)
            self.names += [f"{teacher.saved_as}_{name}" for name in peer.names]

    def bind(
        self,
        student: nn.Module,
        teacher: Teacher | None,
        *,
        task: TaskKind,
        classes: int,
        label_smoothing: float,
    ) -> None:
        """Bind every objective to the task and the networks.

        Raises:
            ValueError: where two models learn from each other by more than their logits, or nothing from
                each other.
        """
        self.task = task
        smoothing = label_smoothing if task in ("single_label", "token") else 0.0
        inner = None if teacher is None else teacher.inspectable()
        same_tokens = getattr(inner, "same_tokens", True)
        if task == "token" and teacher is not None:
            same_tokens = all(part.same_tokens for part in teacher.parts())
        sizes = {"student": known_spec(student)}
        sizes["teacher"] = known_spec(inner) or known_spec(getattr(inner, "model", None))
        for blend in self.blends:
            blend.bind(Setting(task, classes, smoothing, **sizes, same_tokens=same_tokens))
            if len(self.blends) == 1:
                continue
            if any(blend.taps(ever=True)) or any(True for _ in blend.parameters()):
                raise ValueError(
                    f"{blend} looks inside the networks, and two that learn from each other do so by their "
                    "logits alone. Use CrossEntropy() + KD(temperature=1)."
                )
        if len(self.blends) > 1 and not any(blend.needs_teacher for blend in self.blends):
            raise ValueError(
                f"The teacher learns too, but neither {self.blends[0]} nor {self.blends[1]} reads the other. "
                "Use CrossEntropy() + KD(temperature=1)."
            )

    def to(self, device: torch.device) -> None:
        """Move what the terms own."""
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
        """Move the schedules of all terms on, before each optimizer step; see `Blend.set_progress`."""
        for blend in self.blends:
            blend.set_progress(progress)

    def summary(self) -> list[str]:
        """Return a line per term."""
        lines = self.blends[0].summary()
        return [*lines, *(f"peer: {line}" for blend in self.blends[1:] for line in blend.summary())]

    def counts(self, labels: Tensor) -> Tensor:
        """Return the number of things that the mean of each term is a mean over: (terms,), float32."""
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
