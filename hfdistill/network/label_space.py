"""Class names: whether teacher, student and data mean the same classes, and in which order."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hfdistill.network.task import task_kind

logger = logging.getLogger(__name__)

_UNNAMED = re.compile(r"label_\d+")


class LabelSpaceError(ValueError):
    """Teacher, student or data disagree about the classes."""


def check_same_task(student: Any, teacher: Any) -> None:
    """Refuse a teacher whose outputs mean something else than the student's."""
    own, theirs = task_kind(student), task_kind(teacher)
    if own != theirs:
        raise LabelSpaceError(
            f"The teacher's task is {theirs}, the student's {own} (problem_type, one output for "
            "regression, the architecture for tokens): their outputs mean different things. Set problem_type "
            "and num_labels of the student as the teacher has them, or load both with one task=."
        )


def class_names(config: Any) -> list[str]:
    """Return the class names in column order; LABEL_0 … where the config has none."""
    names = getattr(config, "id2label", None) or {}
    count = getattr(config, "num_labels", len(names))
    return [str(names.get(i, names.get(str(i), f"LABEL_{i}"))) for i in range(count)]


def match_labels(
    student: Any, teacher: Any, *, label_map: Mapping[str | int, str | int] | None = None
) -> list[int] | None:
    """Return for each student class the column of the teacher's logits that means the same.

    Classes are matched by name, case folded. Names such as LABEL_0 say nothing: where only one side has them,
    the order is a guess and `label_map` must say it.

    Args:
        student: its config (num_labels, id2label).
        teacher: its config.
        label_map: teacher class → student class, each a name or a column number, for every class.

    Returns:
        C teacher columns in the student's order, or None where that is the identity.

    Raises:
        LabelSpaceError: for different numbers of classes, names that do not match, or a `label_map` that is
            not one to one.

    Example:
        >>> from types import SimpleNamespace as Config
        >>> student = Config(num_labels=2, id2label={0: "negative", 1: "positive"})
        >>> teacher = Config(num_labels=2, id2label={0: "Positive", 1: "Negative"})
        >>> match_labels(student, teacher)
        [1, 0]
    """
    own, theirs = class_names(student), class_names(teacher)
    if len(own) != len(theirs):
        raise LabelSpaceError(
            f"The teacher has {len(theirs)} outputs ({some(theirs)}) and the student {len(own)} "
            f"({some(own)}), so their logits cannot be compared. Load the student with "
            f"num_labels={len(theirs)}, or choose a teacher with {len(own)} classes."
        )
    columns = _by_name(own, theirs) if label_map is None else _by_map(own, theirs, label_map)
    return None if columns == list(range(len(own))) else columns


def has_names(names: Sequence[str]) -> bool:
    """Whether class names say more than numbers: neither LABEL_0, LABEL_1, … nor "0", "1", … in order."""
    plain = all(_UNNAMED.fullmatch(name.strip().casefold()) for name in names)
    return not plain and list(names) != [str(i) for i in range(len(names))]


def are_numbers(names: Sequence[str]) -> bool:
    """Whether class names are the numbers 0, 1, … in any order, as sorting strings leaves them.

    Of a model without names, "10" is then the class 10, wherever it stands among the names.

    Example:
        >>> are_numbers(["0", "1", "10", "2", "3", "4", "5", "6", "7", "8", "9"]), are_numbers(["1", "2"])
        (True, False)
    """
    return sorted(names) == sorted(str(i) for i in range(len(names)))


def in_order(values: Any) -> list[Any]:
    """Return what stands in an order as a list; an empty one for a set, a text and what is no collection."""
    return [] if isinstance(values, (str, set, frozenset)) or not isinstance(values, Iterable) else [*values]


