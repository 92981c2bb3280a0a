"""Fits what was kept of a teacher to what the whole teacher does, in closed form and without labels."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hfdistill.files.progress import Progress
from hfdistill.network.architectures import ModelSpec, layout_of
from hfdistill.network.block_calls import evaluating
from hfdistill.students.activations import Batch, Place, Reader, forward_inputs
from hfdistill.students.least_squares import NormalEquations, best_ridge, exact_device
from hfdistill.students.refit_steps import Cut, Group, Part, Step, block_steps, head_steps, reads_first_token

logger = logging.getLogger(__name__)

MEMORY = 1 << 29
"""Bytes held at once of each of three: the teacher's values, and hidden states on both sides. What is more is
computed again."""


@dataclass(frozen=True)
class Refit:
    """How `shrink(teacher, ..., fit=Refit(texts))` fits what it keeps to what the whole teacher does.

    Block by block, and each time on what the student itself gives so far, by ridge regression in float64, on
    the student's device where that has float64:

    1. query, key and value, then the first feed-forward projection: to what they give in the teacher;
    2. the attention's output projection: so that the sum that it ends in (before its LayerNorm; the residual
       stream where norms come first) is the teacher's at the mapped depth;
    3. the feed-forward network's last projection, likewise;
    4. pooler and head: to what they give in the teacher, at last its logits.

    Δ = argmin Σ w ‖t - s - Δf‖² + λ ‖Δ‖²,  λ = ridge · mean_i Σ w f_i²,  W ← W + Δ

    where f is the projection's input and a 1 for its bias, s what the student's value is, t what the
    teacher's is, and the sum runs over real tokens. What was not cut stays as it was, since t = s. Sums alone
    are kept, so the memory does not grow with the texts. No label is read and no gradient is taken.

    Kwon et al. 2022 (arXiv 2204.09656) tune masks of heads and neurons by least squares on a layer's output;
    ZipLM (Kurtic et al. 2023, arXiv 2302.04089) updates the weights behind what it cuts; LLM-Streamline (Chen
    et al. 2024, arXiv 2403.19135) and ReplaceMe (Shopkhoev et al. 2025, arXiv 2505.02819) put one fitted
    module in the place of several blocks. Here the blocks that stay are fitted, so no parameter is added.

    Args:
        texts: strings, pairs of strings, a data set with columns of text (or of words), the path of a file or
            folder of them, or batches as the model reads them. 1,500 do; they should be like those that the
            student will read.
        ridge: strength of the pull towards the present weights, such as 1e-3; "held_out" takes, for each
            step, the one of 1e-5, 1e-4, … 1 that leaves least on every fifth text, or no change at all.
        sweeps: how often all projections are fitted, one after the other.
        first_token: weight of the first token where the head reads it alone, as in BERT; others weigh 1.
        rows: texts used at most, drawn by a fixed seed; None for all.
        max_length: tokens per text; None for what tokenizer and model allow, at most 512.
        choose_layers: try which blocks to keep, where `layers` is a number: all choices up to 64, else one
            block after the other is left out. The one is taken whose refitted logits are nearest to the
            teacher's on held-out texts, 256 texts in all.

    Raises:
        ValueError: for a ridge below 0, fewer than one sweep, or a weight that is not positive.

    Example:
        >>> Refit(["a warm film", "a dull plot"], ridge=1e-3).sweeps
        1
    """

    texts: Any
    ridge: float | Literal["held_out"] = "held_out"
    sweeps: int = 1
    first_token: float = 1.0
    rows: int | None = 2000
    max_length: int | None = None
    choose_layers: bool = False

    def __post_init__(self) -> None:
        numeric = not isinstance(self.ridge, (str, bool)) and self.ridge >= 0
        if self.ridge != "held_out" and not numeric:
            raise ValueError(f"ridge={self.ridge!r} is not a strength. Write 0 or more, or ridge='held_out'.")
        if isinstance(self.sweeps, bool) or not isinstance(self.sweeps, int) or self.sweeps < 1:
            raise ValueError(f"sweeps={self.sweeps!r} fits nothing. Write sweeps=1 or more.")
        if not self.first_token > 0:
            raise ValueError(
                f"first_token={self.first_token!r} is not a weight. Write more than 0, such as 10."
            )
        if self.rows is not None and self.rows < 1:
            raise ValueError(f"rows={self.rows!r} leaves no text. Write rows=1500, or None for all.")


@dataclass(frozen=True)
class Fitted:
    """What fitting one projection, or several of one input, did on the held-out texts.

    Args:
        name: which.
        before: squared error as a share of the teacher's variance, before.
        after: the same afterwards.
        ridge: the strength that was used.
    """

    name: str
    before: float
    after: float
    ridge: float


def check_refit(model: Any) -> None:
    """Refuse an architecture whose blocks cannot be fitted.

    Raises:
        ValueError: naming the reason and what to type.
    """
    layout, kind = layout_of(model), ModelSpec.of(model).model_type
    if layout.shared:
        raise ValueError(
            f"fit= cannot fit the blocks of this {kind}: {layout.shared}, and one projection cannot equal "
            "several depths. Leave fit= away, or cut a teacher whose layers have weights of their own."
        )
    if not layout.sums:
        raise ValueError(
            f"fit= cannot fit the blocks of this {kind}: its layout does not say where its sums end. "
            f"Add sums= to it, as in register_anatomy({kind!r}, Layout(..., sums=(('attention.output.dense', "
            "'attention.output.LayerNorm'), ('output.dense', 'output.LayerNorm'))), replace=True)."
        )


def refit(
    student: Any, teacher: Any, cut: Cut, plan: Refit, batches: tuple[Sequence[Batch], Sequence[Batch]]
) -> list[Fitted]:
    """Fit a cut model to its teacher, in place.

    Args:
        student: the cut model, in float32 and evaluation mode.
        teacher: the model that it was cut from.
        cut: what was kept.
        plan: how; its texts are not read here.
        batches: to fit on, and held out.

    Returns:
        A line for each step, in order.
    """
    with evaluating(teacher):
        probe = {name: value[:2] for name, value in batches[0][0].items()}  # tells which modules are called
        head = head_steps(student, teacher, cut, probe)
        first = plan.first_token if reads_first_token(student, head, probe) else 1.0
        groups = [*block_steps(student, teacher, cut, probe), head]
        ridge = None if isinstance(plan.ridge, str) else plan.ridge
        lines: list[Fitted] = []
        total = plan.sweeps * sum(len(group.steps) for group in groups)
        with Progress("fitting", total=total, unit="projections", show="log") as progress:
            for _ in range(plan.sweeps):
                fit = _Fit(Reader(student, room=MEMORY), Reader(teacher, room=MEMORY), ridge, first, batches)
                for line in itertools.chain.from_iterable(map(fit.group, groups)):
                    lines.append(line)
                    progress.update()
        return lines


@dataclass(frozen=True, eq=False)
class _Fit:
    """Fits steps, one after the other.

    Args:
        student: reads what is fitted.
        teacher: gives the values that the student is fitted to.
        ridge: as in `Refit`; None to choose it for each step.
        first: weight of each text's first token.
        batches: to fit on, and held out.
    """

    student: Reader
    teacher: Reader
    ridge: float | None
    first: float
    batches: tuple[Sequence[Batch], Sequence[Batch]]

    def group(self, group: Group) -> Iterator[Fitted]:
        """Fit the steps of a block, whose values in the teacher are read in one pass."""
        targets = _Targets(self.teacher, group)
        for step in group.steps:
            yield self.step(step, targets)

    def step(self, step: Step, targets: _Targets) -> Fitted:
        """Fit one step on all texts; the errors are those of a fit without the held-out ones."""
        fit, held_out = (_Sums.of(self, step, targets, side) for side in (0, 1))
        if self.ridge is None:
            ridge, after = best_ridge(fit.equations, held_out.equations)
        else:
            ridge, after = self.ridge, held_out.equations.remaining(fit.equations.solve(self.ridge))
        before = held_out.equations.residual
        change = (fit.equations + held_out.equations).solve(ridge)
        outputs = 0
        for part in step.parts:
            module = self.student.model.get_submodule(part.module)
            _change(module, change[:, outputs : outputs + module.out_features])
            outputs += module.out_features
        scale = held_out.variance() or 1.0
        line = Fitted(step.name, before / scale, after / scale, ridge)
        logger.info("%s: error %.3f → %.3f of the teacher's variance (ridge %g)", *astuple(line))
        return line


def _change(module: nn.Linear, change: Tensor) -> None:
    """Add (P, D) to a layer's weight, and its last row to the bias where there is one."""
    with torch.no_grad():
        module.weight.copy_(module.weight.to(change) + change[: module.in_features].T)
        if module.bias is not None:
            module.bias.copy_(module.bias.to(change) + change[-1])


