"""MixKD: mixtures of two rows, made where words become vectors, which the teacher labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hfdistill.network import task as tasks
from hfdistill.network.task import TaskKind
from hfdistill.trainer.batches import rows

FIRST, SECOND, SHARE = "hfdistill_first", "hfdistill_second", "hfdistill_share"
"""Batch keys of a mixture: (N, T) ids of either row, and (N,) the share of the first."""

_PER_TOKEN = ("input_ids", "token_type_ids")


def with_mixtures(batch: dict[str, Any], *, alpha: float, random: np.random.Generator) -> dict[str, Any]:
    """Return the batch with as many rows again, each a mixture of one row with another: B rows become 2B.

    A mixture is as long as the longer of its two rows. Past the end of the shorter one, the attention mask
    and the token types are those of the longer, and the padding of the shorter enters the mixture.

    Args:
        batch: `input_ids` (B, T), `labels` that say nothing for the new rows already, (2B, …), and whatever
            else has B rows.
        alpha: λ is drawn from Beta(alpha, alpha), and the row that has the larger share comes first.
        random: draws the partners and λ.
    """
    size, ids = rows(batch), batch["input_ids"]
    partner = torch.from_numpy(random.permutation(size)).to(ids.device, non_blocking=True)
    share = torch.from_numpy(random.beta(alpha, alpha, size)).to(ids.device, torch.float32, non_blocking=True)
    mask = batch.get("attention_mask", torch.ones_like(ids))
    mixed = {"attention_mask": torch.cat([mask, mask | mask[partner]])}
    for name, value in batch.items():
        if name in _PER_TOKEN:
            mixed[name] = torch.cat([value, value.where(mask.bool(), value[partner])])
        elif name not in mixed:
            same = isinstance(value, Tensor) and value.dim() > 0 and len(value) == size
            mixed[name] = torch.cat([value, value]) if same else value
    mixed[FIRST], mixed[SECOND] = torch.cat([ids, ids]), torch.cat([ids, ids[partner]])
    mixed[SHARE] = torch.cat([torch.ones_like(share), share.maximum(1 - share)])
    return mixed


@contextmanager
def embeddings_mixed(model: nn.Module, batch: dict[str, Any]) -> Iterator[None]:
    """While open, the model reads λ·E[first] + (1-λ)·E[second] in the place of E[input_ids]."""
    first, second, share = batch[FIRST], batch[SECOND], batch[SHARE]

    def ask(table: Any, inputs: Any) -> Tensor:
        return torch.cat([first, second]).to(inputs[0].device)

    def mix(table: Any, inputs: Any, vectors: Tensor) -> Tensor:
        one, other = vectors.chunk(2)
        weight = share.to(vectors)[:, None, None]
        return weight * one + (1 - weight) * other  # (2B, T, D)

    table: Any = model.get_input_embeddings()  # type: ignore[operator]
    with table.register_forward_pre_hook(ask), table.register_forward_hook(mix):
        yield


class Mixup:
    """Shows each batch mixtures of its rows too, for `DistillationArguments(mixup=alpha)`.

    e' = λ·e_i + (1-λ)·e_j, λ ~ Beta(α, α), on the word embeddings of student and teacher alike, with the same
    pairs and λ (MixKD, Liang et al. 2021, arXiv 2011.00593). A mixture has no label: the terms that read the
    teacher count it as one more row, which is the paper's L_TMKD with the objective's own distance in the
    place of the squared error; its mixed labels (L_SM) are left out. Drawn from (seed, step, micro-batch,
    process), so that a resumed run sees the same.
    """

    def __init__(self, alpha: float, *, seed: int, process: int, task: TaskKind, classes: int) -> None:
        self.alpha, self.seed, self.process, self.task, self.classes = alpha, seed, process, task, classes

    def mix(
        self, batch: dict[str, Any], labels: Tensor | None, *, step: int, number: int
    ) -> tuple[dict[str, Any], Tensor]:
        """Return a micro-batch of B rows with B mixtures of them, and the labels of all 2B.

        A mixture has none.
        """
        blank = tasks.unlabelled(rows(batch), self.classes, self.task)
        known = blank if labels is None else tasks.as_targets(labels, self.task)
        random = np.random.default_rng((self.seed, step, number, self.process))
        mixed = with_mixtures(batch, alpha=self.alpha, random=random)
        return mixed, torch.cat([known, blank.to(known)])
