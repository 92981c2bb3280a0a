"""The labels to score against, in the shape of the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from hfdistill.data.align import align_to
from hfdistill.data.label_checks import check_labels
from hfdistill.evaluation.metrics.scores import Array
from hfdistill.network.label_space import UNKNOWN, task_kind

Encoded = Mapping[str, Sequence[Sequence[int]]]


def gold(data: Dataset, config: Any, rows: Mapping[str, Encoded]) -> tuple[Array, Array]:
    """Labels in the task's shape, and which rows have one, (rows,) bool; of words, where these are labelled.

    Args:
        data: with a column `label` or `labels`, or without.
        config: the student's.
        rows: by role, the data as each model reads it.

    Raises:
        ValueError: for labels that are none of the task's, or of the student's classes.
    """
    task = task_kind(config)
    if task == "token":
        return _of_words(data, config, rows)
    name = next((n for n in ("label", "labels") if n in data.column_names), None)
    if name is None:
        return np.zeros(len(data)), np.zeros(len(data), dtype=bool)
    data = align_to(data, config)
    hidden = [np.nan] * config.num_labels if task == "multi_label" else np.nan
    try:
        values = np.array([hidden if value is None else value for value in data[name]], dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"Column {name!r} holds no labels for a {task} model: {error}.") from error
    if values.shape != ((len(data), config.num_labels) if task == "multi_label" else (len(data),)):
        raise ValueError(f"Column {name!r} has shape {values.shape}, which are no labels for a {task} model.")
    if task == "regression":
        return values, ~np.isnan(values)
    labelled = (np.nan_to_num(values, nan=-100) >= 0).reshape(len(data), -1).all(axis=1)
    allowed = {0.0, 1.0} if task == "multi_label" else set(range(config.num_labels))
    wrong = [r for r in np.flatnonzero(labelled) if not set(np.atleast_1d(values[r]).tolist()) <= allowed]
    if wrong:
        raise ValueError(
            f"Column {name!r} holds {values[wrong[0]].tolist()} in row {wrong[0]}, which is no class of the "
            f"student's {config.num_labels} ({len(wrong)} such rows). Give class ids in its order, or -100 "
            "where there is no label."
        )
    return np.where(np.isnan(values), -100, values).astype(np.int64), np.asarray(labelled)


def _of_words(data: Dataset, config: Any, rows: Mapping[str, Encoded]) -> tuple[Array, Array]:
    """Labels (words,), -100 where one is missing, and which words have one, (words,) bool."""
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
    """A row's labels; all tokens are words of an unknown label where none is one."""
    return labels if any(label != -100 for label in labels) else [UNKNOWN] * len(labels)


def _words(rows: Encoded) -> list[int]:
    if "labels" not in rows:
        return [len(ids) for ids in rows["input_ids"]]
    return [sum(label != -100 for label in _marks(row)) for row in rows["labels"]]


def labelled_words(rows: Encoded) -> list[int]:
    """Words with a label in each row.

    Args:
        rows: encoded, with `labels` of one a token where there are any.
    """
    return [sum(label >= 0 for label in row) for row in rows.get("labels", ())]
