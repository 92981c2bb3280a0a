"""The pages that a model was really trained by: a run that goes on keeps what made its earlier steps."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hfdistill.files.plain_data import as_read_back, read_json, write_json
from hfdistill.files.settings import MECHANICS
from hfdistill.recipe.page import MAX_BYTES, read_page

AFTERWARDS = ("measure", "export", "card", "search")
"""Sections of a page that decide nothing about the weights."""
_ROWS_MEASURED = ("evaluation", "evaluation_rows")


class TrainingRecord:
    """The pages by which one model's steps were made, kept beside its folder.

    The file holds `[{"after": 0, "page": {…}}, {"after": 195, "page": {…}}]`: the second page made the steps
    from 196 on.
    """

    def __init__(self, output_dir: str | Path, stage: str, page: Mapping[str, Any]) -> None:
        self.stage, self.folder = stage, Path(output_dir, stage)
        self.page: dict[str, Any] = as_read_back(page, default=str)
        self.path = Path(output_dir, f"trained-{stage}.json")
        self.parts: list[dict[str, Any]] = []
        if self.path.is_file():
            self.parts = read_json(self.path, limit=100 * MAX_BYTES)

    def begin(self, step: int) -> None:
        """Note that this page makes the steps from `step` on; earlier notes on later steps are dropped."""
        if step and not self.parts and (earlier := self._earlier()):
            self.parts = [{"after": 0, "page": earlier}]
        self.parts = [part for part in self.parts if part["after"] < step]
        if not self.parts or changes(self.parts[-1]["page"], self.page):
            self.parts.append({"after": step, "page": self.page})
        write_json(self.path, self.parts)

    def trained_page(self) -> dict[str, Any]:
        """Return the page that made the last steps, with the sections of this run's page that come after."""
        earlier = self.parts[-1]["page"] if self.parts else self._earlier() or self.page
        page = {name: copy.deepcopy(earlier.get(name)) for name in earlier if name not in AFTERWARDS}
        page |= {name: value for name, value in self.page.items() if name in AFTERWARDS}
        now, rows, training = self.page, page.get("data"), page.get("training")
        if isinstance(rows, dict) and isinstance(now.get("data"), dict):
            rows |= {name: now["data"][name] for name in _ROWS_MEASURED if name in now["data"]}
        if isinstance(training, dict):
            training.pop("allow_changed", None)
            training["output_dir"] = now["training"]["output_dir"]
        return {name: page[name] for name in {**self.page, **page} if name in page}

    def untrained(self) -> dict[str, str]:
        """Return place → "then → now" for settings of this run's page that no step was made with."""
        return changes(self.trained_page(), self.page)

    def earlier_parts(self) -> list[str]:
        """Return a sentence for each earlier part of the training that another page made."""
        sentences = []
        for part, later in zip(self.parts, self.parts[1:], strict=False):
            differ = ", ".join(
                f"{place} {value}" for place, value in changes(part["page"], self.page).items()
            )
            first = part["after"] + 1
            if differ:
                sentences.append(f"{self.stage}, steps {first} to {later['after']}, then → now: {differ}")
        return sentences

    def _earlier(self) -> dict[str, Any] | None:
        """Return the page that a version of this library without a record left beside the student."""
        path = self.folder / "recipe.yaml"
        return dict(read_page(path).values) if path.is_file() and not self.path.is_file() else None


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Return place → "then → now" for each setting that decides the weights and differs between two pages."""
    flat = [dict(_flat({k: v for k, v in page.items() if k not in AFTERWARDS})) for page in (then, now)]
    return {
        place: f"{flat[0].get(place)} → {flat[1].get(place)}"
        for place in {**flat[0], **flat[1]}
        if flat[0].get(place) != flat[1].get(place) and not _is_mechanic(place)
    }


def _is_mechanic(place: str) -> bool:
    section, _, key = place.partition(".")
    return (section == "training" and key.startswith(MECHANICS)) or (
        section == "data" and key in _ROWS_MEASURED
    )


def _flat(value: Any, place: str = "") -> Any:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{place}.{name}" if place else str(name))
    else:
        yield place, value
