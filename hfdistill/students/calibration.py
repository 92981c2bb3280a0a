"""Texts without labels, as batches that a model reads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from datasets import Dataset, DatasetDict
from torch import Tensor

from hfdistill.data.data_kinds import refuse_stream
from hfdistill.data.in_memory import as_rows
from hfdistill.data.load import load, text_columns
from hfdistill.data.unlabelled_texts import load_texts
from hfdistill.network.architectures import room_for
from hfdistill.network.inputs import ModelInputs, batches_by_length

BATCH_ROWS, BATCH_TOKENS = 64, 4096
HELD_OUT = 5
"""Every fifth text is held out."""

FEW = 256
"""Texts that do for measuring importance and for comparing choices of blocks."""

Batch = Mapping[str, Tensor]
Sides: TypeAlias = tuple[list[Batch], list[Batch]]
"""Batches to fit on, and held out."""


def calibration(texts: Any, *, tokenizer: Any, model: Any, rows: int | None, max_length: int | None) -> Sides:
    """Return batches to fit on, and batches of every fifth text, which are held out.

    Args:
        texts: strings, pairs of strings, a data set with columns of text or of words, the path of a file or
            a folder of them, or batches as the model reads them, of which every fifth is held out.
        tokenizer: of the model; None where `texts` are batches.
        model: which may limit the length, and says on which side it wants padding.
        rows: texts at most, drawn by a fixed seed; None for all. Batches are taken as they are.
        max_length: tokens per row; None for the limit of tokenizer and model, at most 512.

    Raises:
        TypeError: for something that holds no texts.
        ValueError: for too few texts, texts without a tokenizer, or columns that are not found.
    """
    refuse_stream(texts, "fit=", why="draws texts among all rows")
    ready = _batches(texts)
    if ready is not None:
        return _split_batches(ready)
    if tokenizer is None:
        raise ValueError(
            "fit= holds texts, and there is no tokenizer to read them with. Pass tokenizer=..., or the "
            "teacher as the id or path of a folder that has one."
        )
    columns = _drawn(_columns(texts), rows)
    limit, words = room_for(model.config, tokenizer, max_length, 512), isinstance(columns[0][0], list)
    encoded = tokenizer(*columns, is_split_into_words=words, truncation=True, max_length=limit)
    fit, held_out = _split([{name: encoded[name][i] for name in encoded} for i in range(len(columns[0]))])
    side = ModelInputs.of(model, tokenizer).side
    return _padded(fit, tokenizer, side), _padded(held_out, tokenizer, side)


def few(batches: Sequence[Batch], rows: int = FEW) -> list[Batch]:
    """Return some of the batches, of all lengths, with about `rows` rows; at least one."""
    total = sum(len(batch["input_ids"]) for batch in batches)
    step = max(1, total // rows)
    return list(batches[step // 2 :: step]) or list(batches[:1])


def _batches(texts: Any) -> list[Batch] | None:
    """Return batches as they were given; None where `texts` are not batches."""
    if isinstance(texts, Mapping) and "input_ids" in texts:
        texts = [texts]
    if isinstance(texts, (str, os.PathLike, Mapping, Dataset)) or not isinstance(texts, Iterable):
        return None
    if hasattr(texts, "batch_size") and hasattr(texts, "dataset"):  # a DataLoader, which may draw anew
        texts = list(texts)
    first = texts[0] if isinstance(texts, Sequence) and len(texts) else None
    if not (isinstance(first, Mapping) and isinstance(first.get("input_ids"), Tensor)):
        return None
    return [{name: value for name, value in batch.items() if name != "labels"} for batch in texts]


def _columns(texts: Any) -> list[list[Any]]:
    """Return one list of texts, or of lists of words; two for pairs."""
    if isinstance(texts, (str, os.PathLike)):
        texts = _read(texts)
    texts = as_rows(texts)
    if isinstance(texts, (DatasetDict, Mapping)) and texts:
        texts = texts.get("train", next(iter(texts.values())))
    if isinstance(texts, Dataset):
        names = texts.column_names
        usual = ["tokens"] if "tokens" in names else [n for n in ("text", "text_pair") if n in names]
        return [list(texts[name][:]) for name in (usual or text_columns(names, None, None))]
    entries = list(texts) if isinstance(texts, Iterable) else [texts]
    if all(isinstance(entry, str) for entry in entries):
        return [entries]
    pairs = all(isinstance(e, (tuple, list)) and len(e) == 2 for e in entries)
    if pairs and all(isinstance(part, str) for entry in entries for part in entry):
        return [list(column) for column in zip(*entries, strict=True)]
    wrong = next(entry for entry in entries if not isinstance(entry, str))
    raise TypeError(
        f"fit= holds {wrong!r:.80}, which is neither a text nor a pair of texts. Pass strings, pairs of "
        "strings, a dataset with a `text` column, or the path of a file of texts."
    )


def _read(path: Any) -> Any:
    """Return the rows of a file or folder: lines of text, or the text columns of a table."""
    folder_or_lines = Path(path).is_dir() or Path(path).suffix.lower() == ".txt"
    return load_texts(path) if folder_or_lines else load(path)


def _drawn(columns: list[list[Any]], rows: int | None) -> list[list[Any]]:
    """Draw at most `rows` rows, in their order, without those that have no text."""
    order = [i for i, row in enumerate(zip(*columns, strict=True)) if row[0] and None not in row]
    if len(order) < 2 * HELD_OUT:
        raise ValueError(
            f"fit= holds {len(order)} texts, which are too few to fit weights to. Pass some hundred texts of "
            "the kind that the student will read; labels are not needed."
        )
    if rows is not None and rows < len(order):
        drawn = torch.randperm(len(order), generator=torch.Generator().manual_seed(0))[:rows]
        order = [order[i] for i in sorted(drawn.tolist())]
    return [[column[i] for i in order] for column in columns]


def _split(rows: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return the rows to fit on, and every fifth."""
    held_out = rows[HELD_OUT - 1 :: HELD_OUT]
    return [row for i, row in enumerate(rows) if i % HELD_OUT != HELD_OUT - 1], held_out


def _split_batches(batches: list[Batch]) -> Sides:
    """Return the batches to fit on, and every fifth; of fewer the last, of a single one every fifth row."""
    if len(batches) >= HELD_OUT:
        return _split(batches)
    if len(batches) > 1:
        return batches[:-1], batches[-1:]
    rows, held_out = _split(list(range(len(batches[0]["input_ids"]))))
    if not held_out:
        raise ValueError(
            f"fit= holds one batch of {len(rows)} rows, too few to fit weights to. Pass some hundred rows."
        )
    return tuple([{name: value[part] for name, value in batches[0].items()}] for part in (rows, held_out))  # type: ignore[return-value]


def _padded(rows: list[dict[str, Any]], tokenizer: Any, side: str) -> list[Batch]:
    """Return batches of rows of similar length, the longest first: a lack of memory then shows at once."""
    lengths = [len(row["input_ids"]) for row in rows]
    return [
        dict(tokenizer.pad([rows[i] for i in batch], padding_side=side, return_tensors="pt"))
        for batch in batches_by_length(lengths, tokens=BATCH_TOKENS, rows=BATCH_ROWS)
    ]
