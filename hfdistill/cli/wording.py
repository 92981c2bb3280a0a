"""Messages of the library in the words of a command: its flags, or the keys of a page."""

from __future__ import annotations

import argparse
import ast
import logging
import re
import shlex
from typing import Any

from hfdistill.files.wording import worded
from hfdistill.recipe.page import Mistake

# Arguments in messages that are keys of a page of those names.
_KEYS = frozenset(
    {"text", "text_pair", "label", "label_names", "encoding", "delimiter", "quotes", "on_bad_row"}
    | {
        "config",
        "label_map",
        "unlabelled",
        "evaluation",
        "streaming",
        "max_length",
        "dataloader_drop_last",
        "output_dir",
    }
)

_LIST = r"""\[(?:'[^'\\\n]*'|"[^"\\\n]*")(?:, (?:'[^'\\\n]*'|"[^"\\\n]*"))*\]"""
_PYTHON = re.compile(
    r"(?<![\w.?&])(\w+)="
    rf"""('[^'\\\n]*'|"[^"\\\n]*"|{_LIST}|True\b|False\b|-?\d+(?:\.\d+)?(?![\w.]*\w)|\.\.\.|(?=[\s,.;)]|$))"""
)
_KEY = re.compile(r"\b(\w+): ([^\s,;]*[^\s,;.])")
_ADVICE = re.compile(rf"(?:(?<=Type )|(?<=Usual: )){_KEY.pattern}(?:,? or {_KEY.pattern})*")
_PLACE = re.compile(r"`(\w+):` under `data:`")


class Formatter(logging.Formatter):
    """Prints what this library logs in the words of the command."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        """Return the line of a record."""
        if record.name.partition(".")[0] == "hfdistill":
            record.message = worded(record.message)
        return super().formatMessage(record)


def as_typed(message: str, args: argparse.Namespace) -> str:
    """Return a message of the library with its arguments, text='…', as this command's flags, --text ….

    A command that reads a page has them as the page's keys, text: …. One without a page gets keys of a page,
    "Type max_ms: 5", as its flags, too.
    """
    is_page = hasattr(args, "overrides")

    def typed(found: re.Match[str]) -> str:
        name, value = found[1], found[2]
        if is_page:
            return f"{name}: {_as_yaml(value)}".rstrip() if name in _KEYS else found[0]
        if value == "...":
            flag = _flag(name, None, args)
            return f"{flag} ..." if flag else found[0]
        return _flag(name, ast.literal_eval(value) if value else None, args) or found[0]

    message = _PYTHON.sub(typed, message)
    if is_page:
        return message
    message = _PLACE.sub(lambda found: _flag(found[1], None, args) or found[0], message)

    def of_key(found: re.Match[str]) -> str:
        return _flag(found[1], found[2].strip("'\""), args) or found[0]

    return _ADVICE.sub(lambda found: _KEY.sub(of_key, found[0]), message)


def as_refused(mistake: Mistake, args: argparse.Namespace) -> str:
    """Return a mistake of a page, or of the flags that stand for one."""
    if hasattr(args, "overrides"):
        return str(mistake)
    last = mistake.where.rpartition(".")[2]
    text = as_typed(mistake.text, args)
    if flag := _flag(last, None, args):
        return f"error: {flag}: {text}"
    begin, _, rest = text.partition(" ")
    if rest.startswith("is ") and (flag := _flag(begin, None, args)):
        return f"error: {flag} {rest}"
    return f"error: {text}"


def _flag(name: str, value: Any, args: argparse.Namespace) -> str | None:
    """Return an argument as a flag of a command; None where it has no such flag."""
    name = getattr(args, "renamed", {}).get(name, name)
    if name not in getattr(args, "flags", vars(args)):
        return None
    flag = f"--{name.replace('_', '-')}"
    if value is None or value is True:
        return flag
    if value is False:
        return flag.replace("--", "--no-", 1)
    if isinstance(value, list):
        words = [shlex.quote(str(word)) for word in value]
        return " ".join(f"{flag} {word}" for word in words) if name == "label" else " ".join([flag, *words])
    return f"{flag} {shlex.quote(str(value))}"


def _as_yaml(value: str) -> str:
    """Return a value of Python as YAML: words without quotation marks, true and false in small letters."""
    if value in ("True", "False", "..."):
        return value.lower()
    word = ast.literal_eval(value) if value else ""
    plain = isinstance(word, str) and re.fullmatch(r"(?!true$|false$|null$)[a-z][\w-]*|", word)
    return word if plain else value
