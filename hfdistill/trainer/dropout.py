"""The dropout of a student while it trains, where a run has another one than the student's config."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import TrainingArguments

from hfdistill.trainer.arguments import option


class StudentDropout:
    """Gives every dropout of a student the probability `student_dropout`, where a run has one.

    Some models hold it as a number beside their layers (`attention_dropout` of ModernBERT, `dropout` of an
    LSTM), which is set as well. The config, and with it the saved student, keeps its own.

    Args:
        args: of the run.
    """

    def __init__(self, args: TrainingArguments) -> None:
        self._args, self._rate = args, option(args, "student_dropout")
        self._before: list[tuple[nn.Module, str, float]] = []
        self._repeats = args.gradient_checkpointing

    def apply(self, student: nn.Module) -> None:
        """Set the probabilities; those that were there are kept."""
        self.restore()
        for module in student.modules() if self._rate is not None else ():
            own = ["p"] if isinstance(module, nn.modules.dropout._DropoutNd) else []
            own += [name for name, value in vars(module).items() if "dropout" in name and _is_rate(value)]
            self._before += [(module, name, getattr(module, name)) for name in own]
            self._repeats |= getattr(module, "gradient_checkpointing", False)
        for module, name, _ in self._before:
            setattr(module, name, self._rate)

    def restore(self) -> None:
        """Give back the probabilities that were there."""
        while self._before:
            setattr(*self._before.pop())

    def attention(self) -> AbstractContextManager[Any]:
        """Return a context for a forward whose attention takes the kernel that it takes with dropout.

        Without dropout PyTorch 2.13 takes its fused kernel, whose backward in bfloat16 on a CPU takes 2 to 8
        times as long (32 rows of 128 and of 12 tokens). A forward that is repeated in backward is left alone.
        """
        is_slow = self._args.bf16 and self._args.device.type == "cpu" and torch.is_grad_enabled()
        if self._rate == 0 and is_slow and not self._repeats:
            return sdpa_kernel(SDPBackend.MATH)
        return nullcontext()


def _is_rate(value: Any) -> bool:
    """Whether a number is the probability of a dropout, and not how many there are."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1
