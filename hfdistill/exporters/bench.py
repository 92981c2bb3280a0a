"""Every format of a student on the same rows: what it answers, how well, how fast."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence

from hfdistill.data.encode import encode
from hfdistill.evaluation.metrics.gold_labels import gold
from hfdistill.evaluation.metrics.scores import Array, fidelity, pearson, scores
from hfdistill.evaluation.speed import SpeedPlan, compare_speeds, environment, size_mb
from hfdistill.exporters.onnx import PACKAGES
from hfdistill.exporters.report import ExportReport, Format
from hfdistill.network.architectures import longest_input
from hfdistill.network.inputs import ModelInputs, accepted_inputs, name_padding
from hfdistill.network.label_space import match_labels, task_kind
from hfdistill.network.trace import Batch, run

METRICS = {"single_label": "accuracy", "multi_label": "subset_accuracy", "regression": "pearson"}
MADE_UP_LENGTHS = (3, 8, 17, 33, 64)


class _Rows:
    """Real rows in one tokenizer's ids, with the inputs of one model."""

    def __init__(self, data: Dataset, inputs: ModelInputs, *, max_length: int) -> None:
        if "input_ids" not in data.column_names:
            extra = inputs.extra_token_types
            data = encode(data, inputs.tokenizer, max_length=max_length, token_types=extra)
        names = (inputs.names - {"label", "labels"}).intersection(data.column_names)
        self.columns = {name: data[name][:] for name in sorted(names)}
        self.inputs = inputs

    def __len__(self) -> int:
        return len(self.columns["input_ids"])

    def batch(self, chosen: Sequence[int]) -> Batch:
        """Rows padded to the longest of them; (B, T) each."""
        return self.inputs.pad(self.columns, chosen)


class _MadeUp:
    """100 rows of random token ids at five lengths, where there are no real ones."""

    def __init__(self, config: Any) -> None:
        draw = torch.Generator().manual_seed(0)
        room = longest_input(config) or max(MADE_UP_LENGTHS)
        lengths = [min(MADE_UP_LENGTHS[i % 5], room - 4) for i in range(100)]
        self.rows = [torch.randint(1, config.vocab_size, (n,), generator=draw) for n in lengths]
        self.pad = config.pad_token_id or 0

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, chosen: Sequence[int]) -> Batch:
        """As `_Rows.batch`."""
        ids = pad_sequence([self.rows[i] for i in chosen], batch_first=True, padding_value=self.pad)
        lengths = torch.tensor([len(self.rows[i]) for i in chosen])
        return {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long()}


def _inputs(name: str, models: Mapping[str, Any], tokenizer: Any) -> ModelInputs:
    """What a format reads; an ONNX file is padded as the network that it was made of."""
    model = models[name]
    if name == "teacher":
        name_padding(model, tokenizer)
        return ModelInputs.of(model, tokenizer)
    of_network = ModelInputs.of(models["pytorch"], tokenizer)
    return replace(of_network, names=of_network.names & (accepted_inputs(model) - {"position_ids"}))


def _batches(rows: int) -> Iterator[range]:
    """Row numbers in batches of 1, 2, … 8, 1, 2, …"""
    start = 0
    for size in itertools.cycle(range(1, 9)):
        if start >= rows:
            return
        yield range(start, min(start + size, rows))
        start += size


class Bench:
    """All formats on the same rows."""

    def __init__(
        self,
        models: Mapping[str, Any],
        tokenizers: Mapping[str, Any],
        data: Dataset | None,
        *,
        max_length: int,
    ) -> None:
        self.models, self.data = models, data
        self.student = models["pytorch"]
        self.task = task_kind(self.student.config)
        self.inputs = {name: _inputs(name, models, tokenizers[name]) for name in models}
        self.rows: dict[str, _Rows | _MadeUp] = {
            name: _MadeUp(self.student.config)
            if data is None
            else _Rows(data, self.inputs[name], max_length=max_length)
            for name in models
        }
        self.count = len(self.rows["pytorch"])
        self.logits = {name: self._predict(name) for name in models}
        self.largest = float(np.abs(self.logits["pytorch"]).max())

    def _predict(self, name: str) -> Array:
        """Logits (rows, C) in the student's class order."""
        model, parts = self.models[name], []
        columns = None
        if name == "teacher":
            columns = match_labels(self.student.config, model.config)
        with torch.inference_mode():
            for chosen in _batches(self.count):
                batch = self.rows[name].batch(chosen)
                parts.append(run(model, batch, accepts=self.inputs[name]).logits.float().cpu().numpy())
        logits = np.concatenate(parts)
        return logits if columns is None else logits[:, columns]

    def report(self, staged: Path, *, max_drop: float, speed: bool) -> ExportReport:
        """Everything measured; `staged` holds the files."""
        labels, known = self._labels()
        speeds = {}
        if speed and self.data is not None:
            speeds = compare_speeds(self.models, self._batch, rows=self.count, plan=SpeedPlan())
        qualities = {name: self._quality(name, labels, known) for name in self.models}
        return ExportReport(
            task=self.task,
            metric=METRICS[self.task],
            rows=0 if self.data is None else self.count,
            labelled_rows=int(known.sum()),
            max_drop=max_drop,
            formats=tuple(self._format(name, staged, qualities, speeds.get(name)) for name in self.models),
            versions={name: version(name) for name in PACKAGES},
            environment=environment(torch.device("cpu")),
        )

    def _format(self, name: str, staged: Path, qualities: Mapping[str, float | None], speed: Any) -> Format:
        file = {"onnx": "model.onnx", "int8": "model_int8.onnx"}.get(name)
        other = name not in ("teacher", "pytorch")
        own, plain = qualities[name], qualities["pytorch"]
        close = self._closeness(name, "pytorch") if other else None
        drop = None
        if close is not None:
            drop = 100 * (1 - close if own is None or plain is None else plain - own)
        difference = np.abs(self.logits[name] - self.logits["pytorch"]).max() if other else None
        beside = name != "teacher" and "teacher" in self.models
        return Format(
            name=name,
            file=file,
            size_mb=round((staged / file).stat().st_size / 1e6 if file else size_mb(self.models[name]), 4),
            quality=own,
            drop=None if drop is None else round(drop, 4),
            max_difference=None if difference is None else float(difference),
            agreement=close,
            teacher_agreement=self._closeness(name, "teacher") if beside else None,
            speed=speed,
        )

    def _closeness(self, name: str, other: str) -> float | None:
        """Share of rows with the same answer; for regression the correlation."""
        a, b = self.logits[name], self.logits[other]
        if self.task == "regression":
            return pearson(a[:, 0].astype(np.float64), b[:, 0].astype(np.float64))
        return fidelity(self.task, a, b)["agreement"]

    def _quality(self, name: str, labels: Array, known: Array) -> float | None:
        if not known.any():
            return None
        return scores(self.task, self.logits[name][known], labels[known])[METRICS[self.task]]

    def _labels(self) -> tuple[Array, Array]:
        """Labels, and which rows have one."""
        if self.data is None or "label" not in self.data.column_names:
            return np.zeros(self.count), np.zeros(self.count, dtype=bool)
        return gold(self.data, self.student.config, {})

    def _batch(self, name: str, chosen: Sequence[int]) -> Batch:
        return self.rows[name].batch(chosen)
