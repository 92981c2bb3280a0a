"""Several runs side by side: a table over objectives and seeds, kept in a Markdown page."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from hfdistill.markdown import escape, table
from hfdistill.plain import write_atomically
from hfdistill.report import COLUMNS, PERCENT, TITLES, Report, show, signed


def compare_runs(runs: Mapping[str, Sequence[Report]], *, baseline: str | None = None) -> str:
    """A Markdown table with a line per name: the mean over its reports, and each of them.

    Args:
        runs: reports of the same rows by name, one per seed, in the same order of seeds.
        baseline: the name that the others are compared with, seed by seed.

    Returns:
        Columns: mean and single values of the task's first metric, the differences to the baseline's, mean
        closeness to the teacher. Best mean in bold.

    Raises:
        ValueError: no reports, reports of different tasks or rows, or a baseline that is not among the names.
    """
    every = [report for reports in runs.values() for report in reports]
    if not every or not all(runs.values()):
        raise ValueError("compare_runs needs at least one report for each name, found none. Run them first.")
    if len({(report.task, report.data.rows, report.data.labelled_rows) for report in every}) > 1:
        raise ValueError(
            "compare_runs found reports of different tasks or rows, which say nothing about each other. Give "
            "the reports of one data set."
        )
    if baseline is not None and baseline not in runs:
        raise ValueError(f"baseline={baseline!r} is not among the names: {', '.join(map(repr, runs))}.")
    metric, closeness = COLUMNS[every[0].task][0], COLUMNS[every[0].task][-1]
    means = {name: statistics.mean(_values(reports, metric)) for name, reports in runs.items()}
    header = ["", TITLES[metric], "each seed"]
    header += [f"minus {escape(baseline)}"] if baseline is not None else []
    rows = []
    for name, reports in runs.items():
        mean = show(means[name], metric)
        row = [escape(name, limit=200), f"**{mean}**" if means[name] == max(means.values()) else mean]
        row.append(" / ".join(show(value, metric) for value in _values(reports, metric)))
        if baseline is not None:
            row.append(_against(reports, runs[baseline], metric) if name != baseline else "")
        near = [(report.student.fidelity or {}).get(closeness) for report in reports]
        known = [value for value in near if value is not None]
        row.append(show(statistics.mean(known), closeness) if known else "")
        rows.append(row)
    return table([*header, TITLES[closeness]], rows)


def write_section(page: str | os.PathLike[str], name: str, text: str) -> Path:
    """Put text between the lines `<!-- name -->` and `<!-- /name -->` of a page, whole or not at all.

    Raises:
        ValueError: the page does not have each of the two lines once, in this order.
    """
    page = Path(page)
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    content = page.read_text(encoding="utf-8")
    before, found, rest = content.partition(first)
    _, ended, after = rest.partition(last)
    if not found or not ended or first in after or last in before + after:
        raise ValueError(
            f"{page.name} needs the lines {first} and {last} once each, in this order: the table goes "
            f"between them. Write them where it belongs."
        )
    return write_atomically(page, f"{before}{first}\n\n{text.strip()}\n\n{last}{after}")


def _values(reports: Sequence[Report], metric: str) -> list[float]:
    found = [(report.student.metrics or {}).get(metric) for report in reports]
    if any(value is None for value in found):
        raise ValueError(f"A report has no {TITLES[metric]}. Measure on rows that have labels.")
    return [value for value in found if value is not None]


def _against(reports: Sequence[Report], others: Sequence[Report], metric: str) -> str:
    """The mean of the differences seed by seed, and the smallest and largest of them."""
    pairs = zip(_values(reports, metric), _values(others, metric), strict=False)
    differences = [own - other for own, other in pairs]
    if metric not in PERCENT:
        return f"{statistics.mean(differences):+.3f}"
    mean, low, high = (signed(x) for x in (statistics.mean(differences), min(differences), max(differences)))
    return f"{mean} ({low} to {high})"
