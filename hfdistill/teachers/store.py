"""A teacher's answers on disk: shards that are whole or absent, found by the key of a row.

A shard is a safetensors file whose name is its own sha256: whoever writes the same rows writes the same file,
so writers need no lock, and a reader sees any change. sha256 finds accidents, not an attacker.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor

from hfdistill.checkpoint import fsync, seal
from hfdistill.plain import printable, read_json, write_atomically
from hfdistill.teachers.keys import KEY_BYTES, Ints
from hfdistill.trace import Tap

try:
    import fcntl
except ImportError:  # Windows: writers then do some work twice, and write the same files
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

SCHEMA = 1
FACTS = "cache.json"
CLAIMS = "claims"
BROKEN = "broken-"
PART = re.compile(r"\.([0-9a-f]{32})\.[0-9a-f]{32}\.part")
_SHARD = re.compile(r"shard-([0-9a-f]{64})\.safetensors")
_DTYPES = {"float32": torch.float32, "float16": torch.float16}
_NO_KEYS = np.zeros((0, KEY_BYTES), np.uint8)
ROWS_PER_SHARD = 4096
_HEADER_LIMIT = 100_000
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
        if self.pooled and any(tap.kind != "hidden" for tap in self.taps):
            raise ValueError("Only hidden states can be pooled. Leave out pooled=, or the other taps.")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of what is written."""
        return _DTYPES[self.dtype]

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "taps": [[tap.kind, tap.layer] for tap in sorted(self.taps)]}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Contents:
        """The inverse of `plain`."""
        named = {field.name: plain[field.name] for field in fields(cls)}
        return cls(**{**named, "taps": frozenset(Tap(kind, layer) for kind, layer in named["taps"])})


def identity_of(fingerprint: str, contents: Contents) -> str:
    """The name of the folder that holds a teacher's answers: who answered, and what is kept.

    The tokenizer has no part in it: rows are found by their token ids.
    """
    return seal({"schema": SCHEMA, "fingerprint": fingerprint, "contents": contents.plain()})


def read_facts(folder: Path) -> dict[str, Any]:
    """What a cache says of itself.

    Raises:
        CacheError: where it cannot be read, was changed, or is of another version.
    """
    path = folder / FACTS
    try:
        if path.is_symlink():
            raise ValueError("it is a link")
        facts: dict[str, Any] = read_json(path, limit=_FACTS_LIMIT)
        if facts.pop("sha256") != seal(facts):
            raise ValueError("its own sha256 is another")
        if facts["schema"] != SCHEMA:
            raise ValueError(f"schema {facts['schema']!r} is not known; a newer hfdistill may know it")
        Contents.of(facts["contents"])
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise CacheError(
            f"{path} cannot be read ({error}). Record again with hfdistill.record(teacher, dataset, "
            "folder=...): the shards beside it that are whole stay."
        ) from error
    return facts


def make_folder(root: Path, name: str) -> Path:
    """The folder of one identity, for its owner alone.

    Raises:
        CacheError: where it cannot be written, or anybody may write to it.
    """
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
    """Answers that anybody may change are nobody's."""
    if folder.stat().st_mode & 0o002:
        raise CacheError(f"Anybody may write to {folder}. Type chmod 700 {folder}, and look who did.")


