"""Readings are put into a shard row by row, without padding, and laid out as a batch again."""

from __future__ import annotations

import torch
from torch import Tensor

from hfdistill.network.trace import Tap
from hfdistill.teachers.cache.keys import Rows


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
