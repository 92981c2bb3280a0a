"""The evaluation loss as the mean over rows, exact for any number of rows and processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hfdistill.network.task import TaskKind, row_losses, words
from hfdistill.network.trace import Trace
from hfdistill.trainer.joint_objective import UserLoss
from hfdistill.trainer.loss_window import NonFiniteError


class EvalLosses:
    """Collects the rows' own task losses during one evaluation, so that no row counts twice.

    Trainer takes the mean of batches, of which the last may be smaller, and weighs all alike. As there, the
    run's `label_smoothing_factor` counts, and a `compute_loss_func` takes the place of the task's loss.
    """

    def __init__(
        self, task: TaskKind, *, smoothing: float = 0.0, function: Callable[..., Tensor] | None = None
    ) -> None:
        self.task, self.smoothing = task, smoothing
        self._user_loss = None if function is None else UserLoss(function)
        self._sums: list[Tensor] | None = None

    def start(self) -> None:
        """Begin an evaluation; a batch that is predicted outside of one is not kept."""
        self._sums = []

    def add(self, logits: Tensor, labels: Tensor, *, gather: Callable[[Tensor], Any]) -> Tensor:
        """Keep the losses of a batch: logits (B, C) or (B, T, C), labels in the task's shape.

        `gather` joins the (B, 2) rows of all processes, without those that a process only repeats.

        Returns:
            The mean over this process's rows.
        """
        sums = self._of_rows(logits, labels)
        if self._sums is not None:
            self._sums.append(gather(sums))
        return sums[:, 0].sum() / sums[:, 1].sum().clamp(min=1)

    def mean(self, *, prefix: str, step: int) -> float | None:
        """End the evaluation and return the mean over all rows with a label; None where there is none.

        Rows whose loss is not finite are named by a NonFiniteError.
        """
        sums = torch.cat(self._sums).cpu().double() if self._sums else torch.zeros(0, 2)
        self._sums = None
        bad = (~torch.isfinite(sums[:, 0])).nonzero().view(-1).tolist()
        if bad:
            raise NonFiniteError(
                f"{prefix}_loss is not finite on rows {bad[:5]} ({len(bad)} of {len(sums)}) at step {step}. "
                "Look at these rows and at the weights; a lower learning_rate, max_grad_norm=1.0 or bf16 in "
                "place of fp16 are the usual cures of weights that training has spoilt."
            )
        known = sums[:, 1].sum()
        return (sums[:, 0].sum() / known).item() if known > 0 else None

    def replace(self, metrics: dict[str, Any], *, prefix: str, step: int) -> None:
        """End the evaluation, and put its mean in the place of Trainer's; without labels there is none."""
        loss = self.mean(prefix=prefix, step=step)
        metrics.pop(f"{prefix}_loss", None)
        if loss is not None:
            metrics[f"{prefix}_loss"] = loss

    def _of_rows(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return (B, 2): for each row, or for the batch of a user's loss, the sum and number of losses."""
        if self._user_loss is None:
            return row_losses(logits.float(), labels, self.task, smoothing=self.smoothing)
        weight = torch.ones(len(labels), device=logits.device)
        if self.task == "token":
            weight, (where, labels) = (labels >= 0).sum(-1).float(), words(labels)
            logits = logits[where]
        value = self._user_loss(Trace(logits), Trace(logits), labels)
        return torch.stack([value.float() * weight, weight], dim=-1)
