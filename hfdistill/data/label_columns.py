"""`read_labels` turns the label column of every split into classes by name, numbers, or multi-hot rows."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, LargeList, List, NamedSplit, Value

from hfdistill.data.label_doubts import NUMBER, check_number_marks, doubts
from hfdistill.network.label_space import some

logger = logging.getLogger(__name__)

_INTEGER = re.compile(r"[+-]?\d+")
_ROW_ID = re.compile(r"(?i)unnamed: \d+_*|(.*_)?(id|idx|index|guid|uuid)")

HIDDEN = -100
"""The label of a row among labelled ones that nobody labelled: the teacher alone teaches there."""

_HIDDEN_TEXTS = (str(HIDDEN), f"{HIDDEN:.1f}")

Values = dict[str, list[Any]]


class Labels(NamedTuple):
    """The labels of each labelled split (None where one is missing), their feature, and class names.

    `by_name` tells whether they were names, or numbers that spell names, and no class numbers; None where
    both may come, as where the data declares its classes. It hangs on all of them: of classes named "1", "2"
    and "3" the numbers 1 and 2 are names, unless there is a 0.
    """

    values: Values
    feature: Any = None
    names: list[str] | None = None
    by_name: bool | None = None


def read_labels(
    raw: dict[str, Dataset], *, column: str, names: Sequence[str] | None, from_text: bool
) -> Labels:
    """Return the labels of all splits; what in the column is probably not meant is logged as a warning."""
    values = _visible(raw, column, names)
    if not values:
        return Labels({})
    final = _final_labels(raw, values, column, names, from_text)
    known = {
        s: [None if _is_mark(value) else value for value in labels] for s, labels in final.values.items()
    }
    for doubt in doubts(column, known, getattr(final.feature, "names", None), named=names is not None):
        logger.warning("%s", doubt)
    return final


def _final_labels(
    raw: dict[str, Dataset], values: Values, column: str, names: Sequence[str] | None, from_text: bool
) -> Labels:
    features = {split: raw[split].features[column] for split in values}
    if any(isinstance(feature, (List, LargeList)) for feature in features.values()):
        noted = [multi_hot_names(raw[split]) for split in values]
        if names is None and noted[0] is not None and all(own == noted[0] for own in noted):
            names = noted[0]
        shown, marked = _without_marks(values, names)
        inner = {split: getattr(f, "feature", None) for split, f in features.items()}
        final = _multi_hot(shown, inner, names)
        _put_back(marked, final.values, [float(HIDDEN)] * final.feature.length)
        return final
    shown, marked = _without_marks(_parsed(values, names) if from_text else values, names)
    final = _final_classes(features, shown, column, names)
    _put_back(marked, final.values)
    return final


def _without_marks(values: Values, names: Sequence[str] | None) -> tuple[Values, dict[str, list[int]]]:
    """Return classes with None in the place of -100 (nobody labelled the row), and where; numbers stay.

    A real value may be -100: it is a mark among names and class numbers alone, which come as 1.0 from columns
    that lack some. A list of several labels is one where all in it is -100.
    """
    marked = {s: [i for i, v in enumerate(labels) if _is_mark(v)] for s, labels in values.items()}
    others = [v for labels in values.values() for v in labels if v is not None and not _is_mark(v)]
    real = any(isinstance(value, float) and (names is None or value % 1) for value in others)
    if real or not any(marked.values()):
        return values, {}
    return {s: [None if _is_mark(v) else v for v in labels] for s, labels in values.items()}, marked


def _put_back(marked: Mapping[str, Sequence[int]], final: Values, mark: Any = HIDDEN) -> None:
    """Put the mark back where nobody labelled the row."""
    for split, places in marked.items():
        for place in places:
            final[split][place] = mark


def _is_mark(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(map(_is_mark, value))
    return value.strip() in _HIDDEN_TEXTS if isinstance(value, str) else bool(value == HIDDEN)


def _way_out(column: str, examples: Mapping[type, Any]) -> str:
    """Return what to do about labels of several types, or within objects."""
    inside = examples.get(dict)
    if inside and len(examples) == 1:
        return f"Name a value within these objects, such as label='{column}.{next(iter(inside))}'."
    return "Make its labels all strings, all numbers, or all lists."


def _final_classes(
    features: dict[str, Any], values: Values, column: str, names: Sequence[str] | None
) -> Labels:
    """Return one label a row: numbers of classes, or real values."""
    declared = next((f.names for f in features.values() if isinstance(f, ClassLabel)), None)
    is_declared = declared is not None
    if declared is None and any(_is_named_by_truth(feature, names) for feature in features.values()):
        declared = _TRUTH
    for split, labels in values.items():
        own = features[split].names if isinstance(features[split], ClassLabel) else declared
        if own is not None and not any(isinstance(value, str) for value in labels):
            values[split] = _named(split, labels, own)
    examples = {type(value): value for labels in values.values() for value in labels if value is not None}
    kinds = examples.keys()
    if not (kinds <= {int, float} or kinds == {str}):
        raise ValueError(
            f"Column {column!r} holds {sorted(kind.__name__ for kind in kinds)}, such as "
            f"{some(sorted(examples.values(), key=repr))}. {_way_out(column, examples)}"
        )
    if float in kinds and not (names and all(v is None or v % 1 == 0 for f in values.values() for v in f)):
        if names:
            real = next(v for labels in values.values() for v in labels if v is not None and v % 1)
            raise ValueError(
                f"Column {column!r} holds real values, such as {real}, and label_names names classes: "
                f"{list(names)}. Leave label_names out, or name another column: label='...'."
            )
        numbers = {s: [v if v is None else float(v) for v in labels] for s, labels in values.items()}
        return Labels(numbers, Value("float32"), by_name=False)
    spelled = None if str in kinds else _spelled(values, names)
    if str not in kinds:
        values = spelled or {s: _named(s, labels, names) for s, labels in values.items()}
        if names is None:
            return Labels(values, Value("int64"), by_name=False)
    elif names is None and declared is None:
        check_number_marks(column, values)
    final = _final_names(values, declared, names)
    numbered = {split: _numbered(split, labels, final) for split, labels in values.items()}
    by_name = None if is_declared else str in kinds or spelled is not None
    return Labels(numbered, ClassLabel(names=final), final, by_name)


def _holds_names(rows: Dataset, column: str) -> bool:
    """Whether lists of labels hold names of classes, and not 0 and 1 for each class."""
    declared = isinstance(getattr(rows.features[column], "feature", None), ClassLabel)
    return declared or any(isinstance(value, str) for row in rows[column][:] for value in row or ())


def further_labels(
    split: str,
    rows: Dataset,
    *,
    column: str | list[str],
    feature: Any,
    names: Sequence[str] | None,
    by_name: bool | None,
    from_text: bool,
) -> list[Any]:
    """Return the labels of a part of the rows, None where one is missing, as those of the first rows are.

    Args:
        split: what messages call it.
        rows: the part.
        column: of the labels, or several of 0 and 1.
        feature: of the labels of the first rows.
        names: of the classes, where the data does not name them.
        by_name: whether the first rows were names; see `Labels`.
        from_text: whether every value is a string because of the kind of file.
    """
    if isinstance(column, list):
        return list(_rows_of_flags(split, rows, column))
    values: Values = {split: _plain_labels(rows, column, getattr(feature, "names", None))}
    if getattr(feature, "dtype", None) == "float32":
        numbers = (_parsed(values) if from_text else values)[split]
        if all(value is None or isinstance(value, (int, float)) for value in numbers):
            return [None if value is None else float(value) for value in numbers]
    scalars = not any(isinstance(value, list) for value in values[split])
    if isinstance(feature, ClassLabel) and scalars:
        own = rows.features[column]
        shown, marked = _without_marks(values, feature.names)
        if isinstance(own, ClassLabel):  # whose order label_names may have changed
            numbers = _numbered(split, _named(split, shown[split], own.names), feature.names)
        else:
            numbers = _further_classes(split, shown[split], column, feature.names, by_name, from_text)
        _put_back(marked, {split: numbers})
        return numbers
    if isinstance(feature, List) and by_name and not any(values[split]):  # rows of no class have no names
        return [None if value is None else [0.0] * feature.length for value in values[split]]
    if isinstance(feature, List) and not scalars and by_name != _holds_names(rows, column):
        here, before = "lists of 0 and 1", "lists of names"
        raise _other_kind(split, column, *((here, before) if by_name else (before, here)))
    final = _final_labels({split: rows}, values, column, names, from_text)
    if final.feature != feature and any(value is not None for value in values[split]):
        raise _other_kind(split, column, _kind(final.feature), _kind(feature))
    return final.values[split]


def _further_classes(
    split: str, values: list[Any], column: str, names: list[str], by_name: bool | None, from_text: bool
) -> list[int | None]:
    """Return class numbers, of names or of numbers as the first rows have them."""
    parsed = (_parsed({split: values}) if from_text else {split: values})[split]
    if by_name is None:
        by_name = any(isinstance(value, str) for value in parsed)
    if by_name:
        pairs, spelled = zip(values, parsed, strict=True), _names_of_numbers(names)
        kept = [
            v if v is None or v in names or isinstance(p, str) else spelled.get(p, f"{p:.15g}")
            for v, p in pairs
        ]
        return _numbered(split, kept, names)
    if any(isinstance(value, str) or (value or 0) % 1 for value in parsed):
        raise _other_kind(split, column, "names or real values", "class numbers")
    _named(split, parsed, names)
    return [None if value is None else int(value) for value in parsed]


def _other_kind(split: str, column: str, here: str, before: str) -> ValueError:
    return ValueError(
        f"Column {column!r} of split {split!r} holds {here}, and the first rows {before}. "
        "Make its labels all strings, all numbers, or all lists; name classes with label_names=."
    )


def _kind(feature: Any) -> str:
    if isinstance(feature, ClassLabel):
        return f"the classes {feature.names}"
    if isinstance(feature, (List, LargeList)):
        return "lists"
    return "real values" if feature.dtype == "float32" else "class numbers"


def indicator_columns(raw: Mapping[str, Dataset], columns: Sequence[str]) -> list[str]:
    """Return the columns of 0 and 1 for each class; none where that is not clear.

    They are two or more of 0 and 1 (or true and false), and all other columns number the rows.
    """
    indicators = [name for name in columns if all(_of_zeros_and_ones(rows, name) for rows in raw.values())]
    others = [name for name in columns if name not in indicators]
    indicators = [name for name in indicators if not _ROW_ID.fullmatch(name)]
    return indicators if len(indicators) > 1 and all(_ROW_ID.fullmatch(name) for name in others) else []


def _of_zeros_and_ones(rows: Dataset, column: str) -> bool:
    if column not in rows.column_names:
        return True
    if getattr(rows.features[column], "dtype", None) not in _FLAGS:
        return False
    present = pc.unique(rows.with_format("arrow")[:].column(column)).to_pylist()
    return {value.lower() if isinstance(value, str) else value for value in present} <= _ZEROS_AND_ONES


_ZEROS_AND_ONES = {0, 1, "0", "1", "false", "true"}
_FLAGS = {"bool", "string", "large_string", *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64))}


def joined_labels(
    raw: Mapping[str, Dataset], columns: Sequence[str], *, names: Sequence[str] | None
) -> Labels:
    """Join the columns of 0 and 1, one per class, into one.

    Raises:
        ValueError: for values other than 0 and 1, and for a split that has some of the columns only.
    """
    if len(set(columns)) < max(2, len(columns)) or (names and len(names) != len(columns)):
        raise ValueError(
            f"The label columns are {list(columns)}{f', label_names has {list(names)}' if names else ''}. "
            "Pass two or more columns, each once, and a name for each or none."
        )
    values: Values = {}
    for split, rows in raw.items():
        missing = [name for name in columns if name not in rows.column_names]
        if missing and len(missing) < len(columns):
            raise ValueError(
                f"Split {split!r} lacks the label column {missing[0]!r}, found {rows.column_names}. Give all "
                "files the same columns."
            )
        if not missing:
            labels = _rows_of_flags(split, rows, columns)
            if any(row is not None for row in labels):
                values[split] = labels
            else:
                logger.warning("split %r has hidden labels only: its label columns are dropped", split)
    rows_of_one = [sum(row) == 1 for labels in values.values() for row in labels if row is not None]
    if rows_of_one and all(rows_of_one):
        logger.warning(
            "every row has exactly one of the classes %s: if they exclude each other, write one column with "
            "the name of the class, and pass label= with its name",
            list(columns),
        )
    return Labels(values, List(Value("float32"), length=len(columns)), list(names or columns))


def _rows_of_flags(split: str, rows: Dataset, columns: Sequence[str]) -> list[list[float] | None]:
    """Return each row's zeros and ones; None where all are missing, or all are -1 in a split of such rows."""
    cells = [[_FLAG.get(_flag_key(cell), cell) for cell in rows[name][:]] for name in columns]
    hidden = all(value in (None, -1.0) for values in cells for value in values)
    labels: list[list[float] | None] = []
    for number, row in enumerate(zip(*cells, strict=True)):
        if hidden or all(value is None for value in row):
            labels.append(None)
            continue
        for name, value in zip(columns, row, strict=True):
            if value not in (0.0, 1.0) or isinstance(value, str):
                raise ValueError(
                    f"Split {split!r} has {value!r} in the label column {name!r} in row {number}, and each "
                    "label column holds 0 or 1. Correct or remove such rows (-1 marks hidden labels)."
                )
        labels.append([float(value) for value in row])
    return labels


