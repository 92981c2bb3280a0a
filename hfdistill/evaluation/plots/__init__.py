"""Pictures of a report: drawn from its numbers and a run's log, never from a model."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hfdistill.evaluation.plots.frontier import draw_frontier
from hfdistill.evaluation.plots.losses import draw_losses, parts_of
from hfdistill.evaluation.plots.predictions import changes_of, draw_classes, draw_confusion, draw_reliability
from hfdistill.evaluation.plots.style import FOLDER, KINDS, PLOTS, check_kind, drawing, save
from hfdistill.evaluation.report import Report

logger = logging.getLogger(__name__)


def write_plots(
    folder: str | os.PathLike[str],
    report: Report | str | os.PathLike[str],
    *,
    history: Sequence[Mapping[str, Any]] | None = None,
    kind: str = "png",
) -> list[Path]:
    """Draw what a report holds into `folder/plots`: reliability, confusion, classes, and a run's loss.

    The names of the files are fixed: loss, reliability, confusion and classes, each whole or not at all;
    what the report does not hold is removed there. `write_card`, called afterwards, shows them. A run does
    not fail for its pictures: without matplotlib, or where one cannot be drawn, a warning says so.

    Args:
        folder: of the student.
        report: what `measure` gave, or the path of its file.
        history: `trainer.state.log_history`; without it a picture of the loss stays as it is.
        kind: "png" or "svg".

    Returns:
        The files that were written.

    Raises:
        TypeError: `report` is neither.
        ValueError: for another kind.

    Example:
        >>> write_plots("out/student", report, history=trainer.state.log_history)  # doctest: +SKIP
    """
    check_kind(kind)
    report = Report.of(report)
    try:
        with drawing():
            pass
    except ImportError as error:
        logger.warning("No plots. %s", error)
        return []
    draw: dict[str, Callable[[], Any] | None] = {
        "reliability": (lambda: draw_reliability(report))
        if any(model.reliability for model in report.models().values())
        else None,
        "confusion": (lambda: draw_confusion(report)) if report.confusions else None,
        "classes": (lambda: draw_classes(report)) if changes_of(report) else None,
    }
    if history is not None:
        draw["loss"] = (lambda: draw_losses(history)) if "loss" in parts_of(history) else None
    written = []
    for name, make in ((name, draw[name]) for name in PLOTS if name in draw):
        paths = {k: Path(folder, FOLDER, f"{name}.{k}") for k in KINDS}
        path = None if make is None else write_picture(make, paths[kind])
        for old in (other for other in paths.values() if other != path):
            old.unlink(missing_ok=True)
        written += [] if path is None else [path]
    return written


def write_picture(make: Callable[[], Any], path: Path) -> Path | None:
    """Write what `make` draws; return the picture's file, or None, after a warning, where it fails."""
    try:
        return save(make(), path)
    except OSError:
        raise  # it cannot be written, nor can the card
    except Exception as error:  # of matplotlib's many kinds; what was measured is worth more than a picture
        logger.warning("%s was not drawn: %s: %s", path, type(error).__name__, error)
        return None


def write_frontier(
    path: str | os.PathLike[str],
    distilled: Mapping[str, Sequence[Report]],
    undistilled: Mapping[str, Sequence[Report]] | None = None,
) -> Path:
    """Draw quality over latency, with size as bubbles, into a .png or .svg; see `draw_frontier`.

    Raises:
        TypeError: for reports without names, and for anything in the place of a report.
        ValueError: another kind of file, no student that was timed, or a report without labels.
        ImportError: matplotlib is not installed.
    """
    check_kind(Path(path).suffix.removeprefix("."))
    return save(draw_frontier(distilled, undistilled), path)
