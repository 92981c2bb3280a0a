"""A `Trace` holds what one forward pass leaves behind: logits, the mask, and what was read inside.

Shape letters, fixed here for the whole package: B batch, T tokens, D width, H heads, L depth, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hfdistill.network.architectures import Layout, ModelSpec, blocks, layout_of, unwrapped
from hfdistill.network.block_calls import first_argument, first_output
from hfdistill.network.inputs import ModelInputs

Batch = Mapping[str, Tensor]

KINDS = ("hidden", "query", "key", "value", "exit")


@dataclass(frozen=True, order=True)
class Tap:
    """A place to read in a network.

    Args:
        kind: "hidden" reads (B, T, D), the entry of `hidden_states`; "query", "key" and "value" read
            (B, H, T, D/H), the projections of a block before any rotation by position; "exit" reads (B, C),
            the logits of a head on a block, in a network made by `with_exits`.
        layer: 0 for the embeddings (hidden alone), 1 to L for the blocks.

    Raises:
        ValueError: for another kind, or a layer that no network has.

    Example:
        >>> sorted({Tap("query", 2), Tap("hidden", 4)})
        [Tap(kind='hidden', layer=4), Tap(kind='query', layer=2)]
    """

    kind: str
    layer: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"Nothing to read is called {self.kind!r}. Choose from {', '.join(KINDS)}.")
        lowest = 0 if self.kind == "hidden" else 1
        if not isinstance(self.layer, int) or isinstance(self.layer, bool) or self.layer < lowest:
            raise ValueError(
                f"Tap({self.kind!r}, {self.layer!r}) names no layer: layers are whole numbers, 0 for the "
                f"embeddings, whose hidden state alone can be read, and 1 to the depth for the blocks."
            )


@dataclass(frozen=True, eq=False)
class Trace:
    """What one forward pass left behind.

    Args:
        logits: (B, C), as the model gave them.
        attention_mask: (B, T), 1 for real tokens; None where the batch had none.
        readings: what was asked for inside the network; see `Tap` for the shapes.
    """

    logits: Tensor
    attention_mask: Tensor | None = None
    readings: Mapping[Tap, Tensor] = field(default_factory=dict)


def logits_of(outputs: Any) -> Tensor:
    """Return the logits of a `ModelOutput`, a mapping or a tuple."""
    if isinstance(outputs, Mapping):
        if "logits" not in outputs:
            raise ValueError(
                f"The model returns {', '.join(map(repr, outputs))}, and a classifier's answers are read "
                "from 'logits'. Return them under that name."
            )
        return outputs["logits"]
    return outputs.logits if hasattr(outputs, "logits") else outputs[0]


def run(
    model: nn.Module,
    batch: Batch,
    *,
    accepts: ModelInputs | frozenset[str],
    taps: Collection[Tap] = frozenset(),
) -> Trace:
    """Run `model` on what it accepts of `batch`; labels are for the objectives, not for the model.

    Args:
        model: a model, also one wrapped for PEFT or for several processes.
        batch: what the collator made.
        accepts: what it reads of a batch, or the names of the arguments of its forward.
        taps: what to read on the way; nothing else is kept.

    Raises:
        ValueError: for taps that this model does not have; see `tapped`.
    """
    accepts = accepts if isinstance(accepts, ModelInputs) else ModelInputs(accepts)
    inputs = accepts.select(batch)
    mask = batch.get("attention_mask")
    if not taps:
        return Trace(logits=logits_of(model(**inputs)), attention_mask=mask)
    with tapped(model, taps) as readings:
        logits = logits_of(model(**inputs))
    unread = set(taps) - readings.keys()
    if unread:
        raise ValueError(
            f"The forward of {type(unwrapped(model)).__name__} passed by {min(unread)}: the blocks that its "
            f"layout names were not called. Correct the layout with register_anatomy(..., replace=True)."
        )
    return Trace(logits=logits, attention_mask=mask, readings=readings)


@contextmanager
def tapped(model: nn.Module, taps: Collection[Tap]) -> Iterator[dict[Tap, Tensor]]:
    """While open, a forward of `model` fills the dict with what was asked for, and with nothing else.

    The hooks live exactly as long as the `with`: open it around one forward alone. Gradient checkpointing
    runs forward a second time in backward, when they must be gone. Readings carry a graph if the forward
    does. Hidden states equal `output_hidden_states`; they and the projections cost no eager attention.

    Raises:
        ValueError: the architecture is unknown, a layer is out of range, the projections cannot be read, the
            layers are several groups of shared modules, or the model is compiled: compiled code keeps the
            hooks it was compiled with. In the forward: reentrant gradient checkpointing, under which
            query, key and value have no gradient.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(num_hidden_layers=2, hidden_size=24, vocab_size=9)
        >>> model = BertForSequenceClassification(config)
        >>> with tapped(model, {Tap("hidden", 2), Tap("query", 1)}) as readings:
        ...     _ = model(torch.tensor([[2, 5, 3]]))
        >>> {tap.kind: tuple(reading.shape) for tap, reading in readings.items()}
        {'query': (1, 12, 3, 2), 'hidden': (1, 3, 24)}
    """
    readings: dict[Tap, Tensor] = {}
    with ExitStack() as hooks:
        if taps:
            _refuse_compiled(model)
            network: Any = unwrapped(model)
            layout, anatomy = layout_of(network), ModelSpec.of(network)
            for tap in sorted(taps):
                hooks.enter_context(_hook(network, layout, anatomy, tap, readings))
        yield readings


def check_taps(model: nn.Module, taps: Collection[Tap]) -> None:
    """Refuse, before anything runs, what `tapped` would refuse; see there."""
    with tapped(model, taps):
        pass


def _hook(network: Any, layout: Layout, anatomy: ModelSpec, tap: Tap, readings: dict[Tap, Tensor]) -> Any:
    """Attach what reads one tap; returns its handle."""
    if tap.layer > anatomy.depth:
        raise ValueError(
            f"{tap} is out of range: this {anatomy.model_type} has {anatomy.depth} layers. "
            f"Choose a layer from {0 if tap.kind == 'hidden' else 1} to {anatomy.depth}."
        )
    if tap.kind == "exit":
        if tap.layer not in anatomy.exits:
            raise ValueError(
                f"{tap} cannot be read: this {type(network).__name__} has exits at {list(anatomy.exits)}. "
                f"Build it with with_exits(model, layers=[{tap.layer}])."
            )
        head = network.exits[str(tap.layer)]
        return head.register_forward_hook(_at(0, lambda _args, output: readings.update({tap: output})))
    if tap.kind == "hidden" and tap.layer == anatomy.depth:
        # Some networks norm or mix after the last block; the encoder's first output has all of that.
        hook = _at(0, lambda _args, output: readings.update({tap: first_output(output)}))
        return network.base_model.register_forward_hook(hook)
    if tap.kind == "hidden":  # the input of the next block: projections and convolutions lie before it
        block, call = _block(network, layout, tap.layer + 1, anatomy.depth)
        hook = _at(call, lambda args, kwargs: readings.update({tap: first_argument(args, kwargs)}))
        return block.register_forward_pre_hook(hook, with_kwargs=True)
    block, call = _block(network, layout, tap.layer, anatomy.depth)
    keep = _projection(tap, block, heads=anatomy.heads, fused=bool(layout.fused), readings=readings)
    return block.get_submodule(_path(layout, tap, anatomy)).register_forward_hook(_at(call, keep))


def _refuse_compiled(model: nn.Module) -> None:
    for part in model.modules():
        if "_orig_mod" in part._modules or part._compiled_call_impl is not None:
            raise ValueError(
                "Found a compiled model, inside which nothing can be read: compiled code keeps the hooks it "
                "was compiled with, and those of the next step are not called. Leave torch_compile at False, "
                "or use objectives on logits alone."
            )


def _block(network: Any, layout: Layout, layer: int, depth: int) -> tuple[nn.Module, int]:
    """Return the module of a block, and which of its calls in a forward is that block's."""
    if not layout.shared:
        parts = blocks(network)
        if len(parts) != depth:
            raise ValueError(
                f"Found {len(parts)} blocks for {depth} layers in this {type(network).__name__}. "
                f"Correct its layout with register_anatomy(..., replace=True)."
            )
        return parts[layer - 1], 0
    groups = network.base_model.get_submodule(layout.blocks)
    if len(groups) != 1:
        raise ValueError(
            f"Found {depth} layers in {len(groups)} groups of shared modules: {layout.shared}, and which "
            f"call of a group is which layer is not known here. Use a model with one group."
        )
    return groups[0], layer - 1


