"""`draw_losses` shows what the loss was made of, over the steps of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hfdistill.evaluation.plots.style import COLOURS, DASHES, MARKS, drawing, figure, plain_numbers, text

MOST = 6
"""Parts that are drawn beside the whole: as many as there are marks."""


def parts_of(history: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Return by name the (step, value) of the loss, its parts and the evaluation loss in the log history.

    A single part is the loss itself and left out.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    for entry in history:
        for name, value in entry.items():
            if (name == "eval_loss" or name == "loss" or name.startswith("loss_")) and "step" in entry:
                points.setdefault(name, []).append((float(entry["step"]), float(value)))
    parts = [name for name in points if name.startswith("loss_")]
    hidden = parts if len(parts) == 1 else parts[MOST - 1 :]
    return {name: values for name, values in points.items() if name not in hidden}


@drawing()
def draw_losses(history: Sequence[Mapping[str, Any]]) -> Any:
    """Draw the loss and its weighted parts over the optimizer steps, and the evaluation loss.

    Args:
        history: `trainer.state.log_history`.

    Raises:
        ValueError: no loss in it.
    """
    from matplotlib.ticker import NullFormatter

    parts = parts_of(history)
    if "loss" not in parts:
        raise ValueError("The history holds no loss. Give trainer.state.log_history, after some steps.")
    made = figure(8.0, 4.2)
    axes = made.add_subplot()
    for i, (name, values) in enumerate(sorted(parts.items(), key=lambda item: item[0] != "loss")):
        steps, losses = zip(*values, strict=True)
        every = max(1, len(steps) // 10)
        start = min(i * every // len(parts), len(steps) - 1)
        axes.plot(
            steps, losses, color=COLOURS[i], linestyle=DASHES[i], marker=MARKS[i], markersize=5,
            markevery=(start, every), linewidth=2.0 if name == "loss" else 1.3, label=_title(name),
        )  # fmt: skip
    positive = [value for values in parts.values() for _, value in values if value > 0]
    if positive and max(positive) > 30 * min(positive):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(plain_numbers())
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="optimizer step", ylabel="loss (mean over rows; parts as weighted)", title="Loss")
    made.legend(loc="outside right upper")
    return made


def _title(name: str) -> str:
    if name in ("loss", "eval_loss"):
        return {"loss": "whole loss", "eval_loss": "evaluation"}[name]
    return text(name.removeprefix("loss_").replace("_", " "))
