"""A run in a few lines, for a notebook or a log, and as the facts that a run which goes on has to share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainingArguments

from hfdistill.data import FreshCopies
from hfdistill.objectives import Blend
from hfdistill.teachers import Teacher
from hfdistill.trainer.arguments import option
from hfdistill.trainer.theseus import Theseus


def described(
    student: nn.Module, teacher: Teacher | None, objective: Blend, train: Any, evaluation: Any
) -> str:
    """Return what a trainer's `repr` shows: both models, the objective, and the rows."""
    lines = [
        f"student: {_model(student)}",
        f"teacher: {None if teacher is None else _teacher(teacher)}",
        f"objective: {objective}",
        f"train_dataset: {_rows(train)}",
        f"eval_dataset: {_rows(evaluation)}",
    ]
    return "\n  ".join(["DistillationTrainer:", *lines])


def _model(model: nn.Module) -> str:
    layers = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    size = sum(parameter.numel() for parameter in model.parameters())
    return f"{type(model).__name__}, {f'{layers} layers, ' if layers else ''}{size:,} parameters"


def _teacher(teacher: Teacher) -> str:
    models = teacher.embedders()
    return f"{type(teacher).__name__}{f' ({_model(models[0])})' if len(models) == 1 else ''}"


def _rows(data: Any) -> str:
    if isinstance(data, dict):
        return ", ".join(f"{name}: {_rows(part)}" for name, part in data.items())
    if data is None:
        return "None"
    return f"{len(data):,} rows" if hasattr(data, "__len__") else f"{type(data).__name__}, length not known"


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
        **{name: option(args, name) for name in ("mixup", "freeze_embeddings", "student_dropout")},
        **{name: getattr(args, name) for name in ("seed", "data_seed", "learning_rate")},
    }
