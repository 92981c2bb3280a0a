"""How messages name arguments: as Python has them, or as the command that is running takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_TRANSLATIONS: list[Callable[[str], str]] = []


def worded(message: str) -> str:
    """Return a message of the library with its arguments as the user types them.

    It stays as it is outside of a command.
    """
    return _TRANSLATIONS[-1](message) if _TRANSLATIONS else message


@contextmanager
def wording(translate: Callable[[str], str]) -> Iterator[None]:
    """While open, `worded` translates messages so."""
    _TRANSLATIONS.append(translate)
    try:
        yield
    finally:
        _TRANSLATIONS.remove(translate)
