"""The labels of a data set, checked row by row before anything is trained on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from hfdistill.network.label_space import LabelSpaceError, short, some
from hfdistill.network.task import UNKNOWN, task_kind


def check_labels(labels: Sequence[Any], config: Any, *, split: str) -> int:
    """Look through a whole label column before training starts.

    Returns:
        The number of rows with a label.

    Raises:
        LabelSpaceError: with split, row, value and the fix, for strings, one-hot rows without `problem_type`,
            values that are not class ids of the student, hidden labels (-1), and regression values that are
            not finite numbers or the whole number -100.
    """
    task, classes = task_kind(config), getattr(config, "num_labels", None)
    if task == "token":
        return _check_rows_of_tokens(labels, classes, split)
    first: Any
    row, first = next(((i, v) for i, v in enumerate(labels) if v is not None), (0, None))
    if isinstance(first, (list, tuple)) or getattr(first, "ndim", 0) > 0:
        if task == "multi_label":
            return _check_rows_of_labels(labels, classes, split)
        raise LabelSpaceError(
            f"{split} has a list of labels a row (row {row}: {short(list(first))}), but the student is not "
            "multi-label. For one class a row, give the class id; for several, load the student with "
            "problem_type='multi_label_classification'."
        )
    if isinstance(first, str):
        raise LabelSpaceError(
            f"{split} has text labels (row {row}: {short(first)}), and a loss needs numbers. Load the data "
            "with hfdistill.load, or type dataset.class_encode_column('label')."
        )
    if task == "multi_label" and len(labels):
        raise LabelSpaceError(
            f"{split} has one label a row (row {row}: {short(first)}), but the student's problem_type is "
            "multi_label_classification, which needs C numbers a row. Set config.problem_type = "
            "'single_label_classification', or give rows such as [0.0, 1.0]."
        )
    check = _check_value if task == "regression" else _check_class_id
    return sum(check(value, classes, f"{split}, row {row}") for row, value in enumerate(labels))


def _check_value(value: Any, classes: int | None, where: str) -> bool:
    """Whether a regression row has a value; None and NaN mean no value."""
    if value is None or (_is_real(value) and math.isnan(value)):
        return False
    if value == -100 and isinstance(value, int):
        raise LabelSpaceError(
            f"{where}: label -100, which stands for no label where labels are classes, and the student has "
            "one output (regression). Type dataset.cast_column('label', Value('float32')) before rows "
            "without a label are added, which are then NaN; -100.0 is a value like others."
        )
    if not _is_real(value) or math.isinf(value):
        raise LabelSpaceError(
            f"{where}: label {short(value)} is not a finite number, and the student has one output "
            "(regression). Correct the row, give NaN for rows without a value, or load the student with "
            "num_labels=2 or more to learn classes."
        )
    return True


def _check_class_id(value: Any, classes: int | None, where: str) -> bool:
    """Whether a row has a class; -100 means no class."""
    if isinstance(value, bool) or not _is_real(value) or value % 1 != 0:
        raise LabelSpaceError(
            f"{where}: label {short(value)} is not a class id. Give whole numbers from 0, -100 for rows "
            "without a label, or num_labels=1 for regression."
        )
    if value == -1:
        raise LabelSpaceError(
            f"{where}: label -1, which marks hidden test labels. Use the validation split, or map -1 to -100 "
            "to learn from the teacher alone on these rows: dataset.map(...)."
        )
    if value != -100 and classes is not None and not 0 <= value < classes:
        raise LabelSpaceError(
            f"{where}: label {value} is out of range, the student has {classes} classes (0 … {classes - 1}). "
            f"Load the student with num_labels={max(int(value) + 1, classes)}, or correct the row."
        )
    return bool(value != -100)


def _check_rows_of_labels(labels: Sequence[Any], classes: int | None, split: str) -> int:
    known = 0
    for row, values in enumerate(labels):
        if not hasattr(values, "__len__") or isinstance(values, str) or len(values) != classes:
            raise LabelSpaceError(
                f"{split}, row {row}: {short(values)} is not a row of {classes} labels, one for each class "
                f"of the student. Give {classes} numbers from 0 to 1, -100 for a missing one, or load the "
                "student with num_labels= the length of your rows."
            )
        for value in values:
            if value != -100 and not (_is_real(value) and 0 <= value <= 1):
                raise LabelSpaceError(
                    f"{split}, row {row}: label {short(value)} does not lie in [0, 1] and is not -100. Give "
                    "1 where the class applies, 0 where it does not, -100 where nobody knows."
                )
        known += any(value != -100 for value in values)
    return known


def _check_rows_of_tokens(labels: Sequence[Any], classes: int | None, split: str) -> int:
    known = 0
    for row, values in enumerate(labels):
        if values is None:
            continue
        if not hasattr(values, "__len__") or isinstance(values, str):
            raise LabelSpaceError(
                f"{split}, row {row}: {short(values)} is one label, but the student labels every token. "
                "Give a list of class ids, one a token and -100 where there is none, or the columns tokens "
                "and label with one label a word; for one class a row load the student with task='sequence'."
            )
        where = f"{split}, row {row}"
        checked = [_check_class_id(v, classes, where) for v in set(values) if v not in (UNKNOWN, None)]
        known += any(checked)
    return known


def _is_real(value: Any) -> bool:
    """Whether a value is a number, of Python or of numpy."""
    return isinstance(value, Real)


def check_one_output(names: Sequence[str], labels: Sequence[Any], config: Any, *, split: str) -> None:
    """Refuse classes for a model with one output, which learns and predicts a value (regression).

    One output without a `problem_type` is taken for regression, unless all labels are 0 or 1: then the config
    must say what is meant.

    Raises:
        LabelSpaceError: for a single class, for named classes, and for labels 0 and 1 of which the config
            leaves open whether they are values or classes.
    """
    if task_kind(config) != "regression" or getattr(config, "num_labels", None) != 1:
        return
    used = {value for value in labels if _is_real(value) and not math.isnan(value) and value != -100}
    if len(names) == 1:
        raise LabelSpaceError(
            f"{split} has one class alone, {some(names)}: where every row has one label there is nothing to "
            "learn. Check the label column, the split and the filters before it."
        )
    if getattr(config, "problem_type", None) is not None:
        return
    shown = some(names) if names else ", ".join(map(short, sorted(used)))
    if names or (used and used <= {0, 1}):
        raise LabelSpaceError(
            f"{split} has the labels {shown}, and the model has one output and no problem_type: a value "
            "(regression) or a class with a sigmoid (a cross-encoder)? Say it. For values, type "
            "model.config.problem_type = 'regression'; for one class that applies or not, "
            "'multi_label_classification' and labels such as [1.0] and [0.0]; for classes of which one "
            "applies, load the model with num_labels=2 or more."
        )
