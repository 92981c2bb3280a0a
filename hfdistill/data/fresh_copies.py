"""`FreshCopies` writes the copies of rows anew in every epoch."""

from __future__ import annotations

import copy as copying
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from datasets import Dataset

from hfdistill.data.augment import Method, Writer

Columns = dict[str, list[Any]]


class FreshCopies(torch.utils.data.Dataset[dict[str, Any]]):
    """The rows, and `copies` rewritten ones of each, which differ from epoch to epoch.

    Give it to `DistillationTrainer` as `train_dataset`: it is tokenised for student and teacher, told the
    epoch, and goes on exactly where it stopped when a run is resumed. A new row is drawn from (seed, copy,
    row), where copy counts on over the epochs: with copies=1, epoch k shows the k-th copies of `augment`. It
    has no label unless `keep_labels` says so. A row that cannot be changed is repeated.

    When to use it: many epochs of a cheap method. A recorded teacher needs a live one behind it
    (`CachedTeacher(folder, teacher=...)` or `teacher_cache=`), which is asked about each new row, and each
    answer is stored: `augment` makes a set that is asked about once. In a loop of your own, call `set_epoch`
    before each epoch.

    Args:
        dataset: with a `text` (and `text_pair`) column, not tokenised.
        method: see `augment`.
        copies: new rows of each row, in every epoch.
        seed: of what is drawn.
        columns: texts that may change; see `augment`.
        keep_labels: the new rows take the label of their row.
        in_place: show new rows in the place of a half of the data, drawn by the seed, and in the next epoch
            in that of the other half: an epoch has as many rows as without copies.

    Raises:
        TypeError: for data or a method of another kind.
        ValueError: for tokenised data, data without text, labels of a kind that cannot be missing, fewer
            than one copy, and a function that draws at random.

    Example:
        >>> from datasets import Dataset
        >>> from hfdistill import Delete, FreshCopies
        >>> rows = FreshCopies(Dataset.from_dict({"text": ["a warm and funny film"]}), Delete(p=0.5))
        >>> rows.set_epoch(3)
        >>> len(rows), rows[0]["text"]
        (2, 'a warm and funny film')
    """

    def __init__(
        self,
        dataset: Dataset,
        method: Method,
        *,
        copies: int = 1,
        seed: int = 0,
        columns: Sequence[str] | None = None,
        keep_labels: bool = False,
        in_place: bool = False,
    ) -> None:
        if in_place and copies != 1:
            raise ValueError(
                f"FreshCopies(in_place=True) shows one new row in the place of a row, found copies={copies}. "
                "Leave copies out."
            )
        if copies < 1:
            raise ValueError(f"FreshCopies makes 1 copy or more of each row, found copies={copies}.")
        self._writer = Writer.of(dataset, method, seed=seed, columns=columns, keep_labels=keep_labels)
        self.texts = self.rows = dataset
        self.copies, self.seed, self.keep_labels, self.in_place = copies, seed, keep_labels, in_place
        self._encoders: Sequence[Callable[[Columns, list[int]], Columns]] = ()
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that persist see it too

    @property
    def column_names(self) -> list[str]:
        """Those of the rows."""
        return list(self.rows.column_names)

    @property
    def blanks(self) -> dict[str, Any]:
        """What stands for no label in the new rows, by column; empty where they keep theirs."""
        return {} if self.keep_labels else dict(self._writer.blanks)

    def over(self, rows: Dataset, *encoders: Callable[[Columns, list[int]], Columns]) -> FreshCopies:
        """Return the same copies of rows that were made of these.

        Args:
            rows: as many, such as the tokenised ones.
            *encoders: what made their new columns out of the text, and does so for the new rows.
        """
        made = copying.copy(self)
        made.rows, made._encoders = rows, [*self._encoders, *encoders]
        return made

    def relabelled(self, change: Callable[[Dataset], Dataset]) -> FreshCopies:
        """Return the same with other labels; itself where `change` gives back the rows that it is given.

        Args:
            change: the rows → as many rows with the same texts.
        """
        rows = change(self.rows)
        if rows is self.rows:
            return self
        made = copying.copy(self)
        made.texts = rows if self.texts is self.rows else change(self.texts)
        made.rows = rows
        return made

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose copies are read next; counted from 0."""
        self._epoch.fill_(epoch)

    @cached_property
    def _method(self) -> str:
        method = self._writer.method
        return method.fingerprint() or f"{type(method).__name__} {self._writer.sample(self.texts)}"

    def fingerprint(self) -> str:
        """A text that identifies the way to make copies when a run is resumed.

        A method that has no fingerprint, such as a function, is told by what it writes for the first rows.
        """
        drawn = f"{self._method} {self.copies} {self.seed} {self._writer.changing} {self.keep_labels}"
        return f"{drawn} in place" if self.in_place else drawn

    @property
    def repeats(self) -> int:
        """How many rows of an epoch are made of each row of the data: itself and its copies."""
        return 1 if self.in_place else 1 + self.copies

    @cached_property
    def _halves(self) -> list[int]:
        """0 or 1 for each row: the parity of the epochs in which a new one takes its place."""
        order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(self.seed))
        halves: list[int] = (order % 2).tolist()
        return halves

    def __len__(self) -> int:
        return len(self.rows) * self.repeats

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"Row {index} of {len(self)}.")
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return rows by number: first those of the data, then the first copies of each, the second, …"""
        rows = {}
        places = {index: self._place(index) for index in indices}
        for turn in sorted({turn for _, turn in places.values()}):
            chosen = {index: number for index, (number, own) in places.items() if own == turn}
            numbers = list(chosen.values())
            columns = self.rows[numbers] if turn == 0 else self._fresh(numbers, turn - 1)
            for i, index in enumerate(chosen):
                rows[index] = {name: values[i] for name, values in columns.items()}
        return [dict(rows[index]) for index in indices]

    def _place(self, index: int) -> tuple[int, int]:
        """Return the row of the data that is shown at a place of the epoch, and which copy: 0 for itself."""
        if self.in_place:
            return index, int(self._halves[index] == int(self._epoch) % 2)
        return index % len(self.rows), index // len(self.rows)

    def _fresh(self, numbers: list[int], turn: int) -> Columns:
        """Return the columns of new rows of these rows."""
        copy = int(self._epoch) * self.copies + turn
        made = self._writer.one(self.texts[numbers], numbers, copy)
        read = {name: value for encoder in self._encoders for name, value in encoder(made, numbers).items()}
        if not read:
            return made
        return {name: value for name, value in made.items() if name not in self._writer.texts} | read
