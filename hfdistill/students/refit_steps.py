"""Which weights of a cut model are fitted, in which order, and to which of its teacher's values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hfdistill.network.architectures import Layout, ModelSpec, blocks_path, layout_of
from hfdistill.students.activations import Batch, Place, forward_inputs, read
from hfdistill.students.width_pruning import kind_of, spread_over_parts


@dataclass(frozen=True, eq=False)
class Cut:
    """What a student kept of its teacher.

    Args:
        layers: numbers of the teacher's blocks, from 1.
        indices: of hidden dimensions, heads' dimensions and neurons that stayed, as `width_pruning`
            names them; empty where blocks alone were cut.
    """

    layers: Sequence[int]
    indices: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Part:
    """One projection, and what its output is to lead to.

    Args:
        module: its name in the student.
        own: where the value stands that its output is or is added to.
        target: where the teacher has that value.
        indices: entries of the teacher's value that the student has; None for all.
    """

    module: str
    own: Place
    target: Place
    indices: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Step:
    """Projections of one input, fitted together.

    Args:
        name: for the log.
        parts: one or more.
    """

    name: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, eq=False)
class Group:
    """Steps that read behind the same blocks.

    Args:
        steps: in order.
        student: how many of the student's blocks come before them.
        teacher: how many of the teacher's.
    """

    steps: tuple[Step, ...]
    student: int
    teacher: int


def block_steps(student: Any, teacher: Any, cut: Cut, batch: Batch) -> list[Group]:
    """Return the steps of each kept block, first to last.

    The projections of what the attention reads, query, key and value, and the first one of the feed-forward
    network are to give what they give in the teacher's own block. Those that end in a residual sum are to
    make it the sum of the teacher's block; in the last block, of the teacher's last, whichever was kept.

    Args:
        student: the cut model.
        teacher: the whole one.
        cut: what was kept.
        batch: rows to run the student on, which tells which projections are given the same input.
    """
    layout = layout_of(teacher)
    depths = [*cut.layers[:-1], ModelSpec.of(teacher).depth]
    prefixes = (blocks_path(student), blocks_path(teacher))
    groups = []
    for index, (source, depth) in enumerate(zip(cut.layers, depths, strict=True)):
        names = (f"{prefixes[0]}.{index}", f"{prefixes[1]}.{source - 1}", f"{prefixes[1]}.{depth - 1}")
        builder = _BlockSteps(student, teacher, layout, cut, source, names)
        steps = [
            Step(f"block {index + 1}, {name}", tuple(parts))
            for name, together in builder.steps()
            for parts in _by_input(student, together, batch)
        ]
        groups.append(Group(tuple(steps), student=index, teacher=source - 1))
    return groups


def _by_input(student: Any, parts: Sequence[Part], batch: Batch) -> list[list[Part]]:
    """Return parts grouped by what they are given: MobileBERT's value reads another state than its query."""
    if len(parts) == 1:
        return [list(parts)]
    inputs = read(student, batch, [Place(part.module, "input") for part in parts])
    biased = [student.get_submodule(part.module).bias is not None for part in parts]
    groups: list[list[int]] = []
    for i, value in enumerate(inputs):
        for group in groups:
            same = biased[i] == biased[group[0]] and value.shape == inputs[group[0]].shape
            if same and torch.equal(value, inputs[group[0]]):
                group.append(i)
                break
        else:
            groups.append([i])
    return [[parts[i] for i in group] for group in groups]


