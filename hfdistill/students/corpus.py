"""Reads a corpus and counts how often a tokenizer's tokens occur in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeAlias

import torch
from torch import Tensor

from hfdistill.data.in_memory import as_rows

Corpus: TypeAlias = Iterable[Any]

_COLUMNS = ("text", "text_pair")
_BATCH = 1000


def token_counts(tokenizer: Any, corpus: Corpus, *, size: int) -> Tensor:
    """Count how often each token occurs in a corpus; special tokens around texts are not counted.

    Returns:
        (V,) int64.

    Raises:
        TypeError: for a corpus that is one text, or whose entries are not texts.
        ValueError: for a corpus without a token.
    """
    counts = torch.zeros(size, dtype=torch.int64)
    texts = _texts(corpus)
    while batch := list(islice(texts, _BATCH)):
        rows = tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)
        ids = torch.tensor([token for row in rows["input_ids"] for token in row], dtype=torch.int64)
        counts += torch.bincount(ids, minlength=size)
    if not counts.any():
        raise ValueError(
            "The corpus holds no token, so nothing can be told of how often each occurs. Give texts such as "
            "the ones that the student will read: corpus=data['train'] or a list of strings."
        )
    return counts


def _texts(corpus: Corpus) -> Iterator[str]:
    corpus = as_rows(corpus)
    if isinstance(corpus, str):
        raise TypeError("The corpus is one string; its characters are not texts. Write corpus=[text].")
    if isinstance(corpus, Mapping):
        for split in corpus.values():
            yield from _texts(split)
        return
    columns = getattr(corpus, "column_names", None)
    if columns is None:
        for entry in corpus:
            yield from _parts(entry)
        return
    if "text" not in columns:
        raise ValueError(
            f"The corpus has columns {columns} and no 'text'. Rename the one that holds the texts: "
            "dataset.rename_column('sentence', 'text'), or give a list of strings."
        )
    names = [name for name in _COLUMNS if name in columns]
    rows: Any = corpus
    for batch in rows.select_columns(names).iter(_BATCH):
        for name in names:
            for text in batch[name]:
                yield from _parts(text)


def _parts(entry: Any) -> Iterable[str]:
    """Return the texts of one entry: itself, the two of a pair, or the text columns of a row."""
    if isinstance(entry, str):
        return [entry]
    if isinstance(entry, Mapping):
        entry = [entry[name] for name in _COLUMNS if name in entry]
    if isinstance(entry, (list, tuple)) and entry and all(isinstance(part, str) for part in entry):
        return entry
    raise TypeError(
        f"The corpus holds {entry!r:.80}, which is neither a text nor a pair of texts. Give strings, pairs "
        "of strings, or a dataset with a `text` column."
    )
