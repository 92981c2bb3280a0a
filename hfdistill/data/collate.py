"""Batches for models that read different tokens of the same texts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import DataCollatorWithPadding

from hfdistill.data.encode import CUT, Encoder, room_for_text

logger = logging.getLogger(__name__)

Rows = list[dict[str, Any]]
_TEXTS = ("text", "text_pair")


class DistillationCollator:
    """Pads the student's columns and each teacher's own, each with its own tokenizer.

    Rows hold `input_ids`, … and `teacher_input_ids`, …, or the text (`text`, and `text_pair` for pairs),
    which is then tokenised for both here: for data that changes at every reading, such as augmented text. All
    else, labels among it, goes the student's way. Rows with neither a teacher's columns nor text make a batch
    for the student alone, which is enough for evaluation.

    `DistillationTrainer` makes one by itself where teacher and student have different tokenizers. Use it
    where you tokenise yourself. Not needed for two models of one tokenizer: `DataCollatorWithPadding` does.

    Args:
        tokenizer: the student's.
        teacher: the teacher's; for several, the prefix of the columns → tokenizer, as in
            {"teacher0_": one, "teacher1_": other}.
        max_length: tokens of a row for the student, where text is tokenised here; else the tokenizer's limit.
        teacher_max_length: the same for each teacher.
        padder: pads the student's columns; None is `DataCollatorWithPadding(tokenizer)`.

    Raises:
        ValueError: at construction, for a tokenizer that cannot pad or a limit that leaves no room for text;
            at a row, for a text that is not a readable string.

    Example:
        >>> from transformers import AutoTokenizer
        >>> own = AutoTokenizer.from_pretrained("google-bert/bert-base-uncased")
        >>> theirs = AutoTokenizer.from_pretrained("FacebookAI/roberta-base")
        >>> batch = DistillationCollator(own, theirs)([{"text": "a warm film", "label": 1}])
        >>> [name for name in batch if name.startswith("teacher_")]
        ['teacher_input_ids', 'teacher_attention_mask']
    """

    def __init__(
        self,
        tokenizer: Any,
        teacher: Any,
        *,
        max_length: int | None = None,
        teacher_max_length: int | None = None,
        padder: Callable[[Rows], Mapping[str, Any]] | None = None,
    ) -> None:
        self.tokenizers = {
            "": tokenizer,
            **(teacher if isinstance(teacher, Mapping) else {"teacher_": teacher}),
        }
        self.max_lengths = dict.fromkeys(self.tokenizers, teacher_max_length) | {"": max_length}
        for prefix, each in self.tokenizers.items():
            whose = f"tokenizer of the columns {prefix}…" if prefix else "student's tokenizer"
            if each.pad_token_id is None:
                raise ValueError(
                    f"The {whose} has no padding token, so rows of different lengths make no batch. Type "
                    "tokenizer.pad_token = tokenizer.eos_token."
                )
            room_for_text(each, self.max_lengths[prefix], pairs=True)
        self.padders = {prefix: DataCollatorWithPadding(each) for prefix, each in self.tokenizers.items()}
        if padder is not None:
            self.padders[""] = padder
        self._warned: set[str] = set()

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return one batch: the student's columns under their own names, each teacher's under its prefix."""
        texts = {name: [row[name] for row in rows] for name in _TEXTS if name in rows[0]}
        batch: dict[str, Any] = {}
        for prefix in self.tokenizers:
            part = [self._part(row, prefix) for row in rows]
            if "input_ids" not in part[0] and "text" in texts:
                ids = self._read(prefix, texts, len(rows))
                part = [row | {name: ids[name][i] for name in ids} for i, row in enumerate(part)]
            if not prefix and "input_ids" not in part[0]:
                raise ValueError(
                    f"Rows hold neither input_ids nor text, but {', '.join(rows[0])}. Where Trainer removed "
                    "the text, set remove_unused_columns=False."
                )
            if part[0]:
                padded = self.padders[prefix](part)
                batch |= {prefix + name: value for name, value in padded.items()}
        return batch

    def _part(self, row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        """Return the columns of one side, under the names of a forward."""
        if prefix:
            return {name.removeprefix(prefix): x for name, x in row.items() if name.startswith(prefix)}
        others = tuple(other for other in self.tokenizers if other)
        return {name: x for name, x in row.items() if name not in _TEXTS and not name.startswith(others)}

    def _read(self, prefix: str, texts: dict[str, list[Any]], rows: int) -> dict[str, list[Any]]:
        """Turn texts into ids, cut to the side's limit; a cut is logged once."""
        tokenizer = self.tokenizers[prefix]
        limit = room_for_text(tokenizer, self.max_lengths[prefix], pairs=len(texts) == 2)
        ids = Encoder(tokenizer, limit=limit, token_types=False, counts=True)(texts, list(range(rows)))
        cut = sum(ids.pop(CUT))
        if cut and prefix not in self._warned:
            self._warned.add(prefix)
            logger.warning(
                "%d of %d rows of a batch are longer than %s tokens and were cut (columns %sinput_ids …); "
                "further ones are cut without a word",
                cut,
                rows,
                limit,
                prefix,
            )
        return ids
