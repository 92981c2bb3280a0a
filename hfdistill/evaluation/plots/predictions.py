"""Figures of matplotlib that show what a student answers: how sure it is, what it confuses, what it lost."""

from __future__ import annotations

import math
from typing import Any

from hfdistill.evaluation.plots.style import (
    COLOURS,
    DASHES,
    HATCHES,
    MARKS,
    NAMES,
    ROLES,
    drawing,
    figure,
    plain_numbers,
    text,
)
from hfdistill.evaluation.report import ClassReport, Confusion, Report

BINS = 15
FEW = 10
"""Rows in a bin from which on its share of right answers is drawn."""
PAIRS = 12
CLASSES = 20
WITH_NUMBERS = 12
"""Classes up to which a matrix has its counts written into it."""


@drawing()
def draw_reliability(report: Report) -> Any:
    """Draw accuracy over confidence of student, teacher and baseline (Guo et al. 2017, arXiv 1706.04599).

    Above the share of right answers in each of 15 bins of confidence: on the diagonal a model that says 90 %
    is right in 90 of 100 rows, below it says too much. Underneath the rows of each bin; the share of right
    answers of less than 10 rows says little and is left out where there are larger bins.

    Raises:
        ValueError: the report has no bins: no labels, several labels a row, or measured by an old version.
    """
    reliability = {role: m.reliability for role, m in report.models().items() if m.reliability}
    if not reliability:
        raise ValueError("The report has no reliability bins. Measure again, on rows with one label each.")
    made = figure(6.4, 6.4)
    top, below = made.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    top.plot([0, 100], [0, 100], color="#888888", linewidth=1, label="as sure as right")
    full = {role: [b for b in bins if b.rows >= FEW] or bins for role, bins in reliability.items()}
    for place, (role, bins) in enumerate(reliability.items()):
        i = ROLES[role]
        ece = (report.models()[role].metrics or {}).get("ece")
        name = NAMES[role] if ece is None else f"{NAMES[role]}, ECE {100 * ece:.1f} %"
        top.plot(
            [100 * b.confidence for b in full[role]], [100 * b.accuracy for b in full[role]], label=name,
            color=COLOURS[i], marker=MARKS[i], linestyle=DASHES[i],
            markerfacecolor="white" if i else COLOURS[i],
        )  # fmt: skip
        width = 100 / BINS / (len(reliability) + 0.5)
        left = [100 / BINS * max(0, math.ceil(b.confidence * BINS - 1e-9) - 1) for b in bins]
        below.bar(
            [x + (place + 0.25) * width for x in left], [b.rows for b in bins], width=width,
            align="edge",
            facecolor="white" if i else COLOURS[i], edgecolor=COLOURS[i], hatch=HATCHES[i], linewidth=0.8,
        )  # fmt: skip
    lowest = min(b.confidence for bins in reliability.values() for b in bins)
    top.set(xlim=(100 / BINS * math.floor(lowest * BINS + 1e-9), 100), ylim=(0, 102))
    rows = report.data.unit
    title = f"Reliability on {report.data.scored} (above: bins of at least {FEW} {rows})"
    top.set(ylabel="right answers (%)", title=title)
    below.set(yscale="log", ylabel=rows, xlabel="confidence (%)")
    below.set_ylim(bottom=0.7)
    below.yaxis.set_major_formatter(plain_numbers())
    made.legend(loc="outside lower center", ncols=2)
    return made


@drawing()
def draw_confusion(report: Report) -> Any:
    """Draw what the student answers where the labels, and where the teacher, say something else.

    With up to 20 classes the matrices, as shares of each row; with more the most frequent confusions.

    Raises:
        ValueError: the report has no confusions: several labels a row, or measured by an old version.
    """
    if not report.confusions:
        raise ValueError("The report has no confusions. Measure again, on rows of one label each.")
    return (_matrices if all(c.complete for c in report.confusions) else _pairs)(report, report.confusions)


