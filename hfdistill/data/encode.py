"""`encode` turns texts, or lists of words, into token ids: truncated, counted, never padded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pyarrow.compute as compute
from datasets import Dataset, IterableDataset
from pyarrow import types

from hfdistill.data.fresh_copies import FreshCopies
from hfdistill.data.sampler import row_lengths
from hfdistill.network.task import UNKNOWN

logger = logging.getLogger(__name__)

DatasetLike = TypeVar("DatasetLike")

CUT, _WORDS = "_cut", "_words"
_UNLIMITED = 10**9  # a tokenizer without a limit reports 1e30
_STAND_INS = ("cls_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "unk_token_id")


def encode(
    dataset: DatasetLike,
    tokenizer: Any,
    *,
    max_length: int | None = None,
    token_types: bool = False,
    prefix: str = "",
) -> DatasetLike:
    """Replace `text` (and `text_pair`), or `tokens`, by the token ids that a model reads.

    Rows are cut to `min(max_length, tokenizer.model_max_length)` and not padded; all other columns stay. How
    many rows were cut is logged once; a streamed dataset is cut uncounted. A text that gives no token at all
    becomes one special token, so no row is empty. Results are cached by `datasets` under a fingerprint that
    holds the whole tokenizer, these arguments and the rows.

    Lists of words (`tokens`) with a label each (`label`) give `labels`, one a token: the word's on its first
    token, -100 on all others, and `network.task.UNKNOWN` on the first token of a word without a label.

    Args:
        dataset: A `Dataset`, `IterableDataset`, `DatasetDict` or `IterableDatasetDict` with a `text` or a
            `tokens` column, or `FreshCopies`, whose new rows are then tokenised as they are read.
        tokenizer: A transformers tokenizer, fast or slow.
        max_length: Tokens per row, special tokens included; None for the tokenizer's own limit.
        token_types: Ask for `token_type_ids` where the tokenizer does not return them by itself. A BERT
            teacher needs them for pairs although a DistilBERT student has none.
        prefix: Begins the names of the new columns, "teacher_" for a teacher with a tokenizer of its own. The
            text then stays, for the student's.

    Returns:
        A dataset of the same kind with `input_ids`, `attention_mask` and whatever else the tokenizer gives.

    Raises:
        ValueError: When there is no row, or no `text` or `tokens` column, a text is not a readable string,
            words and labels are not as many, a tokenizer cannot tell which word a token is of, or
            `max_length` leaves no room for text beside the special tokens.

    Example:
        >>> from datasets import Dataset
        >>> from transformers import AutoTokenizer
        >>> from hfdistill.data import encode
        >>> tokenizer = AutoTokenizer.from_pretrained("google-bert/bert-base-uncased")
        >>> rows = Dataset.from_dict({"text": ["a warm film", "dull"], "label": [1, 0]})
        >>> encode(rows, tokenizer, max_length=64).column_names
        ['label', 'input_ids', 'token_type_ids', 'attention_mask']
    """
    if isinstance(dataset, FreshCopies):
        rows = encode(dataset.rows, tokenizer, max_length=max_length, token_types=token_types, prefix=prefix)
        encoder, _ = _encoder(dataset.texts, tokenizer, max_length, token_types, prefix)
        read: Any = dataset.over(rows, replace(encoder, counts=False))
        return read
    splits = dataset if isinstance(dataset, dict) else {"": dataset}
    for name, rows in splits.items():
        if isinstance(rows, Dataset) and not len(rows):
            raise ValueError(
                f"The data{f' of split {name!r}' if name else ''} has no rows. Look at what made it: a "
                "filter that kept nothing, or a file that was cut."
            )
    encoded = {
        name: _encode_split(rows, tokenizer, max_length, token_types, prefix) for name, rows in splits.items()
    }
    counted = {name: rows for name, rows in encoded.items() if isinstance(rows, Dataset)}
    cut = sum(sum(rows[CUT][:]) for rows in counted.values())
    if cut:
        total = sum(len(rows) for rows in counted.values())
        limit = _limit(tokenizer, max_length)
        logger.warning(
            "%s of %s rows are longer than %s tokens and were cut%s",
            f"{cut:,}",
            f"{total:,}",
            limit,
            f" (columns {prefix}…)" if prefix else "",
        )
    encoded |= {name: rows.remove_columns(CUT) for name, rows in counted.items()}
    return type(dataset)(encoded) if isinstance(dataset, dict) else encoded[""]


def _encode_split(rows: Any, tokenizer: Any, max_length: int | None, token_types: bool, prefix: str) -> Any:
    encoder, texts = _encoder(rows, tokenizer, max_length, token_types, prefix)
    return rows.map(encoder, batched=True, with_indices=True, remove_columns=[] if prefix else texts)


def _encoder(
    rows: Any, tokenizer: Any, max_length: int | None, token_types: bool, prefix: str
) -> tuple[Encoder, list[str]]:
    """Return the function that tokenises these rows, and the columns that it reads."""
    if not isinstance(rows, (Dataset, IterableDataset)):
        raise ValueError(
            f"encode reads a datasets.Dataset, IterableDataset or dict of them, found {type(rows).__name__}. "
            "Make one with load(...), Dataset.from_list(rows) or Dataset.from_dict(columns)."
        )
    columns = rows.column_names or list(next(iter(rows), {}))
    texts = [name for name in ("text", "text_pair") if name in columns]
    if not texts and "tokens" in columns:
        texts = [name for name in ("tokens", "label") if name in columns]
    if not {"text", "tokens"} & set(texts):
        raise ValueError(
            f"encode reads the column 'text' (and 'text_pair') or 'tokens', found {columns}. "
            "Load the data with load(...), or rename the column: dataset.rename_column('sentence', 'text')."
        )
    kind = Encoder if "text" in texts else WordEncoder
    encoder = kind(
        tokenizer,
        limit=room_for_text(tokenizer, max_length, pairs="text_pair" in texts),
        token_types=token_types,
        counts=isinstance(rows, Dataset),
        prefix=prefix,
    )
    return encoder, texts


def room_for_text(tokenizer: Any, max_length: int | None, *, pairs: bool) -> int | None:
    """Return how many tokens a row may have, None for any number; refuse too few for the special tokens."""
    limit = _limit(tokenizer, max_length)
    special = tokenizer.num_special_tokens_to_add(pair=pairs)
    if limit is not None and limit <= special:
        raise ValueError(
            f"A row may have {limit} tokens, of which the tokenizer needs {special} for special tokens: no "
            f"text is left. Pass max_length={special + 1} or more."
        )
    return limit


def check_lengths(data: Dataset, room: int | None, *, split: str, column: str = "input_ids") -> None:
    """Refuse tokenised rows that are longer than the `room` tokens that a model reads at most."""
    if room is None or column not in data.column_names or data.format["type"] == "custom":
        return
    lengths = row_lengths(data.select_columns([column]), column=column) or []
    long = [row for row, length in enumerate(lengths) if length > room]
    if long:
        raise ValueError(
            f"{len(long):,} rows of {split} are longer than the {room} tokens for which the model has "
            f"positions (first: row {long[0]}, {lengths[long[0]]} tokens in {column!r}). Give the rows with "
            f"their text, which is then cut, or tokenise with truncation=True, max_length={room}."
        )


def check_ids(data: Any, size: int | None, *, split: str, column: str = "input_ids") -> None:
    """Refuse tokenised rows without a token, and ids that a table of `size` embeddings does not have.

    Args:
        data: a `datasets.Dataset`, whose column is looked through at once, or a list of rows.
        size: rows of the smallest table of embeddings that reads the ids; None where it is not known.
        split: what messages call the data.
        column: where the ids stand; data without it passes.
    """
    if isinstance(data, Dataset):
        if column not in data.column_names or data.format["type"] == "custom":
            return
        data = data.select_columns([column]).with_format(None)
        if _fits(data.data.column(column), size):
            return
    for number, row in enumerate(data):
        ids = row.get(column)
        if ids is None:
            continue
        if len(ids) == 0:
            raise ValueError(
                f"{split}, row {number}: {column!r} holds no token, and no model can read that. Remove such "
                f"rows: dataset.filter(lambda row: len(row[{column!r}]) > 0)."
            )
        odd = None if size is None else next((token for token in ids if not 0 <= token < size), None)
        if size is not None and odd is not None:
            raise ValueError(
                f"{split}, row {number}: {column!r} holds {int(odd)}, and the model has the ids 0 to "
                f"{size - 1}. Tokenise with the model's own tokenizer, or give it more embeddings: "
                f"model.resize_token_embeddings(len(tokenizer))."
            )


def _fits(column: Any, size: int | None) -> bool:
    """Whether a column of lists holds tokens in every row, and ids of a table of `size` rows alone."""
    kind = column.type
    if not any(of(kind) for of in (types.is_list, types.is_large_list, types.is_fixed_size_list)):
        return True  # of a shape that says nothing here
    shortest = compute.min(compute.list_value_length(column)).as_py()
    bounds = compute.min_max(compute.list_flatten(column)).as_py()
    known = size is None or bounds["min"] is None or (bounds["min"] >= 0 and bounds["max"] < size)
    return known and shortest != 0


def _limit(tokenizer: Any, max_length: int | None) -> int | None:
    bounds = [int(tokenizer.model_max_length)] + ([] if max_length is None else [max_length])
    return min(bounds) if min(bounds) < _UNLIMITED else None


@dataclass(frozen=True)
class Encoder:
    """One batch of texts to ids. `datasets` hashes its fields for the cache: the whole tokenizer."""

    tokenizer: Any
    limit: int | None
    token_types: bool
    counts: bool
    prefix: str = ""

    def __call__(self, batch: dict[str, list[Any]], rows: list[int]) -> dict[str, list[Any]]:
        """Return the new columns of a batch whose rows have these numbers in the dataset."""
        columns = self._columns(batch, rows)
        encoded = dict(self._tokenize(columns, cut=False))
        long = [
            i
            for i, ids in enumerate(encoded["input_ids"])
            if self.limit is not None and len(ids) > self.limit
        ]
        if long:
            shorter = self._tokenize([[texts[i] for i in long] for texts in columns], cut=True)
            for key, values in shorter.items():
                for i, value in zip(long, values, strict=True):
                    encoded[key][i] = value
        self._fill_empty(encoded, rows)
        self._finish(encoded, batch)
        encoded = {self.prefix + key: values for key, values in encoded.items()}
        if self.counts:
            encoded[CUT] = [False] * len(rows)
            for i in long:
                encoded[CUT][i] = True
        return encoded

    def _columns(self, batch: dict[str, list[Any]], rows: list[int]) -> list[list[Any]]:
        """Return the tokenizer's input, once it is known to be readable."""
        names = [name for name in ("text", "text_pair") if name in batch]
        for name in names:
            check_readable(name, batch[name], rows)
        return [batch[name] for name in names]

    def _finish(self, encoded: dict[str, list[Any]], batch: dict[str, list[Any]]) -> None:
        """Add what a task needs beside the ids."""

    def _tokenize(self, columns: list[list[Any]], *, cut: bool, **options: Any) -> dict[str, list[Any]]:
        encoding: dict[str, list[Any]] = self.tokenizer(
            *columns,
            truncation=cut,
            max_length=self.limit if cut else None,
            padding=False,
            return_token_type_ids=True if self.token_types else None,
            verbose=False,
            **options,
        )
        return encoding

    def _fill_empty(self, encoded: dict[str, list[Any]], rows: list[int]) -> None:
        empty = [i for i, ids in enumerate(encoded["input_ids"]) if len(ids) == 0]
        if not empty:
            return
        token = next(
            (t for name in _STAND_INS if (t := getattr(self.tokenizer, name, None)) is not None), None
        )
        if token is None:
            raise ValueError(
                f"Rows {[rows[i] for i in empty[:5]]} give no token, which no model can read, and the "
                "tokenizer has no special token to put there. "
                "Remove them: dataset.filter(lambda row: row['text'].strip() != '')."
            )
        filled = {"input_ids": token, "attention_mask": 1, _WORDS: None}
        for key, values in encoded.items():
            for i in empty:
                values[i] = [filled.get(key, 0)]


