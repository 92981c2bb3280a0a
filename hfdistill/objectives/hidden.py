"""Objectives on hidden states: squared error, angle, patient distillation, embeddings."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hfdistill.network.layer_map import Layers
from hfdistill.network.trace import Trace
from hfdistill.objectives.base import Setting, register
from hfdistill.objectives.layers import (
    LayerObjective,
    check_pooling,
    linear,
    mask_of,
    pooled,
    same_tokens,
    token_mean,
)

logger = logging.getLogger(__name__)

Pooling = Literal["token", "cls", "mean"]
Projection = Literal["linear", "identity"]


class HiddenObjective(LayerObjective):
    """Base class of terms on pairs of hidden states.

    Args:
        layers: which student layer learns from which teacher layer; see `LayerMap`. 0 is the embeddings.
        pooling: "token" compares every real token, "cls" the first real token, "mean" the mean over real
            tokens.
        projection: None learns a linear map W from the student's width to the teacher's where the widths
            differ, and there alone; "linear" learns one in any case, starting as the identity where it is
            square; "identity" learns none, and refuses widths that differ. One W serves all pairs. It is
            trained with the student and is not a part of the exported model.
    """

    def __init__(
        self,
        *,
        layers: Layers = "uniform",
        pooling: Pooling = "token",
        projection: Projection | None = None,
    ) -> None:
        super().__init__(layers=layers)
        self.pooling = check_pooling(pooling)
        if projection not in (None, "linear", "identity"):
            raise ValueError(f"projection is None, 'linear' or 'identity', found {projection!r}.")
        self.projection = projection
        self.project: nn.Module = nn.Identity()

    def bind(self, setting: Setting) -> None:
        """Learn the depths and widths, and make the projection where one is needed."""
        super().bind(setting)
        self.project = nn.Identity()
        student, teacher = self.anatomies(setting)
        if self.projection == "identity" and student.width != teacher.width:
            raise ValueError(
                f"{self!r} compares hidden states without a projection, but they are {student.width} wide in "
                f"the student and {teacher.width} in the teacher. {self._other_widths()}"
            )
        if self.projection == "linear" or student.width != teacher.width:
            self.project = linear(student.width, teacher.width)
            logger.info(
                "%r: adds a learned projection from width %d to %d (%d parameters), trained with the student "
                "and not exported with it.",
                self,
                student.width,
                teacher.width,
                student.width * teacher.width,
            )

    def forward(self, student: Trace, teacher: Trace, labels: Tensor) -> Tensor:
        """Sum over pairs of layers of the mean over rows; see `Objective.forward`."""
        total = student.logits.new_zeros((), dtype=torch.float32)
        for s, t in self.read(student, teacher):  # (B, T, D)
            if self.pooling == "token":
                same_tokens(s, t)
                rows = token_mean(self.distance(self.project(s), t), mask_of(student, s))
            else:
                s = pooled(s, mask_of(student, s), pooling=self.pooling)  # (B, D)
                t = pooled(t, mask_of(teacher, t), pooling=self.pooling)
                rows = self.distance(self.project(s), t)
            total = total + rows.mean()
        return total.float()

    @abstractmethod
    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return how far each student's vector of (…, D) is from the teacher's: (…)."""

    def _other_widths(self) -> str:
        return "Leave projection at None to learn one, or use MiniLMv2() or RKD(), which need none."


