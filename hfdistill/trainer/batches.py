"""Rows, batches and processes: the order of rows, what accelerate deals out, and how processes end."""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed
from transformers import TrainingArguments

from hfdistill.data import LengthGroupedSampler, row_lengths
from hfdistill.trainer.arguments import option

if int(os.environ.get("WORLD_SIZE", "1")) > 1:
    # First imported when a process group is there, as DistributedDataParallel would do it, it holds the group
    # and its threads to the end.
    import torch._dynamo

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
    """Return the sampler of rows of like length; None where the arguments ask for another order."""
    strategy = args.train_sampling_strategy
    grouped = strategy == "group_by_length" or (strategy == "random" and option(args, "length_grouping"))
    if not grouped or not hasattr(data, "__len__"):
        return None
    lengths = row_lengths(data, column=args.length_column_name)
    size = len(data) if lengths is None else None
    seed = args.seed if args.data_seed is None else args.data_seed
    return LengthGroupedSampler(lengths, size=size, group_size=window, seed=seed)


def end_in_order() -> None:
    """Have gloo's process group ended before Python is torn down; other backends are left alone.

    Its threads may hold tensors still, and one that lets go of them in a Python half gone aborts the process
    after all its work is done (pytorch/pytorch#179291).
    """
    atexit.unregister(_end_gloo)  # once, however many trainers there were
    atexit.register(_end_gloo)


def _end_gloo() -> None:
    if distributed.is_available() and distributed.is_initialized() and distributed.get_backend() == "gloo":
        distributed.destroy_process_group()
