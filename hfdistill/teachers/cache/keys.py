"""A key says what a teacher reads of a row, in 16 bytes."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hfdistill.network.inputs import TOKEN_TYPES
from hfdistill.network.trace import Batch

Ints: TypeAlias = NDArray[np.int64]

KEY_BYTES = 16


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a batch without their padding.

    Args:
        keys: (B, 16) uint8, equal where a teacher reads the same.
        starts: (B,), the first real token of a row.
        ends: (B,), one past its last real token.
        width: T, with padding.
    """

    keys: NDArray[np.uint8]
    starts: Ints
    ends: Ints
    width: int


def rows_of(inputs: Batch) -> Rows:
    """Hash what a model is given, row by row: token ids, token types and any other column, without padding.

    The key is blake2b over names and values from the first to the last token that `attention_mask` marks, so
    neither the side nor the amount of padding has a part in it, nor what stands in the padding. A mask with
    holes is hashed too, and integers of any width are equal. Without a mask a row is hashed as it is.
    """
    columns = {name: _plain(value) for name, value in sorted(_on_host(inputs).items()) if _has_rows(value)}
    mask = columns.get("attention_mask")
    if mask is not None and mask.ndim == 2:
        columns.pop("attention_mask")
    else:
        mask = None
    if not columns:
        raise ValueError(
            f"Found nothing that a teacher could read among {sorted(inputs)}, so there is nothing to find "
            "its answers by. Give batches with input_ids."
        )
    size = len(next(iter(columns.values())))
    width = max((c.shape[1] for c in columns.values() if c.ndim > 1), default=0)
    width = width if mask is None else mask.shape[1]
    real = np.ones((size, width), bool) if mask is None else mask != 0
    starts, ends = _spans(real)
    holes = real.sum(1) != ends - starts
    token = {n: c for n, c in columns.items() if c.dtype == np.int64 and c.shape == (size, width)}
    other = {n: np.ascontiguousarray(c) for n, c in columns.items() if n not in token}
    head = hashlib.blake2b(repr((list(token), [(n, c.dtype.str) for n, c in other.items()])).encode())
    tokens = (
        np.stack([*token.values()], axis=1) if token else np.zeros((size, 0, width), np.int64)
    )  # (B, K, T)
    keys = np.empty((size, KEY_BYTES), np.uint8)
    for i, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        digest = head.copy()
        digest.update(struct.pack("<q?", end - start, holes[i]))
        digest.update(tokens[i, :, start:end].tobytes())
        if holes[i]:
            digest.update(real[i, start:end].tobytes())
        for column in other.values():
            digest.update(repr(column.shape[1:]).encode() + column[i].tobytes())
        keys[i] = np.frombuffer(digest.digest()[:KEY_BYTES], np.uint8)
    return Rows(keys, starts, ends, width)


def _spans(real: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Return the place of the first real token, and one past the last; the whole row where none is real."""
    size, width = real.shape
    if not width:
        return np.zeros(size, np.int64), np.zeros(size, np.int64)
    starts = real.argmax(1)
    ends = width - real[:, ::-1].argmax(1)
    none = ~real.any(1)
    return np.where(none, 0, starts), np.where(none, width, ends)


def other_reading(inputs: Batch) -> tuple[dict[str, Tensor], NDArray[np.bool_]]:
    """Return the inputs without token types, or with zeros where there are none.

    Beside them are the rows, (B,), that a model with a table of token types answers alike."""
    ids, types, mask = (inputs.get(name) for name in ("input_ids", TOKEN_TYPES, "attention_mask"))
    if ids is None:
        return dict(inputs), np.zeros(len(next(iter(inputs.values()))), bool)
    if types is None:
        return {**inputs, TOKEN_TYPES: torch.zeros_like(ids)}, np.ones(len(ids), bool)
    real = types if mask is None else types * mask
    without = {name: value for name, value in inputs.items() if name != TOKEN_TYPES}
    return without, (real == 0).all(1).cpu().numpy()


def pushed(batch: Batch, inputs: Batch, rows: Rows, *, padding: str) -> dict[str, Any]:
    """Return the batch with its padding on one side of each row, as a teacher reads it.

    On the right, absolute positions do not depend on what else was in the batch.
    """
    starts = rows.starts if padding == "right" else rows.ends - rows.width
    if not starts.any() or "attention_mask" not in inputs:
        return dict(batch)
    shape = inputs["attention_mask"].shape
    place = torch.arange(shape[1])[None] + torch.from_numpy(starts)[:, None]  # (B, T)
    read = {id(value) for value in inputs.values() if _has_rows(value) and value.shape == shape}
    return {
        name: value.gather(1, (place % shape[1]).to(value.device)) if id(value) in read else value
        for name, value in batch.items()
    }


def shortest_alone(batch: Batch, mask: Tensor) -> tuple[int, dict[str, Any]] | None:
    """Return the number of the row with the fewest tokens, and that row without its padding.

    None where no row has any padding.

    Args:
        batch: columns of a teacher.
        mask: (B, T), 1 for real tokens.
    """
    starts, ends = _spans(mask.cpu().numpy() != 0)
    number = int((ends - starts).argmin())
    start, end = int(starts[number]), int(ends[number])
    if end - start == mask.shape[1]:
        return None
    names = [name for name, value in batch.items() if _has_rows(value) and value.shape[:2] == mask.shape]
    row = chosen(batch, [number])
    return number, {**row, **{name: row[name][:, start:end] for name in names}}


def chosen(batch: Mapping[str, Any], rows: Any) -> dict[str, Any]:
    """Return the given rows of a batch."""
    size = max((len(value) for value in batch.values() if _has_rows(value)), default=0)
    return {
        name: value[torch.as_tensor(rows, device=value.device)]
        if _has_rows(value) and len(value) == size
        else value
        for name, value in batch.items()
    }


def _has_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _on_host(inputs: Batch) -> dict[str, Any]:
    """Return the inputs on the host; those of one number per token are copied from a device together.

    Python waits for each copy from a device.
    """
    remote = {n: v for n, v in inputs.items() if _has_rows(v) and v.device.type != "cpu"}
    shape = next((value.shape for value in remote.values()), None)
    names = [n for n, v in remote.items() if v.shape == shape and not v.is_floating_point()]
    copies = torch.stack([inputs[name].long() for name in names]).cpu() if names else ()
    return {**inputs, **dict(zip(names, copies, strict=True))}


def _plain(value: Tensor) -> NDArray[Any]:
    """Widen integers to int64 and others to float64, so that a collator's dtype does not change the key."""
    whole = not value.is_floating_point()
    return value.detach().cpu().to(torch.int64 if whole else torch.float64).numpy()
