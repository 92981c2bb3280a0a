"""Weights that processes divide among themselves, as FSDP2 and DeepSpeed ZeRO-3 do: read as a whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, TypeVar

from torch import Tensor, nn

Model = TypeVar("Model")


def whole(value: Any) -> Any:
    """Return a DTensor (FSDP2) as the whole tensor, for which every process has to ask; else the value."""
    full = getattr(value, "full_tensor", None)
    return value if full is None else full()


def own_part(value: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds."""
    local = getattr(value, "to_local", None)
    return value if local is None else local()


def whole_parameters(model: nn.Module) -> Iterator[Tensor]:
    """Yield a model's parameters in their order, each as a whole until the next is asked for.

    Every process has to go through all of them.
    """
    for parameter in model.parameters():
        if not _is_partitioned(parameter):
            yield whole(parameter)
            continue
        with _gathered([parameter]):
            yield parameter.data


def make_whole(model: Model) -> Model:
    """Give every process all weights of a model that was loaded under ZeRO-3, in place; return the model.

    Transformers loads every model in parts while `TrainingArguments` for ZeRO-3 are alive. A teacher is
    never handed to DeepSpeed, which alone would put the parts together for a forward, and a model that is cut
    or copied has to be there as a whole. A model that DeepSpeed trains stays as it is.
    """
    if not isinstance(model, nn.Module) or any(hasattr(part, "ds_id") for part in model.modules()):
        return model
    parts = [parameter for parameter in model.parameters() if _is_partitioned(parameter)]
    if not parts:
        return model
    with _gathered(parts):
        copies = {id(p): nn.Parameter(p.detach().clone(), requires_grad=p.requires_grad) for p in parts}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if id(parameter) in copies:
                setattr(module, name, copies[id(parameter)])
    return model


@contextlib.contextmanager
def whole_models() -> Iterator[None]:
    """While open, Transformers makes and loads models as a whole on every process, also under ZeRO-3.

    There it would divide even an empty network on "meta", for which all processes have to come together.
    """
    from transformers.integrations import deepspeed

    held = deepspeed._hf_deepspeed_config_weak_ref
    config = None if held is None else held()
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if config is not None:
            deepspeed.set_hf_deepspeed_config(config)


def _is_partitioned(parameter: Tensor) -> bool:
    """Whether ZeRO-3 holds a part of it on each process."""
    return hasattr(parameter, "ds_id")


def _gathered(parameters: list[Any]) -> Any:
    """Return a context in which ZeRO-3's parameters are whole on every process."""
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters)
