"""Two models on the same rows, for a terminal: who is right how often, and where they differ."""

from __future__ import annotations

from hfdistill.evaluation.report import (
    COLUMNS,
    TITLES,
    ClassReport,
    ModelReport,
    Report,
    hardware,
    show,
    signed,
    sizes,
)
from hfdistill.files.markdown import text_table
from hfdistill.files.plain_data import printable

SHOWN = 15
"""Classes, and pairs of classes, that are listed."""


def side_by_side(report: Report, first: str, second: str) -> str:
    """Compare a report's student, the first model, with its teacher, the second.

    Returns:
        A table of both models, the difference with its 95 % interval, how often they agree, and by class (or
        by pairs of classes, for rows without labels) where they do not.
    """
    if report.teacher is None:
        raise ValueError("side_by_side needs a report of two models. Measure with teacher=.")
    lines = _models(report, report.teacher)
    lines += [f"A: {printable(first, limit=200)}", f"B: {printable(second, limit=200)}", ""]
    lines += _differences(report)
    lines += _agreement(report)
    lines += ["", *_by_class(report)] if report.data.labelled_rows else ["", *_by_pair(report)]
    lines += ["", f"{report.data.rows:,} rows; {hardware(report)}"]
    return "\n".join(lines)


def _models(report: Report, teacher: ModelReport) -> list[str]:
    quality = [name for name in COLUMNS[report.task] if name in (report.student.metrics or {})]
    timed = report.student.speed is not None and teacher.speed is not None
    header = ["", *(TITLES[name] for name in quality), "parameters", "MB"] + ["ms", "rows/s"] * timed
    rows = [header]
    for name, model in (("A", report.student), ("B", teacher)):
        metrics = model.metrics or {}
        row = [name, *(show(metrics.get(metric), metric) for metric in quality)]
        row += sizes(model)
        if model.speed is not None and timed:
            row += [f"{model.speed.latency_ms_p50:.1f}", f"{model.speed.rows_per_s:,.0f}"]
        rows.append(row)
    return text_table(rows)


def _differences(report: Report) -> list[str]:
    lines = []
    for d in report.differences:
        if d.low <= 0 <= d.high:
            verdict = f"these {report.data.scored} do not tell which one is better"
        else:
            verdict = f"{'A' if d.mean > 0 else 'B'} is better"
        lines.append(
            f"A minus B: {TITLES[d.metric]} {signed(d.mean)} points, 95 % interval {signed(d.low)} to "
            f"{signed(d.high)}: {verdict}"
        )
    return lines


def _agreement(report: Report) -> list[str]:
    near = report.student.fidelity or {}
    if report.task == "regression":
        value = near.get("pearson_teacher")
        return [f"their numbers correlate by {show(value, 'pearson_teacher')} (Pearson)"]
    what = "words" if report.task == "token" else "rows"
    return [f"they give the same prediction for {show(near.get('agreement'), 'agreement')} of the {what}"]


def _by_class(report: Report) -> list[str]:
    """Return a line per class on the rows that only one model gets right, the most first."""
    if not report.classes:
        return []
    unit = "decisions" if report.task == "multi_label" else "words" if report.task == "token" else "rows"
    ordered = sorted(report.classes, key=lambda c: -((c.corrected or 0) + (c.new or 0)))
    table = [["class", "rows", "A finds", "B finds", "A alone right", "B alone right", "differ, both wrong"]]
    for one in ordered[:SHOWN]:
        finds = [show(recall, "accuracy") for recall in (one.student_recall, one.teacher_recall)]
        alone = [f"{value or 0:,}" for value in (one.corrected, one.new)]
        table.append(
            [printable(one.label, limit=40), f"{one.rows:,}", *finds, *alone, f"{_both_wrong(one):,}"]
        )
    more = len(ordered) - SHOWN
    return [
        f"Where they differ, in {unit} of each class:",
        *text_table(table),
        *([f"and {more} more classes"] if more > 0 else []),
    ]


def _both_wrong(one: ClassReport) -> int:
    """Return the number of rows that both get wrong, in different ways."""
    return (one.teacher_wrong or 0) - (one.same_wrong or 0) - (one.corrected or 0)


def _by_pair(report: Report) -> list[str]:
    """Return the most frequent pairs of different predictions."""
    cells = [
        cell
        for confusion in report.confusions or ()
        for cell in confusion.cells
        if confusion.against == "teacher" and cell.row != cell.column and cell.rows
    ]
    if not cells:
        return []
    names = [printable(one.label, limit=40) for one in report.classes]
    ordered = sorted(cells, key=lambda cell: -cell.rows)[:SHOWN]
    table = [["A", "B", "rows"], *([names[c.column], names[c.row], f"{c.rows:,}"] for c in ordered)]
    return ["Where they differ:", *text_table(table)]
