"""`Report` says what a student is worth, as plain data: JSON, or a table; cards and plots are made of it."""

from __future__ import annotations

import dataclasses
import json
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hfdistill.files.markdown import escape, html_table, text_table
from hfdistill.files.plain_data import build, printable, read_json, write_atomically

SCHEMA = 3
MAX_BYTES = 16_000_000
WIDTH = 100
"""Columns of a terminal that a table fits."""
MAX_CELLS = 400
"""Of a confusion matrix that is kept whole: 20 classes. Of more classes a tenth as many pairs are kept."""

ROLES = ("teacher", "student", "baseline")
COLUMNS = {
    "single_label": ("accuracy", "macro_f1", "ece", "agreement"),
    "multi_label": ("micro_f1", "subset_accuracy", "agreement"),
    "regression": ("pearson", "spearman", "mse", "pearson_teacher"),
    "token": ("entity_f1", "accuracy", "macro_f1", "agreement"),
}
TITLES = {
    "entity_f1": "entity F1",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "ece": "ECE",
    "nll": "NLL",
    "agreement": "agreement",
    "kl": "KL",
    "micro_f1": "micro F1",
    "subset_accuracy": "exact match",
    "label_agreement": "label agreement",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "mse": "MSE",
    "pearson_teacher": "Pearson with teacher",
    "mse_teacher": "MSE to teacher",
}
PERCENT = {"entity_f1", "accuracy", "macro_f1", "micro_f1", "subset_accuracy", "agreement", "label_agreement"}


@dataclass(frozen=True)
class Speed:
    """How fast a model answers, from token ids to logits; tokenization is not in it.

    Args:
        latency_ms_p50: median milliseconds for one row alone.
        latency_ms_p95: 95th percentile of the same.
        latency_rows: timed rows.
        rows_per_s: median rows per second in batches.
        batch_size: rows per batch.
        throughput_rows: rows in one timed pass.
        repeats: timed passes.
    """

    latency_ms_p50: float
    latency_ms_p95: float
    latency_rows: int
    rows_per_s: float
    batch_size: int
    throughput_rows: int
    repeats: int


@dataclass(frozen=True)
class Bin:
    """Answers of similar confidence: how many, their mean confidence, and the share that is right."""

    rows: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Cell:
    """Rows of the class numbered `row` that the student puts into class `column`; both from 0."""

    row: int
    column: int
    rows: int


@dataclass(frozen=True)
class Confusion:
    """Which classes the student takes for which, `against` the "labels" or the answers of the "teacher".

    `complete`: what is not listed is 0. Else, with many classes, only the most frequent pairs of different
    ones are listed, in this order.
    """

    against: str
    complete: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class ModelReport:
    """One model.

    Args:
        name: Hub id, or the last folder of a path.
        architecture: package and class, such as "transformers.BertForSequenceClassification".
        parameters: number of weights, tied ones once.
        embedding_parameters: those of the word embedding table among them.
        size_mb: megabytes (1e6 bytes) of its safetensors file in `dtype`.
        dtype: of the weights as measured.
        metrics: against the labels, see `hfdistill.evaluation.metrics.scores`; None without labels.
        fidelity: against the teacher; None for the teacher and without one.
        speed: None where speed was not asked for.
        reliability: the bins of `ece`; None without labels, for other tasks, and in reports of schema 1 or 2.
    """

    name: str
    architecture: str
    parameters: int
    embedding_parameters: int
    size_mb: float
    dtype: str
    metrics: dict[str, float | None] | None
    fidelity: dict[str, float | None] | None
    speed: Speed | None
    reliability: tuple[Bin, ...] | None = None

    @property
    def scores(self) -> dict[str, float | None]:
        """The metrics against the labels and those against the teacher, by name."""
        return {**(self.metrics or {}), **(self.fidelity or {})}


@dataclass(frozen=True)
class Difference:
    """Student minus `other` in `metric`, with its 95 % interval; see `paired_interval`."""

    other: str
    metric: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Errors:
    """What became of the teacher's errors, in rows.

    Args:
        teacher_wrong: rows that the teacher gets wrong.
        same_wrong: of these, the student gives the same wrong answer (inherited).
        corrected: of these, the student is right.
        new: rows that the teacher gets right and the student wrong.
        baseline_same_wrong: as `same_wrong`, for the undistilled student: what is shared without
            distillation.
    """

    teacher_wrong: int
    same_wrong: int
    corrected: int
    new: int
    baseline_same_wrong: int | None


