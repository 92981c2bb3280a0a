"""Lists of words with a label each, as named-entity and part-of-speech data have them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import ClassLabel, Dataset, Features, LargeList, List, Value

from hfdistill.data.label_doubts import doubts
from hfdistill.data.text_rows import DROP_ALL, EMPTY

logger = logging.getLogger(__name__)

_WORDS = ("tokens", "words")
_TAGS = ("ner_tags", "ner", "tags", "label", "labels", "word_labels")


def word_columns(
    raw: Mapping[str, Dataset], *, text: str | None, text_pair: str | None, label: str | None
) -> tuple[str, str | None] | None:
    """Return the columns of words and of their labels; None where the data is of texts.

    Args:
        raw: the splits.
        text: as in `load`; a column of lists of strings is one of words.
        text_pair: as in `load`.
        label: as in `load`; several columns of labels (`pos_tags`, `ner_tags`) are told apart by it.

    Raises:
        ValueError: for a pair of texts among words.
    """
    features: dict[str, Any] = {}
    for rows in raw.values():
        features = {**rows.features, **features}
    lists = {name for name, feature in features.items() if isinstance(feature, (List, LargeList))}
    strings = {name for name in lists if getattr(features[name].feature, "dtype", None) in _STRINGS}
    words = text if text is not None else next((n for n in features if n in strings and n in _WORDS), None)
    if words not in strings:
        return None
    tags = label if label is not None else next((n for n in _TAGS if n in lists and n != words), None)
    if text is None and tags not in lists:
        return None
    if text_pair is not None:
        raise ValueError(
            f"Column {words!r} holds lists of words, which come without a second text. Leave text_pair out."
        )
    return words, tags


_STRINGS = ("string", "large_string")


def read_words(
    raw: Mapping[str, Dataset], words: str, tags: str | None, *, names: Sequence[str] | None, on_bad_row: str
) -> dict[str, Dataset]:
    """Return every split with the columns `tokens` and, where there are labels, `label`."""
    labelled = {split: rows for split, rows in raw.items() if tags in rows.column_names}
    feature = None if tags is None else _feature(labelled, tags, names)
    splits = {s: split_of_words(s, rows, words, tags, feature, on_bad_row) for s, rows in raw.items()}
    labels = {
        split: [label for row in rows["label"] for label in row]
        for split, rows in splits.items()
        if "label" in rows.column_names
    }
    for doubt in doubts(str(tags), labels, getattr(feature, "names", None), named=names is not None):
        logger.warning("%s", doubt)
    return splits


def _feature(raw: Mapping[str, Dataset], tags: str, names: Sequence[str] | None) -> Any:
    """Return the feature of one label: a class with a name, or a number where nothing names it."""
    declared = [getattr(rows.features[tags].feature, "names", None) for rows in raw.values()]
    class_names = next((own for own in declared if own), None)
    if class_names is not None:
        if names is not None and list(names) != list(class_names):
            raise ValueError(
                f"The labels carry the names {class_names}, label_names has {list(names)}. Leave label_names "
                "out."
            )
        if any(own != class_names for own in declared):
            raise ValueError(
                f"The splits name the classes of {tags!r} differently: {declared}. Make them one."
            )
        return ClassLabel(names=class_names)
    learned = raw.get("train", next(iter(raw.values())))
    values = {value for row in learned[tags][:] for value in row or () if value is not None}
    if any(isinstance(value, str) for value in values):
        return ClassLabel(names=list(names or sorted(map(str, values))))
    return Value("int64") if names is None else ClassLabel(names=list(names))


def split_of_words(
    split: str,
    rows: Dataset,
    words: str,
    tags: str | None,
    feature: Any,
    on_bad_row: str,
    *,
    warns: bool = True,
) -> Dataset:
    """Return one split with its final columns; see `read_words`. `feature` is that of one label."""
    if words not in rows.column_names:
        raise ValueError(f"Split {split!r} has no column {words!r}, found {rows.column_names}.")
    columns: dict[str, Any] = {"tokens": rows[words][:]}
    features = {"tokens": List(Value("string"))}
    bad = {i for i, row in enumerate(columns["tokens"]) if row is None or None in row}
    if tags in rows.column_names:
        columns["label"] = [_numbered(split, i, row, feature) for i, row in enumerate(rows[tags][:])]
        features["label"] = List(feature)
        pairs = zip(columns["tokens"], columns["label"], strict=True)
        bad |= {i for i, (w, y) in enumerate(pairs) if y is None or w is None or len(w) != len(y)}
    wordless = {i for i, row in enumerate(columns["tokens"]) if row is not None and not any(row)}
    if on_bad_row == "raise" and wordless - bad and warns:
        logger.warning(EMPTY, f"{len(wordless):,}", f"{len(rows):,}", split, sorted(wordless)[:5])
    bad |= wordless if on_bad_row != "raise" else set()
    indices = [i for i in range(len(rows)) if i not in bad]
    if bad:
        reason = (
            f"{len(bad):,} of {len(rows):,} rows of split {split!r} have no words, no labels, or not as many "
            f"labels as words (first rows {sorted(bad)[:5]})"
        )
        if on_bad_row == "raise" or (not indices and on_bad_row != DROP_ALL):
            raise ValueError(f'{reason}. Repair them, or leave them out with on_bad_row="drop".')
        logger.warning("%s: dropped", reason)
    chosen = {name: [values[i] for i in indices] for name, values in columns.items()}
    return Dataset.from_dict(chosen, features=Features(features), split=rows.split)


def _numbered(split: str, row: int, labels: Any, feature: Any) -> list[int] | None:
    """Return a row's labels as numbers; None where the row, or one of its words, has none."""
    if labels is None or None in labels:
        return None
    names = getattr(feature, "names", None)
    numbers = []
    for label in labels:
        number = names.index(label) if names and label in names else label
        inside = isinstance(number, int) and number >= 0 and (names is None or number < len(names))
        if not inside:
            raise ValueError(
                f"Split {split!r}, row {row}: {label!r} is not a label of {names or 'numbers from 0'}. "
                "Correct the row, or pass label_names= with every name."
            )
        numbers.append(int(number))
    return numbers
