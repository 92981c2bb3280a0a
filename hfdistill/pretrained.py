"""Classifiers from an id, a path or an object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from hfdistill.hub import reaching

Source: TypeAlias = str | Path | PreTrainedModel


def load_classifier(
    source: Source, *, new_head: Sequence[str] | None = None, role: str = "teacher"
) -> PreTrainedModel:
    """A sequence classifier in float32 from a Hub id or a folder; an object is returned as it is.

    Code that comes with a model is never run (`trust_remote_code` stays off).

    Args:
        source: Hub id, path or model.
        new_head: class names; the classifier of these classes is then made afresh, to be fine-tuned.
        role: how messages call it.

    Raises:
        HubUnreachable: where the Hub gives no answer.
        OSError: where there is no such model.
        ValueError: where the weights hold no trained classifier head, and no new one is asked for.
    """
    if not isinstance(source, (str, Path)):
        return source
    options = {}
    if new_head is not None:
        options = {"id2label": dict(enumerate(new_head)), "label2id": {n: i for i, n in enumerate(new_head)}}
    with reaching(str(source)):
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            str(source),
            dtype=torch.float32,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=new_head is not None,
            **options,
        )
    untrained = sorted(name for name in loading["missing_keys"] if "position_ids" not in name)
    if untrained and new_head is None:
        raise ValueError(
            f"The {role} {str(source)!r} is an encoder without a trained classifier: "
            f"{', '.join(untrained[:4])} are missing from its weights and would be random. Fine-tune it on "
            "labelled data first (recipes/sst2.py --train_teacher), or name a fine-tuned model."
        )
    return model
