"""Data without a length: how many steps a pass through it takes, so that a run resumes within a later one."""

from __future__ import annotations

from pathlib import Path

from hfdistill.files.checkpoint import CheckpointError
from hfdistill.files.plain_data import read_json, write_json

PASSES = "passes.json"


class Passes:
    """Counts the steps of each pass through a stream.

    Trainer takes the whole run for one epoch where data has no length: it would skip as many batches as the
    run has seen, which leads beyond the end of a stream that was read through before.

    Args:
        rows: of an optimizer step, on all processes.
    """

    def __init__(self, *, rows: int) -> None:
        self.rows = rows
        self.steps: int | None = None
        """Optimizer steps of a pass; None until one has ended."""

    def load(self, folder: Path | None) -> None:
        """Read the count from a checkpoint; nothing for a run that begins.

        Raises:
            CheckpointError: where passes had several lengths, or a step had another number of rows.
        """
        self.steps = None
        if folder is None or not (folder / PASSES).is_file():
            return
        seen = read_json(folder / PASSES, limit=1000)
        self.steps = seen["steps"]
        if seen["rows"] != self.rows:
            raise CheckpointError(
                f"The run in {folder} took {seen['rows']} rows a step from its stream, and this one takes "
                f"{self.rows}, so where it stood cannot be told. Type ignore_data_skip=True to begin a pass "
                "anew."
            )
        if self.steps == 0:
            raise CheckpointError(
                f"The stream of the run in {folder} has given another number of batches in one pass than in "
                "another, so where it stood cannot be told. Type ignore_data_skip=True to begin a pass anew, "
                "and give a stream that always comes in the same order."
            )

    def end(self, *, number: int, step: int) -> None:
        """Note after how many steps of the run a pass (counted from 0) has ended; unequal ones give 0."""
        steps, rest = divmod(step, number + 1)
        self.steps = steps if not rest and self.steps in (None, steps) else 0

    def save(self, folder: Path) -> None:
        """Write it into a checkpoint, once a pass has ended."""
        if self.steps is not None:
            write_json(folder / PASSES, {"steps": self.steps, "rows": self.rows})
