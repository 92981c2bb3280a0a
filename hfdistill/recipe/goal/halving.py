"""Successive halving: many candidates get little training, and the best of them more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

ETA = 3
"""The best third goes on, with three times the training."""


@dataclass(frozen=True)
class Rung:
    """One round of trials.

    Args:
        number: from 0.
        candidates: how many take part at most.
        share: of the whole training that each has had at the end of it; 0 for none at all.
    """

    number: int
    candidates: int
    share: float


def rungs(count: int) -> list[Rung]:
    """Plan the rounds for `count` candidates: untrained, after a third of the training, after all of it.

    Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943) with a factor of 3: each round keeps
    the best third and trains it three times as long, so that no round costs much more than another. At least
    two go on to the last round but one, so that no single look decides.

    Args:
        count: candidates within the budget, at least 1.

    Example:
        >>> [(rung.candidates, round(rung.share, 2)) for rung in rungs(9)]
        [(9, 0.0), (3, 0.33), (1, 1.0)]
        >>> [(rung.candidates, round(rung.share, 2)) for rung in rungs(2)]
        [(2, 0.0), (2, 0.33), (1, 1.0)]
    """
    second = min(count, max(2, math.ceil(count / ETA)))
    return [Rung(0, count, 0.0), Rung(1, second, 1 / ETA), Rung(2, max(1, math.ceil(second / ETA)), 1.0)]


def looks(plan: Sequence[Rung]) -> int:
    """Return how often a candidate is compared with the goal in all rounds."""
    return sum(rung.candidates for rung in plan)
