"""Whether evaluation gives the metric that chooses the best checkpoint, asked before the first step."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import IterableDataset
from transformers import EvalPrediction
from transformers.trainer_pt_utils import nested_numpify

_ALWAYS = ("loss", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "epoch")


def check_best_metric(trainer: Any) -> None:
    """Refuse a `metric_for_best_model` that no evaluation will give; Trainer finds out after the first one.

    A `compute_metrics` is asked about the first batch of the evaluation rows; where it cannot answer for so
    few, nothing is refused.

    Raises:
        ValueError: with the names that there are.
    """
    args, sets = trainer.args, trainer.eval_dataset
    if args.metric_for_best_model is None or args.eval_strategy == "no" or sets is None:
        return
    wanted = args.metric_for_best_model.removeprefix("eval_")
    inner = wanted
    if isinstance(sets, dict):  # whose metrics are eval_NAME_metric
        name = max((name for name in sets if wanted.startswith(f"{name}_")), key=len, default=None)
        inner, sets = (wanted, None) if name is None else (wanted.removeprefix(f"{name}_"), sets[name])
    if inner in _ALWAYS and sets is not None:
        return
    names = {} if trainer.compute_metrics is None or sets is None else _computed(trainer, sets)
    if names is None or inner in names or f"eval_{inner}" in names:
        return
    known = [*(n.removeprefix("eval_") for n in names), "loss"]
    known = known if sets is not None else [f"{name}_loss" for name in trainer.eval_dataset]
    raise ValueError(
        f"metric_for_best_model={args.metric_for_best_model!r} is none of what evaluation gives "
        f"({', '.join(map(repr, known))}). Type metric_for_best_model={known[0]!r}, or return it from "
        "compute_metrics."
    )


def _computed(trainer: Any, data: Any) -> Any:
    """Return what `compute_metrics` gives for the first batch; None where that cannot be known so early."""
    args = trainer.args
    if args.batch_eval_metrics or isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        return None
    model, training = trainer.model, trainer.model.training
    try:
        with torch.random.fork_rng(devices=[]):
            loader = trainer.get_eval_dataloader(data)
            rows = [loader.dataset[row] for row in range(min(len(loader.dataset), args.eval_batch_size))]
            model.eval()
            _, logits, labels = trainer.prediction_step(model, loader.collate_fn(rows), False)
            if logits is not None and trainer.preprocess_logits_for_metrics is not None:
                logits = trainer.preprocess_logits_for_metrics(logits, labels)
            asked = EvalPrediction(predictions=nested_numpify(logits), label_ids=nested_numpify(labels))
            names = trainer.compute_metrics(asked)
    except Exception:  # its own evaluation will say what is wrong
        return None
    finally:
        model.train(training)
    return names if isinstance(names, dict) and names else None
