"""Where each key of a recording stands, in memory that hardly grows with the rows.

The keys are kept in order, as a few runs that are merged as they grow. A short run is an array in memory; a
long one is a file without a name in the folder of the recording, which ends with the process. It is made of
the shards, and no other process reads it, so that nothing of it can be stale, damaged or left behind.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hfdistill.teachers.cache.keys import Ints

Entries: TypeAlias = NDArray[np.uint64]
"""(N, 3): the two halves of a key, and the place of its row."""

ROWS_IN_MEMORY = 1 << 16
"""Rows of the longest run that is held in memory, 1.5 MB; twice as many are sorted at once."""

_BLOCK = 32
"""Rows that are read and compared with a key; the first half of the first of them is kept in memory."""

_BLOCK_BYTES = _BLOCK * 3 * 8
_KEYS_AT_ONCE = 1024
_RUNS_AT_ONCE = 64
_NO_PLACE = np.uint64(2**64 - 1)


class Index:
    """Finds the place of a row by its key; a row takes a quarter of a byte in memory and 24 bytes on disk.

    Keys are compared whole. Two that agree in their first 8 bytes, which happens once in 10⁵ recordings of
    10⁷ rows, are both found unless a block of 32 ends between them.

    Args:
        folder: where long runs lie; where it cannot be written to, the folder of temporary files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._size = folder, 0
        self._runs: list[_Run] = []

    def __len__(self) -> int:
        return self._size

    def add(self, blocks: Iterable[NDArray[np.uint8]]) -> None:
        """Take in keys, (n, 16) a block, at the places that follow those of the keys before."""
        new: list[_Run] = []
        for entries in self._sorted(blocks):
            new.append(_made([entries], len(entries), self._folder))
            new = [_merged(new, self._folder)] if len(new) == _RUNS_AT_ONCE else new
        first, rows = len(self._runs), sum(map(len, new))
        while first and new and len(self._runs[first - 1]) < 2 * rows:  # so that there are few runs
            first -= 1
            rows += len(self._runs[first])
        small = [*self._runs[first:], *new]
        self._runs[first:] = [_merged(small, self._folder)] if len(small) > 1 else small

    def _sorted(self, blocks: Iterable[NDArray[np.uint8]]) -> Iterator[Entries]:
        """Yield sorted entries, as many at once as one run in memory may hold."""
        waiting, rows = np.empty((0, 3), np.uint64), 0
        for keys in blocks:
            if rows + len(keys) > len(waiting):
                if rows:
                    yield _in_order(waiting[:rows])
                # one array and no list of pieces, which would leave gaps between what stays in memory
                waiting, rows = np.empty((max(2 * ROWS_IN_MEMORY, len(keys)), 3), np.uint64), 0
            waiting[rows : rows + len(keys), :2] = _halves(keys)
            waiting[rows : rows + len(keys), 2] = np.arange(self._size, self._size + len(keys))
            self._size, rows = self._size + len(keys), rows + len(keys)
        if rows:
            yield _in_order(waiting[:rows])

    def find(self, keys: NDArray[np.uint8]) -> Ints:
        """Return each key's place, -1 without one; (B, 16) → (B,)."""
        places, halves = np.full(len(keys), -1), _halves(keys)
        for run in self._runs:
            left = np.flatnonzero(places < 0)
            for start in range(0, len(left), _KEYS_AT_ONCE):
                some = left[start : start + _KEYS_AT_ONCE]
                places[some] = run.find(halves[some])
        return places


