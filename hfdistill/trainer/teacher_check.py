"""Asks before the first step whether the teacher is better than chance on the evaluation data."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from datasets import Dataset
from torch import Tensor

from hfdistill.network.task import TaskKind
from hfdistill.teachers import Teacher
from hfdistill.trainer.changing_teacher import changing

logger = logging.getLogger(__name__)


def rows_to_check(evaluation: Any, *, limit: int, teacher: Teacher | None, task: TaskKind) -> Dataset | None:
    """Return the first rows of the evaluation data, or of the first of several sets.

    Returns:
        None where there is nothing to look at: no such data, a limit of 0, a task without classes of which
        one is right, no teacher, one that changes and has yet to learn, or one that answers none of these.
    """
    data = next(iter(evaluation.values()), None) if isinstance(evaluation, dict) else evaluation
    if teacher is None or changing(teacher) or task not in ("single_label", "token"):
        return None
    if not limit or not isinstance(data, Dataset):
        return None
    rows: Dataset = teacher.answerable(data.select(range(min(limit, len(data)))))
    return rows if len(rows) else None


def judge_teacher(answered: Iterable[tuple[Tensor, Tensor]], *, task: TaskKind) -> dict[str, float]:
    """Return the teacher's accuracy on rows, or words, for the log; warn where it is no better than chance.

    `answered` holds each batch's logits and labels, negative where none is known.
    """
    answers: list[int] = []
    gold: list[int] = []
    for logits, labels in answered:
        answers += logits.argmax(-1)[labels >= 0].tolist()
        gold += labels[labels >= 0].tolist()
    if not gold:
        return {}
    unit = "words" if task == "token" else "rows"
    accuracy = sum(a == g for a, g in zip(answers, gold, strict=True)) / len(gold)
    chance = max(gold.count(label) for label in set(gold)) / len(gold)
    if accuracy <= chance:
        logger.warning(
            "The teacher is right on %.1f %% of %d evaluation %s; always answering the most frequent class "
            "is right on %.1f %%. It has nothing to teach. Is its head trained, is this its tokenizer, are "
            "its classes in the data's order (label_map=)?",
            100 * accuracy,
            len(gold),
            unit,
            100 * chance,
        )
    return {"teacher_accuracy": accuracy, f"teacher_{unit}": len(gold)}
