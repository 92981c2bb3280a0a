"""Measures what blocks, heads, neurons and hidden dimensions of a network contribute on a calibration set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hfdistill.network.architectures import ModelSpec, layout_of, unwrapped
from hfdistill.network.block_calls import evaluating, first_argument, with_first_output
from hfdistill.network.inputs import ModelInputs
from hfdistill.network.task import task_kind
from hfdistill.network.trace import logits_of

Batches = Iterable[Mapping[str, Tensor]]


def block_importance(model: Any, data: Batches) -> list[float]:
    """Measure how much the answers change where one block is left out, for each block from first to last.

    The mean over texts, or over tokens where these are labelled, of KL(p ‖ p without the block), in nats; of
    the mean squared change of the logits for several labels and real values. No labels are read. Blocks are
    left out one at a time, so two that can replace each other both look dispensable.

    Args:
        model: a classifier of a known architecture, which stays as it was.
        data: batches as the model reads them, such as a data loader or
            `[tokenizer(texts, padding=True, return_tensors="pt")]`; a few hundred rows do.

    Returns:
        L numbers; larger is more important. Pick with `most_important`.

    Raises:
        ValueError: for data without a batch, an unknown architecture, or one whose answer is not read from
            hidden states (BiLSTM).

    Example:
        >>> worth = block_importance(teacher, batches)  # doctest: +SKIP
        >>> student = shrink(teacher, layers=most_important(worth, 3))  # doctest: +SKIP

    When to use it: for teachers whose last or middle blocks do little. Without it `layers=3` spreads evenly,
    which is hard to beat once the student is trained.
    """
    network, batches = unwrapped(model), _batches(data)
    anatomy = ModelSpec.of(network)
    if not anatomy.heads:
        raise ValueError(
            f"What a layer of this {anatomy.model_type} is worth cannot be told by leaving it out: the "
            f"answer is read from its last states. Choose layers=[1, …] yourself."
        )
    depth = anatomy.depth
    change = _divergence if task_kind(network.config) in ("single_label", "token") else _squared
    totals = torch.zeros(depth, dtype=torch.float64)
    rows = 0
    with _evaluating(network), torch.no_grad():
        for batch in batches:
            whole = _logits(network, batch).cpu().double()
            rows += len(whole)
            for number in range(1, depth + 1):
                with _without(network, number):
                    cut = _logits(network, batch).cpu().double()
                totals[number - 1] += change(whole, cut).sum()
    return [float(total) / rows for total in totals]


def most_important(importance: Sequence[float], count: int) -> list[int]:
    """Return the numbers of the `count` largest, from 1, in order, as `shrink(layers=…)` takes them.

    Raises:
        ValueError: where there are fewer.
    """
    if not 1 <= count <= len(importance):
        raise ValueError(f"Found {len(importance)} blocks, asked for {count}. Choose 1 to {len(importance)}.")
    order = sorted(range(len(importance)), key=lambda i: (-importance[i], i))
    return sorted(i + 1 for i in order[:count])


@dataclass(frozen=True, eq=False)
class Importance:
    """First-order estimates of how much the loss moves where a part is removed.

    Args:
        width: of each hidden dimension, (D,).
        heads: of each head, per block (H,).
        neurons: of each feed-forward neuron, per block (I,).
    """

    width: Tensor
    heads: list[Tensor]
    neurons: list[Tensor]


def taylor_importance(model: Any, data: Batches) -> Importance:
    """Return E |Σ_t a·∂L/∂a| of each head, neuron and hidden dimension a (Michel et al. 2019, 1905.10650).

    L is the cross-entropy of the batch's labels, and of the model's own answers for rows without one; for
    several labels and real values, Σ |logits|, and no label is read. Hidden dimensions are read where they
    enter a block, and summed over blocks.
    """
    layout, anatomy, batches = layout_of(model), ModelSpec.of(model), _batches(data)
    blocks = list(model.base_model.get_submodule(layout.blocks))
    sums: dict[tuple[str, int], Tensor] = {}

    def watched(kind: str, i: int) -> Callable[[Any, Any, Any], None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            value = first_argument(args, kwargs)  # (B, T, ·)
            groups = anatomy.heads if kind == "heads" else value.shape[-1]

            def book(grad: Tensor) -> None:
                rows = (value.detach() * grad).sum(1).unflatten(-1, (groups, -1)).sum(-1)
                sums[kind, i] = sums.get((kind, i), 0) + rows.cpu().double().abs().sum(0)

            value.register_hook(book)

        return hook

    with ExitStack() as hooks, _evaluating(model), torch.enable_grad():
        for i, block in enumerate(blocks):
            output, down = block.get_submodule(layout.output), block.get_submodule(layout.down)
            for kind, module in (("width", block), ("heads", output), ("neurons", down)):
                hooks.enter_context(module.register_forward_pre_hook(watched(kind, i), with_kwargs=True))
        for batch in batches:
            # Down to the embeddings, past every hook; no weight's .grad is touched.
            torch.autograd.grad(_loss(model, batch), model.get_input_embeddings().weight)
    each = {kind: [sums[kind, i] for i in range(len(blocks))] for kind in ("width", "heads", "neurons")}
    return Importance(width=torch.stack(each["width"]).sum(0), heads=each["heads"], neurons=each["neurons"])


def _loss(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    logits = _logits(model, batch).float()
    if task_kind(model.config) not in ("single_label", "token"):
        return logits.abs().sum()
    labels = own = logits.detach().argmax(-1)
    if "labels" in batch:
        labels = batch["labels"].to(logits.device)
        # Tokens without a label are not words; texts without one are judged by the model.
        if labels.dim() == 2:
            labels = labels[_mask(model, batch)].clamp(min=-100)
        else:
            labels = labels.where(labels >= 0, own)
    return F.cross_entropy(logits, labels, reduction="sum")


def _logits(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Return a row for each text, or, where tokens are labelled, for each real token: (N, C)."""
    inputs = ModelInputs.of(model).select({name: value.to(model.device) for name, value in batch.items()})
    logits = logits_of(model(**inputs))
    return logits[_mask(model, batch)] if logits.dim() == 3 else logits


