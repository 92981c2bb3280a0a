"""Measure a student beside its teacher and the same student trained without one."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers.utils.logging import tqdm

from hfdistill.data.align import LABELS
from hfdistill.evaluation.metrics.calibration import reliability
from hfdistill.evaluation.metrics.compare import classes, confusions, differences, errors
from hfdistill.evaluation.metrics.entities import entity_f1
from hfdistill.evaluation.metrics.gold_labels import gold, labelled_words
from hfdistill.evaluation.metrics.scores import Array, Scores, fidelity, log_softmax, scores
from hfdistill.evaluation.models import Contender, Subject, collate, load_subjects
from hfdistill.evaluation.report import DataReport, ModelReport, Report, Speed
from hfdistill.evaluation.speed import SpeedPlan, compare_speeds, embedding_parameters, environment, size_mb
from hfdistill.files.plain_data import scrub
from hfdistill.network.label_space import class_names, task_kind, word_labels, words
from hfdistill.network.loading import Source
from hfdistill.network.trace import Batch, run
from hfdistill.teachers import TeacherAsModel

STANDARD = SpeedPlan()
BATCH_SIZE = 32
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
) -> Report:
    """What a student is worth: quality, closeness to the teacher, size and speed, beside teacher and
    baseline.

    Quality is scored on the rows that have labels (-1, -100, None and NaN hide one), closeness on all. Where
    words are labelled, a word is a row: its answer is that of its first token. Every model reads its
    own token ids and only the inputs that its `forward` has; class orders are matched by name. Nothing is
    changed in models given as objects.

    Args:
        student: Hub id, folder or model; a `Contender` where it needs a tokenizer or name of its own.
        data: columns `text`[, `text_pair`] and `label`, or already encoded (`input_ids`, …) for models of one
            tokenizer.
        teacher: the model it learned from, or a `Teacher`, also one that is made of several.
        baseline: the same student trained without a teacher. Without it nobody can tell what distillation
            gained.
        tokenizer: the student's; else that of its folder. Teacher and baseline use their own folder's, else
            this one.
        max_length: tokens per row; else each tokenizer's limit.
        speed: how much to time, a `hfdistill.evaluation.speed.SpeedPlan`; None times nothing.
        notes: objective, recipe, seeds, …: plain data that is kept in the report. Folders and access tokens
            in it are removed.

    Returns:
        The report. `print(report.table())`, `report.save("report.json")`.

    Raises:
        ValueError: no rows, labels that are no classes of the student, models of different tasks or classes,
            rows longer than a model can read, logits that are not finite, or no tokenizer.

    Example:
        >>> report = measure("out/student", dev, teacher="out/teacher")  # doctest: +SKIP
        >>> print(report.table())  # doctest: +SKIP
    """
    if len(data) == 0:
        raise ValueError("measure needs rows, found an empty dataset. Check the split and its filters.")
    kept = json.loads(json.dumps(scrub(dict(notes or {})), allow_nan=False))
    given = {"student": student, "teacher": teacher, "baseline": baseline}
    subjects = load_subjects(given, data, tokenizer, max_length)
    student_model = subjects["student"].model
    task = task_kind(student_model.config)
    labels, labelled = gold(data, student_model.config, {role: s.rows for role, s in subjects.items()})
    with _evaluating([subject.model for subject in subjects.values()]):
        logits = {role: _predict(subject) for role, subject in subjects.items()}
        speeds = _speeds(subjects, speed, rows=len(data))
    known, truth = {role: values[labelled] for role, values in logits.items()}, labels[labelled]
    models = {
        role: _describe(subject, logits, known[role], task=task, labels=truth, speed=speeds.get(role))
        for role, subject in subjects.items()
    }
    return Report(
        task=task,
        student=models["student"],
        teacher=models.get("teacher"),
        baseline=models.get("baseline"),
        differences=differences(task, known, truth),
        errors=errors(known, truth) if task in ("single_label", "token") else None,
        classes=classes(task, known, truth, class_names(student_model.config)),
        data=_describe_data(data, subjects["student"], labelled, max_length),
        environment=environment(student_model.device),
        notes=kept,
        confusions=confusions(task, logits, known, truth),
    )


def time_together(
    reports: Mapping[Name, Report],
    models: Mapping[Name, Source | Contender],
    data: Dataset,
    *,
    teacher: Source | Contender,
    max_length: int | None = None,
    plan: SpeedPlan = STANDARD,
) -> dict[Name, Report]:
    """Many students and their teacher, timed by turns in one pass: their reports, with these speeds.

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
    named = {f"student {name}": model for name, model in models.items()}
    data = data.remove_columns([name for name in LABELS if name in data.column_names])
    subjects = load_subjects({"teacher": teacher, **named}, data, None, max_length)
    with _evaluating([subject.model for subject in subjects.values()]):
        speeds = _speeds(subjects, plan, rows=len(data))
    where = environment(subjects["teacher"].model.device)
    timed = {}
    for name, report in reports.items():
        assert report.teacher is not None  # noqa: S101
        own = replace(report.student, speed=speeds[f"student {name}"])
        beside = replace(report.teacher, speed=speeds["teacher"])
        timed[name] = replace(report, student=own, teacher=beside, environment=where)
    return timed


