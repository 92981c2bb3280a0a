"""What the sections of a page can hold: a line for each kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfdistill.schedules import After, Constant, Cosine, Linear, Stairs, Step, Until


@dataclass(frozen=True)
class Kind:
    """A function or class whose arguments are the keys of a page.

    Args:
        target: "package.module:name"; it is imported when a run builds it, and read as text before.
        withheld: arguments that no page writes, because the run gives them or YAML cannot hold them.
    """

    target: str
    withheld: frozenset[str] = frozenset()


def _kind(target: str, *withheld: str) -> Kind:
    return Kind(target, frozenset(withheld))


# An argument named here and withheld is given by the run: teacher, like (the teacher's config), data (batches
# of training rows).
TEACHERS = {
    "pretrained": _kind("hfdistill.pretrained:load_classifier", "new_head", "role"),
    "finetune": _kind("hfdistill.recipe.kinds:Finetuning"),
    "cached": _kind("hfdistill.teachers.cache:CachedTeacher", "contents", "tokenizer"),
    "ensemble": _kind("hfdistill.teachers.ensemble:Ensemble"),
    "peer": _kind("hfdistill.teachers.moving:Peer", "objective"),
    "ema": _kind("hfdistill.teachers.moving:EMATeacher"),
}
STUDENTS = {
    "shrink": _kind("hfdistill.students.shrink:shrink", "teacher", "dtype", "data"),
    "pretrained": _kind("hfdistill.pretrained:load_student", "like"),
}
MEASURED = frozenset({"width", "heads", "ffn", "size"})
"""Arguments of a student whose parts are chosen by what they are worth on training rows."""
DATA = (_kind("hfdistill.data.load:load", "split"), _kind("hfdistill.recipe.kinds:Splits"))
TRAINING = (
    _kind("transformers.training_args:TrainingArguments"),
    _kind("hfdistill.arguments:DistillationArguments"),
)
MEASURE = (_kind("hfdistill.recipe.kinds:Measurement"),)
EXPORT = (_kind("hfdistill.export.gate:export", "student", "folder", "data", "teacher", "tokenizer"),)
SCHEDULES = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "step": Step,
    "until": Until,
    "after": After,
    "stairs": Stairs,
}

REFUSED = {
    "trust_remote_code": "is refused: code that comes with a model or with data is never run. Save the model "
    "in a class of Transformers, or load your own class with --plugin FILE.py.",
    "hub_token": "is refused: the page is kept beside the weights. Log in with `hf auth login`.",
}


@dataclass(frozen=True)
class Finetuning:
    """An encoder that is fine-tuned on the labels first, then teaches.

    Args:
        encoder: Hub id or folder.
        epochs: of its training; everything else is as in `training`.
        learning_rate: of its training.
    """

    encoder: str | Path
    epochs: float = 3.0
    learning_rate: float = 5e-5


@dataclass(frozen=True)
class Splits:
    """Which rows to train and to measure on.

    Args:
        train: the split to learn from.
        evaluation: the split to measure on; else "validation", "test", or a `holdout` of the training rows.
        train_rows: rows to train on, drawn by training.seed; default all.
        evaluation_rows: rows to measure on, likewise.
        holdout: share of the training rows to measure on where there is no other split.
    """

    train: str = "train"
    evaluation: str | None = None
    train_rows: int | None = None
    evaluation_rows: int | None = None
    holdout: float = 0.1

    def __post_init__(self) -> None:
        for name, rows in (("train_rows", self.train_rows), ("evaluation_rows", self.evaluation_rows)):
            if rows is not None and rows < 1:
                raise ValueError(f"{name} is {rows}, and learning needs rows. Type a number from 1 up.")
        if not 0 < self.holdout < 1:
            raise ValueError(f"holdout is {self.holdout}, found no share between 0 and 1. Type 0.1.")


@dataclass(frozen=True)
class Measurement:
    """What is measured once the student is trained.

    Args:
        baseline: train the same student without the teacher, too, and compare.
        speed: time the models.
        max_length: tokens per row; else training.max_length.
    """

    baseline: bool = False
    speed: bool = True
    max_length: int | None = None


def given(section: str, value: Any) -> Any:
    """A short form written out: a text is an id or a path."""
    if not isinstance(value, str):
        return value
    return {"source": value} if section == "data" else {"pretrained": {"source": value}}
