"""`ModelInputs` says what a model is given of a text: its tokenizer's columns, padded as it expects."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from hfdistill.network.architectures import Positions, unwrapped

logger = logging.getLogger(__name__)

TOKEN_TYPES = "token_type_ids"  # noqa: S105 - a column of a batch
_MADE_BY_TOKENIZERS = frozenset({"input_ids", "attention_mask", TOKEN_TYPES, "position_ids"})
_STAND_INS = ("bos_token_id", "eos_token_id", "cls_token_id", "unk_token_id", "sep_token_id")


def accepted_inputs(model: nn.Module) -> frozenset[str]:
    """Return the names of the arguments that `model.forward` declares, seen through a PEFT wrapper.

    A forward that hands on whatever it is given, `forward(self, **inputs)`, accepts what tokenizers make.
    """
    parameters = inspect.signature(unwrapped(model).forward).parameters
    passes_on = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    reads = parameters.keys() & {"input_ids", "inputs_embeds", "input_values"}
    return frozenset(parameters) | (_MADE_BY_TOKENIZERS if passes_on and not reads else frozenset())


def gives_token_types(tokenizer: Any) -> bool:
    """Whether `tokenizer(text)` returns `token_type_ids` unasked."""
    return TOKEN_TYPES in getattr(tokenizer, "model_input_names", ())


def token_type_count(config: Any) -> int:
    """Return the rows of a model's table of token types, whose first is its default; 0 without one.

    GPT-2 and its kind accept `token_type_ids` and have no such table: they look them up among the words.
    """
    config = getattr(config, "classifier_config", config)
    count = getattr(config, "type_vocab_size", None)
    return count if isinstance(count, int) else 0


def reads_token_types(config: Any, tokenizer: Any = None, *, padded_by: Any = None) -> bool:
    """Whether a model, whose forward accepts them, is given token types.

    It is where its own tokenizer makes them. Where that is not known, it is where the tokenizer that makes
    its rows does, or where the model has a table of two or more; and where neither is known, always.

    `padded_by` is the tokenizer that makes its rows, where that is another one.
    """
    if tokenizer is not None:
        return gives_token_types(tokenizer)
    return padded_by is None or gives_token_types(padded_by) or token_type_count(config) > 1


def padding_side(config: Any, tokenizer: Any) -> str:
    """Return the side on which rows are padded, so that each is answered as alone: "left" or "right".

    It is "left" for XLNet, whose head reads the last place of a batch, and "right" for all else that
    Transformers holds, whatever the tokenizer says: heads of encoders read the first place, and those of
    decoders the last token that is not padding. For other networks the tokenizer says it.
    """
    # Not at the top: a page is checked by modules that import this one, before Transformers is loaded.
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if getattr(config, "summary_type", None) == "last":
        return "left"
    kind = str(getattr(config, "model_type", None))
    known = kind in CONFIG_MAPPING_NAMES or kind.startswith("hfdistill-")
    return "right" if known else getattr(tokenizer, "padding_side", "right")


def on_side(tokenizer: Any, config: Any) -> Any:
    """Return the tokenizer, or a copy of it that pads on the side that a model needs; see `padding_side`."""
    side = padding_side(config, tokenizer)
    if tokenizer.padding_side == side:
        return tokenizer
    turned = copy.copy(tokenizer)
    turned.padding_side = side
    return turned


@dataclass(frozen=True)
class ModelInputs:
    """The columns that one model reads, and how it is told what is padding.

    A row then gets the same answer in any batch as alone, `model(**tokenizer(text, return_tensors="pt"))`:
    no model is given token types that its tokenizer does not make; padding stands on the side that the model
    expects and has the id by which it knows it; and a decoder counts positions from the first token, also
    where padding stands before it.

    Args:
        names: of the columns.
        config: the model's, which names the padding's id.
        tokenizer: what pads the rows, where that is known.
        positions: the model's table of positions.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(num_hidden_layers=1, hidden_size=24, vocab_size=9)
        >>> inputs = ModelInputs.of(BertForSequenceClassification(config))
        >>> inputs.pad({"input_ids": [[2, 5, 3], [2, 3]]}, [1, 0])["input_ids"]
        tensor([[2, 3, 0],
                [2, 5, 3]])
    """

    names: frozenset[str]
    config: Any = None
    tokenizer: Any = None
    positions: Positions = field(default_factory=Positions)

    @classmethod
    def of(cls, model: nn.Module, tokenizer: Any = None, *, padded_by: Any = None) -> ModelInputs:
        """Return what a model reads of the rows that a tokenizer makes.

        Args:
            model: the model, also wrapped.
            tokenizer: its own; None where that is not known.
            padded_by: what makes and pads its rows, where that is another one that makes the same ids. Where
                neither is known, the model reads every column that its forward takes.
        """
        config = getattr(unwrapped(model), "config", None)
        names = accepted_inputs(model)
        if not reads_token_types(config, tokenizer, padded_by=padded_by):
            names -= {TOKEN_TYPES}
        return cls(names, config, tokenizer if padded_by is None else padded_by, Positions.of(model))

    @property
    def extra_token_types(self) -> bool:
        """Whether pairs need token types which the tokenizer makes only when it is asked to."""
        return TOKEN_TYPES in self.names and not gives_token_types(self.tokenizer)

    @property
    def pad_id(self) -> int:
        """The id of padding: what the model's config says, else the tokenizer, else 0."""
        ids = (_known_padding(source) for source in (self.config, self.tokenizer))
        return next((number for number in ids if number is not None), 0)

    @property
    def side(self) -> str:
        """The side on which rows are padded; see `padding_side`."""
        return padding_side(self.config, self.tokenizer)

    @property
    def shifts(self) -> bool:
        """Whether the model must be told positions, because padding may stand before the text.

        So it is for a decoder that counts them from the first place of a batch, as GPT-2, unless its
        tokenizer pads on the right. Encoders read the first place, and are not padded there.
        """
        from transformers.models.auto import modeling_auto as auto

        kind = getattr(self.config, "model_type", None)
        decodes = (
            kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
            and kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
        )
        counts = self.positions.rows > 0 and not self.positions.start and "position_ids" in self.names
        return decodes and counts and getattr(self.tokenizer, "padding_side", "left") == "left"

    def pad(self, columns: Mapping[str, Sequence[Sequence[int]]], rows: Sequence[int]) -> dict[str, Tensor]:
        """Return one batch of some rows, padded to the longest of them; (B, T) each.

        Args:
            columns: of all rows, `input_ids` among them. A column that the model does not read is padded
                too, with zeros, and "labels" with -100. A mask is made where there is none.
            rows: numbers of those that make the batch.
        """
        types = getattr(self.tokenizer, "pad_token_type_id", 0) or 0
        fill = {"input_ids": self.pad_id, TOKEN_TYPES: types, "labels": -100}
        if "attention_mask" not in columns:
            columns = {**columns, "attention_mask": [[1] * len(ids) for ids in columns["input_ids"]]}
        return {
            name: pad_sequence(
                [torch.as_tensor(column[row]) for row in rows],
                batch_first=True,
                padding_value=fill.get(name, 0),
                padding_side=self.side,
            )
            for name, column in columns.items()
        }

    def select(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the arguments of the model's forward out of a batch that any collator has padded."""
        inputs = {name: value for name, value in batch.items() if name in self.names and name != "labels"}
        ids, mask = inputs.get("input_ids"), batch.get("attention_mask")
        if ids is None or mask is None or mask.shape != ids.shape:
            return inputs
        known = _known_padding(self.config)
        if known is not None and known != getattr(self.tokenizer, "pad_token_id", None):
            real = mask.bool()
            inside = (real.cumsum(1) > 0) & (real.flip(1).cumsum(1).flip(1) > 0)  # a hole is not padding
            inputs["input_ids"] = ids.where(inside, known)
        if self.shifts and "position_ids" not in inputs:
            places = torch.arange(ids.shape[1], device=ids.device)
            inputs["position_ids"] = (places - mask.bool().int().argmax(1, keepdim=True)).clamp(min=0)
        return inputs


def batches_by_length(lengths: Sequence[int], *, tokens: int, rows: int | None = None) -> Iterator[list[int]]:
    """Yield row numbers in batches of similar length, the longest first: at most `tokens` with padding."""
    order, start = sorted(range(len(lengths)), key=lambda row: -lengths[row]), 0
    while start < len(order):
        size = max(1, tokens // max(1, lengths[order[start]]))
        yield order[start : start + min(size, rows or size)]
        start += min(size, rows or size)


def name_padding(model: Any, tokenizer: Any) -> None:
    """Give tokenizer and config one id of padding where one of them has none, as decoders often have.

    Where neither has one, it becomes a special token that ends no text: a decoder's head reads the last token
    that is not padding.

    Args:
        model: its config gets the id; or the config itself, None where it is not known.
        tokenizer: it gets the token; None leaves the config as it is.

    Raises:
        ValueError: where the tokenizer has no special token that could stand for padding.
    """
    config = getattr(unwrapped(model), "config", model)
    if tokenizer is None:
        return
    known = _known_padding(config)
    if tokenizer.pad_token_id is None:
        number = _padding_of(tokenizer) if known is None else known
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(number)
        logger.info("The tokenizer has no padding token: %s stands for it", tokenizer.pad_token)
    if known is None and hasattr(config, "pad_token_id"):
        config.pad_token_id = tokenizer.pad_token_id


def _known_padding(source: Any) -> int | None:
    """Return the padding's id of a config or tokenizer; None without one, which some write as -1."""
    number = getattr(source, "pad_token_id", None)
    return None if number is None or number < 0 else number


def _padding_of(tokenizer: Any) -> int:
    """Return a special token that does not end a text."""
    ends = {tuple(tokenizer(text, verbose=False)["input_ids"])[-1:] for text in ("a", "it is")}
    for number in (getattr(tokenizer, name, None) for name in _STAND_INS):
        if number is not None and (number,) not in ends:
            return int(number)
    raise ValueError(
        "The tokenizer has no padding token, and no other special token that could stand for it. Add one: "
        "tokenizer.add_special_tokens({'pad_token': '<pad>'}), then "
        "model.resize_token_embeddings(len(tokenizer))."
    )
