"""What a page asks of rows that it streams, and which only rows in memory can give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hfdistill.recipe import schema
from hfdistill.recipe.page import Where

_DRAWN = ("train_rows", "labelled_rows", "unlabelled", "augment", "fresh_copies", "holdout")
"""Keys of `data` that draw among all rows, or add to them."""


def stream_mistakes(
    data: Mapping[str, Any],
    training: Mapping[str, Any],
    teacher: tuple[str, dict[str, Any]] | None,
    *,
    goal: bool,
) -> Iterator[tuple[Where, str]]:
    """Yield where a page with `streaming: true` asks for too much, and why with what to type."""
    steps = training.get("max_steps", -1)
    if isinstance(steps, int) and steps <= 0:
        yield (
            ("training",),
            "lacks max_steps: the rows of a stream cannot be counted, and the learning rate has to know the "
            "last step. Type max_steps: 10000, rows * epochs / rows a step.",
        )
    for name in _DRAWN:
        if data.get(name):
            text = "needs all rows, and `streaming: true` reads them one after the other. Leave one out."
            yield ("data", name), text
    if goal:
        yield ("goal",), "compares students on parts of all rows. Leave streaming out of `data:`."
    kind = None if teacher is None else teacher[0]
    if kind == "finetune":
        yield (
            ("teacher", kind),
            "is trained in epochs of rows in memory. Fine-tune it first, by a page of its own with `teacher: "
            "null` and `streaming: true`, and name its folder: `teacher: out/teacher/student`.",
        )
    if kind is not None and kind in schema.TEACHERS and schema.TEACHERS[kind].reads_text:
        text = "is asked about every text before the first step. Leave streaming out of `data:`."
        yield ("teacher", kind), text
