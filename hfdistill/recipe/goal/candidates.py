"""The students that could meet a goal: what is cut from the teacher, and what is made beside it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hfdistill.network.architectures import ModelSpec, layout_of
from hfdistill.recipe.goal.target import KINDS
from hfdistill.recipe.schema import Student

DEPTHS = 6
"""Depths that are tried of a deeper teacher, spread evenly; all of a shallower one."""
CUT = {"epochs": 1.0, "rate": 1.0}
DRAWN = {"epochs": 3.0, "rate": 10.0}
"""How many times as many epochs, and what multiple of the learning rate: students whose weights are the
teacher's, and those whose weights are drawn at random."""


@dataclass(frozen=True)
class Candidate:
    """One student that could meet the goal.

    Args:
        name: what tables and pictures call it, such as "3 layers, half the neurons".
        plan: how it is made.
        fits: whether it is a cut that can be fitted to the teacher before it is trained.
        is_whole: whether it is the teacher itself, of which nothing is cut.
    """

    name: str
    plan: Student
    fits: bool
    is_whole: bool = False

    @property
    def is_cut(self) -> bool:
        """Whether its weights are the teacher's, so that it answers before it is trained."""
        return self.plan.kind == "shrink"

    @property
    def training(self) -> dict[str, float]:
        """How many times as many epochs as a cut it takes, and what multiple of the learning rate."""
        return CUT if self.is_cut else DRAWN

    @property
    def slug(self) -> str:
        """The name as a folder.

        Example:
            >>> Candidate("3 layers, half the width", Student("shrink", {}), fits=True).slug
            '3-layers-half-the-width'
        """
        return re.sub(r"\W+", "-", self.name.lower()).strip("-")


def candidates(teacher: Any, kinds: Collection[str] | None = None) -> list[Candidate]:
    """List the students of a teacher, the smallest first.

    Depths are 1 to N of N layers, or six spread evenly; the whole depth is the teacher itself, which may meet
    a budget in 8 bits or with fewer tokens. Half the neurons and half the width (with half the heads) are cut
    from the whole teacher and from half of its layers.

    Raises:
        ValueError: the architecture is not known, and nothing else than its cuts is asked for.
    """
    chosen = set(KINDS if kinds is None else kinds)
    width = min(256, *teacher.get_input_embeddings().weight.shape)
    without_attention: dict[str, dict[str, Any]] = {"static": {"width": width}, "CNN": {}, "BiLSTM": {}}
    listed = [
        Candidate(name, Student(name.lower(), arguments), fits=False)
        for name, arguments in without_attention.items()
        if name.lower() in chosen
    ]
    if not chosen & {"layers", "neurons", "width"}:
        return listed
    try:
        spec, layout = ModelSpec.of(teacher), layout_of(teacher)
    except ValueError:
        if not listed:
            raise
        return listed
    fields = {} if layout.narrow_reason else {"ffn": layout.neurons, "heads": layout.heads}
    sizes = {name: getattr(teacher.config, field, 0) for name, field in fields.items()}
    depths = [spec.depth] if layout.fixed(teacher.config) else _depths(spec.depth)
    for name, arguments in _cuts(spec.depth, depths, chosen, sizes):
        whole = arguments == {"layers": spec.depth}
        fits = bool(layout.sums) and not layout.shared and not whole
        listed.append(Candidate(name, Student("shrink", arguments), fits, whole))
    return listed


def _depths(depth: int) -> list[int]:
    """Return how many layers to try.

    Example:
        >>> _depths(4), _depths(12), _depths(24)
        ([1, 2, 3, 4], [2, 4, 6, 8, 10, 12], [4, 8, 12, 16, 20, 24])
    """
    if depth <= DEPTHS:
        return list(range(1, depth + 1))
    return [round(depth * n / DEPTHS) for n in range(1, DEPTHS + 1)]


def _cuts(
    depth: int, depths: Sequence[int], chosen: Collection[str], sizes: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield names and arguments of `shrink`, from few layers to many, narrow ones before whole ones."""
    half = max(count for count in depths if count <= max(depths[0], depth // 2))
    for layers in depths:
        name = f"{layers} layer{'' if layers == 1 else 's'}"
        for kind, part in (("width", "heads"), ("neurons", "ffn")) if layers in (half, depth) else ():
            size = sizes.get(part, 0)
            if kind in chosen and isinstance(size, int) and size >= 2 and size % 2 == 0:
                yield f"{name}, half the {kind}", {"layers": layers, part: size // 2}
        if "layers" in chosen:
            yield name, {"layers": layers}
