"""Who learns by what in one step: the student from its teacher, and from the student a peer."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor

from hfdistill.network.trace import Trace
from hfdistill.objectives import Blend, Setting, as_blend
from hfdistill.teachers import Teacher


class Lessons:
    """The run's objective, and where the teacher learns too, that one's: their terms side by side.

    Args:
        blend: what the student learns by.
        teacher: the run's.
    """

    def __init__(self, blend: Blend, *, teacher: Teacher | None) -> None:
        self.blends, self.names = [blend], list(blend.names)
        if teacher is not None and teacher.learns:
            theirs = getattr(teacher, "objective", None)
            peer = copy.deepcopy(as_blend(blend if theirs is None else theirs))
            self.blends.append(peer)
            self.names += [f"{teacher.saved_as}_{name}" for name in peer.names]

    def bind(self, setting: Setting) -> None:
        """Bind every objective.

        Raises:
            ValueError: where two models learn from each other by more than their logits, or nothing from
                each other.
        """
        for blend in self.blends:
            blend.bind(setting)
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

    def open(self, progress: float) -> None:
        """Begin an optimizer step: schedules move on."""
        for blend in self.blends:
            blend.set_progress(progress)

    def summary(self) -> list[str]:
        """A line per term."""
        lines = self.blends[0].summary()
        return [*lines, *(f"peer: {line}" for blend in self.blends[1:] for line in blend.summary())]

    def counts(self, labels: Tensor) -> Tensor:
        """What each term's mean is a mean over: (terms,), float32."""
        return torch.cat([blend.counts(labels) for blend in self.blends])

    def __call__(self, student: Trace, teacher: Trace, labels: Tensor) -> Tensor:
        """The unweighted mean of each term: (terms,), float32; nobody's gradient reaches the other."""
        if len(self.blends) == 1:
            return self.blends[0](student, teacher, labels)
        own = self.blends[0](student, _held(teacher), labels)
        return torch.cat([own, self.blends[1](teacher, _held(student), labels)])


def _held(trace: Trace) -> Trace:
    """The trace without its graph."""
    return replace(trace, logits=trace.logits.detach())
