"""Cuts a student from its teacher: the same network with fewer blocks, dimensions, heads or neurons."""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hfdistill.files.plain_data import as_python, public_name
from hfdistill.network.architectures import Layout, ModelSpec, blocks_path, embeddings, layout_of
from hfdistill.network.layer_map import uniform
from hfdistill.network.loading import load_tokenizer
from hfdistill.students.calibration import FEW, Sides, calibration, few
from hfdistill.students.importance import Batches
from hfdistill.students.refit import Refit, answer_error, check_refit, refit
from hfdistill.students.refit_search import best_layers
from hfdistill.students.refit_steps import Cut
from hfdistill.students.weight_copy import empty_like, load_weights, network
from hfdistill.students.width_pruning import named_size, narrowed

logger = logging.getLogger(__name__)


def shrink(
    teacher: PreTrainedModel | str | os.PathLike[str],
    *,
    layers: int | Sequence[int] | None = None,
    width: int | None = None,
    heads: int | None = None,
    ffn: int | None = None,
    size: str | None = None,
    data: Batches | None = None,
    fit: Any = None,
    tokenizer: Any = None,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """Make a student of some of the teacher's blocks, hidden dimensions, heads and neurons.

    `layers=M` of N keeps the blocks g(m) = round(m·N/M), m = 1…M (PKD-skip, arXiv 1908.09355; TinyBERT's
    uniform map, arXiv 1909.10351): 6 → 3 keeps blocks 2, 4 and 6. A list keeps exactly the blocks it names:
    DistilBERT (arXiv 1910.01108) started from `[1, 3, 5, 8, 10, 12]`. Blocks are counted from 1, as in
    `hidden_states`.

    By importance: `layers=most_important(block_importance(teacher, data), M)`.

    `width`, `heads` and `ffn` keep what matters most on `data`: by the first-order change of the loss where a
    part is removed, E |Σ_t a·∂L/∂a| (Michel et al. 2019, arXiv 1905.10650), for each head and neuron of a
    block and for each hidden dimension over all blocks. The same dimensions stay everywhere, so that residual
    sums and LayerNorm go on meaning what they meant; a rotation to principal components (SliceGPT, arXiv
    2401.15024) keeps more, but needs a norm without mean and scale per dimension, which none of these
    architectures has. A head keeps its size, since Transformers derives it as width / heads: so `heads=4` of
    12 is a width of a third, and heads cannot go alone. `size` names all at once: `tiny` (2 layers, width
    128), `mini` (4, 256), `small` (4, 512), `medium` (8, 512), each with 4·width neurons (Turc et al. 2019,
    arXiv 1908.08962, whose heads are 64 wide); arguments given beside it win.

    Embeddings, position terms, final norm, pooler and head are carried over. Where only the depth is cut, the
    student's logits are those of a teacher whose dropped blocks pass their input on unchanged. The weights
    are copies; the teacher stays as it was. The student is in evaluation mode, as after `from_pretrained`; a
    frozen teacher does not make a frozen student; nothing is drawn at random.

    Saved, it is a plain Transformers model. Its `config._name_or_path` is empty, since no published weights
    are its own; `config.shrunk_from` keeps its origin: `{"model": "org/teacher", "layers": [2, 4, 6]}`, and
    `width`, `heads` and `ffn` where they were cut.

    ALBERT repeats one group of weights, so any choice of M layers gives M repeats: faster, but not smaller.
    ModernBERT (always) and DeBERTa-v2 (with a convolution) cannot do without block 1: there `layers=M` keeps
    1, g(2), …, g(M).

    Args:
        teacher: A model with any head, a PEFT wrapper around one (its adapter is merged into a copy), or the
            id or path of a classifier of texts or tokens. A checkpoint without a head gets one from
            Transformers, drawn at random.
        layers: How many blocks to keep, or which ones; None for all.
        width: Hidden dimensions to keep: a multiple of the size of a head.
        heads: Heads to keep in each block: another way to say the width.
        ffn: Feed-forward neurons to keep in each block.
        size: `tiny`, `mini`, `small` or `medium`.
        data: Batches on which importance is measured, as `tokenizer(texts, padding=True,
            return_tensors="pt")` or a data loader gives them; some hundred rows do. The loss is that of
            their `labels`, and of the teacher's own answers for rows without; for several labels and real
            values Σ |logits|, without labels. For `width`, `heads`, `ffn` and `size`; with `fit`, some of
            its texts where not given.
        fit: Texts without labels, or a `Refit` of them: what is kept is then fitted to the whole teacher by
            least squares, so that the student is of use before it is trained; see `Refit`.
        tokenizer: What reads the texts of `fit`; None for the one in the teacher's folder.
        dtype: Type of the student's weights.

    Returns:
        A model of the teacher's class, on its device.

    Raises:
        TypeError: `teacher` is neither a model nor a name, or `layers` is not made of whole numbers.
        ValueError: The architecture is unknown or cannot be cut, a size does not fit the teacher's, nothing
            is asked for, data is missing, or the teacher's weights do not fit its config (quantised, pruned
            or carrying an adapter).

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> teacher = BertForSequenceClassification(BertConfig(num_hidden_layers=6, hidden_size=24))
        >>> student = shrink(teacher, layers=3)
        >>> student.config.num_hidden_layers, student.config.shrunk_from["layers"]
        (3, [2, 4, 6])

    When to use it: the first choice wherever teacher and student may have the same width; starting from
    random weights costs more than leaving out any one loss (DistilBERT's ablation). For plain logit
    distillation also try the lowest blocks (`layers=[1, 2, 3]`, arXiv 2305.15032). Cut neurons next, and the
    width last: it costs most of what the teacher knew, so give such a student more data or hidden-state
    terms. When not: where embeddings are most of the weights, as in a small multilingual model; cut the
    vocabulary there (`prune_vocabulary`).
    """
    model = network(teacher)
    wanted = _wanted(layers=layers, width=width, heads=heads, ffn=ffn, size=size)
    if fit is None:
        student, cut = _cut(model, wanted, data=data, dtype=dtype)
    else:
        plan = fit if isinstance(fit, Refit) else Refit(fit)
        student, cut = _fitted(model, wanted, plan, tokenizer or _tokenizer(teacher, model), data=data)
    _log(model, student, chosen=list(cut.layers))
    return student.to(dtype).eval()


def _wanted(*, size: str | None, **sizes: Any) -> dict[str, Any]:
    """Return the sizes of the student, None for the teacher's own."""
    sizes = {name: as_python(value) for name, value in sizes.items()}
    if size is not None:
        named = {name: value for name, value in sizes.items() if value is not None}
        sizes |= named_size(size) | ({"width": None} if "heads" in named else {}) | named
    if all(value is None for value in sizes.values()):
        raise ValueError("shrink is asked for nothing. Write layers=3, ffn=1024, width=256 or size='mini'.")
    return sizes


def _cut(model: Any, wanted: dict[str, Any], *, data: Batches | None, dtype: torch.dtype) -> tuple[Any, Cut]:
    """Return a student whose weights are copies of its teacher's, and what it kept."""
    anatomy, layout = ModelSpec.of(model), layout_of(model)
    layers = wanted["layers"]
    every = list(range(1, anatomy.depth + 1))
    chosen = every if layers is None else _kept(layers, anatomy=anatomy, layout=layout, config=model.config)
    narrow, indices = model, dict[str, list[Tensor]]()
    sizes = {name: wanted[name] for name in ("width", "heads", "ffn")}
    if any(value is not None for value in sizes.values()):
        narrow, indices = narrowed(model, **sizes, data=data)
    config = _config(narrow.config, layout=layout, chosen=chosen)
    config.shrunk_from = _origin(model, narrow, chosen)
    student = empty_like(model, config, dtype=dtype)
    load_weights(student, _weights(narrow, layout=layout, chosen=chosen))
    return student.to(model.device).eval(), Cut(chosen, indices)


def _fitted(
    model: Any, wanted: dict[str, Any], plan: Refit, tokenizer: Any, *, data: Batches | None
) -> tuple[Any, Cut]:
    """Return a student in float32 that is fitted to its teacher, and what it kept."""
    check_refit(model)
    options = {"rows": plan.rows, "max_length": plan.max_length}
    batches = calibration(plan.texts, tokenizer=tokenizer, model=model, **options)
    data = few(batches[0]) if data is None else data
    if plan.choose_layers:
        wanted = wanted | {"layers": _best(model, wanted, plan, batches, data)}
    student, cut = _cut(model, wanted, data=data, dtype=torch.float32)
    started, shown = time.perf_counter(), logger.isEnabledFor(logging.INFO)
    before = answer_error(student, model, batches[1], cut) if shown else 0.0
    refit(student, model, cut, plan, batches)
    texts = [sum(len(batch["input_ids"]) for batch in side) for side in batches]
    student.config.shrunk_from["fitted_on"] = sum(texts)
    if shown:  # two passes of the teacher, which are for nothing where nobody reads them
        logger.info(
            "Fitted to %d texts in %.0f s; mean squared error of the answers to %d others: %.4g → %.4g",
            *(texts[0], time.perf_counter() - started, texts[1], before),
            answer_error(student, model, batches[1], cut),
        )
    return student, cut


def _best(model: Any, wanted: dict[str, Any], plan: Refit, batches: Sides, data: Batches) -> list[int]:
    """Return the blocks with which the fitted student answers most like its teacher, tried on few texts."""
    layout, small = layout_of(model), (few(batches[0]), few(batches[1], rows=FEW // 4))

    def error(layers: Sequence[int]) -> float:
        student, cut = _cut(model, wanted | {"layers": list(layers)}, data=data, dtype=torch.float32)
        refit(student, model, cut, replace(plan, sweeps=1), small)
        return answer_error(student, model, small[1], cut)

    anchored = bool(layout.anchored(model.config))
    return best_layers(error, depth=ModelSpec.of(model).depth, count=wanted["layers"], anchored=anchored)


def _tokenizer(teacher: Any, model: Any) -> Any:
    """Return the tokenizer beside the teacher's weights; None where there is none."""
    return load_tokenizer(teacher) or load_tokenizer(model.config._name_or_path or None)


def _origin(model: Any, narrow: Any, chosen: list[int]) -> dict[str, Any]:
    """Name what a student was cut from: its teacher, the kept blocks, and the sizes that were cut."""
    origin: dict[str, Any] = {"model": public_name(model.config._name_or_path or ""), "layers": chosen}
    earlier = getattr(model.config, "shrunk_from", None)
    if earlier and not model.config._name_or_path:  # cut before, and nowhere to be found as it was then
        origin = earlier | {"layers": [earlier["layers"][number - 1] for number in chosen]}
    return origin | {name: new for name, (old, new) in _sizes(model, narrow).items() if old != new}


def _sizes(teacher: Any, student: Any) -> dict[str, tuple[int, int]]:
    """Return sizes of one block on both sides; none where the architecture has no such parts."""
    layout = layout_of(teacher)
    fields = {"width": layout.width, "heads": layout.heads, "ffn": layout.neurons}
    return {
        name: (getattr(teacher.config, field, 0), getattr(student.config, field, 0))
        for name, field in fields.items()
        if field
    }


def _kept(layers: int | Sequence[int], *, anatomy: ModelSpec, layout: Layout, config: Any) -> list[int]:
    """Return numbers of the kept blocks, from 1."""
    fixed, anchored = layout.fixed(config), layout.anchored(config)
    if fixed:
        raise ValueError(
            f"The depth of this {anatomy.model_type} cannot be cut: {fixed}. "
            f"Use a teacher without that, or a student that is not cut from it."
        )
    if type(layers) is int:
        return _spread(layers, depth=anatomy.depth, from_first=bool(anchored))
    chosen = _checked(layers, depth=anatomy.depth)
    if anchored and chosen[0] != 1:
        raise ValueError(
            f"layers={chosen} leaves out block 1 of a {anatomy.model_type}, where {anchored}. "
            f"Put 1 first, for example layers={[1, *chosen[1:]]}."
        )
    return chosen


def _spread(count: int, *, depth: int, from_first: bool) -> list[int]:
    """Return the uniform map m·depth/count, halves rounded up."""
    if not 1 <= count <= depth:
        raise ValueError(
            f"layers={count} does not fit a teacher of {depth} layers: a student keeps some of its teacher's "
            f"blocks. Choose between 1 and {depth}."
        )
    spread = [uniform(m, student_depth=count, teacher_depth=depth) for m in range(1, count + 1)]
    return [1, *spread[1:]] if from_first else spread


def _checked(layers: int | Sequence[int], *, depth: int) -> list[int]:
    """Return a choice of blocks: whole numbers from 1 to depth, each larger than the one before."""
    if isinstance(layers, (str, bytes)) or not isinstance(layers, Sequence):
        raise TypeError(
            f"layers={layers!r} is neither a number of blocks nor a list of them. "
            f"Write layers={max(1, depth // 2)} or layers={list(range(1, depth + 1, 2))}."
        )
    wrong = [number for number in layers if isinstance(number, bool) or not isinstance(number, int)]
    if wrong:
        raise TypeError(
            f"layers={list(layers)} holds {wrong[0]!r}, but blocks are named by whole numbers. "
            f"Write numbers from 1 to {depth}."
        )
    outside = [number for number in layers if not 1 <= number <= depth]
    if not layers or outside:
        problem = f"names block {outside[0]}" if outside else "is empty"
        raise ValueError(
            f"layers={list(layers)} {problem}, but the teacher's blocks are 1 to {depth}, from 1 as in "
            f"hidden_states. For every second one write layers={list(range(2, depth + 1, 2)) or [1]}."
        )
    if any(later <= earlier for earlier, later in pairwise(layers)):
        raise ValueError(
            f"layers={list(layers)} is not strictly increasing: a student keeps each block once, in the "
            f"teacher's order. Write layers={sorted(set(layers))}."
        )
    return list(layers)


def _config(teacher: Any, *, layout: Layout, chosen: list[int]) -> Any:
    """Return the teacher's config with its depth, and what follows from it, changed."""
    config = copy.deepcopy(teacher)
    for field in layout.per_layer:
        setattr(config, field, [getattr(teacher, field)[number - 1] for number in chosen])
    for field in layout.per_rule:
        if hasattr(config, field):
            delattr(config, field)
    setattr(config, layout.depth, len(chosen))
    config._name_or_path = ""
    return config


def _weights(model: Any, *, layout: Layout, chosen: list[int]) -> dict[str, Tensor]:
    """Return the teacher's weights under the student's names."""
    state: dict[str, Tensor] = model.state_dict()
    if layout.shared:
        return state
    prefix = f"{blocks_path(model)}."
    renumbered = {number - 1: index for index, number in enumerate(chosen)}
    cut = {}
    for name, weight in state.items():
        if not name.startswith(prefix):
            cut[name] = weight
            continue
        index, rest = name.removeprefix(prefix).split(".", 1)
        if int(index) in renumbered:
            cut[f"{prefix}{renumbered[int(index)]}.{rest}"] = weight
    return cut


def _log(teacher: Any, student: Any, *, chosen: list[int]) -> None:
    before, after = teacher.num_parameters(), student.num_parameters()
    words = sum(parameter.numel() for parameter in embeddings(student).parameters())
    sizes = [
        f"; {name} {new} of {old}" for name, (old, new) in _sizes(teacher, student).items() if old != new
    ]
    logger.info(
        "Kept blocks %s of %d%s: %.1f M → %.1f M parameters (%.0f %%), %.0f %% of them embeddings.",
        ", ".join(map(str, chosen)),
        ModelSpec.of(teacher).depth,
        "".join(sizes),
        before / 1e6,
        after / 1e6,
        100 * after / before,
        100 * words / after,
    )
