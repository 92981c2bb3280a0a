"""A teacher that changes during a run, such as a peer or an average: kept in step, saved, put back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate.utils import broadcast

from hfdistill.files.checkpoint import CheckpointError
from hfdistill.network.divided import whole_models
from hfdistill.teachers import Teacher


def changing(teacher: Teacher | None) -> bool:
    """Whether there is a teacher whose model changes as the run goes on."""
    return teacher is not None and bool(teacher.saved_as)


def broadcast_teacher(teacher: Any) -> None:
    """Give every process the weights of the first, as DDP does for the student."""
    for value in teacher.model.state_dict().values():
        broadcast(value)


def save_teacher(teacher: Any, folder: Path, *, tokenizer: Any) -> None:
    """Write the teacher's model beside the student's files, in a folder of its own."""
    own = folder / teacher.saved_as
    teacher.model.save_pretrained(own)
    if tokenizer is not None:
        tokenizer.save_pretrained(own)


def load_teacher(teacher: Any, checkpoint: Path) -> None:
    """Restore the teacher as it was when the checkpoint was written."""
    model, folder = teacher.model, checkpoint / teacher.saved_as
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} is missing: the {type(teacher).__name__} of this run changes as it goes, and a fresh "
            "one would undo what it has become. Resume from another checkpoint, or start a new run."
        )
    with whole_models():
        saved = type(model).from_pretrained(
            folder, dtype=model.dtype, trust_remote_code=False, use_safetensors=True
        )
    model.load_state_dict(saved.state_dict())
