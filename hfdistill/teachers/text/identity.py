"""Hashes what a user's function is: another function's answers must never be taken for its own."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import sys
import sysconfig
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets.fingerprint import Hasher
from torch import nn
from transformers import Pipeline, PreTrainedTokenizerBase

from hfdistill.network.fingerprints import fingerprint_of
from hfdistill.network.tokenizers import tokenizer_print

_ADDRESSES = 2**40
_PLAIN = (str, bytes, int, float, bool, complex, type(None), range)


class UnknownIdentityError(ValueError):
    """Nothing tells this function from another one."""


def identity_of_function(answer: Any) -> str:
    """Return a callable's sha256: its own `fingerprint()`, else over its source and every value it reads.

    Values are its defaults, what it closes over and the globals that it names: text and numbers by value,
    functions and classes of the same package by their source, in turn; those of others by name; models by
    their weights; other objects by what they hold, in turn, or as `datasets` hashes them.

    Raises:
        UnknownIdentityError: where a value cannot be hashed, such as an open connection.
    """
    if hasattr(answer, "fingerprint"):
        return str(answer.fingerprint())
    walk = _Walk(package=_package(answer))
    try:
        walk.add(answer)
    except RecursionError as error:
        raise UnknownIdentityError(
            "The function reads objects nested too deeply to be compared. Give the teacher a name that you "
            "change when the function changes: name='intents, prompt 3'."
        ) from error
    return walk.digest.hexdigest()


class _Walk:
    """Adds values to a digest, each once."""

    def __init__(self, *, package: str) -> None:
        self.digest, self.package, self._seen = hashlib.sha256(), package, dict[int, Any]()

    def add(self, value: Any) -> None:
        if isinstance(value, _PLAIN):
            self._write(type(value).__name__, repr(value))
            return
        if id(value) in self._seen:
            self._write("again")
            return
        self._seen[id(value)] = value  # held, so that no other value takes its id
        if hasattr(value, "fingerprint") and not isinstance(value, type):
            self._write("fingerprint", str(value.fingerprint()))
        elif isinstance(value, (list, tuple, set, frozenset, Mapping)):
            self._add_items(value)
        elif isinstance(value, functools.partial):
            self._add_all("partial", value.func, value.args, value.keywords)
        elif isinstance(value, types.MethodType):
            self._write("method", value.__name__)
            self.add(value.__self__)
        elif isinstance(value, types.FunctionType):
            self._add_function(value)
        elif isinstance(value, (type, types.ModuleType, types.BuiltinFunctionType)):
            self._add_named(value)
        elif isinstance(value, nn.Module) and value.state_dict():
            self._write("model", type(value).__qualname__, fingerprint_of(value))
        elif isinstance(value, (torch.Tensor, np.ndarray)):
            self._write("array", Hasher.hash(value))
        elif isinstance(value, PreTrainedTokenizerBase):
            self._write("tokenizer", tokenizer_print(value))
        elif isinstance(value, Pipeline):
            self._add_pipeline(value)
        elif hasattr(value, "__dict__"):
            self._add_object(value)
        else:
            self._add_opaque(value)

    def _write(self, *parts: str) -> None:
        self.digest.update(json.dumps(parts).encode())

    def _add_all(self, name: str, *values: Any) -> None:
        self._write(name)
        for value in values:
            self.add(value)

    def _add_items(self, value: Any) -> None:
        self._write(type(value).__name__, str(len(value)))
        if isinstance(value, Mapping):
            value = [item for pair in value.items() for item in pair]
        for item in sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value:
            self.add(item)

    def _add_function(self, function: types.FunctionType) -> None:
        if not _own(function, self.package):
            self._write("function", function.__module__ or "", function.__qualname__)
            return
        self._write("source", _source(function))
        self._add_all("defaults", function.__defaults__, function.__kwdefaults__)
        for cell in function.__closure__ or ():
            self.add(_content(cell))
        names = sorted(_names(function.__code__) & function.__globals__.keys())
        for name in names:
            self._write("global", name)
            self.add(function.__globals__[name])

    def _add_named(self, value: Any) -> None:
        name = getattr(value, "__qualname__", value.__name__)
        self._write("named", str(getattr(value, "__module__", "")), name)
        if isinstance(value, type) and _own(value, self.package):
            self._add_all("bases", *value.__bases__)
            parts = {n: p for n, p in vars(value).items() if isinstance(p, (types.FunctionType, *_PLAIN))}
            for member in sorted(parts.keys() - {"__module__", "__doc__"}):
                self._write("member", member)
                self.add(parts[member])

    def _add_object(self, value: Any) -> None:
        """Add an object by its class and what it holds, without addresses: a process draws them anew."""
        self.add(type(value))
        for name, part in sorted(vars(value).items()):
            if not (isinstance(part, int) and part >= _ADDRESSES):
                self._write("attribute", name)
                self.add(part)

    def _add_pipeline(self, pipeline: Pipeline) -> None:
        """Add a pipeline of Transformers, which also counts its calls."""
        tokenizer = pipeline.tokenizer
        self._add_all("pipeline", pipeline.task, pipeline.model)
        self._write("tokenizer", "" if tokenizer is None else tokenizer_print(tokenizer))
        for name in ("_preprocess_params", "_forward_params", "_postprocess_params"):
            self._add_all(name, getattr(pipeline, name, None))

    def _add_opaque(self, value: Any) -> None:
        try:
            self._write("value", Hasher.hash(value))
        except Exception as error:  # pickling raises whatever an object's own code raises
            raise UnknownIdentityError(
                f"The function reads a {type(value).__name__}, of which nothing tells whether it is the same "
                f"next time ({type(error).__name__}: {error}), so its recorded answers could be taken for "
                "another function's. Give the teacher a name that you change when the function changes: "
                "name='intents, prompt 3'."
            ) from error


def _package(value: Any) -> str:
    """Return the top package that a callable is written in; "" for a library that is installed."""
    name = getattr(value, "__module__", None) or type(value).__module__
    place = getattr(sys.modules.get(str(name)), "__file__", None)
    installed = {sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib")}
    if place is not None and any(Path(place).is_relative_to(root) for root in installed):
        return ""
    return str(name).partition(".")[0]


def _own(value: Any, package: str) -> bool:
    """Whether it is written in the package of the function, whose source then counts."""
    module = value.__module__ if isinstance(value, (type, types.FunctionType)) else type(value).__module__
    return str(module).partition(".")[0] == package


def _source(function: types.FunctionType) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # typed at a prompt
        return _code(function.__code__)


def _code(code: types.CodeType) -> str:
    constants = [_code(part) if isinstance(part, types.CodeType) else repr(part) for part in code.co_consts]
    return repr((code.co_code, code.co_names, code.co_varnames, constants))


def _names(code: types.CodeType) -> set[str]:
    """Return the names that a function and what is nested in it look up."""
    nested = [_names(part) for part in code.co_consts if isinstance(part, types.CodeType)]
    return set(code.co_names).union(*nested)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet filled
        return None
