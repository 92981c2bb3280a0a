"""`splits_in_memory` reads rows that a program already holds: data sets, DataFrames, lists and dicts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, IterableDataset

from hfdistill.data.table_files import SPLIT_NAMES, table_of

_WAYS = (
    "Pass a Dataset or DatasetDict, a DataFrame, a dict of columns such as {'text': [...], 'label': [...]}, "
    "a list of rows such as {'text': 'a warm film', 'label': 'good'}, or a list of pairs (text, label)."
)


def as_rows(source: Any) -> Any:
    """Return a DataFrame or an Arrow table as a `Dataset`, and anything else unchanged.

    Iterating over a DataFrame gives the names of its columns, which would pass for texts.
    """
    rows = _of_frame(source)
    return source if rows is None else rows


def splits_in_memory(source: Any) -> dict[str, Dataset]:
    """Return the splits of an object: those of a dict of data sets, else one, called "train".

    Args:
        source: a `Dataset` or `DatasetDict`, a DataFrame of pandas (or what has `to_pandas` or is an Arrow
            table), a dict of columns, a list of dicts, of pairs (text, label), or of texts; or a dict of
            these by split.
    """
    if isinstance(source, Mapping) and source and all(_is_split(*item) for item in source.items()):
        splits = {str(name): _dataset(part) for name, part in source.items()}
    else:
        splits = {_split_name(source): _dataset(source)}
    for name, rows in splits.items():
        if not len(rows):
            raise ValueError(
                f"The data passed to load has no rows in split {name!r}. Look at what made it: a filter that "
                "kept nothing, or a file that was cut."
            )
    return {name: _plain(rows) for name, rows in splits.items()}


def streams_in_memory(source: Any) -> dict[str, IterableDataset]:
    """Return the splits of streams, or of rows in memory, as streams."""
    parts = source if isinstance(source, Mapping) and source else {_split_name(source): source}
    if all(isinstance(part, IterableDataset) for part in parts.values()):
        return {str(name): part for name, part in parts.items()}
    return {name: rows.to_iterable_dataset() for name, rows in splits_in_memory(source).items()}


def _split_name(source: Any) -> str:
    return str(getattr(source, "split", None) or "train")


def _is_split(name: Any, part: Any) -> bool:
    """Whether a value of a dict is a split, and not a column."""
    if hasattr(part, "column_names") or hasattr(part, "columns"):
        return True
    return str(name).lower() in SPLIT_NAMES and isinstance(part, (Mapping, list, tuple))


def _dataset(source: Any) -> Dataset:
    if isinstance(source, IterableDataset):
        raise ValueError(
            "The data passed to load is a stream (IterableDataset). Type load(data, streaming=True), or hold "
            "its rows in memory: Dataset.from_list(list(data))."
        )
    if isinstance(source, Dataset):
        return source
    if (rows := _of_frame(source)) is not None:
        return rows
    if isinstance(source, Mapping):
        return from_columns(source)
    if isinstance(source, Sequence) or hasattr(source, "__array__"):
        return from_rows(list(source))
    kind = f"{type(source).__module__}.{type(source).__qualname__}"
    raise ValueError(f"load cannot read rows from {kind}. {_WAYS}")


def _of_frame(source: Any) -> Dataset | None:
    """Return the rows of a DataFrame or an Arrow table; None for anything else."""
    if isinstance(source, pa.Table):
        return Dataset(source)
    if not hasattr(source, "columns"):
        return None
    if hasattr(source, "iloc"):
        return _from_frame(source)
    return Dataset(source.to_arrow()) if hasattr(source, "to_arrow") else None


def _from_frame(frame: Any) -> Dataset:
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        raise ValueError(
            f"The DataFrame has columns of the same name: {names}. Rename them so that each differs."
        )
    return table_of({name: frame.iloc[:, place] for place, name in enumerate(names)})


def from_columns(source: Mapping[Any, Any]) -> Dataset:
    """Return the rows of a dict of columns."""
    single = [name for name, values in source.items() if isinstance(values, str) or not _is_list(values)]
    if single:
        raise ValueError(
            f"The dict passed to load has no list of values under {single[0]!r}: "
            f"{source[single[0]]!r:.60}. {_WAYS}"
        )
    lengths = {str(name): len(values) for name, values in source.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"The columns passed to load differ in length: {lengths}. Give a value for each row."
        )
    return table_of({str(name): list(values) for name, values in source.items()})


def _is_list(values: Any) -> bool:
    return isinstance(values, Sequence) or (hasattr(values, "__len__") and hasattr(values, "__getitem__"))


def from_rows(rows: list[Any]) -> Dataset:
    """Return the columns of dicts, pairs (text, label) or texts; a key that a row lacks is None there."""
    if not rows:
        return Dataset.from_dict({"text": []})
    if all(isinstance(row, Mapping) for row in rows):
        names = list(dict.fromkeys(name for row in rows for name in row))
        return table_of({str(name): [row.get(name) for row in rows] for name in names})
    if all(map(_is_file, rows[:100])):
        raise ValueError(
            f"The list passed to load names files, {Path(rows[0]).name!r:.60} among them. Load them by "
            "split, load({'train': load(path)['train'], …}), or put files of one kind into a folder and load "
            "that."
        )
    if all(isinstance(row, str) or row is None for row in rows):
        return table_of({"text": rows})
    other = next((i for i, row in enumerate(rows) if not _is_pair(row)), None)
    if other is not None:
        raise ValueError(f"Row {other} of the list passed to load is {rows[other]!r:.80}. {_WAYS}")
    return table_of({"text": [row[0] for row in rows], "label": [row[1] for row in rows]})


def _is_file(row: Any) -> bool:
    is_name = isinstance(row, (str, os.PathLike))
    return is_name and os.path.isfile(row)  # noqa: PTH113 - a text may be too long for Path.is_file


def _is_pair(row: Any) -> bool:
    return (
        isinstance(row, Sequence) and len(row) == 2 and isinstance(row[0], str) and not isinstance(row, str)
    )


def _plain(rows: Dataset) -> Dataset:
    """Return the rows without the formats of other libraries."""
    return rows if rows.format["type"] is None else rows.with_format(None)
