"""The goal section of a page: what a student must keep of its teacher, and what it may cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hfdistill.files.plain_data import printable

METRICS = {
    "single_label": ("accuracy", "macro_f1", "agreement"),
    "multi_label": ("micro_f1", "subset_accuracy", "macro_f1", "agreement"),
    "regression": ("pearson", "spearman"),
}
"""What can be kept of a teacher, by task; the first one where a goal does not say."""
KINDS = ("layers", "neurons", "width", "bilstm", "cnn", "static")
"""Groups of candidates: cuts of the teacher by depth, by neurons and by width, and students without
attention."""

LEARNING_RATE = 1e-4
"""Of students that are cut from their teacher, where a page does not say."""
TRAINING = {
    "learning_rate": LEARNING_RATE,
    "warmup_steps": 0.1,
    "max_length": 128,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
}
"""The `training` section of a goal without a page."""


@dataclass(frozen=True)
class Goal:
    """What a student must keep of its teacher, and what it may cost at most.

    Args:
        keep: share of the teacher's metric: 0.98 or "98%".
        max_ms: milliseconds for one row, the median on this machine.
        max_mb: megabytes (1e6 bytes) of the weights' file.
        metric: what is kept: accuracy (the default for one label of several), macro_f1, micro_f1,
            subset_accuracy, pearson or spearman; agreement with the teacher needs no labels, and is the
            default without.
        choose: the rows on which students are compared, which none of them learns from: a share of the
            training rows, or the name of another split than the one that is reported.
        candidates: which kinds of students to try: layers, neurons, width, bilstm, cnn, static; default all.
        int8: also try students in 8 bits (ONNX Runtime) where they would be too large or too slow otherwise.
        texts: training texts that a cut student is fitted to before it is trained; see `hfdistill.Refit`.
    """

    keep: float | str = 0.98
    max_ms: float | None = None
    max_mb: float | None = None
    metric: str | None = None
    choose: float | str = 0.2
    candidates: Sequence[str] | None = None
    int8: bool = True
    texts: int = 1000

    def __post_init__(self) -> None:
        self.share  # noqa: B018 - refuses what is not a share
        for name, unit in (("max_ms", "milliseconds"), ("max_mb", "megabytes")):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}, and a student takes some {unit}. Type {name}: 10.")
        if self.max_ms is None and self.max_mb is None:
            raise ValueError(
                "there is no limit, and the teacher itself keeps everything. Type max_ms: 5 or max_mb: 30."
            )
        if not isinstance(self.choose, str) and not 0 < self.choose < 1:
            raise ValueError(f"choose is {self.choose}, and it is a share between 0 and 1. Type choose: 0.2.")
        known = {metric for metrics in METRICS.values() for metric in metrics}
        if self.metric is not None and self.metric not in known:
            raise ValueError(
                f"metric is {printable(self.metric)!r}, which is not known. "
                f"Choose from: {', '.join(sorted(known))}."
            )
        unknown = [name for name in self.candidates or () if name not in KINDS]
        if unknown or (self.candidates is not None and not self.candidates):
            wrong = f"there is no {printable(unknown[0])!r}" if unknown else "the list is empty"
            raise ValueError(f"candidates: {wrong}. Choose from: {', '.join(KINDS)}.")
        if self.texts < 10:
            raise ValueError(f"texts is {self.texts}, too few to fit weights to. Type texts: 1000.")

    @property
    def share(self) -> float:
        """What must be kept, from 0 to 1.

        Example:
            >>> Goal("98%", max_ms=5).share, Goal(0.9, max_mb=30).share
            (0.98, 0.9)
        """
        text = str(self.keep).strip()
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = float("nan")
        if not 0 < share <= 1:
            raise ValueError(
                f"keep is {printable(self.keep)}, and it is a share of the teacher's metric, above 0 and up "
                "to 1. Type 98% or 0.98."
            )
        return share

    def metric_of(self, task: str, *, labelled: bool) -> str:
        """Return the name of the metric that is compared for a task.

        Args:
            task: as `hfdistill.network.task.task_kind` names it.
            labelled: whether the rows have labels.

        Raises:
            ValueError: the task has no such metric, or the rows lack the labels that it needs.
        """
        if task not in METRICS:
            raise ValueError(
                "goal: compares answers to whole texts, and this teacher labels words. Write the student on "
                "the page, and search its values with `search:`."
            )
        choices = METRICS[task]
        if self.metric is None and not labelled and "agreement" not in choices:
            raise ValueError(
                f"The rows have no labels, and {choices[0]} needs them. Name their column (`label:` under "
                "`data:`)."
            )
        metric = self.metric or (choices[0] if labelled else "agreement")
        if metric not in choices:
            raise ValueError(
                f"metric is {metric}, which this task ({task}) does not have. "
                f"Choose from: {', '.join(choices)}."
            )
        if not labelled and metric != "agreement":
            raise ValueError(
                f"metric is {metric}, and the rows to choose on have no labels. Type metric: agreement, or "
                "name the column of labels (`label:` under `data:`)."
            )
        return metric

    def is_fast(self, ms: float | None) -> bool:
        """Return whether a time is within the limit; None where it was not measured."""
        return self.max_ms is None or (ms is not None and ms <= self.max_ms)

    def is_small(self, mb: float) -> bool:
        """Return whether a size is within the limit."""
        return self.max_mb is None or mb <= self.max_mb

    def limits(self) -> str:
        """Return the limits as people read them: "5 ms, 30 MB"."""
        parts = [(self.max_ms, "ms"), (self.max_mb, "MB")]
        return ", ".join(f"{value:g} {unit}" for value, unit in parts if value is not None)
