"""Calibration: whether a model that says 90 % is right in 90 of 100 rows."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike

from hfdistill.evaluation.metrics.agreement import InMemory
from hfdistill.evaluation.report import Bin


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, *, n_bins: int = 15) -> float:
    """Return the calibration error of the top class: `sum_b n_b/n * |accuracy_b - confidence_b|`, 0 to 1.

    Rows fall by the probability of their predicted class into `n_bins` bins of equal width, each open below
    and closed above. Naeini et al. 2015 (AAAI), as used by Guo et al. 2017 (arXiv 1706.04599). With few rows
    it is biased upwards and depends on the bins: compare models on the same rows only.

    Args:
        probabilities: (rows, C), each row sums to 1.
        labels: class ids (rows,).
        n_bins: number of bins between 0 and 1.

    Raises:
        ValueError: no rows, shapes that do not fit, rows that are not probabilities, labels outside 0..C-1.

    Example:
        >>> expected_calibration_error([[0.75, 0.25], [0.25, 0.75]], [0, 1])
        0.25
    """
    rows, confidence, correct = _sums(probabilities, labels, n_bins)
    return float(np.abs(correct - confidence).sum() / rows.sum())  # n_b * (accuracy_b - confidence_b)


def reliability(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Bin, ...]:
    """Return the 15 bins of `expected_calibration_error` that have rows, from low to high confidence.

    Example:
        >>> reliability([[0.75, 0.25], [0.25, 0.75]], [0, 1])
        (Bin(rows=2, confidence=0.75, accuracy=1.0),)
    """
    return tuple(
        Bin(rows=int(rows), confidence=float(confidence / rows), accuracy=float(correct / rows))
        for rows, confidence, correct in zip(*_sums(probabilities, labels, 15), strict=True)
        if rows
    )


def _sums(probabilities: ArrayLike, labels: ArrayLike, n_bins: int) -> tuple[np.ndarray, ...]:
    """Return rows, summed confidences, and right answers of each bin; (n_bins,) each."""
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    _check(p, y, n_bins)
    confidence, correct = p.max(axis=1), (p.argmax(axis=1) == y).astype(np.float64)
    edges = np.linspace(0.0, 1.0, n_bins + 1)
    bins = np.searchsorted(edges[1:-1], confidence, side="left")
    rows = np.bincount(bins, minlength=n_bins)
    return rows, *(np.bincount(bins, weights=values, minlength=n_bins) for values in (confidence, correct))


def _check(p: np.ndarray, y: np.ndarray, n_bins: int) -> None:
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, found {n_bins}.")
    if p.ndim != 2 or y.shape != p.shape[:1] or p.size == 0:
        raise ValueError(
            f"ECE needs probabilities (rows, C) and labels (rows,), found {p.shape} and {y.shape}."
        )
    if not np.isfinite(p).all() or p.min() < 0 or np.abs(p.sum(axis=1) - 1).max() > 1e-3:
        raise ValueError("ECE needs rows of probabilities that sum to 1. Apply a softmax to logits first.")
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= p.shape[1]:
        raise ValueError(
            f"ECE needs class ids from 0 to {p.shape[1] - 1} as labels, found {y[:5].tolist()}, …."
        )


class CalibrationError(InMemory, evaluate.Metric):
    """The metric `ece`: predictions are probability vectors, references class ids; `n_bins=15` goes to
    `compute`.

    It cannot be combined with metrics that read class ids (`evaluate` wants one set of features). It needs
    neither the Hub nor the disk (see `InMemory`).

    Example:
        >>> CalibrationError().compute(predictions=[[0.75, 0.25], [0.25, 0.75]], references=[0, 1])
        {'ece': 0.25}
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Expected calibration error of the predicted class's probability.",
            citation="Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv 1706.04599",
            inputs_description="predictions: probability vectors; references: class ids; n_bins: 15",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Value("int32"),
                }
            ),
        )

    def _compute(self, predictions: Any, references: Any, n_bins: int = 15) -> dict[str, float]:
        return {"ece": expected_calibration_error(predictions, references, n_bins=n_bins)}
