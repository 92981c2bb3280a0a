"""Objectives on relations between the rows of a batch: distances, angles, contrast."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hfdistill.network.layer_map import Layers
from hfdistill.network.trace import Trace
from hfdistill.objectives.base import Setting, register
from hfdistill.objectives.layers import LayerObjective, Pair, check_pooling, linear, mask_of, pooled
from hfdistill.objectives.logits import as_float64
from hfdistill.schedules import is_number

logger = logging.getLogger(__name__)

Pooling = Literal["cls", "mean"]


class PooledObjective(LayerObjective):
    """A term on one vector per row. Its value depends on which rows share a batch, so it is not additive."""

    additive: ClassVar[bool] = False

    def __init__(self, *, layers: Layers, pooling: Pooling) -> None:
        super().__init__(layers=layers)
        self.pooling = check_pooling(pooling, allowed=("cls", "mean"))

    def bind(self, setting: Setting) -> None:
        """Bind like every term on layers; refuse labels of words, which one vector per row cannot tell."""
        if setting.task == "token":
            raise ValueError(
                f"{self!r} compares one vector per row, and the student labels words, each by its own. Use a "
                "term on every token, such as HiddenMSE()."
            )
        super().bind(setting)

    def vectors(self, student: Trace, teacher: Trace) -> Iterator[Pair]:
        """Yield the vectors (B, D) of each pair of layers."""
        for s, t in self.read(student, teacher):
            yield (  # in float64: relations between rows lose digits that padding moves
                pooled(as_float64(s), mask_of(student, s), pooling=self.pooling),
                pooled(as_float64(t), mask_of(teacher, t), pooling=self.pooling),
            )


@register("rkd")
class RKD(PooledObjective):
    """Relations between rows: distances and angles.

    L = w_d (1/B²) Σ_ij δ(ψ^s_ij, ψ^t_ij) + w_a (1/B³) Σ_ijk δ(a^s_ijk, a^t_ijk).

    ψ_ij = ‖e_i - e_j‖/μ, μ the mean of the positive distances of the own network; a_ijk = cos of the angle at
    e_i between e_j and e_k; δ is Huber's loss with β = 1. e is the pooled hidden state. Reduction: the
    authors' code, means over all B² and B³ entries, the zeros on the diagonal included; several pairs of
    layers are summed. Not a mean over rows: gradient accumulation and several processes compare rows of one
    micro-batch alone. Computed in float64, where the device has it: distances come from inner products.

    Park, Kim, Lu, Cho 2019, arXiv 1904.05068: weights 25 and 50 for classification, 1 and 2 for metric
    learning.

    Use it where widths, heads and even tokenizers differ: it needs no projection and no aligned tokens. Not
    for micro-batches of 1 (the value is 0) or 2, and mind B³ numbers for the angles: 134 million at B = 512.

    Args:
        distance: w_d.
        angle: w_a.
        layers: which student layer learns from which teacher layer; see `LayerMap`.
        pooling: "mean" over real tokens, or "cls", the first real token.

    Raises:
        ValueError: at construction for negative weights or both 0; at `bind` for layers that do not fit.
    """

    def __init__(
        self,
        *,
        distance: float = 1.0,
        angle: float = 2.0,
        layers: Layers = "last:last",
        pooling: Pooling = "mean",
    ) -> None:
        super().__init__(layers=layers, pooling=pooling)
        if not all(is_number(w) and w >= 0 for w in (distance, angle)) or not distance + angle:
            raise ValueError(
                f"RKD needs weights from 0 up, one of them above 0; found distance={distance!r} and "
                f"angle={angle!r}. Usual: 1 and 2, or 25 and 50."
            )
        self.distance = distance
        self.angle = angle

    def forward(self, student: Trace, teacher: Trace, labels: Tensor) -> Tensor:
        """Sum over pairs of layers; see `Objective.forward`."""
        total = torch.zeros((), device=student.logits.device)
        for vectors in self.vectors(student, teacher):
            (own, own_angles), (other, other_angles) = (_relations(x, angles=self.angle > 0) for x in vectors)
            total = total + self.distance * F.smooth_l1_loss(own, other)
            if self.angle:
                total = total + self.angle * F.smooth_l1_loss(own_angles, other_angles)
        return total.float()


def _relations(vectors: Tensor, *, angles: bool) -> Pair:
    """Return distances (B, B) in units of their mean, and cosines (B, B, B) at the first index; of one row,
    zeros."""
    x = vectors - vectors.mean(0).detach()  # changes no relation, and keeps digits
    gram = x @ x.mT
    squares = gram.diagonal()
    between = squares[:, None] + squares - gram - gram.mT
    apart = between > 1e-12 * (squares[:, None] + squares)  # equal rows have neither direction nor slope
    apart = apart & ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    distances = between.where(apart, torch.ones_like(between)).sqrt().where(apart, torch.zeros_like(between))
    mean = distances.sum() / apart.sum().clamp(min=1)
    scaled = distances / mean.clamp(min=torch.finfo(x.dtype).tiny)
    if not angles:
        return scaled, scaled
    inverse = (1 / distances.where(apart, torch.ones_like(between))).where(apart, torch.zeros_like(between))
    inner = (
        gram[None] - gram[:, :, None] - gram[:, None, :] + squares[:, None, None]
    )  # (e_j - e_i)·(e_k - e_i)
    return scaled, inner * inverse[:, :, None] * inverse[:, None, :]


@register("info_nce")
class InfoNCE(PooledObjective):
    """Contrast within the batch: find the teacher's vector of the same row among those of the others.

    L = -(1/B) Σ_b log softmax_j(g_s(e^s_b)·g_t(e^t_j)/τ)_b, over the rows j of a batch.

    e is the pooled hidden state, g a learned linear map to `dimension` followed by division by the length.
    Reduction: mean over rows, each of which sees the other rows of its micro-batch as negatives: not
    additive, 0 for one row, log B where nothing is known. Several pairs of layers are summed, with one g per
    network.

    The in-batch form of CRD (Tian, Krishnan, Isola 2020, arXiv 1910.10699), without its memory of 16,384
    negatives; van den Oord et al. 2018, arXiv 1807.03748. On layers of BERT: CoDIR (Sun et al. 2020, arXiv
    2009.14167).

    Use it with large micro-batches, across widths and tokenizers. Not with small ones (below 16), nor where
    the rows of a batch are near copies of each other: they push apart what should stay together.

    Args:
        temperature: τ > 0.
        dimension: the width that both are mapped to.
        layers: which student layer learns from which teacher layer; see `LayerMap`.
        pooling: "mean" over real tokens, or "cls", the first real token.

    Raises:
        ValueError: at construction for values out of range; at `bind` for layers that do not fit.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        dimension: int = 128,
        layers: Layers = "last:last",
        pooling: Pooling = "mean",
    ) -> None:
        super().__init__(layers=layers, pooling=pooling)
        if not is_number(temperature) or temperature <= 0:
            raise ValueError(f"InfoNCE needs a temperature above 0, found {temperature!r}. Usual: 0.07.")
        if type(dimension) is not int or dimension < 1:
            raise ValueError(f"dimension is a number from 1 up, found {dimension!r}. Usual: 128.")
        self.temperature = temperature
        self.dimension = dimension
        self.project_student: nn.Linear | None = None
        self.project_teacher: nn.Linear | None = None

    def bind(self, setting: Setting) -> None:
        """Learn depths and widths, and make the two projections."""
        super().bind(setting)
        student, teacher = self.anatomies(setting)
        self.project_student = linear(student.width, self.dimension)
        self.project_teacher = linear(teacher.width, self.dimension)
        logger.info(
            "%r: adds learned projections from width %d (student) and %d (teacher) to %d, trained with the "
            "student and not exported with it.",
            self,
            student.width,
            teacher.width,
            self.dimension,
        )

    def forward(self, student: Trace, teacher: Trace, labels: Tensor) -> Tensor:
        """Sum over pairs of layers; see `Objective.forward`."""
        total = torch.zeros((), device=student.logits.device)
        for s, t in self.vectors(student, teacher):
            own, other = _direction(self.project_student, s), _direction(self.project_teacher, t)
            scores = own @ other.mT / self.temperature  # (B, B)
            total = total + F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))
        return total.float()


def _direction(project: nn.Linear | None, vectors: Tensor) -> Tensor:
    """Scale vectors to length 1, in their own precision."""
    if project is None:
        raise RuntimeError("InfoNCE() is not bound yet: its projections depend on both widths.")
    return F.normalize(F.linear(vectors, project.weight.to(vectors.dtype)), dim=-1)
