"""A teacher's answers on disk: shards that are whole or absent, found by the key of a row.

A shard is a safetensors file whose name is its own sha256: whoever writes the same rows writes the same file,
so writers need no lock, and a reader sees any change. sha256 finds accidents, not an attacker.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, load_file, save
from torch import Tensor

from hfdistill.files.checkpoint import fsync
from hfdistill.files.plain_data import printable
from hfdistill.network.trace import Tap
from hfdistill.teachers.cache.contents import FACTS, CacheError, Contents, column, read_facts, refuse_public
from hfdistill.teachers.cache.keys import KEY_BYTES, Ints

try:
    import fcntl
except ImportError:  # Windows: writers then do some work twice, and write the same files
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

CLAIMS = "claims"
BROKEN = "broken-"
PART = re.compile(r"\.([0-9a-f]{32})\.[0-9a-f]{32}\.part")
_SHARD = re.compile(r"shard-([0-9a-f]{64})\.safetensors")
_NO_KEYS = np.zeros((0, KEY_BYTES), np.uint8)
ROWS_PER_SHARD = 4096
_HEADER_LIMIT = 100_000


class _UnsoundError(ValueError):
    """A shard that this cache cannot have written."""


class Store:
    """The shards of one folder: all rows that are whole, found by key."""

    def __init__(self, folder: Path) -> None:
        refuse_public(folder)
        self.folder, self.facts = folder, read_facts(folder)
        self.contents = Contents.of(self.facts["contents"])
        self._known: set[str] = set()
        self._shards: list[dict[str, Tensor]] = []
        self._held: list[dict[str, Tensor]] = []
        self._table = self._fresh = self._tabled([])
        self.refresh()

    def __len__(self) -> int:
        return len(self._table.first) + len(self._fresh.first)

    def refresh(self) -> None:
        """Take in the shards that were published since; set damaged ones aside."""
        shards = []
        for path in sorted(self.folder.iterdir()):
            if path.name in self._known:
                continue
            self._known.add(path.name)
            match = _SHARD.fullmatch(path.name)
            if match and path.is_file() and not path.is_symlink():
                shards += self._read(path, sha256=match[1])
            elif not (path.name in (FACTS, CLAIMS) or path.name.startswith((BROKEN, "."))):
                logger.warning("%s is not a part of a cache and is left alone", printable(repr(path.name)))
        if shards:
            self._shards += shards
            self._table = self._tabled(self._shards)

    def hold(self, tensors: dict[str, Tensor]) -> None:
        """Keep rows in memory, found like the others, until `flush`."""
        self._held.append(tensors)
        self._fresh = self._tabled(self._held)
        if sum(len(shard["keys"]) for shard in self._held) >= ROWS_PER_SHARD:
            self.flush()

    def flush(self) -> None:
        """Publish the rows held in memory as a shard."""
        if not self._held:
            return
        whole = {name: torch.cat([shard[name] for shard in self._held]) for name in self._held[0]}
        chunk = chunk_of(whole["keys"].numpy())
        with self.claim(chunk, wait=True):  # or another process's sweep takes the file for a dead writer's
            self.publish(whole, chunk=chunk)
        self._held = []
        self._fresh = self._tabled([])

    def _tabled(self, shards: list[dict[str, Tensor]]) -> _Table:
        return _Table(list(shards), pooled=self.contents.pooled is not None)

    def _read(self, path: Path, *, sha256: str) -> list[dict[str, Tensor]]:
        try:
            tensors = self._checked(path.read_bytes(), sha256=sha256)
            if self.contents.taps:
                tensors = load_file(path)  # mapped: the readings stay on disk
                tensors |= {name: tensors[name].clone() for name in ("keys", "lengths", "logits")}
            return [tensors]
        except _UnsoundError as error:
            logger.warning("%s is set aside, its rows are recorded again: %s", path, error)
            with suppress(OSError):
                path.rename(path.with_name(f"{BROKEN}{path.name}"))
        except Exception as error:  # the disk's, which safetensors wraps: the file may be sound
            logger.warning("%s cannot be read now: %s", path, error)
        self._known.discard(path.name)
        return []

    def _checked(self, content: bytes, *, sha256: str) -> dict[str, Tensor]:
        if hashlib.sha256(content).hexdigest() != sha256:
            raise _UnsoundError("it has changed since it was written (sha256)")
        if int.from_bytes(content[:8], "little") > _HEADER_LIMIT:
            raise _UnsoundError("its header is too large")
        try:
            tensors = load(content)
            self._check(tensors)
        except (
            Exception
        ) as error:  # safetensors raises errors of its own; a reader must not die of a bad file
            raise _UnsoundError(str(error)) from error
        return tensors

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
        layout = {name: (tuple(value.shape), value.dtype) for name, value in tensors.items()}
        if layout != expected:
            raise ValueError(f"it should hold {expected}, and holds {layout}")
        if rows and int(tensors["lengths"].min()) < 0:
            raise ValueError("it holds a negative length")

    def find(self, keys: NDArray[np.uint8]) -> Ints:
        """Return each row's place, -1 without one, until the next `hold` or `flush`; (B, 16) → (B,)."""
        places = self._table.find(keys)
        left = np.flatnonzero(places < 0)
        held = self._fresh.find(keys[left])
        places[left] = np.where(held < 0, -1, held + len(self._table.first))
        return places

    def logits(self, places: Ints) -> Tensor:
        """Return the logits (B, C)."""
        published, rows = places < (size := len(self._table.first)), torch.from_numpy(places)
        if published.all():
            return self._table.logits[rows]
        parts = [self._table.logits[rows[published]]] if published.any() else []
        parts.append(self._fresh.logits[rows[~published] - size])
        order = np.concatenate([np.flatnonzero(published), np.flatnonzero(~published)])
        return torch.cat(parts)[torch.from_numpy(np.argsort(order))]

    def readings(self, tap: Tap, places: Ints) -> list[Tensor]:
        """Return one reading per row: (tokens, …), or (1, D) where they are pooled."""
        size = len(self._table.first)
        return [
            self._table.reading(column(tap), place)
            if place < size
            else self._fresh.reading(column(tap), place - size)
            for place in places.tolist()
        ]

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
        """
        place, descriptor = int(chunk[:15], 16), -1
        if fcntl is None:
            yield True
            return
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self.folder / CLAIMS, flags, 0o600)
            fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, place)
            claimed = True
        except (BlockingIOError, PermissionError):
            claimed = False
        except OSError:
            claimed = True
        try:
            yield claimed
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

    def reading(self, name: str, place: int) -> Tensor:
        shard, start, length = self.spans[place]
        return self.shards[shard][name][start : start + length]

    def find(self, keys: NDArray[np.uint8]) -> Ints:
        if not len(self.first):
            return np.full(len(keys), -1)
        pairs = _pairs(keys)
        at = np.searchsorted(self.first, pairs[:, 0]).clip(max=len(self.first) - 1)
        same = (self.first[at] == pairs[:, 0]) & (self._second[at] == pairs[:, 1])
        return np.where(same, self._place[at], -1)


def _pairs(keys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(keys).view("<u8")
