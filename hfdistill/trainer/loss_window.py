"""The parts of the loss over one optimizer step and between two logs, and why a step or a run is stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import TrainerCallback

from hfdistill.network.divided import own_part
from hfdistill.network.trace import Batch, Trace


class NonFiniteError(FloatingPointError):
    """A loss, a gradient or a teacher output is NaN or infinite."""


@dataclass(frozen=True, eq=False)
class _MicroBatch:
    batch: Batch
    student: Tensor  # (B, C)
    teacher: Tensor | None  # (B, C)
    parts: Tensor  # (terms,)


class LossWindow:
    """Sums the weighted parts of the loss on the device, and keeps the micro-batches of the current step, so
    that it can say which row of which spoiled it.

    Nothing is read back from the device but one flag per optimizer step and the sums at each log.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.start()

    def start(self) -> None:
        """Forget everything, at the start of a run."""
        self._sums: Tensor | None = None
        self._steps = 0
        self._micro_batches: list[_MicroBatch] = []
        self.counts: list[Tensor] = []
        """For each micro-batch of the step, (terms,): the number of things that each term's mean is over."""

    def open(self, counts: Sequence[Tensor]) -> None:
        """Begin an optimizer step of as many micro-batches as there are counts."""
        self._micro_batches, self.counts = [], list(counts)

    def close(self) -> None:
        """End an optimizer step, which has had all its micro-batches."""
        self._steps += 1

    def add(self, parts: Tensor, *, batch: Batch, student: Trace, teacher: Trace | None) -> None:
        """Keep one micro-batch: `parts` (terms,) are the terms' shares in the loss of the optimizer step."""
        parts = parts.detach()
        self._sums = parts.clone() if self._sums is None else self._sums + parts
        target = None if teacher is None else teacher.logits.detach()
        self._micro_batches.append(_MicroBatch(batch, student.logits.detach(), target, parts))

    def take_averages(self, *, average: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Return the parts a step since the last call, as loss_<name>; they add up to the loss."""
        if self._sums is None:
            return {}
        values = (average(self._sums) / self._steps).tolist()
        self._sums, self._steps = None, 0
        return {f"loss_{name}": value for name, value in zip(self.names, values, strict=True)}

    def is_finite(self) -> Tensor:
        """Whether all parts and teacher logits of this optimizer step are numbers: a scalar on the device."""
        seen = [tensor for e in self._micro_batches for tensor in (e.parts, e.teacher) if tensor is not None]
        checks = [torch.isfinite(tensor).all() for tensor in seen]
        return torch.stack(checks).all() if checks else torch.tensor(True)

    def explain(
        self,
        step: int,
        model: nn.Module,
        *,
        others: Mapping[str, nn.Module] | None = None,
        show: Callable[[Batch, int], str],
    ) -> str:
        """Return a message that says which part of which rows went wrong in this optimizer step."""
        causes = []
        for i, one in enumerate(self._micro_batches):
            where = f" of micro-batch {i + 1}" if len(self._micro_batches) > 1 else ""
            sides = {"teacher": one.teacher, "student": one.student}
            for side, logits in ((name, value) for name, value in sides.items() if value is not None):
                rows = (~torch.isfinite(logits).reshape(len(logits), -1).all(-1)).nonzero().view(-1).tolist()
                if rows:
                    texts = ", ".join(f"{row} {show(one.batch, row)}".rstrip() for row in rows[:5])
                    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
                    causes.append(f"the {side}'s logits on rows {texts}{more}{where}")
            bad = [n for n, ok in zip(self.names, torch.isfinite(one.parts).tolist(), strict=True) if not ok]
            if bad:
                causes.append(f"the loss part {', '.join(bad)}{where}")
        causes = causes or [_bad_gradients(model, others or {})]
        return (
            f"Step {step} stopped before the optimizer moved: not finite are {'; '.join(causes)}. The "
            "weights are those of the step before. Look at these rows and at the teacher; a lower "
            "learning_rate, max_grad_norm=1.0 or bf16 in place of fp16 are the usual cures. Resume with "
            "train(resume_from_checkpoint=True)."
        )


def _bad_gradients(model: nn.Module, others: Mapping[str, nn.Module]) -> str:
    """Name the bad gradients; clipping by a norm that is not a number spoils all, and none can be blamed."""
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for whose, other in others.items():
        named = other.named_parameters()
        grads |= {f"the {whose}'s {name}": p.grad for name, p in named if p.grad is not None}
    bad = [name for name, grad in grads.items() if not torch.isfinite(own_part(grad)).all()]
    if not bad:
        return "the gradient of another process"
    return "the gradient" if len(bad) == len(grads) else f"the gradient of {', '.join(bad[:3])}"


MOST_SKIPPED = 50
"""Steps that may be skipped one after another: from 2^16 the scale has then fallen below 2^-33."""


class SkippedSteps(TrainerCallback):
    """Counts the optimizer's steps that the scaler of fp16 skips, since a gradient was not finite."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator, self.skipped = accelerator, 0

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Stop a run that has skipped too many."""
        self.skipped = self.skipped + 1 if self.accelerator.optimizer_step_was_skipped else 0
        if self.skipped >= MOST_SKIPPED:
            raise NonFiniteError(
                f"The last {MOST_SKIPPED} steps, to step {state.global_step}, were skipped: their gradients "
                "were not finite in fp16 at any scale, and nothing is learnt. Type bf16=True in place of "
                "fp16=True, a lower learning_rate or max_grad_norm=1.0; look at the teacher's logits, which "
                "may overflow."
            )
