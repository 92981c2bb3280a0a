"""The Hub's model card, drawn from a report and never from a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hfdistill.evaluation.card_usage import hub_task, usage_section
from hfdistill.evaluation.nothing_to_teach import nothing_to_teach, undertrained
from hfdistill.evaluation.plots.style import FOLDER, KINDS, PLOTS
from hfdistill.evaluation.report import (
    COLUMNS,
    PERCENT,
    TITLES,
    ClassReport,
    Report,
    error_sentence,
    guess_sentences,
    interval_sentences,
    show,
    sizes,
    times,
    timing,
)
from hfdistill.files.markdown import as_yaml, escape, listing, table
from hfdistill.files.plain_data import is_hub_id, printable, public_name, telling_name, write_atomically

TAGS = ("hfdistill", "knowledge-distillation")
MAX_HEADER = 65_536
MAX_CLASSES, WORST = 20, 10
"""Classes that are listed, and those of more classes that their table shows."""

_HUB_METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "f1",
    "micro_f1": "f1",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
    "mse": "mse",
}


@dataclass(frozen=True)
class _Names:
    """The names that the card uses: ids where they are the Hub's, else the last folder of a path."""

    model: str
    base: str
    dataset: str
    base_on_hub: bool
    dataset_on_hub: bool


def write_card(
    folder: str | Path,
    report: Report | str | Path,
    *,
    base_model: str,
    dataset: str,
    dataset_license: str | None = None,
    license: str | None = None,  # noqa: A002 - the Hub's own word
    model_name: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    origin: str = "It was distilled from {base}",
) -> Path:
    """Write `folder/README.md`: what the student is, how to use it, what it is worth, how it was made, where
    it fails.

    Every name is shown as text: it can bring neither HTML nor links nor table cells into the body, and the
    header is read back before it is written. Objective, recipe and seeds come from `report.notes`.

    Args:
        folder: of the student.
        report: what `measure` gave, or the path of its file.
        base_model: the teacher that it was cut from or learned from: Hub id or path. A path does not go into
            the header.
        dataset: what it was trained on: Hub id or path.
        dataset_license: terms of the data.
        license: of the student's weights, as the Hub spells it: "apache-2.0".
        model_name: else the report's name of the student.
        metadata: further header fields, such as {"language": "en", "tags": ["sentiment"]}.
        origin: how it came to be: the beginning of a sentence that ends in "with hfdistill."; `{base}` stands
            for the base model.

    Returns:
        The path of the card.

    Raises:
        TypeError: `report` is neither.
        ValueError: `metadata` is not plain data, names a field that the card fills itself, or the header is
            too long.

    Example:
        >>> write_card("out/student", report, base_model="org/teacher", dataset="org/data")  # doctest: +SKIP
    """
    report = Report.of(report)
    names = _names(report, model_name, base_model, dataset)
    data = _header(report, names, license, dict(metadata or {}))
    header = as_yaml(data.to_dict())
    if len(header) > MAX_HEADER:
        raise ValueError(
            f"The card's header has {len(header)} characters, more than {MAX_HEADER}. Shorten `metadata`."
        )
    body = "\n\n".join(
        [
            _summary(report, names, origin),
            usage_section(report, names.model),
            _results(report),
            *_pictures(Path(folder)),
            _training(report, names, dataset_license),
            _limits(report),
            _making(report, Path(folder)),
        ]
    )
    content = f"---\n{header}---\n\n{body}\n"
    if ModelCard(content).data.to_dict() != data.to_dict():
        raise ValueError(
            "The card's header does not read back as it was written. Use plain text in `metadata`."
        )
    return write_atomically(Path(folder) / "README.md", content)


def _names(report: Report, model_name: str | None, base_model: str, dataset: str) -> _Names:
    return _Names(
        model=printable(telling_name(model_name or report.student.name)) or "student",
        base=printable(telling_name(base_model)),
        dataset=printable(public_name(dataset)),
        base_on_hub=is_hub_id(base_model),
        dataset_on_hub=is_hub_id(dataset),
    )


def _header(report: Report, names: _Names, license_id: str | None, extra: dict[str, Any]) -> ModelCardData:
    try:
        json.dumps(extra, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"`metadata` must be plain text, numbers, lists and mappings: {error}.") from error
    own_tags = extra.pop("tags", None) or []
    results = _eval_results(report, names)
    metrics = {result.metric_type for result in results} & set(_HUB_METRICS.values())
    own: dict[str, Any] = {
        "license": license_id,
        "library_name": "transformers",
        "pipeline_tag": hub_task(report),
        "base_model": names.base if names.base_on_hub else None,
        "base_model_relation": "finetune" if names.base_on_hub else None,
        "datasets": [names.dataset] if names.dataset_on_hub else None,
        "metrics": sorted(metrics) or None,
        "tags": [*TAGS, hub_task(report), *([own_tags] if isinstance(own_tags, str) else own_tags)],
        "model_name": names.model if results else None,
        "eval_results": results or None,
    }
    taken = {*own, "model-index"} & extra.keys()
    if taken:
        raise ValueError(f"The card fills {', '.join(sorted(taken))} itself. Leave it out of `metadata`.")
    return ModelCardData(**own, **extra)


