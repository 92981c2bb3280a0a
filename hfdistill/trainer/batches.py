"""Batches as accelerate deals them out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

REPEATED = "hfdistill_repeated"
"""Batch key of rows that a process only repeats to keep step with the others; they weigh nothing."""


def rows(batch: Mapping[str, Any]) -> int:
    """B."""
    return next(len(value) for value in batch.values() if isinstance(value, Tensor) and value.dim() > 0)


def own_rows(batch: dict[str, Any], *, remainder: int, rank: int) -> dict[str, Any]:
    """Drop the rows that accelerate repeats in the last batch of an epoch to give every process as many.

    The last round of batches, taken in the order of the processes, holds `remainder` rows of its own; what
    follows are rows from the epoch's start. A process left without a row of its own keeps one, marked
    REPEATED, so that it takes part in the collectives.

    Args:
        batch: one process's last batch of the epoch.
        remainder: rows of the epoch left for the last round; 0 where they divide evenly.
        rank: the process's number.
    """
    size = rows(batch)
    if remainder <= 0:
        return batch
    own = min(max(remainder - rank * size, 0), size)
    if own < size:
        kept = max(own, 1)
        batch = {
            name: value[:kept] if isinstance(value, Tensor) and value.dim() and len(value) == size else value
            for name, value in batch.items()
        }
    return batch if own else {**batch, REPEATED: torch.tensor(True)}
