"""These facts of a page decide the weights: nobody goes on from another page's checkpoints unawares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hfdistill.evaluation.metrics.scores import scores
from hfdistill.evaluation.report import COLUMNS
from hfdistill.files.plain_data import as_read_back, read_json
from hfdistill.recipe import schema
from hfdistill.recipe.page import MAX_BYTES
from hfdistill.recipe.rows import Rows

PAGE = "page.json"
_DECIDING = ("teacher", "student", "data", "objective", "assistants", "generations", "theseus", "label_map")
_SETTINGS: tuple[str, ...] = ("adam", "optim", "lr_", "warmup", "weight_decay", "max_grad_norm", "max_length")
_SETTINGS += ("seed", "data_seed", "learning_rate", "label_smoothing", "mixup", "length_grouping")
_SETTINGS += ("freeze_embeddings", "student_dropout")


def deciding_facts(page: Mapping[str, Any], rows: Rows) -> dict[str, Any]:
    """Return what decides the weights of a page's models, as place → value; a run may grow longer."""
    sections = {name: schema.written_out(name, value) for name, value in page.items() if name in _DECIDING}
    measured = ("evaluation", "evaluation_rows")
    inside = {f"data.{n}": v for n, v in sections.pop("data").items() if n not in measured}
    inside |= {f"training.{n}": v for n, v in page["training"].items() if n.startswith(_SETTINGS)}
    facts = {n: v for n, v in {**sections, **inside}.items() if v is not None}
    facts["the training rows"] = rows.fingerprint()
    read_back: dict[str, Any] = as_read_back(facts, default=str)
    return read_back


def refuse_other_page(args: Any, facts: Mapping[str, Any]) -> None:
    """Refuse to resume from checkpoints that another page left."""
    folder = Path(args.output_dir)
    path = folder / PAGE
    goes_on = path.exists() and not args.allow_changed and any(folder.glob("*/checkpoint-*"))
    before = read_json(path, limit=10 * MAX_BYTES) if goes_on else facts
    changed = [name for name in {**before, **facts} if before.get(name) != facts.get(name)]
    if changed:
        raise ValueError(
            f"{folder} holds the checkpoints of another page ({', '.join(changed)} differ). Choose a new "
            "training.output_dir, or go on deliberately with training.allow_changed=true."
        )


def by_name(members: Any) -> tuple[list[Any], list[Any]]:
    """Return the names and the members of an ensemble as a page has them."""
    if isinstance(members, dict):
        return list(members), list(members.values())
    return list(range(len(members or ()))), list(members or ())


def task_scores(task: str) -> Callable[[Any], dict[str, float]]:
    """Return a task's `compute_metrics`: the first score that its reports show, on the labelled rows."""
    metric = "accuracy" if task == "token" else COLUMNS[task][0]

    def compute_metrics(prediction: Any) -> dict[str, float]:
        logits, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        if task == "regression":
            labels = labels.reshape(-1)
            known = np.isfinite(labels)
        else:
            known = (labels >= 0).all(axis=-1) if task == "multi_label" else labels >= 0
        if not known.any():
            return {}
        value = scores(task, logits[known], labels[known])[metric]
        return {} if value is None else {metric: float(value)}

    return compute_metrics