def _eval_results(report: Report, names: _Names) -> list[EvalResult]:
    """Return the student's numbers for the header: what the table shows, and nothing undefined."""
    return [
        EvalResult(
            task_type=hub_task(report),
            task_name=hub_task(report).replace("-", " ").title(),
            dataset_type=names.dataset if names.dataset_on_hub else "other",
            dataset_name=names.dataset,
            dataset_split=printable(report.data.split) if report.data.split else None,
            metric_type=_HUB_METRICS.get(metric, metric),
            metric_name=TITLES[metric],
            metric_value=round(value, 4),
            verified=False,
        )
        for metric in COLUMNS[report.task]
        if (value := report.student.scores.get(metric)) is not None
    ]


def _summary(report: Report, names: _Names, origin: str) -> str:
    labels = ", ".join(escape(c.label, limit=40) for c in report.classes[:MAX_CLASSES])
    more = f" and {len(report.classes) - MAX_CLASSES} more" if len(report.classes) > MAX_CLASSES else ""
    what = "a pair of texts" if report.data.pairs else "a text"
    kind = {
        "single_label": f"assigns {what} one label",
        "multi_label": f"assigns {what} any number of labels",
        "regression": f"assigns {what} a number",
        "token": "assigns each word of a text one label",
    }[report.task]
    lines = [
        f"# {escape(names.model)}",
        f"A small model that {kind}{f', of {len(report.classes)}: {labels}{more}' if labels else ''}. "
        f"{_origin(origin, names)} with hfdistill.",
    ]
    values = report.student.scores
    shown = [f"{TITLES[m]} {show(values[m], m)}" for m in COLUMNS[report.task] if values.get(m) is not None]
    beside = report.against_teacher("student")
    if shown:
        split = "" if report.data.split is None else f" ({escape(report.data.split)})"
        where = f"{escape(names.dataset)}{split}"
        lines.append(
            f"On {report.data.rows:,} rows of {where}: {', '.join(shown)}"
            f"{f'; compared with the teacher: {beside}' if beside else ''}."
        )
    return "\n\n".join(lines)


def _origin(origin: str, names: _Names) -> str:
    """Return how the student came to be, as text that brings no markup but the base model's name in bold."""
    before, base, after = origin.partition("{base}")
    bold = f"**{escape(names.base)}**" if base else ""
    shown = [escape(part.strip(), limit=400) for part in (before, after)]
    joined = " ".join(part for part in (shown[0], bold) if part)
    return f"{joined}{'' if shown[1][:1] in (',', '') else ' '}{shown[1]}"


def _results(report: Report) -> str:
    data, models = report.data, report.models()
    labelled = "" if data.labelled_rows == data.rows else f" ({data.labelled_rows:,} of them with labels)"
    labelled += "" if data.labelled_words is None else f", {data.labelled_words:,} labelled words"
    known = {metric for model in models.values() for metric in model.scores}
    quality = [metric for metric in (*COLUMNS[report.task], "nll", "kl") if metric in known]
    rows = [
        [f"{_role(role)} ({escape(model.name)})", *(_cell(model.scores, metric) for metric in quality)]
        for role, model in models.items()
    ]
    lines = [
        f"## Results\n\nMeasured on {data.rows:,} rows{labelled}, {escape(report.environment.date[:10])}.",
        table(["", *(TITLES[m] for m in quality)], rows),
    ]
    lines += [f"{sentence[0].upper()}{sentence[1:]}." for sentence in interval_sentences(report)]
    lines += [f"{escape(sentence[0].upper() + sentence[1:])}." for sentence in guess_sentences(report)]
    if report.differences:
        lines.append(
            "The intervals cover the choice of rows, not that of training seeds. ± is one standard error."
        )
    if report.teacher is not None:
        lines.append(_CLOSENESS[report.task])
    return "\n\n".join([*lines, _costs(report)])


_CLOSENESS = {
    "single_label": "Agreement: share of rows where the answer is the teacher's. ECE: expected calibration "
    "error, 15 bins. KL: KL(teacher ‖ student), in nats.",
    "multi_label": "Agreement: share of rows whose label set is the teacher's. Exact match: whose label set "
    "is right. KL: mean over rows and labels, in nats.",
    "regression": "MSE and correlations are against the labels where not said otherwise.",
    "token": "A word's answer is that of its first token. Entity F1: whole entities, type and both ends. "
    "Agreement: share of words where the answer is the teacher's. ECE: expected calibration error, 15 bins. "
    "The intervals take words for independent, which those of one text are not: they are too narrow.",
}


def _pictures(folder: Path) -> list[str]:
    """Return the plots that lie beside the card, by the names that `write_plots` gives them."""
    pictures = [
        f"![{shows}]({FOLDER}/{name}.{kind})"
        for name, shows in PLOTS.items()
        for kind in KINDS
        if (folder / FOLDER / f"{name}.{kind}").is_file()
    ]
    return ["\n\n".join(["## Pictures", *pictures])] if pictures else []


