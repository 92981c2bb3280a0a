"""The facts about a run that must not change between a checkpoint and the run that goes on from it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainingArguments

from hfdistill.data import FreshCopies
from hfdistill.trainer.arguments import option
from hfdistill.trainer.theseus import Theseus

_SHAPE = ("model_type", "num_hidden_layers", "hidden_size", "num_labels", "shrunk_from")


def facts_of_run(
    args: TrainingArguments, student: nn.Module, train: Any, callbacks: Iterable[TrainerCallback]
) -> dict[str, Any]:
    """Return what decides the numbers of a run, as plain data; its length may grow."""
    config = getattr(student, "config", None)
    drawn = [part for part in (train, *callbacks) if isinstance(part, (FreshCopies, Theseus))]
    return {
        "student": {name: getattr(config, name, None) for name in _SHAPE},
        "rows": len(train) if hasattr(train, "__len__") else None,
        "drawn": {type(part).__name__: part.fingerprint() for part in drawn},
        "precision": next((name for name in ("bf16", "fp16") if getattr(args, name)), "float32"),
        **{name: option(args, name) for name in ("mixup", "freeze_embeddings")},
        **{name: getattr(args, name) for name in ("seed", "data_seed", "learning_rate")},
    }
