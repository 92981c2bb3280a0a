"""What a search for a student tried: what each candidate keeps over its latency, and what was not trained."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfdistill.evaluation.plots.frontier import log_times
from hfdistill.evaluation.plots.label_placement import place_labels
from hfdistill.evaluation.plots.style import COLOURS, FOLDER, drawing, figure, text

RADIUS = 5.0


@dataclass(frozen=True)
class Trial:
    """A candidate of a search.

    Args:
        name: beside its point.
        latency_ms: of one row.
        size_mb: of its file.
        admitted: whether it is within the limits; candidates beyond them were never trained.
        kept: percent of the teacher's metric with the ends of its interval and the epochs so far, at each
            look; empty where it was never looked at.
        chosen: number of the look that won; None where none did.
    """

    name: str
    latency_ms: float
    size_mb: float
    admitted: bool
    kept: tuple[tuple[float, float, float, float], ...] = ()
    chosen: int | None = None

    @property
    def shown(self) -> tuple[float, float, float, float]:
        """The look whose interval is drawn: the one that won, else the last."""
        return self.kept[-1 if self.chosen is None else self.chosen]


@drawing()
def draw_trials(
    trials: Sequence[Trial], *, goal: float, max_ms: float | None = None, metric: str = "metric"
) -> Any:
    """Draw the percentage of the teacher's metric over the latency of one row, a point per look.

    Hollow points were not trained yet, filled ones were; a line joins the looks at one candidate, and bars
    are the interval of the last, or of the one that won. At the bottom are those that were never looked at:
    crosses miss the limits, and pluses are within them, but another was proven first.

    Args:
        trials: at least one, whose times are known.
        goal: percent that must be kept, a dashed line.
        max_ms: the limit, beyond which the plot is grey.
        metric: name of what is kept.
    """
    looked = [trial for trial in trials if trial.kept]
    values = [value for trial in looked for value in (*(seen[0] for seen in trial.kept), *trial.shown[1:3])]
    low, high = min([*values, goal]), max([*values, goal, 100.0])
    room = max(high - low, 1.0)
    floor = low - 0.12 * room
    for height in (5.6, 8.0, 11.0, 15.0):
        made = figure(9.2, height)
        axes = made.add_subplot()
        axes.set(
            xlabel="latency of one row (ms, median)", ylabel=f"kept of the teacher's {metric} (%)",
            ylim=(floor - 0.06 * room, high + 0.08 * room),
        )  # fmt: skip
        log_times(axes, [trial.latency_ms for trial in trials] + ([max_ms] if max_ms else []))
        axes.axhline(goal, color=COLOURS[2], linestyle="--", linewidth=1.2, zorder=1)
        if max_ms is not None:
            axes.axvspan(max_ms, axes.get_xlim()[1], color="#eeeeee", zorder=0)
        spots = [_drawn(axes, trial, floor) for trial in trials]
        _legend(made, goal, untried=any(trial.admitted and not trial.kept for trial in trials))
        if place_labels(axes, spots, {i: text(trial.name) for i, trial in enumerate(trials)}):
            break
    return made


def _drawn(axes: Any, trial: Trial, floor: float) -> tuple[float, float, float]:
    """Draw a candidate, and return where its label belongs."""
    x = trial.latency_ms
    if not trial.kept:
        mark, colour = ("+", COLOURS[1]) if trial.admitted else ("x", "#777777")
        axes.plot(x, floor, mark, color=colour, markersize=7, zorder=3)
        return x, floor, RADIUS
    won = trial.chosen is not None
    colour = COLOURS[2] if won else COLOURS[1] if trial.admitted else "#777777"
    heights = [seen[0] for seen in trial.kept]
    middle, low, high, _ = trial.shown
    axes.plot([x, x], [min(heights), max(heights)], color=colour, linewidth=0.8, zorder=2)
    axes.errorbar(
        x, middle, yerr=[[middle - low], [high - middle]], color=colour, linewidth=0.8, capsize=3, zorder=2
    )
    for number, (kept, _, _, epochs) in enumerate(trial.kept):
        star = number == trial.chosen
        axes.plot(
            x, kept, "*" if star else "o", markerfacecolor=colour if epochs else "white",
            markeredgecolor=colour, markersize=13 if star else 7, zorder=5 if star else 4,
        )  # fmt: skip
    return x, middle, 2 * RADIUS if won else RADIUS


def _legend(made: Any, goal: float, *, untried: bool) -> None:
    from matplotlib.lines import Line2D

    blue, orange = COLOURS[1], COLOURS[2]
    marks = [
        ("o", "white", blue, "not trained"),
        ("o", blue, blue, "trained"),
        ("*", orange, orange, "chosen"),
        ("x", "#777777", "#777777", "misses the limits"),
    ] + [("+", blue, blue, "not reached")] * untried
    handles = [
        Line2D([], [], linestyle="", marker=m, markerfacecolor=f, markeredgecolor=e, label=label)
        for m, f, e, label in marks
    ]
    handles.append(Line2D([], [], color=orange, linestyle="--", label=f"goal: {goal:g} %"))
    made.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def write_trials(
    folder: str | os.PathLike[str],
    trials: Sequence[Trial],
    *,
    goal: float,
    max_ms: float | None = None,
    metric: str = "metric",
) -> Path | None:
    """Draw a search into `folder/plots/trials.png`; see `draw_trials`.

    Returns:
        The file; None, and a warning, where it cannot be drawn.
    """
    from hfdistill.evaluation.plots import write_picture

    shown = [trial for trial in trials if trial.latency_ms > 0 and math.isfinite(trial.latency_ms)]
    path = Path(folder, FOLDER, "trials.png")
    return write_picture(lambda: draw_trials(shown, goal=goal, max_ms=max_ms, metric=metric), path)
