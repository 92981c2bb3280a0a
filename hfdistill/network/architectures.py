"""A `Layout` says where an architecture keeps its parts: the only file with architecture-specific names."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from hfdistill.files.plain_data import as_python
from hfdistill.network.divided import whole_models


def _never(config: Any) -> str:
    """Raise no objection."""
    return ""


@dataclass(frozen=True)
class Layout:
    """Where one architecture keeps its parts, and what must be known to cut it.

    Paths are dotted: `blocks` and `embeddings` start at the base model (`model.bert`), the projections at a
    block. Layer indices stored on sub-modules need no entry: a cut model is built from its own config, which
    numbers them.

    Args:
        blocks: Path of the `nn.ModuleList` of blocks.
        embeddings: Path of the embedding module.
        depth: Config field with the number of layers.
        width: Config field with the size of a hidden state.
        heads: Config field with the number of attention heads; "" for a network without attention.
        per_layer: Config fields that are lists with one entry per layer; they are cut with the blocks.
        per_rule: Config fields that derive `per_layer` by a rule, which a cut model breaks: they are dropped.
        query: Path of the query projection in a block, whose output is (B, T, D); `key` and `value` likewise.
        key: See `query`.
        value: See `query`.
        fused: Path of one projection whose output is query, key and value side by side, (B, T, 3·D).
        projections_reason: Why the projections cannot be read from a module's output; "" where they can.
        attention_reason: Why `softmax(q kᵀ / √d)` of the projections is not the attention; "" where it is.
        output: Path of the projection in a block whose input is the heads' outputs side by side.
        up: Path of the feed-forward network's first projection in a block; it may hold a gate too.
        down: Path of its last one, whose input is the neurons.
        neurons: Config field with the number of neurons.
        sums: Per residual sum of a block, in their order: the path of the projection that ends in it, and the
            path of the module that is given the sum (the LayerNorm after it; before it, where norms come
            first), "" for the block's own output.
        follows: Config fields that are changed with the width where they equal it.
        head_bias: Path, from the base model, of an embedding with a column per head that all blocks share.
        narrow_reason: Why width, heads and neurons cannot be cut; "" where they can.
        shared: Why there are fewer block modules than layers; "" where every layer has its own.
        rows_reason: Why a block cannot go on with some rows of a batch alone; "" where it can.
        fixed: Config → why the depth cannot be cut; "" where it can.
        anchored: Config → why block 1 cannot be left out; "" where it can.
    """

    blocks: str
    embeddings: str = "embeddings"
    depth: str = "num_hidden_layers"
    width: str = "hidden_size"
    heads: str = "num_attention_heads"
    per_layer: tuple[str, ...] = ()
    per_rule: tuple[str, ...] = ()
    query: str = ""
    key: str = ""
    value: str = ""
    fused: str = ""
    projections_reason: str = ""
    attention_reason: str = ""
    output: str = "attention.output.dense"
    up: str = "intermediate.dense"
    down: str = "output.dense"
    neurons: str = "intermediate_size"
    sums: tuple[tuple[str, str], ...] = ()
    follows: tuple[str, ...] = ()
    head_bias: str = ""
    narrow_reason: str = ""
    shared: str = ""
    rows_reason: str = ""
    fixed: Callable[[Any], str] = _never
    anchored: Callable[[Any], str] = _never


@dataclass(frozen=True)
class ModelSpec:
    """The sizes of a network: what losses and layer maps need to know before anything runs.

    Args:
        model_type: Architecture, as in `config.model_type`.
        depth: Number of layers L.
        width: Size D of a hidden state.
        heads: Number of attention heads H per layer; 0 without attention.
        classes: Number of classes C.
        exits: Layers with a head of their own, in a network made by `with_exits`.

    Example:
        >>> from transformers import BertConfig
        >>> ModelSpec.of(BertConfig(num_hidden_layers=6, num_labels=3))
        ModelSpec(model_type='bert', depth=6, width=768, heads=12, classes=3, exits=())
    """

    model_type: str
    depth: int
    width: int
    heads: int
    classes: int
    exits: tuple[int, ...] = ()

    @classmethod
    def of(cls, model_or_config: Any) -> ModelSpec:
        """Read the sizes off a model, a PEFT wrapper around one, or a config."""
        config = _config(model_or_config)
        layout = layout_of(config)
        return cls(
            model_type=config.model_type,
            depth=getattr(config, layout.depth),
            width=getattr(config, layout.width),
            heads=getattr(config, layout.heads) if layout.heads else 0,
            classes=config.num_labels,
            exits=tuple(getattr(getattr(unwrapped(model_or_config), "config", model_or_config), "exits", ())),
        )


@dataclass(frozen=True)
class Positions:
    """The table in which a network looks up the absolute position of a token.

    RoBERTa and its kind number the first token one past the id of padding, and give padding its own id as
    position: as many places of the table hold no text. They are told by the table itself, which has a
    `padding_idx`.

    Args:
        rows: Positions in the table; 0 for a network that has none.
        start: Number of the first token.

    Example:
        >>> from transformers import RobertaConfig
        >>> Positions.of(RobertaConfig(max_position_embeddings=514))
        Positions(rows=514, start=2)
    """

    rows: int = 0
    start: int = 0

    @classmethod
    def of(cls, model_or_config: Any) -> Positions:
        """Read the table off a model, or off one without weights that is built from a config."""
        network = unwrapped(model_or_config)
        config = _config(network)
        limit = getattr(config, "max_position_embeddings", None)
        if not isinstance(network, nn.Module):
            key = (getattr(config, "model_type", None), limit, getattr(config, "pad_token_id", None))
            if key not in _POSITIONS:
                bare = _without_weights(config)
                _POSITIONS[key] = cls() if bare is None else cls.of(bare)
            return _POSITIONS[key]
        for name, table in network.named_modules():
            shape: tuple[int, ...] = tuple(getattr(getattr(table, "weight", None), "shape", ()))
            if len(shape) == 2 and _POSITION_TABLE.fullmatch(name.rpartition(".")[2]):
                pad = getattr(table, "padding_idx", None)
                return cls(shape[0], 0 if pad is None or shape[0] != limit else pad + 1)
        return cls()


_POSITION_TABLE = re.compile(r"position_embeddings?|embed_positions|positions_embed|wpe")
_POSITIONS: dict[Any, Positions] = {}


def _without_weights(config: Any) -> nn.Module | None:
    """Build this config's network on torch's "meta" device; None for one that Transformers lacks."""
    from transformers import MODEL_MAPPING

    kind: Any = MODEL_MAPPING.get(type(config), None)
    if kind is None:
        return None
    kind = kind[0] if isinstance(kind, tuple) else kind
    with whole_models(), torch.device("meta"), torch.random.fork_rng(devices=[]):
        return kind._from_config(copy.deepcopy(config))


def register_anatomy(model_type: str, layout: Layout, *, replace: bool = False) -> None:
    """Make an architecture known, for `shrink` and for losses that look inside a network.

    Args:
        model_type: The architecture, as in `config.model_type`.
        layout: Where it keeps its parts.
        replace: Overwrite an entry that is already there.

    Raises:
        ValueError: `model_type` is registered with another layout and `replace` is False.

    Example:
        >>> register_anatomy("my_bert", Layout(blocks="encoder.layer", query="attention.self.query"))
        >>> "my_bert" in known_anatomies()
        True
    """
    if not replace and _LAYOUTS.get(model_type, layout) != layout:
        raise ValueError(
            f"Found another layout already registered for {model_type!r}; with two of them the result would "
            f"depend on import order. Pass replace=True to overwrite it, or register another model_type."
        )
    _LAYOUTS[model_type] = layout


def known_anatomies() -> tuple[str, ...]:
    """Return the registered architectures, in alphabetical order."""
    return tuple(sorted(_LAYOUTS))


def layout_of(model_or_config: Any) -> Layout:
    """Return the layout registered for a model's or a config's `model_type`, or refuse one that is not."""
    model_type = getattr(_config(model_or_config), "model_type", None)
    if model_type not in _LAYOUTS:
        raise ValueError(
            f"Unknown architecture {model_type!r}: where it keeps its blocks is not known. "
            f"Known are {', '.join(known_anatomies())}. Tell where its parts are, for example "
            f"`register_anatomy({model_type!r}, Layout(blocks='encoder.layer'))`, "
            f"both names from hfdistill."
        )
    return _LAYOUTS[model_type]


def unwrapped(model: Any) -> Any:
    """Return the Transformers model inside DDP, DeepSpeed, `torch.compile` and PEFT wrappers."""
    while isinstance(getattr(model, "module", None), nn.Module):  # DDP, DeepSpeed's engine
        model = model.module
    model = getattr(model, "_orig_mod", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def known_spec(model: Any) -> ModelSpec | None:
    """Return the sizes of a model, or None where its architecture is not known."""
    return ModelSpec.of(model) if getattr(_config(model), "model_type", None) in _LAYOUTS else None


def longest_input(model_or_config: Any) -> int | None:
    """Return how many tokens a model has positions for; None where it has no such limit."""
    config = _config(model_or_config)
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    return limit - Positions.of(model_or_config).start


def readable_length(model_or_config: Any, max_length: int | None) -> int | None:
    """Return how many tokens of a text a model is to read; None for no limit.

    Args:
        model_or_config: whose positions are the most that it can read; None for a model without a config.
        max_length: what was asked for; None for all that it can.
    """
    return shortest(max_length, longest_input(model_or_config))


def room_for(model_or_config: Any, tokenizer: Any, *limits: int | None) -> int:
    """Return how many tokens a model and its tokenizer take; the least of these and of `limits`."""
    return cast(int, shortest(int(tokenizer.model_max_length), longest_input(model_or_config), *limits))


def shortest(*limits: int | None) -> int | None:
    """Return the least of several numbers of tokens, None for no limit; refuse what is no such number."""
    given = [as_python(limit) for limit in limits if limit is not None]
    for limit in given:
        if type(limit) is not int or limit < 1:
            raise ValueError(
                f"max_length is a whole number of tokens from 1 up, found {limit!r}. Leave it out for all "
                "that the model and its tokenizer take."
            )
    return min(given, default=None)


def blocks(model: Any) -> nn.ModuleList:
    """Return the blocks of a model, as many as it has layers; block m is at index m - 1.

    Raises:
        ValueError: The architecture is unknown, or its layers share modules (ALBERT).

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(num_hidden_layers=2, hidden_size=24)
        >>> len(blocks(BertForSequenceClassification(config)))
        2
    """
    layout = layout_of(model)
    if layout.shared:
        raise ValueError(
            f"Found {ModelSpec.of(model).depth} layers but no module for each: {layout.shared}. "
            f"Read hidden states with `output_hidden_states=True`, or use an architecture whose layers are "
            f"modules of their own."
        )
    return _part(model, layout.blocks)


def blocks_path(model: Any) -> str:
    """Return the name of the list of a model's blocks among all modules of the model.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> blocks_path(BertForSequenceClassification(BertConfig(num_hidden_layers=1, hidden_size=24)))
        'bert.encoder.layer'
    """
    there = _part(model, layout_of(model).blocks)
    return next(name for name, module in model.named_modules() if module is there)


def embeddings(model: Any) -> nn.Module:
    """Return the embedding module of a model.

    Its output is the input of block 1 only where no projection follows (ELECTRA and ALBERT may have one).
    """
    return _part(model, layout_of(model).embeddings)


def word_embeddings(model: Any) -> nn.Module | None:
    """Return the table of a network's word embeddings; None where it has none."""
    return getattr(model, "get_input_embeddings", lambda: None)()


