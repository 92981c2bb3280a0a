"""Plain data: dataclasses from JSON, files and folders written whole, names on one line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn, get_args, get_origin
from uuid import uuid4

_SECRET_KEY = re.compile(r"(?i)(^|_)(token|secret|password|passwd|api_?key|credentials?)$")
_TOKEN = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|AKIA[A-Z0-9]{16})\b"
)
_FOLDERS = re.compile(r"(?<![\w.:/\\])(?:~|[A-Za-z]:)?(?:[/\\][\w.@+-]+)+[/\\](?=[\w.@+-])")

_EVERYBODYS = re.compile(
    r"(?i)(models?|students?|teachers?|baselines?|encoders?|outputs?|out|results?|final|best|last|hf|weights|"
    r"(checkpoint|generation|assistant)-?\d*|[0-9a-f]{40})"
)
"""Names of folders that say nothing about the model in them."""


def read_json(path: Path, *, limit: int) -> Any:
    """Read strict JSON of at most `limit` bytes: no NaN, no Infinity."""
    if path.stat().st_size > limit:
        raise ValueError(f"{path.name} has more than {limit} bytes, so it was not written by hfdistill.")
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is not strict JSON: {error}.") from error


def sha256_of(facts: Any) -> str:
    """Return the sha256 of plain data, by its JSON."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def printable(text: object, *, limit: int = 80) -> str:
    """Return one line that is safe to print: characters that steer a terminal as escapes, cut at `limit`."""
    raw = str(text)
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in raw[:limit])
    return shown.strip() + ("…" if len(raw) > limit else "")


def as_path(value: Any, what: str, *, instead: str) -> Path:
    """Return a path; an object in its place is a TypeError that says what to type `instead`."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{what} is the path of a file, found a {type(value).__name__}. {instead}")
    return Path(value)


def is_hub_id(name: str) -> bool:
    """Whether a name could be a Hub id ("name" or "owner/name") and is not a file or folder here."""
    plain = re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?", name, re.ASCII) is not None
    return plain and not set(name.split("/")) & {".", ".."} and not Path(name).exists()


def public_name(name: str) -> str:
    """Return a Hub id as it is; of a path its last part, so that nobody's folders are shown."""
    if is_hub_id(name) or not name.strip():
        return name
    parts = [part for part in re.split(r"[\\/]", name) if part.strip() not in ("", ".", "..")]
    return parts[-1] if parts else Path(name).resolve().name


def telling_name(name: str) -> str:
    """Return a Hub id as it is, of a path its last part that is telling: not "model" or "student".

    Example:
        >>> telling_name("/srv/all-minilm/model"), telling_name("out/csv/student/checkpoint-120")
        ('all-minilm', 'csv')
    """
    if is_hub_id(name) or not name.strip():
        return name
    parts = [part for part in re.split(r"[\\/]", name) if part.strip() not in ("", ".", "..")]
    cached = [part for part in parts if part.startswith("models--")]
    if cached:  # the Hub's cache: models--owner--name/snapshots/…
        return cached[-1].removeprefix("models--").replace("--", "/")
    while len(parts) > 1 and _EVERYBODYS.fullmatch(parts[-1]):
        parts.pop()
    return parts[-1] if parts else public_name(name)


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Write a file, text as UTF-8: readers see the old content or the new, never a part. Makes its folder."""
    with whole_file(path) as stream:
        stream.write(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write plain data as JSON; see `write_atomically`."""
    return write_atomically(path, json.dumps(value, indent=1))


def as_read_back(value: Any, *, default: Callable[[Any], Any] | None = None) -> Any:
    """Return plain data as JSON gives it back, tuples as lists and keys as text; see `json.dumps`."""
    return json.loads(json.dumps(value, default=default))


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file to write, which takes the place of `path` at the end of the block; not after an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with staged.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        staged.replace(path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder, which takes the place of `folder` at the end of the block; not after an error.

    What a killed process left of it is removed by the next one.
    """
    staged = folder.with_name(f"_{folder.name}")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    yield staged
    shutil.rmtree(folder, ignore_errors=True)
    staged.rename(folder)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _refuse(digits[:20])


def build(kind: Any, value: Any, where: str) -> Any:
    """Build `kind` from JSON: a dataclass, `X | None`, tuple[X, ...], dict[str, X] or a plain type."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (typing.Union, types.UnionType):
        (one,) = (k for k in inner if k is not types.NoneType)
        return None if value is None else build(one, value, where)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(build(inner[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: build(inner[1], item, f"{where}.{printable(key)}") for key, item in value.items()}
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind is not Any and type(value) is not kind:
        raise ValueError(
            f"{where} should be {getattr(kind, '__name__', kind)}, found {type(value).__name__}."
        )
    return value


def _build_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where} should be an object, found {type(value).__name__}.")
    hints = typing.get_type_hints(kind)
    later = {field.name for field in dataclasses.fields(kind) if field.default is None}
    missing, unknown = sorted(hints.keys() - value.keys() - later), sorted(value.keys() - hints.keys())
    if missing or unknown:
        raise ValueError(f"{where} lacks {missing} and has unknown {[printable(name) for name in unknown]}.")
    hints_of_keys = {name: hint for name, hint in hints.items() if name in value}
    return kind(**{name: build(hint, value[name], f"{where}.{name}") for name, hint in hints_of_keys.items()})


def as_python(value: Any) -> Any:
    """Return a number, array or series of numpy, torch or pandas as Python's own, also in a list or tuple.

    A number that came out of an array is then checked, shown and saved as one that was typed. Anything else
    is unchanged, and so is a tensor that learns, which a number in its place would not.

    Example:
        >>> import numpy as np
        >>> as_python(np.int64(3)), as_python([np.int64(1)]), as_python(np.array([0.5])), as_python("all")
        (3, [1], [0.5], 'all')
    """
    if type(value) in (list, tuple):
        return type(value)(map(as_python, value))
    to_list = getattr(value, "tolist", None)
    return value if to_list is None or getattr(value, "requires_grad", False) else to_list()


def scrub(value: Any) -> Any:
    """Return plain data without access tokens, and with folders reduced to their last name.

    Example:
        >>> scrub({"data": "/home/ada/sst2", "hub_token": "x", "rate": 0.1})
        {'data': 'sst2', 'rate': 0.1}
    """
    if isinstance(value, Mapping):
        return {_scrub_text(str(k)): scrub(v) for k, v in value.items() if not _SECRET_KEY.search(str(k))}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [scrub(item) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return _scrub_text(str(value))


def _scrub_text(text: str) -> str:
    for name, secret in os.environ.items():
        if _SECRET_KEY.search(name) and len(secret) >= 8:
            text = text.replace(secret, "[removed]")
    return _FOLDERS.sub("", _TOKEN.sub("[removed]", text))
