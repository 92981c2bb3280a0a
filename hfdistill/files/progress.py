"""Says how far long work is: by a bar, or by a line now and then where nobody watches a terminal."""

from __future__ import annotations

import logging
import math
import sys
import time
from typing import Any, Literal, TypeAlias

from tqdm.auto import tqdm

logger = logging.getLogger(__name__)

SECONDS = 30.0
"""What passes between two lines."""

Shown: TypeAlias = Literal["bar", "log", "none"]


class Progress:
    """Counts what is done of long work, and shows it; a context manager.

    Args:
        work: what is done, as a message begins: "recording the teacher".
        total: how many there are; None where nobody knows.
        unit: what is counted.
        show: "bar" for one by tqdm, "log" for a line every half minute, logged as information, "none" for
            neither; None for a bar where stderr is a terminal, else lines.
        leave: whether a bar stays when all is done.

    Example:
        >>> with Progress("reading", total=2, show="none") as progress:
        ...     progress.update()
        >>> progress.n
        1
    """

    def __init__(
        self, work: str, *, total: int | None = None, unit: str = "rows", show: Shown | None = None,
        leave: bool = False,
    ) -> None:  # fmt: skip
        if show is None:
            show = "bar" if sys.stderr.isatty() else "log"
        self.work, self.total, self.unit, self.n = work, total, unit, 0
        self._logs, self._start = show == "log", time.monotonic()
        self._last = self._start
        title, hidden = work[:1].upper() + work[1:], show != "bar"
        self._bar = tqdm(
            total=total, desc=title, unit=f" {unit}", leave=leave, dynamic_ncols=True, disable=hidden
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.close()

    def update(self, done: int = 1) -> None:
        """Count what was done since."""
        self.n += done
        self._bar.update(done)
        now = time.monotonic()
        if self._logs and now - self._last >= SECONDS and self.n != self.total:
            self._last = now
            logger.info("%s: %s", self.work, self._line(now - self._start))

    def _line(self, seconds: float) -> str:
        if self.total is None or not self.n:
            return f"{self.n:,} {self.unit}"
        left = duration(seconds / self.n * (self.total - self.n))
        return f"{self.n:,} of {self.total:,} {self.unit}, {left} left"


def announce(text: str, show: Shown) -> None:
    """Say what long work begins, where its progress is shown."""
    if show == "bar":
        tqdm.write(f"{text}.", file=sys.stderr)
    elif show == "log":
        logger.info("%s", text)


def duration(seconds: float) -> str:
    """Return a time as people say it: "40 s", "12 min", "3 h 5 min"."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
