"""Which layers lose most in 8 bits, measured one at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from hfdistill.data.encode import encode
from hfdistill.evaluation.speed import spread
from hfdistill.exporters.openvino import Arrays
from hfdistill.exporters.stages import heads_of
from hfdistill.network.inputs import ModelInputs

CALIBRATION_ROWS = 300
SENSITIVITY_ROWS = 64
"""Rows on which layers are compared; each layer takes a file of its own."""
Write = Callable[[Path, Collection[str]], Any]
"""(folder, names of the layers that stay float32) → the files as a model"""


def calibration_rows(
    data: Dataset, reads: ModelInputs, *, inputs: Sequence[str], max_length: int
) -> list[Arrays]:
    """Return texts as token ids, one row a batch, of at most CALIBRATION_ROWS rows spread over the data.

    Labels are left out before anything is read.
    """
    names = [name for name in ("text", "text_pair", *inputs) if name in data.column_names]
    rows = data.select_columns(names)
    rows = rows.select(spread(len(rows), min(CALIBRATION_ROWS, len(rows))))
    if "text" in names:
        rows = encode(rows, reads.tokenizer, max_length=max_length, token_types=reads.extra_token_types)
    columns = {name: rows[name][:] for name in rows.column_names if name in inputs}
    batches = [reads.select(reads.pad(columns, [row])) for row in range(len(rows))]
    return [{name: batch[name].numpy() for name in inputs} for batch in batches]


def by_loss(write: Write, layers: Sequence[str], plain: Any, batches: Sequence[Arrays]) -> list[str]:
    """Return layers, the one first that moves the logits most when it alone is rounded to 8 bits.

    Args:
        write: writes files in 8 bits into a folder and returns them as a model.
        layers: names of all layers that can be rounded.
        plain: the same network in float32.
        batches: what both are fed.
    """
    rows = [batches[row] for row in spread(len(batches), min(SENSITIVITY_ROWS, len(batches)))]
    right = _logits(plain, rows)
    moved: dict[str, float] = {}
    for name in layers:
        with TemporaryDirectory() as scratch:
            rounded = write(Path(scratch), [other for other in layers if other != name])
            moved[name] = float(np.square(_logits(rounded, rows) - right).mean())
    return sorted(layers, key=lambda name: -moved[name])


def _logits(model: Any, batches: Sequence[Arrays]) -> np.ndarray[Any, Any]:
    """Return the logits of all rows, (rows, C); of a student with exits those of all its heads."""
    answer = heads_of(model)
    answers = [answer(**{name: torch.from_numpy(ids) for name, ids in batch.items()}) for batch in batches]
    return np.concatenate([answer["logits"].numpy() for answer in answers])
