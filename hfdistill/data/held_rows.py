"""`refuse_stream` says what to type where rows have to be in memory."""

from __future__ import annotations

from typing import Any

from datasets import IterableDataset


def refuse_stream(data: Any, caller: str, *, why: str) -> None:
    """Refuse a stream, or a dict of streams, where rows are read by their numbers or all at once.

    Raises:
        TypeError: with what to type.
    """
    parts = data.values() if isinstance(data, dict) else [data]
    if any(isinstance(part, IterableDataset) for part in parts):
        raise TypeError(
            f"{caller} {why}, and found a stream (IterableDataset). Load the rows without streaming=True, or "
            "hold some of them in memory: Dataset.from_list(list(stream.take(1000)))."
        )
