"""Text of unknown origin in Markdown: shown as it is, never obeyed."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml  # type: ignore[import-untyped]

from hfdistill.files.plain_data import printable

MAX_LISTING = 20_000

_MARKUP = re.compile(r"[&<>\"'`*_{}\[\]()!|~:@\\^$#]")


def escape(text: object, *, limit: int = 80) -> str:
    """Return one line that Markdown and HTML show as it is: markup as entities, control characters escaped.

    Example:
        >>> escape("<b>[x](y)")
        '&#60;b&#62;&#91;x&#93;&#40;y&#41;'
    """
    shown = _MARKUP.sub(lambda match: f"&#{ord(match.group())};", printable(text, limit=limit))
    return re.sub(r"(?i)\bwww\.", lambda match: match.group()[:3] + "&#46;", shown)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, first column to the left; cells are already escaped."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def text_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of columns: the first to the left, numbers to the right, a rule below the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return [lines[0], "─" * max(map(len, lines)), *lines[1:]]


def html_table(rows: Sequence[Sequence[str]], below: Sequence[str] = ()) -> str:
    """Return a table for a notebook: the first row is its head, the first column left; below, lines."""

    def cells(row: Sequence[str], tag: str) -> str:
        aligned = ("left", *["right"] * (len(row) - 1))
        parts = (
            f'<{tag} style="text-align:{side}">{escape(cell, limit=200)}</{tag}>'
            for cell, side in zip(row, aligned, strict=True)
        )
        return f"<tr>{''.join(parts)}</tr>"

    head, *body = rows
    lines = [cells(head, "th"), *(cells(row, "td") for row in body)]
    text = "".join(f"<br>{escape(line, limit=1000)}" for line in below)
    return f"<table>{''.join(lines)}</table>{text.removeprefix('<br>')}"


def as_yaml(value: Mapping[str, Any]) -> str:
    """Write plain data as YAML that reads back equal; ASCII only where some characters do not print.

    PyYAML folds U+0085 away where it may write Unicode: loading what it dumped is not equal then.
    """
    prints = json.dumps(value, ensure_ascii=False).isprintable()
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=prints, width=100))


def listing(notes: Mapping[str, Any]) -> str:
    """Write plain data as YAML in a block that is neither Markdown nor HTML, cut at `MAX_LISTING`."""
    lines = as_yaml(_clipped(notes)).rstrip().split("\n")
    indents = [" " * (len(line) - len(line.lstrip(" "))) for line in lines]
    printed = [indent + printable(line, limit=400) for indent, line in zip(indents, lines, strict=True)]
    shown = "\n".join(printed)
    if len(shown) > MAX_LISTING:
        shown = shown[:MAX_LISTING] + "\n… cut, the whole is in the report"
    return f"<pre><code>{html.escape(shown).replace(']', '&#93;').replace('`', '&#96;')}\n</code></pre>"


def _clipped(value: Any) -> Any:
    """Return the same data with no text over 2,000 characters: YAML is slow with long ones."""
    if isinstance(value, Mapping):
        return {_clipped(key): _clipped(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clipped(item) for item in value]
    return value[:2000] if isinstance(value, str) else value
