"""`LengthGroupedSampler` orders rows in groups of similar length, by (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset, LargeList, List
from torch import Tensor
from torch.utils.data import Sampler

from hfdistill.data.fresh_copies import FreshCopies

# Groups per sorted chunk: see the table in LengthGroupedSampler.
CHUNK_GROUPS = 50


class LengthGroupedSampler(Sampler[int]):
    """Row indices of one epoch, rows of similar length side by side in groups of `group_size`.

    A random permutation is cut into chunks of 50 groups (fewer on small data, so that there are at least four
    chunks), each chunk is sorted by length and cut into groups, and the groups are shuffled over the epoch.
    Every row comes exactly once.

    - The order follows from `(seed, epoch)` alone, never from the global random state or from earlier epochs,
      so a resumed run sees the rows that an unbroken one would have seen.
    - `group_size` is the rows of one optimizer step (per-device batch × accumulation steps × processes). The
      order does not know how a group is split, so 16×1, 8×2 and 4×4 train on the same windows.
    - The group with the longest row comes first, so memory runs out in the first step or not at all
      (`Trainer` does the same). Within a group the rows run from long to short, which keeps micro-batches
      tight.
    - The incomplete last group holds rows drawn at random, not the longest or the shortest, and comes last.

    Padded tokens per real token, SST-2 train, batches of 32: 3.01 in random order; 1.23, 1.05, 1.03 and 1.00
    with chunks of 10, 50, 100 and 1,000 groups. Chunks above 50 save less than 5 % and mix less.

    Args:
        lengths: Tokens of every row; None for plain random order of `size` rows.
        group_size: Rows per optimizer step.
        seed: Not negative.
        size: Number of rows, only where `lengths` is None.

    Raises:
        ValueError: On a group size below 1, a negative seed or length, or both or neither of `lengths` and
            `size`.

    Example:
        >>> from hfdistill.data import LengthGroupedSampler
        >>> sampler = LengthGroupedSampler([3, 9, 4, 8, 2], group_size=2, seed=0)
        >>> sampler.set_epoch(1)
        >>> sorted(sampler) == [0, 1, 2, 3, 4]
        True
    """

    def __init__(
        self, lengths: Sequence[int] | Tensor | None, *, group_size: int, seed: int, size: int | None = None
    ) -> None:
        if (lengths is None) == (size is None):
            which = "neither" if lengths is None else "both"
            raise ValueError(
                f"LengthGroupedSampler needs either lengths or size to know its rows, found {which}. "
                "Pass lengths=row_lengths(dataset), or None with size=len(dataset) for plain random order."
            )
        if group_size < 1 or seed < 0:
            raise ValueError(
                f"LengthGroupedSampler needs group_size >= 1 and seed >= 0, found {group_size} and {seed}. "
                "Pass group_size=batch size * accumulation steps * processes and seed=args.seed."
            )
        self.lengths = None if lengths is None else torch.as_tensor(lengths, dtype=torch.int64)
        if self.lengths is not None and len(self.lengths) and int(self.lengths.min()) < 0:
            raise ValueError(
                f"Row {int(self.lengths.argmin())} has length {int(self.lengths.min())}, a length cannot be "
                "negative. Pass the number of tokens of each row, for example row_lengths(dataset)."
            )
        self.size = len(self.lengths) if self.lengths is not None else int(size or 0)
        self.group_size, self.seed, self.epoch = group_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next `iter` gives; counted from 0."""
        self.epoch = int(epoch)

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        mixed = np.random.SeedSequence((self.seed, self.epoch)).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(mixed[0]))
        order = torch.randperm(self.size, generator=generator)
        if self.lengths is not None and self.size > 0:
            order = _grouped(order, self.lengths, self.group_size, generator)
        return iter(order.tolist())


def _grouped(order: Tensor, lengths: Tensor, group_size: int, generator: torch.Generator) -> Tensor:
    """Return the permutation `order`, rearranged into shuffled groups of similar length and a random tail."""
    groups = len(order) // group_size
    whole = groups * group_size
    if groups == 0:
        return _long_to_short(order, lengths)
    longest = int(lengths[order].argmax())
    if longest >= whole:
        order[[0, longest]] = order[[longest, 0]]
    chunks = -(-groups // max(1, min(CHUNK_GROUPS, groups // 4)))
    cuts = [groups * i // chunks * group_size for i in range(1, chunks)]
    body = torch.cat([_long_to_short(chunk, lengths) for chunk in order[:whole].tensor_split(cuts)])
    grouped = body.view(groups, group_size)[torch.randperm(groups, generator=generator)]
    first = int(lengths[grouped[:, 0]].argmax())
    grouped[[0, first]] = grouped[[first, 0]]
    return torch.cat([grouped.flatten(), _long_to_short(order[whole:], lengths)])


def _long_to_short(rows: Tensor, lengths: Tensor) -> Tensor:
    """Sort stably, so that rows of equal length keep the random order they came in."""
    return rows[lengths[rows].argsort(descending=True, stable=True)]


def row_lengths(dataset: Any, *, column: str = "length") -> list[int] | None:
    """Return the number of tokens of every row, where it can be had without running the dataset's own code.

    Args:
        dataset: A `datasets.Dataset` (its `column`, or else the lengths of `input_ids`, read through Arrow
            and in the order that `.select`, `.shuffle` and `.filter` left), or a list of dicts.
        column: The column that holds the length, where the dataset has one.

    Returns:
        One length per row; None for any other kind of dataset, whose `__getitem__` may be slow or random, and
        for one with neither column.

    Raises:
        ValueError: When a row has no length or no `input_ids`.

    Example:
        >>> from hfdistill.data import row_lengths
        >>> row_lengths([{"input_ids": [101, 102]}, {"input_ids": [101, 7, 102]}])
        [2, 3]
    """
    if isinstance(dataset, Dataset):
        return _arrow_lengths(dataset, column)
    if isinstance(dataset, FreshCopies):
        lengths = _arrow_lengths(dataset.rows, column)
        return None if lengths is None else lengths * dataset.repeats
    if isinstance(dataset, (list, tuple)) and dataset and all(isinstance(row, Mapping) for row in dataset):
        if all(column in row for row in dataset):
            return [int(row[column]) for row in dataset]
        if all("input_ids" in row for row in dataset):
            return [len(row["input_ids"]) for row in dataset]
    return None


def _arrow_lengths(dataset: Dataset, column: str) -> list[int] | None:
    source = next((name for name in (column, "input_ids") if name in dataset.column_names), None)
    if source is None or dataset.format["type"] == "custom":
        return None
    of_lists = isinstance(dataset.features[source], (List, LargeList))
    lengths: list[int | None] = []
    for table in dataset.select_columns([source]).with_format("arrow").iter(batch_size=50_000):
        values = table.column(source)
        lengths += (pc.list_value_length(values) if of_lists else values).to_pylist()
    missing = [i for i, length in enumerate(lengths) if length is None]
    if missing:
        raise ValueError(
            f"{len(missing):,} of {len(lengths):,} rows have no {source!r} (first rows {missing[:5]}) and "
            "so no length. Encode the dataset again with encode(dataset, tokenizer), or remove the rows."
        )
    return [int(length) for length in lengths if length is not None]
