"""`check_settings` keeps the settings of a folder of runs: others must not pass for the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from hfdistill.files.plain_data import as_read_back, read_json, write_json

FILE = "settings.json"
MECHANICS: tuple[str, ...] = (
    "output_dir",
    "logging_",
    "save_",
    "eval_",
    "report_to",
    "run_name",
    "push_to_hub",
    "hub_",
)
MECHANICS += ("disable_tqdm", "log_", "allow_changed", "resume_from", "load_best", "dataloader_")
MECHANICS += ("per_device_eval", "teacher_check", "metric_for_best", "greater_is_better", "use_cpu")
"""How the names of those training arguments begin that decide nothing about the weights."""


def check_settings(
    folder: str | Path,
    *settings: Any,
    may_change: Collection[str] = (),
    may_grow: Collection[str] = ("num_train_epochs", "max_steps"),
) -> None:
    """Refuse to go on in a folder, or to take finished runs from it, with settings that differ.

    The first call writes the settings to `folder/settings.json`; later ones compare, once the folder holds a
    checkpoint, weights or a report: a start that was refused binds nobody. Training arguments that decide
    nothing about the weights, such as `logging_steps`, may always differ.

    Args:
        folder: of the runs.
        *settings: dataclasses, such as a script's own options and `DistillationArguments`.
        may_change: names that may differ, since every run has a folder of its own for each value.
        may_grow: numbers that may be larger than they were, since a run then goes on.

    Raises:
        ValueError: naming what differs, then → now, and what to type.

    Example:
        >>> check_settings("out/study", study, args, may_change=["seeds"])  # doctest: +SKIP
    """
    path, now = Path(folder, FILE), dict(_plain(settings))
    then = read_json(path, limit=10_000_000) if path.is_file() and _holds_runs(path.parent) else now
    changed = [
        f"{name} {then[name]} → {now[name]}"
        for name in now
        if name in then and then[name] != now[name] and name not in may_change
        if not (name in may_grow and _is_more(now[name], then[name]))
    ]
    if changed:
        raise ValueError(
            f"{folder} holds runs of other settings ({'; '.join(changed)}), whose reports would pass for "
            "these. Type another --output_dir, or delete that folder."
        )
    if not any(getattr(one, "process_index", 0) for one in settings):  # the first of several writes
        write_json(path, now)


def _holds_runs(folder: Path) -> bool:
    names = ("checkpoint-*", "*.safetensors", "report.json")
    return any(True for name in names for _ in folder.rglob(name))


def _plain(settings: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    """Yield names and values as JSON has them, without those that decide nothing."""
    for one in settings:
        values = {field.name: getattr(one, field.name) for field in dataclasses.fields(one) if field.init}
        for name, value in as_read_back(values, default=str).items():
            if not name.startswith(MECHANICS):
                yield name, value


def _is_more(now: Any, then: Any) -> bool:
    return isinstance(now, (int, float)) and isinstance(then, (int, float)) and now > then