@register("hidden_mse")
class HiddenMSE(HiddenObjective):
    """Squared error of hidden states, summed over pairs of layers m:n.

    L = Σ_(m,n) (1/B) Σ_b (1/|b|) Σ_i (1/D) ‖W h^s_m,bi - h^t_n,bi‖².

    |b| counts the real tokens of row b, D is the teacher's width; with pooling the mean over tokens is one
    vector. Reduction: sum over pairs as in TinyBERT, mean over elements, then tokens, then rows, so that
    short and long rows weigh the same and the split into batches does not matter. TinyBERT's code masks
    nothing here: padding counts as tokens do, in a mean over B·T·D; and its map W has a bias.

    Jiao et al. 2020 (TinyBERT, L_hidn), arXiv 1909.10351; Romero et al. 2015 (FitNets), arXiv 1412.6550.

    Use it with `shrink`, whose blocks start out as the teacher's, and beside TinyBERTAttention where that
    fits. Not where the two read different tokens (pool then), and with care where a few large dimensions
    dominate, as in RoBERTa: HiddenCosine or MiniLMv2 do not see their size.

    Args:
        layers: which student layer learns from which teacher layer; see `LayerMap`.
        pooling: "token", "cls" (first real token) or "mean" (over real tokens).
        projection: None learns one where widths differ, "linear" always, "identity" never.

    Raises:
        ValueError: at construction for other values; at `bind` for widths or layers that do not fit.

    Example:
        >>> print(0.5 * HiddenMSE(layers="1:2, 2:4, 3:6"))
        0.5 * HiddenMSE(layers='1:2, 2:4, 3:6', pooling='token')
    """

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean squared difference over D."""
        return (student - teacher).square().mean(-1)


@register("hidden_cosine")
class HiddenCosine(HiddenObjective):
    """Angle between hidden states, summed over pairs of layers m:n.

    L = Σ_(m,n) (1/B) Σ_b (1/|b|) Σ_i (1 - cos(W h^s_m,bi, h^t_n,bi)).

    |b| counts the real tokens of row b. Computed as ½ ‖u - v‖² of the unit vectors, which is exactly 0 where
    they agree. Reduction: mean over tokens, then rows; DistilBERT takes the mean over all tokens of a batch.

    Sanh et al. 2019 (DistilBERT, L_cos on the last layer), arXiv 1910.01108.

    Use it where the length of hidden states carries no message, as in networks with a norm at the end of a
    block; its value lies between 0 and 2 whatever the width. Not where the length does matter: HiddenMSE.

    Args:
        layers: which student layer learns from which teacher layer; see `LayerMap`. DistilBERT: "last:last".
        pooling: "token", "cls" (first real token) or "mean" (over real tokens).
        projection: None learns one where widths differ, "linear" always, "identity" never.

    Raises:
        ValueError: at construction for other values; at `bind` for widths or layers that do not fit.
    """

    def __init__(
        self,
        *,
        layers: Layers = "last:last",
        pooling: Pooling = "token",
        projection: Projection | None = None,
    ) -> None:
        super().__init__(layers=layers, pooling=pooling, projection=projection)

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return 1 - cos."""
        return 0.5 * (F.normalize(student, dim=-1) - F.normalize(teacher, dim=-1)).square().sum(-1)


@register("pkd")
class PKD(HiddenObjective):
    """Patient distillation: hidden states of the first token, on the unit sphere.

    L = (1/B) Σ_b Σ_(m,n) ‖h^s_m,b/‖h^s_m,b‖ - h^t_n,b/‖h^t_n,b‖‖² of the first token.

    Reduction: the paper's, sums over layers and width, here with the mean over rows. The authors' code
    divides by (M - 1)·D as well: its β = 500 with 6 layers of width 768 is a weight of 500/(5·768) = 0.13
    here.

    Sun, Cheng, Gan, Liu 2019, arXiv 1908.09355. The last student layer is left out, since the logits teach
    it.

    Use it next to KD where the student reads through [CLS] and is as wide as the teacher. The paper sees
    gains on large sets (above 60,000 rows) and losses on small ones. Not where the head averages over tokens:
    take HiddenCosine(pooling='mean').

    Args:
        layers: "pkd-skip", "pkd-last", or any other map; see `LayerMap`.

    Raises:
        ValueError: at `bind` for widths that differ, or where no layer is left, as with a student of one.
    """

    def __init__(self, *, layers: Layers = "pkd-skip") -> None:
        super().__init__(layers=layers, pooling="cls", projection="identity")

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the squared distance of the unit vectors."""
        return (F.normalize(student, dim=-1) - F.normalize(teacher, dim=-1)).square().sum(-1)

    def _other_widths(self) -> str:
        return "Use HiddenCosine(layers='pkd-skip', pooling='cls'), which learns a projection."


@register("embedding_mse")
class EmbeddingMSE(HiddenMSE):
    """Squared error of the embeddings: L = (1/B) Σ_b (1/|b|) Σ_i (1/D) ‖W e^s_bi - e^t_bi‖², e being layer 0.

    |b| counts the real tokens of row b. Reduction: mean over elements, then tokens, then rows.

    Jiao et al. 2020 (TinyBERT, L_embd), arXiv 1909.10351.

    Use it where the student's embeddings were not copied from the teacher: a narrower one, or one from
    scratch. A student of `shrink` starts at 0, and it only holds the embeddings where they are.

    Args:
        projection: None learns one where widths differ, "linear" always, "identity" never.

    Raises:
        ValueError: at `bind` for widths that differ with "identity", or different tokens.
    """

    def __init__(self, *, projection: Projection | None = None) -> None:
        super().__init__(layers="0:0", pooling="token", projection=projection)
