"""Teachers that answer each training text without having seen it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hfdistill.network.label_space import match_labels
from hfdistill.network.trace import Batch, Tap, Trace
from hfdistill.teachers.base import Teacher, TeacherOfSeveral, as_teacher
from hfdistill.teachers.cache.keys import chosen


class FoldTeacher(TeacherOfSeveral):
    """Several teachers, each of which answers the texts that it was not trained on.

    A text is known by its token ids without padding, so shuffling, filtering and padding change nothing. One
    that is in no fold, such as unlabelled or evaluation text, is answered by the mean of all logits: no
    teacher has seen it.

    All teachers stay in memory. It has no hidden states to learn from: those of different teachers do not
    mean the same.

    Args:
        teachers: of folds 0, 1, …; they name the same classes in the same order.
        assignment: `text_key` of each training text → the fold that it was left out of.
        max_length: tokens of the longest row that was assigned a fold where rows were cut; longer rows would
            be known texts that look unknown, and are refused. None where nothing was cut.

    Raises:
        LabelSpaceError: for teachers with other classes.
        ValueError: for fewer than two teachers, one that changes with the student, teachers whose classes are
            in another order, or an assignment to a fold that is not there.
    """

    def __init__(
        self, teachers: Sequence[Any], assignment: Mapping[bytes, int], *, max_length: int | None = None
    ) -> None:
        super().__init__()
        if len(teachers) < 2:
            raise ValueError(f"FoldTeacher needs two teachers or more, found {len(teachers)}. Use folds=5.")
        built = [as_teacher(teacher) for teacher in teachers]
        odd = {fold for fold in assignment.values() if not 0 <= fold < len(built)}
        if odd:
            raise ValueError(
                f"The assignment names fold {min(odd)}, and there are the folds 0 to {len(built) - 1}."
            )
        self.teachers = nn.ModuleList(built)
        self.refuse_changing("a fold's teacher does not")
        self.config = built[0].config
        for fold, teacher in enumerate(built):
            known = self.config is not None and teacher.config is not None
            if known and match_labels(self.config, teacher.config) is not None:
                raise ValueError(
                    f"The teacher of fold {fold} has the classes of fold 0 in another order. Train all with "
                    "one head: load_classifier(encoder, new_head=names)."
                )
        self.assignment = dict(assignment)
        self.max_length = max_length
        self.same_tokens = all(teacher.same_tokens for teacher in built)
        self.wants_labels = any(teacher.wants_labels for teacher in built)

    def check_taps(self, taps: Collection[Tap]) -> None:
        """Refuse all taps."""
        if taps:
            raise ValueError(
                "The teachers of several folds have hidden states that do not mean the same. Use terms on "
                "logits alone, such as KD(), or one teacher."
            )

    def trace(self, batch: Batch, *, taps: Collection[Tap] = frozenset()) -> Trace:
        """Return each row's answer by the teacher of its fold; see `Teacher.trace`.

        Raises:
            ValueError: for taps, and for rows longer than those that were assigned.
        """
        self.check_taps(taps)
        folds = torch.tensor([self.assignment.get(key, -1) for key in self._keys(batch)])
        share = torch.where(folds < 0, 1 / len(self.teachers), 1.0)
        logits: Tensor | None = None
        for fold, teacher in enumerate(self.made_of()):
            asked = (folds == fold) | (folds < 0)
            if not asked.any():
                continue
            answer = teacher.trace(chosen(batch, asked)).logits.float()
            if logits is None:
                logits = answer.new_zeros(len(folds), *answer.shape[1:])
            weights = share[asked].to(answer.device).view(-1, *[1] * (answer.dim() - 1))
            logits[asked.to(answer.device)] += weights * answer
        assert logits is not None  # noqa: S101 - each row asks at least one teacher
        return Trace(logits=logits, attention_mask=batch.get("attention_mask"))

    def _keys(self, batch: Batch) -> list[bytes]:
        ids, mask = batch["input_ids"].cpu(), batch.get("attention_mask")
        real = torch.ones_like(ids).bool() if mask is None else mask.cpu().bool()
        rows = [row[is_real].tolist() for row, is_real in zip(ids, real, strict=True)]
        longest = max(map(len, rows))
        if self.max_length is not None and longest > self.max_length:
            raise ValueError(
                f"A row has {longest} tokens, and the folds were made of rows cut to {self.max_length}: "
                f"texts would not be known again. Type max_length={longest} in out_of_fold, or "
                f"{self.max_length} in the arguments of the run."
            )
        return [text_key(row) for row in rows]

    def made_of(self) -> Sequence[Teacher]:
        """Return the teachers of the folds."""
        return list(self.teachers)  # type: ignore[arg-type]

    def select_inputs(self, batch: Batch) -> Batch:
        """Return the batch, or refuse it where teachers read other tokens: the student's do not say which."""
        if any(part.prefix for part in self.parts()):
            raise ValueError(
                "The teachers of the folds have a tokenizer of their own. Record each on its own, and make a "
                "FoldTeacher of the recorded ones."
            )
        return batch

    def fingerprint(self) -> str:
        """Return the sha256 over the teachers and the assignment."""
        digest = hashlib.sha256()
        for teacher in self.made_of():
            digest.update(teacher.fingerprint().encode())
        for key, fold in sorted(self.assignment.items()):
            digest.update(key + fold.to_bytes(2, "big"))
        return digest.hexdigest()


def text_key(ids: Sequence[int]) -> bytes:
    """Return the key of a text: a hash of its token ids, special tokens included, padding left out."""
    return hashlib.blake2b(np.asarray(ids, dtype="<i8").tobytes(), digest_size=16).digest()


def assign_folds(keys: Sequence[bytes], labels: Sequence[Any] | None, *, folds: int, seed: int) -> list[int]:
    """Return the fold of each row: equal texts share one.

    All in all and in each class, folds differ by one text at most.

    Of equal texts the label of the first one decides; without labels only the folds' sizes are balanced.
    """
    _, first, groups = np.unique([key.hex() for key in keys], return_index=True, return_inverse=True)
    if not 2 <= folds <= len(first):
        raise ValueError(
            f"folds={folds} does not fit {len(first)} different texts. Choose 2 to {len(first)}."
        )
    order = np.random.default_rng(seed).permutation(len(first))
    if labels is not None:
        order = order[np.argsort(np.asarray(labels)[first][order], kind="stable")]
    dealt = np.empty(len(first), dtype=np.int64)
    dealt[order] = np.arange(len(first)) % folds
    return [int(fold) for fold in dealt[groups]]
