"""Loads models that are measured side by side, each with the rows in its own token ids."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from hfdistill.data.align import LABELS, align_to
from hfdistill.data.encode import encode
from hfdistill.files.plain_data import public_name
from hfdistill.network.architectures import longest_input, readable_length
from hfdistill.network.inputs import ModelInputs, name_padding
from hfdistill.network.label_space import class_names, has_names, match_labels, with_names
from hfdistill.network.loading import Source, load_classifier, load_tokenizer
from hfdistill.network.task import task_kind
from hfdistill.network.trace import Batch
from hfdistill.teachers import Teacher, TeacherAsModel, as_model


@dataclass(frozen=True)
class Contender:
    """A model for `measure` with its own tokenizer, name or label map; else give the plain model.

    Args:
        model: Hub id, folder or object; also a `Teacher`.
        tokenizer: its own, where it is an object that reads other token ids than the student.
        name: what tables call it; else its id or folder.
        label_map: its class → the student's class, where their names do not say it.
        label_names: names of its classes 0, 1, …, where it has none (LABEL_0 …).

    Example:
        >>> measure("out/student", dev, teacher=Contender(model, tokenizer=its_own))  # doctest: +SKIP
    """

    model: Source
    tokenizer: Any = None
    name: str | None = None
    label_map: Mapping[str | int, str | int] | None = None
    label_names: Sequence[str] | None = None


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model with the rows in its own token ids, which answers them in the first model's class order.

    Args:
        role: what messages call it.
        name: what tables call it.
        model: a network of PyTorch or an ONNX file.
        config: with the names of its classes, which the model itself may lack.
        inputs: what it reads of a batch.
        rows: columns of token ids; with `labels` where words are labelled.
        columns: for each class of the first model, the column of its logits; None where they are the same.
    """

    role: str
    name: str
    model: Any
    config: Any
    inputs: ModelInputs
    rows: Mapping[str, Sequence[Sequence[int]]]
    columns: list[int] | None = None

    def __len__(self) -> int:
        return len(self.rows["input_ids"])

    def collate(self, rows: Sequence[int]) -> Batch:
        """Pad rows to the longest of them, on the model's device; (B, T) each, labels of words too."""
        batch = self.inputs.pad(self.rows, rows)
        return {name: tensor.to(self.model.device) for name, tensor in batch.items()}

    def arguments(self, rows: Sequence[int]) -> Batch:
        """Return the same as arguments of the model's forward."""
        return self.inputs.select(self.collate(rows))


def load_models(
    contenders: Mapping[str, Source | Contender | None],
    data: Dataset,
    tokenizer: Any,
    max_length: int | None,
    *,
    label_names: Sequence[str] | None = None,
) -> tuple[dict[str, LoadedModel], Dataset]:
    """Load models and tokenizers, and encode the rows for each; the first one's classes count for all.

    Returns:
        The models by role, and the rows with their labels in the order of the first one's classes.

    Raises:
        ValueError: for models of different tasks, classes or vocabularies, rows longer than a model can read,
            and no tokenizer.
    """
    entries = {role: _contender(entry) for role, entry in contenders.items() if entry is not None}
    models = _load(entries)
    lead = next(iter(models))
    configs = {role: _named(models[role].config, entries[role], label_names) for role in models}
    tokenizers: dict[str, Any] = {}
    for role, entry in entries.items():
        own = entry.tokenizer or (tokenizer if role == lead else None)
        tokenizers[role] = own or load_tokenizer(entry.model) or tokenizers.get(lead) or tokenizer
    _check_alike(configs, shared={r: tokenizers[r] is tokenizers[lead] for r in models})
    columns = {
        role: match_labels(configs[lead], configs[role], label_map=entry.label_map)
        for role, entry in entries.items()
    }
    configs[lead] = _named_by_others(configs, entries, columns)
    data = align_to(data, configs[lead])
    inputs = {role: _inputs(role, model, entries[role], tokenizers[role]) for role, model in models.items()}
    rows = encode_rows(data, inputs, configs, max_length=max_length)
    loaded = {
        role: LoadedModel(
            role=role,
            name=entry.name or _name_of(entry.model),
            model=_without_autocast(models[role]),
            config=configs[role],
            inputs=inputs[role],
            rows=rows[role],
            columns=columns[role],
        )
        for role, entry in entries.items()
    }
    return loaded, data