@dataclass(frozen=True, eq=False)
class _BlockSteps:
    """The steps of one block.

    Args:
        student: the cut model.
        teacher: the whole one.
        layout: of both.
        cut: what was kept.
        source: number of the teacher's block that was kept.
        names: of the student's block, of the block it was, and of the one whose sums it is to reach.
    """

    student: Any
    teacher: Any
    layout: Layout
    cut: Cut
    source: int
    names: tuple[str, str, str]

    def steps(self) -> Iterator[tuple[str, tuple[Part, ...]]]:
        """Yield the name and the parts of each step."""
        layout = self.layout
        inputs = [path for path in (layout.query, layout.key, layout.value, layout.fused) if path]
        if inputs:
            yield "query, key, value", tuple(self._inner(path) for path in inputs)
        for number, (path, norm) in enumerate(layout.sums):
            if number == 1:
                yield layout.up, (self._inner(layout.up),)
            yield path, (self._sum(path, norm),)

    def _inner(self, path: str) -> Part:
        own, origin, _ = (f"{name}.{path}" for name in self.names)
        indices = self._indices(kind_of(self.layout, f"{path}.weight", 0), own, origin)
        return Part(own, Place(own, "output"), Place(origin, "output"), indices)

    def _sum(self, path: str, norm: str) -> Part:
        own, _, reached = (f"{name}.{norm}".rstrip(".") for name in self.names)
        side: Any = "input" if norm else "output"
        module = f"{self.names[0]}.{path}"
        indices = self._indices("width", module, f"{self.names[1]}.{path}")
        return Part(module, Place(own, side), Place(reached, side), indices)

    def _indices(self, kind: str, own: str, theirs: str) -> Tensor | None:
        """Return which outputs of the teacher's module are the student's; None for all."""
        new, old = (m.get_submodule(n).out_features for m, n in ((self.student, own), (self.teacher, theirs)))
        if new == old:
            return None
        choices = self.cut.indices[kind]
        chosen = choices[self.source - 1] if len(choices) > 1 else choices[0]
        return spread_over_parts(chosen, old, new)


def head_steps(student: Any, teacher: Any, cut: Cut, batch: Batch) -> Group:
    """Return a step for each linear layer that a forward pass calls after the blocks, as the classifier.

    Layers that share their weight with another part, as a decoder of words does, are left as they are.

    Args:
        student: the cut model.
        teacher: the whole one.
        cut: what was kept.
        batch: rows to run the student on.
    """
    steps = []
    uses = Counter(id(p) for m in student.modules() for p in m.parameters(recurse=False))
    for name in _called_after_blocks(student, batch):
        module, theirs = student.get_submodule(name), teacher.get_submodule(name)
        if uses[id(module.weight)] > 1:
            continue
        smaller = module.out_features != theirs.out_features
        width = cut.indices["width"][0] if smaller else None
        if width is not None:
            width = spread_over_parts(width, theirs.out_features, module.out_features)
        steps.append(Step(name, (Part(name, Place(name, "output"), Place(name, "output"), width),)))
    depth = ModelSpec.of(teacher).depth
    return Group(tuple(steps), student=len(cut.layers), teacher=depth)


def reads_first_token(student: Any, head: Group, batch: Batch) -> bool:
    """Whether the first layer of the head is given the last hidden state of the first token, and no other."""
    if not head.steps:
        return False
    (inputs,) = read(student, batch, [Place(head.steps[0].parts[0].module, "input")])
    base: Any = student.base_model
    with torch.no_grad():
        states = base(**forward_inputs(base, batch))[0]
    return inputs.dim() == 2 and inputs.shape == states[:, 0].shape and torch.equal(inputs, states[:, 0])


def _called_after_blocks(model: Any, batch: Batch) -> list[str]:
    """Return the names of the linear layers that are called after the last block, in that order."""
    prefix, calls = f"{blocks_path(model)}.", list[str]()
    last = model.get_submodule(f"{prefix}{ModelSpec.of(model).depth - 1}")
    with torch.no_grad(), ExitStack() as hooks:
        hooks.enter_context(last.register_forward_hook(lambda *_: calls.clear()))
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and not name.startswith(prefix):
                note = lambda *_, name=name: calls.append(name)  # noqa: E731
                hooks.enter_context(module.register_forward_hook(note))
        model(**forward_inputs(model, batch))
    return list(dict.fromkeys(calls))
