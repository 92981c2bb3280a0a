"""`guarded` checks the labels that a user's data or collator makes, on the CPU as batches are collated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hfdistill.data.label_checks import check_labels
from hfdistill.files.plain_data import as_python
from hfdistill.network import task as tasks

_ROWS = 100_000
"""Rows that are looked at to find the one whose label is wrong."""


class LabelGuard:
    """Collates, and refuses labels that are not the student's before a loss reads them.

    On a GPU such a label ends the process with an assertion of CUDA that names no row.
    """

    def __init__(
        self, collate: Callable[[Any], Any], data: Any, *, name: str, config: Any, split: str
    ) -> None:
        self.collate, self.data, self.name, self.config, self.split = collate, data, name, config, split

    def __call__(self, rows: Any) -> Any:
        """Return the batch."""
        batch = self.collate(rows)
        labels = batch.get(self.name) if hasattr(batch, "get") else None
        if isinstance(labels, Tensor) and not _fit(labels, self.config):
            self._refuse(labels)
        return batch

    def _refuse(self, labels: Tensor) -> None:
        """Raise the error of the first wrong row of the data, or else of the batch."""
        blank = tasks.unlabelled(1, self.config.num_labels, tasks.task_kind(self.config))[0].tolist()
        for number in range(min(_ROWS, len(self.data)) if hasattr(self.data, "__len__") else 0):
            row = self.data[number]
            known = row if isinstance(row, Mapping) else {}
            label = next((known[n] for n in (self.name, "label", "label_ids") if n in known), None)
            if label is None:
                break
            if not _fit(torch.as_tensor(label)[None], self.config):
                check_labels([*[blank] * number, as_python(label)], self.config, split=self.split)
        check_labels(labels.tolist(), self.config, split=f"a batch of {self.split}")


def guarded(loader: Any, data: Any, *, name: str, config: Any, split: str) -> Any:
    """Return the loader, with its labels checked as batches are collated."""
    inner = getattr(loader, "base_dataloader", loader)  # within accelerate's
    if config is not None and not isinstance(inner.collate_fn, LabelGuard):
        inner.collate_fn = LabelGuard(inner.collate_fn, data, name=name, config=config, split=split)
    return loader


def _fit(labels: Tensor, config: Any) -> bool:
    """Whether the loss of the student's task can read the labels; a quick check without a loop."""
    task, classes = tasks.task_kind(config), getattr(config, "num_labels", 2)
    if task in ("single_label", "regression") and labels.numel() != len(labels):
        return False
    if task == "regression":
        return not bool(torch.isinf(labels).any()) if labels.is_floating_point() else True
    if task == "multi_label":
        return bool(((labels >= 0) & (labels <= 1) | (labels == -100) | labels.isnan()).all())
    known = (labels != -100) & (labels != tasks.UNKNOWN) if task == "token" else labels != -100
    return bool((~known | (labels >= 0) & (labels < classes)).all())
