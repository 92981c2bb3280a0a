"""Teachers trained out of fold: none has seen the text that it answers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from datasets import ClassLabel, Dataset, Value

from hfdistill.data.align import classes_of, names_of
from hfdistill.data.data_kinds import check_kind, refuse_stream
from hfdistill.data.encode import encode
from hfdistill.data.in_memory import as_rows
from hfdistill.network.label_space import class_ids
from hfdistill.teachers.base import as_teacher
from hfdistill.teachers.folds import FoldTeacher, assign_folds, text_key

logger = logging.getLogger(__name__)


def out_of_fold(
    train: Dataset,
    *,
    fit: Callable[[Dataset, int], Any],
    tokenizer: Any = None,
    folds: int = 5,
    seed: int = 0,
    max_length: int | None = None,
) -> FoldTeacher:
    """Return a teacher that answers each training text with a model that never saw it.

    The rows are dealt into folds; for each, `fit` trains a teacher on all the others, and that one labels the
    rows that were left out. A teacher fits its own training rows almost perfectly, wrong labels included, and
    then says little more than they do; out of fold it says what it would of new text. (Cross-fitting, as in
    confident learning: Northcutt, Jiang, Chuang 2021, arXiv 1911.00068.)

    Rows with the same token ids share a fold, so that no text is answered by one who has seen its copy.
    Classes are balanced over the folds.

    Args:
        train: rows with a `text` or `tokens` column, or `input_ids`; with `label` to balance the folds.
        fit: (rows, fold) → a teacher: model, id, path or `Teacher`. It is called once a fold, in order. A run
            that was killed goes on where `fit` does: give each fold a folder and resume there.
        tokenizer: the run's; not needed for `input_ids`.
        folds: 2 or more. `fit` sees (folds - 1)/folds of the rows.
        seed: of the shuffle.
        max_length: of the run. Rows are known again by their tokens, so they must be cut alike.

    Returns:
        A `FoldTeacher`, which holds all teachers; give it to `DistillationTrainer(teacher=...)`. Text that is
        in no fold is answered by the mean of all.

    Raises:
        ValueError: for too few different texts, or text without a tokenizer.

    When to use it: noisy labels, with `WeightedCrossEntropy(by="label")` or a small weight on
    `CrossEntropy()`; or a teacher whose training accuracy is far above its validation accuracy. When not:
    it costs `folds` teachers, and each has learnt from fewer rows; unlabelled text does the same for nothing.

    Example:
        >>> teacher = out_of_fold(train, tokenizer=tokenizer, fit=fit)  # doctest: +SKIP
        >>> DistillationTrainer(student, args, teacher=teacher, train_dataset=train)  # doctest: +SKIP
    """
    refuse_stream(train, "out_of_fold", why="deals all rows into folds")
    train = as_rows(train)
    check_kind(train, split="train")
    limit = None
    if "input_ids" in train.column_names:
        ids = train["input_ids"][:]
    elif tokenizer is None:
        raise ValueError(
            f"out_of_fold knows rows by their tokens, and found the columns {train.column_names} without a "
            "tokenizer. Type tokenizer=AutoTokenizer.from_pretrained(...)."
        )
    else:
        ids = encode(train, tokenizer, max_length=max_length)["input_ids"][:]
        longest = max(map(len, ids), default=0)
        limit = longest if longest >= min(max_length or longest + 1, tokenizer.model_max_length) else None
    keys = [text_key(row) for row in ids]
    classes, names = _classes(train), names_of(train)
    assigned = assign_folds(keys, classes, folds=folds, seed=seed)
    teachers = []
    for fold in range(folds):
        seen = [row for row, own in enumerate(assigned) if own != fold]
        logger.info("fold %d of %d: %d rows to learn from", fold + 1, folds, len(seen))
        teacher = as_teacher(fit(train.select(seen), fold))
        if names and teacher.config is not None:
            class_ids(names, classes_of(teacher.config), data="train", used=classes and set(classes))
        teachers.append(teacher)
    return FoldTeacher(teachers, dict(zip(keys, assigned, strict=True)), max_length=limit)


def _classes(train: Dataset) -> list[Any] | None:
    """Return the class of each row, where it has one."""
    name = next((n for n in ("label", "labels") if n in train.column_names), None)
    feature = None if name is None else train.features[name]
    whole = isinstance(feature, ClassLabel) or (isinstance(feature, Value) and "int" in feature.dtype)
    return [-100 if value is None else value for value in train[name]] if whole else None
