"""A page becomes a recipe, or all of its mistakes at once, before a model or data is touched."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfdistill.plain import printable
from hfdistill.recipe import kinds
from hfdistill.recipe.kinds import Kind, Measurement, Splits
from hfdistill.recipe.page import Page, RecipeError, Where, hint, read_page, shown
from hfdistill.recipe.signatures import Parameters, parameters_by_inspection, parameters_of, unfit
from hfdistill.schedules import moments

REQUIRED = ("teacher", "student", "data", "training")
SECTIONS = (*REQUIRED, "objective", "measure", "export")

Chosen = tuple[str, dict[str, Any]]
"""A kind and its arguments."""


@dataclass(frozen=True)
class Recipe:
    """A page without mistakes.

    Args:
        page: its content with overrides, as plain data.
        teacher: its kind and arguments; None trains without one.
        student: its kind and arguments.
        load: arguments of `hfdistill.load`.
        splits: which rows.
        objective: the `Blend`; None for the default one.
        training: fields of `DistillationArguments`.
        measurement: what to measure; None for nothing.
        export: arguments of `hfdistill.export`; None for no export.
    """

    page: dict[str, Any]
    teacher: Chosen | None
    student: Chosen
    load: dict[str, Any]
    splits: Splits
    objective: Any
    training: dict[str, Any]
    measurement: Measurement | None
    export: dict[str, Any] | None


def read_recipe(path: str | Path, *, overrides: Iterable[str] = ()) -> Recipe:
    """Read a page and check every key and value that can be judged without loading a model or data.

    Args:
        path: the page.
        overrides: "path=value" each, such as "training.seed=1" or "objective.1.kd.temperature=2".

    Returns:
        The recipe, for `run_recipe`.

    Raises:
        RecipeError: with all mistakes, a line for each: where, what was found, why, what to type.
    """
    page = read_page(path, overrides)
    if not isinstance(page.values, dict):
        page.refuse((), f"holds no sections. Write {', '.join(REQUIRED)}, as recipes/kd.yaml does.")
        raise RecipeError(page.mistakes)
    checker = _Checker(page)
    recipe = checker.recipe(page.values)
    if page.mistakes:
        raise RecipeError(sorted(page.mistakes, key=lambda mistake: mistake.line or 0))
    assert recipe is not None  # noqa: S101 - for the type checker: no mistakes, so a recipe
    return recipe


class _Checker:
    def __init__(self, page: Page) -> None:
        self.page = page
        self.student: Chosen | None = None

    def recipe(self, values: dict[Any, Any]) -> Recipe | None:
        for name in values.keys() - set(SECTIONS):
            self._unknown((name,), name, "section", SECTIONS)
        for name in [name for name in REQUIRED if name not in values]:
            self.page.refuse((), f"lacks the section {name}. Add `{name}:`, as recipes/kd.yaml does.")
        if "student" in values and values["student"] is None:
            self.page.refuse(("student",), "is empty. Type student: {shrink: {layers: 3}}.")
        section = {name: kinds.given(name, value) for name, value in values.items()}
        teacher = self._one_of(("teacher",), section.get("teacher"), kinds.TEACHERS)
        self.student = student = self._one_of(("student",), section.get("student"), kinds.STUDENTS)
        data = self._bound(("data",), section, kinds.DATA)
        training = self._bound(("training",), section, kinds.TRAINING)
        if "training" in section and training.get("output_dir") in (None, ""):
            self.page.refuse(
                ("training",), "lacks output_dir, where the student is written. Type output_dir: out/kd."
            )
        measured = self._bound(("measure",), section, kinds.MEASURE)
        export = self._bound(("export",), section, kinds.EXPORT)
        own = Splits.__dataclass_fields__
        splits = self._made(("data",), Splits, {k: v for k, v in data.items() if k in own})
        blend = self._objective(section.get("objective"), taught=section.get("teacher") is not None)
        if self.page.mistakes or student is None or splits is None:
            return None
        silent = "measure" in section and section["measure"] is None
        return Recipe(
            page=values,
            teacher=teacher,
            student=student,
            load={k: v for k, v in data.items() if k not in own},
            splits=splits,
            objective=blend,
            training=training,
            measurement=None if silent else Measurement(**measured),
            export=export if section.get("export") is not None else None,
        )

    def _unknown(self, where: Where, name: Any, what: str, choices: Iterable[str]) -> None:
        if name in kinds.REFUSED:
            self.page.refuse(where, kinds.REFUSED[name])
        else:
            self.page.refuse(where, f"there is no {what} {printable(name)!r}. {hint(name, choices)}")

    def _one_of(self, where: Where, value: Any, table: Mapping[str, Kind]) -> Chosen | None:
        """A mapping with one key, the kind; under it its arguments."""
        if value is None:
            return None
        if not isinstance(value, dict) or len(value) != 1:
            found = f"{len(value)} keys" if isinstance(value, dict) else type(value).__name__
            self.page.refuse(where, f"holds one kind and its arguments, found {found}. {hint('', table)}")
            return None
        ((name, arguments),) = value.items()
        if name not in table:
            self._unknown((*where, name), name, where[0], table)  # type: ignore[arg-type]
            return None
        place = (*where, name) if isinstance(self.page.values[where[0]], dict) else where
        return name, self._bound(place, {place[-1]: arguments}, (table[name],))

    def _bound(self, where: Where, section: Mapping[Any, Any], targets: tuple[Kind, ...]) -> dict[str, Any]:
        """The arguments at a place, checked against what the targets take together."""
        value = section.get(where[-1])
        if value is None and where[-1] not in section:
            return {}
        takes: dict[str, inspect.Parameter] = {}
        for kind in targets:
            found = parameters_of(kind.target)
            takes |= {name: parameter for name, parameter in found.items() if name not in kind.withheld}
        return self._arguments(where, {} if value is None else value, takes)

    def _arguments(self, where: Where, values: Any, takes: Parameters) -> dict[str, Any]:
        what = f"argument of {where[-1]}" if len(where) > 1 else f"key of {where[-1]}"
        if not isinstance(values, dict):
            some = ", ".join(list(takes)[:4])
            self.page.refuse(
                where, f"takes keys ({some} …), found {printable(values)!r}. Write `key: value`."
            )
            return {}
        for name in [name for name in values if name not in takes or name in kinds.REFUSED]:
            self._unknown((*where, name), name, what, takes)
        for name, parameter in takes.items():
            if name not in values:
                if parameter.default is parameter.empty:
                    self.page.refuse(where, f"lacks {name}. Add `{name}: …`.")
                continue
            values = {**values, name: self._value((*where, name), values[name], parameter.annotation)}
        return values

    def _value(self, where: Where, value: Any, annotation: str) -> Any:
        """A value of the annotated type; where that may be a schedule, one made from {linear: [1, 0]}."""
        if "Schedule" in annotation and isinstance(value, dict):
            return self._schedule(where, value)
        wanted = unfit(value, annotation)
        if wanted:
            self.page.refuse(where, f"found {printable(repr(value))}, but it is {wanted}. Type {wanted}.")
        return value

    def _schedule(self, where: Where, value: dict[Any, Any]) -> Any:
        if len(value) != 1:
            self.page.refuse(where, "a schedule is one name and its values. Type {linear: [1, 0]}.")
            return 1.0
        ((name, told),) = value.items()
        if name not in kinds.SCHEDULES:
            self._unknown((*where, name), name, "schedule", kinds.SCHEDULES)
            return 1.0
        cls = kinds.SCHEDULES[name]
        if isinstance(told, list):
            return self._made((*where, name), lambda: cls(*told), {})
        if isinstance(told, dict) and all(isinstance(key, str) for key in told):
            return self._made((*where, name), cls, told)
        return self._made((*where, name), lambda: cls(told), {})

    def _made(self, where: Where, make: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """What a constructor makes of the arguments; its complaint is a mistake of the page."""
        try:
            return make(**arguments)
        except (TypeError, ValueError, OverflowError, AttributeError) as error:
            if not any(mistake.where.startswith(shown(where)) for mistake in self.page.mistakes):
                self.page.refuse(where, str(error))
            return None

    def _objective(self, terms: Any, *, taught: bool) -> Any:
        """The blend of a list of terms; None for the default one."""
        if terms is None:
            return None
        if not isinstance(terms, list) or not terms:
            self.page.refuse(
                ("objective",), "is a list of terms. Type `- kd: {weight: 0.5, temperature: 4}`."
            )
            return None
        blends = [self._term(("objective", i), term) for i, term in enumerate(terms)]
        blend: Any = None
        for one in blends:
            if one is None:
                return None
            blend = one if blend is None else blend + one
        for moment in moments(blend._written):
            before = len(self.page.mistakes)
            self._made(("objective",), blend.set_progress, {"progress": moment})
            if len(self.page.mistakes) > before:
                return None
        blend.set_progress(0.0)
        if blend.needs_teacher and not taught:
            self.page.refuse(
                ("objective",), "learns from a teacher, and there is none. Name one under `teacher:`."
            )
        return blend

    def _term(self, where: Where, term: Any) -> Any:
        """Weight and objective of {kd: {weight: 0.5, temperature: 4}}."""
        from hfdistill.objectives import registered  # loads torch
        from hfdistill.objectives.exits import ExitObjective

        term = {term: None} if isinstance(term, str) else term
        if not isinstance(term, dict) or len(term) != 1:
            self.page.refuse(
                where, "is no term. Type `- kd: {weight: 0.5, temperature: 4}`, one term to a dash."
            )
            return None
        ((name, told),) = term.items()
        if name not in registered():
            self._unknown((*where, name), name, "objective", registered())
            return None
        place = (*where, name)
        cls = registered()[name]
        if issubclass(cls, ExitObjective) and self.student is not None and self.student[0] != "pretrained":
            self.page.refuse(
                place,
                f"learns at exits, and a {self.student[0]} student has none. Run recipes/early_exit.py, or "
                "name a model that with_exits(…) made: `student: {pretrained: {source: …}}`.",
            )
            return None
        weight = inspect.Parameter(
            "weight", inspect.Parameter.KEYWORD_ONLY, default=1.0, annotation="float | Schedule"
        )
        before = len(self.page.mistakes)
        values = self._arguments(
            place, {} if told is None else told, {"weight": weight, **parameters_by_inspection(cls)}
        )
        share = values.pop("weight", 1.0) if values else 1.0
        if len(self.page.mistakes) > before:
            return None
        return self._made(place, lambda: share * cls(**values), {})
