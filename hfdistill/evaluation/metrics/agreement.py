"""Agreement: on how many rows student and teacher give the same answer; also as a metric of `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike


def agreement(student: ArrayLike, teacher: ArrayLike) -> float:
    """Return the share of rows with equal predictions: `mean(student == teacher)`, 0 to 1.

    Distillation asks this of a student, labels or not. It is also known as fidelity (Stanton et al. 2021,
    arXiv 2106.05945).

    Args:
        student: the student's class ids (rows,), or its label sets (rows, C), which must be equal as a whole.
        teacher: the teacher's, of the same shape and in the same class order.

    Raises:
        ValueError: the shapes differ, or there are no rows.

    Example:
        >>> agreement([0, 1, 1, 0], [0, 1, 0, 0])
        0.75
    """
    ours, theirs = np.asarray(student), np.asarray(teacher)
    if ours.shape != theirs.shape:
        raise ValueError(
            f"agreement needs one prediction of each model a row, found shapes {ours.shape} (student) and "
            f"{theirs.shape} (teacher). Predict the same rows with both."
        )
    if ours.size == 0:
        raise ValueError("agreement needs rows, found none.")
    same = ours == theirs
    return float(same.reshape(len(same), -1).all(axis=1).mean())


class InMemory:
    """Keeps an `evaluate.Metric` off the shared disk cache: `class MyMetric(InMemory, evaluate.Metric)`.

    `evaluate` 0.4.6 writes every row to `~/.cache/huggingface/metrics` behind a lock: two metrics of one name
    wait about a second for each other at every `compute`. In memory nothing is written and nothing waits.
    Several processes (`num_process > 1`) can only meet on disk, so they keep evaluate's own way.

    Not a subclass of `evaluate.Metric` itself: `evaluate.load("file.py")` takes the first one that it sees in
    a file.
    """

    def __init__(self, config_name: str | None = None, **options: Any) -> None:
        options["keep_in_memory"] = options.get("num_process", 1) == 1
        super().__init__(config_name, **options)  # type: ignore[call-arg]

    def _build_data_dir(self) -> str:
        if self.keep_in_memory:  # type: ignore[attr-defined]
            return str(Path(self._data_dir_root))  # type: ignore[attr-defined]
        return super()._build_data_dir()  # type: ignore[misc]


class Agreement(InMemory, evaluate.Metric):
    """The metric `agreement`: predictions are the student's class ids, references the teacher's.

    It has accuracy's features, so both combine: `evaluate.combine([Agreement(), my_accuracy])`. It needs
    neither the Hub nor the disk (see `InMemory`).

    Example:
        >>> Agreement().compute(predictions=[0, 1, 1, 0], references=[0, 1, 0, 0])
        {'agreement': 0.75}
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of rows where student and teacher predict the same class.",
            citation="Stanton et al. 2021, Does Knowledge Distillation Really Work? arXiv 2106.05945",
            inputs_description="predictions: class ids of the student; references: class ids of the teacher",
            features=datasets.Features(
                {"predictions": datasets.Value("int32"), "references": datasets.Value("int32")}
            ),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"agreement": agreement(predictions, references)}
