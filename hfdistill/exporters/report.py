"""`ExportReport` says what an exported student is worth beside the PyTorch one: data, a table, a card."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from hfdistill.evaluation.report import (
    PERCENT,
    TITLES,
    Environment,
    Speed,
    in_columns,
    megabytes,
    show,
    times,
)
from hfdistill.files.markdown import escape, html_table, table, text_table
from hfdistill.files.plain_data import build, read_json, write_atomically

MAX_BYTES = 1_000_000
USAGE = """import json

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

folder = "FOLDER"
tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
session = onnxruntime.InferenceSession(f"{folder}/MODEL")
names = json.load(open(f"{folder}/config.json"))["id2label"]

texts = tokenizer.encode_batch([TEXTS])
columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
feed = {i.name: np.array([getattr(t, columns[i.name]) for t in texts]) for i in session.get_inputs()}
for logits in session.run(["logits"], feed)[0]:
    print(ANSWER, logits)
"""


STAGES_USAGE = """import json
from glob import glob

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

folder = "FOLDER"
tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
stages = [onnxruntime.InferenceSession(path) for path in sorted(glob(f"{folder}/MODEL"))]
config = json.load(open(f"{folder}/config.json"))
names = config["id2label"]

texts = tokenizer.encode_batch([TEXTS])
columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
feed = {i.name: np.array([getattr(t, columns[i.name]) for t in texts]) for i in stages[0].get_inputs()}
rows, answers = np.arange(len(texts)), {}
for stage in stages:
    out = dict(zip([o.name for o in stage.get_outputs()], stage.run(None, feed)))
    answers |= dict(zip(rows, out["logits"]))
    unsure = out.get("uncertainty", np.zeros(len(rows))) >= config["exit_threshold"]
    if not unsure.any():
        break
    rows, mask = rows[unsure], feed["attention_mask"][unsure]
    feed = {"hidden_states": out["next_hidden_states"][unsure], "attention_mask": mask}
for row in range(len(texts)):
    logits = answers[row]
    print(ANSWER, logits)
