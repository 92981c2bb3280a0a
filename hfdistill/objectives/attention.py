"""Objectives on attention and on relations between tokens, from query, key and value."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hfdistill.network.layer_map import Layers
from hfdistill.network.trace import Trace
from hfdistill.objectives.base import Setting, register
from hfdistill.objectives.layers import LayerObjective, Pair, mask_of

SCORES_AT_ONCE = {"cpu": 1 << 18}
"""How many scores of (T, T) matrices are held at a time: what a cache holds, and 64 MB elsewhere."""
RELATION_WIDTH = 16
"""Of MiniLMv2's relation heads in the paper: 768 / 48 and 1024 / 64."""
MASKED = -1e30
"""The score of a padding key: any number added to it vanishes, so that two of them differ by exactly 0."""


Compare = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(student's scores (n, T, T), teacher's, mask (n, T)) → value (n,), and its slope in the student's
scores. Masked keys have MASKED in both."""


class _Scores(torch.autograd.Function):
    """Compare scores block by block; keeps the gradient of the inputs instead of the scores."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        left: Tensor,
        right: Tensor,
        teacher_left: Tensor,
        teacher_right: Tensor,
        mask: Tensor,
        compare: Compare,
    ) -> Tensor:
        """Return the value of each (row, head): (B·H,)."""
        rows, tokens, _ = left.shape
        step = max(1, SCORES_AT_ONCE.get(left.device.type, 1 << 24) // tokens**2)
        values = left.new_empty(rows)
        slopes = torch.empty_like(left), torch.empty_like(right)
        scales = [x.shape[-1] ** -0.5 for x in (left, teacher_left)]
        with torch.autocast(left.device.type, enabled=False):
            padding = torch.zeros_like(mask, dtype=left.dtype).masked_fill_(~mask, MASKED)[:, None, :]
            for start in range(0, rows, step):
                part = slice(start, start + step)
                own = torch.baddbmm(padding[part], left[part], right[part].mT, alpha=scales[0])
                other = torch.baddbmm(
                    padding[part], teacher_left[part], teacher_right[part].mT, alpha=scales[1]
                )
                values[part], slope = compare(own, other, mask[part])
                if any(ctx.needs_input_grad):  # type: ignore[attr-defined]
                    torch.bmm(slope, right[part], out=slopes[0][part])
                    torch.bmm(slope.mT, left[part], out=slopes[1][part])
        ctx.save_for_backward(*slopes)
        ctx.scale = scales[0]  # type: ignore[attr-defined]
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the kept gradients, scaled."""
        grad = grad[:, None, None] * ctx.scale  # type: ignore[attr-defined]
        left, right = (slope * grad for slope in ctx.saved_tensors)  # type: ignore[attr-defined]
        return left, right, None, None, None, None


def _divergence(own: Tensor, other: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Average KL(p ‖ q) over real queries, p = softmax(other), q = softmax(own), both over real keys.

    With d = own - other and e = d - Σ p d it is log(1 + v), v = Σ p (exp(e) - 1 - e): no part is negative, so
    that none cancels and float32 keeps its digits where the two are close. Its slope is q - p, and
    q = p exp(e) / (1 + v), which spares the second softmax.
    """
    share = (mask / mask.sum(-1, keepdim=True).clamp(min=1)).to(own.dtype)  # of each query; 0 for padding
    p = other.softmax(-1)
    e = own - other
    mean = (p * e).sum(-1, keepdim=True)
    e -= mean
    grown = e.expm1()
    v = (grown - e).mul_(p).sum(-1, keepdim=True)
    fine = v.isfinite()
    if reads_back_for_free(v.device.type) and bool(fine.all()):
        slope = grown.sub_(v).mul_(p).mul_(share[:, :, None] / (1 + v))
        return (v.squeeze(-1).log1p() * share).sum(-1), slope
    # Where exp(e) overflows, scores are so far apart that nothing cancels.
    q = own.softmax(-1)
    apart = _log_sum(own, q) - _log_sum(other, p) - mean.squeeze(-1)
    value = v.squeeze(-1).log1p().where(fine.squeeze(-1), apart)
    slope = grown.sub_(v).mul_(p).div_(1 + v).where(fine, q.sub_(p))
    return (value * share).sum(-1), slope.mul_(share[:, :, None])


def reads_back_for_free(device: str) -> bool:
    """Return whether reading a number from this device is free; on a GPU, Python waits for all its work."""
    return device == "cpu"


def _log_sum(scores: Tensor, shares: Tensor) -> Tensor:
    """Return log Σ exp(scores), computed from the known softmax."""
    return scores.amax(-1) - shares.amax(-1).log()


def _squares(own: Tensor, other: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean over pairs of real tokens of the squared difference of scores."""
    share = (mask / mask.sum(-1, keepdim=True).clamp(min=1).square()).to(own.dtype)  # of each query
    slope = own.sub_(other).mul(share[:, :, None])  # padding keys differ by 0
    return (own * slope).sum((-1, -2)), slope.mul_(2)


class RelationObjective(LayerObjective):
    """Base class of terms on matrices (T, T) of scores; a subclass says which `readings` make them.

    Scores are compared block by block, and the gradient is worked out on the way, so that no (B, H, T, T)
    tensor is ever kept for backward. There is no second derivative.
    """

    equal_heads: ClassVar[bool] = True
    compare: ClassVar[Compare] = staticmethod(_divergence)

    def bind(self, setting: Setting) -> None:
        """Learn the depths, and check that there is something to compare."""
        super().bind(setting)
        student, teacher = self.anatomies(setting)
        if self.equal_heads and student.heads != teacher.heads:
            raise ValueError(
                f"{type(self).__name__} needs as many heads on both sides, found {student.heads} (student) "
                f"and {teacher.heads} (teacher). Build the student with {teacher.heads} heads, or use "
                f"MiniLMv2(), whose relations do not depend on the number of heads."
            )

    @abstractmethod
    def readings(self, student: Trace, teacher: Trace) -> Iterator[tuple[Pair, Pair]]:
        """Yield what makes the scores left·rightᵀ/√d, layer by layer: left and right, which may be one.

        Each is (B, H, T, d) of the student and of the teacher; d may differ.
        """

    def forward(self, student: Trace, teacher: Trace, labels: Tensor) -> Tensor:
        """Sum over relations and pairs of layers of the mean over rows; see `Objective.forward`."""
        parts = [self._related(*sides, student=student) for sides in self.readings(student, teacher)]
        return torch.stack(parts).sum().float()

    def _related(self, left: Pair, right: Pair, *, student: Trace) -> Tensor:
        """Average `compare` over rows and heads; the student's mask counts, for both read the same tokens."""
        own, other = left
        if own.shape[:3] != other.shape[:3]:
            raise ValueError(
                f"{type(self).__name__} compares scores (B, H, T, T), but the readings have (B, H, T) "
                f"{tuple(own.shape[:3])} in the student and {tuple(other.shape[:3])} in the teacher. Give "
                f"both the same encoding, and compare as many heads."
            )
        mask = mask_of(student, own.transpose(1, 2)).repeat_interleave(own.shape[1], dim=0)  # (B·H, T)
        lefts = [x.flatten(0, 1) for x in left]  # (B·H, T, d)
        rights = lefts if left is right else [x.flatten(0, 1) for x in right]
        each: Tensor = _Scores.apply(lefts[0], rights[0], lefts[1], rights[1], mask, type(self).compare)
        return each.mean()


class AttentionObjective(RelationObjective):
    """A term that compares the attention of every head, computed from query and key."""

    kinds: ClassVar[tuple[str, ...]] = ("query", "key")
    reads_attention: ClassVar[bool] = True

    def readings(self, student: Trace, teacher: Trace) -> Iterator[tuple[Pair, Pair]]:
        """Yield query and key of each pair of layers."""
        return zip(self.read(student, teacher, "query"), self.read(student, teacher, "key"), strict=True)


@register("tinybert_attention")
class TinyBERTAttention(AttentionObjective):
    """Squared error of attention scores before the softmax, summed over pairs of layers m:n.

    L = Σ_(m,n) (1/B) Σ_b (1/(H |b|²)) Σ_a Σ_ij (S^s - S^t)²_a,ij.

    S = q kᵀ/√d of each head, |b| the real tokens of row b, i and j real tokens alone. Reduction: sum over
    pairs of layers, mean over heads and over real pairs of tokens, then rows. TinyBERT's code puts 0 for
    scores of keys that are padding, on both sides, but counts queries that are, and divides by the padded
    length squared: its value depends on the padding.

    Jiao et al. 2020 (TinyBERT, L_attn), arXiv 1909.10351.

    Use it next to HiddenMSE with a student of as many heads as the teacher; the student's heads may be
    narrower. Not for other numbers of heads (MiniLMv2), nor for relative or rotated positions, whose scores
    are more than q kᵀ (DeBERTa, MPNet, ModernBERT): refused.

    Args:
        layers: which student layer learns from which teacher layer; see `LayerMap`.

    Raises:
        ValueError: at `bind` for heads, layers, tokens or architectures that do not fit.
    """

    compare: ClassVar[Compare] = staticmethod(_squares)


@register("attention_kl")
class AttentionKL(AttentionObjective):
    """Divergence of attention: L = Σ_(m,n) (1/B) Σ_b (1/(H |b|)) Σ_a Σ_i KL(A^t_n,a,i ‖ A^s_m,a,i).

    A = softmax(q kᵀ/√d) over real keys, without dropout; |b| the real tokens of row b, i real tokens alone.
    Reduction: sum over pairs of layers, mean over heads and real queries, then rows.

    The attention term of MiniLM (Wang et al. 2020, arXiv 2002.10957), here on any layers.

    Use it where TinyBERTAttention is too strict: a softmax does not see a constant added to a row of scores.
    Not for other numbers of heads (MiniLMv2), nor for relative or rotated positions: refused.

    Args:
        layers: which student layer learns from which teacher layer; see `LayerMap`.

    Raises:
        ValueError: at `bind` for heads, layers, tokens or architectures that do not fit.
    """


@register("minilm")
class MiniLM(RelationObjective):
    """Attention and value relations of the last layer.

    L = (1/B) Σ_b (1/(H |b|)) Σ_a Σ_i [KL(A^t ‖ A^s) + KL(V^t ‖ V^s)]_a,i.

    A = softmax(q kᵀ/√d), V = softmax(v vᵀ/√d) over real keys, each with its own d; |b| the real tokens of row
    b. Reduction: the paper's, mean over heads and real queries, then rows; several pairs of layers are
    summed.

    Wang et al. 2020, arXiv 2002.10957. For a student of at most half the depth and half the width the paper
    puts a teacher assistant in between.

    Use it for a student of another width, without any projection, and of the teacher's number of heads. Add
    KD or CrossEntropy: it teaches no head. MiniLMv2 has fewer limits and did better in its paper.

    Args:
        layers: which student layer learns from which teacher layer; the paper's is the last of both.

    Raises:
        ValueError: at `bind` for heads, layers, tokens or architectures that do not fit.
    """

    kinds: ClassVar[tuple[str, ...]] = ("query", "key", "value")
    reads_attention: ClassVar[bool] = True

    def __init__(self, *, layers: Layers = "last:last") -> None:
        super().__init__(layers=layers)

    def readings(self, student: Trace, teacher: Trace) -> Iterator[tuple[Pair, Pair]]:
        """Yield query and key, then value and value, of each pair of layers."""
        query, key, value = (self.read(student, teacher, kind) for kind in self.kinds)
        for q, k, v in zip(query, key, value, strict=True):
            yield q, k
            yield v, v


@register("minilmv2")
class MiniLMv2(RelationObjective):
    """Self-relations of query, key and value of the last layer.

    L = (1/B) Σ_b (1/(A |b|)) Σ_x Σ_a Σ_i KL(R^t_x,a,i ‖ R^s_x,a,i), x in q, k, v.

    R_x,a = softmax(x_a x_aᵀ/√d_r) over real keys, where the heads of x are joined and split again into A
    relation heads of d_r = D/A each, D being the own width; |b| the real tokens of row b. Reduction: mean
    over relation heads and real queries, then rows; the three relations, and several pairs of layers, are
    summed (the paper's α = 1).

    Wang et al. 2021, arXiv 2012.15828; teacher layer: the last of base models, 21 of BERT-large, 19 of
    RoBERTa-large.

    Use it as the first choice where widths or heads differ: no projection is learned, and positions that are
    relative or rotated do no harm, since it compares projections and not attention. Add KD or CrossEntropy:
    it teaches no head. Not where q, k and v cannot be read (DeBERTa v1): refused.

    Args:
        relation_heads: A, which divides both widths; the paper's is 48 for base and 64 for large teachers,
            16 wide each. None takes the largest common divisor whose heads are that wide in the teacher or
            wider, which is the same for them; where its own heads are narrower, up to as many as it has.
        layers: which student layer learns from which teacher layer; the paper's student layer is the last.

    Raises:
        ValueError: at construction for relation heads that are not a number; at `bind` where they do not
            divide the widths, or for layers, tokens or architectures that do not fit.
    """

    kinds: ClassVar[tuple[str, ...]] = ("query", "key", "value")
    equal_heads: ClassVar[bool] = False

    def __init__(self, *, relation_heads: int | None = None, layers: Layers = "last:last") -> None:
        super().__init__(layers=layers)
        if relation_heads is not None and (type(relation_heads) is not int or relation_heads < 1):
            raise ValueError(f"relation_heads is a number from 1 up, found {relation_heads!r}. Usual: 48.")
        self.relation_heads = relation_heads
        self._most = 1

    def bind(self, setting: Setting) -> None:
        """Learn depths and widths, and check that the relation heads divide them."""
        super().bind(setting)
        student, teacher = self.anatomies(setting)
        self._most = max(teacher.heads, teacher.width // RELATION_WIDTH)
        self._heads(student.width, teacher.width)

    def readings(self, student: Trace, teacher: Trace) -> Iterator[tuple[Pair, Pair]]:
        """Yield query, key and value of each pair of layers, each with itself, in relation heads."""
        for kind in self.kinds:
            for s, t in self.read(student, teacher, kind):  # (B, H, T, D/H)
                joined = [x.transpose(1, 2).flatten(2) for x in (s, t)]  # (B, T, D)
                heads = self._heads(joined[0].shape[-1], joined[1].shape[-1])
                split = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in joined]  # (B, A, T, D/A)
                pair = split[0], split[1]
                yield pair, pair

    def _heads(self, student: int, teacher: int) -> int:
        """Return the number of relation heads for two widths of projections, perhaps not the hidden ones."""
        common = math.gcd(student, teacher)
        fitting = [heads for heads in range(1, common + 1) if common % heads == 0]
        if self.relation_heads is None:
            return max(heads for heads in fitting if heads <= self._most)
        if self.relation_heads not in fitting:
            near = min(fitting, key=lambda heads: abs(heads - self.relation_heads))  # type: ignore[operator]
            raise ValueError(
                f"MiniLMv2 splits the widths {student} (student) and {teacher} (teacher) into relation "
                f"heads, and {self.relation_heads} does not divide both. Take relation_heads={near}, or "
                f"leave it out."
            )
        return self.relation_heads
