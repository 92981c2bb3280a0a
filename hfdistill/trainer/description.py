"""Describes a trainer in a few lines, for a notebook or a log."""

from __future__ import annotations

from typing import Any

from torch import nn

from hfdistill.objectives import Blend
from hfdistill.teachers import Teacher


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
