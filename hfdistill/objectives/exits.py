"""Self distillation: heads on intermediate blocks learn from the labels and from the last head."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from hfdistill.files.plain_data import as_python
from hfdistill.network.trace import Tap, Trace
from hfdistill.objectives.base import Objective, Setting, Taps, register
from hfdistill.objectives.logits import KD, CrossEntropy
from hfdistill.schedules import Schedule


class ExitObjective(Objective):
    """Base class of terms on the exits of a student made by `with_exits`; the sum over them.

    Args:
        term: the term that each exit learns by.
        exits: the layers whose exits it is about; None for all of them.
    """

    needs_teacher: ClassVar[bool] = False

    def __init__(self, term: Objective, *, exits: Sequence[int] | None = None) -> None:
        super().__init__()
        exits = as_python(exits)
        layers = list(exits) if isinstance(exits, Iterable) else []
        odd = any(type(layer) is not int or layers.count(layer) > 1 for layer in layers)
        if exits is not None and (odd or not layers):
            raise ValueError(
                f"exits is a list of layers with an exit, each once, found {exits!r}. Type exits=[2], or "
                "leave it out for all of them."
            )
        self._term = term
        self.exits = None if exits is None else layers
        self._layers: tuple[int, ...] = ()

    def bind(self, setting: Setting) -> None:
        """Learn where the student has exits, and bind the term of each."""
        exits = () if setting.student is None else setting.student.exits
        missing = [layer for layer in self.exits or () if layer not in exits]
        if not exits or missing:
            where = f"exits at {list(exits)}" if exits else "no exits"
            raise ValueError(
                f"{self!r} learns at exits, and the student has {where}. Build it with "
                f"with_exits(student, layers={missing or repr('all')})."
            )
        self._layers = exits if self.exits is None else tuple(self.exits)
        self._term.bind(setting)

    def set_progress(self, progress: float) -> None:
        """Pass the progress on to the term of each exit."""
        super().set_progress(progress)
        self._term.set_progress(progress)

    def count(self, labels: Tensor) -> Tensor:
        """Count what the term's mean is over; see `Objective.count`."""
        return self._term.count(labels)

    def taps(self) -> Taps:
        """Return the logits of each exit."""
        if not self._layers:
            raise RuntimeError(f"{self!r} is not bound yet: which exits there are depends on the student.")
        return frozenset(Tap("exit", layer) for layer in self._layers), frozenset()

    def forward(self, student: Trace, teacher: Trace, labels: Tensor) -> Tensor:
        """Sum over exits of the term's mean; see `Objective.forward`."""
        exits = (self._reading(student, Tap("exit", layer), whose="student") for layer in self._layers)
        values = [self._term(Trace(logits, student.attention_mask), teacher, labels) for logits in exits]
        return torch.stack(values).sum()


@register("exit_cross_entropy")
class ExitCrossEntropy(ExitObjective):
    """Cross-entropy of each exit with the hard labels: L = Σ_i CE(y, z_i), the mean over labelled rows.

    Zhang, Song, Gao, Chen, Bao, Ma 2019 (BYOT), arXiv 1905.08094, who weigh it 1 - α beside ExitKD. Label
    smoothing is the run's.

    Args:
        exits: the layers whose exits learn; None for all of them.

    Raises:
        ValueError: at `bind`, where the student has no such exits, or for regression.
    """

    needs_labels: ClassVar[bool] = True

    def __init__(self, *, exits: Sequence[int] | None = None) -> None:
        super().__init__(CrossEntropy(), exits=exits)


@register("exit_kd")
class ExitKD(ExitObjective):
    """Soft labels of the last head for each exit: L = Σ_i T² · (1/B) Σ_b KL(softmax(z_n/T) ‖ softmax(z_i/T)).

    z_n are the student's own logits, held fixed: the last head learns nothing from its exits. Multi-label: as
    in KD. Labels are not read, so unlabelled rows teach too.

    Zhang, Song, Gao, Chen, Bao, Ma 2019 (BYOT), arXiv 1905.08094: T = 3 and weights 0.7 for the labels, 0.3
    for this term, which their code does not multiply by T²; with T² it is `0.7 * ExitCrossEntropy() + 0.033 *
    ExitKD(temperature=3)`. Their term on features is not part of this one. Liu et al. 2020 (FastBERT), arXiv
    2004.02178, train exits by this term alone at T = 1, with the backbone frozen; the paper writes the
    reverse KL, its code computes the forward one, as here. At T = 1 an exit learns how sure the last head
    is, which is what decides when a row leaves.

    Args:
        temperature: T > 0, or a schedule of it.
        exits: the layers whose exits learn; None for all of them.

    Raises:
        ValueError: at construction for T ≤ 0; at `bind`, where the student has no such exits, or for
            regression.
    """

    def __init__(self, *, temperature: float | Schedule = 1.0, exits: Sequence[int] | None = None) -> None:
        term = KD(temperature=temperature)
        super().__init__(term, exits=exits)
        self.temperature = term.temperature

    def forward(self, student: Trace, teacher: Trace, labels: Tensor) -> Tensor:
        """Sum over exits of the mean over rows; the last head is the teacher. See `Objective.forward`."""
        return super().forward(student, Trace(student.logits.detach()), labels)
