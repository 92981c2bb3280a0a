"""`exit_curve` measures what each exit threshold costs and saves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hfdistill.evaluation.measure import check_rows
from hfdistill.evaluation.metrics.gold_labels import gold
from hfdistill.evaluation.metrics.scores import Array
from hfdistill.evaluation.models import Contender, LoadedModel, load_models
from hfdistill.evaluation.predictions import BATCH_SIZE, evaluating, outputs, speeds
from hfdistill.evaluation.speed import SpeedPlan
from hfdistill.network.architectures import ModelSpec
from hfdistill.network.loading import Source, load_classifier, load_tokenizer
from hfdistill.students.early_exit import EarlyExitForSequenceClassification, with_threshold


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
        """Return a line of a table."""
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
    """Measure accuracy, depth and speed of a model with exits at each threshold, beside one without.

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
        TypeError: for a model without exits, and thresholds that are not a list.
        ValueError: for a threshold out of range, no tokenizer, or more than one label a row.

    Example:
        >>> for point in exit_curve("out/early_exit/distilled", dev):  # doctest: +SKIP
        ...     print(point)
    """
    if not isinstance(thresholds, Iterable):
        raise TypeError(f"thresholds={thresholds!r} is not a list. Write thresholds=[{thresholds!r}].")
    loaded = _loaded(model)
    check_rows(data, "exit_curve")
    if tokenizer is None and not isinstance(model, (str, Path)):
        raise ValueError("The model came without a tokenizer. Pass tokenizer=, or the folder of both.")
    tokenizer = tokenizer or load_tokenizer(model)
    models, data = load_models({"model": Contender(loaded, tokenizer=tokenizer)}, data, None, max_length)
    labels, labelled = gold(data, loaded.config, {})
    if not labelled.any():
        raise ValueError("exit_curve scores rows with a label, and found none. Check the label column.")
    views = {
        str(i): replace(models["model"], model=with_threshold(loaded, threshold))
        for i, threshold in enumerate((None, *thresholds))
    }
    whole = {"0": replace(models["model"], model=loaded.backbone)}
    with evaluating(views):
        predictions = {name: _predict(view) for name, view in views.items()}
        times = speeds({**views, **whole}, speed or SpeedPlan())
    return [
        ExitPoint(
            threshold=view.model.exit_threshold,
            accuracy=float((predictions[name][0] == labels)[labelled].mean()),
            mean_layers=float(predictions[name][1].mean()),
            latency_ms=times[name].latency_ms_p50,
            rows_per_s=times[name].rows_per_s,
        )
        for name, view in views.items()
    ]


def _loaded(model: Source) -> EarlyExitForSequenceClassification:
    """Load the model, or raise an error where it is not a classifier with exits."""
    loaded = load_classifier(model, role="model")
    if not isinstance(loaded, EarlyExitForSequenceClassification):
        raise TypeError(f"A {type(loaded).__name__} has no exits. Build it with with_exits(model).")
    if loaded.config.problem_type == "multi_label_classification":
        raise ValueError("exit_curve scores one label a row; this model answers several.")
    return loaded


def _predict(view: LoadedModel) -> tuple[Array, Array]:
    """Return the class and the depth of each row."""
    depth = ModelSpec.of(view.model).depth
    classes: list[int] = []
    layers: list[int] = []
    batches = [range(i, min(i + BATCH_SIZE, len(view))) for i in range(0, len(view), BATCH_SIZE)]
    for _, output in outputs(view, batches):
        classes += output.logits.argmax(-1).tolist()
        exits = output.exit_layers
        layers += [depth] * len(output.logits) if exits is None else exits.tolist()
    return np.array(classes), np.array(layers)
