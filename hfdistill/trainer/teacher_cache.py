"""`TeacherCache` asks the teacher once about each row before the first step; training reads it from disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from hfdistill.data import FreshCopies
from hfdistill.objectives import Blend
from hfdistill.teachers import CachedTeacher, CacheError, Contents, Teacher, record_missing
from hfdistill.teachers.text.teacher import TextAnswers


class TeacherCache:
    """Records the teacher of a run, which then trains without it in memory.

    Every epoch reads what is stored, the first one too. Data without a length is recorded as it comes: its
    rows are asked about once, and published with each checkpoint and at the end. So are fresh copies.

    Args:
        folder: where the teacher's answers go; None for none, unless the teacher is a `CachedTeacher`.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = folder

    def cached(self, teacher: Teacher | None, objective: Blend, *, precision: str) -> CachedTeacher | None:
        """Return the teacher that answers from disk; None where the run's own does not and shall not.

        Raises:
            CacheError: where the folder holds no recording that fits.
            ValueError: where vectors were recorded in another pooling than the objective reads.
        """
        if teacher is not None and self.folder is not None and not isinstance(teacher, CachedTeacher):
            contents = Contents(
                taps=objective.taps(ever=True)[1],
                precision=precision if precision in ("bf16", "fp16") else None,
            )
            teacher = CachedTeacher(self.folder, teacher=teacher, contents=contents)
        if not isinstance(teacher, CachedTeacher):
            return None
        _check_pooling(teacher, objective)
        return teacher

    def record(
        self,
        teacher: CachedTeacher,
        *,
        train: Any,
        checked: Any,
        as_batches: Callable[[Any], tuple[Any, Callable[[Any], Any]]],
        progress: bool,
    ) -> None:
        """Ask the live teacher about every row that is not recorded yet, and let go of it.

        It is kept where new rows may come: from data without a length, and from fresh copies.
        """
        fresh = isinstance(train, FreshCopies)
        if fresh and teacher.teacher is None:
            raise CacheError(
                "The training data is rewritten in every epoch, and this recorded teacher can answer nothing "
                "new. Give CachedTeacher(folder, teacher=...), or a fixed set: augment(dataset, method)."
            )
        for data in (train.rows if fresh else train, checked):
            if data is not None and hasattr(data, "__len__"):
                rows, collate = as_batches(data)
                record_missing(teacher, rows, collate, progress=progress)
        if hasattr(train, "__len__") and not fresh:
            live = teacher.teacher
            teacher.drop_live_teacher()
            if isinstance(live, nn.Module):
                live.to("cpu")  # it may be the user's own, who goes on with it


def asked_members(teacher: Teacher | None) -> list[TextAnswers]:
    """Return the members of a teacher that are asked about texts, whose answers are always recorded first."""
    return [] if teacher is None else [part for part in teacher.modules() if isinstance(part, TextAnswers)]


def publish_answers(teacher: Teacher | None) -> None:
    """Put on disk what has been recorded as it came, also by the members of an Ensemble."""
    for part in () if teacher is None else teacher.modules():
        if isinstance(part, CachedTeacher) and part.store is not None:
            part.store.flush()


def _check_pooling(teacher: CachedTeacher, objective: Blend) -> None:
    """Refuse vectors that were pooled in another way: they would be taken for what they are not."""
    stored = teacher.contents.pooled
    terms: Any = objective.terms if stored else ()
    for term in terms:
        asked = getattr(term, "pooling", stored)
        if term.taps()[1] and asked != stored:
            raise ValueError(
                f"{term} pools by {asked!r}, and what is recorded in {teacher.folder} was pooled by "
                f"{stored!r}. Type pooling={stored!r}, or record again with Contents(pooled={asked!r})."
            )