@dataclass(frozen=True)
class ClassReport:
    """One class: its rows and share among the labelled rows, and how many of them each model finds (recall).

    `teacher_wrong`, `same_wrong`, `corrected`, `new` and `baseline_same_wrong` are as in `Errors`, for the
    rows (single label, words) or decisions (multi label) of the class: where the student inherited the
    teacher's errors, and where the undistilled student makes them too. A recall is None where the class has
    no rows, or no such model was measured; `corrected` and what follows are None in a report of schema 1.
    """

    label: str
    rows: int
    share: float
    student_recall: float | None
    teacher_recall: float | None
    teacher_wrong: int | None
    same_wrong: int | None
    corrected: int | None = None
    new: int | None = None
    baseline_same_wrong: int | None = None


@dataclass(frozen=True)
class DataReport:
    """The rows that were measured; token counts are the student's, truncated at `max_length`.

    They are words where a teacher was measured that is asked about texts.

    `labelled_words` is None but where words are labelled: differences, errors and classes then count words.
    """

    name: str | None
    split: str | None
    rows: int
    labelled_rows: int
    pairs: bool
    tokens_p50: int
    tokens_max: int
    max_length: int | None
    labelled_words: int | None = None

    @property
    def unit(self) -> str:
        """What quality was scored on: "rows" or "words"."""
        return "rows" if self.labelled_words is None else "words"

    @property
    def scored(self) -> str:
        """The number of rows or words that quality was scored on: "872 rows"."""
        count = self.labelled_rows if self.labelled_words is None else self.labelled_words
        return f"{count:,} {self.unit}"


@dataclass(frozen=True)
class Environment:
    """Where and when it was measured. Nothing that names a machine, a person or a folder."""

    device: str
    cpu: str
    cores: int
    threads: int
    platform: str
    python: str
    torch: str
    transformers: str
    hfdistill: str
    commit: str | None
    date: str


