"""Several runs side by side: a table over objectives and seeds, kept in a Markdown page."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hfdistill.evaluation.report import (
    COLUMNS,
    PERCENT,
    TITLES,
    ModelReport,
    Report,
    reports_by_name,
    show,
    signed,
    sizes,
    timing,
)
from hfdistill.files.markdown import escape, table
from hfdistill.files.plain_data import write_atomically


def compare_runs(runs: Mapping[str, Sequence[Report]], *, baseline: str | None = None) -> str:
    """Return a Markdown table with a line per name: the mean over its reports, and each of them.

    Args:
        runs: reports of the same rows by name, or the paths of their files, one per seed.
        baseline: the name that the others are compared with, seed by seed: by `notes["seed"]` of the reports,
            which may be of fewer seeds on one side, else in their order.

    Returns:
        Columns: mean and single values of the task's first metric, the differences to the baseline's, mean
        closeness to the teacher. Best mean in bold.

    Raises:
        TypeError: for reports without names, and for anything in the place of a report.
        ValueError: no reports, reports of different tasks or rows, a baseline that is not among the names, or
            runs that cannot be paired with its own.
    """
    runs = reports_by_name(runs, "compare_runs")
    every = _alike(runs, "compare_runs")
    if baseline is not None and baseline not in runs:
        raise ValueError(f"baseline={baseline!r} is not among the names: {', '.join(map(repr, runs))}.")
    metric, closeness = COLUMNS[every[0].task][0], COLUMNS[every[0].task][-1]
    best = max(statistics.mean(_values(reports, metric)) for reports in runs.values())
    header = ["", TITLES[metric], "each seed"]
    header += [f"minus {escape(baseline)}"] if baseline is not None else []
    rows = []
    for name, reports in runs.items():
        row = [escape(name, limit=200), _mean(reports, metric, best=best)]
        row.append(" / ".join(show(value, metric) for value in _values(reports, metric)))
        if baseline is not None:
            row.append(_against(name, reports, runs[baseline], metric) if name != baseline else "")
        rows.append([*row, _closeness(reports, closeness)])
    return table([*header, TITLES[closeness]], rows)


def compare_students(
    distilled: Mapping[str, Sequence[Report]], undistilled: Mapping[str, Sequence[Report]] | None = None
) -> str:
    """Return a Markdown table of kinds of students: what each keeps of its teacher, weighs and takes.

    Args:
        distilled: reports beside one teacher by name, or the paths of their files, one per seed.
        undistilled: of the same students trained without a teacher; seeds as for `compare_runs`.

    Returns:
        Columns: weights, mean of the task's first metric (distilled, undistilled, their
        differences seed by seed: mean, smallest, largest), closeness of the distilled one, and the speed of
        the first report that was timed, beside the teacher's of the same pass (`time_together`). Below it,
        what was timed on which machine. Best mean of the students in bold.

    Raises:
        TypeError: for reports without names, and for anything in the place of a report.
        ValueError: no reports, reports of different tasks or rows, without a teacher, or not to be paired.
    """
    distilled = reports_by_name(distilled, "compare_students")
    others = reports_by_name(undistilled or {}, "compare_students")
    every = _alike(
        {**distilled, **{(name,): reports for name, reports in others.items()}}, "compare_students"
    )
    metric, closeness = COLUMNS[every[0].task][0], COLUMNS[every[0].task][-1]
    shown = next((report for report in every if report.student.speed), every[0])
    teacher = _teacher(shown)
    quality = show((teacher.metrics or {}).get(metric), metric)
    rows = [["teacher", *sizes(teacher), quality, "", "", "", *_pace(teacher, teacher)]]
    best = max(
        statistics.mean(_values(reports, metric)) for reports in (*distilled.values(), *others.values())
    )
    for name, reports in distilled.items():
        first = next((report for report in reports if report.student.speed), reports[0])
        row = [escape(name, limit=200), *sizes(first.student), _mean(reports, metric, best=best)]
        row += [_mean(others[name], metric, best=best)] if name in others else [""]
        row += [_against(name, reports, others[name], metric)] if name in others else [""]
        rows.append([*row, _closeness(reports, closeness), *_pace(first.student, _teacher(first))])
    header = ["", "parameters", "MB", f"{TITLES[metric]}, distilled", "undistilled", "difference"]
    lines = table([*header, TITLES[closeness], "ms", "faster", "rows/s", "faster"], rows)
    weights = f"MB: 1e6 bytes of {escape(shown.student.dtype)} weights."
    return f"{lines}\n\n{weights}{timing(shown, ms='ms', latencies='median', rates='rows/s')}"


def write_section(page: str | os.PathLike[str], name: str, text: str) -> Path:
    """Put text between the lines `<!-- name -->` and `<!-- /name -->` of a page, whole or not at all.

    Raises:
        ValueError: the page does not have each of the two lines once, in this order.
    """
    page = Path(page)
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    content = page.read_text(encoding="utf-8")
    before, opened, rest = content.partition(first)
    _, ended, after = rest.partition(last)
    if not opened or not ended or first in after or last in before + after:
        raise ValueError(
            f"{page.name} needs the lines {first} and {last} once each, in this order: the table goes "
            f"between them. Write them where it belongs."
        )
    return write_atomically(page, f"{before}{first}\n\n{text.strip()}\n\n{last}{after}")


def _alike(runs: Mapping[Any, Sequence[Report]], asked: str) -> list[Report]:
    """Return all reports, or raise an error where they cannot be compared."""
    every = [report for reports in runs.values() for report in reports]
    if not every or not all(runs.values()):
        raise ValueError(f"{asked} needs at least one report for each name, found none. Run them first.")
    if len({_rows_of(report) for report in every}) > 1:
        raise ValueError(
            f"{asked} found reports of different tasks or rows, which say nothing about each other. Give "
            "the reports of one data set."
        )
    return every


def _rows_of(report: Report) -> tuple[Any, ...]:
    """Return what is the same wherever the same rows were measured: also how many each class has."""
    counts = tuple(sorted(each.rows for each in report.classes if each.rows))
    return report.task, report.data.rows, report.data.labelled_rows, counts


def _teacher(report: Report) -> ModelReport:
    if report.teacher is None:
        raise ValueError("compare_students needs reports beside a teacher. Measure with teacher=.")
    return report.teacher


def _pace(model: ModelReport, teacher: ModelReport) -> list[str]:
    """Return milliseconds and rows per second, each with the speed-up over the teacher."""
    if model.speed is None or teacher.speed is None:
        return ["", "", "", ""]
    own, theirs = model.speed, teacher.speed
    ms, faster = f"{own.latency_ms_p50:.2f}", theirs.latency_ms_p50 / own.latency_ms_p50
    return [ms, f"{faster:.1f}x", f"{own.rows_per_s:,.0f}", f"{own.rows_per_s / theirs.rows_per_s:.1f}x"]


def _mean(reports: Sequence[Report], metric: str, *, best: float) -> str:
    mean = statistics.mean(_values(reports, metric))
    return f"**{show(mean, metric)}**" if mean == best else show(mean, metric)


def _closeness(reports: Sequence[Report], metric: str) -> str:
    """Return the mean over the reports, where it is known."""
    known = [near for report in reports if (near := report.student.scores.get(metric)) is not None]
    return show(statistics.mean(known), metric) if known else ""


def _values(reports: Sequence[Report], metric: str) -> list[float]:
    known = [own for report in reports if (own := report.student.scores.get(metric)) is not None]
    if len(known) < len(reports):
        raise ValueError(f"A report has no {TITLES[metric]}. Measure on rows that have labels.")
    return known


def _against(name: str, reports: Sequence[Report], others: Sequence[Report], metric: str) -> str:
    """Return the mean of the differences seed by seed, and the smallest and largest of them."""
    own, theirs = (_values(side, metric) for side in zip(*_seed_by_seed(name, reports, others), strict=True))
    differences = [a - b for a, b in zip(own, theirs, strict=True)]
    mean, low, high = (
        signed(x) if metric in PERCENT else f"{x:+.3f}"
        for x in (statistics.mean(differences), min(differences), max(differences))
    )
    return mean if len(differences) == 1 else f"{mean} ({low} to {high})"


def _seed_by_seed(
    name: str, reports: Sequence[Report], others: Sequence[Report]
) -> list[tuple[Report, Report]]:
    """Pair the reports of one seed: by `notes["seed"]`, or in their order where a report does not say it."""
    seeds = [[repr(report.notes.get("seed")) for report in side] for side in (reports, others)]
    if any("None" in side or len(set(side)) < len(side) for side in seeds):
        if len(reports) != len(others):
            raise ValueError(
                f"{name!r} has {len(reports)} reports and what it is compared with {len(others)}, and they "
                "do not say of which seeds. Give both every seed, or measure with notes={'seed': 1}."
            )
        return list(zip(reports, others, strict=True))
    of_seed = dict(zip(seeds[1], others, strict=True))
    pairs = [(one, of_seed[seed]) for seed, one in zip(seeds[0], reports, strict=True) if seed in of_seed]
    if not pairs:
        raise ValueError(
            f"{name!r} has the seeds {', '.join(seeds[0])} and what it is compared with {', '.join(seeds[1])}"
            ": nothing was trained by one seed on both sides. Train both with the same seeds."
        )
    return pairs
