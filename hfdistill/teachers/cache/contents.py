"""`Contents` says what is kept of a teacher's answers, and names the folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from hfdistill.files.checkpoint import seal
from hfdistill.files.plain_data import as_read_back, build, printable, read_json, write_json
from hfdistill.network.trace import Tap

SCHEMA = 1
FACTS = "cache.json"
_DTYPES = {"float32": torch.float32, "float16": torch.float16}
_FACTS_LIMIT = 10_000_000


class CacheError(RuntimeError):
    """A teacher's recorded answers are missing, damaged, or cannot be recorded."""


@dataclass(frozen=True)
class Contents:
    """What is recorded of each row; other contents stand in a folder of their own.

    Args:
        taps: what to keep beside the logits. A hidden state takes tokens × D numbers a row.
        pooled: "mean" over the real tokens or "cls", the first one, keeps one vector of D numbers a row in
            place of the hidden states, for terms that pool in the same way.
        dtype: "float32", or "float16" for half the size and three digits.
        precision: "bf16" or "fp16" runs the teacher under autocast; None in its own precision.

    Raises:
        ValueError: for other names, and for pooled projections.

    Example:
        >>> Contents(taps={Tap("hidden", 6)}, pooled="mean", dtype="float16").pooled
        'mean'
    """

    taps: frozenset[Tap] = frozenset()
    pooled: str | None = None
    dtype: str = "float32"
    precision: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "taps", frozenset(self.taps))
        allowed = {"pooled": (None, "mean", "cls"), "dtype": (*_DTYPES,), "precision": (None, "bf16", "fp16")}
        for name, choices in allowed.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} is one of {', '.join(map(repr, choices))}, found {getattr(self, name)!r}."
                )
        if any(tap.kind == "exit" for tap in self.taps):
            raise ValueError("The logits of exits cannot be recorded. Leave these taps out.")
        if self.pooled and any(tap.kind != "hidden" for tap in self.taps):
            raise ValueError("Only hidden states can be pooled. Leave out pooled=, or the other taps.")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of what is written."""
        return _DTYPES[self.dtype]

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**asdict(self), "taps": [[tap.kind, tap.layer] for tap in sorted(self.taps)]}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Contents:
        """Return the inverse of `plain`."""
        named = {field.name: plain[field.name] for field in fields(cls)}
        return cls(**{**named, "taps": frozenset(Tap(kind, layer) for kind, layer in named["taps"])})


@dataclass(frozen=True)
class _Versions:
    """What decides how a recorded forward pass rounded."""

    transformers: str
    attention: Any


@dataclass(frozen=True)
class _Facts:
    """The facts that a recording states about itself, by name and type; a sha256 alone proves neither."""

    schema: int
    fingerprint: str
    contents: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    inputs: tuple[str, ...]
    accepts: tuple[str, ...] | None
    renamed: dict[str, str] | None
    same_tokens: bool
    config: dict[str, Any] | None
    versions: _Versions


def identity_of(fingerprint: str, contents: Contents) -> str:
    """Return the name of the folder of a teacher's answers: who answered, and what is kept.

    The tokenizer has no part in it: rows are found by their token ids.
    """
    return seal({"schema": SCHEMA, "fingerprint": fingerprint, "contents": contents.plain()})


def read_facts(folder: Path) -> dict[str, Any]:
    """Return the facts that a cache states about itself; refuse one that is damaged or of another version."""
    path = folder / FACTS
    try:
        if path.is_symlink():
            raise ValueError("it is a link")
        facts: dict[str, Any] = read_json(path, limit=_FACTS_LIMIT)
        if facts.pop("sha256") != seal(facts):
            raise ValueError("its own sha256 is another")
        if facts["schema"] != SCHEMA:
            raise ValueError(f"schema {facts['schema']!r} is not known; a newer hfdistill may know it")
        build(_Facts, facts, FACTS)
        _check_shapes(facts["shapes"], Contents.of(facts["contents"]))
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise CacheError(
            f"{path} cannot be read ({error}). Record again with hfdistill.record(teacher, dataset, "
            "folder=...): the shards beside it that are whole stay."
        ) from error
    return facts


def column(tap: Tap) -> str:
    """Return the name of a tap's readings in a shard."""
    return f"{tap.kind}.{tap.layer}"


def _check_shapes(shapes: dict[str, list[int]], contents: Contents) -> None:
    """Refuse shapes of tensors that the contents do not have, and impossible shapes."""
    names = {"logits", *map(column, contents.taps)}
    if shapes.keys() != names or any(size < 0 for shape in shapes.values() for size in shape):
        raise ValueError(f"shapes should be those of {sorted(names)}, found {printable(shapes)}")


def make_folder(root: Path, name: str) -> Path:
    """Return the folder of one identity, for its owner alone."""
    folder = root / name
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise CacheError(f"{folder} cannot be made ({error}). Name another folder=.") from error
    refuse_public(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CacheError(f"{folder} cannot be written to. Type chmod u+rwx on it, or name another folder=.")
    return folder


def refuse_public(folder: Path) -> None:
    """Refuse a folder whose answers anybody may change."""
    if folder.stat().st_mode & 0o002:
        raise CacheError(f"Anybody may write to {folder}. Type chmod 700 {folder}, and look who did.")


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Put the facts in place, unless they are there."""
    with suppress(CacheError):
        read_facts(folder)
        return
    try:
        plain = as_read_back(facts)
        write_json(folder / FACTS, {**plain, "sha256": seal(plain)})
    except OSError as error:
        raise CacheError(
            f"{folder / FACTS} cannot be written ({error}). Make room, or name another folder=."
        ) from error
