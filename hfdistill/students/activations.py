"""Values inside a network at given places, from a forward pass that ends where the last one is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hfdistill.network.trace import accepted_inputs

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


def read(model: Any, batch: Batch, places: Sequence[Place]) -> list[Tensor]:
    """The values at these places, in their order, without a graph.

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
        values.setdefault(place, value if isinstance(value, Tensor) else value[0])
        if len(values) == len(wanted):
            raise _Finished

    hooks = [_attach(model.get_submodule(place.module), place, keep) for place in sorted(wanted)]
    accepts = accepted_inputs(model) - {"labels"}
    inputs = {name: value.to(model.device) for name, value in batch.items() if name in accepts}
    try:
        with torch.no_grad():
            model(**inputs)
    except _Finished:
        return [values[place] for place in places]
    finally:
        for hook in hooks:
            hook.remove()
    unread = min(wanted - values.keys())
    raise ValueError(
        f"The forward of {type(model).__name__} does not call {unread.module!r}, which its layout names. "
        "Correct it with register_anatomy(..., replace=True)."
    )


def _attach(module: nn.Module, place: Place, keep: Callable[[Place, Any], None]) -> Any:
    """The handle of the hook that reads one place."""
    if place.side == "output":
        return module.register_forward_hook(lambda _module, _args, output: keep(place, output))

    def before(_module: nn.Module, args: Any, kwargs: Any) -> None:
        keep(place, args[0] if args else next(iter(kwargs.values())))

    return module.register_forward_pre_hook(before, with_kwargs=True)
