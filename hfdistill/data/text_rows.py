"""`build_split` makes the text columns of `load`, without rows that cannot be learned from."""

from __future__ import annotations

import logging
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, LargeList, List, Value

logger = logging.getLogger(__name__)

DROP_ALL = "drop all"
"""As "drop", also where no row is left: these are a part of the rows."""

EMPTY = (
    "%s of %s rows of split %r have an empty text (first rows %s), and are learned from and measured on like "
    'others, though no text tells their label. on_bad_row="drop" leaves them out'
)
"""The warning of rows without a letter: how many, of how many, which split, the first of them."""


def build_split(
    split: str,
    rows: Dataset,
    texts: list[str],
    labels: list[Any] | None,
    feature: Any,
    on_bad_row: str,
    *,
    warns: bool = True,
) -> Dataset:
    """Return one split with its final columns, without bad rows or with an error that names them.

    Rows whose texts are all empty are left out where bad rows are, else they stay, with a warning.
    """
    missing = [name for name in texts if name not in rows.column_names]
    if missing:
        raise ValueError(
            f"Split {split!r} has no column {missing[0]!r}, found {rows.column_names}; other splits have it. "
            "Give the column one name in all files."
        )
    columns = ["text", "text_pair"][: len(texts)]
    rows = rows.select_columns(texts).rename_columns(dict(zip(texts, columns, strict=True)))
    bad: dict[str, list[int]] = {}
    kinds = {
        column: _nested(rows.features[column], name) for column, name in zip(columns, texts, strict=True)
    }
    blank = set(range(len(rows)))
    for column in columns:
        rows, bad[column], empty = _as_strings(rows, column)
        blank &= empty
    if labels is not None:
        bad["label"] = [i for i, value in enumerate(labels) if value is None]
        hidden = [0.0] * feature.length if isinstance(feature, List) else 0
        values = [hidden if value is None else value for value in labels]
        rows = rows.add_column("label", values, feature=feature)
        columns.append("label")
    if on_bad_row == "raise":
        if blank and warns and not any(bad.values()):
            logger.warning(EMPTY, f"{len(blank):,}", f"{len(rows):,}", split, sorted(blank)[:5])
        blank = set()
    return _without_bad_rows(split, rows.select_columns(columns), bad, kinds, on_bad_row, blank=blank)


def _nested(feature: Any, name: str) -> str:
    """Return the end of a sentence that says what a column of lists or objects holds."""
    if isinstance(feature, (List, LargeList)):
        inner = feature.feature
        objects = f" of objects with the keys {list(inner)}" if isinstance(inner, dict) else ""
        return f": it holds lists{objects}, and a text is one string"
    if isinstance(feature, dict):
        key = next(iter(feature), "...")
        return (
            f": it holds objects with the keys {list(feature)}, one of which is named as text='{name}.{key}'"
        )
    return ""


def _as_strings(rows: Dataset, column: str) -> tuple[Dataset, list[int], set[int]]:
    """Return the split with `column` as strings, the rows without a readable text there, and empty ones."""
    dtype = getattr(rows.features[column], "dtype", None)
    if dtype not in ("string", "large_string"):
        texts = [value if isinstance(value, str) else None for value in rows[column][:]]
        rows = rows.add_column("_readable", texts, feature=Value("string")).remove_columns(column)
        rows = rows.rename_column("_readable", column)
    stored = rows.with_format("arrow")[:].column(column)
    bad = pc.indices_nonzero(pc.is_null(stored)).to_pylist()
    try:
        stored.validate(full=True)
        empty = set(pc.indices_nonzero(pc.equal(pc.utf8_trim_whitespace(stored), "")).to_pylist())
    except pa.ArrowInvalid:
        raw = stored.cast(pa.large_binary()).to_pylist()
        bad = [i for i, letters in enumerate(raw) if not _is_utf8(letters)]
        empty = {i for i, letters in enumerate(raw) if letters is not None and not letters.strip()}
    return rows.cast_column(column, Value("string")) if dtype == "large_string" else rows, bad, empty


def _is_utf8(raw: bytes | None) -> bool:
    try:
        return raw is not None and raw.decode() is not None
    except UnicodeDecodeError:
        return False


def _without_bad_rows(
    split: str,
    rows: Dataset,
    bad: dict[str, list[int]],
    kinds: dict[str, str],
    on_bad_row: str,
    *,
    blank: set[int],
) -> Dataset:
    reasons = [
        f"{len(places):,} of {len(rows):,} rows of split {split!r} have no "
        f"{'value' if column == 'label' else 'readable string'} in {column!r} (first rows {places[:5]})"
        f"{kinds.get(column, '')}"
        for column, places in bad.items()
        if places
    ]
    if blank:
        reasons.append(
            f"{len(blank):,} of {len(rows):,} rows of split {split!r} have an empty text (first rows "
            f"{sorted(blank)[:5]})"
        )
    if not reasons:
        return rows
    reason = "; ".join(reasons)
    dropped = {i for places in bad.values() for i in places} | blank
    none_left = len(dropped) == len(rows) and on_bad_row != DROP_ALL
    if on_bad_row == "raise" or none_left:
        fix = 'Repair them, or leave them out with on_bad_row="drop"'
        if none_left:
            fix = "No other row is left: choose another column with text= or label=, or repair them"
        raise ValueError(
            f"{reason}: None, NaN, a number or bytes that are not UTF-8 cannot be learned from. {fix}."
        )
    logger.warning("%s: dropped", reason)
    return rows.select([i for i in range(len(rows)) if i not in dropped])
