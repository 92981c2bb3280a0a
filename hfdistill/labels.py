"""Task kind and label spaces."""

from __future__ import annotations

from typing import Any, Literal

TaskKind = Literal["single_label", "multi_label", "regression"]

_KINDS: dict[str, TaskKind] = {
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}


def task_kind(config: Any) -> TaskKind:
    """What the classifier's outputs mean: `config.problem_type` where set, regression for one output, else one label of C."""
    problem_type = getattr(config, "problem_type", None)
    if problem_type is not None:
        return _KINDS[problem_type]
    return "regression" if config.num_labels == 1 else "single_label"
