"""The folders that a run writes, and what a page names to be read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_STAGES = re.compile(r"student|baseline|onnx|best|(assistant|generation)-\d+")


def strings_in(values: Any, where: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yield each string of a part of a page, with its place."""
    if isinstance(values, str):
        yield where, values
    items = (
        values.items() if isinstance(values, dict) else enumerate(values if isinstance(values, list) else ())
    )
    for key, value in items:
        yield from strings_in(value, (*where, key))


def written_by(path: str, output_dir: str, *, teacher: bool) -> bool:
    """Return whether a path is a folder, or within one, that a run under `output_dir` writes anew.

    Args:
        path: of a model that is read; a Hub id, too.
        output_dir: of the run.
        teacher: whether the run trains a teacher, into the folder of that name.
    """
    try:
        inside = Path(path).expanduser().resolve().relative_to(Path(output_dir).expanduser().resolve())
        stage = inside.parts[0] if inside.parts and Path(path).expanduser().is_dir() else ""
    except (ValueError, OSError, RuntimeError):
        return False
    return _STAGES.fullmatch(stage) is not None or (teacher and stage == "teacher")
