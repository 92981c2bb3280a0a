"""Distil BERT-style classifiers into small, fast students, and prove what was kept."""

from __future__ import annotations

import importlib
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hfdistill.public import *  # noqa: F403

__version__ = "0.1.0"


class _Package(ModuleType):
    """Looks every public name up in `hfdistill.public`."""

    def __getattr__(self, name: str) -> Any:
        if name != "__all__" and name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        public = importlib.import_module("hfdistill.public")
        names = getattr(public, "__all__", [])
        if name == "__all__":
            return names
        if name not in names:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(public, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system hangs the module hfdistill/measure.py here; `hfdistill.measure` is the function.
        if not (isinstance(value, ModuleType) and name in _SHADOWED):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.__getattr__("__all__")})


_SHADOWED: set[str] = set()
"""Public functions whose module has the same name."""

sys.modules[__name__].__class__ = _Package

# torch and Transformers take seconds to load, and `hfdistill train` tells the mistakes of a page before that.
# Everyone else gets everything at once: own architectures are registered by the import.
# `python -m theirs` has the argv of `python -m hfdistill` while packages load; orig_argv tells them apart.
_as_module = sys.argv[:1] == ["-m"] and ("-m", "hfdistill") in pairwise(sys.orig_argv)
if not _as_module and Path(*sys.argv[:1]).stem != "hfdistill":
    _public = importlib.import_module("hfdistill.public")
    globals().update({name: getattr(_public, name) for name in _public.__all__})
