"""A run in half precision whose every step overflows: it ends, where it would go on without learning."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from transformers import TrainerCallback

from hfdistill.trainer.loss_window import NonFiniteError

MOST = 50
"""Steps that may be skipped one after another: from 2^16 the scale has then fallen below 2^-33."""


class SkippedSteps(TrainerCallback):
    """Counts the optimizer's steps that the scaler of fp16 skips, since a gradient was not finite."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator, self.skipped = accelerator, 0

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Stop a run that has skipped too many.

        Raises:
            NonFiniteError: with what to type.
        """
        self.skipped = self.skipped + 1 if self.accelerator.optimizer_step_was_skipped else 0
        if self.skipped >= MOST:
            raise NonFiniteError(
                f"The last {MOST} steps, to step {state.global_step}, were skipped: their gradients were not "
                "finite in fp16 at any scale, and nothing is learnt. Type bf16=True in place of fp16=True, a "
                "lower learning_rate or max_grad_norm=1.0; look at the teacher's logits, which may overflow."
            )
