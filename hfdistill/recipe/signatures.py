"""Reads from source what a function or class takes, for Transformers takes seconds to import."""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Parameters = Mapping[str, inspect.Parameter]
_ENUMS = "transformers.trainer_utils"


def parameters_of(target: str) -> dict[str, inspect.Parameter]:
    """Return the arguments of a function, of a class's `__init__` or of a dataclass, annotations as text."""
    module, _, name = target.partition(":")
    node = _definition(module, name)
    if isinstance(node, ast.ClassDef):
        inits = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        parameters = _of_function(inits[0]) if inits else _of_fields(node, module)
        return {p.name: p for p in parameters if p.name != "self"}
    return {p.name: p for p in _of_function(node)}


def summary_of(target: Any) -> str:
    """Return the first line of a docstring, of "package.module:name" or of an object that is loaded."""
    if not isinstance(target, str):
        return first_line(inspect.getdoc(target))
    module, _, name = target.partition(":")
    return first_line(ast.get_docstring(_definition(module, name)))


def first_line(docstring: str | None) -> str:
    """Return the text up to the first blank line, on one line."""
    return " ".join((docstring or "").strip().split("\n\n")[0].split())


def parameters_by_inspection(function: Any) -> dict[str, inspect.Parameter]:
    """Return the same for an object that is loaded already, such as a plugin's class."""
    parameters = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue  # torch.nn.Module's own, of a class without __init__
        note = parameter.annotation
        if note is parameter.empty:
            note = ""
        text = note if isinstance(note, str) else inspect.formatannotation(note)
        parameters[name] = parameter.replace(annotation=text)
    return parameters


def type_error(value: Any, annotation: str) -> str | None:
    """Return what an annotation wants, where a value of a page has another type; None where it fits.

    Types that a page cannot tell, such as an alias, take any value here: the constructor judges them.
    """
    try:
        wanted = [_wish(part, value) for part in _alternatives(ast.parse(annotation, mode="eval").body)]
    except SyntaxError:
        return None
    if any(fits for fits, _ in wanted):
        return None
    return " or ".join(dict.fromkeys(name for _, name in wanted if name))


def _wish(node: ast.expr, value: Any) -> tuple[bool, str]:
    """Return whether one alternative of a type takes the value, and its name for messages."""
    kind = ast.unparse(node.value if isinstance(node, ast.Subscript) else node).split(".")[-1]
    if kind == "Literal":
        choices = ast.literal_eval(node.slice)  # type: ignore[attr-defined]
        choices = choices if isinstance(choices, tuple) else (choices,)
        return value in choices, f"one of {', '.join(map(str, choices))}"
    if kind in ("list", "Sequence") and isinstance(value, list) and isinstance(node, ast.Subscript):
        return _list_wish(node.slice, value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return {
        "int": (type(value) is int, "a whole number"),
        "float": (number, "a number"),
        "str": (isinstance(value, str), "text"),
        "PathLike": (False, ""),
        "Path": (isinstance(value, str), "a path"),
        "bool": (isinstance(value, bool), "true or false"),
        "None": (value is None, "null"),
        "list": (isinstance(value, list), "a list"),
        "Sequence": (isinstance(value, list), "a list"),
        "dict": (isinstance(value, dict), "a mapping"),
        "Mapping": (isinstance(value, dict), "a mapping"),
        "Schedule": (False, "a schedule such as {linear: [1, 0]}"),
    }.get(kind, (True, ""))


def _list_wish(inner: ast.expr, values: list[Any]) -> tuple[bool, str]:
    """Return whether each item of a list is of the type that the annotation names."""
    annotation = ast.unparse(inner)
    wanted = next((wish for value in values if (wish := type_error(value, annotation))), None)
    if wanted is None:
        return True, "a list"
    example = "; quote numbers, as in ['0', '1']" if annotation == "str" else ""
    return False, f"a list of {wanted} each{example}"


def _alternatives(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return [*_alternatives(node.left), *_alternatives(node.right)]
    return [node]


def _of_function(node: Any) -> list[inspect.Parameter]:
    arguments = node.args
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
    pairs = [
        *zip(plain, defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    return [_parameter(a.arg, a.annotation, required=default is None) for a, default in pairs]


@functools.cache
def _of_fields(node: ast.ClassDef, module: str) -> list[inspect.Parameter]:
    """Return the fields of a dataclass; choices and enums of Transformers as Literal."""
    parameters = []
    for field in node.body:
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        name, text = field.target.id, ast.unparse(field.value) if field.value else ""
        if name.startswith("_") or "ClassVar" in ast.unparse(field.annotation) or "init=False" in text:
            continue
        choices = _choices(field.value) or _enum(module, field.annotation)
        note = ast.parse(f"Literal[{choices!r}]", mode="eval").body if choices else field.annotation
        parameters.append(_parameter(name, note, required=field.value is None))
    return parameters


def _parameter(name: str, annotation: ast.expr | None, *, required: bool) -> inspect.Parameter:
    default = inspect.Parameter.empty if required else ...
    note = "" if annotation is None else ast.unparse(annotation)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=note)


def _choices(value: ast.expr | None) -> tuple[str, ...]:
    """Return `choices` in the metadata of a field."""
    for node in ast.walk(value) if value is not None else ():
        if isinstance(node, ast.Dict):
            named = {
                k.value: v for k, v in zip(node.keys, node.values, strict=True) if isinstance(k, ast.Constant)
            }
            if isinstance(named.get("choices"), ast.List):
                return tuple(ast.literal_eval(named["choices"]))
    return ()


def _enum(module: str, annotation: ast.expr) -> tuple[str, ...]:
    """Return the values of an enum where the annotation is `ThatEnum | str`."""
    names = [ast.unparse(part) for part in _alternatives(annotation)]
    if len(names) != 2 or names[1] != "str":
        return ()
    for where in (module, _ENUMS):
        for node in _tree(where).body:
            if isinstance(node, ast.ClassDef) and node.name == names[0]:
                values = [n.value for n in node.body if isinstance(n, ast.Assign)]
                return tuple(str(v.value) for v in values if isinstance(v, ast.Constant))
    return ()


def _definition(module: str, name: str) -> Any:
    for node in _tree(module).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return node
    raise LookupError(f"{module} has no {name}")


@functools.cache
def _tree(module: str) -> ast.Module:
    """Return a module's source; only its top package is looked up, since find_spec imports parents."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise LookupError(f"there is no package {top}")
    path = Path(spec.submodule_search_locations[0], *rest)
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(source.read_text(encoding="utf-8"))