def with_names(config: Any, names: Sequence[str] | None) -> Any:
    """Return a copy of the config whose classes 0, 1, … have these names; itself where none are given.

    Raises:
        LabelSpaceError: for another number of names, one that stands twice, or classes with other names.
    """
    own, given = class_names(config), [str(name) for name in in_order(names)]
    if names is None or given == own:
        return config
    if len(set(given)) != len(own) or len(given) != len(own):
        raise LabelSpaceError(
            f"label_names is {some(given) or short(names)}, and the model has {len(own)} classes "
            f"({some(own)}). Give a list with a name of its own for each, in this order."
        )
    if has_names(own):
        raise LabelSpaceError(
            f"The model names its classes {some(own)}, label_names {some(given)}. Leave label_names out; to "
            "pair them with another model's, type label_map=."
        )
    named = copy.copy(config)
    named.id2label = dict(enumerate(given))
    named.label2id = {name: i for i, name in named.id2label.items()}
    return named


def class_ids(
    names: Sequence[str], classes: Sequence[str], *, data: str, used: Collection[int] | None = None
) -> list[int | None] | None:
    """Return for each class of the data the number that the model has for the class of this name.

    Names are compared as they are written, else case folded. The data may have fewer classes than the model.
    LABEL_2 is the number 2 of a model whose classes have other names. Where the model's classes have no
    names, the data's are taken in their order.

    Args:
        names: of the data's classes 0, 1, ….
        classes: of the model's, in the order of its outputs.
        data: what messages call the data, such as "train_dataset".
        used: numbers of the data's classes that occur in rows; None where that is not known. Only classes
            that occur must be the model's.

    Returns:
        The model's number for each class of the data, None for one that is not the model's and does not
        occur; or None for the whole where the data's numbers are the model's.

    Raises:
        LabelSpaceError: for classes that the model does not have, with both lists; and for fewer classes than
            those of a model without names, of which nobody knows which they are.

    Example:
        >>> class_ids(["joy", "rage"], ["calm", "fear", "joy", "rage"], data="dev")
        [2, 3]
    """
    exact = {name: i for i, name in enumerate(classes)}
    folded: dict[str, list[int]] = {}
    for i, name in enumerate(classes):
        folded.setdefault(name.strip().casefold(), []).append(i)
    ids: list[int | None] = []
    for name in names:
        near = folded.get(name.strip().casefold(), [])
        ids.append(exact[name] if name in exact else near[0] if len(near) == 1 else None)
    unknown = [i for i, number in enumerate(ids) if number is None and (used is None or i in used)]
    if unknown and (are_numbers(names) or not has_names(names)):
        numbers = [int(name.strip().casefold().removeprefix("label_")) for name in names]
        ids, unknown = list(numbers), [i for i in unknown if numbers[i] >= len(classes)]
    if unknown and not has_names(classes):
        if len(names) < len(classes):
            raise LabelSpaceError(_which_of_them(names, classes, data))
        return None
    if unknown:
        raise LabelSpaceError(_foreign([names[i] for i in unknown], names, classes, data))
    return None if ids == list(range(len(names))) else ids


def _which_of_them(names: Sequence[str], classes: Sequence[str], data: str) -> str:
    return (
        f"{data} has {len(names)} classes, {some(names)}, and the model has {len(classes)} without names "
        "(LABEL_0 …): which of them the data's are would be a guess. Name the model's classes in the order "
        f"of its outputs: label_names=[{short(names[0])}, …] (load_classifier, measure, export, "
        "--label-names), or model.config.id2label = {0: …}."
    )


def _foreign(unknown: Sequence[str], names: Sequence[str], classes: Sequence[str], data: str) -> str:
    return (
        f"{data} has rows of {some(unknown)}, which the model does not have. The data's classes: "
        f"{some(names)}; the model's: {some(classes)}. Name the column that holds the model's classes "
        "(label=, --label COLUMN), write the model's names into the data, leave these rows out, or train a "
        f"model that has these classes: load_classifier(encoder, new_head=[{short(names[0])}, …])."
    )


def in_order_of(labels: Tensor, columns: list[int] | None) -> Tensor:
    """Return labels in another model's order of classes; missing ones stay missing.

    Args:
        labels: (B,) class ids, or (B, C).
        columns: for each class of the labels, the other model's column; None where that is the identity.
    """
    if columns is None:
        return labels
    order = torch.tensor(columns).to(labels.device, non_blocking=True)
    if labels.dim() == 1 or not labels.is_floating_point():
        return order[labels.clamp(min=0)].where(labels >= 0, labels)
    return labels[:, order.argsort()]