class Store:
    """The shards of one folder: all rows that are whole, found by key.

    Args:
        folder: of one identity, with its facts.

    Raises:
        CacheError: where the facts cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        refuse_public(folder)
        self.folder, self.facts = folder, read_facts(folder)
        self.contents = Contents.of(self.facts["contents"])
        self._known: set[str] = set()
        self._shards: list[dict[str, Tensor]] = []
        self._held: list[dict[str, Tensor]] = []
        self._table = self._tabled()
        self.refresh()

    def __len__(self) -> int:
        return len(self._table.first)

    def refresh(self) -> None:
        """Take in the shards that were published since; set damaged ones aside."""
        found = []
        for path in sorted(self.folder.iterdir()):
            if path.name in self._known:
                continue
            self._known.add(path.name)
            match = _SHARD.fullmatch(path.name)
            if match and path.is_file() and not path.is_symlink():
                found += self._read(path, sha256=match[1])
            elif not (path.name in (FACTS, CLAIMS) or path.name.startswith((BROKEN, "."))):
                logger.warning("%s is no part of a cache and is left alone", printable(repr(path.name)))
        if found:
            self._shards += found
            self._table = self._tabled()

    def hold(self, tensors: dict[str, Tensor]) -> None:
        """Keep rows in memory, found like the others, until `flush`."""
        self._held.append(tensors)
        self._table = self._tabled()
        if sum(len(shard["keys"]) for shard in self._held) >= ROWS_PER_SHARD:
            self.flush()

    def flush(self) -> None:
        """Publish the rows held in memory as a shard."""
        if not self._held:
            return
        whole = {name: torch.cat([shard[name] for shard in self._held]) for name in self._held[0]}
        self._held = []
        self.publish(whole, chunk=chunk_of(whole["keys"].numpy()))

    def _tabled(self) -> _Table:
        return _Table([*self._shards, *self._held], pooled=self.contents.pooled is not None)

    def _read(self, path: Path, *, sha256: str) -> list[dict[str, Tensor]]:
        try:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != sha256:
                raise ValueError("it has changed since it was written (sha256)")
            if int.from_bytes(content[:8], "little") > _HEADER_LIMIT:
                raise ValueError("its header is too large")
            tensors = load_file(path)
            self._check(tensors)
        except (
            Exception
        ) as error:  # safetensors raises errors of its own; a reader must not die of a bad file
            logger.warning("%s is set aside, its rows are recorded again: %s", path, error)
            self._known.discard(path.name)
            with suppress(OSError):
                path.rename(path.with_name(f"{BROKEN}{path.name}"))
            return []
        return [{n: v if n.partition(".")[2] else v.clone() for n, v in tensors.items()}]

    def _check(self, tensors: dict[str, Tensor]) -> None:
        """Refuse what this cache cannot have written."""
        rows, dtype = len(tensors["keys"]), self.contents.torch_dtype
        tokens = int(tensors["lengths"].sum())
        expected: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            "keys": ((rows, KEY_BYTES), torch.uint8),
            "lengths": ((rows,), torch.int32),
            "logits": ((rows, *self.facts["shapes"]["logits"]), dtype),
        }
        for tap in self.contents.taps:
            name = column(tap)
            long = rows if self.contents.pooled else tokens
            expected[name] = ((long, *self.facts["shapes"][name]), dtype)
        found = {name: (tuple(value.shape), value.dtype) for name, value in tensors.items()}
        if found != expected:
            raise ValueError(f"it should hold {expected}, and holds {found}")
        if rows and int(tensors["lengths"].min()) < 0:
            raise ValueError("it holds a negative length")

    def find(self, keys: NDArray[np.uint8]) -> Ints:
        """The place of each row, -1 where there is none; (B, 16) → (B,)."""
        return self._table.find(keys)

    def logits(self, places: Ints) -> Tensor:
        """(B, C)."""
        return self._table.logits[torch.from_numpy(places)]

    def readings(self, tap: Tap, places: Ints) -> list[Tensor]:
        """One reading per row: (tokens, …), or (1, D) where they are pooled."""
        name, shards = column(tap), self._table.shards
        spans = [self._table.spans[place] for place in places.tolist()]
        return [shards[shard][name][start : start + length] for shard, start, length in spans]

    def publish(self, tensors: dict[str, Tensor], *, chunk: str) -> None:
        """Write a shard, and put it in place with one rename.

        Raises:
            CacheError: where the disk is full or gone. The shards before it stay.
        """
        content = save({name: value.contiguous() for name, value in tensors.items()})
        name = f"shard-{hashlib.sha256(content).hexdigest()}.safetensors"
        staged = self.folder / f".{chunk}.{uuid4().hex}.part"
        try:
            with staged.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            staged.replace(self.folder / name)
            fsync(self.folder)
        except OSError as error:
            raise CacheError(
                f"{len(content):,} bytes could not be written to {self.folder} ({error}). What was recorded "
                "before stays: make room, then type the same command again."
            ) from error
        finally:
            with suppress(OSError):
                staged.unlink(missing_ok=True)
        self.refresh()

    @contextmanager
    def claim(self, chunk: str, *, wait: bool) -> Iterator[bool]:
        """Work on a chunk alone, if nobody does; the claim ends with the process, however it ends.

        True as well where the file system knows no locks: then work may be done twice.

        Args:
            chunk: its name, hexadecimal.
            wait: until nobody else works on it.
        """
        place, descriptor = int(chunk[:15], 16), -1
        if fcntl is None:
            yield True
            return
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self.folder / CLAIMS, flags, 0o600)
            fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, place)
            mine = True
        except (BlockingIOError, PermissionError):
            mine = False
        except OSError:
            mine = True
        try:
            yield mine
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def sweep(self) -> None:
        """Remove what killed writers left."""
        for path in self.folder.iterdir():
            match = PART.fullmatch(path.name)
            if match:
                with self.claim(match[1], wait=False) as dead, suppress(OSError):
                    if dead:
                        path.unlink()


def chunk_of(keys: NDArray[np.uint8]) -> str:
    """The name of some rows that are worked on together: 32 hexadecimal digits."""
    return hashlib.blake2b(np.ascontiguousarray(keys).tobytes(), digest_size=16).hexdigest()


def column(tap: Tap) -> str:
    """The name of a tap's readings in a shard."""
    return f"{tap.kind}.{tap.layer}"


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Put the facts in place, unless they are there.

    Raises:
        CacheError: where they cannot be written.
    """
    with suppress(CacheError):
        read_facts(folder)
        return
    try:
        plain = json.loads(json.dumps(facts))
        write_atomically(folder / FACTS, json.dumps({**plain, "sha256": seal(plain)}, indent=1))
    except OSError as error:
        raise CacheError(
            f"{folder / FACTS} cannot be written ({error}). Make room, or name another folder=."
        ) from error


class _Table:
    """Keys in order, as two integers of 8 bytes: the first is searched, the second must agree too."""

    def __init__(self, shards: list[dict[str, Tensor]], *, pooled: bool) -> None:
        self.shards = shards
        keys = torch.cat([shard["keys"] for shard in shards]).numpy() if shards else _NO_KEYS
        pairs = _pairs(keys)
        self._place = np.argsort(pairs[:, 0], kind="stable")
        self.first, self._second = np.ascontiguousarray(pairs[self._place, 0]), pairs[self._place, 1]
        self.logits = torch.cat([shard["logits"] for shard in shards]) if shards else torch.zeros(0, 0)
        self.spans: list[tuple[int, int, int]] = []  # of each row: its shard, first token, tokens
        for number, shard in enumerate(shards):
            if any("." in name for name in shard):
                lengths = torch.ones_like(shard["lengths"]) if pooled else shard["lengths"]
                starts = lengths.cumsum(0) - lengths
                self.spans += zip([number] * len(lengths), starts.tolist(), lengths.tolist(), strict=True)

    def find(self, keys: NDArray[np.uint8]) -> Ints:
        if not len(self.first):
            return np.full(len(keys), -1)
        pairs = _pairs(keys)
        at = np.searchsorted(self.first, pairs[:, 0]).clip(max=len(self.first) - 1)
        same = (self.first[at] == pairs[:, 0]) & (self._second[at] == pairs[:, 1])
        return np.where(same, self._place[at], -1)


def _pairs(keys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(keys).view("<u8")
