"""A few labelled rows in any form: examples of classes, and what a teacher is calibrated on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from datasets import concatenate_datasets

from hfdistill.data.in_memory import as_rows, from_columns, from_rows
from hfdistill.data.load import load
from hfdistill.files.plain_data import as_python
from hfdistill.network.label_space import short, some
from hfdistill.teachers.text.codec import need_column, texts_of

Labelled: TypeAlias = tuple[list[Any], list[Any], list[str]]
_COLUMNS = {"text", "text_pair", "label"}


def read_labelled(rows: Any, what: str) -> Labelled:
    """Return texts, labels, and the names of the classes, where the rows have them.

    Args:
        rows: a mapping from class to texts, (texts, labels), pairs (text, label), a data set, DataFrame,
            dict of columns or list of dicts with `text` and `label`, or a file of them; None for no rows.
        what: what messages call them, such as "examples".

    Returns:
        Labels as they are given: names, or the numbers of a data set, whose names are then in their order.

    Raises:
        TypeError: for what is no text.
        ValueError: for rows of another form, as many texts as labels are not, labels that are names and
            numbers, and texts that stand where labels belong.
    """
    if isinstance(rows, (str, Path)):
        rows = concatenate_datasets(list(load(rows).values()))
    rows = _columned(as_rows(rows))
    if rows is None:
        return [], [], []
    if hasattr(rows, "column_names"):
        return _of_columns(rows, what)
    if isinstance(rows, Mapping) and not _holds_splits(rows):
        listed = {str(name): [own] if isinstance(own, str) else texts_of(own) for name, own in rows.items()}
        pairs = [(text, name) for name, own in listed.items() for text in own]
        return [text for text, _ in pairs], [name for _, name in pairs], list(listed)
    texts, labels = _two_lists(rows, what)
    texts = texts_of(texts)
    _check_sides(texts, labels, what)
    return texts, labels, sorted({label for label in labels if isinstance(label, str)})


def as_names(labels: list[Any], names: Sequence[str]) -> list[Any]:
    """Return what `read_labelled` gives with the numbers of a data set as the names of its classes."""
    are_numbers = names and not any(isinstance(label, str) for label in labels)
    return [names[label] for label in labels] if are_numbers else labels


def _columned(rows: Any) -> Any:
    """Return a dict of columns, or a list of dicts, as a data set; anything else unchanged."""
    if isinstance(rows, Mapping) and {"text", "label"} <= rows.keys() <= _COLUMNS:
        return from_columns(rows)
    is_list = isinstance(rows, list) and len(rows) > 0
    return from_rows(rows) if is_list and all(isinstance(row, Mapping) for row in rows) else rows


def _holds_splits(rows: Mapping[Any, Any]) -> bool:
    return hasattr(rows, "column_names") or any(hasattr(own, "column_names") for own in rows.values())


def _of_columns(rows: Any, what: str) -> Labelled:
    need_column(rows, "label", what)
    names = list(getattr(rows.features["label"], "names", None) or [])
    texts, labels = texts_of(rows), as_python(list(rows["label"][:]))
    known = [row for row, label in enumerate(labels) if label is not None and label != -100]
    own = _named_truths([labels[row] for row in known])
    return [texts[row] for row in known], own, names or sorted({own for own in own if isinstance(own, str)})


def _two_lists(rows: Any, what: str) -> tuple[list[Any], list[Any]]:
    """Return texts and labels of (texts, labels) or of pairs (text, label)."""
    drawn = isinstance(rows, Iterator)  # such as zip(texts, labels)
    rows = list(rows) if drawn else rows
    several = isinstance(rows, list) and len(rows) > 0 and all(_is_list_of_two(row) for row in rows)
    several = several and not (drawn and len(rows) == 2)
    if several and len(rows) == 2:
        raise ValueError(
            f"{what} is a list of two lists of two, {short(rows[0])} and {short(rows[1])}: it may be texts "
            "and labels, or two pairs (text, label). Give tuples: (texts, labels), or [(text, label), …]."
        )
    if several or (isinstance(rows, list) and rows and all(_is_row(row) for row in rows)):
        rows = tuple(zip(*rows, strict=True))
    if not hasattr(rows, "__len__") or len(rows) != 2:
        size = f" of {len(rows)}" if hasattr(rows, "__len__") else ""
        raise ValueError(
            f"{what} is a {type(rows).__name__}{size}. Give a mapping from class to "
            "texts, (texts, labels), a list of pairs (text, label), a dataset with text and label, or a file."
        )
    texts, labels = (list(as_python(part)) for part in rows)
    if len(texts) != len(labels):
        raise ValueError(f"{what} has {len(texts)} texts and {len(labels)} labels. Give as many of both.")
    return texts, _named_truths(labels)


def _named_truths(labels: Sequence[Any]) -> list[Any]:
    """Return labels in which true and false are names: nobody knows which of two classes true is."""
    return [str(label) if isinstance(label, (bool, np.bool_)) else label for label in labels]


def _is_row(value: Any) -> bool:
    """Whether a value is (text, label), and not a list of texts or of labels."""
    return isinstance(value, tuple) and len(value) == 2


def _is_list_of_two(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _check_sides(texts: Sequence[Any], labels: Sequence[Any], what: str) -> None:
    """Refuse labels of two kinds, and labels of which more differ than texts."""
    named = [label for label in labels if isinstance(label, str)]
    numbered = [label for label in labels if not isinstance(label, (str, list, tuple)) and label is not None]
    numbered = [label for label in numbered if label not in (-100,) and label == label]
    if named and numbered:
        raise ValueError(
            f"{what} has labels that are names, such as {short(named[0])}, and numbers, such as "
            f"{short(numbered[0])}. Name all classes."
        )
    if len(set(named)) > len(set(texts)):
        raise ValueError(
            f"{what} has the texts {some(sorted(map(str, set(texts))))} and {len(set(named))} different "
            f"labels, such as {short(named[0])}: more labels than texts. Give the text first: (text, label)."
        )