class _Run:
    """Sorted entries in blocks, of which the last is padded."""

    def __init__(self, rows: int, first: Entries, *, blocks: Entries | None, file: IO[bytes] | None) -> None:
        self._rows, self._first, self._blocks, self._file = rows, first, blocks, file
        if file is not None:
            weakref.finalize(self, file.close)

    def __len__(self) -> int:
        return self._rows

    def find(self, halves: Entries) -> Ints:
        """Return places, -1 without one; (B, 2) → (B,)."""
        at = np.searchsorted(self._first, halves[:, 0], side="right") - 1
        blocks = self._some_blocks(at.clip(min=0))  # (B, 32, 3)
        same = (blocks[:, :, :2] == halves[:, None]).all(-1)
        column, each = same.argmax(1), np.arange(len(halves))
        places = np.where(same[each, column], blocks[each, column, 2], _NO_PLACE)
        return places.view(np.int64)

    def _some_blocks(self, numbers: Ints) -> Entries:
        if self._blocks is not None:
            return self._blocks[numbers]
        content = b"".join([self._bytes(number, 1) for number in numbers.tolist()])
        return np.frombuffer(content, np.uint64).reshape(-1, _BLOCK, 3)

    def _bytes(self, block: int, count: int) -> bytes:
        assert self._file is not None  # noqa: S101 - a run is in memory or in a file
        size, offset = count * _BLOCK_BYTES, block * _BLOCK_BYTES
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), size, offset)
        self._file.seek(offset)
        return self._file.read(size)

    def entries(self, start: int, below: int | None) -> Entries:
        """Return the entries from `start` on whose first half is below a number; all of them for None."""
        one_past = len(self._first) if below is None else int(np.searchsorted(self._first, np.uint64(below)))
        block = start // _BLOCK
        if self._blocks is not None:
            blocks = self._blocks[block:one_past]
        else:
            blocks = np.frombuffer(self._bytes(block, max(one_past - block, 0)), np.uint64)
        part = blocks.reshape(-1, 3)[start - block * _BLOCK : self._rows - block * _BLOCK]
        return part if below is None else part[: int(np.searchsorted(part[:, 0], np.uint64(below)))]


def _merged(runs: Sequence[_Run], folder: Path) -> _Run:
    """Return one run of the entries of several."""
    rows = sum(map(len, runs))
    return _made(_in_ranges(runs, rows), rows, folder)


def _in_ranges(runs: Sequence[_Run], rows: int) -> Iterator[Entries]:
    """Yield the entries of several runs in order, in ranges of similar size: keys are hashes."""
    ranges = -(-rows // (2 * ROWS_IN_MEMORY))
    starts = [0] * len(runs)
    for number in range(1, ranges + 1):
        below = None if number == ranges else number * (2**64 // ranges)
        parts = [run.entries(start, below) for run, start in zip(runs, starts, strict=True)]
        starts = [start + len(part) for start, part in zip(starts, parts, strict=True)]
        yield _in_order(np.concatenate(parts))


def _made(parts: Iterable[Entries], rows: int, folder: Path) -> _Run:
    """Return a run of entries that arrive sorted; on disk where there are many."""
    filled = chain(parts, [np.full((-rows % _BLOCK, 3), _NO_PLACE)])
    if rows <= ROWS_IN_MEMORY:
        blocks = np.concatenate([*filled]).reshape(-1, _BLOCK, 3)
        return _Run(rows, blocks[:, 0, 0].copy(), blocks=blocks, file=None)
    file, written = _nameless_file(folder), 0
    first: list[Entries] = []
    for part in filled:
        first.append(part[-written % _BLOCK :: _BLOCK, 0].copy())
        file.write(part.tobytes())
        written += len(part)
    file.flush()
    return _Run(rows, np.concatenate(first), blocks=None, file=file)


def _nameless_file(folder: Path) -> IO[bytes]:
    """Return a file that vanishes with the process."""
    with suppress(OSError):
        return tempfile.TemporaryFile(dir=folder, prefix=".index-")
    return tempfile.TemporaryFile()


def _in_order(entries: Entries) -> Entries:
    return entries[np.argsort(entries[:, 0], kind="stable")]


def _halves(keys: NDArray[np.uint8]) -> Entries:
    """Return keys as two integers of 8 bytes; (B, 16) → (B, 2)."""
    return np.ascontiguousarray(keys).view("<u8")