def _contender(entry: Any) -> Contender:
    """Return a contender with a plain model, or with a teacher that answers like one."""
    contender = entry if isinstance(entry, Contender) else Contender(entry)
    teacher = contender.model
    if not isinstance(teacher, Teacher):
        return contender
    model = as_model(teacher)
    tokenizer = getattr(model, "tokenizer", None) or teacher.tokenizer
    return replace(contender, model=model, tokenizer=contender.tokenizer or tokenizer)


def _load(entries: Mapping[str, Contender]) -> dict[str, PreTrainedModel]:
    """Load the models, onto the device of the first one that is given as an object."""
    objects = (entry.model.device for entry in entries.values() if not isinstance(entry.model, (str, Path)))
    device = next(objects, torch.device("cpu"))
    models = {}
    for role, entry in entries.items():
        model = load_classifier(entry.model, role=role)
        models[role] = model if model is entry.model else model.to(device)
    return models


def _named(config: Any, entry: Contender, label_names: Sequence[str] | None) -> Any:
    """Return the config with the names that were given for its classes."""
    names = entry.label_names
    if names is None and not has_names(class_names(config)):
        names = label_names
    return with_names(config, names)


def _named_by_others(
    configs: Mapping[str, Any], entries: Mapping[str, Contender], columns: Mapping[str, list[int] | None]
) -> Any:
    """Name the first model's classes, where they have no names, by a model whose label map pairs them."""
    first = next(iter(configs.values()))
    for role, entry in entries.items():
        names = class_names(configs[role])
        if entry.label_map is not None and has_names(names) and not has_names(class_names(first)):
            return with_names(first, [names[i] for i in columns[role] or range(len(names))])
    return first


def _without_autocast(model: Any) -> Any:
    """Return the same network without the autocast that accelerate wraps a trained model's forward in.

    What is measured is the model as it is saved. The model itself keeps its autocast.
    """
    if "_original_forward" not in vars(model):
        return model
    view = copy.copy(model)
    del view.forward
    return view


def _check_alike(configs: Mapping[str, Any], *, shared: Mapping[str, bool]) -> None:
    """Refuse models of different tasks, and token ids that mean other words to one of the models."""
    lead, first = next(iter(configs.items()))
    for role, config in configs.items():
        if task_kind(config) != task_kind(first):
            raise ValueError(
                f"The {role} is a {task_kind(config)} model and the {lead} a {task_kind(first)} one. Set "
                "config.problem_type alike on both, or measure models of one task."
            )
        sizes = [getattr(each, "vocab_size", None) for each in (config, first)]
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
    """Return what a model reads of this tokenizer's rows; a teacher's tokenizer may be the student's."""
    if isinstance(model, TeacherAsModel):
        model.bind_tokenizer(tokenizer)
    else:
        name_padding(model, tokenizer)
    own = role != "teacher" or entry.tokenizer is not None or isinstance(entry.model, (str, Path))
    return ModelInputs.of(model, tokenizer if own else None, padded_by=tokenizer)


def encode_rows(
    data: Dataset, inputs: Mapping[str, ModelInputs], configs: Mapping[str, Any], *, max_length: int | None
) -> dict[str, dict[str, Any]]:
    """Return the rows in each model's token ids: columns by role, only those that the model reads.

    Texts are cut to what each model reads, with a warning; encoded rows longer than that are refused.
    """
    made: dict[tuple[int, bool, int | None], Dataset] = {}
    columns = {}
    for role, config in configs.items():
        tokenizer, extra = inputs[role].tokenizer, inputs[role].extra_token_types
        room, limit = longest_input(config), readable_length(config, max_length)
        key = (id(tokenizer), extra, limit)
        encoded = data if "input_ids" in data.column_names else made.get(key)
        if encoded is None and tokenizer is None:
            raise ValueError(
                f"The {role} came without a tokenizer. Pass tokenizer=, or data that is already encoded."
            )
        if encoded is None:
            made[key] = encoded = encode(data, tokenizer, max_length=limit, token_types=extra)
        reads = inputs[role].names - set(LABELS) | ({"labels"} if task_kind(config) == "token" else set())
        columns[role] = {name: encoded[name][:] for name in encoded.column_names if name in reads}
        longest = max(map(len, columns[role]["input_ids"]))
        if room is not None and 0 < room < longest:
            raise ValueError(
                f"A row has {longest} tokens, the {role} reads {room} at most. Pass max_length={room}."
            )
    return columns
