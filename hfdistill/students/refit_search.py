"""Which blocks to keep: the choice that leaves the smallest error."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import combinations
from math import comb

logger = logging.getLogger(__name__)

MOST = 64
"""Choices up to which all are tried."""


def best_layers(
    error: Callable[[Sequence[int]], float], *, depth: int, count: int, anchored: bool = False
) -> list[int]:
    """Return the choice of blocks with the smallest error; of equal ones the first in order.

    All C(depth, count) choices are tried where they are at most 64. Else one block after the other is left
    out, each time the one without which the error is smallest: about (depth² - count²) / 2 trials.

    Args:
        error: of a choice, blocks counted from 1.
        depth: blocks there are.
        count: blocks to keep.
        anchored: whether block 1 must stay.

    Raises:
        ValueError: for a count outside 1 to depth.

    Example:
        >>> best_layers(lambda layers: abs(sum(layers) - 7), depth=5, count=2)
        [2, 5]
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= depth:
        raise ValueError(
            f"choose_layers looks for the best blocks of a number, found layers={count!r} for a teacher of "
            f"{depth}. Write layers=3, any number from 1 to {depth}."
        )
    first = [1] if anchored else []
    rest = range(len(first) + 1, depth + 1)
    if comb(len(rest), count - len(first)) <= MOST:
        choices = [[*first, *others] for others in combinations(rest, count - len(first))]
        return _smallest(error, choices)
    layers = list(range(1, depth + 1))
    while len(layers) > count:
        layers = _smallest(error, [[n for n in layers if n != out] for out in layers if out not in first])
    return layers


def _smallest(error: Callable[[Sequence[int]], float], choices: list[list[int]]) -> list[int]:
    """Return the choice with the smallest error."""
    if len(choices) == 1:
        return choices[0]
    errors = [error(choice) for choice in choices]
    for choice, value in zip(choices, errors, strict=True):
        logger.info("blocks %s: error %.4g", choice, value)
    return choices[errors.index(min(errors))]
