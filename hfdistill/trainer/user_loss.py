"""`UserLoss` makes a term of the objective of the loss function that a user gave the Trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor
from transformers.modeling_outputs import SequenceClassifierOutput

from hfdistill.network.task import missing
from hfdistill.network.trace import Trace
from hfdistill.objectives import Objective


class UserLoss(Objective):
    """Calls `compute_loss_func(outputs, labels, num_items_in_batch)` with the batch's number of labels."""

    name = "compute_loss_func"
    needs_labels: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = False

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def __repr__(self) -> str:
        """Name the function by where it was written: its address differs in every process."""
        name = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return f"compute_loss_func({getattr(self.function, '__module__', '')}.{name})"

    def count(self, labels: Tensor) -> Tensor:
        """Return the number of labels that are known."""
        return (~missing(labels)).sum().float()

    def forward(self, student: Trace, teacher: Trace, labels: Tensor) -> Tensor:
        """Return the value of the function; 0 where nothing is labelled."""
        count = self.count(labels)
        if not count:
            return student.logits.sum() * 0.0
        outputs = SequenceClassifierOutput(logits=student.logits)
        return self.function(outputs, labels, num_items_in_batch=count)
