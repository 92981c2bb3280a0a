"""Where a metric keeps its rows until `compute`."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class InMemory:
    """Keeps an `evaluate.Metric` off the shared disk cache: `class MyMetric(InMemory, evaluate.Metric)`.

    `evaluate` 0.4.6 writes every row to `~/.cache/huggingface/metrics` behind a lock: two metrics of one name
    wait about a second for each other at every `compute`. In memory nothing is written and nothing waits.
    Several processes (`num_process > 1`) can only meet on disk, so they keep evaluate's own way.

    Not a subclass of `evaluate.Metric` itself: `evaluate.load("file.py")` takes the first one that it sees in
    a file.
    """

    def __init__(self, config_name: str | None = None, **options: Any) -> None:
        options["keep_in_memory"] = options.get("num_process", 1) == 1
        super().__init__(config_name, **options)  # type: ignore[call-arg]

    def _build_data_dir(self) -> str:
        if self.keep_in_memory:  # type: ignore[attr-defined]
            return str(Path(self._data_dir_root))  # type: ignore[attr-defined]
        return super()._build_data_dir()  # type: ignore[misc]
