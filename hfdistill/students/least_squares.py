"""Ridge regression from sums that do not grow with the number of rows."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor

RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, math.inf)
"""The values that `best_ridge` compares; the last one leaves everything as it was."""


@cache
def exact_device(device: torch.device) -> torch.device:
    """Return a device if it computes in float64, else the CPU: Apple's GPUs do not."""
    try:
        torch.ones(1, dtype=torch.float64, device=device).sum().item()
    except (RuntimeError, TypeError):
        return torch.device("cpu")
    return device


class NormalEquations:
    """The sums of a weighted regression of residuals on features, in float64.

    With features F (n, P), residuals R (n, D) and weights w (n,), they are G = Fᵀ diag(w) F, C = Fᵀ diag(w) R
    and Σ w ‖r‖². The residual is what the present weights leave over, so that the solution is a *change* of
    these weights, and a penalty on it pulls towards them.

    Args:
        features: P, the 1 of a bias included.
        outputs: D.
        device: where the sums are, and everything that is computed of them; see `exact_device`.

    Example:
        >>> rows, residuals = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [6.0]])
        >>> sums = NormalEquations(1, 1)
        >>> sums.add(rows, residuals)
        >>> round(sums.solve(0.0).item(), 9)
        3.0
    """

    def __init__(self, features: int, outputs: int, *, device: Any = "cpu") -> None:
        self.gram = torch.zeros(features, features, dtype=torch.float64, device=device)
        self.cross = torch.zeros(features, outputs, dtype=torch.float64, device=device)
        self.residual = 0.0
        self.weight = 0.0

    def add(self, features: Tensor, residuals: Tensor, weights: Tensor | None = None) -> None:
        """Add n rows: features (n, P), residuals (n, D) and weights (n,), None for 1 each."""
        rows, left = features.to(self.gram), residuals.to(self.gram)
        scale = rows.new_ones(len(rows)) if weights is None else weights.to(rows)
        weighted = rows * scale[:, None]
        self.gram.addmm_(rows.T, weighted)
        self.cross.addmm_(weighted.T, left)
        self.residual += float((left.square().sum(1) * scale).sum())
        self.weight += float(scale.sum())

    def solve(self, ridge: float) -> Tensor:
        """Return the change Δ (P, D) that minimises Σ w ‖r - fΔ‖² + λ ‖Δ‖², λ = ridge · mean of G's diagonal.

        Args:
            ridge: λ without its unit, 0 or more; infinity for no change.

        Raises:
            ValueError: for a ridge below 0, or sums that are not finite.
        """
        if not ridge >= 0:
            raise ValueError(
                f"ridge={ridge!r} is not a strength of a penalty. Write 0 or more, such as 1e-3."
            )
        if not math.isfinite(float(self.gram.sum() + self.cross.sum())):
            raise ValueError(
                "The activations hold NaN or infinite values, so no weights can be fitted to them. "
                "Load the teacher in float32 (dtype=torch.float32), and check that its own logits are finite."
            )
        if math.isinf(ridge):
            return torch.zeros_like(self.cross)
        penalty = ridge * self.gram.diagonal().mean()
        damped = self.gram.clone()
        damped.diagonal().add_(penalty)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if failed:  # fewer rows than features and no penalty: the smallest of all solutions
            return torch.linalg.pinv(damped, hermitian=True) @ self.cross
        return torch.cholesky_solve(self.cross, factor)

    def remaining(self, change: Tensor) -> float:
        """Return Σ w ‖r - fΔ‖² after a change Δ, which need not be the solution of these sums."""
        fitted = 2.0 * (change * self.cross).sum() - (change * (self.gram @ change)).sum()
        return max(0.0, self.residual - float(fitted))

    def __add__(self, other: NormalEquations) -> NormalEquations:
        """Return the sums over the rows of both."""
        both = NormalEquations(*self.cross.shape, device=self.cross.device)
        both.gram, both.cross = self.gram + other.gram, self.cross + other.cross
        both.residual, both.weight = self.residual + other.residual, self.weight + other.weight
        return both


def best_ridge(train: NormalEquations, held_out: NormalEquations) -> tuple[float, float]:
    """Return the one of RIDGES whose solution on `train` leaves least on `held_out`, and that remainder.

    Of two ridges that leave as much, the larger is taken.

    The search goes from the middle one to its neighbours as long as they leave less, since the error falls
    and then rises with the ridge; the largest one, which may change nothing at all, is always compared too.
    """
    order = sorted(RIDGES, reverse=True)

    @cache
    def error(place: int) -> float:
        unchanged = math.isinf(order[place])
        return held_out.residual if unchanged else held_out.remaining(train.solve(order[place]))

    best = len(order) // 2
    for way in (-1, 1):
        while 0 <= best + way < len(order) and (error(best + way), best + way) < (error(best), best):
            best += way
    best = min((0, best), key=error)
    return order[best], error(best)