"""
OPENVINO_USAGE = USAGE.replace("import onnxruntime\n", "import openvino\n")
OPENVINO_USAGE = OPENVINO_USAGE.replace(
    'session = onnxruntime.InferenceSession(f"{folder}/MODEL")',
    'model = openvino.Core().compile_model(f"{folder}/MODEL", "CPU", {OPTIONS})',
)
OPENVINO_USAGE = OPENVINO_USAGE.replace("{i.name:", "{i.any_name:").replace(
    "columns[i.name]", "columns[i.any_name]"
)
OPENVINO_USAGE = OPENVINO_USAGE.replace("session.get_inputs()", "model.inputs")
OPENVINO_USAGE = OPENVINO_USAGE.replace('session.run(["logits"], feed)[0]', 'model(feed)["logits"]')
ANSWERS = {
    "single_label": "names[str(logits.argmax())]",
    "multi_label": "[names[str(i)] for i in np.flatnonzero(logits > 0)]",
    "regression": "float(logits[0])",
}
TEXTS = '"a film that warms the heart", "dull and flat"'
PAIRS = '("a film that warms the heart", "a moving film"), ("dull and flat", "never dull")'
EXACT = '"INFERENCE_PRECISION_HINT": "f32"'


@dataclass(frozen=True)
class Mixed:
    """Layers that stay float32 in a file of 8 bits which would otherwise lose too much.

    Args:
        floating: their names, the one first whose rounding moves the logits most.
        layers: how many there are in all.
        drop: points that were lost with all of them in 8 bits.
        size_mb: megabytes of the file with all of them in 8 bits.
        calibration_rows: rows on which each layer alone was rounded, to see how far the logits move.
    """

    floating: tuple[str, ...]
    layers: int
    drop: float
    size_mb: float
    calibration_rows: int


@dataclass(frozen=True)
class Exits:
    """Where the rows leave a student with exits.

    Args:
        threshold: rows leave at an exit whose uncertainty is below it.
        depth: layers of the student.
        mean_layers: blocks that a row goes through, on average.
        agreement: share of rows that leave where they leave the PyTorch student.
    """

    threshold: float
    depth: int
    mean_layers: float
    agreement: float


@dataclass(frozen=True)
class Format:
    """One way to run the student, or the teacher.

    Args:
        name: "teacher", "pytorch", "onnx", "int8", "openvino" or "openvino_int8".
        file: in the exported folder; of a student with exits the pattern of the files of its stages; None
            for a PyTorch model.
        size_mb: megabytes (1e6 bytes) of its file, or of all of them.
        quality: the report's metric on the labelled rows; None without labels.
        drop: what it lost to the PyTorch student, in points; of agreement where there are no labels.
        max_difference: largest difference of a logit from the PyTorch student's, at any head.
        agreement: share of rows whose answer is the PyTorch student's; for regression Pearson's correlation.
        teacher_agreement: the same with the teacher.
        speed: None where speed was not asked for.
        mixed: which layers stay float32 in a file of 8 bits; None where none had to.
        exits: where the rows leave; None for a model without exits.
    """

    name: str
    file: str | None
    size_mb: float
    quality: float | None
    drop: float | None
    max_difference: float | None
    agreement: float | None
    teacher_agreement: float | None
    speed: Speed | None
    mixed: Mixed | None = None
    exits: Exits | None = None


@dataclass(frozen=True)
class ExportReport:
    """Every format beside the others, on the same rows.

    Args:
        task: "single_label", "multi_label" or "regression".
        metric: what `quality` is: accuracy, subset_accuracy or pearson.
        rows: real rows that were compared; 0 where there were none.
        labelled_rows: of these.
        max_drop: points that a format could lose.
        formats: the teacher's where there is one, then the student's.
        versions: of the exporter's packages.
        environment: hardware, versions, date.
    """

    task: str
    metric: str
    rows: int
    labelled_rows: int
    max_drop: float
    formats: tuple[Format, ...]
    versions: dict[str, str]
    environment: Environment

    def of(self, name: str) -> Format:
        """Return a format by its name."""
        return next(exported for exported in self.formats if exported.name == name)

    def table(self) -> str:
        """Return a plain-text table for a terminal."""
        lines = text_table([self._header(), *map(self._cells, self.formats)])
        return "\n".join([*lines, "", *in_columns([self._measured_on()])])

    def _repr_html_(self) -> str:
        """Return the same table for a notebook."""
        return html_table([self._header(), *map(self._cells, self.formats)], [self._measured_on()])

    def card(self, name: str, *, pairs: bool = False) -> str:
        """Return the README.md of an exported folder; `pairs` tells that the student reads pairs of texts."""
        rows = [[escape(cell) for cell in self._cells(exported)] for exported in self.formats]
        best = self.formats[-1]
        openvino = best.name.startswith("openvino")
        plain = USAGE if best.exits is None else STAGES_USAGE
        usage = (OPENVINO_USAGE if openvino else plain).replace("MODEL", str(best.file))
        usage = usage.replace("FOLDER", "path/to/this/folder").replace("ANSWER", ANSWERS[self.task])
        usage = usage.replace("TEXTS", PAIRS if pairs else TEXTS)
        usage = usage.replace("OPTIONS", EXACT if best.name == "openvino" else "")
        engine, tag = ("OpenVINO", "openvino") if openvino else ("ONNX Runtime", "onnx")
        package = "openvino" if openvino else "onnxruntime"
        return (
            f"---\nlibrary_name: {tag}\npipeline_tag: text-classification\ntags: [hfdistill, {tag}]\n---\n\n"
            f"# {escape(name)}, for {engine}\n\nTokens and batches of any size; `tokenizer.json` pads "
            f"and cuts. It needs `{package}`, `tokenizers` and `numpy` alone:\n\n```python\n{usage}```\n\n"
            f"## What it is worth\n\n{table(self._header(), rows)}\n\n"
            f"{escape(self._measured_on(), limit=1000)}\n\n"
            "`export.json` has all numbers, `hfdistill.json` the sha256 of every file.\n"
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write strict, sorted JSON."""
        text = json.dumps(dataclasses.asdict(self), allow_nan=False, indent=2, sort_keys=True) + "\n"
        return write_atomically(Path(path), text)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ExportReport:
        """Read a report that `save` wrote, and check every field.

        Raises:
            ValueError: too large, no strict JSON, or a field that is missing, unknown or of another type.
        """
        return cast(ExportReport, build(cls, read_json(Path(path), limit=MAX_BYTES), "export"))

    def _header(self) -> list[str]:
        close = "correlation" if self.task == "regression" else "agreement"
        head = ["", TITLES[self.metric], "max Δlogit", close, "with teacher", "MB"]
        return [*head, "ms p50", "p95", "rows/s"]

    def _cells(self, exported: Format) -> list[str]:
        share = "pearson" if self.task == "regression" else "agreement"
        difference = "-" if exported.max_difference is None else f"{exported.max_difference:.2g}"
        return [
            exported.name,
            show(exported.quality, self.metric),
            difference,
            show(exported.agreement, share),
            show(exported.teacher_agreement, share),
            megabytes(exported.size_mb),
            *times(exported.speed),
        ]

    def _measured_on(self) -> str:
        """Return what the numbers were measured on."""
        e = self.environment
        on = (
            f"{self.rows:,} real rows, {self.labelled_rows:,} with labels"
            if self.rows
            else "made-up rows alone"
        )
        unit = "points" if self.metric in PERCENT else "hundredths"
        libraries = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        speed = next((exported.speed for exported in self.formats if exported.speed), None)
        timed = "" if speed is None else (
            f" Milliseconds: one row alone, {speed.latency_rows} rows; rows/s: batches of "
            f"{speed.batch_size}; tokenization is not timed."
        )  # fmt: skip
        exits = _leaving(self.formats)
        mixed = "".join(f" {_mixture(each, unit)}" for each in self.formats if each.mixed is not None)
        gated = self.max_drop < 100  # a search has judged the file itself, and lets any loss pass
        gate = f"; a loss over {self.max_drop:g} {unit} would have failed" if gated else ""
        return (
            f"On {on}, in batches of 1 to 8{gate}."
            f"{exits}{mixed}{timed} "
            f"{e.cpu}, {e.threads} of {e.cores} cores used, torch {e.torch}, {libraries}, {e.date[:10]}."
        )


