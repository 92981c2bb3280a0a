"""What one forward pass leaves behind.

Shape letters, fixed here for the whole package: B batch, T tokens, D width, H heads, L depth, C classes.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hfdistill.anatomy import unwrapped

Batch = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Trace:
    """What one forward pass left behind.

    Args:
        logits: (B, C), as the model gave them.
        attention_mask: (B, T), 1 for real tokens; None where the batch had none.
    """

    logits: Tensor
    attention_mask: Tensor | None = None


def accepted_inputs(model: nn.Module) -> frozenset[str]:
    """Names of the arguments that `model.forward` declares, seen through a PEFT wrapper."""
    return frozenset(inspect.signature(unwrapped(model).forward).parameters)


def logits_of(outputs: Any) -> Tensor:
    """The logits of a `ModelOutput`, a mapping or a tuple."""
    if isinstance(outputs, Mapping):
        return outputs["logits"]
    return outputs.logits if hasattr(outputs, "logits") else outputs[0]


def run(model: nn.Module, batch: Batch, *, accepts: frozenset[str]) -> Trace:
    """Run `model` on what it accepts of `batch`; labels are for the objectives, not for the model."""
    inputs = {name: value for name, value in batch.items() if name in accepts and name != "labels"}
    return Trace(logits=logits_of(model(**inputs)), attention_mask=batch.get("attention_mask"))
