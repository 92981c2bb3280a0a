"""`place_labels` writes names beside the points of a plot, none over another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

REACH = (3.0, 8.0, 16.0, 28.0, 44.0, 64.0, 90.0, 120.0, 160.0, 210.0)
"""Distances from a bubble's rim that are tried, in points."""
TURNS = 16

Box = tuple[float, float, float, float]


def place_labels(axes: Any, spots: Sequence[tuple[float, float, float]], labels: Mapping[int, str]) -> bool:
    """Write labels near their spots, over no other label and, where there is room, over no spot.

    Greedy: the nearest free place of 16 directions, right and above first; a thin line leads back where it is
    not beside its spot. The limits of the axes must be set, and stay.

    Args:
        axes: matplotlib's.
        spots: x and y in data units, radius in points.
        labels: by number of the spot.

    Returns:
        Whether every label found a place; one without a place is left out.
    """
    scale = axes.figure.dpi / 72
    axes.figure.canvas.draw()  # lays the axes out
    inside = tuple(axes.get_window_extent().extents)
    centres = [tuple(axes.transData.transform((x, y))) for x, y, _ in spots]
    discs = [(*centre, radius * scale) for centre, (_, _, radius) in zip(centres, spots, strict=True)]
    taken: list[Box] = []
    complete = True
    for number, label in sorted(labels.items(), key=lambda item: -centres[item[0]][0]):
        width, height = _size(axes, label)
        near = list(_around(discs[number], width, height, scale))
        free = [box for box in near if _within(box, inside) and not any(_meet(box, other) for other in taken)]
        clear = [box for box in free if not any(_covers(box, disc) for disc in discs)]
        if not free:
            complete = False
            continue
        box = (clear or free)[0]
        taken.append(box)
        _write(axes, label, spots[number], discs[number], box, scale)
    return complete


def _size(axes: Any, label: str) -> tuple[float, float]:
    """Return the width and height of a label in pixels, with a margin."""
    probe = axes.text(0.5, 0.5, label, transform=axes.transAxes, fontsize=9)
    extent = probe.get_window_extent()
    probe.remove()
    return extent.width + 6, extent.height + 4


def _around(disc: tuple[float, float, float], width: float, height: float, scale: float) -> Any:
    """Yield boxes around a spot, the nearest first."""
    x, y, radius = disc
    for reach in REACH:
        for turn in sorted(range(TURNS), key=lambda turn: min(abs(turn - 2), TURNS - abs(turn - 2))):
            angle = 2 * math.pi * turn / TURNS
            away = radius + reach * scale
            cx = x + away * math.cos(angle) + width / 2 * _sign(math.cos(angle))
            cy = y + away * math.sin(angle) + height / 2 * _sign(math.sin(angle))
            yield cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2


def _sign(value: float) -> float:
    return 0.0 if abs(value) < 1e-9 else math.copysign(1.0, value)


def _within(box: Box, outer: Box) -> bool:
    return box[0] >= outer[0] and box[1] >= outer[1] and box[2] <= outer[2] and box[3] <= outer[3]


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _covers(box: Box, disc: tuple[float, float, float]) -> bool:
    x, y, radius = disc
    dx, dy = max(box[0] - x, 0, x - box[2]), max(box[1] - y, 0, y - box[3])
    return math.hypot(dx, dy) < radius


def _write(axes: Any, label: str, spot: Any, disc: Any, box: Box, scale: float) -> None:
    """Write the label, and a line from its edge to the rim of its spot where they are apart."""
    from matplotlib import patheffects

    (x, y, _), (cx, cy, radius) = spot, disc
    middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    edge = min(max(cx, box[0]), box[2]), min(max(cy, box[1]), box[3])
    apart = math.hypot(edge[0] - cx, edge[1] - cy)
    if apart > radius + 6 * scale:
        share = radius / apart
        rim = cx + share * (edge[0] - cx), cy + share * (edge[1] - cy)
        ends = axes.transData.inverted().transform([rim, edge])
        line = axes.plot(ends[:, 0], ends[:, 1], color="#555555", linewidth=0.6, zorder=4)[0]
        line.set_in_layout(False)
    offset = (middle[0] - cx) / scale, (middle[1] - cy) / scale
    written = axes.annotate(
        label, (x, y), xytext=offset, textcoords="offset points", ha="center", va="center",
        fontsize=9, zorder=5,
        path_effects=[patheffects.withStroke(linewidth=2.5, foreground="white")],
    )  # fmt: skip
    written.set_in_layout(False)
