"""The calls of a network's blocks: what they are given and give, what stands in for them, and their mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


def first_argument(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Return the first argument of a module's call, by position or by name: a block's hidden states."""
    return args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values())))


def with_hidden_states(
    args: tuple[Any, ...], kwargs: dict[str, Any], hidden: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a block's call with other hidden states, given as they were."""
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})


def first_output(output: Any) -> Tensor:
    """Return what a module gives, or the first of several outputs: a block's hidden states."""
    return output if isinstance(output, Tensor) else output[0]


def with_first_output(output: Any, hidden: Tensor) -> Any:
    """Return the output of a block with other hidden states, in the form that it had."""
    return hidden if isinstance(output, Tensor) else (hidden, *output[1:])


@contextmanager
def computing_by(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """While open, each of these modules computes by another function; its hooks run as before."""
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in forwards:
            del module.forward


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """While open, models are in evaluation mode; afterwards every module is in the mode that it was in."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