def _costs(report: Report) -> str:
    rows = []
    for role, model in report.models().items():
        size = sizes(model, embeddings=True)
        rows.append([_role(role), *size, *times(model.speed), report.against_teacher(role) or "-"])
    header = ["", "parameters", "in embeddings", "MB", "ms p50", "ms p95", "rows/s", "against the teacher"]
    dtypes = ", ".join(sorted({escape(model.dtype) for model in report.models().values()}))
    timed = timing(report, ms="Milliseconds", latencies="median and 95th percentile", rates="Rows/s")
    text = f"MB: 1e6 bytes of safetensors in {dtypes}.{timed}"
    return f"## Size and speed\n\n{table(header, rows)}\n\n{text}"


def _training(report: Report, names: _Names, dataset_license: str | None) -> str:
    terms = f", licence {escape(dataset_license)}" if dataset_license else ""
    lines = [f"- Data: {escape(names.dataset)}{terms}", f"- Teacher: {escape(names.base)}"]
    notes = dict(report.notes)
    if "objective" in notes:
        lines.append(f"- Objective: <code>{escape(notes.pop('objective'), limit=500)}</code>")
    if report.environment.commit:
        lines.append(f"- Commit: {escape(report.environment.commit)}")
    return "\n\n".join(["## Training", "\n".join(lines), *([listing(notes)] if notes else [])])


def _limits(report: Report) -> str:
    lines, unit = ["## Limits"], "words" if report.task == "token" else "rows"
    if warning := nothing_to_teach(report) or undertrained(report):
        lines.append(f"**{escape(warning, limit=1000)}**")
    if report.errors is not None:
        lines.append(f"Inherited errors: {error_sentence(report.errors, unit)}.")
    lines.append(
        "A student repeats its teacher's biases, and tests on one data set say little about other texts. "
        "Measure it on your own before you rely on it."
    )
    if report.student.metrics is None:
        lines.append(
            "The rows had no labels: how often the model is right is not known, only how close it is to the "
            "teacher."
        )
    elif report.classes:
        lines.append(class_table(report))
    return "\n\n".join(lines)


def _making(report: Report, folder: Path) -> str:
    e = report.environment
    full = " All numbers are in report.json." if (folder / "report.json").is_file() else ""
    return (
        f"## How this card was made\n\nhfdistill {escape(e.hfdistill)} measured the models and wrote "
        f"this card (Python {escape(e.python)}, {escape(e.platform)}).{full} Nobody has verified the numbers "
        "since."
    )


def _cell(values: Mapping[str, float | None], metric: str) -> str:
    """Return a metric, with its standard error where there is one."""
    error = values.get(f"{metric}_se")
    shown = show(values.get(metric), metric)
    return shown if error is None or metric not in PERCENT else f"{shown} ± {100 * error:.1f}"


def _role(role: str) -> str:
    return {"teacher": "teacher", "student": "**this student**", "baseline": "undistilled student"}[role]


def class_table(report: Report) -> str:
    """Return a line per class as Markdown; of more than 20 classes the 10 that inherited most errors."""
    chosen, note = list(report.classes), ""
    if len(chosen) > MAX_CLASSES:
        chosen = sorted(chosen, key=_weakness)[:WORST]
        note = f"The {WORST} of {len(report.classes)} classes that inherited most errors or lost most."
    unit = "words" if report.task == "token" else "rows"
    columns = ["class", unit, "share", "student finds"]
    if report.teacher is not None:
        columns += ["teacher finds", "teacher wrong", "repeated"]
        columns += ["repeated by the undistilled"] if report.baseline is not None else []
        columns += ["corrected", "added"]
        note = f"{note} {_READING}".strip()
    lines = table(columns, [_line(c, report) for c in chosen])
    return f"{lines}\n\n{note}" if note else lines


_READING = (
    "Teacher wrong: of the class, those that the teacher gets wrong. Repeated: of these, the student gives "
    "the same wrong answer. Corrected: of these, the student is right. Added: those that the teacher gets "
    "right and the student wrong."
)


def _line(c: ClassReport, report: Report) -> list[str]:
    line = [
        escape(c.label, limit=60),
        f"{c.rows:,}",
        f"{100 * c.share:.1f} %",
        show(c.student_recall, "accuracy"),
    ]
    if report.teacher is None:
        return line
    both = [c.baseline_same_wrong] if report.baseline is not None else []
    counts = [c.teacher_wrong, c.same_wrong, *both, c.corrected, c.new]
    return [*line, show(c.teacher_recall, "accuracy"), *("-" if n is None else f"{n:,}" for n in counts)]


def _weakness(c: ClassReport) -> tuple[int, float]:
    """Return a sort key: most inherited errors first, then the largest loss of recall, or the lowest one."""
    own = 2.0 if c.student_recall is None else c.student_recall
    return -(c.same_wrong or 0), own - (c.teacher_recall or 0.0)