def _matrices(report: Report, confusions: tuple[Confusion, ...]) -> Any:
    from matplotlib.colors import PowerNorm

    names = [text(c.label, limit=24) for c in report.classes]
    side = 1.6 + 0.42 * max(len(names), 4)
    made = figure((side + 0.5) * len(confusions) + 0.8, side + 0.3)
    panels = made.subplots(1, len(confusions), squeeze=False)[0]
    for axes, confusion in zip(panels, confusions, strict=True):
        counts = [[0] * len(names) for _ in names]
        for cell in confusion.cells:
            counts[cell.row][cell.column] = cell.rows
        shares = [[100 * n / max(1, sum(row)) for n in row] for row in counts]
        image = axes.imshow(shares, cmap="Greys", norm=PowerNorm(0.5, vmin=0, vmax=100))
        axes.grid(visible=False)
        axes.set_xticks(range(len(names)), labels=names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), labels=names)
        axes.set(
            xlabel="student's answer", ylabel=_against(confusion), title=f"against the {confusion.against}"
        )
        for i, row in enumerate(counts if len(names) <= WITH_NUMBERS else ()):
            for j, n in enumerate(row):
                if n:
                    ink = "white" if shares[i][j] > 35 else "black"
                    axes.text(j, i, f"{n:,}", ha="center", va="center", color=ink, fontsize=8)
    made.colorbar(image, ax=list(panels), label="share of the row (%)", shrink=0.8)
    return made


def _pairs(report: Report, confusions: tuple[Confusion, ...]) -> Any:
    names = [text(c.label, limit=36) for c in report.classes]
    made = figure(9.6, 0.9 * len(confusions) + 0.27 * sum(min(PAIRS, len(c.cells)) for c in confusions) + 0.4)
    heights = [max(1, min(PAIRS, len(c.cells))) for c in confusions]
    panels = made.subplots(len(confusions), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, confusion in zip(panels, confusions, strict=True):
        cells = [cell for cell in confusion.cells if cell.row != cell.column]
        cells = sorted(cells, key=lambda cell: -cell.rows)[:PAIRS]
        bars = axes.barh(
            range(len(cells)), [c.rows for c in cells], color="#bbbbbb", edgecolor="black", height=0.6
        )
        axes.bar_label(bars, padding=3)
        labels = [f"{names[c.row]} → {names[c.column]}" for c in cells]
        axes.set_yticks(range(len(cells)), labels=labels)
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.margins(x=0.08)
        axes.set_title(f"{_against(confusion)} → student's answer, most frequent confusions", loc="right")
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[-1].set_xlabel(report.data.unit)
    return made


def _against(confusion: Confusion) -> str:
    return {"labels": "label", "teacher": "teacher's answer"}[confusion.against]


def changes_of(report: Report) -> list[tuple[ClassReport, float]]:
    """Return classes with the student's recall minus the teacher's, the greatest loss first; of many the most
    changed."""
    both = [
        (c, c.student_recall - c.teacher_recall)
        for c in report.classes
        if c.student_recall is not None and c.teacher_recall is not None
    ]
    most = sorted(both, key=lambda item: -abs(item[1]))[:CLASSES]
    return sorted(most, key=lambda item: item[1])


@drawing()
def draw_classes(report: Report) -> Any:
    """Draw each class's recall, the teacher's and the student's: what was lost and gained.

    Of many classes the 20 that changed most.

    Raises:
        ValueError: the report has no classes with rows, or no teacher.
    """
    changes = changes_of(report)
    if not changes:
        raise ValueError(
            "The report has no recalls of student and teacher. Measure labelled rows with teacher=."
        )
    made = figure(8.0, 1.5 + 0.3 * len(changes))
    axes = made.add_subplot()
    for y, (entry, change) in enumerate(changes):
        student, teacher = 100 * entry.student_recall, 100 * entry.teacher_recall  # type: ignore[operator]
        axes.plot([teacher, student], [y, y], color="#777777", linewidth=2, zorder=1)
        axes.plot(teacher, y, "s", color="white", markeredgecolor=COLOURS[1], markersize=8, zorder=2)
        axes.plot(student, y, "o", color=COLOURS[0], markersize=5, zorder=3)
        axes.annotate(
            f"{100 * change:+.1f}",
            (1.02, y),
            xycoords=("axes fraction", "data"),
            va="center",
            annotation_clip=False,
        )
    axes.plot([], [], "s", color="white", markeredgecolor=COLOURS[1], markersize=8, label="teacher")
    axes.plot([], [], "o", color=COLOURS[0], markersize=5, label="student")
    labels = [f"{text(entry.label)} ({entry.rows:,})" for entry, _ in changes]
    axes.set_yticks(range(len(changes)), labels=labels)
    axes.set_ylim(len(changes) - 0.4, -0.6)
    few = f": the {len(changes)} of {len(report.classes)} classes that changed most"
    made.suptitle(
        "Recall beside the teacher" + (few if len(changes) < len(report.classes) else ""), fontsize=11
    )
    axes.set_xlabel(f"{report.data.unit} of the class that are found (%)\nbeside: change in points")
    made.legend(loc="outside lower center", ncols=2)
    return made
