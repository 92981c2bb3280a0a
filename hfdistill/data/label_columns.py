"""The label column of every split as one feature: classes by name, numbers, or multi-hot rows."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from typing import Any

from datasets import ClassLabel, Dataset, LargeList, List, Value

logger = logging.getLogger(__name__)

_INTEGER = re.compile(r"[+-]?\d+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

Values = dict[str, list[Any]]


def read_labels(
    raw: dict[str, Dataset], *, column: str, names: Sequence[str] | None, from_text: bool
) -> tuple[Values, Any]:
    """Each labelled split's values, None where one is missing, and the feature that all of them share."""
    values = _visible(raw, column)
    if not values:
        return {}, None
    features = {split: raw[split].features[column] for split in values}
    if any(isinstance(feature, (List, LargeList)) for feature in features.values()):
        return _multi_hot(
            values, {split: getattr(f, "feature", None) for split, f in features.items()}, names
        )
    declared = next((f.names for f in features.values() if isinstance(f, ClassLabel)), None)
    values = _parsed(values) if from_text else values
    for split, found in values.items():
        own = features[split].names if isinstance(features[split], ClassLabel) else declared
        if own is not None and not any(isinstance(value, str) for value in found):
            values[split] = _named(split, found, own)
    kinds = {type(value) for found in values.values() for value in found} - {type(None)}
    if not (kinds <= {int, float} or kinds == {str}):
        raise ValueError(
            f"Column {column!r} holds {sorted(kind.__name__ for kind in kinds)}. "
            "Make its labels all strings, all numbers, or all lists."
        )
    if float in kinds and not (names and all(v is None or v % 1 == 0 for f in values.values() for v in f)):
        return {s: [v if v is None else float(v) for v in found] for s, found in values.items()}, Value(
            "float32"
        )
    if str not in kinds:
        values = _spelled(values, names) or {s: _named(s, found, names) for s, found in values.items()}
        if names is None:
            return values, Value("int64")
    final = _final_names(values, declared, names)
    return {split: _numbered(split, found, final) for split, found in values.items()}, ClassLabel(names=final)


def _visible(raw: dict[str, Dataset], column: str) -> Values:
    """The label values of the splits that show any, in plain types."""
    values = {}
    for split, rows in raw.items():
        if column in rows.column_names:
            found = [_plain(value) for value in rows[column][:]]
            if all(value in (None, -1, "-1") for value in found):
                logger.warning("split %r has hidden labels only: its column %r is dropped", split, column)
            else:
                values[split] = found
    return values


def _plain(value: Any) -> Any:
    """A label as int, float, str or list; None for NaN and for a blank string."""
    if isinstance(value, bool):
        return int(value)
    blank = (isinstance(value, float) and math.isnan(value)) or (isinstance(value, str) and not value.strip())
    return None if blank else value


def _parsed(values: Values) -> Values:
    """Labels of a csv file: numbers where every one of them in every split reads as a number."""
    present = [value.strip() for found in values.values() for value in found if value is not None]
    for pattern, parse in ((_INTEGER, int), (_NUMBER, float)):
        if all(pattern.fullmatch(value) for value in present):
            return {s: [v if v is None else parse(v) for v in found] for s, found in values.items()}
    return values


def _spelled(values: Values, names: Sequence[str] | None) -> Values | None:
    """Numbers as the names they spell (stars 1 to 5 named "1" to "5"), where all are among `names`."""
    present = {int(value) for found in values.values() for value in found if value is not None}
    if names is None or not {str(value) for value in present} <= set(names):
        return None
    return {s: [None if v is None else str(int(v)) for v in found] for s, found in values.items()}


def _named(
    split: str, found: list[Any], names: Sequence[str] | None, *, rows: Sequence[int] | None = None
) -> list[Any]:
    """Class numbers by their names, checked; as they are where there are no names."""
    count = math.inf if names is None else len(names)
    bad = next((i for i, value in enumerate(found) if value is not None and not 0 <= value < count), None)
    if bad is not None:
        room = "0 or more" if names is None else f"0 to {len(names) - 1} for the names {list(names)}"
        raise ValueError(
            f"Split {split!r} has the label {found[bad]} in row {rows[bad] if rows else bad}, a class "
            f"number is {room}. If it marks hidden labels, remove those rows; if it is a class, number the "
            "classes from 0 or write their names."
        )
    return found if names is None else [None if value is None else names[int(value)] for value in found]


def _final_names(values: Values, declared: Sequence[str] | None, names: Sequence[str] | None) -> list[str]:
    if names is not None and declared is not None and set(names) != set(declared):
        raise ValueError(
            f"The labels carry the names {declared}, label_names has {list(names)}. Leave label_names out."
        )
    if names is not None or declared is not None:
        return list(names or declared or ())
    learned = [values["train"]] if "train" in values else list(values.values())
    return sorted({value for found in learned for value in found if value is not None})


def _numbered(
    split: str, found: list[Any], names: list[str], *, rows: Sequence[int] | None = None
) -> list[int | None]:
    index = {name: i for i, name in enumerate(names)}
    bad = next((i for i, value in enumerate(found) if value is not None and value not in index), None)
    if bad is not None:
        raise ValueError(
            f"Split {split!r} has the label {found[bad]!r} in row {rows[bad] if rows else bad}, none of "
            f"the names {names}. Correct or remove such rows, or pass label_names= with every name."
        )
    return [None if value is None else index[value] for value in found]


def _multi_hot(values: Values, inner: dict[str, Any], names: Sequence[str] | None) -> tuple[Values, Any]:
    """Rows of 0 and 1, one per class, from rows of names, of numbered names, or of numbers already so."""
    where = {s: [i for i, row in enumerate(found) for _ in row or ()] for s, found in values.items()}
    flat = {s: [v for row in found for v in row or ()] for s, found in values.items()}
    declared = next((f.names for f in inner.values() if isinstance(f, ClassLabel)), None)
    for split, feature in inner.items():
        if isinstance(feature, ClassLabel):
            flat[split] = _named(split, flat[split], feature.names, rows=where[split])
    if any(isinstance(value, str) for found in flat.values() for value in found):
        final = _final_names(flat, declared, names)
        hot: Values = {s: [None if row is None else [0.0] * len(final) for row in values[s]] for s in values}
        for split in values:
            numbers = _numbered(split, flat[split], final, rows=where[split])
            for row, number in zip(where[split], numbers, strict=True):
                hot[split][row][number] = 1.0
        logger.info("the columns of the multi-hot label are %s", final)
        return hot, List(Value("float32"), length=len(final))
    sizes = sorted({len(row) for found in values.values() for row in found if row is not None})
    given = [value for found in flat.values() for value in found]
    if len(sizes) != 1 or not all(0 <= value <= 1 for value in given):
        raise ValueError(
            f"Label lists of numbers must be multi-hot, one 0 or 1 per class, found lengths {sizes[:5]} and "
            f"values from {min(given, default=0)} to {max(given, default=0)}. "
            "Write the names of the classes instead: ['joy', 'fear']."
        )
    hot = {
        s: [None if row is None else [float(v) for v in row] for row in found] for s, found in values.items()
    }
    return hot, List(Value("float32"), length=sizes[0])
