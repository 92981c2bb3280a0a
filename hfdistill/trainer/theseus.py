"""BERT-of-Theseus: a student whose blocks take the places of their teacher's, one group at a time."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import TrainerCallback

from hfdistill.network.architectures import ModelSpec, blocks, layout_of, unwrapped
from hfdistill.network.block_calls import first_output, with_first_output, with_hidden_states
from hfdistill.network.loading import Source, load_classifier
from hfdistill.schedules import Linear, Schedule, moments, value_at


class Theseus(TrainerCallback):
    """Module replacement: in training, each block of the student stands in for a group of its teacher's with
    probability p; else that group, frozen, computes in its place.

        h_i = r_i · student_i(h_{i-1}) + (1 - r_i) · teacher_{(i-1)k+1 … ik}(h_{i-1}),  r_i ~ Bernoulli(p)

    with k = N/M for a teacher of N blocks and a student of M, one draw of r_i a group and forward pass, for
    the whole batch. The task's loss alone teaches; a term of the objective may join it. Gradients pass
    through the teacher's blocks, and reach the student's blocks only: embeddings, final norm, pooler and head
    are the teacher's and stay frozen. Once p is 1 the student stands alone and goes on (successor
    fine-tuning). In evaluation it always does. Xu et al. 2020, EMNLP (arXiv 2002.02925).

    The student is a plain model of Transformers all along, so checkpoints and what is saved know nothing of
    the teacher. Draws follow from (seed, optimizer step, forward pass) alone: a resumed run draws the same,
    and all processes do. Unlike the published code the teacher's blocks run without dropout.

    Args:
        teacher: a fine-tuned classifier; a model, a Hub id or a path. It is left as it was.
        rate: p over the training. None is the paper's curriculum, a line that reaches 1 after some two
            thirds: `Linear(0.3, 1, until=0.7)`. Its constant rate is `Step({0: 0.5, 0.7: 1})`.
        seed: of the draws; None takes the run's.

    Raises:
        ValueError: where the rate leaves [0, 1] or does not end at 1; and as the trainer is built, where the
            student is not cut from this teacher, N is not a multiple of M, or the blocks of the architecture
            are not of one kind (ALBERT, ModernBERT, DeBERTa-v2 with a convolution).

    Example:
        >>> from hfdistill import CrossEntropy, DistillationTrainer, Theseus, shrink
        >>> trainer = DistillationTrainer(  # doctest: +SKIP
        ...     shrink(teacher, layers=[1, 2, 3]), args, teacher=None, callbacks=[Theseus(teacher)],
        ...     objective=1.0 * CrossEntropy(), train_dataset=train, processing_class=tokenizer,
        ... )

    When to use it: where labels are plenty and no loss is to be tuned; the paper starts the student from the
    teacher's first M blocks. When not: a student of another width or architecture, unlabelled text (give it
    `KD()` as the objective there), or terms on queries, keys and values, which a block that is replaced does
    not have: let those begin with `After(…)`, when the rate is 1.
    """

    def __init__(self, teacher: Source, *, rate: Schedule | None = None, seed: int | None = None) -> None:
        self.rate = _checked(Linear(0.3, 1, until=0.7) if rate is None else rate)
        self.seed = self._seed = seed
        self._network = load_classifier(teacher, role="teacher")
        self._student: Any = None
        self._groups: list[_Group] = []
        self._frozen: list[nn.Parameter] = []
        self._hook: Any = None
        self._step = self._forward = 0
        self._now = 1.0

    def fingerprint(self) -> str:
        """Return a text that differs between replacements, compared when a run is resumed."""
        return f"{self.rate!r} {self._seed}"

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        """Refuse a student that does not fit, before anything runs."""
        if model is not None:
            self._accept(model, args)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        """Put the teacher's blocks beside the student's."""
        self._remove()
        self.freeze(model, args)
        theirs = blocks(self._network)
        size = len(theirs) // len(blocks(self._student))
        for i, block in enumerate(blocks(self._student)):
            group = copy.deepcopy(theirs[i * size : (i + 1) * size]).requires_grad_(False).eval()
            for part in group.modules():
                if hasattr(part, "config"):  # by which attention knows what kind of mask it is given
                    part.config = self._student.config
            self._groups.append(_Group(block, group.to(args.device, next(block.parameters()).dtype)))
        self._hook = self._student.register_forward_pre_hook(self._draw)

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Advance the rate as a step begins."""
        self._now = value_at(self.rate, min(1.0, state.global_step / max(1, state.max_steps)))
        self._step, self._forward = state.global_step, 0

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Give the student back at the end of the run."""
        self.release()

    def freeze(self, model: nn.Module, args: Any) -> None:
        """Freeze all but the blocks at the teacher's values until `release`; before an optimizer is made."""
        student = unwrapped(model)
        if student is self._student and self._frozen:
            return
        self._accept(model, args)
        self._student = student
        self._frozen = [p for _, p in _outside(student) if p.requires_grad]
        for parameter in self._frozen:
            parameter.requires_grad_(False)

    def release(self) -> None:
        """Leave a plain model, all of which can learn again."""
        self._remove()
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._frozen = []

    def _draw(self, student: nn.Module, _inputs: Any) -> None:
        """Draw which of the student's blocks compute in this forward pass."""
        if student.training:
            generator = np.random.default_rng((int(self._seed or 0), self._step, self._forward))
            for group, drawn in zip(self._groups, generator.random(len(self._groups)), strict=True):
                group.stands_in = bool(drawn < self._now)
            self._groups[-1].apart = not any(group.stands_in for group in self._groups)
            self._forward += 1

    def _accept(self, model: nn.Module, args: Any) -> None:
        """Refuse what does not fit; take the run's seed where there is none."""
        self._seed = args.seed if self.seed is None else self.seed
        if args.world_size > 1 and not args.ddp_find_unused_parameters:
            raise ValueError(
                "A block that is replaced has no gradient in that step, for which several processes would "
                "wait. Type ddp_find_unused_parameters=True among the training arguments."
            )
        _check_fit(unwrapped(model), self._network)

    def _remove(self) -> None:
        for group in self._groups:
            group.remove()
        self._groups = []
        if self._hook is not None:
            self._hook.remove()
            self._hook = None


