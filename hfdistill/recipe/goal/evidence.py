"""How much of its teacher a student keeps, with an interval that allows for all that were tried."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from hfdistill.evaluation.metrics.compare import right_rows
from hfdistill.evaluation.metrics.scores import Array, fidelity, scores

ALPHA = 0.05
DRAWS = 300


@dataclass(frozen=True)
class Evidence:
    """What was seen of a student on rows that it has not learned from.

    Args:
        quality: its metric; agreement with the teacher where that is the metric.
        teacher: the teacher's; 1 for agreement.
        rows: how many were looked at.
        spread: standard error of `kept`; None for a share, whose interval is Wilson's.
        looks: how many comparisons share the confidence of 95 %.
    """

    quality: float
    teacher: float
    rows: int
    spread: float | None = None
    looks: int = 1

    @property
    def kept(self) -> float:
        """Share of the teacher's quality."""
        return self.quality / self.teacher

    @property
    def low(self) -> float:
        """Lower end of the interval of `kept`."""
        return self._interval()[0]

    @property
    def high(self) -> float:
        """Upper end."""
        return self._interval()[1]

    @property
    def half(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2

    def _interval(self) -> tuple[float, float]:
        z, n, share = NormalDist().inv_cdf(1 - ALPHA / self.looks), self.rows, self.kept
        if self.spread is not None:
            return share - z * self.spread, share + z * self.spread
        centre = (share + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return centre - half, centre + half

    def __str__(self) -> str:
        return f"keeps {100 * self.kept:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f})"


def evidence(
    task: str, metric: str, student: Array, teacher: Array, labels: Array | None, *, looks: int = 1
) -> Evidence:
    """Compare a student with its teacher on the same rows.

    r = q_student / q_teacher, with the interval r ± z·s, z the quantile 1 - 0.05 / looks of the normal
    distribution: with 95 % confidence no lower end of all looks lies above the truth (Bonferroni). s is

    - for agreement that of Wilson's interval of a share;
    - for accuracy and exact matches sqrt(Σ (s_i - r·t_i)² / n²) / q_teacher over the rows, s_i and t_i
      whether student and teacher are right, after a row was added on which each of them alone is right, as in
      Bonett and Price 2012: two models that never differ are not proven equal;
    - for F1 and correlations the standard deviation of r over bootstrap samples of the rows; for F1 at least
      √2 / (n + 2) / q_teacher, that of an accuracy where the two never differ.

    It covers the choice of rows, not that of seeds.

    Args:
        task: as `hfdistill.network.task.task_kind` names it.
        metric: one of the task's, see `hfdistill.recipe.goal.target.METRICS`.
        student: logits (rows, C).
        teacher: logits (rows, C) in the same order of classes.
        labels: class ids (rows,), 0/1 (rows, C) or numbers (rows,); None for agreement.
        looks: how many comparisons share the confidence.

    Raises:
        ValueError: the teacher's metric is 0 or undefined: there is nothing to keep.

    Example:
        >>> logits = np.array([[1.0, 0.0], [0.0, 1.0]] * 50)
        >>> same = evidence("single_label", "accuracy", logits, logits, logits.argmax(axis=1))
        >>> same.kept, 0.9 < same.low < 1
        (1.0, True)
    """
    if metric == "agreement":
        share = fidelity(task, student, teacher)["agreement"] or 0.0
        return Evidence(share, 1.0, len(student), looks=looks)
    assert labels is not None  # noqa: S101 - the goal refuses other metrics without labels
    own, theirs = (_value(task, metric, logits, labels) for logits in (student, teacher))
    if theirs is None or theirs <= 0:
        shown = "undefined" if theirs is None else f"{theirs:.3f}"
        raise ValueError(
            f"The teacher's {metric} on the rows to choose on is {shown}: there is nothing to keep. Is its "
            "head trained, is this its tokenizer, are its classes in the data's order?"
        )
    if metric in ("accuracy", "subset_accuracy"):
        spread = _paired(right_rows(task, student, labels), right_rows(task, teacher, labels))
    else:
        least = 0.0 if task == "regression" else math.sqrt(2) / (len(labels) + 2) / theirs
        spread = max(least, _bootstrap(task, metric, student, teacher, labels))
    return Evidence(own or 0.0, theirs, len(labels), spread, looks)


def _paired(student: Array, teacher: Array) -> float:
    """Return the standard error of the ratio of two accuracies on the same rows."""
    s = np.concatenate([student, [True, False]]).astype(np.float64)
    t = np.concatenate([teacher, [False, True]]).astype(np.float64)
    ratio = s.mean() / t.mean()
    return float(np.sqrt(((s - ratio * t) ** 2).sum()) / len(s) / t.mean())


def _bootstrap(task: str, metric: str, student: Array, teacher: Array, labels: Array) -> float:
    draw, ratios = np.random.default_rng(0), []
    for _ in range(DRAWS):
        rows = draw.integers(0, len(labels), len(labels))
        own, theirs = (_value(task, metric, logits[rows], labels[rows]) for logits in (student, teacher))
        if own is not None and theirs:
            ratios.append(own / theirs)
    return float(np.std(ratios)) if len(ratios) > DRAWS // 2 else 1.0


def _value(task: str, metric: str, logits: Array, labels: Array) -> float | None:
    return scores(task, logits, labels)[metric]
