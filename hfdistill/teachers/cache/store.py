"""A teacher's answers on disk: shards that are whole or absent, found by the key of a row.

A shard is a safetensors file whose name is its own sha256: whoever writes the same rows writes the same file,
so writers need no lock, and a reader sees any change. sha256 finds accidents, not an attacker.

What is held in memory hardly grows with the rows: the keys are in an `Index`, and answers beyond the first
megabytes stay in their files. A recording of 10⁷ rows of two classes takes some 60 MB.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor

from hfdistill.files.checkpoint import fsync
from hfdistill.files.plain_data import printable
from hfdistill.network.trace import Tap
from hfdistill.teachers.cache.contents import FACTS, CacheError, Contents, column, read_facts, refuse_public
from hfdistill.teachers.cache.index import Index
from hfdistill.teachers.cache.keys import KEY_BYTES, Ints
from hfdistill.teachers.cache.shard import KEYS, LENGTHS, LOGITS, Shard, joined

try:
    import fcntl
except ImportError:  # Windows: writers then do some work twice, and write the same files
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

CLAIMS = "claims"
BROKEN = "broken-"
PART = re.compile(r"\.([0-9a-f]{32})\.[0-9a-f]{32}\.part")
_SHARD = re.compile(r"shard-([0-9a-f]{64})\.safetensors")
ROWS_PER_SHARD = 4096
BYTES_IN_MEMORY = 16_000_000
"""Logits that are held in memory; those of further shards are read from their files, some µs a row."""

_HEADER_LIMIT = 100_000


class _UnsoundError(ValueError):
    """A shard that this cache cannot have written."""


class Store:
    """The shards of one folder: all rows that are whole, found by key."""

    def __init__(self, folder: Path) -> None:
        refuse_public(folder)
        self.folder, self.facts = folder, read_facts(folder)
        self.contents = Contents.of(self.facts["contents"])
        self._forget()
        self._unwritten: list[dict[str, Tensor]] = []
        self._fresh: list[tuple[Shard, int]] = []  # the rows of those, and their place by key
        self._fresh_places: dict[bytes, int] = {}
        self.refresh()

    def __reduce__(self) -> tuple[Any, ...]:
        """Open the folder anew in a copy, and in another process: an open file cannot be sent there."""
        return type(self), (self.folder,)

    def _forget(self) -> None:
        """Forget all shards, as before the first `refresh`."""
        self._known: set[str] = set()
        self._shards: list[Shard] = []
        self._starts: list[int] = []  # the place of each shard's first row
        self._index = Index(self.folder)
        self._bytes_held = 0

    def __len__(self) -> int:
        return len(self._index) + len(self._fresh)

    def refresh(self) -> None:
        """Take in the shards that were published since; set damaged ones aside.

        Raises:
            CacheError: where the disk has no room for the places of the rows, 24 bytes each.
        """
        try:
            self._index.add(self._new_shards())
        except BaseException as error:  # Ctrl-C, too
            self._forget()  # after half of it, rows would be given the answers of others
            if not isinstance(error, OSError):
                raise
            raise CacheError(
                f"The places of the rows of {self.folder} could not be written beside them ({error}): they "
                "take 24 bytes a row until the process ends. Make room, then type the same command again."
            ) from error

    def _new_shards(self) -> Iterator[NDArray[np.uint8]]:
        """Take in one shard after the other, and yield its keys."""
        for path in sorted(self.folder.iterdir()):
            if path.name in self._known:
                continue
            self._known.add(path.name)
            match = _SHARD.fullmatch(path.name)
            if match and path.is_file() and not path.is_symlink():
                keys = self._take_in(path, sha256=match[1])
                if keys is not None:
                    yield keys
            elif not (path.name in (FACTS, CLAIMS) or path.name.startswith((BROKEN, "."))):
                logger.warning("%s is not a part of a cache and is left alone", printable(repr(path.name)))

    def hold(self, tensors: dict[str, Tensor]) -> None:
        """Keep rows in memory, found like the others, until `flush`."""
        self._unwritten.append(tensors)
        shard = self._shard(tensors)
        for row, key in enumerate(tensors[KEYS].numpy()):
            self._fresh_places[key.tobytes()] = len(self._fresh)
            self._fresh.append((shard, row))
        if len(self._fresh) >= ROWS_PER_SHARD:
            self.flush()

    def flush(self) -> None:
        """Publish the rows held in memory as a shard."""
        if not self._unwritten:
            return
        whole = joined(self._unwritten)
        chunk = chunk_of(whole[KEYS].numpy())
        with self.claim(chunk, wait=True):  # or another process's sweep takes the file for a dead writer's
            self.publish(whole, chunk=chunk)
        self._unwritten, self._fresh, self._fresh_places = [], [], {}

    def _shard(self, tensors: dict[str, Tensor], **options: Any) -> Shard:
        return Shard(tensors, pooled=self.contents.pooled is not None, **options)

    def _take_in(self, path: Path, *, sha256: str) -> NDArray[np.uint8] | None:
        """Add a shard, and return its keys; None for one that cannot be read."""
        try:
            content = path.read_bytes()
            tensors = self._checked(content, sha256=sha256)
            size = tensors[LOGITS].nbytes
            held = self._bytes_held + size <= BYTES_IN_MEMORY
            start = self._starts[-1] + self._shards[-1].rows if self._shards else 0
            self._shards.append(self._shard(tensors, file=(path, content), held=held))
            self._starts.append(start)
            self._bytes_held += size if held else 0
            return tensors[KEYS].numpy()
        except _UnsoundError as error:
            logger.warning("%s is set aside, its rows are recorded again: %s", path, error)
            with suppress(OSError):
                path.rename(path.with_name(f"{BROKEN}{path.name}"))
        except Exception as error:  # the disk's, which safetensors wraps: the file may be sound
            logger.warning("%s cannot be read now: %s", path, error)
        self._known.discard(path.name)
        return None

    def _checked(self, content: bytes, *, sha256: str) -> dict[str, Tensor]:
        if hashlib.sha256(content).hexdigest() != sha256:
            raise _UnsoundError("it has changed since it was written (sha256)")
        if int.from_bytes(content[:8], "little") > _HEADER_LIMIT:
            raise _UnsoundError("its header is too large")
        try:
            tensors = load(content)
            self._check(tensors)
        except Exception as error:  # safetensors has errors of its own; a reader must not die of a bad file
            raise _UnsoundError(str(error)) from error
        return tensors

    def _check(self, tensors: dict[str, Tensor]) -> None:
        """Refuse a shard that this cache cannot have written."""
        rows, dtype = len(tensors["keys"]), self.contents.torch_dtype
        tokens = int(tensors["lengths"].sum())
        expected: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            KEYS: ((rows, KEY_BYTES), torch.uint8),
            LENGTHS: ((rows,), torch.int32),
            LOGITS: ((rows, *self.facts["shapes"]["logits"]), dtype),
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
        places = self._index.find(keys)
        for row in np.flatnonzero(places < 0) if self._fresh else ():
            place = self._fresh_places.get(keys[row].tobytes())
            places[row] = -1 if place is None else len(self._index) + place
        return places

    def _row(self, place: int) -> tuple[Shard, int]:
        """Return the shard of a place, and the row in it."""
        if place >= len(self._index):
            return self._fresh[place - len(self._index)]
        number = bisect_right(self._starts, place) - 1
        return self._shards[number], place - self._starts[number]

    def logits(self, places: Ints) -> Tensor:
        """Return the logits (B, C)."""
        rows = map(self._row, places.tolist())
        content = bytearray().join([shard.logits(row) for shard, row in rows])
        shape, dtype = self.facts["shapes"][LOGITS], self.contents.torch_dtype
        if not content:  # of no rows, which frombuffer refuses
            return torch.empty(len(places), *shape, dtype=dtype)
        return torch.frombuffer(content, dtype=dtype).view(len(places), *shape)

    def readings(self, tap: Tap, places: Ints) -> list[Tensor]:
        """Return one reading per row: (tokens, …), or (1, D) where they are pooled."""
        rows = map(self._row, places.tolist())
        return [shard.reading(tap, row) for shard, row in rows]

    def publish(self, tensors: dict[str, Tensor], *, chunk: str) -> None:
        """Write a shard, and put it in place with one rename; if the disk is full, those before it stay."""
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
        """Claim a chunk that nobody works on; the claim ends with the process, however it ends.

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
        """Remove files that killed writers left behind."""
        for path in self.folder.iterdir():
            match = PART.fullmatch(path.name)
            if match:
                with self.claim(match[1], wait=False) as dead, suppress(OSError):
                    if dead:
                        path.unlink()


def chunk_of(keys: NDArray[np.uint8]) -> str:
    """Return the name of some rows that are worked on together: 32 hexadecimal digits."""
    return hashlib.blake2b(np.ascontiguousarray(keys).tobytes(), digest_size=16).hexdigest()
