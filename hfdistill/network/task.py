"""The task of a classifier says what its outputs are: a class a text, several, a value, or a class a word."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

TaskKind = Literal["single_label", "multi_label", "regression", "token"]
LABELS = ("label", "labels", "label_ids")
"""What the labels may be called in a batch."""

UNKNOWN = -101
"""Label of a token: its word has a label that nobody knows. The teacher teaches there; -100 is not a word."""

_KINDS: dict[str, TaskKind] = {
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}


def task_kind(config: Any) -> TaskKind:
    """Return the task of a model by its config.

    It is that of the architecture for `…ForTokenClassification`, else `config.problem_type` where set, else
    regression for one output and one label of C for several.

    Raises:
        ValueError: for a problem_type that Transformers does not know.
    """
    if _labels_tokens(getattr(config, "architectures", None) or ()):
        return "token"
    problem_type = getattr(config, "problem_type", None)
    if problem_type is None:
        return "regression" if getattr(config, "num_labels", 2) == 1 else "single_label"
    if problem_type not in _KINDS:
        raise ValueError(f"problem_type={problem_type!r} is not known. Choose one of {', '.join(_KINDS)}.")
    return _KINDS[problem_type]


def _labels_tokens(architectures: Iterable[str]) -> bool:
    return any(name.endswith("ForTokenClassification") for name in architectures)


def name_architecture(model: Any) -> Any:
    """Note in the model's config whether it labels tokens, as `save_pretrained` would; return the model."""
    config, own = getattr(model, "config", None), [type(model).__name__]
    named = getattr(config, "architectures", None) or ()
    if config is not None and _labels_tokens(named) != _labels_tokens(own):
        config.architectures = own
    return model


def name_task(config: Any) -> TaskKind:
    """Return the task, written into a config that leaves it open.

    Transformers does so at a model's first forward with labels, which distillation does not make;
    `pipeline()` reads it to choose between softmax, sigmoid and none.
    """
    task = task_kind(config)
    if config is not None and getattr(config, "problem_type", "") is None:
        config.problem_type = next((name for name, kind in _KINDS.items() if kind == task), None)
    return task


def missing(labels: Tensor) -> Tensor:
    """Return where labels are missing: -100 among class ids and multi-label targets, NaN among values."""
    if not labels.is_floating_point():
        return labels == -100
    return labels.isnan() if labels.dim() == 1 else (labels == -100) | labels.isnan()


def unlabelled(
    rows: int, classes: int, task: TaskKind, *, device: torch.device | str | None = None
) -> Tensor:
    """Make missing labels, for a batch that came without: (B,); multi-label (B, C); tokens (B, 1)."""
    shape = {"token": (rows, 1), "multi_label": (rows, classes)}.get(task, (rows,))
    fill: float = {"multi_label": -100.0, "regression": math.nan}.get(task, -100)
    return torch.full(shape, fill, device=device)


def as_targets(labels: Tensor, task: TaskKind) -> Tensor:
    """Cast labels for the task's losses: (B,) int64, (B, C) float32, (B,) float32 or (B, T) int64."""
    if task == "token":
        return labels.long()
    if task == "multi_label":
        return labels.float()
    return labels.reshape(-1).float() if task == "regression" else labels.reshape(-1).long()


def word_labels(labels: Tensor, mask: Tensor) -> Tensor:
    """Mark a row of tokens without any label as UNKNOWN wherever the attention mask is 1: (B, T).

    Args:
        labels: (B, T), or (B, 1) for a batch that came without.
        mask: (B, T).
    """
    bare = (labels == -100).all(-1, keepdim=True)
    return labels.expand(mask.shape).masked_fill(bare & mask.bool(), UNKNOWN)


def words(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return where words are, (B, T) bool, and the labels of these n words, (n,), -100 where unknown."""
    where = labels != -100
    return where, labels[where].clamp(min=-100)


def row_losses(logits: Tensor, labels: Tensor, task: TaskKind, *, smoothing: float = 0.0) -> Tensor:
    """Return each row's own task loss: cross-entropy, binary cross-entropy or squared error.

    Args:
        logits: (B, C), tokens (B, T, C); float32.
        labels: (B,), (B, C) or (B, T).
        smoothing: label smoothing of one class of several.

    Returns:
        (B, 2): the sum over the row's labels, and their number (0 for a row without).
    """
    known = ~missing(labels)
    if task in ("single_label", "token"):
        labels = labels.clamp(min=-100)
        each = F.cross_entropy(
            logits.reshape(-1, logits.shape[-1]),
            labels.flatten(),
            ignore_index=-100,
            reduction="none",
            label_smoothing=smoothing,
        )
        known, each = labels != -100, each.view(labels.shape)
        losses = each.sum(-1) if task == "token" else each
    elif task == "multi_label":
        losses = (
            F.binary_cross_entropy_with_logits(logits, labels, reduction="none").where(known, 0.0).sum(-1)
        )
    else:
        losses = (logits.reshape(-1) - labels).square().where(known, 0.0)
    return torch.stack([losses, known.reshape(len(labels), -1).sum(-1).float()], dim=-1)
