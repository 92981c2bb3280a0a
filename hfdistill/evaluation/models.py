"""Models that are to be looked at side by side: loaded, each with the rows in its own token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from hfdistill.data.align import align_to
from hfdistill.data.encode import encode
from hfdistill.files.plain_data import public_name
from hfdistill.network.architectures import longest_input
from hfdistill.network.inputs import ModelInputs, name_padding
from hfdistill.network.label_space import match_labels, task_kind
from hfdistill.network.loading import Source, load_classifier, load_tokenizer
from hfdistill.network.trace import Batch
from hfdistill.teachers import Teacher, TeacherAsModel


@dataclass(frozen=True)
class Contender:
    """A model for `measure` with its own tokenizer, name or label map; else give the plain model.

    Args:
        model: Hub id, folder or object; also a `Teacher`.
        tokenizer: its own, where it is an object that reads other token ids than the student.
        name: what tables call it; else its id or folder.
        label_map: its class → the student's class, where their names do not say it.

    Example:
        >>> measure("out/student", dev, teacher=Contender(model, tokenizer=its_own))  # doctest: +SKIP
    """

    model: Source
    tokenizer: Any = None
    name: str | None = None
    label_map: Mapping[str | int, str | int] | None = None


@dataclass(frozen=True, eq=False)
class Subject:
    """A loaded model, its rows in its own token ids, and its columns in the student's class order."""

    role: str
    name: str
    model: PreTrainedModel
    rows: Mapping[str, Sequence[Sequence[int]]]
    columns: list[int] | None
    inputs: ModelInputs


def load_subjects(
    given: Mapping[str, Source | Contender | None], data: Dataset, tokenizer: Any, max_length: int | None
) -> dict[str, Subject]:
    """Models, tokenizers and encoded rows by role; the first one's classes and device are everyone's."""
    entries = {role: _entry(contender) for role, contender in given.items() if contender is not None}
    device = next(
        (e.model.device for e in entries.values() if not isinstance(e.model, (str, Path))),
        torch.device("cpu"),
    )
    models: dict[str, PreTrainedModel] = {}
    tokenizers: dict[str, Any] = {}
    for role, entry in entries.items():
        loaded = load_classifier(entry.model, role=role)
        models[role] = loaded if loaded is entry.model else loaded.to(device)
        lead = next(iter(entries))
        own = entry.tokenizer or (tokenizer if role == lead else None)
        tokenizers[role] = own or load_tokenizer(entry.model) or tokenizers.get(lead) or tokenizer
    data = align_to(data, models[lead].config)
    _check_alike(models, entries, shared={r: tokenizers[r] is tokenizers[lead] for r in models})
    inputs = {role: _inputs(role, model, entries[role], tokenizers[role]) for role, model in models.items()}
    rows = _encode(data, models, inputs, max_length)
    return {
        role: Subject(
            role=role,
            name=entry.name or _name_of(entry.model),
            model=models[role],
            rows=rows[role],
            columns=match_labels(models[lead].config, models[role].config, label_map=entry.label_map),
            inputs=inputs[role],
        )
        for role, entry in entries.items()
    }


def _entry(given: Any) -> Contender:
    """A contender with a plain model, or with a teacher that answers like one."""
    entry = given if isinstance(given, Contender) else Contender(given)
    teacher = entry.model
    if not isinstance(teacher, Teacher):
        return entry
    model = getattr(teacher, "model", None) or TeacherAsModel(teacher)
    tokenizer = getattr(model, "tokenizer", None) or teacher.tokenizer
    return replace(entry, model=model, tokenizer=entry.tokenizer or tokenizer)


def _check_alike(
    models: Mapping[str, PreTrainedModel], entries: Mapping[str, Contender], *, shared: Mapping[str, bool]
) -> None:
    """Refuse models of another task, and token ids that one model would read as other words."""
    lead, student = next(iter(models)), next(iter(models.values())).config
    for role, model in models.items():
        if task_kind(model.config) != task_kind(student):
            raise ValueError(
                f"The {role} is a {task_kind(model.config)} model and the {lead} a {task_kind(student)} "
                "one. Set config.problem_type alike on both, or measure models of one task."
            )
        sizes = [getattr(config, "vocab_size", None) for config in (model.config, student)]
        if shared[role] and sizes[0] != sizes[1]:
            raise ValueError(
                f"The {role} has a vocabulary of {sizes[0]} and the {lead} one of {sizes[1]}, so they "
                f"cannot read the same token ids. Give text, and {role}=Contender(model, tokenizer=its_own)."
            )


def _name_of(model: Source) -> str:
    if isinstance(model, (str, Path)):
        return public_name(str(model))
    return public_name(model.name_or_path or type(model).__name__)


def _inputs(role: str, model: PreTrainedModel, entry: Contender, tokenizer: Any) -> ModelInputs:
    """What a model reads of the rows that this tokenizer makes; it may be the student's, for a teacher."""
    if isinstance(model, TeacherAsModel):
        model.bind_tokenizer(tokenizer)
    else:
        name_padding(model, tokenizer)
    own = role != "teacher" or entry.tokenizer is not None or isinstance(entry.model, (str, Path))
    return ModelInputs.of(model, tokenizer if own else None, padded_by=tokenizer)


def _encode(
    data: Dataset,
    models: Mapping[str, PreTrainedModel],
    inputs: Mapping[str, ModelInputs],
    max_length: int | None,
) -> dict[str, dict[str, Any]]:
    """Columns of token ids by role, only those that the model reads; equal encodings are made once."""
    made: dict[tuple[int, bool], Dataset] = {}
    columns = {}
    for role, model in models.items():
        tokenizer = inputs[role].tokenizer
        if "input_ids" in data.column_names:
            encoded = data
        elif tokenizer is None:
            raise ValueError(
                f"The {role} came without a tokenizer. Pass tokenizer=, or data that is already encoded."
            )
        else:
            key = (id(tokenizer), inputs[role].extra_token_types)
            if key not in made:
                made[key] = encode(data, tokenizer, max_length=max_length, token_types=key[1])
            encoded = made[key]
        kept = {"labels"} if task_kind(model.config) == "token" else set()
        reads = (inputs[role].names | kept) - ({"label", "labels"} - kept)
        names = [name for name in encoded.column_names if name in reads]
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


def collate(subject: Subject, rows: Sequence[int]) -> Batch:
    """Rows padded to the longest of them, on the model's device; (B, T) each."""
    batch = subject.inputs.pad(subject.rows, rows)
    return {name: tensor.to(subject.model.device) for name, tensor in batch.items()}
