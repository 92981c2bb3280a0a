"""A page of YAML as plain data that knows its lines. Nothing in it is run, repeated or inherited."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from hfdistill.files.plain_data import printable
from hfdistill.recipe import schema

MAX_BYTES = 100_000
MAX_DEPTH = 16

Where = tuple[str | int | float | None, ...]
"""A place in a page: ("objective", 1, "kd", "weight")."""


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong with a page.

    Args:
        page: the file's name.
        line: its line, from 1; None where an override brought it in, or where something is missing.
        where: the place, such as "objective[1].kd.weight"; empty for the page as a whole.
        text: what was found, why it cannot be, and what to type; one line.
    """

    page: str
    line: int | None
    where: str
    text: str

    def __str__(self) -> str:
        line = f", line {self.line}" if self.line else ""
        return f"{self.page}{line}: {f'{self.where}: ' if self.where else ''}{self.text}"


class RecipeError(ValueError):
    """A page has mistakes; `mistakes` holds all that could be found, and the message has a line for each."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(map(str, self.mistakes)))


@dataclass
class Page:
    """A page's content, with the lines it stands on and the mistakes in it."""

    name: str
    values: Any = None
    lines: dict[Where, int] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def refuse(self, where: Where, text: str) -> None:
        """Note a mistake at a place."""
        line = next(
            (self.lines[where[:n]] for n in range(len(where), 0, -1) if where[:n] in self.lines), None
        )
        self.mistakes.append(Mistake(self.name, line, shown(where), " ".join(text.split())))


def shown(where: Where) -> str:
    """Return a place as text: objective[1].kd.weight."""
    parts = (f"[{part}]" if type(part) is int else f".{printable(part)}" for part in where)
    return "".join(parts).removeprefix(".")


def hint(name: object, choices: Iterable[str]) -> str:
    """Return what to type instead of `name`: the nearest choice, or all of them."""
    folded = {choice.casefold(): choice for choice in choices}
    near = difflib.get_close_matches(str(name).casefold(), folded, n=1)
    if near:
        return f"Did you mean {folded[near[0]]}?"
    names = list(folded.values())
    return f"Choose from: {', '.join(names[:20])}{', …' if len(names) > 20 else ''}."


def read_page(path: str | Path, overrides: Iterable[str] = ()) -> Page:
    """Read a page, and apply overrides such as "training.seed=1".

    YAML 1.2's scalars: `no`, `1:3` and dates are text, 5e-5 is a number. At most 100 kB and 16 levels; tags,
    aliases and keys that stand twice are refused.
    """
    page = Page(printable(Path(path).name or str(path)))
    try:
        with Path(path).open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ValueError(
                f"more than {MAX_BYTES:,} bytes, and a recipe is a page. Name the right file, as in "
                "`hfdistill train recipes/kd.yaml`."
            )
        page.values = _read(raw.decode("utf-8-sig"), page.lines)
    except OSError as error:
        page.refuse((), f"cannot be read ({error.strerror}). {_pages_near(Path(path))}")
    except UnicodeDecodeError as error:
        page.refuse((), f"is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8.")
    except ValueError as error:
        page.refuse((), str(error))
    except yaml.YAMLError as error:
        line, problem = _unreadable(error, raw.decode("utf-8-sig"))
        text = f"is no YAML that can be read: {problem}. `hfdistill init FILE` writes one."
        page.mistakes.append(Mistake(page.name, line, "", text))
    if page.mistakes:
        raise RecipeError(page.mistakes)
    for override in overrides:
        _override(page, override)
    return page


_OPEN = ("while scanning a quoted scalar", "while parsing a flow mapping", "while parsing a flow sequence")


def _unreadable(error: yaml.YAMLError, text: str) -> tuple[int | None, str]:
    """Return the line of a page that is to be mended, and what is wrong there.

    A quotation mark that is not closed takes in the lines below it, and is noticed there.
    """
    mark = getattr(error, "problem_mark", None)
    problem = printable(getattr(error, "problem", None) or str(error), limit=200)
    line = None if mark is None else mark.line + 1
    opened = None
    if getattr(error, "context", None) in _OPEN:
        opened = error.context_mark.line + 1
    elif line is not None and isinstance(error, (yaml.scanner.ScannerError, yaml.parser.ParserError)):
        opened = _long_quote(text, line)
    if line is None or opened is None or opened >= line:
        return line, problem
    if "flow" in (getattr(error, "context", None) or ""):
        return line, f"the bracket that opens in line {opened} is not closed: {problem}"
    until = "before the page ends" if problem.endswith("end of stream") else f"where line {line} goes on"
    return opened, f"the quotation mark that opens here is not closed {until}: {problem}"


def _long_quote(text: str, end: int) -> int | None:
    """Return the line of a quotation mark that is closed in the line `end` below it; None without one."""
    try:
        for token in yaml.scan(text, Loader=_Loader):
            quoted = isinstance(token, yaml.ScalarToken) and token.style in ("'", '"')
            if quoted and token.start_mark.line + 1 < token.end_mark.line + 1 == end:
                return int(token.start_mark.line) + 1
    except yaml.YAMLError:
        pass
    return None


