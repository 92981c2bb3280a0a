"""What each exit threshold costs and saves, measured."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from hfdistill.data.align import LABELS
from hfdistill.data.encode import encode
from hfdistill.evaluation.metrics.gold_labels import gold
from hfdistill.evaluation.speed import SpeedPlan, compare_speeds
from hfdistill.network.architectures import ModelSpec
from hfdistill.network.inputs import ModelInputs
from hfdistill.network.loading import Source, load_classifier
from hfdistill.network.trace import Batch
from hfdistill.students.early_exit import EarlyExitForSequenceClassification

BATCH_SIZE = 32


@dataclass(frozen=True)
class ExitPoint:
    """One threshold.

    Args:
        threshold: rows leave at an exit whose uncertainty is below it; None for the model without exits.
        accuracy: share of labelled rows answered rightly.
        mean_layers: blocks that a row went through, on average.
        latency_ms: one row alone, the median.
        rows_per_s: in batches.
    """

    threshold: float | None
    accuracy: float
    mean_layers: float
    latency_ms: float
    rows_per_s: float

    def __str__(self) -> str:
        """A line of a table."""
        name = "none" if self.threshold is None else f"{self.threshold:g}"
        shown = f"{100 * self.accuracy:8.2f} %{self.mean_layers:8.2f} layers{self.latency_ms:9.2f} ms"
        return f"{name:>6}{shown}{self.rows_per_s:10.1f} rows/s"


def exit_curve(
    model: Source,
    data: Dataset,
    thresholds: Sequence[float] = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8),
    *,
    tokenizer: Any = None,
    max_length: int | None = None,
    speed: SpeedPlan | None = None,
) -> list[ExitPoint]:
    """Accuracy, depth and speed of a model with exits at each threshold, beside the model without them.

    All are timed on the same rows in turns, so that whatever slows the machine slows all of them. The rows
    of a batch leave one by one: mean_layers bounds what can be saved, the times are what is saved.

    Args:
        model: made by `with_exits`; a model, or the folder it was saved in. It is left as it was.
        data: columns `text`[, `text_pair`] and `label`; rows labelled -100 are timed, not scored.
        thresholds: each above 0 and up to 1.
        tokenizer: else that of the folder.
        max_length: tokens per row; else the tokenizer's limit.
        speed: how much to time.

    Returns:
        The model without exits first (threshold None), then the thresholds in the order given; each with its
        accuracy, mean_layers, latency_ms and rows_per_s.

    Raises:
        TypeError: for a model without exits.
        ValueError: for a threshold out of range, no tokenizer, or more than one label a row.

    Example:
        >>> for point in exit_curve("out/early_exit/distilled", dev):  # doctest: +SKIP
        ...     print(point)
    """
    loaded = _loaded(model)
    if tokenizer is None and not isinstance(model, (str, Path)):
        raise ValueError("The model came without a tokenizer. Pass tokenizer=, or the folder of both.")
    tokenizer = tokenizer or AutoTokenizer.from_pretrained(str(model), trust_remote_code=False)
    models = [_view(loaded, threshold) for threshold in (None, *thresholds)]
    rows = encode(data, tokenizer, max_length=max_length)
    inputs = ModelInputs.of(loaded, tokenizer)
    columns = {name: rows[name][:] for name in (inputs.names - set(LABELS)).intersection(rows.column_names)}

    def collate(_role: str, chosen: Sequence[int]) -> Batch:
        batch = inputs.select(inputs.pad(columns, chosen))
        return {name: value.to(loaded.device) for name, value in batch.items()}

    (labels, labelled), training = _labels(data, loaded.config), loaded.training
    loaded.eval()
    found = [_answers(view, collate, rows=len(rows)) for view in models]
    timed = {str(i): view if i else loaded.backbone for i, view in enumerate(models)}
    speeds = compare_speeds(timed, collate, rows=len(rows), plan=speed or SpeedPlan())
    loaded.train(training)
    return [
        ExitPoint(
            threshold=view.exit_threshold,
            accuracy=float((answers == labels)[labelled].mean()),
            mean_layers=float(layers.mean()),
            latency_ms=speeds[role].latency_ms_p50,
            rows_per_s=speeds[role].rows_per_s,
        )
        for view, role, (answers, layers) in zip(models, timed, found, strict=True)
    ]


def _labels(data: Dataset, config: Any) -> tuple[Any, Any]:
    """The class of each row in the model's order, and which rows have one."""
    labels, labelled = gold(data, config, {})
    if not labelled.any():
        raise ValueError("exit_curve scores rows with a label, and found none. Check the label column.")
    return labels, labelled


def _loaded(model: Source) -> EarlyExitForSequenceClassification:
    """The model, or an error where it is no classifier with exits."""
    loaded = load_classifier(model, role="model")
    if not isinstance(loaded, EarlyExitForSequenceClassification):
        raise TypeError(f"A {type(loaded).__name__} has no exits. Build it with with_exits(model).")
    if loaded.config.problem_type == "multi_label_classification":
        raise ValueError("exit_curve scores one label a row; this model answers several.")
    return loaded


def _view(model: EarlyExitForSequenceClassification, threshold: float | None) -> Any:
    """The same weights under another threshold; without the autocast that accelerate adds to a forward."""
    view = copy.copy(model)
    view.__dict__.pop("forward", None)
    view.config = copy.copy(model.config)
    view.exit_threshold = threshold
    return view


def _answers(
    model: EarlyExitForSequenceClassification, collate: Callable[[str, Sequence[int]], Batch], *, rows: int
) -> tuple[Any, Any]:
    """Class and depth of each row."""
    depth = ModelSpec.of(model).depth
    answers: list[int] = []
    layers: list[int] = []
    with torch.inference_mode():
        for start in range(0, rows, BATCH_SIZE):
            output = model(**collate("", range(start, min(start + BATCH_SIZE, rows))))
            answers += output.logits.argmax(-1).tolist()
            left = output.exit_layers
            layers += [depth] * len(output.logits) if left is None else left.tolist()
    return np.array(answers), np.array(layers)