def _config(model_or_config: Any) -> Any:
    model = unwrapped(model_or_config)
    config = getattr(model, "config", model)
    return getattr(config, "classifier_config", config)  # of the network inside, where one wraps another


def _part(model: Any, path: str) -> Any:
    return unwrapped(model).base_model.get_submodule(path)


def _albert_fixed(config: Any) -> str:
    if config.num_hidden_groups == 1:
        return ""
    return f"its layers share {config.num_hidden_groups} groups of weights, dealt out by the depth itself"


def _convolution_anchored(config: Any) -> str:
    if getattr(config, "conv_kernel_size", 0) <= 0:
        return ""
    return "a convolution runs beside block 1 and joins its output"


def _modernbert_anchored(config: Any) -> str:
    return "the first block has no attention norm, all others have one, and the config cannot say otherwise"


_RELATIVE = "relative positions are added to the scores"
_BETWEEN = "tables of relative positions, which are not rows, are handed from block to block"
_SHARED = "ALBERT repeats one group of weights over all layers"

_BERT_SUMS = (
    ("attention.output.dense", "attention.output.LayerNorm"),
    ("output.dense", "output.LayerNorm"),
)
_BERT = Layout(
    blocks="encoder.layer",
    sums=_BERT_SUMS,
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
)

_LAYOUTS: dict[str, Layout] = {
    "bert": _BERT,
    "camembert": _BERT,
    "electra": replace(_BERT, follows=("embedding_size",)),
    "mobilebert": replace(
        _BERT,
        narrow_reason="its blocks have several widths and feed-forward networks",
        sums=(*_BERT_SUMS, ("output.bottleneck.dense", "output.bottleneck.LayerNorm")),
    ),
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "albert": Layout(
        blocks="encoder.albert_layer_groups",
        query="albert_layers.0.attention.query",
        key="albert_layers.0.attention.key",
        value="albert_layers.0.attention.value",
        output="albert_layers.0.attention.dense",
        up="albert_layers.0.ffn",
        down="albert_layers.0.ffn_output",
        shared=_SHARED,
        fixed=_albert_fixed,
    ),
    "deberta": Layout(
        blocks="encoder.layer",
        sums=_BERT_SUMS,
        projections_reason="one projection interleaves query, key and value, and their biases come after it",
        narrow_reason="one projection interleaves the heads' queries, keys and values",
        attention_reason=_RELATIVE,
        rows_reason=_BETWEEN,
    ),
    "deberta-v2": Layout(
        blocks="encoder.layer",
        sums=_BERT_SUMS,
        query="attention.self.query_proj",
        key="attention.self.key_proj",
        value="attention.self.value_proj",
        follows=("pooler_hidden_size",),
        attention_reason=_RELATIVE,
        rows_reason=_BETWEEN,
        anchored=_convolution_anchored,
    ),
    "distilbert": Layout(
        blocks="transformer.layer",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        output="attention.out_lin",
        up="ffn.lin1",
        down="ffn.lin2",
        neurons="hidden_dim",
        sums=(("attention.out_lin", "sa_layer_norm"), ("ffn.lin2", "output_layer_norm")),
    ),
    "modernbert": Layout(
        blocks="layers",
        per_layer=("layer_types",),
        per_rule=("global_attn_every_n_layers",),
        fused="attn.Wqkv",
        output="attn.Wo",
        up="mlp.Wi",
        down="mlp.Wo",
        sums=(("attn.Wo", "mlp_norm"), ("mlp.Wo", "")),
        attention_reason="query and key are rotated by position afterwards, and some layers see a window",
        anchored=_modernbert_anchored,
    ),
    "mpnet": Layout(
        blocks="encoder.layer",
        query="attention.attn.q",
        key="attention.attn.k",
        value="attention.attn.v",
        output="attention.attn.o",
        sums=(("attention.attn.o", "attention.LayerNorm"), ("output.dense", "output.LayerNorm")),
        head_bias="encoder.relative_attention_bias",
        attention_reason=_RELATIVE,
    ),
}
