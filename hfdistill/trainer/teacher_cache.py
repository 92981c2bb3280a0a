"""Asks the teacher once about each row, before the first step; training reads its answers from disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from hfdistill.data import FreshCopies
from hfdistill.files.progress import Shown
from hfdistill.objectives import Blend
from hfdistill.teachers import CachedTeacher, CacheError, Contents, Teacher, count_missing, record_missing
from hfdistill.teachers.text.teacher import TextAnswers


def cached_teacher(
    teacher: Teacher | None, objective: Blend, *, folder: str | Path | None, precision: str
) -> CachedTeacher | None:
    """Return the teacher that answers from disk; None where the run asks its teacher in each step.

    The student's objective decides what is recorded, in the run's `precision`; `folder` may be None where the
    teacher is a `CachedTeacher` already.

    Raises:
        CacheError: where the folder holds no recording that fits.
        ValueError: where vectors were recorded in another pooling than the objective reads.
    """
    if teacher is not None and folder is not None and not isinstance(teacher, CachedTeacher):
        contents = Contents(
            taps=objective.taps(ever=True)[1], precision=precision if precision in ("bf16", "fp16") else None
        )
        teacher = CachedTeacher(folder, teacher=teacher, contents=contents)
    if not isinstance(teacher, CachedTeacher):
        return None
    _check_pooling(teacher, objective)
    return teacher


def record_teacher(
    teacher: CachedTeacher,
    *,
    train: Any,
    checked: Any,
    as_batches: Callable[[Any], tuple[Any, Callable[[Any], Any]]],
    accelerator: Accelerator,
    progress: Shown,
) -> None:
    """Ask the live teacher about every row that is not recorded yet, then drop it from memory.

    Every epoch reads the recorded answers, the first one too. The live teacher is kept where new rows may
    come: data without a length and fresh copies are recorded as they are read, and published with each
    checkpoint and at the end. The processes of the run share the work by the folder, also across machines.

    Args:
        teacher: of `cached_teacher`.
        train: the training data.
        checked: the evaluation rows on which the teacher's accuracy is logged; None for none.
        as_batches: returns data, and a collator for it, as the teacher reads them in a step.
        accelerator: the run's.
        progress: how to show how far it is.

    Raises:
        CacheError: where rows are missing, and the processes do not see the same folder.
    """
    fresh = isinstance(train, FreshCopies)
    if fresh and teacher.teacher is None:
        raise CacheError(
            "The training data is rewritten in every epoch, and this recorded teacher can answer nothing "
            "new. Give CachedTeacher(folder, teacher=...), or a fixed set: augment(dataset, method)."
        )
    every = (train.rows if fresh else train, checked)
    sets = [as_batches(data) for data in every if data is not None and hasattr(data, "__len__")]
    if teacher.teacher is not None:
        _check_shared(teacher, sets, accelerator)
    for rows, collate in sets:
        record_missing(teacher, rows, collate, progress=progress)
    if hasattr(train, "__len__") and not fresh:
        live = teacher.teacher
        teacher.drop_live_teacher()
        if isinstance(live, nn.Module):
            live.to("cpu")  # it may be the user's own, who goes on with it


def _check_shared(teacher: CachedTeacher, sets: Any, accelerator: Accelerator) -> None:
    """Refuse a folder of each process's own, in which each would ask about every row by itself."""
    if accelerator.num_processes == 1 or accelerator.num_processes == (seen := _seeing(teacher, accelerator)):
        return
    missing = sum(count_missing(teacher, rows, collate) for rows, collate in sets)
    if accelerator.reduce(torch.tensor(float(missing), device=accelerator.device)).item():
        raise CacheError(
            f"{teacher.folder} is not one folder for all {accelerator.num_processes} processes ({seen} of "
            "them see what the first one writes there), and each would ask the teacher about every row. Name "
            "a folder on a disk that all of them see. Or record on one machine, hfdistill.record(teacher, "
            f"dataset, folder={str(teacher.folder.parent)!r}), and copy the folder to the others."
        )


def _seeing(teacher: CachedTeacher, accelerator: Accelerator) -> int:
    """Return how many processes see what the first one writes into the teacher's folder."""
    (name,) = broadcast_object_list([uuid4().hex])
    mark = teacher.folder / f".{name}"
    if accelerator.is_main_process:
        mark.touch(mode=0o600)
    accelerator.wait_for_everyone()
    seen = torch.tensor(float(mark.is_file()), device=accelerator.device)
    seeing = int(accelerator.reduce(seen).item())
    if accelerator.is_main_process:
        mark.unlink(missing_ok=True)
    return seeing


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
