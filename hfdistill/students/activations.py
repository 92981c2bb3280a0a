"""Values inside a network at given places, from a forward pass that ends where the last one is read."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hfdistill.network.architectures import ModelSpec, blocks
from hfdistill.network.block_calls import computing_by, first_argument, first_output
from hfdistill.network.inputs import accepted_inputs

Batch = Mapping[str, Tensor]


@dataclass(frozen=True, order=True)
class Place:
    """The first argument or the first output of a module.

    Args:
        module: its dotted name in the model.
        side: which of the two is read, at the first call of the module in a forward pass.
    """

    module: str
    side: Literal["input", "output"]


class _Finished(Exception):  # noqa: N818
    """Every place is read, and nothing needs the rest of the forward pass."""


class Reader:
    """Reads a model batch by batch, block after block, and computes no block twice where memory allows.

    The output of the last block that all later reads lie behind is held for each batch; the blocks up to it
    are then skipped. A batch for which there is no room runs from its start each time.

    Args:
        model: in evaluation mode.
        room: bytes that may be held.
    """

    def __init__(self, model: Any, *, room: int) -> None:
        self.model, self.blocks, self.room = model, list(blocks(model)), room
        self.held: dict[Hashable, tuple[int, Any]] = {}

    def read(self, batch: Batch, key: Hashable, places: Sequence[Place], *, behind: int) -> list[Tensor]:
        """Return the values at some places behind the first `behind` blocks, which are final."""
        done, output = self.held.get(key, (0, None))
        holding: Any = nullcontext()
        if behind > done and self._fits(batch, known=key in self.held):
            last = self.blocks[behind - 1]
            holding = last.register_forward_hook(
                lambda _m, _args, out: self.held.update({key: (behind, out)})
            )
        # The blocks that are done compute nothing: all give the output that the last of them gave before.
        with holding, computing_by(dict.fromkeys(self.blocks[:done], lambda *_args, **_options: output)):
            return read(self.model, batch, places)

    def _fits(self, batch: Batch, *, known: bool) -> bool:
        """Whether there is room for one more hidden state; one that is held is replaced."""
        size = 0 if known else batch["input_ids"].numel() * ModelSpec.of(self.model).width * 4
        if size > self.room:
            return False
        self.room -= size
        return True


def forward_inputs(model: Any, batch: Batch) -> dict[str, Tensor]:
    """Return what a model's forward takes of a batch, on the model's device; labels are left out."""
    accepts = accepted_inputs(model) - {"labels"}
    return {name: value.to(model.device) for name, value in batch.items() if name in accepts}


def read(model: Any, batch: Batch, places: Sequence[Place]) -> list[Tensor]:
    """Return the values at these places, in their order, without a graph.

    Args:
        model: a model in evaluation mode.
        batch: what it reads; entries that its forward does not declare are left out.
        places: where to read.

    Raises:
        ValueError: for a place that the forward pass does not come by.
    """
    values: dict[Place, Tensor] = {}
    wanted = set(places)

    def keep(place: Place, value: Any) -> None:
        values.setdefault(place, first_output(value))
        if len(values) == len(wanted):
            raise _Finished

    try:
        with torch.no_grad(), ExitStack() as hooks:
            for place in sorted(wanted):
                hooks.enter_context(_attach(model.get_submodule(place.module), place, keep))
            model(**forward_inputs(model, batch))
    except _Finished:
        return [values[place] for place in places]
    unread = min(wanted - values.keys())
    raise ValueError(
        f"The forward of {type(model).__name__} does not call {unread.module!r}, which its layout names. "
        "Correct it with register_anatomy(..., replace=True)."
    )


def _attach(module: nn.Module, place: Place, keep: Callable[[Place, Any], None]) -> Any:
    """Return the handle of the hook that reads one place."""
    if place.side == "output":
        return module.register_forward_hook(lambda _module, _args, output: keep(place, output))

    def before(_module: nn.Module, args: Any, kwargs: Any) -> None:
        keep(place, first_argument(args, kwargs))

    return module.register_forward_pre_hook(before, with_kwargs=True)