def _leaving(formats: Sequence[Format]) -> str:
    """Return after how many layers the rows leave, by format; "" without exits."""
    exits = {each.name: each.exits for each in formats if each.exits is not None}
    if not exits:
        return ""
    first = next(iter(exits.values()))
    where = ", ".join(
        f"{each.mean_layers:.2f} as {name}"
        + ("" if name == "pytorch" else f" (the same exit on {100 * each.agreement:.1f} %)")
        for name, each in exits.items()
    )
    return (
        f" Rows leave where the uncertainty is below {first.threshold:g}, after so many of {first.depth} "
        f"layers on average: {where}."
    )


def _mixture(exported: Format, unit: str) -> str:
    """Return which layers stay float32, why, and what that costs."""
    mixed = cast(Mixed, exported.mixed)
    shown = ", ".join(mixed.floating[:6]) + (" …" if len(mixed.floating) > 6 else "")
    rows = mixed.calibration_rows
    return (
        f"In {exported.name} {len(mixed.floating)} of {mixed.layers} layers stay float32 ({shown}), those "
        f"whose rounding moves the logits of {rows} calibration rows most: all in 8 bits lost "
        f"{mixed.drop:.2f} {unit}, at {megabytes(mixed.size_mb)} MB instead of {megabytes(exported.size_mb)}."
    )
