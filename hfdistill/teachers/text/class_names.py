"""The names of classes as sentences that a model can read."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

from hfdistill.network.label_space import short, some

Classes: TypeAlias = Sequence[str] | Mapping[str, str | Sequence[str]]


def read_classes(classes: Classes | None, *, at_least: int = 2) -> dict[str, list[str]]:
    """Return the words that describe each class: its name in plain words, or its descriptions.

    Example:
        >>> read_classes(["card_arrival", "topUp"])
        {'card_arrival': ['card arrival'], 'topUp': ['top up']}
    """
    if classes is None or isinstance(classes, str) or len(classes) < at_least:
        raise ValueError(f"classes names two classes or more, found {short(classes)}.")
    check_names(classes)
    if not isinstance(classes, Mapping):
        return {str(name): [plain_words(str(name))] for name in classes}
    read = {str(n): [text] if isinstance(text, str) else list(text) for n, text in classes.items()}
    empty = [name for name, texts in read.items() if not texts or not all(text.strip() for text in texts)]
    if empty:
        raise ValueError(f"The class {short(empty[0])} has an empty description. Describe it in a few words.")
    return read


def check_names(classes: Collection[Any]) -> None:
    """Refuse a set, a class without a name, and two that differ by case or spaces alone."""
    if isinstance(classes, (set, frozenset)):
        raise ValueError(
            f"classes is a set, {short(sorted(map(str, classes)))}, which has no order. Give a list."
        )
    names = [str(name) for name in classes]
    folded = [folded_name(name) for name in names]
    repeated = [name for name, own in zip(names, folded, strict=True) if folded.count(own) > 1]
    if repeated:
        raise ValueError(f"classes names {some(repeated)} twice. Give each class a name of its own.")
    if "" in folded:
        raise ValueError(f"classes names {some(names)}, one of which is empty. Give each class a name.")


def plain_words(name: str) -> str:
    """Return a class name in plain words: card_arrival and cardArrival become "card arrival"; USA stays."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", " ", name)
    words = re.sub(r"[_\-./\s]+", " ", parted).strip().split(" ")
    changed = parted != name
    return " ".join(word.lower() if changed and not word.isupper() else word for word in words) or name


def read_templates(template: str | Sequence[str]) -> list[str]:
    """Return templates with one place for the class."""
    templates = [template] if isinstance(template, str) else list(template)
    for each in templates or [""]:
        if each.count("{}") != 1:
            raise ValueError(
                f"The template {short(each)} has no single place for the class. Write {{}} once, as in "
                "'This example is {}.'."
            )
    return templates


def folded_name(name: Any) -> str:
    """Return a name as names are compared: without case, and spaces around it."""
    return str(name).strip().casefold()


def column_of(name: Any, columns: Mapping[str, int]) -> int | None:
    """Return the column of a class that is named, or numbered; None for one that is not there.

    A number is the place of a class, unless all classes are named by numbers: 0 is none of the stars 1 to 5,
    and 2 is their second. True and False are names.

    Args:
        name: of the class, or its number.
        columns: by `folded_name`.

    Example:
        >>> column_of(1, {"bad": 0, "good": 1}), column_of(1, {"1": 0, "2": 1})
        (1, 0)
    """
    own = folded_name(name)
    column = columns.get(own)
    named_by_numbers = all(known.isdecimal() for known in columns)
    if column is None and not (isinstance(name, bool) or named_by_numbers) and own.isdecimal():
        column = int(own) if int(own) < len(columns) else None
    return column
