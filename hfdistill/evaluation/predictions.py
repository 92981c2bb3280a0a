"""Lets models answer rows: without dropout, in the data's order and one order of classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hfdistill.evaluation.metrics.scores import Array
from hfdistill.evaluation.models import LoadedModel
from hfdistill.evaluation.report import Speed
from hfdistill.evaluation.speed import SpeedPlan, compare_speeds
from hfdistill.files.progress import Progress
from hfdistill.network import block_calls
from hfdistill.network.task import task_kind, word_labels, words
from hfdistill.network.trace import Batch, logits_of

BATCH_SIZE = 32


def evaluating(models: Mapping[str, LoadedModel]) -> AbstractContextManager[None]:
    """While open, dropout is off in these models; see `hfdistill.network.block_calls.evaluating`."""
    return block_calls.evaluating(*(loaded.model for loaded in models.values()))


def by_length(loaded: LoadedModel) -> list[list[int]]:
    """Return row numbers in batches of BATCH_SIZE, the longest first, so that little is padded."""
    lengths = list(map(len, loaded.rows["input_ids"]))
    order = sorted(range(len(loaded)), key=lambda row: -lengths[row])
    return [order[start : start + BATCH_SIZE] for start in range(0, len(order), BATCH_SIZE)]


def outputs(loaded: LoadedModel, batches: Sequence[Sequence[int]]) -> Iterator[tuple[Batch, Any]]:
    """Yield each batch of rows, and what the model gives for it; see `evaluating`."""
    work, total = f"predictions of the {loaded.role}", sum(map(len, batches))
    with torch.inference_mode(), Progress(work, total=total) as progress:
        for rows in batches:
            batch = loaded.collate(rows)
            yield batch, loaded.model(**loaded.inputs.select(batch))
            progress.update(len(rows))


def predict(loaded: LoadedModel, batches: Sequence[Sequence[int]] | None = None) -> Array:
    """Return logits in the data's order and the first model's class order: (rows, C), of words (words, C).

    Args:
        loaded: the model and its rows.
        batches: row numbers, each once; None for `by_length`.
    """
    batches = by_length(loaded) if batches is None else batches
    of_words = task_kind(loaded.config) == "token"
    parts: list[Tensor] = []
    for batch, output in outputs(loaded, batches):
        logits = logits_of(output).float()
        parts += _of_words(logits, batch) if of_words else logits[:, None].cpu()
    places = np.argsort([row for rows in batches for row in rows])
    whole = torch.cat([parts[place] for place in places]).numpy()  # (1, C) each, or (words, C)
    return np.asarray(whole if loaded.columns is None else whole[:, loaded.columns])


def checked(logits: Array, loaded: LoadedModel) -> Array:
    """Return the logits, or raise an error where they are not finite."""
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(bad):
        more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
        unit = "words" if task_kind(loaded.config) == "token" else "rows"
        raise ValueError(
            f"The {loaded.role}'s logits are not finite on {unit} {bad[:10].tolist()}{more}. Its weights "
            f"are damaged or {loaded.model.dtype} is too narrow: load it in float32 and look at its training "
            "loss."
        )
    return logits


def _of_words(logits: Tensor, batch: Batch) -> list[Tensor]:
    """Return the logits of each row's words, (words, C)."""
    mask = batch["attention_mask"]
    where, _ = words(word_labels(batch.get("labels", torch.full_like(mask, -100)), mask))
    return [row[there].cpu() for row, there in zip(logits, where, strict=True)]


def speeds(models: Mapping[str, LoadedModel], plan: SpeedPlan | None) -> dict[str, Speed]:
    """Return the speeds of models on their rows, by role; none without a plan.

    A teacher whose answers are looked up is not timed.
    """
    networks = {role: each.model for role, each in models.items() if getattr(each.model, "is_timed", True)}
    if plan is None or not networks:
        return {}
    rows = len(next(iter(models.values())))
    return compare_speeds(networks, lambda role, some: models[role].arguments(some), rows=rows, plan=plan)
