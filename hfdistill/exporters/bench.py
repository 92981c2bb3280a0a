"""Measures every format of a student on the same rows: what it answers, how well, how fast."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from hfdistill.evaluation.metrics.gold_labels import gold
from hfdistill.evaluation.metrics.scores import Array, fidelity, pearson, scores
from hfdistill.evaluation.models import Contender, LoadedModel, load_models
from hfdistill.evaluation.predictions import evaluating, outputs, predict, speeds
from hfdistill.evaluation.report import Speed
from hfdistill.evaluation.speed import SpeedPlan, environment, size_mb
from hfdistill.exporters import onnx, openvino
from hfdistill.exporters.onnx import OnnxModel
from hfdistill.exporters.openvino import OpenVinoModel
from hfdistill.exporters.report import Exits, ExportReport, Format, Mixed
from hfdistill.exporters.stages import PATTERNS, StagedModel, heads_of
from hfdistill.network.architectures import ModelSpec, longest_input
from hfdistill.network.inputs import accepted_inputs
from hfdistill.network.task import task_kind

METRICS = {"single_label": "accuracy", "multi_label": "subset_accuracy", "regression": "pearson"}
MADE_UP_LENGTHS = (3, 8, 17, 33, 64)
FILES = {
    "onnx": "model.onnx",
    "int8": "model_int8.onnx",
    "openvino": "openvino_model.xml",
    "openvino_int8": "openvino_model_int8.xml",
}
"""Names of the files of the formats that are no PyTorch models."""


Runtime = OnnxModel | OpenVinoModel | StagedModel


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
        self, models: Mapping[str, Contender | Runtime], data: Dataset | None, *, max_length: int
    ) -> None:
        student: Any = models["pytorch"].model
        self.real = data is not None
        self.task = task_kind(student.config)
        rows = Dataset.from_dict(made_up_rows(student.config)) if data is None else data
        self.models, self.data = _loaded(models, rows, max_length)
        self.count = len(rows)
        self.mixed: dict[str, Mixed] = {}
        self.batches = list(of_many_sizes(self.count))
        self.labels, self.known = gold(self.data, self.models["pytorch"].config, {})
        self.logits: dict[str, Array] = {}
        self.heads: dict[str, Array] = {}  # of a student with exits: the logits of all heads side by side
        self.layers: dict[str, Array] = {}  # and where each row leaves
        with evaluating(self.models):
            for name in self.models:
                self._answer(name)
        self.largest = float(np.abs(self.logits["pytorch"]).max())

    def replace(self, name: str, model: Runtime) -> None:
        """Replace the file of a format, and let it answer the rows."""
        self.models[name] = as_onnx(self.models["pytorch"], name, model)
        self._answer(name)

    def _answer(self, name: str) -> None:
        """Let a format answer the rows; a student with exits also by all of its heads.

        The teacher is not an exported format, so it reads rows of similar length together.
        """
        loaded = self.models[name]
        self.logits[name] = predict(loaded, None if name == "teacher" else self.batches)
        heads = heads_of(loaded.model)
        if heads is loaded.model:
            return
        self.heads[name] = predict(replace(loaded, model=_Heads(heads)), self.batches)
        self.layers[name] = np.concatenate(
            [output["exit_layers"].numpy() for _, output in outputs(loaded, self.batches)]
        )

    def drop(self, name: str) -> float | None:
        """Return the points that a format loses to the PyTorch student; of agreement without labels.

        None where that student gives all rows one number, which correlates with nothing. A format that alone
        does so has lost all.
        """
        if self._closeness("pytorch", "pytorch") is None:
            return None
        own, plain = self._quality(name), self._quality("pytorch")
        if own is None or plain is None:
            own, plain = self._closeness(name, "pytorch") or 0.0, 1.0
        return round(100 * (plain - own), 4)

    def report(self, staged: Path, *, max_drop: float, speed: bool) -> ExportReport:
        """Return everything measured; `staged` holds the files."""
        with evaluating(self.models):
            times = speeds(self.models, SpeedPlan() if speed and self.real else None)
        engine = openvino.PACKAGES if "openvino" in self.models else onnx.PACKAGES
        return ExportReport(
            task=self.task,
            metric=METRICS[self.task],
            rows=self.count if self.real else 0,
            labelled_rows=int(self.known.sum()),
            max_drop=max_drop,
            formats=tuple(self._format(name, staged, times.get(name)) for name in self.models),
            versions={name: version(name) for name in engine},
            environment=environment(torch.device("cpu")),
        )

    def _format(self, name: str, staged: Path, speed: Speed | None) -> Format:
        file = (PATTERNS if "pytorch" in self.layers else FILES).get(name)
        other = name not in ("teacher", "pytorch")
        mb = files_mb(staged.glob(file)) if file else size_mb(self.models[name].model)
        answers = self.heads or self.logits
        difference = np.abs(answers[name] - answers["pytorch"]).max() if other else None
        beside = name != "teacher" and "teacher" in self.models
        return Format(
            name=name,
            file=file,
            size_mb=round(mb, 4),
            quality=self._quality(name),
            drop=self.drop(name) if other else None,
            max_difference=None if difference is None else float(difference),
            agreement=self._closeness(name, "pytorch") if other else None,
            teacher_agreement=self._closeness(name, "teacher") if beside else None,
            speed=speed,
            mixed=self.mixed.get(name),
            exits=self._exits(name),
        )

    def _exits(self, name: str) -> Exits | None:
        """Return where the rows leave."""
        if name not in self.layers:
            return None
        student: Any = self.models["pytorch"].model
        layers = self.layers[name]
        return Exits(
            threshold=student.exit_threshold,
            depth=ModelSpec.of(student).depth,
            mean_layers=round(float(layers.mean()), 4),
            agreement=float((layers == self.layers["pytorch"]).mean()),
        )

    def _closeness(self, name: str, other: str) -> float | None:
        """Return the share of rows with the same answer; for regression the correlation."""
        a, b = self.logits[name], self.logits[other]
        if self.task == "regression":
            return pearson(a[:, 0].astype(np.float64), b[:, 0].astype(np.float64))
        return fidelity(self.task, a, b)["agreement"]

    def _quality(self, name: str) -> float | None:
        if not self.known.any():
            return None
        return scores(self.task, self.logits[name][self.known], self.labels[self.known])[METRICS[self.task]]


class _Heads(nn.Module):
    """A function of a batch as a model."""

    device = torch.device("cpu")

    def __init__(self, function: Callable[..., dict[str, torch.Tensor]]) -> None:
        super().__init__()
        self.function = function

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.function(**inputs)


def files_mb(paths: Iterable[Path]) -> float:
    """Return the megabytes of the files of an exported network, with the weights that lie beside them."""
    files = [file for path in paths for file in (path, path.with_suffix(".bin")) if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def _loaded(
    models: Mapping[str, Contender | Runtime], data: Dataset, max_length: int
) -> tuple[dict[str, LoadedModel], Dataset]:
    """Return the formats with their rows; an ONNX file reads those of the network that it was made of."""
    networks = {n: models[n] for n in ("pytorch", "teacher") if isinstance(models.get(n), Contender)}
    loaded, data = load_models(networks, data, None, max_length)
    network = loaded["pytorch"]
    for name, model in models.items():
        if isinstance(model, Runtime):
            loaded[name] = as_onnx(network, name, model)
    return {name: loaded[name] for name in models}, data


def as_onnx(network: LoadedModel, name: str, model: Runtime) -> LoadedModel:
    """Return an ONNX file in the place of the network that it was made of, with the same rows."""
    names = network.inputs.names & (accepted_inputs(model) - {"position_ids"})
    inputs = replace(network.inputs, names=names)
    return replace(network, role=name, name=name, model=model, inputs=inputs)