class WordEncoder(Encoder):
    """One batch of lists of words to ids and labels."""

    def _columns(self, batch: dict[str, list[Any]], rows: list[int]) -> list[list[Any]]:
        if not getattr(self.tokenizer, "is_fast", False):
            raise ValueError(
                f"{type(self.tokenizer).__name__} cannot tell which word a token is of. Load the fast one: "
                "AutoTokenizer.from_pretrained(...)."
            )
        for row, words, labels in zip(rows, batch["tokens"], _word_labels(batch), strict=True):
            if not isinstance(words, list) or not all(is_readable(word) for word in words):
                raise ValueError(
                    f"Row {row} of column 'tokens' is not a list of words: it is not a list, or holds None, "
                    "a number or half a surrogate pair. Remove such rows: dataset.filter(...)."
                )
            if any(isinstance(label, str) for label in labels or ()):
                raise ValueError(
                    f"Row {row} of column 'label' names its labels, and a loss needs numbers. Load the data "
                    "with hfdistill.load, which numbers them."
                )
            if labels is not None and len(labels) != len(words):
                raise ValueError(
                    f"Row {row} has {len(words)} words and {len(labels)} labels. Give each word one, -100 to "
                    "one that has none, or None for the whole row."
                )
        return [batch["tokens"]]

    def _tokenize(self, columns: list[list[Any]], *, cut: bool, **options: Any) -> dict[str, list[Any]]:
        encoding: Any = super()._tokenize(columns, cut=cut, is_split_into_words=True)
        return {**encoding, _WORDS: [encoding.word_ids(i) for i in range(len(encoding["input_ids"]))]}

    def _finish(self, encoded: dict[str, list[Any]], batch: dict[str, list[Any]]) -> None:
        pairs = zip(encoded.pop(_WORDS), _word_labels(batch), strict=True)
        encoded["labels"] = [_aligned(numbers, labels) for numbers, labels in pairs]


def _word_labels(batch: dict[str, list[Any]]) -> list[Any]:
    return batch.get("label") or [None] * len(batch["tokens"])


def _aligned(numbers: list[int | None], labels: list[int | None] | None) -> list[int]:
    """Return one label a token: its word's where the word begins, -100 elsewhere."""
    aligned, before = [], None
    for number in numbers:
        label = -100
        if number is not None and number != before:
            label = UNKNOWN if labels is None or labels[number] in (None, -100) else int(labels[number] or 0)
        aligned.append(label)
        before = number
    return aligned


def check_readable(name: str, texts: Sequence[Any], rows: Sequence[int]) -> None:
    """Refuse values of a column that are not text, naming their rows."""
    bad = [row for row, text in zip(rows, texts, strict=True) if not is_readable(text)]
    if bad:
        raise ValueError(
            f"Rows {bad[:5]} of column {name!r} hold None, a number or half a surrogate pair, which is no "
            'text. Remove them: load(..., on_bad_row="drop"), or dataset.filter(...).'
        )


def is_readable(text: Any) -> bool:
    """Whether a value is text that has an encoding: half a surrogate pair has none."""
    if not isinstance(text, str):
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