@contextmanager
def _evaluating(models: Sequence[nn.Module]) -> Iterator[None]:
    """Dropout off inside, and no autocast, which accelerate puts around a trained model's forward.

    What is measured is the model as it is saved. Outside everything is as before.
    """
    modes = [(module, module.training) for model in models for module in model.modules()]
    autocast = [(model, vars(model).pop("forward")) for model in models if "_original_forward" in vars(model)]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for model, forward in autocast:
            model.forward = forward
        for module, training in modes:
            module.training = training


def _predict(subject: Subject) -> Array:
    """Logits (rows, C), or (words, C), in the data's order and the student's class order."""
    order = sorted(
        range(len(subject.rows["input_ids"])), key=lambda row: -len(subject.rows["input_ids"][row])
    )
    of_words = task_kind(subject.model.config) == "token"
    parts: list[Tensor] = []
    with torch.inference_mode():
        for start in tqdm(range(0, len(order), BATCH_SIZE), desc=subject.role, leave=False, disable=None):
            batch = collate(subject, order[start : start + BATCH_SIZE])
            logits = run(subject.model, batch, accepts=subject.inputs).logits.float()
            parts += _answers(logits, batch) if of_words else logits[:, None].cpu()
    parts = [parts[place] for place in np.argsort(order)]  # (1, C) each, or (words, C)
    bad = [row for row, part in enumerate(parts) if not bool(part.isfinite().all())]
    whole = torch.cat(parts).numpy()
    if bad:
        more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
        raise ValueError(
            f"The {subject.role}'s logits are not finite on rows {bad[:10]}{more}. Its weights are damaged "
            f"or {subject.model.dtype} is too narrow: load it in float32 and look at its training loss."
        )
    return np.asarray(whole if subject.columns is None else whole[:, subject.columns])


def _answers(logits: Tensor, batch: Batch) -> list[Tensor]:
    """Of each row the logits of its words, (words, C)."""
    mask = batch["attention_mask"]
    where, _ = words(word_labels(batch.get("labels", torch.full_like(mask, -100)), mask))
    return [row[there].cpu() for row, there in zip(logits, where, strict=True)]


def _speeds(subjects: Mapping[str, Subject], plan: SpeedPlan | None, *, rows: int) -> dict[str, Speed]:
    if plan is None:
        return {}
    models = {role: subject.model for role, subject in subjects.items()}

    def batch(role: str, chosen: Sequence[int]) -> Batch:
        return subjects[role].inputs.select(collate(subjects[role], chosen))

    return compare_speeds(models, batch, rows=rows, plan=plan)


def _describe(
    subject: Subject,
    logits: Mapping[str, Array],
    known: Array,
    *,
    task: str,
    labels: Array,
    speed: Speed | None,
) -> ModelReport:
    model, own = subject.model, logits[subject.role]
    metrics: Scores | None = scores(task, known, labels) if len(labels) else None
    if metrics is not None and task == "token":
        lengths, names = labelled_words(subject.rows), class_names(model.config)
        names = names if subject.columns is None else [names[i] for i in subject.columns]
        metrics["entity_f1"] = entity_f1(known.argmax(axis=1), labels, lengths=lengths, names=names)
    return ModelReport(
        name=subject.name,
        architecture=f"{type(model).__module__.partition('.')[0]}.{type(model).__name__}",
        parameters=sum(p.numel() for p in model.parameters()),
        embedding_parameters=sum(
            embedding_parameters(part)
            for part in (model.networks() if isinstance(model, TeacherAsModel) else [model])
        ),
        size_mb=size_mb(model),
        dtype=str(model.dtype).removeprefix("torch."),
        metrics=metrics,
        fidelity=fidelity(task, own, logits["teacher"])
        if "teacher" in logits and subject.role != "teacher"
        else None,
        speed=speed,
        reliability=reliability(np.exp(log_softmax(known.astype(np.float64))), labels)
        if metrics is not None and "ece" in metrics
        else None,
    )


def _describe_data(data: Dataset, student: Subject, labelled: Array, max_length: int | None) -> DataReport:
    of_words = task_kind(student.model.config) == "token"
    known = int(labelled.sum())
    lengths = [len(ids) for ids in student.rows["input_ids"]]
    name = data.info.dataset_name
    return DataReport(
        name=None if name in (None, "parquet", "csv", "json", "text", "arrow", "generator") else name,
        split=str(data.split) if data.split else None,
        rows=len(data),
        labelled_rows=sum(n > 0 for n in labelled_words(student.rows)) if of_words else known,
        labelled_words=known if of_words else None,
        pairs="text_pair" in data.column_names,
        tokens_p50=int(np.median(lengths)),
        tokens_max=max(lengths),
        max_length=max_length,
    )
