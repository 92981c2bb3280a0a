"""Reads the labels that predictions are scored against, in the shape of the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from hfdistill.data.label_checks import check_labels
from hfdistill.evaluation.metrics.scores import Array
from hfdistill.network.label_space import LabelSpaceError, class_names, short, some
from hfdistill.network.task import UNKNOWN, task_kind

Encoded = Mapping[str, Sequence[Sequence[int]]]


def gold(data: Dataset, config: Any, rows: Mapping[str, Encoded]) -> tuple[Array, Array]:
    """Return labels in the task's shape, and which rows have one, (rows,) bool; of words for a token task.

    Args:
        data: with a column `label` or `labels` in the order of the student's classes, or without. -1, -100,
            None and NaN hide a label.
        config: the student's.
        rows: by role, the data as each model reads it; only read where words are labelled.

    Raises:
        LabelSpaceError: for labels that do not fit the task, or are not among the student's classes.
    """
    task = task_kind(config)
    if task == "token":
        return _of_words(data, config, rows)
    name = next((n for n in ("label", "labels") if n in data.column_names), None)
    if name is None:
        return np.zeros(len(data)), np.zeros(len(data), dtype=bool)
    split, labels = str(data.split or "data"), data.with_format(None)[name][:]
    if task == "regression":
        check_labels(labels, config, split=split)
        values = np.array([np.nan if value is None else value for value in labels], dtype=np.float64)
        return values, ~np.isnan(values)
    blank = -100 if task == "single_label" else [-100] * config.num_labels
    labels = [blank if _is_hidden(value) else _shown(value) for value in labels]
    check_labels(labels, config, split=split)
    values = np.array(labels, dtype=np.float64).reshape(len(data), -1)
    labelled = (values >= 0).all(axis=1)
    if task == "multi_label":
        _check_sets(values, config, split=split)
    return values.astype(np.int64).reshape(np.shape(labels)), np.asarray(labelled)


def _is_hidden(label: Any) -> bool:
    """Whether a value marks a row without a label."""
    return label is None or (isinstance(label, (int, float)) and (label in (-1, -100) or label != label))


def _shown(label: Any) -> Any:
    """Return a label, hidden ones of several as -100."""
    return [-100 if _is_hidden(each) else each for each in label] if isinstance(label, list) else label


def _check_sets(values: Array, config: Any, *, split: str) -> None:
    """Refuse rows of several labels that are not sets of classes."""
    row = next((int(row) for row in np.flatnonzero(((values > 0) & (values < 1)).any(axis=1))), None)
    if row is not None:
        raise LabelSpaceError(
            f"{split}, row {row}: the labels {short(values[row].tolist())} are not all 0 or 1, and scores "
            "count classes that apply. Round them, or hide the row with -100."
        )
    unlabelled = [class_names(config)[i] for i in np.flatnonzero((values < 0).all(axis=0))]
    if unlabelled and (values >= 0).any():
        raise LabelSpaceError(
            f"{split} has no labels for the student's classes {some(unlabelled)}, and rows of several labels "
            "are scored as a whole. Add these columns, with 0 where a class does not apply."
        )


def _of_words(data: Dataset, config: Any, rows: Mapping[str, Encoded]) -> tuple[Array, Array]:
    """Return labels (words,), -100 where one is missing, and which words have one, (words,) bool."""
    split = str(data.split or "data")
    counts = {role: _words(encoded) for role, encoded in rows.items()}
    for role, other in counts.items():
        for row, (own, count) in enumerate(zip(counts["student"], other, strict=True)):
            if own != count:
                raise ValueError(
                    f"Of row {row} the student reads {own} words and the {role} {count}: one of them cuts "
                    "it. Measure on rows that both read whole, or split long ones."
                )
    if "labels" not in rows["student"]:
        return np.full(sum(counts["student"]), -100), np.zeros(sum(counts["student"]), dtype=bool)
    check_labels(rows["student"]["labels"], config, split=split)
    marks = [_marks(encoded) for encoded in rows["student"]["labels"]]
    labels = np.array([label for row in marks for label in row if label != -100], dtype=np.int64)
    return np.maximum(labels, -100), labels >= 0


def _marks(labels: Sequence[int]) -> Sequence[int]:
    """Return a row's labels; all tokens are words of an unknown label where none is one."""
    return labels if any(label != -100 for label in labels) else [UNKNOWN] * len(labels)


def _words(rows: Encoded) -> list[int]:
    if "labels" not in rows:
        return [len(ids) for ids in rows["input_ids"]]
    return [sum(label != -100 for label in _marks(row)) for row in rows["labels"]]


def labelled_words(rows: Encoded) -> list[int]:
    """Return how many words of each row have a label."""
    return [sum(label >= 0 for label in row) for row in rows.get("labels", ())]