class _Targets:
    """The teacher's values of a group of steps; as much as fits in `MEMORY` is held, the rest read again."""

    def __init__(self, teacher: Reader, group: Group) -> None:
        self.teacher, self.group = teacher, group
        self.places = sorted({part.target for step in group.steps for part in step.parts})
        self.held: dict[tuple[int, int], dict[Place, Tensor]] = {}
        self.room = MEMORY

    def of(self, batch: Batch, key: tuple[int, int], step: Step) -> list[Tensor]:
        """Return the values of one step for the batch of this key."""
        wanted = [part.target for part in step.parts]
        if key not in self.held:
            read = self.teacher.read(batch, key, self.places, behind=self.group.teacher)
            values = dict(zip(self.places, read, strict=True))
            size = sum(value.numel() * value.element_size() for value in read)
            if size > self.room:
                return [values[place] for place in wanted]
            self.room -= size
            self.held[key] = values
        return [self.held[key][place] for place in wanted]


@dataclass(eq=False)
class _Sums:
    """The normal equations of a step, and what its targets vary by."""

    equations: NormalEquations
    total: Tensor
    square: float = 0.0

    @classmethod
    def of(cls, fit: _Fit, step: Step, targets: _Targets, side: int) -> _Sums:
        """Return the sums over the batches of one side: 0 to fit on, 1 held out."""
        modules = [fit.student.model.get_submodule(part.module) for part in step.parts]
        outputs = sum(module.out_features for module in modules)
        features = modules[0].in_features + (modules[0].bias is not None)
        equations = NormalEquations(features, outputs, device=exact_device(modules[0].weight.device))
        sums = cls(equations, equations.cross.new_zeros(outputs))
        places = [Place(step.parts[0].module, "input"), *(part.own for part in step.parts)]
        for number, batch in enumerate(fit.batches[side]):
            theirs = targets.of(batch, (side, number), step)
            inputs, *own = fit.student.read(batch, (side, number), places, behind=targets.group.student)
            chosen = [_part(value, part) for value, part in zip(theirs, step.parts, strict=True)]
            inputs, present, target = (
                torch.cat([value.to(sums.total) for value in values], -1)
                for values in ([inputs], own, chosen)
            )
            if modules[0].bias is not None:
                inputs = torch.cat([inputs, inputs.new_ones(*inputs.shape[:-1], 1)], -1)
            weights = _weights(batch, inputs, fit.first)
            rows = weights > 0
            sums.add(inputs[rows], present[rows], target[rows], weights[rows])
        return sums

    def add(self, inputs: Tensor, present: Tensor, target: Tensor, weights: Tensor) -> None:
        """Add n rows: features (n, P), values of student and teacher (n, D), weights (n,)."""
        self.equations.add(inputs, target - present, weights)
        self.total += (target * weights[:, None]).sum(0)
        self.square += float((target.square().sum(1) * weights).sum())

    def variance(self) -> float:
        """Return Σ w ‖t - mean‖²."""
        return self.square - float(self.total.square().sum() / self.equations.weight)


