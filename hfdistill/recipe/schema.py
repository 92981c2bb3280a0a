"""What the sections of a page can hold: a line for each kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hfdistill.schedules import After, Constant, Cosine, Linear, Stairs, Step, Until


@dataclass(frozen=True)
class Kind:
    """A function or class whose arguments are the keys of a page.

    Args:
        target: "package.module:name"; it is imported when a run builds it, and read as text before.
        withheld: arguments that no page writes, because the run gives them or YAML cannot hold them.
        beside: a dataclass whose fields are keys of the page too; the run itself reads them.
    """

    target: str
    withheld: frozenset[str] = frozenset()
    beside: str | None = None


def _kind(target: str, *withheld: str, beside: str | None = None) -> Kind:
    return Kind(target, frozenset(withheld), beside)


_HERE = "hfdistill.recipe.schema"

# An argument named here and withheld is given by the run: what a student is made of, tokenizers, texts.
TEACHERS = {
    "pretrained": _kind("hfdistill.network.loading:load_classifier", "new_head", "role"),
    "finetune": _kind(f"{_HERE}:Finetuning"),
    "cached": _kind("hfdistill.teachers.cache.teacher:CachedTeacher", "contents", "tokenizer"),
    "ensemble": _kind("hfdistill.teachers.ensemble:Ensemble"),
    "peer": _kind("hfdistill.teachers.peer_and_ema:Peer", "objective", beside=f"{_HERE}:Cut"),
    "ema": _kind("hfdistill.teachers.peer_and_ema:EMATeacher"),
}
STUDENTS = {
    "shrink": _kind(
        "hfdistill.students.shrink:shrink",
        "teacher",
        "dtype",
        "data",
        "fit",
        "tokenizer",
        beside=f"{_HERE}:Chosen",
    ),
    "pretrained": _kind("hfdistill.network.loading:load_student", "like"),
    "bilstm": _kind(
        "hfdistill.students.bilstm:bilstm_from_teacher",
        *("teacher", "tokenizer", "pairs"),
        beside=f"{_HERE}:Origin",
    ),
    "cnn": _kind(
        "hfdistill.students.cnn:cnn_from_teacher",
        *("teacher", "tokenizer", "pairs"),
        beside=f"{_HERE}:Origin",
    ),
    "static": _kind(
        "hfdistill.students.static:static_from_teacher",
        *("teacher", "tokenizer", "pairs", "corpus"),
        beside=f"{_HERE}:Origin",
    ),
}
CHANGES = {
    "prune_vocabulary": _kind(
        "hfdistill.students.vocabulary:prune_vocabulary", "model", "tokenizer", "corpus"
    ),
    "exits": _kind("hfdistill.students.early_exit:with_exits", "model"),
}
"""What a page can write beside a student with attention."""
MADE_OF_ONE = frozenset({"shrink", "bilstm", "cnn", "static"})
"""Students that are made of a model: the one they name as `source`, else the teacher."""
MOVING = frozenset({"peer", "ema"})
"""Teachers that change with the student."""
MEASURED = frozenset({"width", "heads", "ffn", "size"})
"""Arguments of a student whose parts are chosen by what they are worth on training rows."""
DATA = (_kind("hfdistill.data.load:load", "split"), _kind(f"{_HERE}:Splits"))
UNLABELLED = _kind("hfdistill.data.load:load", "split", "label", "label_names", beside=f"{_HERE}:Text")
TRAINING = (
    _kind("transformers.training_args:TrainingArguments"),
    _kind("hfdistill.trainer.arguments:DistillationArguments"),
)
AUGMENTATIONS = {
    "mask": _kind("hfdistill.data.augmentations:Mask"),
    "ngram_sample": _kind("hfdistill.data.augmentations:NGramSample"),
    "delete": _kind("hfdistill.data.augmentations:Delete"),
    "swap": _kind("hfdistill.data.augmentations:Swap"),
    "synonyms": _kind("hfdistill.data.augmentations:Synonyms", "stop_words"),
    "masked_lm": _kind("hfdistill.data.masked_lm:MaskedLM", "tokenizer", "stop_words"),
}
THESEUS = (_kind("hfdistill.trainer.theseus:Theseus", "teacher"),)
TRAINER = _kind("hfdistill.trainer.distillation:DistillationTrainer", "model", "args", "teacher", "objective")
MEASURE = (_kind(f"{_HERE}:Measurement"),)
EXPORT = (_kind("hfdistill.exporters.gate:export", "student", "folder", "data", "teacher", "tokenizer"),)
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
class Origin:
    """What a student is made of.

    Args:
        source: Hub id or folder of a model; else the teacher. An encoder gets a new head of the data's
            classes.
    """

    source: str | Path | None = None


@dataclass(frozen=True)
class Chosen:
    """What a student is cut from, and how its blocks are chosen.

    Args:
        source: as in `Origin`.
        choose: "evenly" spreads as many blocks as `layers` says; "importance" takes those without which the
            answers to training rows change most.
    """

    source: str | Path | None = None
    choose: Literal["evenly", "importance"] = "evenly"


@dataclass(frozen=True)
class Cut:
    """How many blocks of its model a peer has.

    Args:
        layers: as in `shrink`; None for all.
    """

    layers: int | Sequence[int] | None = None


@dataclass(frozen=True)
class Text:
    """Which rows of text without labels the student also learns from.

    Args:
        split: which split of them; default "train", or the only one.
        rows: how many, drawn by training.seed; default all.
    """

    split: str | None = None
    rows: int | None = None

    def __post_init__(self) -> None:
        if self.rows is not None and self.rows < 1:
            raise ValueError(f"rows is {self.rows}, and learning needs rows. Type a number from 1 up.")


@dataclass(frozen=True)
class Student:
    """A student of a page.

    Args:
        kind: a key of `STUDENTS`.
        told: its arguments.
        changes: arguments of what is then done to it, by keys of `CHANGES`.
    """

    kind: str
    told: dict[str, Any]
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Splits:
    """Which rows to train and to measure on.

    Args:
        train: the split to learn from.
        evaluation: the split to measure on; else "validation", "test", or a `holdout` of the training rows.
        train_rows: rows to train on, drawn by training.seed; default all.
        evaluation_rows: rows to measure on, likewise.
        holdout: share of the training rows to measure on where there is no other split.
        labelled_rows: training rows whose labels are used; on the others the teacher alone teaches.
        unlabelled: text without labels to learn from as well: a Hub id, file or folder, or arguments of
            `load` with `split` and `rows`. Texts that are measured on are left out.
        augment: how training rows are written anew for the teacher to label: augmentations, one after the
            other.
        copies: new rows of each row at most.
    """

    train: str = "train"
    evaluation: str | None = None
    train_rows: int | None = None
    evaluation_rows: int | None = None
    holdout: float = 0.1
    labelled_rows: int | None = None
    unlabelled: str | dict[str, Any] | None = None
    augment: list[Any] | None = None
    copies: int = 1

    def __post_init__(self) -> None:
        for name in ("train_rows", "evaluation_rows", "labelled_rows", "copies"):
            rows = getattr(self, name)
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


SHORT = ("teacher", "student", "data", "unlabelled")


def given(section: str, value: Any) -> Any:
    """A short form written out: a text is an id or a path."""
    if not isinstance(value, str) or section not in SHORT:
        return value
    return {"pretrained": {"source": value}} if section in ("teacher", "student") else {"source": value}