def _flag_key(cell: Any) -> Any:
    if isinstance(cell, str):
        return cell.strip().lower()
    return None if cell != cell else cell  # NaN is a missing value


_FLAG: dict[Any, float | None] = {
    **{"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0, "": None, "-1": -1.0},
    **{0: 0.0, 1: 1.0, -1: -1.0, None: None},
}


def with_class_names(rows: Dataset, names: Sequence[str]) -> Dataset:
    """Note the names of the classes in the rows of a multi-label task; see `multi_hot_names`."""
    info = rows.info.copy()
    info.description = json.dumps({_NAMES: list(names)}, ensure_ascii=False)
    return Dataset(rows.data, info, rows.split, rows._indices, rows._fingerprint)


_NAMES = "classes of the multi-hot label"


def multi_hot_names(rows: Any) -> list[str] | None:
    """Return the class names of multi-label data that `load` made, also after `select`, `map` and the like.

    None for other data, and where nothing named them.
    """
    description = getattr(getattr(rows, "info", None), "description", None) or ""
    for line in description.split("\n"):
        try:
            names = json.loads(line).get(_NAMES)
        except (ValueError, AttributeError):
            continue
        if isinstance(names, list):
            return [str(name) for name in names]
    return None


def as_split(rows: Dataset, split: str) -> Dataset:
    """Return rows as a split of their own, with their notes, such as the names of classes."""
    return Dataset(rows.data, rows.info.copy(), NamedSplit(split), rows._indices, rows._fingerprint)


def with_listed_classes(rows: Dataset) -> Dataset:
    """Return rows whose file will name their classes: those of several labels as lists of classes.

    A file of 0 and 1 a class does not say which class is which. Rows without names, and those that hold
    anything but 0 and 1 or that lack a label, are returned as they are.
    """
    names = multi_hot_names(rows)
    labels = rows["label"][:] if names and "label" in rows.column_names else []
    if not labels or any(row is None or any(value not in (0, 1) for value in row) for row in labels):
        return rows
    places = [[place for place, value in enumerate(row) if value] for row in labels]
    feature = List(ClassLabel(names=names))
    return rows.remove_columns("label").add_column("label", places, feature=feature)


def _visible(raw: dict[str, Dataset], column: str, names: Sequence[str] | None) -> Values:
    """Return the label values of the splits that show any, in plain types."""
    values = {}
    for split, rows in raw.items():
        if column in rows.column_names:
            labels = _plain_labels(rows, column, names)
            if all_hidden(labels):
                logger.warning("split %r has hidden labels only: its column %r is dropped", split, column)
            else:
                values[split] = labels
    return values


def all_hidden(labels: Sequence[Any]) -> bool:
    """Whether each label is missing, or the -1 or -100 that marks a hidden one."""
    return all(value in (None, -1, "-1") or _is_mark(value) for value in map(_plain, labels))


_TRUTH = ["False", "True"]


def _is_named_by_truth(feature: Any, names: Sequence[str] | None) -> bool:
    """Whether a column of true and false has the classes of these names, and no others are asked for."""
    return getattr(feature, "dtype", None) == "bool" and (names is None or set(names) == set(_TRUTH))


def _plain_labels(rows: Dataset, column: str, names: Sequence[str] | None) -> list[Any]:
    """Return a column of labels in plain types; true and false by name, as a csv writes them."""
    values = [_plain(value) for value in rows[column][:]]
    if not _is_named_by_truth(rows.features[column], names):
        return values
    return [None if value is None else _TRUTH[value] for value in values]


def _plain(value: Any) -> Any:
    """Return a label as int, float, str or list; None for NaN and for a blank string."""
    if isinstance(value, bool):
        return int(value)
    blank = (isinstance(value, float) and math.isnan(value)) or (isinstance(value, str) and not value.strip())
    return None if blank else value


def _parsed(values: Values, names: Sequence[str] | None = None) -> Values:
    """Return labels of a csv file: numbers where every one of them in every split reads as a number.

    They stay names where all are among `names`, and where a whole number is written otherwise than numbers
    are: nobody knows whether "01" and "1" are one class.
    """
    present = {value for labels in values.values() for value in labels if value is not None}
    if names is not None and {value for value in present if not _is_mark(value)} <= set(names):
        return values
    for pattern, parse in ((_INTEGER, int), (NUMBER, float)):
        if all(pattern.fullmatch(value.strip()) for value in present):
            number = {value: parse(value) for value in present}
            if parse is int and any(str(number[value]) != value.strip() for value in present):
                break
            return {s: [v if v is None else number[v] for v in labels] for s, labels in values.items()}
    return values


def _names_of_numbers(names: Sequence[str] | None) -> dict[int, str]:
    """Return the name that spells each number, "1" before "01"."""
    whole = sorted((name for name in names or () if _INTEGER.fullmatch(name)), key=len, reverse=True)
    return {int(name): name for name in whole}


def _spelled(values: Values, names: Sequence[str] | None) -> Values | None:
    """Return numbers as the names they spell (stars 1 to 5 named "1" to "5"), where all are among `names`."""
    present = {int(value) for labels in values.values() for value in labels if value is not None}
    spelled = _names_of_numbers(names)
    if names is None or not present <= spelled.keys():
        return None
    return {s: [None if v is None else spelled[int(v)] for v in labels] for s, labels in values.items()}


def _named(
    split: str, labels: list[Any], names: Sequence[str] | None, *, rows: Sequence[int] | None = None
) -> list[Any]:
    """Return class numbers as their names, checked; the numbers themselves where there are no names."""
    count = 1 << 63 if names is None else len(names)  # what int64 holds
    bad = next((i for i, value in enumerate(labels) if value is not None and not 0 <= value < count), None)
    if bad is not None:
        room = "0 or more, below 2**63"
        if names is not None:
            room = f"0 to {len(names) - 1} for the names {list(names)}"
        mark = "write -100 there, or " if rows is None else ""
        raise ValueError(
            f"Split {split!r} has the label {labels[bad]} in row {rows[bad] if rows else bad}, a class "
            f"number is {room}. If it marks hidden labels, {mark}remove those rows; if it is a class, number "
            "the classes from 0 or write their names."
        )
    return labels if names is None else [None if value is None else names[int(value)] for value in labels]


def _final_names(values: Values, declared: Sequence[str] | None, names: Sequence[str] | None) -> list[str]:
    if names is not None and declared is not None and set(names) != set(declared):
        raise ValueError(
            f"The labels carry the names {declared}, label_names has {list(names)}. Leave label_names out."
        )
    if names is not None or declared is not None:
        return list(names or declared or ())
    learned = [values["train"]] if "train" in values else list(values.values())
    return sorted({value for labels in learned for value in labels if value is not None})


def _numbered(
    split: str, labels: list[Any], names: list[str], *, rows: Sequence[int] | None = None
) -> list[int | None]:
    index = {name: i for i, name in enumerate(names)}
    bad = next((i for i, value in enumerate(labels) if value is not None and value not in index), None)
    if bad is not None:
        raise ValueError(
            f"Split {split!r} has the label {labels[bad]!r} in row {rows[bad] if rows else bad}, none of "
            f"the names {names}. Correct or remove such rows, or pass label_names= with every name."
        )
    return [None if value is None else index[value] for value in labels]


def _multi_hot(values: Values, inner: dict[str, Any], names: Sequence[str] | None) -> Labels:
    """Return rows of 0 and 1, one per class, made of names, of class numbers, or of 0 and 1 already."""
    where = {s: [i for i, row in enumerate(rows) for _ in row or ()] for s, rows in values.items()}
    flat = {s: [v for row in rows for v in row or ()] for s, rows in values.items()}
    declared = next((f.names for f in inner.values() if isinstance(f, ClassLabel)), None)
    for split, feature in inner.items():
        if isinstance(feature, ClassLabel):
            flat[split] = _named(split, flat[split], feature.names, rows=where[split])
    if declared is not None or any(isinstance(v, str) for labels in flat.values() for v in labels):
        final = _final_names(flat, declared, names)
        hot: Values = {s: [None if row is None else [0.0] * len(final) for row in values[s]] for s in values}
        for split in values:
            numbers = _numbered(split, flat[split], final, rows=where[split])
            for row, number in zip(where[split], numbers, strict=True):
                hot[split][row][number] = 1.0
        logger.info("the columns of the multi-hot label are %s", final)
        return Labels(hot, List(Value("float32"), length=len(final)), final, by_name=True)
    sizes = sorted({len(row) for rows in values.values() for row in rows if row is not None})
    numbers = [value for labels in flat.values() for value in labels]
    if len(sizes) != 1 or not all(value is not None and 0 <= value <= 1 for value in numbers):
        known = [value for value in numbers if value is not None]
        raise ValueError(
            f"Label lists of numbers must be multi-hot, one 0 or 1 per class, found lengths {sizes[:5]} and "
            f"values from {min(known, default=0)} to {max(known, default=0)}. "
            "Write the names of the classes instead: ['joy', 'fear']."
        )
    if names is not None and len(names) != sizes[0]:
        raise ValueError(
            f"The label lists have {sizes[0]} numbers, and label_names has {len(names)}: {list(names)}. Give "
            "a name for each."
        )
    hot = {
        s: [None if row is None else [float(v) for v in row] for row in rows] for s, rows in values.items()
    }
    own = None if names is None else list(names)
    return Labels(hot, List(Value("float32"), length=sizes[0]), own, by_name=False)
