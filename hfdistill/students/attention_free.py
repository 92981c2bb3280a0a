"""Students without attention share this: the two texts of a pair, the head, the forward pass, the loss."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from hfdistill.files.plain_data import as_python
from hfdistill.network.architectures import unwrapped
from hfdistill.network.task import name_architecture, task_kind

_COUNTS = {"filters": "filters", "classifier_size": "classifier_size", "num_hidden_layers": "layers"}
"""Fields of configs that are 1 or more, and the arguments that set them."""


def texts_of(input_ids: Tensor, attention_mask: Tensor | None, config: Any) -> list[Tensor]:
    """Return the masks (B, T) of the texts of a row: one, or with `config.pairs` two.

    The first text ends with the first separator, `config.sep_token_id`; the rest is the second. A row without
    a second text is compared with itself.
    """
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    mask = mask.bool()
    if not config.pairs:
        return [mask]
    ends = (input_ids == config.sep_token_id) & mask
    second = (ends.cumsum(1) - ends.long() > 0) & mask  # behind a separator
    first = mask & ~second
    return [first, second | first & ~second.any(1, keepdim=True)]


def joined(texts: Sequence[Tensor]) -> Tensor:
    """Return the feature of one text, h; or of two, [h1, h2, h1·h2, |h1 - h2|] (arXiv 1903.12136)."""
    if len(texts) == 1:
        return texts[0]
    first, second = texts
    return torch.cat([first, second, first * second, (first - second).abs()], dim=-1)


class AttentionFreeModel(PreTrainedModel):
    """Weights drawn as these students need them; their tables are as wide as the sum of few numbers."""

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            init.normal_(module.weight)
        elif isinstance(module, nn.LSTM):
            for name, parameter in module.named_parameters():
                if "weight" in name:
                    init.xavier_uniform_(parameter)
                else:
                    init.zeros_(parameter)

    def get_input_embeddings(self) -> nn.Module:
        """Return the table, one row per token of the vocabulary."""
        table: nn.Module = self.base_model.embeddings
        return table

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the table."""
        self.base_model.embeddings = value


def head(features: int, config: Any) -> nn.Sequential:
    """Return one hidden layer over what `joined` makes of the `features` of each text: → (B, C)."""
    return nn.Sequential(
        nn.Dropout(config.dropout),
        nn.Linear(features * (4 if config.pairs else 1), config.classifier_size),
        nn.ReLU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.classifier_size, config.num_labels),
    )


class AttentionFreeClassifier(AttentionFreeModel):
    """A classifier that lets `self.classifier` judge what `features` makes of a row."""

    classifier: nn.Module

    def features(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Return the features of each row, as wide as the classifier reads: (B, F)."""
        raise NotImplementedError

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Return logits (B, C), after the loss where there are labels."""
        logits = self.classifier(self.features(input_ids, attention_mask))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def config_like(
    kind: type[PreTrainedConfig], teacher: Any, tokenizer: Any, *, pairs: bool, **sizes: Any
) -> Any:
    """Return a student's config with the teacher's classes, task and vocabulary.

    Raises:
        ValueError: for a teacher that labels tokens, and for pairs where the tokenizer has no token between
            two texts, and a number of filters, layers or hidden units below 1.
    """
    theirs = name_architecture(unwrapped(teacher)).config
    if task_kind(theirs) == "token":
        raise ValueError(
            f"Found a teacher that labels tokens ({theirs.architectures}); this student gives one answer a "
            "text. Cut a student from it: shrink(teacher, layers=3)."
        )
    separator = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    if pairs and separator is None:
        raise ValueError(
            "pairs=True, but the tokenizer has neither a sep_token nor an eos_token, so the end of the first "
            "text cannot be told. Set tokenizer.sep_token, or leave pairs at False."
        )
    sizes = {name: as_python(value) for name, value in sizes.items()}
    for name, argument in _COUNTS.items():
        if name in sizes and (type(sizes[name]) is not int or sizes[name] < 1):
            raise ValueError(
                f"{argument}={sizes[name]!r} leaves nothing to learn. Write a whole number from 1."
            )
    return kind(
        vocab_size=unwrapped(teacher).get_input_embeddings().weight.shape[0],
        pad_token_id=tokenizer.pad_token_id,
        sep_token_id=separator,
        pairs=pairs,
        id2label=copy.deepcopy(theirs.id2label),
        label2id=copy.deepcopy(theirs.label2id),
        problem_type=theirs.problem_type,
        **sizes,
    )