def replacements(callbacks: Iterable[TrainerCallback]) -> list[Theseus]:
    """Return the callbacks that replace blocks.

    The trainer freezes the student by them before there is an optimizer, and releases it however a run ends:
    Trainer calls no callback before the one, nor after a run that fails or is interrupted.
    """
    return [each for each in callbacks if isinstance(each, Theseus)]


class _Group:
    """A block of the student, and the teacher's blocks whose place it takes."""

    def __init__(self, block: nn.Module, predecessors: nn.Module) -> None:
        self.block, self.predecessors, self.stands_in, self.apart = block, predecessors, True, False
        self._own: Any = block.forward
        block.forward = self._forward

    def remove(self) -> None:
        """Let the block compute by itself again."""
        del self.block.forward

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute what was drawn before the pass: gradient checkpointing computes the same once more."""
        if self.stands_in or not self.block.training:
            return self._own(*args, **kwargs)
        output: Any = None
        for predecessor in self.predecessors.children():
            if output is not None:
                args, kwargs = with_hidden_states(args, kwargs, first_output(output))
            output = predecessor(*args, **kwargs)
        if not self.apart:
            return output
        # Nothing learns from this pass; backward, and DDP's reducer, still need a parameter to end at.
        nothing = 0.0 * sum(parameter.sum() for parameter in self.block.parameters())
        return with_first_output(output, first_output(output).detach() + nothing)


def _checked(rate: Schedule) -> Schedule:
    if not isinstance(rate, Schedule) or value_at(rate, 1.0) != 1:
        raise ValueError(
            f"The rate of Theseus has to end at 1, where the student stands alone; found {rate!r}. Write "
            "Linear(0.3, 1, until=0.7), or Step({0: 0.5, 0.7: 1}) for a constant rate."
        )
    outside = next((p for p in moments([rate]) if not 0 <= value_at(rate, p) <= 1), None)
    if outside is not None:
        raise ValueError(
            f"The rate of Theseus is a probability, and {rate!r} is {value_at(rate, outside):g} at progress "
            f"{outside:g}. Keep it between 0 and 1."
        )
    return rate


def _check_fit(student: Any, teacher: Any) -> None:
    """Refuse a student whose blocks cannot stand among the teacher's."""
    ours, theirs = ModelSpec.of(student), ModelSpec.of(teacher)
    reason = _why_unlike(teacher)
    if reason:
        raise ValueError(
            f"The blocks of a {theirs.model_type} cannot take each other's places: {reason}. Use shrink "
            "and a distillation loss."
        )
    if theirs.depth % ours.depth:
        fitting = ", ".join(str(n) for n in range(1, theirs.depth) if theirs.depth % n == 0)
        raise ValueError(
            f"{theirs.depth} blocks of the teacher cannot be dealt out evenly to {ours.depth} of the "
            f"student. Choose one of {fitting}."
        )
    own, other = ({n: p.detach().float().cpu() for n, p in _outside(m)} for m in (student, teacher))
    unlike = sorted(own.keys() ^ other.keys()) + [
        name for name in sorted(own.keys() & other.keys()) if not torch.equal(own[name], other[name])
    ]
    if unlike or type(student) is not type(teacher):
        where = unlike[0] if unlike else f"{type(student).__name__} and {type(teacher).__name__}"
        raise ValueError(
            "The student has to share everything but its blocks with its teacher, and they differ in "
            f"{where}. Build it with shrink(teacher, layers={list(range(1, ours.depth + 1))})."
        )


def _why_unlike(teacher: Any) -> str:
    """Return why the blocks are not of one kind; "" where they are."""
    layout, config = layout_of(teacher), teacher.config
    kinds = "its layers are of several kinds" if layout.per_layer else ""
    return layout.shared or kinds or layout.fixed(config) or layout.anchored(config)


def _outside(model: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """Return the parameters that are in no block."""
    inside = {id(parameter) for parameter in blocks(model).parameters()}
    return ((name, p) for name, p in model.named_parameters() if id(p) not in inside)
