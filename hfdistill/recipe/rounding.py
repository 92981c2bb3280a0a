"""What bfloat16 does to a teacher's answers, looked at on a few rows before it teaches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from hfdistill.data.align import LABELS
from hfdistill.evaluation.metrics.scores import Array
from hfdistill.evaluation.models import Contender, load_models
from hfdistill.evaluation.predictions import evaluating, predict
from hfdistill.evaluation.speed import spread
from hfdistill.network.loading import load_tokenizer
from hfdistill.network.task import TaskKind, task_kind
from hfdistill.teachers import CachedTeacher, ModelTeacher, Teacher

ROWS = 64
"""Rows that are looked at, spread over the training rows."""
MOST_CHANGED = 0.05
"""The share of answers that bfloat16 may change, at most; more, and a page computes in float32."""
MOST_MOVED = 0.1
"""The mean movement of a logit by bfloat16, at most, as a share of the logits' standard deviation."""


@dataclass(frozen=True)
class Rounding:
    """How far the logits of one teacher in bfloat16 are from those in its own precision.

    Args:
        answers: rows, or words, that were answered.
        largest: the largest difference of a logit.
        mean: the mean difference.
        deviation: the standard deviation of the logits.
        changed: the share of answers that are other ones; None for values.
    """

    answers: int
    largest: float
    mean: float
    deviation: float
    changed: float | None

    @classmethod
    def between(cls, exact: Array, rounded: Array, task: TaskKind) -> Rounding:
        """Compare the logits (rows, C) of two passes over the same rows."""
        far = np.abs(exact.astype(np.float64) - rounded)
        changed = None
        if task == "multi_label":
            changed = float(((exact > 0) != (rounded > 0)).any(-1).mean())
        elif task != "regression":
            changed = float((exact.argmax(-1) != rounded.argmax(-1)).mean())
        return cls(len(exact), float(far.max()), float(far.mean()), float(exact.std()), changed)

    @property
    def is_small(self) -> bool:
        """Whether at most MOST_CHANGED of the answers change and logits move by at most MOST_MOVED.

        False where a logit is not a number in one of the passes.
        """
        moved = self.mean <= MOST_MOVED * max(self.deviation, 1e-12) or self.mean == 0
        return moved and (self.changed or 0.0) <= MOST_CHANGED

    def __str__(self) -> str:
        """Return half a sentence."""
        text = (
            f"logits by {self.mean:.2g} on average and {self.largest:.2g} at most, where their standard "
            f"deviation is {self.deviation:.2g}"
        )
        if self.changed is None:
            return f"{text} ({self.answers} values)"
        return f"{text}; {round(self.changed * self.answers)} of {self.answers} answers change"


def roundings(
    teacher: Any, rows: Dataset, *, source: str | None, device: torch.device, max_length: int | None
) -> list[Rounding]:
    """Return how bfloat16 changes the answers of each model of a teacher; nothing for one without a model.

    `source` is where the tokenizer of a teacher lies that is a model and no `Teacher`.
    """
    names = [name for name in rows.column_names if name not in LABELS]
    some = rows.select_columns(names).select(sorted(set(spread(len(rows), min(ROWS, len(rows))))))
    found = []
    for model, tokenizer in _models(teacher, source):
        if tokenizer is None or next(model.parameters()).dtype != torch.float32:
            continue
        loaded, _ = load_models(
            {"teacher": Contender(model.to(device), tokenizer=tokenizer)}, some, None, max_length
        )
        with evaluating(loaded):
            exact = predict(loaded["teacher"])
            with torch.autocast(device.type, dtype=torch.bfloat16):
                rounded = predict(loaded["teacher"])
        found.append(Rounding.between(exact, rounded, task_kind(model.config)))
    return found


def _models(teacher: Any, source: str | None) -> Iterator[tuple[PreTrainedModel, Any]]:
    """Yield the fixed models that a teacher asks, with their tokenizers."""
    if isinstance(teacher, PreTrainedModel):
        yield teacher, None if source is None else load_tokenizer(source)
        return
    if not isinstance(teacher, Teacher) or teacher.learns or teacher.ripens:
        return
    for part in teacher.parts():
        live: Any = part.teacher if isinstance(part, CachedTeacher) else part
        model = getattr(live, "model", None)
        if isinstance(live, ModelTeacher) and isinstance(model, PreTrainedModel):
            yield model, live.tokenizer
