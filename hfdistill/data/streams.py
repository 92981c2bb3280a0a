"""`load(..., streaming=True)`: the columns and labels of `load`, of rows that are read as they are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from datasets import ClassLabel, Dataset, Features, IterableDataset, List, Value

from hfdistill.data.in_memory import from_columns, from_rows
from hfdistill.data.label_columns import HIDDEN, all_hidden, further_labels, multi_hot_names
from hfdistill.data.text_columns import with_inner_columns
from hfdistill.data.text_rows import DROP_ALL, build_split
from hfdistill.data.word_labels import split_of_words

ROWS_AT_ONCE = 1000
"""Rows that are read together; the first of them settle what the columns hold."""


def first_rows(split: str, stream: IterableDataset) -> Dataset:
    """Return the first rows of a raw stream."""
    rows = list(islice(stream, ROWS_AT_ONCE))
    if not rows:
        raise ValueError(
            f"Split {split!r} holds no rows. Look at what made it: a filter, or a file that was cut."
        )
    if stream.features is None:
        return from_rows(rows)
    return held(rows, stream.features)


def held(rows: Sequence[Mapping[str, Any]], features: Features) -> Dataset:
    """Return rows of a stream in memory."""
    return _typed({name: [row.get(name) for row in rows] for name in features}, features)


def _typed(columns: Mapping[str, list[Any]], features: Features) -> Dataset:
    """Return columns of these features; classes may hold -100, which `datasets` itself refuses there."""
    marked = [
        name
        for name, feature in features.items()
        if isinstance(feature, ClassLabel) and HIDDEN in columns[name]
    ]
    others = {name: feature for name, feature in features.items() if name not in marked}
    rows = Dataset.from_dict({name: columns[name] for name in others}, Features(others))
    for name in marked:
        rows = rows.add_column(name, columns[name], feature=features[name])
    return rows.select_columns([*features]) if marked else rows


def streamed(stream: IterableDataset, first: Dataset, like: Dataset, reading: Reading) -> IterableDataset:
    """Return a raw stream with the columns that its first rows have after `load`.

    Raises:
        ValueError: for names of classes that would have to be collected from all rows.
    """
    feature, label = reading.feature, reading.label
    inner = getattr(feature, "feature", feature)
    if isinstance(label, str) and feature is not None and reading.names is None:
        listed = multi_hot_names(like) if reading.by_name and isinstance(feature, List) else None
        _check_named(first, label, listed or getattr(inner, "names", None), split=reading.split)
    rows = stream.map(
        reading,
        batched=True,
        batch_size=ROWS_AT_ONCE,
        with_indices=True,
        remove_columns=first.column_names,
        features=like.features,
    )
    rows.info.description = like.info.description  # names of several labels
    return rows


def _check_named(first: Dataset, column: str, names: list[str] | None, *, split: str) -> None:
    """Refuse classes that are named by their strings alone: the numbers depend on all of them."""
    raw = with_inner_columns(first, [column]).features[column]
    declared = isinstance(getattr(raw, "feature", raw), ClassLabel) or raw == Value("bool")
    if names and not declared:
        raise ValueError(
            f"The labels of column {column!r} are strings, which are numbered in the order of all their "
            f"names, and a stream does not know them all. Type label_names={names[:20]!r}, which the "
            f"first {len(first):,} rows of split {split!r} have, and those that come later."
        )


@dataclass(frozen=True)
class Reading:
    """Reads a part of a stream's rows as its first ones were read.

    Args:
        split: the name of the stream.
        columns: of the raw rows; None where the stream does not know them.
        texts: the columns of texts, or the one of lists of words.
        label: the column of labels, or several.
        feature: of the labels as `load` gives them; None where the first rows have none.
        of_words: whether rows are lists of words.
        names: of the classes, as the user gave them.
        by_name: whether labels are names; see `Labels`.
        from_text: whether every value is a string because of the kind of file.
        on_bad_row: "raise" or "drop".
    """

    split: str
    columns: Features | None
    texts: list[str]
    label: str | list[str] | None
    feature: Any
    of_words: bool
    names: Sequence[str] | None
    by_name: bool | None
    from_text: bool
    on_bad_row: str

    def __call__(self, batch: dict[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
        """Return the final columns of a part; a refusal names the row at which the part begins."""
        rows = from_columns(batch) if self.columns is None else _typed(batch, self.columns)
        try:
            built = self._built(rows)
        except ValueError as error:
            if not numbers[0]:
                raise
            raise ValueError(f"{error} (Row 0 is row {numbers[0]:,} of the stream here.)") from None
        final: dict[str, list[Any]] = built[:]
        return final

    def _built(self, rows: Dataset) -> Dataset:
        on_bad_row = DROP_ALL if self.on_bad_row == "drop" else self.on_bad_row  # these are a part alone
        if self.of_words:
            inner = getattr(self.feature, "feature", None)
            label = self.label if isinstance(self.label, str) else None
            words = (rows, self.texts[0], label, inner)
            return split_of_words(self.split, *words, on_bad_row, warns=False)
        target = [self.label] if isinstance(self.label, str) else self.label or []
        rows, labels = with_inner_columns(rows, [*self.texts, *target]), None
        if self.feature is None:
            self._check_hidden(rows)
        elif self.label is not None:
            labels = further_labels(
                self.split,
                rows,
                column=self.label,
                feature=self.feature,
                names=self.names,
                by_name=self.by_name,
                from_text=self.from_text,
            )
        columns = (rows, self.texts, labels, self.feature)
        return build_split(self.split, *columns, on_bad_row, warns=False)  # of the first rows it was

    def _check_hidden(self, rows: Dataset) -> None:
        """Refuse labels where the first rows have none, and their column was left out."""
        columns = [self.label] if isinstance(self.label, str) else self.label or []
        for column in (name for name in columns if name in rows.column_names):
            if not all_hidden(rows[column][:]):
                raise ValueError(
                    f"Column {column!r} of split {self.split!r} holds labels, and its first rows hide theirs "
                    "(-1 or nothing), which left the column out. Put rows with labels first, or leave out "
                    "those without."
                )
