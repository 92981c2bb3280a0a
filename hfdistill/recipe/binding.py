"""Arguments of a page, bound to what functions and classes take."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hfdistill.files.plain_data import printable
from hfdistill.recipe import schema
from hfdistill.recipe.page import Page, Where, hint, shown
from hfdistill.recipe.schema import Component
from hfdistill.recipe.signatures import Parameters, parameters_by_inspection, parameters_of, type_error


def accepted_arguments(component: Component) -> dict[str, inspect.Parameter]:
    """Return the keys that a component takes on a page, with their types as text."""
    if component.is_value:
        return {}
    target = component.target
    takes = parameters_of(target) if isinstance(target, str) else parameters_by_inspection(target)
    own = {name: parameter for name, parameter in takes.items() if name not in component.withheld}
    return own | ({} if component.beside is None else parameters_of(component.beside))


def build(component: Component, arguments: Mapping[str, Any], run: Mapping[str, Any]) -> Any:
    """Call a component's constructor with the page's arguments, and those of the run that it takes."""
    make: Any = component.target
    if component.is_value:
        return make
    if isinstance(make, str):
        module, _, attribute = make.partition(":")
        make = getattr(importlib.import_module(module), attribute)
    takes = inspect.signature(make).parameters
    beside = {} if component.beside is None else parameters_of(component.beside)
    own = {name: value for name, value in arguments.items() if name in takes or name not in beside}
    return make(**own, **{k: v for k, v in run.items() if k in takes and k in component.withheld})


class Binder:
    """Binds values of a page to signatures, and notes every mistake."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def _unknown(self, where: Where, name: Any, what: str, choices: Iterable[str]) -> None:
        if name in schema.REFUSED:
            self.page.refuse(where, schema.REFUSED[name])
        else:
            known = schema.ALIASES.get(str(name))
            choices = list(choices)
            right = f"Did you mean {known}?" if known in choices else hint(name, choices)
            self.page.refuse(where, f"there is no {what} {printable(name)!r}. {right}")

    def _named(
        self, where: Where, entry: Any, kind: str, known: Mapping[str, Any], refusal: str
    ) -> tuple[str, Any] | None:
        """Return the name and the arguments of `name` or {name: arguments}; None after a refusal."""
        entry = {entry: None} if isinstance(entry, str) else entry
        if not isinstance(entry, dict) or len(entry) != 1:
            self.page.refuse(where, refusal)
            return None
        ((name, arguments),) = entry.items()
        if name not in known:
            self._unknown((*where, name), name, kind, known)
            return None
        return name, arguments

    def _bound(self, where: Where, values: Any, *targets: Component) -> dict[str, Any]:
        """Return the arguments at a place of the page, checked against what the targets take together."""
        takes: dict[str, inspect.Parameter] = {}
        for component in targets:
            takes |= accepted_arguments(component)
        return self._arguments(where, values, takes)

    def _arguments(self, where: Where, values: Any, takes: Parameters) -> dict[str, Any]:
        values = {} if values is None else values
        what = f"argument of {where[-1]}" if len(where) > 1 else f"key of {where[-1]}"
        if not isinstance(values, dict):
            some = ", ".join(list(takes)[:4])
            self.page.refuse(
                where, f"takes keys ({some} …), found {printable(values)!r}. Write `key: value`."
            )
            return {}
        for name in [name for name in values if name not in takes or name in schema.REFUSED]:
            self._unknown((*where, name), name, what, takes)
        for name, parameter in takes.items():
            if name not in values:
                if parameter.default is parameter.empty:
                    self.page.refuse(where, f"lacks {name}. Add `{name}: …`.")
                continue
            values = {**values, name: self._value((*where, name), values[name], parameter.annotation)}
        return values

    def _value(self, where: Where, value: Any, annotation: str) -> Any:
        """Return a value of the annotated type, or the schedule that {linear: [1, 0]} stands for."""
        if "Schedule" in annotation and isinstance(value, dict):
            return self._schedule(where, value)
        wanted = type_error(value, annotation)
        if wanted:
            self.page.refuse(where, f"found {printable(repr(value))}, but it is {wanted}. Type {wanted}.")
        return value

    def _schedule(self, where: Where, value: dict[Any, Any]) -> Any:
        refusal = "a schedule is one name and its values. Type {linear: [1, 0]}."
        named = self._named(where, value, "schedule", schema.SCHEDULES, refusal)
        if named is None:
            return 1.0
        name, arguments = named
        cls = schema.SCHEDULES[name]
        if isinstance(arguments, list):
            return self._made((*where, name), cls, *arguments)
        if isinstance(arguments, dict) and all(isinstance(key, str) for key in arguments):
            return self._made((*where, name), cls, **arguments)
        return self._made((*where, name), cls, arguments)

    def _made_of_fields(self, where: Where, kind: Any, values: Mapping[str, Any]) -> Any:
        """Return the dataclass made of the values that are fields of it; see `_made`."""
        fields = kind.__dataclass_fields__
        return self._made(where, kind, **{name: value for name, value in values.items() if name in fields})

    def _made(self, where: Where, make: Callable[..., Any], /, *positional: Any, **arguments: Any) -> Any:
        """Call a constructor with the arguments; a refusal of it is noted as a mistake of the page."""
        try:
            return make(*positional, **arguments)
        except (TypeError, ValueError, OverflowError, AttributeError) as error:
            if not any(mistake.where.startswith(shown(where)) for mistake in self.page.mistakes):
                self.page.refuse(where, str(error))
            return None