def _path(layout: Layout, tap: Tap, anatomy: ModelSpec) -> str:
    path: str = layout.fused or getattr(layout, tap.kind)
    if not path or not anatomy.heads:
        reason = layout.projections_reason or "its layout names no such projection"
        raise ValueError(
            f"{tap} cannot be read from this {anatomy.model_type}: {reason}. "
            f"Use objectives on hidden states, such as HiddenMSE() or PKD(), or on logits."
        )
    return path


def _at(call: int, keep: Callable[[Any, Any], None]) -> Callable[[Any, Any, Any], None]:
    """Return a hook that keeps one call of several.

    A module that serves every layer is called once for each; DeBERTa-v2 calls the projections a second time,
    on positions.
    """
    seen = 0

    def hook(_module: nn.Module, args: Any, last: Any) -> None:
        nonlocal seen
        if seen == call:
            keep(args, last)
        seen += 1

    return hook


def _projection(
    tap: Tap, block: nn.Module, *, heads: int, fused: bool, readings: dict[Tap, Tensor]
) -> Callable[[Any, Any], None]:
    """Split the output of a projection into heads."""
    graph = torch.is_grad_enabled()

    def keep(_args: Any, output: Tensor) -> None:
        checkpointed = block.training and getattr(block, "gradient_checkpointing", False)
        if graph and checkpointed and not torch.is_grad_enabled():
            raise ValueError(
                f"{tap} would teach nothing: reentrant gradient checkpointing runs the blocks without a "
                f"graph. Set gradient_checkpointing_kwargs={{'use_reentrant': False}}."
            )
        if fused:
            output = output.chunk(3, dim=-1)[KINDS.index(tap.kind) - 1]
        readings[tap] = output.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, H, T, D/H)

    return keep
