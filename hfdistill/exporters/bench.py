"""Measures every format of a student on the same rows: what it answers, how well, how fast."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from hfdistill.evaluation.metrics.gold_labels import gold
from hfdistill.evaluation.metrics.scores import Array, fidelity, pearson, scores
from hfdistill.evaluation.models import Contender, LoadedModel, load_models
from hfdistill.evaluation.predictions import evaluating, predict, speeds
from hfdistill.evaluation.report import Speed
from hfdistill.evaluation.speed import SpeedPlan, environment, size_mb
from hfdistill.exporters.onnx import PACKAGES, OnnxModel
from hfdistill.exporters.report import ExportReport, Format
from hfdistill.network.architectures import longest_input
from hfdistill.network.inputs import accepted_inputs
from hfdistill.network.task import task_kind

METRICS = {"single_label": "accuracy", "multi_label": "subset_accuracy", "regression": "pearson"}
MADE_UP_LENGTHS = (3, 8, 17, 33, 64)
FILES = {"onnx": "model.onnx", "int8": "model_int8.onnx"}
"""Names of the files of the formats that are no PyTorch models."""


def made_up_rows(config: Any) -> dict[str, list[list[int]]]:
    """Return 100 rows of random token ids at five lengths, for where there are no real ones."""
    draw = torch.Generator().manual_seed(0)
    room = longest_input(config) or max(MADE_UP_LENGTHS)
    lengths = [min(MADE_UP_LENGTHS[i % 5], room - 4) for i in range(100)]
    return {
        "input_ids": [torch.randint(1, config.vocab_size, (n,), generator=draw).tolist() for n in lengths]
    }


def of_many_sizes(rows: int) -> Iterator[range]:
    """Yield row numbers in batches of 1, 2, … 8, 1, 2, …"""
    start = 0
    for size in itertools.cycle(range(1, 9)):
        if start >= rows:
            return
        yield range(start, min(start + size, rows))
        start += size


class Bench:
    """Measures all formats on the same rows: "pytorch", "teacher", and ONNX files of the first."""

    def __init__(
        self, models: Mapping[str, Contender | OnnxModel], data: Dataset | None, *, max_length: int
    ) -> None:
        student: Any = models["pytorch"].model
        self.real = data is not None
        self.task = task_kind(student.config)
        rows = Dataset.from_dict(made_up_rows(student.config)) if data is None else data
        self.models, self.data = _loaded(models, rows, max_length)
        self.count = len(rows)
        batches = list(of_many_sizes(self.count))
        with evaluating(self.models):
            self.logits = {name: predict(loaded, batches) for name, loaded in self.models.items()}
        self.largest = float(np.abs(self.logits["pytorch"]).max())

    def report(self, staged: Path, *, max_drop: float, speed: bool) -> ExportReport:
        """Return everything measured; `staged` holds the files."""
        labels, known = gold(self.data, self.models["pytorch"].config, {})
        with evaluating(self.models):
            times = speeds(self.models, SpeedPlan() if speed and self.real else None)
        qualities = {name: self._quality(name, labels, known) for name in self.models}
        return ExportReport(
            task=self.task,
            metric=METRICS[self.task],
            rows=self.count if self.real else 0,
            labelled_rows=int(known.sum()),
            max_drop=max_drop,
            formats=tuple(self._format(name, staged, qualities, times.get(name)) for name in self.models),
            versions={name: version(name) for name in PACKAGES},
            environment=environment(torch.device("cpu")),
        )

    def _format(
        self, name: str, staged: Path, qualities: Mapping[str, float | None], speed: Speed | None
    ) -> Format:
        file = FILES.get(name)
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
            size_mb=round(
                (staged / file).stat().st_size / 1e6 if file else size_mb(self.models[name].model), 4
            ),
            quality=own,
            drop=None if drop is None else round(drop, 4),
            max_difference=None if difference is None else float(difference),
            agreement=close,
            teacher_agreement=self._closeness(name, "teacher") if beside else None,
            speed=speed,
        )

    def _closeness(self, name: str, other: str) -> float | None:
        """Return the share of rows with the same answer; for regression the correlation."""
        a, b = self.logits[name], self.logits[other]
        if self.task == "regression":
            return pearson(a[:, 0].astype(np.float64), b[:, 0].astype(np.float64))
        return fidelity(self.task, a, b)["agreement"]

    def _quality(self, name: str, labels: Array, known: Array) -> float | None:
        if not known.any():
            return None
        return scores(self.task, self.logits[name][known], labels[known])[METRICS[self.task]]


def _loaded(
    models: Mapping[str, Contender | OnnxModel], data: Dataset, max_length: int
) -> tuple[dict[str, LoadedModel], Dataset]:
    """Return the formats with their rows; an ONNX file reads those of the network that it was made of."""
    networks = {n: models[n] for n in ("pytorch", "teacher") if isinstance(models.get(n), Contender)}
    loaded, data = load_models(networks, data, None, max_length)
    network = loaded["pytorch"]
    for name, model in models.items():
        if isinstance(model, OnnxModel):
            loaded[name] = as_onnx(network, name, model)
    return {name: loaded[name] for name in models}, data


def as_onnx(network: LoadedModel, name: str, model: OnnxModel) -> LoadedModel:
    """Return an ONNX file in the place of the network that it was made of, with the same rows.

    Args:
        network: in PyTorch, with its rows.
        name: of the format.
        model: the file.
    """
    names = network.inputs.names & (accepted_inputs(model) - {"position_ids"})
    inputs = replace(network.inputs, names=names)
    return replace(network, role=name, name=name, model=model, inputs=inputs)
