"""An argument parser that suggests what was meant."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

_CHOICE = re.compile(r"invalid choice: '(?P<word>[^']*)'.*\(choose from (?P<choices>.*)\)", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """Says the nearest command, choice or flag where one is mistyped."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, and end with status 2."""
        match = _CHOICE.search(message)
        if match is not None and "maybe you meant" not in message:  # Python 3.14 says it
            message += _suggestion(match["word"], re.findall(r"[\w-]+", match["choices"]))
        super().error(message)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Refuse a mistyped flag of a command before argparse misses the flag that was meant."""
        flags = [name for action in self._actions for name in action.option_strings]
        for word in args or () if self._subparsers is None else ():
            flag = word.partition("=")[0]
            if flag.startswith("--") and not any(name.startswith(flag) for name in flags):
                self.error(f"unrecognized argument: {flag}{_suggestion(flag, flags)}")
        return super().parse_known_args(args, namespace)


def _suggestion(word: str, choices: Iterable[str]) -> str:
    """Return a sentence with the choice that a word nearly is; empty where there is none."""
    near = difflib.get_close_matches(word, list(choices), n=1)
    return f". Did you mean {near[0]}?" if near else ""
