"""`draw_frontier` shows which students are worth their time: quality over latency, a bubble for the size."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hfdistill.evaluation.plots.label_placement import place_labels
from hfdistill.evaluation.plots.style import COLOURS, drawing, figure, plain_numbers, text
from hfdistill.evaluation.report import COLUMNS, PERCENT, TITLES, ModelReport, Report, reports_by_name

LARGEST = 420.0
"""Area of the largest bubble, in square points."""
KINDS: dict[str, dict[str, Any]] = {
    "teacher": {"marker": "s", "facecolor": "#999999", "hatch": "////"},
    "distilled": {"marker": "o", "facecolor": COLOURS[6], "hatch": "", "alpha": 0.8},
    "undistilled": {"marker": "o", "facecolor": "white", "hatch": "", "alpha": 0.8, "linestyle": "--"},
}


@dataclass(frozen=True)
class Point:
    """One model: milliseconds a row, quality as it is drawn, megabytes."""

    name: str
    kind: str
    latency_ms: float
    quality: float
    size_mb: float


def points_of(
    distilled: Mapping[str, Sequence[Report]], undistilled: Mapping[str, Sequence[Report]] | None = None
) -> list[Point]:
    """Return a point for each model: the mean quality of its reports, times of the first timed one."""
    kinds = {"distilled": distilled, "undistilled": undistilled or {}}
    points: list[Point] = []
    for kind, runs in kinds.items():
        for name, reports in runs.items():
            timed = next((report for report in reports if report.student.speed), None)
            if timed is not None:
                points.append(_point(name, kind, timed.student, [r.student for r in reports], timed.task))
                if timed.teacher is not None and timed.teacher.speed and points[0].kind != "teacher":
                    points.insert(0, _point("teacher", "teacher", timed.teacher, [timed.teacher], timed.task))
    if not points:
        raise ValueError("No report has a student's speed. Measure it, or time all with time_together.")
    return points


def _point(name: str, kind: str, timed: ModelReport, models: Sequence[ModelReport], task: str) -> Point:
    metric = COLUMNS[task][0]
    known = [value for model in models if (value := model.scores.get(metric)) is not None]
    if len(known) < len(models) or timed.speed is None:
        raise ValueError(f"{text(name)} has no {TITLES[metric]}. Measure on rows that have labels.")
    quality = statistics.mean(known) * (100 if metric in PERCENT else 1)
    return Point(name, kind, timed.speed.latency_ms_p50, quality, timed.size_mb)


def frontier_of(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other point beats in both latency and quality, the fastest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.latency_ms, -p.quality)):
        if not best or point.quality > best[-1].quality:
            best.append(point)
    return best


@drawing()
def draw_frontier(
    distilled: Mapping[str, Sequence[Report]], undistilled: Mapping[str, Sequence[Report]] | None = None
) -> Any:
    """Draw the task's first metric over the latency of one row, a bubble for each kind of student.

    The area of a bubble is its megabytes. A thin line joins what was trained from a teacher and without; the
    dotted stairs join those that no other beats in both. Labels do not overlap.

    Args:
        distilled: reports by name, or the paths of their files, one per seed, at least one of each timed
            (`time_together`).
        undistilled: of the same students without a teacher.

    Raises:
        TypeError: for reports without names, and for anything in the place of a report.
        ValueError: no student was timed, or a report without labels.
    """
    distilled = reports_by_name(distilled, "write_frontier")
    points = points_of(distilled, reports_by_name(undistilled or {}, "write_frontier"))
    first = next(iter(distilled.values()))[0]
    metric = COLUMNS[first.task][0]
    for height in (6.0, 9.0, 13.0, 18.0):
        made = figure(9.2, height)
        axes = made.add_subplot()
        _bubbles(axes, points)
        unit = " (%)" if metric in PERCENT else ""
        axes.set(
            ylabel=f"{TITLES[metric]}{unit}, {first.data.scored}", xlabel="latency of one row (ms, median)"
        )
        _legend(made, points)
        named = [p for p in points if p.kind != "undistilled" or p.name not in distilled]
        spots = [(p.latency_ms, p.quality, _radius(p, points)) for p in points]
        order = [points.index(p) for p in named]
        if place_labels(axes, spots, {i: text(points[i].name) for i in order}):
            break
    return made


def _bubbles(axes: Any, points: Sequence[Point]) -> None:
    stairs = frontier_of(points)
    axes.step(
        [p.latency_ms for p in stairs], [p.quality for p in stairs],
        where="post", color="black", linestyle=":", linewidth=1.4, zorder=1,
    )  # fmt: skip
    distilled = {p.name: p for p in points if p.kind == "distilled"}
    for p in sorted(points, key=lambda p: -p.size_mb):
        axes.scatter(
            p.latency_ms, p.quality, s=_area(p.size_mb, points), edgecolor="black", zorder=3, **KINDS[p.kind]
        )
        axes.plot(p.latency_ms, p.quality, ".", color="black", markersize=3, zorder=4)
        if p.kind == "undistilled" and p.name in distilled:
            other = distilled[p.name]
            ends = [p.latency_ms, other.latency_ms], [p.quality, other.quality]
            axes.plot(*ends, color="#777777", linewidth=0.8, zorder=2)
    _limits(axes, points)


def _limits(axes: Any, points: Sequence[Point]) -> None:
    """Leave room for bubbles and labels."""
    low, high = (f(p.quality for p in points) for f in (min, max))
    room = 0.15 * max(high - low, 1e-3 * max(abs(high), 1e-6))
    axes.set(ylim=(low - room, high + room))
    log_times(axes, [p.latency_ms for p in points])


def log_times(axes: Any, times: Sequence[float]) -> None:
    """Put times on a logarithmic axis with room at both ends, written as plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    fast, slow = min(times), max(times)
    pad = 0.12 * math.log(max(slow / fast, 3.0))
    axes.set_xscale("log")
    axes.set_xlim(fast / math.exp(pad), slow * math.exp(pad))
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(plain_numbers())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _area(size_mb: float, points: Sequence[Point]) -> float:
    return LARGEST * size_mb / max(p.size_mb for p in points)


def _radius(point: Point, points: Sequence[Point]) -> float:
    """Return the radius of a bubble, in points."""
    square = 2**0.5 if point.kind == "teacher" else 1.0
    return square * math.sqrt(_area(point.size_mb, points)) / 2


def _legend(made: Any, points: Sequence[Point]) -> None:
    from matplotlib.lines import Line2D

    present = [kind for kind in KINDS if any(p.kind == kind for p in points)]
    axes = made.axes[0]
    handles = [axes.scatter([], [], s=110, edgecolor="black", label=kind, **KINDS[kind]) for kind in present]
    handles.append(Line2D([], [], color="black", linestyle=":", label="none is faster and better"))
    largest = max(p.size_mb for p in points)
    step = 10 ** math.floor(math.log10(largest))
    size = max(n * step for n in (1, 2, 5) if n * step <= largest)
    handles.append(
        axes.scatter([], [], s=_area(size, points), facecolor="none", edgecolor="black", label=f"{size:g} MB")
    )
    made.legend(handles=handles, loc="outside lower center", ncols=len(handles))