def _part(value: Tensor, part: Part) -> Tensor:
    """Return the entries of the teacher's value that the student has."""
    return value if part.indices is None else value.index_select(-1, part.indices.to(value.device))


def _weights(batch: Batch, inputs: Tensor, first: float) -> Tensor:
    """Return a weight for each row of features, (B,) or (B, T), alike in kind: 0 for padding."""
    mask = batch.get("attention_mask")
    if inputs.dim() == 2 or mask is None:
        weights = inputs.new_ones(inputs.shape[:-1])
    else:
        weights = mask.to(inputs, copy=True)
    if inputs.dim() > 2:
        weights[:, 0] *= first
    return weights


def answer_error(student: Any, teacher: Any, batches: Sequence[Batch], cut: Cut | None = None) -> float:
    """Return the mean squared difference of the logits, or of last hidden states where there is no head.

    Args:
        student: the smaller model.
        teacher: the whole one.
        batches: what both read.
        cut: which hidden dimensions a narrower encoder without a head kept.
    """
    total, count = 0.0, 0
    with evaluating(teacher):
        for batch in batches:
            one, two = (_answers(model, batch).cpu().double() for model in (student, teacher))
            if cut is not None and one.shape != two.shape:
                two = two.index_select(-1, cut.indices["width"][0].cpu())
            if one.dim() == 3 and "attention_mask" in batch:
                real = batch["attention_mask"].bool().cpu()
                one, two = one[real], two[real]
            total, count = total + float((one - two).square().sum()), count + one.numel()
    return total / count


def _answers(model: Any, batch: Batch) -> Tensor:
    with torch.no_grad():
        outputs = model(**forward_inputs(model, batch))
    answers: Tensor = outputs.logits if "logits" in outputs else outputs[0]
    return answers
