"""Rows leave a forward pass where a head is sure of them, and the blocks that follow compute the others."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hfdistill.network.architectures import ModelSpec, blocks
from hfdistill.network.block_calls import first_argument, first_output, with_first_output


def uncertainty(logits: Tensor, *, multi_label: bool = False) -> Tensor:
    """Measure how unsure logits (B, C) are, in [0, 1]: (B,). The entropy -Σ_c p_c log p_c / log C.

    Multi-label: the largest entropy of a class, -(p log p + (1 - p) log(1 - p)) / log 2.

    Liu et al. 2020 (FastBERT), arXiv 2004.02178, equation 6.

    Example:
        >>> uncertainty(torch.tensor([[0.0, 0.0], [0.0, 9.0]]))
        tensor([1.0000, 0.0018])
    """
    logits = logits.float()
    if multi_label:
        logits = torch.stack([logits, torch.zeros_like(logits)], -1)  # (B, C, 2)
    log_p = logits.log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1) / math.log(logits.shape[-1])
    return entropy.amax(-1) if multi_label else entropy


class AllRowsExited(Exception):  # noqa: N818
    """Ends the forward of the model inside, since no row is left for the blocks that follow."""


class EarlyExitForward:
    """One forward pass of the model inside, whose blocks go on with the rows that are still there."""

    def __init__(self, model: Any, heads: nn.ModuleDict, mask: Tensor | None, *, rows: int) -> None:
        self.model, self.heads, self.mask, self.rows = model, heads, mask, rows
        self.depth = ModelSpec.of(model).depth
        self.here = torch.arange(rows, device=model.device)  # numbers of the rows still there
        self.layers = torch.full((rows,), self.depth, device=model.device)
        self.logits = torch.zeros(rows, model.num_labels, device=model.device, dtype=model.dtype)
        self.threshold = model.exit_threshold or 0.0
        self._multi_label = model.config.problem_type == "multi_label_classification"

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While open, rows leave between the blocks."""
        parts = blocks(self.model)
        with ExitStack() as hooks:
            hooks.enter_context(parts[-1].register_forward_hook(self._after_all))
            for layer, block in enumerate(parts[1:], start=1):
                hook = self._before(layer)
                hooks.enter_context(block.register_forward_pre_hook(hook, with_kwargs=True))
            yield

    def finish(self, logits: Tensor) -> None:
        """Take the last head's logits for the rows that reached it."""
        self.logits[self.here] = logits[self.here].to(self.logits.dtype)

    def _before(self, layer: int) -> Any:
        """Return a hook that lets rows leave before the block that follows `layer`, which gets the others."""

        def hook(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            received = first_argument(args, kwargs)
            hidden = received if str(layer) not in self.heads else self._release(received, layer)
            if len(self.here) == self.rows:
                return None
            return self._select_rows((args, kwargs), received, hidden)

        return hook

    def _release(self, hidden: Tensor, layer: int) -> Tensor:
        """Let the rows leave that are sure, and return the hidden states of the others.

        Raises:
            AllRowsExited: where none does.
        """
        mask = None if self.mask is None else self.mask[self.here]
        logits = self.heads[str(layer)](hidden, mask)
        sure = uncertainty(logits, multi_label=self._multi_label) < self.threshold
        if not sure.any():
            return hidden
        gone = self.here[sure]
        self.logits[gone], self.layers[gone] = logits[sure].to(self.logits.dtype), layer
        self.here = self.here[~sure]
        if len(self.here) == 0:
            raise AllRowsExited
        return hidden[~sure]

    def _select_rows(self, value: Any, received: Tensor, hidden: Tensor) -> Any:
        """Select the rows that have not left from a block's arguments; leave everything else as it is."""
        if value is received:
            return hidden
        if isinstance(value, Tensor) and value.dim() and len(value) == self.rows:
            return value[self.here]
        if isinstance(value, (tuple, list)):
            return tuple(self._select_rows(part, received, hidden) for part in value)
        if type(value) is dict:
            return {name: self._select_rows(part, received, hidden) for name, part in value.items()}
        return value

    def _after_all(self, _block: nn.Module, _args: Any, output: Any) -> Any:
        """Put all rows back in their places, as what follows the blocks expects; rows that left are 0."""
        if len(self.here) == self.rows:
            return None
        hidden = first_output(output)
        whole = hidden.new_zeros(self.rows, *hidden.shape[1:])
        whole[self.here] = hidden
        return with_first_output(output, whole)
