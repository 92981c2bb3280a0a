"""Cuts hidden dimensions, heads and neurons of a network."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hfdistill.network.architectures import Layout, ModelSpec, blocks_path, layout_of
from hfdistill.students.importance import Batches, Importance, taylor_importance
from hfdistill.students.weight_copy import empty_like, load_weights

SIZES = {
    "tiny": {"layers": 2, "width": 128},
    "mini": {"layers": 4, "width": 256},
    "small": {"layers": 4, "width": 512},
    "medium": {"layers": 8, "width": 512},
}
"""Turc et al. 2019 (arXiv 1908.08962), Table 1; the feed-forward network is four times as wide."""


def named_size(size: str) -> dict[str, int]:
    """Return layers, width and neurons of a named size.

    Raises:
        ValueError: for another name.
    """
    if size not in SIZES:
        raise ValueError(f"size={size!r} is not a size of Turc et al. Choose from {', '.join(SIZES)}.")
    return {**SIZES[size], "ffn": 4 * SIZES[size]["width"]}


def narrowed(
    model: Any, *, width: int | None, heads: int | None, ffn: int | None, data: Batches | None
) -> tuple[Any, dict[str, list[Tensor]]]:
    """Copy the most important hidden dimensions, heads and neurons of a model, and return their indices.

    Args:
        model: of a known architecture.
        width: hidden dimensions to keep, the same ones everywhere; None for all.
        heads: heads to keep in every block, of the size they have: another way to say the width.
        ffn: neurons to keep in every block; None for all.
        data: batches on which importance is measured.

    Returns:
        The copy, and which entries stayed: of the hidden dimensions ("width", one tensor), and for each block
        of the heads' dimensions ("heads") and of the neurons ("neurons").

    Raises:
        ValueError: sizes that the teacher does not have, or that no plain model can have; no data.
    """
    layout, anatomy = layout_of(model), ModelSpec.of(model)
    if layout.narrow_reason or not layout.heads:
        raise ValueError(
            f"Width, heads and neurons of this {anatomy.model_type} cannot be cut: "
            f"{layout.narrow_reason or 'it has no heads'}. Cut its depth, `layers=`."
        )
    width, heads = _width(anatomy, width=width, heads=heads)
    ffn = _neurons(getattr(model.config, layout.neurons), ffn)
    if data is None:
        raise ValueError(
            "Which dimensions, heads and neurons to keep is measured, and there is no data to measure it on. "
            "Pass data=[tokenizer(texts, padding=True, return_tensors='pt')] with some hundred texts, or a "
            "data loader."
        )
    config = _config(model.config, layout, {layout.width: width, layout.heads: heads, layout.neurons: ffn})
    student = empty_like(model, config, dtype=model.dtype)
    importance = taylor_importance(model, data)
    if layout.head_bias:
        importance = replace(importance, heads=[torch.stack(importance.heads).sum(0)] * anatomy.depth)
    indices = _kept(importance, width=width, heads=heads, ffn=ffn)
    load_weights(student, _weights(model, student, layout, indices))
    return student.to(model.device).eval(), indices


def _config(teacher: Any, layout: Layout, sizes: Mapping[str, int]) -> Any:
    """Return the teacher's config with other sizes."""
    config, old, new = copy.deepcopy(teacher), getattr(teacher, layout.width), sizes[layout.width]
    for field in layout.follows:
        size = getattr(teacher, field, None)
        if size == new != old:
            raise ValueError(
                f"A {teacher.model_type} of width {new} has no projection from its {field}={size}, and this "
                f"teacher of width {old} has one. Choose another width."
            )
        if size == old:
            setattr(config, field, new)
    for field, size in sizes.items():
        setattr(config, field, size)
    return config


def _width(anatomy: ModelSpec, *, width: int | None, heads: int | None) -> tuple[int, int]:
    """Return width and heads of the student; a head keeps its size."""
    size = anatomy.width // anatomy.heads
    if width is None and heads is None:
        return anatomy.width, anatomy.heads
    wanted = heads if heads is not None else (width or 0) // size
    if not 1 <= wanted <= anatomy.heads or (width is not None and width != wanted * size):
        sizes = ", ".join(f"{n}={v}" for n, v in (("width", width), ("heads", heads)) if v is not None)
        choices = ", ".join(str(size * count) for count in range(1, anatomy.heads + 1))
        raise ValueError(
            f"{sizes} does not fit a teacher of width {anatomy.width} with {anatomy.heads} heads of {size}. "
            f"Transformers makes a head width / heads wide, so whole heads go with the width, {size} "
            f"dimensions each. Choose a width of {choices}, or the number of heads alone."
        )
    return wanted * size, wanted


def _neurons(size: int, ffn: int | None) -> int:
    if ffn is None:
        return size
    if isinstance(ffn, bool) or not isinstance(ffn, int) or not 1 <= ffn <= size:
        raise ValueError(f"ffn={ffn!r} does not fit a teacher of {size} neurons a block. Choose 1 to {size}.")
    return ffn


def _kept(importance: Importance, *, width: int, heads: int, ffn: int) -> dict[str, list[Tensor]]:
    """Choose the indices that stay: of hidden dimensions, and per block of heads' dimensions and neurons."""
    size = len(importance.width) // len(importance.heads[0])
    heads_kept = [_largest(scores, heads) for scores in importance.heads]
    return {
        "width": [_largest(importance.width, width)],
        "bias": heads_kept[:1],
        "heads": [(rows[:, None] * size + torch.arange(size)).flatten() for rows in heads_kept],
        "neurons": [_largest(scores, ffn) for scores in importance.neurons],
    }


def _largest(scores: Tensor, count: int) -> Tensor:
    return scores.sort(descending=True, stable=True).indices[:count].sort().values


def _weights(
    model: Any, student: Any, layout: Layout, stays: Mapping[str, list[Tensor]]
) -> dict[str, Tensor]:
    """Cut the teacher's weights wherever the student's are smaller."""
    prefix = f"{blocks_path(model)}."
    shapes = {name: weight.shape for name, weight in student.state_dict().items()}
    cut = {}
    for name, weight in model.state_dict().items():
        for dimension, size in enumerate(shapes.get(name, weight.shape)):
            if weight.shape[dimension] != size:
                inside = name.startswith(prefix)
                number, _, path = name.removeprefix(prefix).partition(".") if inside else ("0", "", "")
                shared = layout.head_bias and layout.head_bias in name
                choices = stays["bias" if shared else kind_of(layout, path, dimension)]
                indices = choices[int(number)] if len(choices) > 1 else choices[0]
                chosen = spread_over_parts(indices, weight.shape[dimension], size)
                weight = weight.index_select(dimension, chosen.to(weight.device))
        cut[name] = weight
    return cut


def kind_of(layout: Layout, path: str, dimension: int) -> str:
    """Return what the entries along a dimension of a block's weight are: "width", "heads" or "neurons"."""
    module = path.rpartition(".")[0]
    inner = {layout.up: ("neurons", 0), layout.down: ("neurons", 1), layout.output: ("heads", 1)}
    inner |= {p: ("heads", 0) for p in (layout.query, layout.key, layout.value, layout.fused) if p}
    kind, at = inner.get(module, ("width", dimension))
    return kind if at == dimension else "width"


def spread_over_parts(indices: Tensor, old: int, new: int) -> Tensor:
    """Return indices into parts that lie side by side (query, key, value; gate), the same ones of each.

    Args:
        indices: the entries of one part that stay.
        old: entries of all parts together.
        new: entries that stay of all parts together.
    """
    parts = new // len(indices)
    return torch.cat([indices + part * (old // parts) for part in range(parts)])