def in_columns(logits: Tensor, columns: list[int]) -> Tensor:
    """Return logits (…, C) in another order of classes, without waiting for their device."""
    return logits.index_select(-1, torch.tensor(columns).to(logits.device, non_blocking=True))


def _by_name(own: Sequence[str], theirs: Sequence[str]) -> list[int]:
    folded_own, folded_theirs = [n.strip().casefold() for n in own], [n.strip().casefold() for n in theirs]
    plain_own, plain_theirs = (
        all(_UNNAMED.fullmatch(n) for n in side) for side in (folded_own, folded_theirs)
    )
    if plain_own and are_numbers(folded_theirs):  # LABEL_3 is the class "3"
        folded_own = [name.removeprefix("label_") for name in folded_own]
    elif plain_theirs and are_numbers(folded_own):
        folded_theirs = [name.removeprefix("label_") for name in folded_theirs]
    same = sorted(folded_own) == sorted(folded_theirs) and len(set(folded_own)) == len(own)
    if len(own) == 1 or (plain_own and plain_theirs and not same):
        return list(range(len(own)))
    if same:
        return [folded_theirs.index(name) for name in folded_own]
    example = ", ".join(f"{short(t)}: {short(o)}" for t, o in zip(theirs[:2], own[:2], strict=True))
    if plain_own or plain_theirs:
        side, named = ("student", theirs) if plain_own else ("teacher", own)
        raise LabelSpaceError(
            f"The {side}'s classes have no names (LABEL_0 …), the other side's are {some(named)}: which is "
            "which would be a guess. Say it, teacher to student: "
            f"label_map={{{example}{', …' if len(own) > 2 else ''}}}, or give the {side} its names: "
            f"config.id2label = {{0: {short(named[0])}, …}}."
        )
    odd = [n for n, f in zip(theirs, folded_theirs, strict=True) if f not in folded_own]
    lone = [n for n, f in zip(own, folded_own, strict=True) if f not in folded_theirs]
    raise LabelSpaceError(
        f"The teacher's classes {some(odd or theirs)} do not match the student's {some(lone or own)} "
        "by name. Say which is which, teacher to student: "
        f"label_map={{{example}{', …' if len(own) > 2 else ''}}}."
    )


def _by_map(own: Sequence[str], theirs: Sequence[str], label_map: Mapping[str | int, str | int]) -> list[int]:
    columns: dict[int, int] = {}
    for teacher_class, student_class in label_map.items() if isinstance(label_map, Mapping) else ():
        columns[_column(student_class, own, "student")] = _column(teacher_class, theirs, "teacher")
    if len(columns) != len(own) or len(set(columns.values())) != len(own) or len(label_map) != len(own):
        raise LabelSpaceError(
            f"label_map={label_map!r} must pair each of the {len(own)} teacher classes {some(theirs)} "
            f"with another student class {some(own)}: label_map={{{short(theirs[0])}: {short(own[0])}, …}}."
        )
    return [columns[i] for i in range(len(own))]


def _column(name: str | int, names: Sequence[str], side: str) -> int:
    folded = [n.strip().casefold() for n in names]
    if isinstance(name, int) and 0 <= name < len(names):
        return name
    if isinstance(name, str) and name.strip().casefold() in folded:
        return folded.index(name.strip().casefold())
    raise LabelSpaceError(
        f"label_map names {name!r}, which is not a class of the {side}. Its classes: {some(names)}."
    )


def some(names: Sequence[str]) -> str:
    """Return names for a message, at most six of them, control characters shown as escapes."""
    shown = ", ".join(short(name) for name in names[:6])
    return shown + (f", … {len(names) - 6} more" if len(names) > 6 else "")


def short(value: Any) -> str:
    """Return a value for a message, control characters shown as escapes, cut at 60 characters."""
    value = value.item() if isinstance(value, np.generic) else value
    shown = repr(value[:60] if isinstance(value, (str, list)) else value)
    return shown if len(shown) <= 80 else f"{shown[:80]}…"
