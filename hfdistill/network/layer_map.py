"""A `LayerMap` says which student layer learns from which teacher layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

_NAMES = {name: name for name in ("uniform", "first", "last", "pkd-skip", "pkd-last")} | {"skip": "pkd-skip"}
_ADVICE = "Write 'uniform', 'first', 'last', 'pkd-skip', 'pkd-last', or pairs such as '1:3, 2:6'."
_PAIR = re.compile(r"\s*(last|[0-9]+)\s*:\s*(last|[0-9]+)\s*")

End = int | str
"""A layer in an explicit pair: a number, or "last"."""


class LayerMap:
    """Which student layer learns from which teacher layer; student:teacher, layer 0 being the embeddings.

    With M student and N teacher layers, j = 1…M:

    - `uniform`: j → g(j) = round(j·N/M), halves up (TinyBERT, arXiv 1909.10351), the blocks that
      `shrink(layers=M)` keeps.
    - `first`: j → j.
    - `last`: j → N - M + j.
    - `pkd-skip`, or `skip`: uniform without the last student layer, which the logits teach (PKD, arXiv
      1908.09355).
    - `pkd-last`: last without the last student layer.
    - pairs: "1:3, 2:6", {1: 3, 2: 6} or [(1, 3), (2, 6)]; "last" stands for M on the left, N on the right.

    Args:
        layers: one of these.

    Raises:
        ValueError: for another name, pairs that cannot be read, or a student layer that stands twice.

    Example:
        >>> LayerMap("uniform").resolve(4, 6)
        ((1, 2), (2, 3), (3, 5), (4, 6))
        >>> LayerMap("0:0, last:last").resolve(3, 12)
        ((0, 0), (3, 12))

    When to use which: `uniform` for a student that `shrink` cut; `pkd-skip` with a term on logits; explicit
    pairs for a student cut by a list of layers. `last` is the usual loser of the papers' comparisons.
    """

    def __init__(self, layers: Layers = "uniform") -> None:
        self.rule: str | tuple[tuple[End, End], ...]
        if isinstance(layers, LayerMap):
            self.rule = layers.rule
        elif isinstance(layers, str):
            self.rule = _NAMES.get(layers.strip().lower()) or _read(layers)
        else:
            self.rule = _pairs(layers)
        if not isinstance(self.rule, str):
            _refuse_twice([student for student, _ in self.rule], text=str(self))

    def resolve(
        self, student_depth: int, teacher_depth: int, *, lowest: int = 0
    ) -> tuple[tuple[int, int], ...]:
        """Return the pairs (student layer, teacher layer), in the student's order.

        Args:
            student_depth: M.
            teacher_depth: N.
            lowest: 1 where the embeddings have nothing to compare, as in attention.

        Raises:
            ValueError: a layer is out of range, a student layer stands twice, or no pair is left.
        """
        pairs = _named(self.rule, student_depth, teacher_depth) if isinstance(self.rule, str) else self.rule
        numbers = [(_number(s, student_depth), _number(t, teacher_depth)) for s, t in pairs]
        uniform = [(s, max(lowest, t)) for s, t in _named("uniform", student_depth, teacher_depth)]
        proposal = f"The uniform map of these two is '{pairs_text(uniform)}'. Type layers='uniform'."
        if not numbers:
            raise ValueError(
                f"The layer map {self} pairs no layers of a student of {student_depth} layers with a teacher "
                f"of {teacher_depth}, so nothing would be learnt. {proposal}"
            )
        for student, teacher in numbers:
            if not lowest <= student <= student_depth or not lowest <= teacher <= teacher_depth:
                raise ValueError(
                    f"The layer map {self} has the pair {student}:{teacher}, but the student's layers are "
                    f"{lowest} to {student_depth} and the teacher's {lowest} to {teacher_depth}. {proposal}"
                )
        _refuse_twice([student for student, _ in numbers], text=str(self))
        return tuple(sorted(numbers))

    def __str__(self) -> str:
        return self.rule if isinstance(self.rule, str) else ", ".join(f"{s}:{t}" for s, t in self.rule)

    def __repr__(self) -> str:
        return f"LayerMap({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LayerMap) and self.rule == other.rule

    def __hash__(self) -> int:
        return hash(self.rule)


Layers: TypeAlias = LayerMap | str | Mapping[Any, Any] | Iterable[Iterable[Any]]


def uniform(layer: int, *, student_depth: int, teacher_depth: int) -> int:
    """Return the teacher layer g(m) = round(m·N/M), halves up, of student layer m."""
    return (2 * layer * teacher_depth + student_depth) // (2 * student_depth)


def layers_of_cut(student: Any, teacher: Any) -> str:
    """Return the map from a student's blocks to the teacher's that they were cut from, or to the nearest.

    Args:
        student: its config; `shrunk_from` names the blocks.
        teacher: its config; one that was cut from the same model keeps some of the same blocks.

    Returns:
        "uniform" for a student that was not cut, or cut evenly; else pairs, such as "1:1, 2:2, 3:6".
    """
    own, other = (getattr(config, "shrunk_from", None) or {} for config in (student, teacher))
    depth = getattr(teacher, "num_hidden_layers", 0)
    blocks, there = list(own.get("layers", ())), list(range(1, depth + 1))
    if other and other.get("model") == own.get("model") and len(other.get("layers", ())) == depth:
        there = list(other["layers"])
    if not blocks or not there or len(blocks) != getattr(student, "num_hidden_layers", 0):
        return "uniform"
    nearest = [min(range(depth), key=lambda i: (abs(there[i] - block), -i)) + 1 for block in blocks]
    uniform = [pair[1] for pair in _named("uniform", len(blocks), depth)]
    return "uniform" if nearest == uniform else pairs_text(enumerate(nearest, start=1))


def pairs_text(pairs: Iterable[tuple[int, int]]) -> str:
    """Return pairs in their written form: 1:2, 2:4."""
    return ", ".join(f"{student}:{teacher}" for student, teacher in pairs)


def _named(name: str, student_depth: int, teacher_depth: int) -> list[tuple[int, int]]:
    layers = range(1, student_depth + (0 if name.startswith("pkd") else 1))
    shift = 0 if name == "first" else teacher_depth - student_depth
    if name in ("uniform", "pkd-skip"):
        return [(m, uniform(m, student_depth=student_depth, teacher_depth=teacher_depth)) for m in layers]
    return [(m, m + shift) for m in layers]


def _number(end: End, depth: int) -> int:
    return depth if isinstance(end, str) else end


def _read(text: str) -> tuple[tuple[End, End], ...]:
    """Return pairs out of "1:3, 2:6"."""
    matches = [_PAIR.fullmatch(part) for part in text.split(",")]
    if not all(matches):
        raise ValueError(f"The layer map {text!r} cannot be read. {_ADVICE}")
    return _pairs([match.groups() for match in matches if match])


def _pairs(layers: Any) -> tuple[tuple[End, End], ...]:
    """Return pairs out of a mapping or a list of them."""
    try:
        pairs = [tuple(pair) for pair in (layers.items() if isinstance(layers, Mapping) else layers)]
    except TypeError:
        pairs = []
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"The layer map {layers!r} cannot be read. {_ADVICE}")
    return tuple((_end(student), _end(teacher)) for student, teacher in pairs)


def _end(value: Any) -> End:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if value == "last" or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise ValueError(f"The layer map names {value!r}, which is neither a layer number nor 'last'. {_ADVICE}")


def _refuse_twice(students: list[Any], *, text: str) -> None:
    twice = [layer for layer in students if students.count(layer) > 1]
    if twice:
        raise ValueError(
            f"The layer map {text} names student layer {twice[0]} twice: a student layer learns from one "
            f"teacher layer. Drop one of the pairs, or use two terms with a map each, layers=."
        )
