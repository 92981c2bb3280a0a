"""Rows and batches: the order of rows, and what accelerate deals out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import TrainingArguments

from hfdistill.data import LengthGroupedSampler, row_lengths
from hfdistill.trainer.arguments import option

REPEATED = "hfdistill_repeated"
"""Batch key of rows that a process only repeats to keep step with the others; they weigh nothing."""


def rows(batch: Mapping[str, Any]) -> int:
    """Return the number of rows of a batch."""
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
        rows_left = max(own, 1)
        batch = {
            name: value[:rows_left]
            if isinstance(value, Tensor) and value.dim() and len(value) == size
            else value
            for name, value in batch.items()
        }
    return batch if own else {**batch, REPEATED: torch.tensor(True)}


def length_grouped(data: Any, args: TrainingArguments, *, window: int) -> LengthGroupedSampler | None:
    """Return a sampler of batches of similar length; None where the arguments ask for another order."""
    strategy = args.train_sampling_strategy
    grouped = strategy == "group_by_length" or (strategy == "random" and option(args, "length_grouping"))
    if not grouped or not hasattr(data, "__len__"):
        return None
    lengths = row_lengths(data, column=args.length_column_name)
    size = len(data) if lengths is None else None
    seed = args.seed if args.data_seed is None else args.data_seed
    return LengthGroupedSampler(lengths, size=size, group_size=window, seed=seed)
