"""`TextCodec` turns text into numbers that a batch can carry, and back without loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerBase

from hfdistill.data.data_kinds import refuse_stream
from hfdistill.data.encode import is_readable
from hfdistill.data.in_memory import as_rows
from hfdistill.network.label_space import short

_END, _BETWEEN = b"\xff", b"\xfe"  # bytes that UTF-8 never uses
_WIDTH = 8
Texts = Sequence[str] | Sequence[tuple[str, str]]


class TextCodec(PreTrainedTokenizerBase):
    """A tokenizer whose ids are the text itself: its UTF-8 bytes, eight to a number.

    A teacher that reads text gets it through the same columns as one with another tokenizer
    (`teacher_input_ids`, padded, with a mask), so collators, caches and ensembles need not know of it.
    Nothing is normalised or cut: `decode_rows` gives back each text as it was. Pairs are two texts with a
    byte between that no text contains.

    Example:
        >>> codec = TextCodec()
        >>> batch = codec(["a warm film", "naïve"], padding=True, return_tensors="pt")
        >>> decode_rows(batch["input_ids"], batch["attention_mask"])
        ['a warm film', 'naïve']
    """

    def __init__(self) -> None:
        super().__init__(pad_token="[PAD]")  # noqa: S106
        self.model_input_names = ["input_ids", "attention_mask"]

    def __call__(self, text: Any, text_pair: Any = None, **options: Any) -> BatchEncoding:
        """Return the ids of one text or of a list.

        `padding` and `return_tensors` are as in Transformers; all else is ignored."""
        one = isinstance(text, str)
        texts, pairs = ([text], [text_pair]) if one else (text, text_pair or [None] * len(text))
        rows = [_numbers(*both) for both in zip(texts, pairs, strict=True)]
        columns: dict[str, Any] = {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}
        if options.get("padding"):
            return self.pad(columns, return_tensors=options.get("return_tensors"))
        if one:
            columns = {name: values[0] for name, values in columns.items()}
        return BatchEncoding(columns, tensor_type=options.get("return_tensors"))

    def get_vocab(self) -> dict[str, int]:
        """Return one entry, the padding: ids are not entries of a table."""
        return {"[PAD]": 0}

    @property
    def vocab_size(self) -> int:
        """The number of entries in `get_vocab`."""
        return 1

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        """Nothing: no token was added."""
        return {}

    def __len__(self) -> int:
        return 1

    def __reduce__(self) -> tuple[type[TextCodec], tuple[()]]:
        return TextCodec, ()

    def __repr__(self) -> str:
        return "TextCodec()"

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Return 0, the id of the padding."""
        return 0 if isinstance(tokens, str) else [0 for _ in tokens]

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return 0: no id is special."""
        return 0


def _numbers(text: str, pair: str | None) -> list[int]:
    content = text.encode() + (b"" if pair is None else _BETWEEN + pair.encode())
    content += _END * (_WIDTH - len(content) % _WIDTH)  # at least one, so that no row is empty
    return np.frombuffer(content, "<i8").tolist()


def texts_of(rows: Any) -> list[Any]:
    """Return the texts of a data set or a DataFrame, or those of a list of strings or pairs.

    Rows have a column `text`; they are pairs where there is a column `text_pair`, too.

    Raises:
        TypeError: for one string, a stream, and rows of anything else than strings or pairs.
        ValueError: for rows without a column `text`.
    """
    rows = as_rows(rows)
    if isinstance(rows, str):
        raise TypeError("One string is not a list of texts: its letters would be asked about. Type [text].")
    refuse_stream(rows, "A teacher of texts", why="is asked about all rows at once")
    if hasattr(rows, "column_names"):
        need_column(rows, "text", "The data")
        texts = list(rows["text"][:])
        if "text_pair" in rows.column_names:
            texts = list(zip(texts, rows["text_pair"][:], strict=True))
    else:
        whole = (str, Mapping)  # no pairs, though they can be iterated over
        texts = [tuple(r) if isinstance(r, Iterable) and not isinstance(r, whole) else r for r in rows]
    parts = ((text if isinstance(text, tuple) and len(text) == 2 else (text,)) for text in texts)
    wrong = [text for text, own in zip(texts, parts, strict=True) if not all(map(is_readable, own))]
    if wrong:
        raise TypeError(
            f"{short(wrong[0])} is neither a text nor a pair of texts. Give a list of strings, of pairs of "
            "strings, or a data set with a column `text`."
        )
    return texts


def need_column(rows: Any, name: str, what: str) -> None:
    """Refuse rows that lack a column, and several sets of rows, with what to type."""
    if isinstance(rows, Mapping):
        raise ValueError(
            f"{what} is a {type(rows).__name__} of {', '.join(map(repr, rows))}, not one set of rows. Type "
            f"data[{next(iter(rows), 'train')!r}]."
        )
    if name not in rows.column_names:
        raise ValueError(
            f"{what} has the columns {', '.join(rows.column_names)}, and none is called {name}. Type "
            f"dataset.rename_column(column, {name!r})."
        )


def columns_of(texts: Sequence[Any]) -> list[list[Any]]:
    """Return texts as the arguments of a tokenizer: one list, or for pairs two."""
    if len(texts) and not isinstance(texts[0], str):
        return [list(side) for side in zip(*texts, strict=True)]
    return [list(texts)]


def decode_rows(ids: Tensor, mask: Tensor | None = None) -> list[Any]:
    """Return the texts of a batch: (B, T) → B strings, or pairs of strings. Foreign ids are refused."""
    rows = ids.detach().cpu().to(torch.int64).numpy().astype("<i8")
    real = np.ones(rows.shape, bool) if mask is None else mask.detach().cpu().numpy() != 0
    texts: list[Any] = []
    for row, own in zip(rows, real, strict=True):
        parts = row[own].tobytes().rstrip(_END).split(_BETWEEN)
        try:
            decoded = tuple(part.decode() for part in parts)
        except UnicodeDecodeError as error:
            raise ValueError(
                "A teacher that reads text was given token ids of another tokenizer. Give the data with its "
                "text (columns text[, text_pair]), or collate with DistillationCollator(tokenizer, "
                "teacher.tokenizer)."
            ) from error
        texts.append(decoded[0] if len(decoded) == 1 else decoded)
    return texts
