"""Measure a student beside its teacher and the same student trained without one."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from datasets import Dataset
from scipy.special import softmax

from hfdistill.data.align import LABELS
from hfdistill.evaluation.metrics.calibration import reliability
from hfdistill.evaluation.metrics.compare import classes, confusions, differences, errors
from hfdistill.evaluation.metrics.gold_labels import gold, labelled_words
from hfdistill.evaluation.metrics.scores import Array, Scores, entity_f1, fidelity, scores
from hfdistill.evaluation.models import Contender, LoadedModel, load_models
from hfdistill.evaluation.predictions import checked, evaluating, predict, speeds
from hfdistill.evaluation.report import DataReport, ModelReport, Report, Speed
from hfdistill.evaluation.speed import SpeedPlan, embedding_parameters, environment, size_mb
from hfdistill.files.plain_data import scrub
from hfdistill.network.architectures import readable_length
from hfdistill.network.label_space import class_names
from hfdistill.network.loading import Source
from hfdistill.network.task import task_kind
from hfdistill.teachers import TeacherAsModel
from hfdistill.teachers.text.codec import TextCodec, decode_rows

STANDARD = SpeedPlan()
_READERS = (None, "parquet", "csv", "table_files", "json", "text", "arrow", "generator")
"""What `datasets` calls rows of files after the module that reads them; ours of csv is `table_files`."""
Name = TypeVar("Name", bound=Hashable)


def measure(
    student: Source | Contender,
    data: Dataset,
    *,
    teacher: Source | Contender | None = None,
    baseline: Source | Contender | None = None,
    tokenizer: Any = None,
    max_length: int | None = None,
    speed: SpeedPlan | None = STANDARD,
    notes: Mapping[str, Any] | None = None,
    label_names: Sequence[str] | None = None,
) -> Report:
    """Measure what a student is worth: quality, closeness to the teacher, size and speed, beside teacher and
    baseline.

    Quality is scored on the rows that have labels (-1, -100, None and NaN hide one), closeness on all. Where
    words are labelled, a word is a row: its answer is that of its first token. Every model reads its
    own token ids and only the inputs that its `forward` has; classes of models and data are matched by name,
    and the data may hold some of the classes alone. Nothing is changed in models given as objects.

    Args:
        student: Hub id, folder or model; a `Contender` where it needs a tokenizer or name of its own.
        data: columns `text`[, `text_pair`] and `label`, or already encoded (`input_ids`, …) for models of one
            tokenizer.
        teacher: the model it learned from, or a `Teacher`, also one that is made of several.
        baseline: the same student trained without a teacher. Without it nobody can tell what distillation
            gained.
        tokenizer: the student's; else that of its folder. Teacher and baseline use their own folder's, else
            this one.
        max_length: tokens per row; else each tokenizer's limit. No model reads more than it has positions.
        speed: how much to time, a `hfdistill.evaluation.speed.SpeedPlan`; None times nothing.
        notes: objective, recipe, seeds, …: plain data that is kept in the report. Folders and access tokens
            in it are removed.
        label_names: names of the classes 0, 1, … of models that have none (LABEL_0 …).

    Returns:
        The report. `print(report.table())`, `report.save("report.json")`.

    Raises:
        TypeError: data that is no `Dataset`, such as several splits.
        ValueError: no rows, labels that are not classes of the student, models of different tasks or classes,
            encoded rows longer than a model can read, logits that are not finite, or no tokenizer.

    Example:
        >>> report = measure("out/student", dev, teacher="out/teacher")  # doctest: +SKIP
        >>> print(report.table())  # doctest: +SKIP
    """
    check_rows(data, "measure")
    kept_notes = json.loads(json.dumps(scrub(dict(notes or {})), allow_nan=False))
    contenders = {"student": student, "teacher": teacher, "baseline": baseline}
    models, data = load_models(contenders, data, tokenizer, max_length, label_names=label_names)
    config = models["student"].config
    task = task_kind(config)
    labels, labelled = gold(data, config, {role: loaded.rows for role, loaded in models.items()})
    with evaluating(models):
        logits = {role: checked(predict(loaded), loaded) for role, loaded in models.items()}
        times = speeds(models, speed)
    known, truth = {role: values[labelled] for role, values in logits.items()}, labels[labelled]
    described = {
        role: _describe(loaded, logits, known[role], labels=truth, speed=times.get(role))
        for role, loaded in models.items()
    }
    return Report(
        task=task,
        student=described["student"],
        teacher=described.get("teacher"),
        baseline=described.get("baseline"),
        differences=differences(task, known, truth, lengths=labelled_words(models["student"].rows)),
        errors=errors(known, truth) if task in ("single_label", "token") else None,
        classes=classes(task, known, truth, class_names(config)),
        data=_describe_data(data, models["student"], labelled, max_length),
        environment=environment(models["student"].model.device),
        notes=kept_notes,
        confusions=confusions(task, logits, known, truth),
    )


def check_rows(data: Any, caller: str) -> None:
    """Refuse data that is not a `Dataset` with rows."""
    if isinstance(data, Mapping) and all(isinstance(part, Dataset) for part in data.values()):
        names = ", ".join(map(repr, data)) or "none"
        first = next((n for n in ("validation", "test") if n in data), next(iter(data), "validation"))
        raise TypeError(
            f"{caller} needs the rows of one split, found the splits {names}. Pass data[{first!r}]."
        )
    if not isinstance(data, Dataset):
        kind = "None" if data is None else f"a {type(data).__name__}"
        raise TypeError(
            f"{caller} needs a datasets.Dataset with the columns text[, text_pair] and label, found {kind}. "
            "Load a file, a DataFrame or a list of rows with hfdistill.load(...)['train'], or type "
            "Dataset.from_dict({'text': texts, 'label': labels})."
        )
    if len(data) == 0:
        raise ValueError(f"{caller} needs rows, found an empty dataset. Check the split and its filters.")


def time_together(
    reports: Mapping[Name, Report],
    models: Mapping[Name, Source | Contender],
    data: Dataset,
    *,
    teacher: Source | Contender,
    max_length: int | None = None,
    plan: SpeedPlan = STANDARD,
) -> dict[Name, Report]:
    """Time many students and their teacher by turns in one pass, and return their reports with these speeds.

    Times of different passes, or of different loads of a machine, say little about each other. So train and
    measure students one by one with `speed=None`, and time them together when the machine is quiet.

    Args:
        reports: by name, of students of one teacher.
        models: by the same names, the students.
        data: real rows, columns `text`[, `text_pair`]; each model reads them by its own tokenizer.
        teacher: timed beside them.
        max_length: tokens per row; else each tokenizer's limit.
        plan: how much to time.

    Returns:
        A report for each name, with `speed` of student and teacher and the environment of this pass; what
        was measured before stays.

    Raises:
        ValueError: names without a report or a model, reports without a teacher, and as `measure`.
    """
    if set(reports) != set(models) or any(report.teacher is None for report in reports.values()):
        raise ValueError(
            "time_together needs a model for each report, by the same names, and reports beside a teacher: "
            f"found reports {', '.join(map(str, reports))} and models {', '.join(map(str, models))}."
        )
    check_rows(data, "time_together")
    named = {f"student {name}": model for name, model in models.items()}
    data = data.remove_columns([name for name in LABELS if name in data.column_names])
    loaded, _ = load_models({"teacher": teacher, **named}, data, None, max_length)
    with evaluating(loaded):
        times = speeds(loaded, plan)
    where = environment(loaded["teacher"].model.device)
    timed = {}
    for name, report in reports.items():
        assert report.teacher is not None  # noqa: S101
        own = replace(report.student, speed=times.get(f"student {name}"))
        beside = replace(report.teacher, speed=times.get("teacher"))
        timed[name] = replace(report, student=own, teacher=beside, environment=where)
    return timed


def _describe(
    loaded: LoadedModel,
    logits: Mapping[str, Array],
    known: Array,
    *,
    labels: Array,
    speed: Speed | None,
) -> ModelReport:
    model, task = loaded.model, task_kind(loaded.config)
    metrics: Scores | None = scores(task, known, labels) if len(labels) else None
    if metrics is not None and task == "token":
        lengths, names = labelled_words(loaded.rows), class_names(loaded.config)
        names = names if loaded.columns is None else [names[i] for i in loaded.columns]
        metrics["entity_f1"] = entity_f1(known.argmax(axis=1), labels, lengths=lengths, names=names)
    return ModelReport(
        name=loaded.name,
        architecture=f"{type(model).__module__.partition('.')[0]}.{type(model).__name__}",
        parameters=sum(p.numel() for p in model.parameters()),
        embedding_parameters=sum(
            embedding_parameters(part)
            for part in (model.networks() if isinstance(model, TeacherAsModel) else [model])
        ),
        size_mb=size_mb(model),
        dtype=str(model.dtype).removeprefix("torch."),
        metrics=metrics,
        fidelity=fidelity(task, logits[loaded.role], logits["teacher"])
        if "teacher" in logits and loaded.role != "teacher"
        else None,
        speed=speed,
        reliability=reliability(softmax(known.astype(np.float64), axis=1), labels)
        if metrics is not None and "ece" in metrics
        else None,
    )


def _describe_data(
    data: Dataset, student: LoadedModel, labelled: Array, max_length: int | None
) -> DataReport:
    of_words = task_kind(student.config) == "token"
    known = int(labelled.sum())
    lengths = _lengths(student)
    name = data.info.dataset_name
    return DataReport(
        name=None if name in _READERS else name,
        split=str(data.split) if data.split else None,
        rows=len(data),
        labelled_rows=sum(n > 0 for n in labelled_words(student.rows)) if of_words else known,
        labelled_words=known if of_words else None,
        pairs="text_pair" in data.column_names,
        tokens_p50=int(np.median(lengths)),
        tokens_max=max(lengths),
        max_length=_cut(student, max_length),
    )


def _lengths(student: LoadedModel) -> list[int]:
    """Return the tokens of each row; words where a teacher reads text, whose ids are bytes."""
    ids = student.rows["input_ids"]
    if not isinstance(student.inputs.tokenizer, TextCodec):
        return list(map(len, ids))
    texts = (decode_rows(torch.tensor([row]))[0] for row in ids)
    return [len(" ".join([text] if isinstance(text, str) else text).split()) for text in texts]


def _cut(student: LoadedModel, max_length: int | None) -> int | None:
    """Return how many tokens of a text the student read; None for its tokenizer's own limit."""
    limit = readable_length(student.config, max_length)
    own = getattr(student.inputs.tokenizer, "model_max_length", None)
    is_own = max_length is None and (own is None or limit is None or own <= limit)
    return None if is_own else limit
