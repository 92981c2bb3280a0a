"""`keep_surest` keeps the rows whose answers are surest, for a teacher that is often wrong."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch

from hfdistill.data.in_memory import as_rows
from hfdistill.network.label_space import some
from hfdistill.teachers.text.codec import texts_of
from hfdistill.teachers.text.teacher import TextAnswers

logger = logging.getLogger(__name__)


def keep_surest(dataset: Any, teacher: TextAnswers, *, keep: float = 0.8) -> Any:
    """Return the rows whose answers the teacher is surest of: the same share of each class that it chooses.

    Of the n_c rows that it gives to class c, the ceil(keep · n_c) with the largest probability stay, so that
    no class dies out because the teacher is less sure of it. Rows with a label stay in any case.
    A teacher is usually right more often where it is surer (as in pseudo-labelling, Lee 2013, and
    confident learning, Northcutt, Jiang, Chuang 2021, arXiv 1911.00068); `teacher.probabilities` on labelled
    rows shows whether this one is. Its answers are recorded first.

    Args:
        dataset: a `datasets.Dataset` with `text` (and `text_pair`).
        teacher: of one label a row.
        keep: the share, in (0, 1].

    Returns:
        The rows that stay, in their order.

    Raises:
        ValueError: for a share outside (0, 1], or a multi-label teacher.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep is a share in (0, 1], found {keep!r}. Usual: 0.8.")
    if teacher.reader.multi_label:
        raise ValueError(
            "keep_surest ranks rows of one label, and this teacher gives several. Leave keep out."
        )
    dataset = as_rows(dataset)
    texts = texts_of(dataset)
    sure, chosen = teacher.probabilities(texts).max(-1)
    stays = torch.zeros(len(texts), dtype=torch.bool)
    for column in range(len(teacher.classes)):
        rows = (chosen == column).nonzero().view(-1)
        count = math.ceil(keep * len(rows))
        stays[rows[sure[rows].argsort(descending=True, stable=True)[:count]]] = True
    if "label" in dataset.column_names:
        stays |= torch.tensor([label is not None and label != -100 for label in dataset["label"][:]])
    absent = [name for i, name in enumerate(teacher.classes) if not bool((chosen == i).any())]
    logger.info("%d of %d rows stay, the surest of each class", int(stays.sum()), len(texts))
    if absent:
        logger.warning(
            "the teacher gives no row to the classes %s: the student cannot learn them", some(absent)
        )
    return dataset.select(stays.nonzero().view(-1).tolist())