def _pages_near(path: Path) -> str:
    """Return what to type instead of a path that is not a page: the pages there, or one of a similar name."""
    folder = path if path.is_dir() else path.parent
    pages = sorted(other for kind in ("*.yaml", "*.yml") for other in folder.glob(kind) if other.is_file())
    near = difflib.get_close_matches(path.name, [other.name for other in pages], n=1)
    if near:
        return f"Did you mean {printable(folder / near[0])}?"
    if pages:
        names = ", ".join(printable(other) for other in pages[:4])
        return f"Type the path of a page; there are {names}{' …' if len(pages) > 4 else ''}."
    return "Type the path of a page such as recipes/kd.yaml; `hfdistill init FILE` writes one."


def _override(page: Page, text: str) -> None:
    """Apply one override, "path=value"."""
    path, equals, value = text.partition("=")
    if not equals or not all(path.strip().split(".")):
        page.refuse((), f"override {printable(text)!r} is not of the form path=value. Type training.seed=1.")
        return
    try:
        new = _read(value, {})
    except (ValueError, yaml.YAMLError) as error:
        reason = getattr(error, "problem", None) or str(error)
        page.refuse((), f"override {printable(text)!r} holds no YAML: {reason}. Quote it: {path}='\"…\"'.")
        return
    where = put(page, path.strip(), new)
    if where is not None:
        page.refuse(where, f"the override {printable(text)!r} finds no such place. Override what holds it.")


def put(page: Page, path: str, new: Any) -> Where | None:
    """Put a value at a path such as "training.seed" or "objective.kd.temperature".

    Terms of an objective are found by number or by name. Short forms and places that hold nothing yet are
    written out on the way.

    Returns:
        None; where there is no such place, the part of the path that is there.
    """
    place: Any = page.values
    where: Where = ()
    *inner, last = path.split(".")
    for key in inner:
        for part in _steps(place, key):
            if isinstance(place, dict) and place.get(part) is None:
                place[part] = {}
            if where == () and isinstance(place, dict):
                place[part] = schema.written_out(str(part), place[part])
            place = place[part] if _holds(place, part) else None
            where = (*where, part)
    *more, end = _steps(place, last)
    for part in more:
        place, where = place[part], (*where, part)
    if not (isinstance(place, dict) or _holds(place, end)):
        return where
    place[end] = new
    page.lines = {at: line for at, line in page.lines.items() if at[: len(where) + 1] != (*where, end)}
    return None


def value_at(values: Any, path: str) -> Any:
    """Return the value at a path of a page's content; None where there is none."""
    place = copy.deepcopy(values)
    for key in path.split("."):
        for part in _steps(place, key):
            place = place[part] if _holds(place, part) else None
    return place


def _steps(place: Any, key: str) -> tuple[str | int, ...]:
    """Return a part of a path as a key of its container: for a list `1`, or the name of a term in it."""
    if not isinstance(place, list):
        return (key,)
    if key.isdecimal() and len(key) < 9:
        return (int(key),)
    for i, item in enumerate(place):
        if item == key:
            place[i] = {key: None}
        if isinstance(place[i], dict) and list(place[i]) == [key]:
            return i, key
    return (key,)


def _holds(place: Any, part: str | int) -> bool:
    if isinstance(place, dict):
        return part in place
    return isinstance(place, list) and isinstance(part, int) and part < len(place)


class _Loader(yaml.SafeLoader):
    """Parses and composes; it constructs nothing, so that no tag can ask for an object."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own; YAML 1.1's are left out
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refusal(event, "an alias (*name): a page is complete on its own, so write the value out")
        if self.depth >= MAX_DEPTH:
            raise _refusal(event, f"more than {MAX_DEPTH} levels, which no recipe has")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_SCALARS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]{1,18}",
}
_SCALARS["float"] = r"[-+]?(?:[0-9]{1,18}(?:\.[0-9]{0,24})?|\.[0-9]{1,24})(?:[eE][-+]?[0-9]{1,3})?"
_STARTS = {"null": ["~", "n", "N", ""], "bool": list("tTfF"), "int": list("-+0123456789")}
_STARTS["float"] = list("-+0123456789.")
for _kind, _pattern in _SCALARS.items():
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_pattern})$"), _STARTS[_kind]
    )


def _read(text: str, lines: dict[Where, int]) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        return None if node is None else _value(node, (), lines)
    finally:
        loader.dispose()


def _value(node: Any, where: Where, lines: dict[Where, int]) -> Any:
    if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
        for i, item in enumerate(node.value):
            lines[(*where, i)] = item.start_mark.line + 1
        return [_value(item, (*where, i), lines) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
        content: dict[Any, Any] = {}
        for key_node, item in node.value:
            key = _scalar(key_node)
            if key in content:
                raise _refusal(key_node, f"the key {printable(key)} twice: one of them would be lost")
            lines[(*where, key)] = key_node.start_mark.line + 1
            content[key] = _value(item, (*where, key), lines)
        return content
    return _scalar(node)


def _scalar(node: Any) -> Any:
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if not isinstance(node, yaml.ScalarNode) or kind not in ("str", *_SCALARS):
        tag = printable(node.tag.replace("tag:yaml.org,2002:", "!!"))
        raise _refusal(node, f"{tag} here, and a page holds plain text, numbers, lists and mappings alone")
    text = node.value
    if kind != "str" and not re.fullmatch(_SCALARS[kind], text):
        raise _refusal(node, f"{printable(text)!r} where a tag says !!{kind}")
    if kind == "int":
        return int(text)
    if kind == "float":
        return float(text)
    return {"null": None, "bool": text.lower() == "true"}.get(kind, text)


def _refusal(at: Any, text: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=f"found {text}", problem_mark=at.start_mark)
