"""What is probably not meant about the rows of a run: it is said once and stops nothing."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pyarrow
from datasets import Dataset

from hfdistill.network.label_space import class_names
from hfdistill.network.task import task_kind

logger = logging.getLogger(__name__)

_MOST = 1_000_000
"""Rows from which on they are not looked through; below, 100,000 take a tenth of a second."""


def say_doubts(train: Any, evaluation: Any, *, config: Any, label: str | None) -> None:
    """Warn of equal rows with different labels, of rows that are in both sets, and of classes without a row.

    Args:
        train: the rows to learn from, tokenised; anything but a `datasets.Dataset` is passed over.
        evaluation: those to measure on, or a dict of sets.
        config: the student's; None passes everything over.
        label: the column of the labels.
    """
    if config is None or task_kind(config) != "single_label" or not _readable(train):
        return
    texts = list(_hashes(train))
    labels = train.with_format(None)[label][:] if label in train.column_names else []
    _say_several_labels(texts, labels)
    _say_missing_classes(labels, config)
    known = set(texts)
    for name, data in (evaluation if isinstance(evaluation, dict) else {"": evaluation}).items():
        if _readable(data) and data is not train:
            both = [row for row, text in enumerate(_hashes(data)) if text in known]
            if both:
                logger.warning(
                    "%d of the %d rows of eval_dataset%s are also in train_dataset (first: row %d): scores "
                    "on them show what was learnt by heart. Leave them out of one: dataset.filter(...).",
                    len(both), len(data), f"[{name!r}]" if name else "", both[0],
                )  # fmt: skip


def _say_several_labels(texts: list[int], labels: list[Any]) -> None:
    seen: dict[int, tuple[int, Any]] = {}
    odd = []
    for row, (text, label) in enumerate(zip(texts, labels, strict=False)):
        if label is None or label == -100:
            continue
        first = seen.setdefault(text, (row, label))
        if first[1] != label:
            odd.append((first[0], row))
    if odd:
        logger.warning(
            "%d rows of train_dataset repeat the text of an earlier row under another label (first: rows "
            "%d and %d). Where one of them is wrong, correct it or leave it out: dataset.filter(...).",
            len(odd), *odd[0],
        )  # fmt: skip


def _say_missing_classes(labels: list[Any], config: Any) -> None:
    counts = Counter(label for label in labels if label is not None and label >= 0)
    names = class_names(config)
    missing = [repr(name) for number, name in enumerate(names) if number not in counts]
    if counts and missing:
        there = ", ".join(f"{names[number]!r} {count:,}" for number, count in counts.most_common(5))
        logger.warning(
            "train_dataset has no row of %s%s (there are: %s), which the student can learn from its teacher "
            "alone. Is the split whole, are the names right (label_names=)?",
            ", ".join(missing[:5]), ", …" if len(missing) > 5 else "", there,
        )  # fmt: skip


def _readable(data: Any) -> bool:
    return (
        isinstance(data, Dataset)
        and "input_ids" in data.column_names
        and data.format["type"] != "custom"
        and len(data) < _MOST
    )


def _hashes(data: Dataset) -> Iterator[int]:
    """Yield a number for each row's tokens, the same for the same tokens within this process."""
    for table in data.select_columns(["input_ids"]).with_format("arrow").iter(batch_size=50_000):
        column = table.column("input_ids").combine_chunks()
        if pyarrow.types.is_fixed_size_list(column.type):
            column = column.cast(pyarrow.list_(column.type.value_type))
        if not (pyarrow.types.is_list(column.type) or pyarrow.types.is_large_list(column.type)):
            return
        ends = column.offsets.to_numpy()
        values = column.values.to_numpy(zero_copy_only=False)
        for start, end in pairwise(ends):
            yield hash(values[start:end].tobytes())
