"""Loads the network that a student is cut from, and fills a smaller one with its weights."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from hfdistill.network.architectures import unwrapped
from hfdistill.network.divided import make_whole, whole_models
from hfdistill.network.loading import auto_class, loading_whole


def network(source: Any) -> Any:
    """Return the network to cut; a PEFT adapter is merged into a copy of it.

    Raises:
        TypeError: for what is neither a model nor a name.
        ValueError: for an adapter that cannot be merged, or a model with exits.
    """
    model = _loaded(source)
    refuse_exits(model)
    return model


def refuse_exits(model: Any) -> None:
    """Refuse a model with exits: it is a network around another one."""
    if hasattr(model.config, "classifier_config"):
        raise ValueError(
            f"A {type(model).__name__} wraps the network that is read here. Pass model.backbone, and build "
            f"the exits again with with_exits(...)."
        )


def _loaded(source: Any) -> Any:
    """Return a Transformers model."""
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        with loading_whole(name) as options:
            return auto_class(name).from_pretrained(name, dtype=torch.float32, **options)
    if isinstance(source, PreTrainedModel):
        return make_whole(source)
    if not isinstance(unwrapped(source), PreTrainedModel):
        raise TypeError(
            f"A student is cut from a Transformers model, its id or its path, found {type(source).__name__}. "
            f"Pass the PreTrainedModel itself, for example `model.module` of a parallel wrapper."
        )
    if not hasattr(getattr(source, "base_model", None), "merge_and_unload"):
        raise ValueError(
            f"Found a {type(source).__name__} whose adapter cannot be merged into the weights, so there is "
            f"no plain network to cut. Cut the model it wraps, `teacher.get_base_model()`."
        )
    return copy.deepcopy(source).merge_and_unload()


def empty_like(model: Any, config: Any, *, dtype: torch.dtype) -> Any:
    """Build a model of the same class from another config; its weights are still to be filled in."""
    with whole_models(), no_init_weights():
        student = type(model)._from_config(config, dtype=dtype)
    student.tie_weights()
    return student


def load_weights(student: Any, state: Mapping[str, Tensor]) -> None:
    """Copy the weights in; each must have its place and each place its weight.

    Raises:
        ValueError: where they do not fit.
    """
    try:
        student.load_state_dict(state, strict=True)
    except RuntimeError as mismatch:
        raise ValueError(
            f"The teacher's weights do not fit a {type(student).__name__} built from its config, as happens "
            f"when it is quantised, pruned or carries an adapter ({mismatch}). Merge the adapter or load the "
            f"model unquantised, and cut that."
        ) from mismatch
