"""The search section of a page: which values to try at which places."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
        """Values that stand for all: the choices, or both ends."""
        return self.choices or (self.low, self.high)

    def suggested(self, trial: Any) -> Any:
        """The value that an Optuna trial draws."""
        if self.choices:
            return json.loads(trial.suggest_categorical(self.path, [json.dumps(c) for c in self.choices]))
        if self.whole:
            return trial.suggest_int(self.path, int(self.low), int(self.high), log=self.log)
        drawn = trial.suggest_float(self.path, self.low, self.high, log=self.log)
        return min(self.high, max(self.low, float(f"{drawn:.4g}")))  # a page that people can read

    def drawn(self, value: Any) -> Any:
        """A value as Optuna writes it; None where it lies outside."""
        if self.choices:
            return json.dumps(value) if value in self.choices else None
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return value if number and self.low <= value <= self.high else None


def dimensions(page: Page, told: Any, mistakes: Callable[[Page], list[str]]) -> tuple[Dimension, ...]:
    """What the `search` section says, each end of each range put in its place and checked there.

    Args:
        page: the whole page; mistakes are noted in it.
        told: path → [low, high], [low, high, log] or choices.
        mistakes: what is wrong with a page, a text for each.
    """
    if told is None or told == {}:
        return ()
    if not isinstance(told, dict):
        page.refuse(("search",), "takes places and ranges. Type `objective.kd.temperature: [1, 8]`.")
        return ()
    known = set(mistakes(_without_search(page)))
    found = []
    for path, value in told.items():
        dimension = _dimension(str(path), value)
        if str(path) in UNCOMPARABLE:
            page.refuse(
                ("search", path), "decides which rows are measured on: no two values can be compared."
            )
            continue
        wrong = (
            ["is no range. Type [1, 8], [1.0e-5, 1.0e-3, log], or choices: [uniform, last]."]
            if dimension is None
            else [text for end in dimension.ends() for text in _tried(page, str(path), end, mistakes, known)]
        )
        for text in dict.fromkeys(wrong):
            page.refuse(("search", path), text)
        if dimension is not None and not wrong:
            found.append(_numbers(page, dimension, mistakes, known))
    return tuple(found)


def _dimension(path: str, value: Any) -> Dimension | None:
    if isinstance(value, dict):
        told = value.get("choices") if list(value) == ["choices"] else None
        return Dimension(path, tuple(told)) if isinstance(told, list) and told else None
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
    """Whole numbers where both ends are whole and the place takes no others."""
    if dimension.choices or not all(type(end) is int for end in dimension.ends()):
        return dimension
    whole = bool(_tried(page, dimension.path, dimension.low + 0.5, mistakes, known))
    return Dimension(dimension.path, low=dimension.low, high=dimension.high, log=dimension.log, whole=whole)


def _tried(page: Page, path: str, value: Any, mistakes: Any, known: set[str]) -> list[str]:
    """What is wrong with the page once a value is put in."""
    other = _without_search(page)
    where = put(other, path, value) if all(path.split(".")) else ()
    if where is not None:
        return ["there is no such place. Write a path as in an override, such as training.learning_rate."]
    return [text for text in mistakes(other) if text not in known]


def _without_search(page: Page) -> Page:
    values = {name: value for name, value in page.values.items() if name != "search"}
    return Page(page.name, copy.deepcopy(values))


def usual(page: dict[str, Any], mistakes: Callable[[Page], list[str]]) -> tuple[Dimension, ...]:
    """What is searched where a page does not say: the learning rate; each term's temperature, weight and map.

    Args:
        page: its content.
        mistakes: what is wrong with a page; maps that a term refuses are left out.
    """
    told = dict(_usual(page))
    whole = Page("search", copy.deepcopy({k: v for k, v in page.items() if k != "search"}))
    known = set(mistakes(whole))
    for path, value in told.items():
        if isinstance(value, dict):
            value["choices"] = [c for c in value["choices"] if not _tried(whole, path, c, mistakes, known)]
    found = dimensions(whole, {p: v for p, v in told.items() if v != {"choices": []}}, mistakes)
    if whole.mistakes:
        raise ValueError("; ".join(map(str, whole.mistakes)))
    return found


def _usual(page: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    from hfdistill.objectives import registered
    from hfdistill.recipe.signatures import parameters_by_inspection

    rate = page["training"].get("learning_rate", 5e-5)
    yield "training.learning_rate", [rate / REACH, rate * REACH, "log"]
    terms = [term if isinstance(term, dict) else {term: None} for term in page.get("objective") or []]
    names = [next(iter(term)) for term in terms]
    for number, (name, term) in enumerate(zip(names, terms, strict=True)):
        told, takes = term[name] or {}, parameters_by_inspection(registered()[name])
        weight = told.get("weight", 1.0)
        place = f"objective.{name}" if names.count(name) == 1 else f"objective.{number}.{name}"
        if len(terms) > 1 and isinstance(weight, (int, float)) and weight > 0:
            yield f"{place}.weight", [weight / REACH, weight * REACH, "log"]
        if "temperature" in takes and isinstance(told.get("temperature", 1), (int, float)):
            yield f"{place}.temperature", [1.0, 8.0]
        if "layers" in takes and takes["layers"].default in MAPS:
            yield f"{place}.layers", {"choices": list(MAPS)}


def described(dimension: Dimension) -> str:
    """A line of what is tried."""
    if dimension.choices:
        return f"{dimension.path}: one of {', '.join(printable(c) for c in dimension.choices)}"
    scale = ", by its logarithm" if dimension.log else ""
    return f"{dimension.path}: {dimension.low:g} to {dimension.high:g}{scale}"
