"""A trainer whose teacher is asked once about each row."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import nn
from transformers.trainer_utils import TrainOutput

from hfdistill.data import FreshCopies
from hfdistill.teachers import CachedTeacher, CacheError, Contents, fill
from hfdistill.trainer.arguments import option
from hfdistill.trainer.replacing import ReplacingTrainer

logger = logging.getLogger(__name__)


class CachingTrainer(ReplacingTrainer):
    """A `Trainer` that records its teacher before the first step, and then trains without it in memory.

    Every epoch reads what is stored, the first one too. Data without a length is recorded as it comes: its
    rows are asked about once, and published with each checkpoint and at the end. So are fresh copies.
    """

    _teacher_cache: str | Path | None = None

    def use_cache(self, folder: str | Path | None) -> None:
        """Where the teacher's answers go, or None.

        Raises:
            ValueError: without a teacher, or for one whose answers cannot be kept.
        """
        if folder is not None and self.teacher is None:
            raise ValueError("teacher_cache keeps a teacher's answers, and teacher=None. Leave it out.")
        if folder is not None and self._moving:
            raise ValueError(
                f"{type(self.teacher).__name__} changes with every step: its answers cannot be kept. Leave "
                "teacher_cache out."
            )
        if folder is not None and self.task == "token":
            raise ValueError(
                "teacher_cache keeps one answer a text, and this teacher answers each token. Leave "
                "teacher_cache out."
            )
        self._teacher_cache = folder

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As Trainer's, once the teacher's answers are there.

        Raises:
            CacheError: where answers can be neither found nor recorded.
        """
        self._record_teacher()
        try:
            return super().train(*args, **kwargs)
        finally:
            self._publish_answers()

    def _record_teacher(self) -> None:
        cached = self._cached_teacher()
        if cached is None:
            return
        self._check_pooling(cached)
        checked, train = self.checked_rows(), self.train_dataset
        fresh = isinstance(train, FreshCopies)
        if fresh and cached.teacher is None:
            raise CacheError(
                "The training data is rewritten in every epoch, and this recorded teacher can answer nothing "
                "new. Give CachedTeacher(folder, teacher=...), or a fixed set: augment(dataset, method)."
            )
        for data in (train.rows if fresh else train, checked):
            if data is not None and hasattr(data, "__len__"):
                collate = self.data_collator
                if isinstance(data, Dataset):
                    data = self._remove_unused_columns(data, "recording")
                else:
                    collate = self._get_collator_with_removed_columns(collate, "recording")
                bar = self.is_world_process_zero() and not self.args.disable_tqdm
                fill(cached, data, self._unlabelled(collate), progress=bar)
        live, self.teacher = cached.teacher, cached
        if hasattr(train, "__len__") and not fresh:
            cached.release()
            if isinstance(live, nn.Module):
                live.to("cpu")  # it may be the user's own, who goes on with it

    def without_labels(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A batch as the teacher is given it in a step."""
        return {name: value for name, value in batch.items() if name not in self.label_names}

    def _unlabelled(self, collate: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda rows: self.without_labels(collate(rows))

    def _cached_teacher(self) -> CachedTeacher | None:
        """The teacher, if it answers from disk or shall."""
        if isinstance(self.teacher, CachedTeacher) or self.teacher is None or self._teacher_cache is None:
            return self.teacher if isinstance(self.teacher, CachedTeacher) else None
        precision = self.accelerator.mixed_precision
        contents = Contents(
            taps=self.blend.taps(ever=True)[1], precision=precision if precision in ("bf16", "fp16") else None
        )
        return CachedTeacher(self._teacher_cache, teacher=self.teacher, contents=contents)

    def _check_pooling(self, cached: CachedTeacher) -> None:
        """Vectors that were pooled in another way would be taken for what they are not."""
        stored = cached.contents.pooled
        terms: Any = self.blend.terms if stored else ()
        for term in terms:
            asked = getattr(term, "pooling", stored)
            if term.taps()[1] and asked != stored:
                raise ValueError(
                    f"{term} pools by {asked!r}, and what is recorded in {cached.folder} was pooled by "
                    f"{stored!r}. Type pooling={stored!r}, or record again with Contents(pooled={asked!r})."
                )

    def _publish_answers(self) -> None:
        for part in () if self.teacher is None else self.teacher.modules():  # also an Ensemble's members
            if isinstance(part, CachedTeacher) and part.store is not None:
                part.store.flush()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As Trainer's; a resumed run finds every answer that this one has used."""
        self._publish_answers()
        super()._save_checkpoint(model, trial)

    def checked_rows(self) -> Dataset | None:
        """The evaluation rows on which the teacher is looked at first; None where it is not."""
        data = self.eval_dataset
        data = next(iter(data.values()), None) if isinstance(data, dict) else data
        limit, judged = option(self.args, "teacher_check_rows"), self.task in ("single_label", "token")
        if self.teacher is None or self._moving:  # one that changes has yet to learn
            return None
        if not isinstance(data, Dataset) or not judged or not limit:
            return None
        return data.select(range(min(limit, len(data))))
