"""These functions refuse what is not rows, and streams where rows have to be in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import IterableDataset

_FROM_DICT = "Type datasets.Dataset.from_dict({'text': texts, 'label': labels})."


def check_kind(data: Any, *, split: str, collated: bool = False, several: bool = False) -> None:
    """Refuse what is not a data set of rows, before anything reads it.

    Args:
        data: what was given.
        split: what messages call it.
        collated: whether the user's own collator makes batches, of rows of any kind.
        several: whether it may be several sets by name.
    """
    kind, library = type(data).__name__, type(data).__module__.split(".")[0]
    if kind == "DataFrame":
        raise TypeError(
            f"{split} is a DataFrame of {library}, not a dataset. Type "
            f"datasets.Dataset.from_{library}(frame), with columns text and label, or hfdistill.load(path)."
        )
    if library == "pyarrow":
        raise TypeError(f"{split} is a {kind} of pyarrow, not a dataset. Type datasets.Dataset(table).")
    if kind in ("Series", "ndarray"):
        raise TypeError(f"{split} is a {kind} of {library}, not rows with columns. {_FROM_DICT}")
    if isinstance(data, (str, Path)):
        raise TypeError(f"{split} is a {kind}. Load it first: hfdistill.load({str(data)[:60]!r}).")
    if isinstance(data, Mapping) and not several:
        names = ", ".join(map(repr, list(data)[:4]))
        raise TypeError(
            f"{split} is a {kind} of {names or 'nothing'}, not one set of rows. Type "
            f"{split}=data[{next(iter(data), 'train')!r}]."
        )
    if isinstance(data, (list, tuple)) and data and not (collated or isinstance(data[0], Mapping)):
        raise TypeError(
            f"{split} is a {kind} whose first element is a {type(data[0]).__name__}, not a row. {_FROM_DICT}"
        )


def refuse_stream(data: Any, caller: str, *, why: str) -> None:
    """Refuse a stream, or a dict of streams, where rows are read by their numbers or all at once."""
    parts = data.values() if isinstance(data, dict) else [data]
    if any(isinstance(part, IterableDataset) for part in parts):
        raise TypeError(
            f"{caller} {why}, and found a stream (IterableDataset). Load the rows without streaming=True, or "
            "hold some of them in memory: Dataset.from_list(list(stream.take(1000)))."
        )
