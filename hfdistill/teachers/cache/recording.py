"""One pass of a teacher over a data set, for ever."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from numpy.typing import NDArray
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from hfdistill.data.data_kinds import check_kind
from hfdistill.data.encode import encode
from hfdistill.data.in_memory import as_rows
from hfdistill.files.progress import Progress, Shown, announce
from hfdistill.network.architectures import readable_length
from hfdistill.network.inputs import TOKEN_TYPES
from hfdistill.network.loading import own_device
from hfdistill.network.task import LABELS
from hfdistill.teachers.base import as_teacher, assign_column_prefixes
from hfdistill.teachers.cache.contents import CacheError, Contents
from hfdistill.teachers.cache.keys import KEY_BYTES, Ints
from hfdistill.teachers.cache.manifest import reads_mask
from hfdistill.teachers.cache.shard import joined
from hfdistill.teachers.cache.store import ROWS_PER_SHARD, Store, chunk_of
from hfdistill.teachers.cache.teacher import CachedTeacher

logger = logging.getLogger(__name__)

SHARD_BYTES = 64_000_000
ROWS_PER_WINDOW = 4 * ROWS_PER_SHARD
"""Rows of a stream that are held in memory and sorted by length."""

_WORK = "recording the teacher"
_SCANNED = 1000
Collate = Callable[[list[Any]], Any]


def record(
    teacher: Any,
    dataset: Any,
    *,
    folder: str | Path,
    tokenizer: Any = None,
    contents: Contents | None = None,
    max_length: int | None = None,
    tokens_per_batch: int = 8192,
    budget_mb: float = 1000.0,
) -> CachedTeacher:
    """Ask a teacher about every row of a data set once, and keep its answers.

    Rows are sorted by length, in batches of one number of tokens, without gradients; each text is asked once.
    What is recorded already is not asked again, so the same command goes on after a kill, and several
    processes, started by `accelerate launch` or by hand, on one machine or on several that see one folder,
    share the work. Each shard of up to 4,096 rows is written whole or not at all, and named by its content:
    the shards of two folders, copied into one, are one recording.

    A stream (a data set without a length) is read once, 16,384 rows at a time, which are sorted and asked
    about as above. The memory that this takes does not grow with the rows.

    Args:
        teacher: a model, a Hub id, a path or a `Teacher`. It is asked where it lies; one that is named moves
            to this process's accelerator first.
        dataset: rows with `input_ids`, or a `datasets.Dataset` or `IterableDataset` with `text` (and
            `text_pair`).
        folder: where the answers go, into a folder of this teacher and these contents (made for its owner
            alone).
        tokenizer: reads the text and pads; or a collator of one's own, for rows that need one.
        contents: what is kept; None for logits in float32.
        max_length: tokens kept of a text, as in training: the key is the ids that are left.
        tokens_per_batch: padded tokens per forward; a batch that does not fit into memory is halved.
        budget_mb: megabytes (10⁶ bytes); a larger estimate is logged as a warning.

    Returns:
        The teacher that answers from disk, without the live one.

    Raises:
        CacheError: before the first forward, where the folder cannot be written or has no room; where
            answers are not finite, or differ between two passes; where a row reads differently each time.
        ValueError: for text without a tokenizer.

    Example:
        >>> teacher = record("textattack/bert-base-uncased-SST-2", data, folder="cache",
        ...                  tokenizer=tokenizer)  # doctest: +SKIP
    """
    live = as_teacher(teacher)
    if isinstance(tokenizer, PreTrainedTokenizerBase) and assign_column_prefixes(live, tokenizer):
        raise ValueError(
            "tokenizer= makes other token ids than the teacher reads. Give the teacher's own; members of an "
            "Ensemble with different ones are recorded each on its own."
        )
    if isinstance(teacher, (str, Path)):
        live.to(own_device())
    data, collate = _readable(dataset, tokenizer, live, max_length)
    cached = CachedTeacher(folder, teacher=live, contents=contents)
    work = record_missing if hasattr(data, "__len__") else record_stream
    work(cached, data, collate, tokens_per_batch=tokens_per_batch, budget_mb=budget_mb)
    cached.drop_live_teacher()
    return cached


def record_missing(
    cached: CachedTeacher,
    dataset: Any,
    collate: Collate,
    *,
    tokens_per_batch: int = 8192,
    budget_mb: float = 1000.0,
    progress: Shown = "bar",
) -> float:
    """Record the rows that are missing, and return how many bytes they took."""
    keys, lengths = _scan(cached, dataset, collate)
    missing = np.flatnonzero(cached.missing(keys))
    if not len(missing):
        return 0.0
    if cached.teacher is None:
        raise CacheError(cached.missing_message(len(missing), of=len(keys)))
    new = missing[np.sort(np.unique(keys[missing], axis=0, return_index=True)[1])]
    announce(cached.before_asking(len(new), of=len(np.unique(keys, axis=0))), progress)
    cached.check_deterministic(_batch(dataset, new[:8], collate))
    store = cached.store
    assert store is not None  # noqa: S101 - opened by check_deterministic
    store.sweep()
    missing = _longest_first(np.flatnonzero(cached.missing(keys)), keys, lengths)
    size = _check_room(store, lengths[missing], budget_mb)
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1  # they cut alike, whatever each has seen recorded
    cut = _longest_first(np.arange(len(keys)), keys, lengths) if several else missing
    # the calls of a function may be slow, and few enough to be shared
    most = 8 * cached.batch_rows if several and cached.batch_rows else ROWS_PER_SHARD
    chunks = _chunks(store, cut, keys, lengths, tokens_per_batch, cached.batch_rows, most)
    for chunk in chunks:
        chunk.new = int(cached.missing(chunk.keys).sum())
    with Progress(_WORK, total=len(missing), show=progress, leave=True) as bar:
        _work(cached, chunks, lambda rows: _batch(dataset, rows, collate), bar)
    store.refresh()
    missing = np.flatnonzero(cached.missing(keys))
    if len(missing):
        raise CacheError(cached.missing_message(len(missing), of=len(keys)))
    return size


def record_stream(
    cached: CachedTeacher,
    rows: Iterable[Any],
    collate: Collate,
    *,
    tokens_per_batch: int = 8192,
    budget_mb: float = 1000.0,
) -> None:
    """Record the missing rows of a stream, one window after the other."""
    size, left = 0.0, iter(rows)
    with Progress(_WORK, show="bar", leave=True) as bar:
        while window := list(islice(left, ROWS_PER_WINDOW)):
            below = size <= budget_mb * 1e6
            size += record_missing(
                cached,
                window,
                collate,
                tokens_per_batch=tokens_per_batch,
                budget_mb=math.inf,
                progress="none",
            )
            if below and size > budget_mb * 1e6:
                logger.warning(_OVER_BUDGET, bar.n + len(window), size / 1e6, cached.folder, budget_mb)
            bar.update(len(window))
        if not bar.n:
            raise ValueError(
                "The stream holds no row to record: what made it is at its end (a generator that was read "
                "once), or a filter kept nothing. Give it anew."
            )


def count_missing(cached: CachedTeacher, dataset: Any, collate: Collate) -> int:
    """Return how many rows are not recorded."""
    keys, _ = _scan(cached, dataset, collate)
    return int(cached.missing(keys).sum())


def _longest_first(rows: Ints, keys: NDArray[np.uint8], lengths: Ints) -> Ints:
    """Order the rows, each text once; texts of one length stand in the order of their keys."""
    _, first = np.unique(keys[rows], axis=0, return_index=True)
    rows = rows[first]
    return rows[np.argsort(-lengths[rows], kind="stable")]


@dataclass(eq=False)
class _Chunk:
    """The rows of one shard with their keys, in batches for the teacher; `new` had no answer at first."""

    name: str
    keys: NDArray[np.uint8]
    batches: list[tuple[Ints, NDArray[np.uint8]]]
    new: int = 0


def _work(cached: CachedTeacher, chunks: list[_Chunk], load: Callable[[Ints], Any], bar: Progress) -> None:
    """Record the chunks that no other process works on, wait for the others, and record what they left."""
    store, rank = cached.store, int(os.environ.get("RANK", 0))
    assert store is not None  # noqa: S101 - opened by check_deterministic
    world = int(os.environ.get("WORLD_SIZE", 1))
    order = [chunk for i in range(world) for chunk in chunks[(rank + i) % world :: world]]
    left = order
    for wait in (False, True):
        taken = []
        for chunk in left:
            asked = 0
            with store.claim(chunk.name, wait=wait) as claimed:
                store.refresh()
                if cached.missing(chunk.keys).any():
                    if not claimed:
                        taken.append(chunk)
                        continue
                    asked = _answer(cached, store, chunk, load, bar)
            bar.update(chunk.new - asked)
        left = taken


def _answer(
    cached: CachedTeacher, store: Store, chunk: _Chunk, load: Callable[[Ints], Any], bar: Progress
) -> int:
    """Ask about the rows of a chunk, publish the answers, also those before an error, and count them."""
    asked = 0
    shards: list[dict[str, torch.Tensor]] = []
    pace = _Pace(store, chunk.name)
    try:
        for rows, keys in chunk.batches:
            missing = cached.missing(keys)
            if not missing.any():
                continue
            rows, keys = rows[missing], keys[missing]
            answers = cached.answers(load(rows), names=rows)
            if not np.array_equal(answers["keys"].numpy(), keys):
                raise CacheError(_changing(cached))
            shards.append(answers)
            asked += len(rows)
            bar.update(len(rows))
            if cached.batch_rows is not None and pace.is_due():
                shards = pace.publish(shards)
    finally:
        pace.publish(shards)
    return asked


class _Pace:
    """Publishes often enough that a kill loses little, and rarely enough to take a twentieth of the time."""

    def __init__(self, store: Store, chunk: str) -> None:
        self.store, self.chunk = store, chunk
        self._last, self._took = time.monotonic(), 0.0

    def is_due(self) -> bool:
        """Whether the answers so far are to be published now."""
        return time.monotonic() - self._last >= 20 * self._took

    def publish(self, shards: list[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
        """Write the answers as one shard, and return the empty list of what is left to write."""
        if shards:
            began = time.monotonic()
            self.store.publish(joined(shards), chunk=self.chunk)
            self._last = time.monotonic()
            self._took = self._last - began
        return []


def _scan(cached: CachedTeacher, dataset: Any, collate: Collate) -> tuple[NDArray[np.uint8], Ints]:
    """Return keys (N, 16) and lengths (N,) of all rows."""
    keys, lengths = [np.zeros((0, KEY_BYTES), np.uint8)], [np.zeros(0, np.int64)]
    for start in range(0, len(dataset), _SCANNED):
        rows = cached.rows(_batch(dataset, np.arange(start, min(start + _SCANNED, len(dataset))), collate))
        keys.append(rows.keys)
        lengths.append(rows.ends - rows.starts)
    if len(dataset):
        few = np.arange(min(32, len(dataset)))
        if not np.array_equal(cached.rows(_batch(dataset, few, collate)).keys, keys[1][: len(few)]):
            raise CacheError(_changing(cached))
    return np.concatenate(keys), np.concatenate(lengths)


def _changing(cached: CachedTeacher) -> str:
    """Return why rows that are read a second time have other keys, and what to type."""
    if cached.teacher is not None and not reads_mask(cached.teacher):
        return (
            "The teacher's forward takes no attention_mask (as FNet's), so that it reads the padding of a "
            "batch, and each batch is padded to another length: no recording can hold its answers. Pad all "
            "rows to one length, or leave teacher_cache= (on a page teacher_cache: false) or record(...) out."
        )
    return (
        "The same rows gave other token ids when they were read a second time, so what is recorded would "
        "never be found again. Do what is random (augmentation) once, before: dataset = dataset.map(...); or "
        "leave the cache off."
    )


def _batch(dataset: Any, rows: Ints, collate: Collate) -> dict[str, Any]:
    several = getattr(dataset, "__getitems__", None)
    rows_of_batch = several(rows.tolist()) if several is not None else [dataset[i] for i in rows.tolist()]
    return dict(collate(rows_of_batch))


def _chunks(
    store: Store,
    rows: Ints,
    keys: NDArray[np.uint8],
    lengths: Ints,
    tokens_per_batch: int,
    batch_rows: int | None,
    most: int,
) -> list[_Chunk]:
    """Cut chunks from the front, so that rows that are left after a kill are cut as before."""
    chunks, batches, size = [], [], 0.0
    start, held = 0, 0
    while start < len(rows):
        count = batch_rows or max(1, tokens_per_batch // max(1, int(lengths[rows[start]])))
        batch = rows[start : start + min(count, ROWS_PER_SHARD)]
        batches.append((batch, keys[batch]))
        start, held = start + len(batch), held + len(batch)
        size += _bytes(store, lengths[batch])
        if held >= most or size >= SHARD_BYTES or start == len(rows):
            own = np.concatenate([part for _, part in batches])
            chunks.append(_Chunk(chunk_of(own), own, batches))
            batches, size, held = [], 0.0, 0
    return chunks


def _bytes(store: Store, lengths: Ints) -> float:
    """Return the bytes that rows of these lengths take on disk."""
    item = store.contents.torch_dtype.itemsize
    shapes = store.facts["shapes"]
    a_row = KEY_BYTES + 4 + item * float(np.prod(shapes["logits"]))
    wide = item * sum(float(np.prod(shape)) for name, shape in shapes.items() if name != "logits")
    return len(lengths) * a_row + wide * (len(lengths) if store.contents.pooled else float(lengths.sum()))


def _check_room(store: Store, lengths: Ints, budget_mb: float) -> float:
    """Return how many bytes rows of these lengths will take."""
    size = _bytes(store, lengths)
    free = shutil.disk_usage(store.folder).free
    message = (
        f"The teacher's answers to {len(lengths):,} rows will take {size / 1e6:,.1f} MB in {store.folder}"
    )
    if size > free:
        raise CacheError(
            f"{message}, and {free / 1e6:,.1f} MB are free. Name another folder=, or keep less: "
            "Contents(dtype='float16'), pooled='mean', fewer taps."
        )
    logger.log(
        logging.WARNING if size > budget_mb * 1e6 else logging.INFO,
        "%s (budget_mb=%s; Contents(dtype='float16'), pooled='mean' or fewer taps take less)",
        message,
        budget_mb,
    )
    return size


_OVER_BUDGET = (
    "The teacher's answers to %s rows of the stream take %.1f MB in %s, more than budget_mb=%s; "
    "Contents(dtype='float16'), pooled='mean' or fewer taps take less"
)


def _readable(dataset: Any, tokenizer: Any, live: Any, max_length: int | None) -> tuple[Any, Collate]:
    """Return the rows as ids, and the function that makes batches of them."""
    dataset = as_rows(dataset)
    own = not isinstance(tokenizer, PreTrainedTokenizerBase)
    check_kind(dataset, split="dataset", collated=own)
    if isinstance(dataset, (list, tuple)) and dataset and not own and "text" in dataset[0]:
        dataset = Dataset.from_list(list(dataset))
    columns = getattr(dataset, "column_names", None) or []
    if isinstance(dataset, IterableDataset):
        columns = columns or list(next(iter(dataset), {}))  # a stream may not know them
    if tokenizer is None:
        raise ValueError(
            "record needs what reads and pads the rows. Type tokenizer=AutoTokenizer.from_pretrained(...), "
            "or tokenizer=your data collator."
        )
    if own:
        return dataset, tokenizer
    if "text" in columns and "input_ids" not in columns:
        room = readable_length(live.config, max_length)
        pairs = "text_pair" in columns and TOKEN_TYPES in live.inputs()
        dataset = encode(dataset, tokenizer, max_length=room, token_types=pairs)
    elif "tokens" in columns and "input_ids" not in columns:
        raise CacheError(
            "The rows are lists of words (column 'tokens'), and one answer a row is what can be recorded: "
            "token classifiers teach live. Leave the recording out."
        )
    pads = DataCollatorWithPadding(tokenizer)
    names = {*tokenizer.model_input_names, *live.inputs()}.difference(LABELS)
    return dataset, lambda rows: pads([{n: v for n, v in row.items() if n in names} for row in rows])
