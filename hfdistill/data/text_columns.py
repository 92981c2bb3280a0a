"""Finds the columns of texts: by their names, else by what they hold, and within objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, Json, concatenate_datasets

from hfdistill.data.table_files import table_of

SAMPLE = 2000
"""Rows from which columns are judged."""


def likely_texts(
    columns: Mapping[str, Sequence[Any]], *, without: Iterable[str] = (), differ: float = 0.5
) -> list[str]:
    """Return columns of strings where most differ and hold several words; first those that are longest.

    Args:
        columns: the values of some rows, by column.
        without: columns that hold something else.
        differ: share of the rows that there are more different strings than; the premise of a pair may stand
            in several rows.
    """
    lengths = {}
    for name, values in columns.items():
        strings = [value for value in values if isinstance(value, str) and value.strip()]
        many = len(set(strings)) > differ * len(values) > 0
        if name not in without and many and np.mean([" " in value.strip() for value in strings]) > 0.5:
            lengths[name] = float(np.mean([len(value) for value in strings]))
    return sorted(lengths, key=lengths.__getitem__, reverse=True)


def with_inner_columns(rows: Dataset, names: Iterable[str] | None = None) -> Dataset:
    """Return rows with values within objects as columns behind the others: body of message is message.body.

    Args:
        rows: with columns of objects or without.
        names: those of the new columns that are wanted; None for all.
    """
    nested = [name for name, feature in rows.features.items() if isinstance(feature, (dict, Json))]
    wanted = None if names is None else {name for name in names if "." in name}
    if not nested or wanted == set():
        return rows
    inner = rows.select_columns(nested).flatten()

    def news(names: Iterable[str]) -> list[str]:
        return [n for n in names if n not in rows.column_names and (wanted is None or n in wanted)]

    parts = [inner.select_columns(news(inner.column_names))]
    for outer in [name for name, feature in inner.features.items() if isinstance(feature, Json)]:
        objects = [{outer: value} for value in inner[outer][:]]  # whose keys or types differ
        within = (name for name in inner_names(objects) if name not in inner.column_names)
        parts.append(table_of({name: [inner_value(row, name) for row in objects] for name in news(within)}))
    new = [part for part in parts if part.column_names]
    return concatenate_datasets([rows, *new], axis=1) if new else rows


def inner_value(row: Any, name: str) -> Any:
    """Return the value of a column of a row; of message.body that within its object; None where it has none.

    Example:
        >>> inner_value({"message": {"body": "a film"}}, "message.body")
        'a film'
    """
    if not isinstance(row, dict):
        return None
    if name in row:
        return row[name]
    outer = [key for key in row if name.startswith(f"{key}.")]
    within = (inner_value(row[key], name.removeprefix(f"{key}.")) for key in outer)
    return next((value for value in within if value is not None), None)


def inner_names(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the columns of rows and what is within their objects, message and message.body.

    Example:
        >>> inner_names([{"message": {"body": "a film"}}])
        ['message', 'message.body']
    """
    names: dict[str, None] = {}
    for row in rows:
        for name, value in row.items():
            names[name] = None
            if isinstance(value, dict):
                names |= {f"{name}.{inner}": None for inner in inner_names([value])}
    return list(names)
