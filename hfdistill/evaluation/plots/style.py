"""The style of every plot: readable in black and white, by colour-blind readers, whatever a label says."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hfdistill.files.plain_data import printable, write_atomically

KINDS = ("png", "svg")
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, which colour-blind readers tell apart; in grey the marks below do."""
MARKS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 4)))
HATCHES = ("", "////", "....")
ROLES = {"teacher": 1, "student": 0, "baseline": 2}
"""Which colour, mark, dash and hatch a model gets everywhere."""
NAMES = {"teacher": "teacher", "student": "student", "baseline": "undistilled"}

_STYLE = {
    "text.parse_math": False,  # a label with dollars is a label
    "text.usetex": False,
    "svg.hashsalt": "hfdistill",  # the same picture is the same file
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "hatch.linewidth": 0.7,
}


@contextmanager
def drawing() -> Iterator[None]:
    """While open, matplotlib has the style of these plots, whatever the user's settings are."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(
            "Plots are drawn by matplotlib, which is not installed. Type: pip install 'hfdistill[plots]'"
        ) from error
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # drawn as a box
        yield


def figure(width: float, height: float) -> Any:
    """Return an empty figure of these inches, made without pyplot, which keeps every figure it has seen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made: Any = Figure(figsize=(width, height), dpi=150, layout="constrained")
    made.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    FigureCanvasAgg(made)
    return made


def plain_numbers() -> Any:
    """Return a formatter that writes the values of a logarithmic axis as numbers, not as powers."""
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: f"{value:g}")


def text(label: object, *, limit: int = 32) -> str:
    """Return a label of one line that fits beside an axis; "(blank)" for one without a visible character."""
    return printable(label, limit=limit) or "(blank)"


def save(made: Any, path: str | os.PathLike[str]) -> Path:
    """Write a figure whole or not at all, as PNG or SVG by its name; the same figure gives the same bytes."""
    path = Path(path)
    kind = path.suffix.removeprefix(".").lower()
    check_kind(kind)
    held = io.BytesIO()
    with drawing():
        made.savefig(held, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return write_atomically(path, held.getvalue())


def check_kind(kind: str) -> None:
    """Refuse kinds of files that are not written."""
    if kind not in KINDS:
        raise ValueError(f"Plots are written as {' or '.join(KINDS)}, found {kind!r}. Name the file x.png.")


FOLDER = "plots"
PLOTS = {
    "trials": "What the search for this student tried: what each candidate keeps, over its latency.",
    "loss": "The loss and its parts over the optimizer steps.",
    "reliability": "Right answers over confidence, and the rows of each confidence.",
    "confusion": "Which classes the student takes for which, against the labels and the teacher.",
    "classes": "The recall of each class, the teacher's and the student's.",
}
"""Name of the file, without its ending, and what it shows."""