def _mask(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Return real tokens, (B, T)."""
    mask = batch.get("attention_mask")
    return (torch.ones_like(batch["input_ids"]) if mask is None else mask).bool().to(model.device)


def _batches(data: Batches) -> list[Mapping[str, Tensor]]:
    if isinstance(data, Mapping):
        data = [data]
    batches = list(data)
    if not batches or not all(isinstance(batch, Mapping) and "input_ids" in batch for batch in batches):
        raise ValueError(
            "Importance is measured on batches as the model reads them, and data holds none. Pass a data "
            "loader, or data=[tokenizer(texts, padding=True, return_tensors='pt')]."
        )
    return batches


def _divergence(whole: Tensor, cut: Tensor) -> Tensor:
    """Return the KL per row, (B,)."""
    full = F.log_softmax(whole, dim=-1)
    return (full.exp() * (full - F.log_softmax(cut, dim=-1))).sum(-1)


def _squared(whole: Tensor, cut: Tensor) -> Tensor:
    """Return the mean squared change per row, (B,)."""
    return (whole - cut).square().mean(1)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """While open, dropout is off and every weight has a gradient; afterwards all is as before."""
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    with evaluating(model):
        for parameter in frozen:
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)


@contextmanager
def _without(model: Any, number: int) -> Iterator[None]:
    """While open, block `number` gives its input back; in ALBERT, the call of that number."""
    modules = list(model.base_model.get_submodule(layout_of(model).blocks))
    calls = iter(range(1, ModelSpec.of(model).depth + 1))

    def skip(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if next(calls) != number:
            return None
        return with_first_output(output, first_argument(args, kwargs))

    with ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(module.register_forward_hook(skip, with_kwargs=True))
        yield
