"""Measure a student beside its teacher and the same student trained without one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from transformers.utils.logging import tqdm

from hfdistill.anatomy import longest_input
from hfdistill.data import encode
from hfdistill.labels import class_names, match_labels, task_kind, word_labels, words
from hfdistill.metrics.compare import classes, differences, errors
from hfdistill.metrics.entities import entity_f1
from hfdistill.metrics.gold import gold, labelled_words
from hfdistill.metrics.scores import Array, Scores, fidelity, scores
from hfdistill.plain import public_name, scrub
from hfdistill.pretrained import Source, load_classifier, load_tokenizer
from hfdistill.report import DataReport, ModelReport, Report, Speed
from hfdistill.speed import SpeedPlan, compare_speeds, embedding_parameters, environment, size_mb
from hfdistill.trace import Batch, accepted_inputs, run

STANDARD = SpeedPlan()
BATCH_SIZE = 32


@dataclass(frozen=True)
class Contender:
    """A model with what cannot be seen from it; needed only where a plain model would not do.

    Args:
        model: Hub id, folder or object.
        tokenizer: its own, where it is an object that reads other token ids than the student.
        name: what tables call it; else its id or folder.
        label_map: its class → the student's class, as in `hfdistill.labels.match_labels`.
    """

    model: Source
    tokenizer: Any = None
    name: str | None = None
    label_map: Mapping[str | int, str | int] | None = None


@dataclass(frozen=True, eq=False)
class _Subject:
    """A loaded model, its rows in its own token ids, and its columns in the student's class order."""

    role: str
    name: str
    model: PreTrainedModel
    rows: Mapping[str, Sequence[Sequence[int]]]
    columns: list[int] | None
    pad: int


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
    words are labelled, a word is a row: its answer is that of its first token. Every
    model reads its own token ids and only the inputs that its `forward` has; class orders are matched by
    name. Nothing is changed in models given as objects.

    Args:
        student: the model in question.
        data: columns `text`[, `text_pair`] and `label`, or already encoded (`input_ids`, …) for models of one
            tokenizer.
        teacher: the model it learned from.
        baseline: the same student trained without a teacher. Without it nobody can tell what distillation
            gained.
        tokenizer: the student's; else that of its folder. Teacher and baseline use their own folder's, else
            this one.
        max_length: tokens per row; else each tokenizer's limit.
        speed: how much to time; None times nothing.
        notes: objective, recipe, seeds, …: plain data that is kept in the report. Folders and access tokens
            in it are removed.

    Returns:
        The report. `print(report.table())`, `report.save("report.json")`.

    Raises:
        ValueError: no rows, labels that are no classes of the student, models of different tasks or classes,
            rows longer than a model can read, logits that are not finite, or no tokenizer.

    Example:
        >>> report = measure("out/student", dev, teacher="textattack/bert-base-uncased-SST-2")  # doctest:
        +SKIP >>> print(report.table())  # doctest: +SKIP
    """
    if len(data) == 0:
        raise ValueError("measure needs rows, found an empty dataset. Check the split and its filters.")
    kept = json.loads(json.dumps(scrub(dict(notes or {})), allow_nan=False))
    given = {"student": student, "teacher": teacher, "baseline": baseline}
    subjects = _load(given, data, tokenizer, max_length)
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
    )


def _load(
    given: Mapping[str, Source | Contender | None], data: Dataset, tokenizer: Any, max_length: int | None
) -> dict[str, _Subject]:
    """Models, tokenizers and encoded rows by role, student first."""
    entries = {r: c if isinstance(c, Contender) else Contender(c) for r, c in given.items() if c is not None}
    device = next(
        (e.model.device for e in entries.values() if not isinstance(e.model, (str, Path))),
        torch.device("cpu"),
    )
    models: dict[str, PreTrainedModel] = {}
    tokenizers: dict[str, Any] = {}
    for role, entry in entries.items():
        loaded = load_classifier(entry.model, role=role)
        models[role] = loaded if loaded is entry.model else loaded.to(device)
        own = entry.tokenizer or (tokenizer if role == "student" else None)
        tokenizers[role] = own or load_tokenizer(entry.model) or tokenizers.get("student") or tokenizer
    _check_alike(models, entries, shared={r: tokenizers[r] is tokenizers["student"] for r in models})
    rows = _encode(data, models, tokenizers, max_length)
    return {
        role: _Subject(
            role=role,
            name=entry.name or _name_of(entry.model),
            model=models[role],
            rows=rows[role],
            columns=match_labels(models["student"].config, models[role].config, label_map=entry.label_map),
            pad=_pad_id(models[role], tokenizers[role]),
        )
        for role, entry in entries.items()
    }


def _check_alike(
    models: Mapping[str, PreTrainedModel], entries: Mapping[str, Contender], *, shared: Mapping[str, bool]
) -> None:
    """Refuse models of another task, and token ids that one model would read as other words."""
    student = models["student"].config
    for role, model in models.items():
        if task_kind(model.config) != task_kind(student):
            raise ValueError(
                f"The {role} is a {task_kind(model.config)} model and the student a {task_kind(student)} "
                "one. Set config.problem_type alike on both, or measure models of one task."
            )
        sizes = [getattr(config, "vocab_size", None) for config in (model.config, student)]
        if shared[role] and sizes[0] != sizes[1]:
            raise ValueError(
                f"The {role} has a vocabulary of {sizes[0]} and the student one of {sizes[1]}, so they "
                f"cannot read the same token ids. Give text, and {role}=Contender(model, tokenizer=its_own)."
            )


def _name_of(model: Source) -> str:
    if isinstance(model, (str, Path)):
        return public_name(str(model))
    return public_name(model.name_or_path or type(model).__name__)


def _pad_id(model: PreTrainedModel, tokenizer: Any) -> int:
    return next(
        (i for i in (getattr(tokenizer, "pad_token_id", None), model.config.pad_token_id) if i is not None), 0
    )


def _encode(
    data: Dataset,
    models: Mapping[str, PreTrainedModel],
    tokenizers: Mapping[str, Any],
    max_length: int | None,
) -> dict[str, dict[str, Any]]:
    """Columns of token ids by role, only those that the model's `forward` has; equal encodings are made
    once."""
    made: dict[tuple[int, bool], Dataset] = {}
    columns = {}
    for role, model in models.items():
        accepts, tokenizer = accepted_inputs(model), tokenizers[role]
        if "input_ids" in data.column_names:
            encoded = data
        elif tokenizer is None:
            raise ValueError(
                f"The {role} came without a tokenizer. Pass tokenizer=, or data that is already encoded."
            )
        else:
            key = (id(tokenizer), "token_type_ids" in accepts)
            if key not in made:
                made[key] = encode(data, tokenizer, max_length=max_length, token_types=key[1])
            encoded = made[key]
        kept = {"labels"} if task_kind(model.config) == "token" else set()
        names = [n for n in encoded.column_names if n in (accepts | kept) - ({"label", "labels"} - kept)]
        columns[role] = {name: encoded[name][:] for name in names}
        longest, room = (
            max(map(len, columns[role]["input_ids"])),
            longest_input(model.config),
        )
        if room is not None and 0 < room < longest:
            raise ValueError(
                f"A row has {longest} tokens, the {role} reads {room} at most. Pass max_length={room}."
            )
    return columns


def _collate(subject: _Subject, rows: Sequence[int]) -> Batch:
    """Rows padded on the right to the longest of them, on the model's device; (B, T) each."""
    batch = {
        name: pad_sequence(
            [torch.as_tensor(column[row]) for row in rows],
            batch_first=True,
            padding_value={"input_ids": subject.pad, "labels": -100}.get(name, 0),
        )
        for name, column in subject.rows.items()
    }
    if "attention_mask" not in batch:
        lengths = torch.tensor([len(subject.rows["input_ids"][row]) for row in rows])
        batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return {name: tensor.to(subject.model.device) for name, tensor in batch.items()}


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


