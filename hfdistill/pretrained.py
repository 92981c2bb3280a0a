"""Classifiers from an id, a path or an object."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

Source = str | Path | PreTrainedModel


def load_classifier(source: Source, *, role: str = "teacher") -> PreTrainedModel:
    """A sequence classifier in float32 from a Hub id or a folder; an object is returned as it is.

    Code that comes with a model is never run (`trust_remote_code` stays off).

    Args:
        source: Hub id, path or model.
        role: how messages call it.

    Raises:
        OSError: where nothing can be loaded from `source`.
        ValueError: where the weights hold no trained classifier head.
    """
    if not isinstance(source, (str, Path)):
        return source
    model, loading = AutoModelForSequenceClassification.from_pretrained(
        str(source), dtype=torch.float32, trust_remote_code=False, output_loading_info=True
    )
    untrained = sorted(name for name in loading["missing_keys"] if "position_ids" not in name)
    if untrained:
        raise ValueError(
            f"The {role} {str(source)!r} is an encoder without a trained classifier: "
            f"{', '.join(untrained[:4])} are missing from its weights and would be random. Fine-tune it on "
            "labelled data first (recipes/sst2.py --train_teacher), or name a fine-tuned model."
        )
    return model