@dataclass(frozen=True)
class Report:
    """What a student is worth, as plain data: `report.student.metrics["accuracy"]`,
    `report.student.fidelity["agreement"]`. `load` gives back what `save` wrote.

    Args:
        task: "single_label", "multi_label", "regression" or "token".
        student: the model that was measured.
        teacher: the model it learned from.
        baseline: the same student trained without a teacher.
        differences: of the student's accuracy to the others'.
        errors: inherited and new; of rows with a single label, or of words.
        classes: one entry per class in the student's order; empty for regression.
        data: the rows.
        environment: hardware, versions, date.
        notes: whatever the run wants to be remembered by: objective, recipe, seeds.
        confusions: against the labels and the teacher; None in reports of schema 1 or 2.
    """

    task: str
    student: ModelReport
    teacher: ModelReport | None
    baseline: ModelReport | None
    differences: tuple[Difference, ...]
    errors: Errors | None
    classes: tuple[ClassReport, ...]
    data: DataReport
    environment: Environment
    notes: dict[str, Any]
    confusions: tuple[Confusion, ...] | None = None
    schema: int = SCHEMA

    def models(self) -> dict[str, ModelReport]:
        """Return the measured models by role: teacher, student, baseline."""
        models = {role: getattr(self, role) for role in ROLES}
        return {role: model for role, model in models.items() if model is not None}

    def against_teacher(self, role: str) -> str:
        """Return median latency and size of a model beside the teacher's: "1.9x faster, 0.77x the size"."""
        model, teacher = getattr(self, role), self.teacher
        if teacher is None or model is None or role == "teacher" or not teacher.parameters:
            return ""
        size = f"{model.size_mb / teacher.size_mb:.2f}x the size"
        if model.speed is None or teacher.speed is None:
            return size
        ratio = teacher.speed.latency_ms_p50 / model.speed.latency_ms_p50
        return f"{ratio:.1f}x faster, {size}" if ratio >= 1 else f"{1 / ratio:.1f}x slower, {size}"

    def table(self) -> str:
        """Return a plain-text table for a terminal; control characters in names are shown as escapes."""
        below = in_columns([*_names(self), *_sentences(self)])
        return "\n".join([*text_table(_cells(self)), "", *below])

    def _repr_html_(self) -> str:
        """Return the same table for a notebook."""
        return html_table(_cells(self), [*_names(self), *_sentences(self)])

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write strict, sorted JSON; a reader sees the old file or the new one, never a part.

        Raises:
            ValueError: a number is NaN or infinite, or the report is larger than `load` would take.
        """
        text = json.dumps(dataclasses.asdict(self), allow_nan=False, indent=2, sort_keys=True) + "\n"
        if len(text) > MAX_BYTES:
            raise ValueError(
                f"The report has {len(text)} bytes, more than {MAX_BYTES}. "
                "Shorten report.notes or the label names, and type report.save(path) again."
            )
        return write_atomically(Path(path), text)

    @classmethod
    def of(cls, report: Report | str | os.PathLike[str]) -> Report:
        """Return a report as it is, or read it where the path of its file is given.

        Raises:
            TypeError: for anything else.
            ValueError: as `load`.
        """
        if isinstance(report, (str, os.PathLike)):
            return cls.load(report)
        if not isinstance(report, cls):
            raise TypeError(
                f"Found a {type(report).__name__} in the place of a report. Give what measure(...) returned, "
                "or the path of a report.json."
            )
        return report

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Report:
        """Read a report that `save` wrote, and check every field.

        Raises:
            ValueError: too large, no strict JSON, another schema, or a field that is missing, unknown or of
                another type.
        """
        path = Path(path)
        try:
            content = read_json(path, limit=MAX_BYTES)
        except ValueError as error:
            raise ValueError(f"{error} Measure again: `hfdistill measure` writes a new one.") from error
        schema = content.get("schema") if isinstance(content, dict) else None
        if type(schema) is not int or schema not in (1, 2, SCHEMA):
            raise ValueError(
                f"{path.name} has schema {schema!r}, this hfdistill reads {SCHEMA}. Measure again, or "
                "read it with the version that wrote it."
            )
        # what came after schema 1 or 2 has a default
        return cast(Report, build(cls, {**content, "schema": SCHEMA}, "report"))


def _cells(report: Report) -> list[list[str]]:
    """Return the table with its head; columns in which no model has a value are left out."""
    metrics = COLUMNS[report.task]
    rows = [["", *(TITLES[metric] for metric in metrics), "parameters", "MB", "ms p50", "p95", "rows/s"]]
    for role, model in report.models().items():
        scores = [show(model.scores.get(metric), metric) for metric in metrics]
        rows.append([role, *scores, *sizes(model), *times(model.speed)])
    shown = [i for i in range(len(rows[0])) if i == 0 or any(row[i] != "-" for row in rows[1:])]
    return [[row[i] for i in shown] for row in rows]


def in_columns(sentences: Sequence[str], *, width: int = WIDTH) -> list[str]:
    """Return sentences as lines that a terminal of `width` columns shows whole; what goes on is indented."""
    wrapper = textwrap.TextWrapper(
        width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return [line for text in sentences for line in wrapper.wrap(text)]


def show(value: float | None, metric: str) -> str:
    """Return a metric for people to read: shares in percent, a dash where there is none."""
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if metric in PERCENT else f"{value:.3f}"


def interval_sentences(report: Report) -> list[str]:
    """Return each difference with its interval, in points."""
    return [
        f"student minus {d.other}: {TITLES[d.metric]} {signed(d.mean)} points, 95 % interval "
        f"{signed(d.low)} to {signed(d.high)}"
        + (", which includes 0" if d.low <= 0 <= d.high else "")
        + f" (same {report.data.scored})"
        for d in report.differences
    ]


def guess_sentences(report: Report) -> list[str]:
    """Return which models are right no more often than one that always answers the most frequent class."""
    if report.task not in ("single_label", "token") or not report.classes:
        return []
    most = max(report.classes, key=lambda one: one.rows)
    scores = {role: (model.metrics or {}).get("accuracy") for role, model in report.models().items()}
    below = [role for role, score in scores.items() if score is not None and score <= most.share]
    if not below or len([one for one in report.classes if one.rows]) < 2:
        return []
    return [
        f"always answering {printable(most.label)} is right on {100 * most.share:.1f} %, which the "
        f"{' and the '.join(below)} {'does' if len(below) == 1 else 'do'} not exceed"
    ]


def error_sentence(errors: Errors, unit: str = "rows") -> str:
    """Return what became of the teacher's errors, in one sentence."""
    beside = "" if errors.baseline_same_wrong is None else f" (the baseline {errors.baseline_same_wrong})"
    return (
        f"of the {errors.teacher_wrong} {unit} that the teacher gets wrong, the student repeats "
        f"{errors.same_wrong} wrong answers{beside} and corrects "
        f"{errors.corrected}; it adds {errors.new} errors of its own"
    )


