"""Whether evaluation gives the metric that chooses the best checkpoint, asked before the first step."""

from __future__ import annotations

from typing import Any

_ALWAYS = ("loss", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "epoch")
_KNOWN = ("transformers", "hfdistill")


def check_best_metric(trainer: Any) -> None:
    """Refuse a `metric_for_best_model` that no evaluation will give; Trainer finds out after the first one.

    What a `compute_metrics` gives is not known before it is asked, so nothing is refused where there is one,
    or where a subclass or a callback may add metrics of its own.

    Raises:
        ValueError: with the names that there are.
    """
    args, sets = trainer.args, trainer.eval_dataset
    if args.metric_for_best_model is None or args.eval_strategy == "no" or sets is None:
        return
    methods = [getattr(type(trainer), name) for name in ("evaluate", "evaluation_loop")]
    methods += [type(one).on_evaluate for one in trainer.callback_handler.callbacks]
    are_known = all(method.__module__.partition(".")[0] in _KNOWN for method in methods)
    if trainer.compute_metrics is not None or not are_known:
        return
    prefixes = [f"{name}_" for name in sets] if isinstance(sets, dict) else [""]
    known = [prefix + name for name in _ALWAYS for prefix in prefixes]
    if args.metric_for_best_model.removeprefix("eval_") not in [*known, *_ALWAYS[1:]]:
        raise ValueError(
            f"metric_for_best_model={args.metric_for_best_model!r} is none of what evaluation gives without "
            f"compute_metrics. Type metric_for_best_model={known[0]!r}, or give compute_metrics=function, "
            "which returns it."
        )
