"""Evaluation whose loss is exact for any number of rows and processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.trainer_utils import EvalLoopOutput

from hfdistill.network.label_space import TaskKind, as_targets, row_losses, words
from hfdistill.network.trace import Trace
from hfdistill.trainer.checkpointing import ResumableTrainer
from hfdistill.trainer.loss_window import NonFiniteError
from hfdistill.trainer.user_loss import GivenLoss


class ExactEvaluationTrainer(ResumableTrainer):
    """A `Trainer` whose `eval_loss` is the mean of the rows' own task losses, with no row counted twice."""

    task: TaskKind
    _accepts: frozenset[str]
    _eval_losses: list[Tensor] | None = None

    def given_labels(self, batch: Mapping[str, Any]) -> Tensor | None:
        """The labels that came with a batch."""
        return batch.get(self.label_names[0] if self.label_names else "labels")

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """The student alone: its task loss, logits and labels."""
        inputs = self._prepare_inputs(inputs)
        given = self.given_labels(inputs)
        plain = {
            name: value
            for name, value in inputs.items()
            if name in self._accepts and name not in self.label_names
        }
        _, logits, _ = super().prediction_step(model, plain, False, ignore_keys=ignore_keys)
        loss = None
        if given is not None:
            loss = self._book_eval(
                logits[0] if isinstance(logits, tuple) else logits, as_targets(given, self.task)
            )
        if self.task == "token" and given is not None:
            given = given.clamp(min=-100)  # metrics know no other sign of a missing label
        return (loss, None, None) if prediction_loss_only else (loss, logits, given)

    def _book_eval(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Keep each row's loss, gathered without repeats, and return the batch's mean."""
        if self.compute_loss_func is None:
            sums = row_losses(logits.float(), labels, self.task)  # (B, 2): sum and count
        else:
            weight = torch.ones(len(labels), device=logits.device)
            if self.task == "token":
                weight, (where, labels) = (labels >= 0).sum(-1).float(), words(labels)
                logits = logits[where]
            value = GivenLoss(self.compute_loss_func)(Trace(logits), Trace(logits), labels)
            sums = torch.stack([value.float() * weight, weight], dim=-1)
        if self._eval_losses is not None:
            self._eval_losses.append(self.accelerator.gather_for_metrics(sums))
        return sums[:, 0].sum() / sums[:, 1].sum().clamp(min=1)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """As Trainer's; the loss is the mean over rows, exact for any number of rows and processes.

        Raises:
            NonFiniteError: where a row's loss is not finite, naming the rows.
        """
        self._eval_losses = []
        try:
            output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
            sums = torch.cat(self._eval_losses).double().cpu() if self._eval_losses else torch.zeros(0, 2)
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
