"""A student that answers easy rows early: heads on intermediate blocks of any encoder classifier."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from hfdistill.files.plain_data import as_python
from hfdistill.network.architectures import ModelSpec, layout_of
from hfdistill.network.divided import whole_models
from hfdistill.network.inputs import accepted_inputs
from hfdistill.network.loading import Source, load_classifier
from hfdistill.network.task import task_kind
from hfdistill.network.trace import Tap, tapped
from hfdistill.students.configs import EXIT_WIDTH, EarlyExitConfig
from hfdistill.students.early_exit_forward import AllRowsExited, EarlyExitForward
from hfdistill.students.weight_copy import network

_TURN = threading.Lock()
"""Held by a pass from which rows may leave: its hooks would catch the rows of another thread's, too."""


@dataclass
class EarlyExitOutput(SequenceClassifierOutput):
    """The output of a model with exits.

    Args:
        exit_logits: of each exit, (B, C); None where rows may leave.
        exit_layers: (B,), the layer whose head gave the row's logits; None where none may leave.
    """

    exit_logits: tuple[Tensor, ...] | None = None
    exit_layers: Tensor | None = None


class ExitHead(nn.Module):
    """Narrows the tokens, lets the first attend to all, and classifies it.

    FastBERT's branch (Liu et al. 2020, arXiv 2004.02178), computed for the first token alone, the only one
    that is read: about 1 % of a block's work.
    """

    def __init__(self, width: int, *, inner: int, classes: int) -> None:
        super().__init__()
        self.narrow = nn.Linear(width, inner)
        self.query, self.key, self.value = (nn.Linear(inner, inner) for _ in range(3))
        self.dense = nn.Linear(inner, inner)
        self.classifier = nn.Linear(inner, classes)

    def forward(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Return logits (B, C) of hidden states (B, T, D)."""
        tokens = torch.tanh(self.narrow(hidden))  # (B, T, W)
        parts = self.query(tokens[:, :1]), self.key(tokens), self.value(tokens)
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in parts)  # (B, 2, T, W/2)
        mask = None if attention_mask is None else attention_mask[:, None, None, :].bool()
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B, 2, 1, W/2)
        return self.classifier(torch.tanh(self.dense(seen.flatten(1))))


class EarlyExitForSequenceClassification(PreTrainedModel):
    """A classifier with heads on intermediate blocks; build it with `with_exits`.

    In training all heads answer, to be read by `ExitCrossEntropy` and `ExitKD`. At inference, with
    `exit_threshold` set, a row leaves at the first exit whose `uncertainty` is below it, and the remaining
    blocks compute the remaining rows alone. Threads that share a model then take turns.
    """

    config_class = EarlyExitConfig
    config: EarlyExitConfig
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: EarlyExitConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        with whole_models():
            self.backbone = AutoModelForSequenceClassification.from_config(config.classifier_config)
        self._inside_takes = accepted_inputs(self.backbone)
        width, inner = ModelSpec.of(config).width, config.exit_width
        heads = {str(n): ExitHead(width, inner=inner, classes=config.num_labels) for n in config.exits}
        self.exits = nn.ModuleDict(heads)
        self.post_init()

    @property
    def base_model(self) -> nn.Module:
        """The encoder of the classifier inside."""
        encoder: nn.Module = self.backbone.base_model
        return encoder

    @property
    def exit_threshold(self) -> float | None:
        """Rows leave at an exit whose uncertainty is below it; None lets none leave. It is saved.

        Raises:
            ValueError: for a value outside (0, 1].
        """
        return self.config.exit_threshold

    @exit_threshold.setter
    def exit_threshold(self, value: float | None) -> None:
        if value is not None:
            check_threshold(value)
        self.config.exit_threshold = value

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings."""
        return self.backbone.get_input_embeddings()

    def resize_token_embeddings(self, *args: Any, **options: Any) -> nn.Embedding:
        """Resize those of the classifier inside, and note it in the config that it is built from."""
        table: nn.Embedding = self.backbone.resize_token_embeddings(*args, **options)
        self.config.classifier_config.vocab_size = self.backbone.config.vocab_size
        return table

    def train(self, mode: bool = True) -> EarlyExitForSequenceClassification:
        """Set the mode of every module, but a frozen backbone stays in evaluation mode, without dropout."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.backbone.parameters()):
            self.backbone.eval()
        return self

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **options: Any,
    ) -> EarlyExitOutput:
        """Return the logits of the last head and of the exits; with a threshold, each row's first sure ones.

        `loss`, where there are labels and no row may leave, is the last head's alone.
        """
        arguments = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
        }
        inputs = {name: v for name, v in arguments.items() if v is not None and name in self._inside_takes}
        if self.exit_threshold is not None and not self.training:
            return self._leaving(inputs, attention_mask)
        with tapped(self.backbone, {Tap("hidden", layer) for layer in self.config.exits}) as readings:
            output = self.backbone(**inputs, labels=labels, **options)
        logits = []
        for layer in self.config.exits:
            hidden = readings[Tap("hidden", layer)]
            hidden = hidden.detach() if self.config.detach_exits else hidden
            logits.append(self.exits[str(layer)](hidden, attention_mask))
        return EarlyExitOutput(**output, exit_logits=tuple(logits))

    def _leaving(self, inputs: dict[str, Tensor], attention_mask: Tensor | None) -> EarlyExitOutput:
        """Return a forward pass from which rows leave."""
        rows = len(next(iter(inputs.values())))
        forward = EarlyExitForward(self, self.exits, attention_mask, rows=rows)
        with _TURN, suppress(AllRowsExited), forward.watched():
            forward.finish(self.backbone(**inputs).logits)
        return EarlyExitOutput(logits=forward.logits, exit_layers=forward.layers)


def with_exits(
    model: Source, *, layers: Literal["all"] | Sequence[int] = "all", detach: bool = False
) -> EarlyExitForSequenceClassification:
    """Copy a classifier and put a fresh head on some of its blocks, so that easy rows may leave early.

    Its own head, after the last block, stays as it is. Train it with

        CrossEntropy() + 0.7 * ExitCrossEntropy() + 0.033 * ExitKD(temperature=3)

    (BYOT, Zhang et al. 2019, arXiv 1905.08094), with a teacher's terms beside it where there is one; or, as
    FastBERT does (Liu et al. 2020, arXiv 2004.02178), fine-tune the model first, freeze it by
    `model.backbone.requires_grad_(False)`, and train its exits by `ExitKD()` alone, on unlabelled text too.
    Then set `model.exit_threshold`; `exit_curve` shows what each threshold costs and saves.

    It is saved and loaded by `save_pretrained` and `from_pretrained` once hfdistill is imported, and works in
    `pipeline`. Heads are drawn from torch's global generator.

    Args:
        model: a classifier, as a model, a PEFT wrapper around one (its adapter is merged), an id or a path.
        layers: blocks, counted from 1, that get an exit; "all" but the last, which has the model's own head.
        detach: True: an exit's loss trains its own head alone, and the rest learns as without exits.

    Raises:
        TypeError: where the model is none of Transformers, or layers are not numbers.
        ValueError: for layers it does not have, for a model with exits, for regression and labels on tokens,
            and for architectures whose blocks cannot go on with some rows of a batch (ALBERT, DeBERTa).

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(num_hidden_layers=4, hidden_size=24, num_attention_heads=2)
        >>> model = with_exits(BertForSequenceClassification(config), layers=[2, 3])
        >>> model.config.exits
        [2, 3]

    `export` writes it as a graph for each stage, and `StagedModel` runs these.

    When to use it: rows of mixed difficulty, answered one by one or in small batches on a CPU. Not where
    every row must take the same time: which blocks run depends on the data.
    """
    model = load_classifier(model if isinstance(model, (str, Path)) else network(model), role="model")
    anatomy, layout = ModelSpec.of(model), layout_of(model)
    if layout.shared or layout.rows_reason:
        raise ValueError(
            f"The blocks of this {anatomy.model_type} cannot go on with some rows of a batch alone: "
            f"{layout.shared or layout.rows_reason}. Use BERT, RoBERTa, DistilBERT or ELECTRA."
        )
    if anatomy.classes < 2 or task_kind(model.config) in ("regression", "token"):
        raise ValueError(
            f"Rows leave where an exit is sure of the one answer of a text, and a {type(model).__name__} of "
            f"{anatomy.classes} outputs gives none: regression has no class, and tokens have one each."
        )
    config = EarlyExitConfig(
        classifier_config=copy.deepcopy(model.config),
        exits=_checked(layers, depth=anatomy.depth),
        detach_exits=detach,
        exit_width=min(EXIT_WIDTH, anatomy.width),
        id2label=dict(model.config.id2label),
        label2id=dict(model.config.label2id),
        problem_type=model.config.problem_type,
    )
    with no_init_weights():
        made = EarlyExitForSequenceClassification(config)
    made.backbone = copy.deepcopy(model)
    for part in made.exits.modules():
        made._init_weights(part)
    return made.to(model.device, model.dtype).eval()


def with_threshold(
    model: EarlyExitForSequenceClassification, threshold: float | None
) -> EarlyExitForSequenceClassification:
    """Return the same weights under another threshold; the model itself is left as it is."""
    view = copy.copy(model)
    view.config = copy.copy(model.config)
    view.exit_threshold = threshold
    return view


def check_threshold(value: Any) -> None:
    """Refuse a threshold of uncertainty that is not a number in (0, 1]."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) <= 1:
        raise ValueError(
            f"exit_threshold lies above 0 and up to 1, found {value!r}: rows whose uncertainty is below it "
            "leave. Usual: 0.1 to 0.5."
        )


def _checked(layers: Any, *, depth: int) -> list[int]:
    """Return blocks of an exit: whole numbers from 1 to depth - 1, each larger than the one before."""
    layers = as_python(layers)
    if layers == "all":
        if depth == 1:
            raise ValueError(
                "A model of 1 layer has no block before its last to put an exit on. Leave the exits out, or "
                "start from a model of more layers."
            )
        layers = range(1, depth)
    chosen = [*layers] if isinstance(layers, Iterable) and not isinstance(layers, str) else None
    if chosen is None or any(isinstance(n, bool) or not isinstance(n, int) for n in chosen):
        raise TypeError(f"layers={layers!r} is neither 'all' nor a list of blocks such as [1, 2].")
    if not chosen or chosen != sorted(set(chosen)) or chosen[0] < 1 or chosen[-1] >= depth:
        raise ValueError(
            f"layers={chosen} does not fit a model of {depth} layers: exits stand on block 1 to {depth - 1}, "
            f"each once and in this order, the last block having the model's own. Write layers='all'."
        )
    return chosen


AutoModelForSequenceClassification.register(
    EarlyExitConfig, EarlyExitForSequenceClassification, exist_ok=True
)
