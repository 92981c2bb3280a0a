"""A network's fingerprint tells it from every other one: the sha256 over its config and its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


def fingerprint_of(model: nn.Module, *, config: Any = None, settings: Mapping[str, Any] | None = None) -> str:
    """Return the sha256 over the config and the weights of any network.

    A config or single `settings` count in place of the model's own.
    """
    digest, config = hashlib.sha256(), getattr(model, "config", None) if config is None else config
    if config is not None:
        plain = config.to_dict() if hasattr(config, "to_dict") else vars(config)
        own = {name: value for name, value in plain.items() if name[0] != "_"}
        own.pop("transformers_version", None)  # who wrote the file, not what the model says
        if isinstance(model, PreTrainedModel):  # as `save_pretrained` will write them
            own["architectures"] = [type(model).__name__]
            own["dtype"] = own.get("dtype") or str(model.dtype).removeprefix("torch.")
        own |= {name: value for name, value in (settings or {}).items() if name in own}
        digest.update(json.dumps(own, sort_keys=True, default=str).encode())
    add_weights(digest, model)
    return digest.hexdigest()


def add_weights(digest: Any, model: nn.Module) -> None:
    """Add names, dtypes, shapes and values of all weights and buffers of a network to a sha256."""
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