def _predict(subject: _Subject) -> Array:
    """Logits (rows, C), or (words, C), in the data's order and the student's class order."""
    accepts = accepted_inputs(subject.model)
    order = sorted(
        range(len(subject.rows["input_ids"])), key=lambda row: -len(subject.rows["input_ids"][row])
    )
    of_words = task_kind(subject.model.config) == "token"
    parts: list[Tensor] = []
    with torch.inference_mode():
        for start in tqdm(range(0, len(order), BATCH_SIZE), desc=subject.role, leave=False, disable=None):
            batch = _collate(subject, order[start : start + BATCH_SIZE])
            logits = run(subject.model, batch, accepts=accepts).logits.float()
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


def _speeds(subjects: Mapping[str, _Subject], plan: SpeedPlan | None, *, rows: int) -> dict[str, Speed]:
    if plan is None:
        return {}
    models = {role: subject.model for role, subject in subjects.items()}
    return compare_speeds(models, lambda role, chosen: _collate(subjects[role], chosen), rows=rows, plan=plan)


def _describe(
    subject: _Subject,
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
        embedding_parameters=embedding_parameters(model),
        size_mb=size_mb(model),
        dtype=str(model.dtype).removeprefix("torch."),
        metrics=metrics,
        fidelity=fidelity(task, own, logits["teacher"])
        if "teacher" in logits and subject.role != "teacher"
        else None,
        speed=speed,
    )


def _describe_data(data: Dataset, student: _Subject, labelled: Array, max_length: int | None) -> DataReport:
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
