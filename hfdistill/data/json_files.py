"""`json_rows` reads JSON files a row at a time, and names the line that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hfdistill.data.encodings import first_bytes, open_text, text_encoding


def json_rows(file: Path, encoding: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON file: an object a line, or one array of objects."""
    for _, row in numbered_json_rows(file, encoding):
        yield row


def numbered_json_rows(file: Path, encoding: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the same with where each row stands, as "line 3", or "entry 3" of an array; both from 1."""
    with open_text(file, text_encoding(file, encoding), newline="\n") as stream:
        first = next((line for line in stream if line.strip()), "")
        stream.seek(0)
        if first and not _is_object(first):
            for number, row in enumerate(_array(file, stream.read()), 1):
                yield f"entry {number}", row
            return
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield f"line {number}", _object(line, f"{file.name}, line {number},")


def is_array(file: Path) -> bool:
    """Whether a JSON file is one array, and not an object a line."""
    start = first_bytes(file, 1000).decode(text_encoding(file, None), errors="replace")
    return start.lstrip()[:1] == "["


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _object(line: str, where: str) -> dict[str, Any]:
    shown = f"{line.strip()[:80]!r}"
    try:
        row = json.loads(line, object_pairs_hook=lambda pairs: _unique(pairs, where))
    except RecursionError:
        row = None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{where} is not JSON ({error.msg} at letter {error.pos + 1}): {shown}. Write one object a line, "
            'such as {"text": "a warm film", "label": "good"}, with nothing behind it.'
        ) from None
    if not isinstance(row, dict):
        raise ValueError(
            f"{where} holds no object: {shown}. Write one object a line, such as "
            '{"text": "a warm film", "label": "good"}.'
        )
    return row


def _unique(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{where} has the key {twice!r} twice. Give each value a key of its own.")
    return row


def _array(file: Path, content: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of one array, or those that follow each other without one."""
    decoder = json.JSONDecoder(object_pairs_hook=lambda pairs: _unique(pairs, file.name))
    place, text = 0, content.strip()
    while place < len(text):
        try:
            value, place = decoder.raw_decode(text, place)
        except RecursionError:
            raise ValueError(
                f"{file.name} holds lists or objects within each other, deeper than can be read. Write an "
                "array of objects, or one object a line in a .jsonl file."
            ) from None
        except json.JSONDecodeError as error:
            line = error.lineno
            raise ValueError(
                f"{file.name}, line {line}, is not JSON ({error.msg}): "
                f"{(text.splitlines() or [''])[line - 1].strip()[:80]!r}. Write an array of objects, or one "
                "object a line in a .jsonl file."
            ) from None
        while text[place : place + 1].isspace():
            place += 1
        rows = value if isinstance(value, list) else [value]
        for number, row in enumerate(rows):
            if not isinstance(row, dict):
                raise ValueError(
                    f"{file.name}, element {number}, is {row!r:.80} and not an object. Write an array of "
                    'objects, such as [{"text": "a warm film", "label": "good"}].'
                )
            yield row
