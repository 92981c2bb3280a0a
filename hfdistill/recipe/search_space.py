"""The search section of a page: which values to try at which places."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from hfdistill.files.plain_data import printable
from hfdistill.recipe.page import Page, put

MAPS = ("uniform", "last", "pkd-skip", "pkd-last")
REACH = 5.0
UNCOMPARABLE = frozenset({"data.source", "data.evaluation", "data.evaluation_rows", "data.holdout"})
UNCOMPARABLE |= {"data.train", "data.config", "training.output_dir", "training.seed"}
"""Places that decide which rows are measured on, or where."""


@dataclass(frozen=True)
class Dimension:
    """One place of a page, and what may stand there.

    Args:
        path: as in an override, such as "objective.kd.temperature".
        choices: values to choose from; empty for a range.
        low: lower end of a range.
        high: upper end.
        log: draw its logarithm evenly.
        whole: whole numbers only.
    """

    path: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def ends(self) -> tuple[Any, ...]:
        """Return values that stand for all: the choices, or both ends."""
        return self.choices or (self.low, self.high)

    def suggested(self, trial: Any) -> Any:
        """Return the value that an Optuna trial draws."""
        if self.choices:
            return json.loads(trial.suggest_categorical(self.path, [json.dumps(c) for c in self.choices]))
        if self.whole:
            return trial.suggest_int(self.path, int(self.low), int(self.high), log=self.log)
        drawn = trial.suggest_float(self.path, self.low, self.high, log=self.log)
        return min(self.high, max(self.low, float(f"{drawn:.4g}")))  # a page that people can read

    def to_optuna(self, value: Any) -> Any:
        """Return a value as Optuna writes it; None where it lies outside."""
        if self.choices:
            return json.dumps(value) if value in self.choices else None
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return value if number and self.low <= value <= self.high else None


def dimensions(page: Page, section: Any, mistakes: Callable[[Page], list[str]]) -> tuple[Dimension, ...]:
    """Return what the `search` section says, each end of each range put in its place and checked there."""
    if section is None or section == {}:
        return ()
    if not isinstance(section, dict):
        page.refuse(("search",), "takes places and ranges. Type `objective.kd.temperature: [1, 8]`.")
        return ()
    known = set(mistakes(_without_search(page)))
    accepted = []
    for path, value in section.items():
        dimension = _dimension(str(path), value)
        if str(path) in UNCOMPARABLE:
            page.refuse(
                ("search", path), "decides which rows are measured on: no two values can be compared."
            )
            continue
        wrong = (
            ["is not a range. Type [1, 8], [1.0e-5, 1.0e-3, log], or choices: [uniform, last]."]
            if dimension is None
            else [text for end in dimension.ends() for text in _tried(page, str(path), end, mistakes, known)]
        )
        for text in dict.fromkeys(wrong):
            page.refuse(("search", path), text)
        if dimension is not None and not wrong:
            accepted.append(_numbers(page, dimension, mistakes, known))
    return tuple(accepted)


def _dimension(path: str, value: Any) -> Dimension | None:
    if isinstance(value, dict):
        choices = value.get("choices") if list(value) == ["choices"] else None
        return Dimension(path, tuple(choices)) if isinstance(choices, list) and choices else None
    if not isinstance(value, list) or len(value) < 2:
        return None
    numbers = [v for v in value[:2] if isinstance(v, (int, float)) and not isinstance(v, bool)]
    log = value[2:] == ["log"]
    if len(numbers) < 2 or (len(value) > 2 and not log):
        return None if "log" in value else Dimension(path, tuple(value))
    low, high = numbers
    if not low < high or (log and low <= 0):
        return None
    return Dimension(path, low=low, high=high, log=log)


def _numbers(page: Page, dimension: Dimension, mistakes: Any, known: set[str]) -> Dimension:
    """Return whole numbers where both ends are whole and the place takes no others."""
    if dimension.choices or not all(type(end) is int for end in dimension.ends()):
        return dimension
    whole = bool(_tried(page, dimension.path, dimension.low + 0.5, mistakes, known))
    return replace(dimension, whole=whole)


def _tried(page: Page, path: str, value: Any, mistakes: Any, known: set[str]) -> list[str]:
    """Return the mistakes of the page with a value put in."""
    other = _without_search(page)
    where = put(other, path, value) if all(path.split(".")) else ()
    if where is not None:
        return ["there is no such place. Write a path as in an override, such as training.learning_rate."]
    return [text for text in mistakes(other) if text not in known]


def _without_search(page: Page) -> Page:
    values = {name: value for name, value in page.values.items() if name != "search"}
    return Page(page.name, copy.deepcopy(values))


def usual(page: dict[str, Any], mistakes: Callable[[Page], list[str]]) -> tuple[Dimension, ...]:
    """Return what is searched by default: learning rate, temperatures, weights and layer maps."""
    ranges = dict(_usual(page))
    whole = _without_search(Page("search", page))
    known = set(mistakes(whole))
    for path, value in ranges.items():
        if isinstance(value, dict):
            value["choices"] = [c for c in value["choices"] if not _tried(whole, path, c, mistakes, known)]
    accepted = dimensions(whole, {p: v for p, v in ranges.items() if v != {"choices": []}}, mistakes)
    if whole.mistakes:
        raise ValueError("; ".join(map(str, whole.mistakes)))
    return accepted


def _usual(page: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    from hfdistill.objectives import registered
    from hfdistill.recipe.signatures import parameters_by_inspection

    rate = page["training"].get("learning_rate", 5e-5)
    yield "training.learning_rate", [rate / REACH, rate * REACH, "log"]
    objective = page.get("objective")
    written = objective if isinstance(objective, list) else []
    terms = [term if isinstance(term, dict) else {term: None} for term in written]
    names = [next(iter(term)) for term in terms]
    for number, (name, term) in enumerate(zip(names, terms, strict=True)):
        arguments, takes = term[name] or {}, parameters_by_inspection(registered()[name])
        weight = arguments.get("weight", 1.0)
        place = f"objective.{name}" if names.count(name) == 1 else f"objective.{number}.{name}"
        if len(terms) > 1 and isinstance(weight, (int, float)) and weight > 0:
            yield f"{place}.weight", [weight / REACH, weight * REACH, "log"]
        if "temperature" in takes and isinstance(arguments.get("temperature", 1), (int, float)):
            yield f"{place}.temperature", [1.0, 8.0]
        if "layers" in takes and takes["layers"].default in MAPS:
            yield f"{place}.layers", {"choices": list(MAPS)}


def described(dimension: Dimension) -> str:
    """Return a line on what is tried."""
    if dimension.choices:
        return f"{dimension.path}: one of {', '.join(printable(c) for c in dimension.choices)}"
    scale = ", by its logarithm" if dimension.log else ""
    return f"{dimension.path}: {dimension.low:g} to {dimension.high:g}{scale}"
