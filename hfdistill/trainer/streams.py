"""A stream as the data of a run: it is read once a pass, and has no length before a pass has ended."""

from __future__ import annotations

import logging
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset
from torch.utils.data import IterableDataset as TorchIterable
from transformers import TrainingArguments

from hfdistill.files.checkpoint import CheckpointError
from hfdistill.files.plain_data import as_python, read_json, write_json
from hfdistill.trainer.arguments import rows_a_step

logger = logging.getLogger(__name__)

LOOKED_AT = 64
"""Rows of a stream that are checked before the first step."""


def is_stream(data: Any) -> bool:
    """Whether data has no length and can only be read from its beginning."""
    return isinstance(data, (TorchIterable, IterableDataset)) and not hasattr(data, "__len__")


def check_measured(data: Any, args: TrainingArguments) -> None:
    """Refuse to measure on a stream by several processes, of which some would count its last rows twice."""
    sets = data.values() if isinstance(data, dict) else [data]
    if args.world_size > 1 and any(map(is_stream, sets)):
        raise ValueError(
            f"eval_dataset is a stream, and {args.world_size} processes cannot tell which rows at its end "
            "they share, so that some would count twice. Hold its rows in memory: load(...) without "
            "streaming=True, or Dataset.from_list(list(stream))."
        )


def settle_stream(data: Any, args: TrainingArguments) -> None:
    """Refuse what a run cannot do with a stream of training rows; nothing happens for other data.

    Each of several processes then reads the stream for itself: what one reads for all has to be of one
    width.
    """
    if not is_stream(data):
        return
    size = rows_a_step(args)
    if args.max_steps <= 0:
        raise ValueError(
            f"train_dataset is a stream ({type(data).__name__}), whose rows nobody can count before its end, "
            f"and the learning rate has to know the last step. Type max_steps=rows * epochs / {size}, as in "
            f"max_steps={-(-3 * 100_000 // size)} for three epochs of 100,000 rows."
        )
    if args.train_sampling_strategy == "group_by_length":
        raise ValueError(
            "train_sampling_strategy='group_by_length' needs the lengths of all rows, and train_dataset is a "
            f"stream ({type(data).__name__}). Leave it out; stream.shuffle(seed=0, buffer_size=10_000) puts "
            "rows in another order in each pass."
        )
    if args.world_size > 1 and args.accelerator_config.dispatch_batches is None:
        args.accelerator_config.dispatch_batches = False
    if args.world_size > 1 and not args.dataloader_drop_last and args.process_index == 0:
        logger.warning(
            "train_dataset is a stream: where its rows are no multiple of %d, each pass ends with some of "
            "its first rows once more, so that all processes have as many. dataloader_drop_last=True leaves "
            "its last rows out instead.",
            args.train_batch_size * args.world_size,
        )


def first_rows(data: IterableDataset, *, split: str) -> Dataset:
    """Return the first rows of a stream, which are checked for all."""
    rows = list(islice(data, LOOKED_AT))
    if not rows:
        raise ValueError(
            f"{split} is a stream that has no row: what made it is at its end (a generator that was read "
            "once), or a filter kept nothing. Give it anew."
        )
    rows = [{name: as_python(value) for name, value in row.items()} for row in rows]
    return Dataset.from_list(rows, features=data.features)


PASSES = "passes.json"


class Passes:
    """Counts the steps of each pass through a stream.

    Trainer takes the whole run for one epoch where data has no length: it would skip as many batches as the
    run has seen, which leads beyond the end of a stream that was read through before.
    """

    def __init__(self, *, rows: int) -> None:
        self.rows = rows
        self.steps: int | None = None
        """Optimizer steps of a pass; None until one has ended."""

    def load(self, folder: Path | None) -> None:
        """Read the count from a checkpoint; nothing for a run that begins.

        Raises:
            CheckpointError: where passes had several lengths, or a step had another number of rows.
        """
        self.steps = None
        if folder is None or not (folder / PASSES).is_file():
            return
        seen = read_json(folder / PASSES, limit=1000)
        self.steps = seen["steps"]
        if seen["rows"] != self.rows:
            raise CheckpointError(
                f"The run in {folder} took {seen['rows']} rows a step from its stream, and this one takes "
                f"{self.rows}, so where it stood cannot be told. Type ignore_data_skip=True to begin a pass "
                "anew."
            )
        if self.steps == 0:
            raise CheckpointError(
                f"The stream of the run in {folder} has given another number of batches in one pass than in "
                "another, so where it stood cannot be told. Type ignore_data_skip=True to begin a pass anew, "
                "and give a stream that always comes in the same order."
            )

    def end(self, *, number: int, step: int) -> None:
        """Note after how many steps of the run a pass (counted from 0) has ended; unequal ones give 0."""
        steps, rest = divmod(step, number + 1)
        self.steps = steps if not rest and self.steps in (None, steps) else 0

    def save(self, folder: Path) -> None:
        """Write it into a checkpoint, once a pass has ended."""
        if self.steps is not None:
            write_json(folder / PASSES, {"steps": self.steps, "rows": self.rows})
