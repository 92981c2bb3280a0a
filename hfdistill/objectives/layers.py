"""Terms that look inside the networks share this: pairs of layers, masks, pooling, projections."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from hfdistill.network.architectures import ModelSpec, layout_of
from hfdistill.network.layer_map import LayerMap, Layers, pairs_text
from hfdistill.network.trace import Tap, Trace
from hfdistill.objectives.base import Objective, Setting, Taps

POOLINGS = ("token", "cls", "mean")
Pair = tuple[Tensor, Tensor]


class LayerObjective(Objective):
    """Base class of terms that compare layers of the student with layers of the teacher.

    The life cycle is that of every objective; `bind` needs the sizes of both networks. A subclass reads
    `kinds` at each pair of its map and implements `forward`.

    Args:
        layers: which student layer learns from which teacher layer; see `hfdistill.LayerMap`.
    """

    kinds: ClassVar[tuple[str, ...]] = ("hidden",)
    """What is read at each layer of the map."""
    reads_attention: ClassVar[bool] = False
    """True where `softmax(q kᵀ / √d)` has to be the attention of the network."""
    pooling: str = "token"

    def __init__(self, *, layers: Layers = "uniform") -> None:
        super().__init__()
        self._map = LayerMap(layers)
        self.layers = layers if isinstance(layers, str) else str(self._map)
        self._layer_pairs: tuple[tuple[int, int], ...] = ()

    def bind(self, setting: Setting) -> None:
        """Learn the depths, and lay out which layer learns from which.

        Raises:
            ValueError: where the sizes of a network are not known, the map does not fit the depths, the
                tokens of the two are not the same and nothing is pooled, or the projections cannot be read.
        """
        student, teacher = self.anatomies(setting)
        if self.pooling == "token" and not setting.same_tokens:
            raise ValueError(
                f"{self!r} compares token i of the student with token i of the teacher, but the two read "
                f"different tokens. Use a term that pools them, such as HiddenMSE(pooling='mean') or RKD(), "
                f"or give the student the teacher's tokenizer."
            )
        lowest = 0 if self.kinds == ("hidden",) else 1
        self._layer_pairs = self._map.resolve(student.depth, teacher.depth, lowest=lowest)
        if lowest:
            self._check_projections(student, whose="student")
            self._check_projections(teacher, whose="teacher")

    def summary(self) -> str:
        """Return the term, its resolved map, and what projections it adds."""
        added = sum(parameter.numel() for parameter in self.parameters())
        projections = f"; projections of {added:,} parameters, not exported" if added else ""
        return f"{self!r}: layers student:teacher {pairs_text(self._layer_pairs)}{projections}"

    def taps(self) -> Taps:
        """Return `kinds` at each layer of the map."""
        if not self._layer_pairs:
            raise RuntimeError(f"{self!r} is not bound yet: which layers it reads depends on both depths.")
        student, teacher = zip(*self._layer_pairs, strict=True)
        return self._taps(student), self._taps(teacher)

    def anatomies(self, setting: Setting) -> tuple[ModelSpec, ModelSpec]:
        """Return the sizes of student and teacher, or raise ValueError where one is not known."""
        student, teacher = setting.student, setting.teacher
        if student is None or teacher is None:
            whose = "student" if student is None else "teacher"
            raise ValueError(
                f"{self!r} looks inside the {whose}, but where that one keeps its layers is not known. "
                f"Tell it with hfdistill.register_anatomy, or use a term on logits, such as KD(). Of "
                f"an Ensemble, name the member to look into: features=0."
            )
        return student, teacher

    def read(self, student: Trace, teacher: Trace, kind: str = "hidden") -> Iterator[Pair]:
        """Yield readings of each pair of layers, in float32 or wider; the teacher's without a graph."""
        for own, other in self._layer_pairs:
            yield (
                at_least_float32(self._reading(student, Tap(kind, own), whose="student")),
                at_least_float32(self._reading(teacher, Tap(kind, other), whose="teacher").detach()),
            )

    def _taps(self, layers: tuple[int, ...]) -> frozenset[Tap]:
        return frozenset(Tap(kind, layer) for kind in self.kinds for layer in layers)

    def _check_projections(self, anatomy: ModelSpec, *, whose: str) -> None:
        layout = layout_of(anatomy)
        reason = layout.projections_reason or (self.reads_attention and layout.attention_reason)
        if not anatomy.heads or not (layout.query or layout.fused):
            reason = reason or "it has no attention whose query, key and value are known"
        if reason:
            way_out = "HiddenMSE() or PKD()" if layout.projections_reason else "MiniLMv2() or HiddenMSE()"
            raise ValueError(
                f"{self!r} cannot read the attention of the {whose}, a {anatomy.model_type}: {reason}. "
                f"Use {way_out} instead."
            )


def at_least_float32(x: Tensor) -> Tensor:
    """Convert narrower types to float32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def mask_of(trace: Trace, reading: Tensor) -> Tensor:
    """Return a mask (B, T), True for real tokens of a reading (B, T, …); for all where the batch had none.

    Raises:
        ValueError: where the reading has other tokens than the mask, as with virtual tokens of prompt tuning.
    """
    if trace.attention_mask is None:
        return torch.ones(reading.shape[:2], dtype=torch.bool, device=reading.device)
    if trace.attention_mask.shape != reading.shape[:2]:
        raise ValueError(
            f"A reading has (rows, tokens) {tuple(reading.shape[:2])}, the attention mask "
            f"{tuple(trace.attention_mask.shape)}. Use terms on logits where tokens are added inside a "
            f"model, as in prompt tuning."
        )
    return trace.attention_mask.to(reading.device).bool()


def token_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return (B,) or (B, D): of each row the mean over its real tokens; 0 for a row without any."""
    real = mask.view(*mask.shape, *[1] * (values.dim() - 2))
    lengths = real.sum(1).clamp(min=1)
    return values.where(real, torch.zeros((), dtype=values.dtype, device=values.device)).sum(1) / lengths


def pooled(hidden: Tensor, mask: Tensor, *, pooling: str) -> Tensor:
    """Return (B, D) out of (B, T, D): the first real token, or the mean over the real ones."""
    if pooling == "mean":
        return token_mean(hidden, mask)
    first = mask.int().argmax(dim=1)  # not 0 where padding is on the left
    return hidden[torch.arange(len(hidden), device=hidden.device), first]


def same_tokens(student: Tensor, teacher: Tensor) -> None:
    """Refuse readings of different rows or tokens, which would broadcast to a plausible number."""
    if student.shape[:2] != teacher.shape[:2]:
        raise ValueError(
            f"Token i of the student is compared with token i of the teacher, but their readings have (rows, "
            f"tokens) {tuple(student.shape[:2])} and {tuple(teacher.shape[:2])}. Give both the same "
            f"encoding, or pool: HiddenMSE(pooling='mean')."
        )


def check_pooling(pooling: str, *, allowed: tuple[str, ...] = POOLINGS) -> str:
    """Return the pooling, or raise ValueError."""
    if pooling not in allowed:
        raise ValueError(f"pooling is one of {', '.join(map(repr, allowed))}, found {pooling!r}.")
    return pooling


def linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear map without bias that draws nothing from the global generator.

    Square, it starts as the identity; otherwise uniform in ±1/√inputs, the same at every construction.
    """
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        if inputs == outputs:
            layer.weight.copy_(torch.eye(inputs))
        else:
            drawn = torch.rand(outputs, inputs, generator=generator, device="cpu")
            layer.weight.copy_((2 * drawn - 1) / math.sqrt(inputs))
    return layer
