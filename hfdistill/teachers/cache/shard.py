"""The answers of one shard: in memory, or left in their file and read row by row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from hfdistill.network.trace import Tap
from hfdistill.teachers.cache.contents import CacheError, column
from hfdistill.teachers.cache.keys import Rows

KEYS, LENGTHS, LOGITS = "keys", "lengths", "logits"


class Shard:
    """Rows whose logits and readings are asked for one at a time.

    Args:
        tensors: what it holds. The keys are not kept.
        pooled: whether its readings are one vector a row.
        file: where all of it is written, and its content; None keeps everything in memory.
        held: whether logits and lengths are kept in memory beside a file.
    """

    def __init__(
        self,
        tensors: dict[str, Tensor],
        *,
        pooled: bool,
        file: tuple[Path, bytes] | None = None,
        held: bool = True,
    ) -> None:
        self.rows, self._pooled, self._path = len(tensors[KEYS]), pooled, None if file is None else file[0]
        self._layout = _layout(tensors, None if file is None else file[1])
        kept = [name for name in tensors if name != KEYS] if file is None else [LENGTHS, LOGITS]
        self._held = {name: tensors[name].contiguous().numpy().tobytes() for name in kept if held}
        self._ends = tensors[LENGTHS].cumsum(0, dtype=torch.int32) if held else None

    def logits(self, row: int) -> bytes:
        """Return a row's logits as they are stored."""
        return self._content(LOGITS, row, row + 1)

    def reading(self, tap: Tap, row: int) -> Tensor:
        """Return a row's reading: (tokens, …), or (1, D) where they are pooled."""
        if self._pooled:
            return self._read(column(tap), row, row + 1)
        ends = self._read(LENGTHS, 0, row + 1).cumsum(0) if self._ends is None else self._ends
        return self._read(column(tap), int(ends[row - 1]) if row else 0, int(ends[row]))

    def _read(self, name: str, start: int, stop: int) -> Tensor:
        """Return some of a column's rows, or of its tokens."""
        _, shape, dtype = self._layout[name]
        content = self._content(name, start, stop)
        if not content:
            return torch.empty(0, *shape, dtype=dtype)
        return torch.frombuffer(bytearray(content), dtype=dtype).view(-1, *shape)

    def _content(self, name: str, start: int, stop: int) -> bytes:
        begin, shape, dtype = self._layout[name]
        width = dtype.itemsize * shape.numel()
        held = self._held.get(name)
        if held is not None:
            return held[start * width : stop * width]
        return self._bytes(begin + start * width, (stop - start) * width)

    def _bytes(self, offset: int, size: int) -> bytes:
        assert self._path is not None  # noqa: S101 - a shard without a file is held in memory
        try:
            with self._path.open("rb", buffering=0) as file:
                file.seek(offset)
                content = file.read(size)
        except OSError as error:
            raise CacheError(
                f"{self._path} was there when the recording was opened and cannot be read now ({error}). Put "
                "it back, or record again: rows whose shards are whole are not asked about again."
            ) from error
        if len(content) != size:
            raise CacheError(
                f"{self._path} is shorter than when the recording was opened. Put it back, or record again: "
                "rows whose shards are whole are not asked about again."
            )
        return content


def joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the rows of one or more parts as one."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _layout(
    tensors: dict[str, Tensor], content: bytes | None
) -> dict[str, tuple[int, torch.Size, torch.dtype]]:
    """Return where each tensor begins in a safetensors file, the shape of a row of it, and its dtype."""
    begins = dict.fromkeys(tensors, 0)
    if content is not None:
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        begins = {name: 8 + size + header[name]["data_offsets"][0] for name in tensors}
    return {name: (begins[name], value.shape[1:], value.dtype) for name, value in tensors.items()}


def unpadded(
    reading: Tensor, starts: list[int], lengths: list[int], mask: Tensor | None, *, pooled: str | None
) -> list[Tensor]:
    """Cut a reading into its rows.

    Args:
        reading: (B, T, …).
        starts: the first token of each row.
        lengths: tokens of each row.
        mask: (B, T); None where all are real.
        pooled: "mean" or "cls" for one vector a row.

    Returns:
        For each row (tokens, …), or (1, D) pooled.
    """
    if pooled == "mean":
        weights = torch.ones(reading.shape[:2], device=reading.device) if mask is None else mask.float()
        sums = (reading.float() * weights[..., None]).sum(1) / weights.sum(1, keepdim=True).clamp(min=1)
        return [*sums[:, None]]
    ends = [start + (1 if pooled else n) for start, n in zip(starts, lengths, strict=True)]
    return [reading[i, start:end] for i, (start, end) in enumerate(zip(starts, ends, strict=True))]


def padded(tap: Tap, parts: list[Tensor], rows: Rows, *, pooled: bool) -> Tensor:
    """Put the rows of a reading into a batch's own layout, with zeros where it has padding.

    Args:
        tap: what was read.
        parts: for each row (tokens, …), or (1, D) pooled.
        rows: of the batch.
        pooled: whether there is one vector a row, which then stands at every token.
    """
    if pooled:
        return torch.stack(parts).float().expand(-1, rows.width, -1)  # (B, T, D)
    out = torch.zeros(len(parts), rows.width, *parts[0].shape[1:])
    for i, part in enumerate(parts):
        out[i, rows.starts[i] : rows.ends[i]] = part
    return out if tap.kind == "hidden" else out.transpose(1, 2)  # (B, H, T, D/H)