def hardware(report: Report) -> str:
    """Return the machine's make, threads and libraries, in one line."""
    e = report.environment
    where = f"{e.device}, host {e.cpu}" if e.device != "cpu" else e.cpu
    versions = f"torch {e.torch}, transformers {e.transformers}"
    return printable(f"{where}, {e.threads} of {e.cores} cores used, {versions}", limit=300)


def timing(report: Report, *, ms: str, latencies: str, rates: str) -> str:
    """Return how the student was timed, and where, beginning with a space; "" where it was not.

    Args:
        report: of the student.
        ms: what the columns of milliseconds are called.
        latencies: which of them are shown, such as "median".
        rates: what the column of rows per second is called.
    """
    speed = report.student.speed
    if speed is None:
        return ""
    return (
        f" {ms}: one row at a time, {latencies} of {speed.latency_rows} real rows ({report.data.tokens_p50} "
        f"tokens in the median). {rates}: batches of {speed.batch_size}, median of {speed.repeats} passes "
        f"over {speed.throughput_rows} rows. All models by turns on {escape(hardware(report), limit=300)}; "
        "tokenization is not timed."
    )


def signed(share: float) -> str:
    """Return a difference of shares in points, with its sign: "+0.8"."""
    return f"{100 * share:+.1f}"


def count(number: int) -> str:
    """Return a number of weights as people say it: "22.7 M"."""
    return f"{number / 1e6:.1f} M" if number >= 1e5 else f"{number:,}"


def counted(number: float, what: str) -> str:
    """Return a number of things: "1 row", "2,000 rows", "0.33 epochs"."""
    shown = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{shown} {what}{'' if number == 1 else 's'}"


def sizes(model: ModelReport, *, embeddings: bool = False) -> list[str]:
    """Return cells of a table: parameters (those in embeddings, too), megabytes; "-" where it has none."""
    if not model.parameters:
        return ["-"] * (3 if embeddings else 2)
    own = [model.parameters, model.embedding_parameters] if embeddings else [model.parameters]
    return [*map(count, own), megabytes(model.size_mb)]


def megabytes(size: float) -> str:
    """Return a size in megabytes, with more places where it is small."""
    return f"{size:.1f}" if size >= 0.1 else f"{size:.3f}"


def times(speed: Speed | None) -> list[str]:
    """Return the cells of a table: milliseconds, median and 95th percentile, and rows a second."""
    if speed is None:
        return ["-"] * 3
    return [f"{speed.latency_ms_p50:.1f}", f"{speed.latency_ms_p95:.1f}", f"{speed.rows_per_s:.0f}"]


def _names(report: Report) -> list[str]:
    lines = []
    for role, model in report.models().items():
        beside = report.against_teacher(role)
        dtype = f" ({model.dtype})" if model.parameters else ""
        lines.append(f"{role}: {printable(model.name)}{dtype}{beside and f', {beside}'}")
    return lines


def _sentences(report: Report) -> list[str]:
    data, metrics = report.data, report.student.metrics or {}
    lines = [*interval_sentences(report), *guess_sentences(report)]
    error = metrics.get("accuracy_se") or metrics.get("subset_accuracy_se")
    if error is not None:
        lines.append(f"standard error of the student's accuracy: {100 * error:.1f} points")
    if report.errors is not None:
        lines.append(error_sentence(report.errors, data.unit))
    source = " ".join(printable(part) for part in (data.name, data.split) if part) or "data"
    unlabelled = "" if data.labelled_rows == data.rows else f", {data.labelled_rows:,} with labels"
    lines.append(f"{source}: {data.rows:,} rows{unlabelled}, {data.tokens_p50} tokens each (median)")
    lines.append(f"{hardware(report)}, {report.environment.date}")
    return lines


def reports_by_name(runs: Any, asked: str) -> dict[Any, list[Report]]:
    """Return lists of reports by name.

    Each may be given as the path of its file, and a single one without a list.
    """
    if not isinstance(runs, Mapping):
        raise TypeError(
            f"{asked} needs reports by name, found a {type(runs).__name__}. Give {{'student': "
            "[Report.load(path), ...]}, a list of one report a seed."
        )
    named = {}
    for name, reports in runs.items():
        several = isinstance(reports, Iterable) and not isinstance(reports, str)
        named[name] = [Report.of(report) for report in (reports if several else [reports])]
    return named
