"""The names of classes as sentences that a model can read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from hfdistill.network.label_space import short

Classes: TypeAlias = Sequence[str] | Mapping[str, str | Sequence[str]]


def read_classes(classes: Classes | None, *, at_least: int = 2) -> dict[str, list[str]]:
    """Return the words that describe each class: its name in plain words, or its descriptions.

    Example:
        >>> read_classes(["card_arrival", "topUp"])
        {'card_arrival': ['card arrival'], 'topUp': ['top up']}
    """
    if classes is None or isinstance(classes, str) or len(classes) < at_least:
        raise ValueError(f"classes names two classes or more, found {short(classes)}.")
    if not isinstance(classes, Mapping):
        return {str(name): [plain_words(str(name))] for name in classes}
    read = {str(n): [text] if isinstance(text, str) else list(text) for n, text in classes.items()}
    empty = [name for name, texts in read.items() if not texts or not all(text.strip() for text in texts)]
    if empty:
        raise ValueError(f"The class {short(empty[0])} has an empty description. Describe it in a few words.")
    return read


def plain_words(name: str) -> str:
    """Return a class name in plain words: card_arrival and cardArrival become "card arrival"; USA stays."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", " ", name)
    words = re.sub(r"[_\-./\s]+", " ", parted).strip().split(" ")
    changed = parted != name
    return " ".join(word.lower() if changed and not word.isupper() else word for word in words) or name


def read_templates(template: str | Sequence[str]) -> list[str]:
    """Return templates with one place for the class."""
    templates = [template] if isinstance(template, str) else list(template)
    for each in templates:
        if each.count("{}") != 1 or not templates:
            raise ValueError(
                f"The template {short(each)} has no single place for the class. Write {{}} once, as in "
                "'This example is {}.'."
            )
    return templates
