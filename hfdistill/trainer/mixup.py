"""MixKD: rows between rows, mixed where words become vectors, for the teacher to judge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hfdistill.network import label_space as spaces
from hfdistill.teachers import EMATeacher, Ensemble, ModelTeacher, Peer, Teacher
from hfdistill.trainer.arguments import option
from hfdistill.trainer.batches import rows
from hfdistill.trainer.teacher_cache import CachingTrainer

FIRST, SECOND, SHARE = "hfdistill_first", "hfdistill_second", "hfdistill_share"
"""Batch keys of a mixture: (N, T) ids of either row, and (N,) the share of the first."""

_PER_TOKEN = ("input_ids", "token_type_ids")


def with_mixtures(batch: dict[str, Any], *, alpha: float, random: np.random.Generator) -> dict[str, Any]:
    """The batch, and as many rows again, each a mixture of one row with another: B rows become 2B.

    Where one row has ended, the other's tokens give the positions; its own padding enters the mixture.

    Args:
        batch: `input_ids` (B, T), `labels` that say nothing for the new rows already, (2B, …), and whatever
            else has B rows.
        alpha: λ is drawn from Beta(alpha, alpha), and the row that has the larger share comes first.
        random: draws the partners and λ.
    """
    size, ids = rows(batch), batch["input_ids"]
    partner = torch.from_numpy(random.permutation(size)).to(ids.device)
    share = torch.from_numpy(random.beta(alpha, alpha, size)).to(ids.device, torch.float32)
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

    def mix(table: Any, inputs: Any, found: Tensor) -> Tensor:
        one, other = (
            F.embedding(ids.to(found.device), table.weight, table.padding_idx) for ids in (first, second)
        )
        weight = share.to(found)[:, None, None]
        return weight * one + (1 - weight) * other  # (2B, T, D)

    hook = model.get_input_embeddings().register_forward_hook(mix)  # type: ignore[operator]
    try:
        yield
    finally:
        hook.remove()


class MixingTrainer(CachingTrainer):
    """A `Trainer` that, with `DistillationArguments(mixup=alpha)`, shows each batch mixtures of its rows too.

    e' = λ·e_i + (1-λ)·e_j, λ ~ Beta(α, α), on the word embeddings of student and teacher alike, with the same
    pairs and λ (MixKD, Liang et al. 2021, arXiv 2011.00593). A mixture has no label: the terms that read the
    teacher count it as one more row, which is the paper's L_TMKD with the objective's own distance in the
    place of the squared error; its mixed labels (L_SM) are left out. Drawn from (seed, step, micro-batch,
    process), so that a resumed run sees the same.
    """

    def use_cache(self, folder: str | Path | None) -> None:
        """As without mixtures.

        Raises:
            ValueError: for mixtures that this teacher, student or task cannot read.
        """
        super().use_cache(folder)
        alpha = option(self.args, "mixup")
        if alpha is None:
            return
        if not alpha > 0:
            raise ValueError(f"mixup is the a of Beta(a, a), above 0, found {alpha!r}. Type mixup=0.4.")
        if self.teacher is None or self.task == "token":
            raise ValueError(
                "mixup shows mixtures of texts, which have no label: a teacher has to judge them, a text at "
                "a time. Leave mixup out for teacher=None and for labels on words."
            )
        members = [part for part in self.teacher.modules() if isinstance(part, Teacher)]
        live = all(isinstance(part, (ModelTeacher, EMATeacher, Ensemble, Peer)) for part in members)
        if folder is not None or not live:
            raise ValueError(
                "mixup needs a live teacher: mixtures of rows are others in every step, and neither recorded "
                "answers nor those of a fold are theirs. Leave teacher_cache out and give the model itself."
            )
        for model in self._read_by(self.model):
            if type(getattr(model, "get_input_embeddings", lambda: None)()) is not nn.Embedding:
                raise ValueError(
                    f"mixup mixes word embeddings, and {type(model).__name__} has no table of them to read "
                    "one by one. Leave mixup out, or write rows anew: augment(dataset, method)."
                )
        if any(not part.same_tokens for part in self.teacher.parts()):
            raise ValueError(
                "mixup mixes two rows token by token, and the teacher reads other tokens than the student. "
                "Leave mixup out, or write rows anew: augment(dataset, method)."
            )

    def _read_by(self, student: nn.Module) -> list[Any]:
        parts = () if self.teacher is None else self.teacher.parts()
        return [student, *(part.model for part in parts)]

    def mixed(self, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The micro-batches of one step, with mixtures where they are asked for."""
        alpha = option(self.args, "mixup")
        if alpha is None:
            return batches
        made = []
        for number, batch in enumerate(batches):
            seed = (self.args.seed, self.state.global_step, number, self.args.process_index)
            blank = spaces.unlabelled(rows(batch), self._classes, self.task)
            labels = self.given_labels(batch)
            known = blank if labels is None else spaces.as_targets(labels, self.task)
            both = {"labels": torch.cat([known, blank.to(known)])}
            texts = self.without_labels(batch)
            made.append(both | with_mixtures(texts, alpha=alpha, random=np.random.default_rng(seed)))
        return made

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **options: Any) -> Tensor:
        """As Trainer's; a batch with mixtures is read as such by every model."""
        if SHARE not in inputs:
            return super().training_step(model, inputs, *args, **options)
        with ExitStack() as stack:
            for each in self._read_by(self.accelerator.unwrap_model(model)):
                stack.enter_context(embeddings_mixed(each, inputs))
            return super().training_step(model, inputs, *args, **options)
