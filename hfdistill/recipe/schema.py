"""What the sections of a page can hold: a line for each kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hfdistill.schedules import After, Constant, Cosine, Linear, Stairs, Step, Until


@dataclass(frozen=True)
class Component:
    """A function or class whose arguments are the keys of a page.

    Args:
        target: "package.module:name", which is imported when a run builds it and read as text before; or a
            user's own function or class.
        withheld: arguments that no page writes, because the run gives them or YAML cannot hold them.
        beside: a dataclass whose fields are keys of the page too; the run itself reads them.
        has_attention: of a student, whether `CHANGES` can be made to it.
        made_of_model: of a student, whether it is made of a model: the one it names as `source`, else the
            teacher.
        moves: of a teacher, whether it changes with the student, so that its answers cannot be recorded.
        is_value: whether the target itself is what a run uses, and takes no keys.
        reads_text: of a teacher, whether it is asked about texts: no model whose layers or sizes are known.
        models: of a teacher, the arguments that may name a model of which students can be made.
    """

    target: str | Callable[..., Any]
    withheld: frozenset[str] = frozenset()
    beside: str | None = None
    has_attention: bool = True
    made_of_model: bool = False
    moves: bool = False
    is_value: bool = False
    reads_text: bool = False
    models: tuple[str, ...] = ("source", "teacher", "model", "encoder", "members")


def _component(target: str, *withheld: str, **facts: Any) -> Component:
    return Component(target, frozenset(withheld), **facts)


_HERE = "hfdistill.recipe.schema"
_ASKED: dict[str, Any] = {"beside": f"{_HERE}:Trusted", "reads_text": True, "models": ()}
_OF_TEACHER = {"beside": f"{_HERE}:Origin", "made_of_model": True, "has_attention": False}

RUN_ARGUMENTS = frozenset({"teacher", "tokenizer", "pairs", "corpus", "data"})
"""What a run gives to a student's function that has arguments of these names."""

# The three registers; `register_teacher`, `register_student` and `register_augmentation` add to them.
TEACHERS = {
    "pretrained": _component("hfdistill.network.loading:load_classifier", "new_head", "role"),
    "finetune": _component(f"{_HERE}:Finetuning"),
    "cached": _component("hfdistill.teachers.cache.teacher:CachedTeacher", "contents", "tokenizer"),
    "ensemble": _component("hfdistill.teachers.ensemble:Ensemble"),
    "peer": _component(
        "hfdistill.teachers.peer_and_ema:Peer", "objective", beside=f"{_HERE}:Cut", moves=True
    ),
    "ema": _component("hfdistill.teachers.peer_and_ema:EMATeacher", moves=True),
    "few_shot": _component(
        "hfdistill.teachers.text.few_shot:few_shot",
        *("tokenizer", "name", "calibrate"),
        **{**_ASKED, "models": ("encoder",)},
    ),
    "zero_shot": _component(
        "hfdistill.teachers.text.zero_shot:zero_shot", "tokenizer", "calibrate", **_ASKED
    ),
    "prompted": _component("hfdistill.teachers.text.prompted:prompted", "tokenizer", "calibrate", **_ASKED),
    "answers": _component("hfdistill.teachers.text.files:answers_from", "calibrate", **_ASKED),
}
STUDENTS = {
    "shrink": _component(
        "hfdistill.students.shrink:shrink",
        *("teacher", "dtype", "data", "fit", "tokenizer"),
        beside=f"{_HERE}:Chosen",
        made_of_model=True,
    ),
    "pretrained": _component("hfdistill.network.loading:load_student", "like"),
    "bilstm": _component(
        "hfdistill.students.bilstm:bilstm_from_teacher", "teacher", "tokenizer", "pairs", **_OF_TEACHER
    ),
    "cnn": _component(
        "hfdistill.students.cnn:cnn_from_teacher", "teacher", "tokenizer", "pairs", **_OF_TEACHER
    ),
    "static": _component(
        "hfdistill.students.static:static_from_teacher",
        *("teacher", "tokenizer", "pairs", "corpus"),
        **_OF_TEACHER,
    ),
}
WITHOUT_BLOCKS = ("bilstm", "cnn", "static")
AUGMENTATIONS = {
    "mask": _component("hfdistill.data.augmentations:Mask"),
    "ngram_sample": _component("hfdistill.data.augmentations:NGramSample"),
    "delete": _component("hfdistill.data.augmentations:Delete"),
    "swap": _component("hfdistill.data.augmentations:Swap"),
    "synonyms": _component("hfdistill.data.augmentations:Synonyms", "stop_words"),
    "masked_lm": _component("hfdistill.data.masked_lm:MaskedLM", "tokenizer", "stop_words"),
}
CHANGES = {
    "prune_vocabulary": _component(
        "hfdistill.students.vocabulary:prune_vocabulary", "model", "tokenizer", "corpus"
    ),
    "exits": _component("hfdistill.students.early_exit:with_exits", "model"),
}
"""What a page can write beside a student with attention."""
LOWEST = {
    "per_device_train_batch_size": (1, 32),
    "per_device_eval_batch_size": (1, 64),
    "gradient_accumulation_steps": (1, 1),
    "num_train_epochs": (0, 3),
    "learning_rate": (0, 1e-4),
    "max_steps": (-1, 1000),
    "max_length": (3, 128),
    "warmup_steps": (0, 0.1),
    "weight_decay": (0, 0.01),
    "max_grad_norm": (0, 1.0),
    "save_total_limit": (0, 1),
    "teacher_check_rows": (0, 512),
}
"""Numbers under `training`: where they start, and a usual one."""
MEASURED = frozenset({"width", "heads", "ffn", "size"})
"""Arguments of a student whose parts are chosen by what they are worth on training rows."""
DATA = (_component("hfdistill.data.load:load", "split"), _component(f"{_HERE}:Splits"))
UNLABELLED = _component(
    "hfdistill.data.load:load", "split", "label", "label_names", "streaming", beside=f"{_HERE}:Text"
)
TRAINING = (
    _component("transformers.training_args:TrainingArguments"),
    _component("hfdistill.trainer.arguments:DistillationArguments"),
)
THESEUS = (_component("hfdistill.trainer.theseus:Theseus", "teacher"),)
TRAINER = _component(
    "hfdistill.trainer.distillation:DistillationTrainer", "model", "args", "teacher", "objective"
)
AFTERWARDS = {
    "measure": _component(f"{_HERE}:Measurement"),
    "export": _component(
        "hfdistill.exporters.gate:export", "student", "folder", "data", "teacher", "tokenizer", "calibration"
    ),
    "card": _component(f"{_HERE}:Card"),
}
"""Sections of what is done with the trained student."""
GOAL = (_component("hfdistill.recipe.goal.target:Goal"),)
WITHOUT_GOAL = ("student", "assistants", "generations", "theseus", "search", "label_map")
"""Sections that have no place beside a goal, which chooses the student."""
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
ALIASES = {
    "batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "n_epochs": "num_train_epochs",
    "lr": "learning_rate",
    "rate": "learning_rate",
    "steps": "max_steps",
    "num_steps": "max_steps",
    "warmup": "warmup_steps",
    "warmup_ratio": "warmup_steps",
    "scheduler": "lr_scheduler_type",
    "lr_scheduler": "lr_scheduler_type",
    "optimizer": "optim",
    "accumulation_steps": "gradient_accumulation_steps",
    "max_len": "max_length",
    "max_seq_length": "max_length",
    "output": "output_dir",
    "out": "output_dir",
    "evaluation_strategy": "eval_strategy",
    "file": "source",
    "path": "source",
    "dataset": "source",
    "labels": "label",
    "classes": "label_names",
    "test_size": "holdout",
    "num_layers": "layers",
    "n_layers": "layers",
    "T": "temperature",
    "alpha": "weight",
}
"""Names that other libraries have for keys of a page; told as the right one where that is a key there."""


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

    def __post_init__(self) -> None:
        for name, usual in (("epochs", 3), ("learning_rate", 5e-5)):
            value = getattr(self, name)
            if isinstance(value, (int, float)) and not value > 0:
                raise ValueError(
                    f"{name} is {value}, and a teacher that is not trained knows nothing. "
                    f"Type {name}: {usual}."
                )


@dataclass(frozen=True)
class Trusted:
    """How many of the answers of a teacher that reads text are learned from.

    Args:
        keep: share of the rows of each class, those of whose answers it is surest; default all.
        calibrate: fit a temperature and a class prior on the labelled rows to train on.
    """

    keep: float | None = None
    calibrate: bool = False

    def __post_init__(self) -> None:
        if self.keep is not None and not 0 < self.keep <= 1:
            raise ValueError(f"keep is {self.keep}, and it is a share in (0, 1]. Type 0.8.")


@dataclass(frozen=True)
class Origin:
    """The model that a student is made of.

    Args:
        source: Hub id or folder of a model; else the teacher. An encoder gets a new head of the data's
            classes.
    """

    source: str | Path | None = None


@dataclass(frozen=True)
class Chosen:
    """The model that a student is cut from, and the way its blocks are chosen.

    Args:
        source: as in `Origin`.
        choose: "evenly" spreads as many blocks as `layers` says; "importance" takes those without which the
            answers to training rows change most.
        fit: true fits what is kept to the whole teacher on the texts of the training rows, a number on so
            many of them, a path on those of a file or folder; no label is read. See `hfdistill.Refit`.
            Default: true where the objective is the recommended one and the student is cut from the teacher
            itself.
    """

    source: str | Path | None = None
    choose: Literal["evenly", "importance"] = "evenly"
    fit: bool | int | str | None = None


@dataclass(frozen=True)
class Cut:
    """The blocks of its model that a peer keeps.

    Args:
        layers: as in `shrink`; None for all.
    """

    layers: int | Sequence[int] | None = None


@dataclass(frozen=True)
class Text:
    """The rows of text without labels that the student also learns from.

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
        arguments: of its function.
        changes: arguments of what is then done to it, by keys of `CHANGES`.
    """

    kind: str
    arguments: dict[str, Any]
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Splits:
    """The rows to train on and those to measure on.

    Args:
        train: the split to learn from.
        evaluation: the split to measure on; else "validation", "test", or a `holdout` of the training rows.
        train_rows: rows to train on, drawn by training.seed; default all.
        evaluation_rows: rows to measure on, likewise.
        holdout: share of the training rows to measure on where there is no other split.
        labelled_rows: training rows whose labels are used; on the others the teacher alone teaches.
        unlabelled: text without labels to learn from as well: a Hub id, file or folder, a .txt of a text a
            line, or arguments of `load` with `split` and `rows`. Texts that are measured on are left out.
        augment: how training rows are written anew for the teacher to label: augmentations, one after the
            other.
        copies: new rows of each row at most.
        fresh_copies: show, in each epoch, half of the rows written anew (masked words, runs of words) for the
            teacher to label, as many rows as before. Default: true where the objective is the recommended
            one, the rows are 5,000 or fewer and the teacher can be asked about new text.
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
    fresh_copies: bool | None = None

    def __post_init__(self) -> None:
        for name in ("train_rows", "evaluation_rows", "labelled_rows", "copies"):
            rows = getattr(self, name)
            if rows is not None and rows < 1:
                raise ValueError(f"{name} is {rows}, and learning needs rows. Type a number from 1 up.")
        if not 0 < self.holdout < 1:
            raise ValueError(f"holdout is {self.holdout}, found no share between 0 and 1. Type 0.1.")


@dataclass(frozen=True)
class Measurement:
    """The measurement that follows training.

    Args:
        baseline: train the same student without the teacher, too, and compare.
        speed: time the models.
        max_length: tokens per row; else training.max_length.
    """

    baseline: bool = False
    speed: bool = True
    max_length: int | None = None


@dataclass(frozen=True)
class Card:
    """Facts for the student's card that a run cannot know.

    Args:
        name: of the model; else that of training.output_dir.
        license: of its weights, as the Hub spells it, such as apache-2.0.
        language: of the texts, as the Hub spells it: en, or a list of them.
        dataset_license: terms of the data.
    """

    name: str | None = None
    license: str | None = None
    language: str | list[str] | None = None
    dataset_license: str | None = None


def written_out(section: str, value: Any) -> Any:
    """Return a short form written out: a text is an id or a path."""
    if isinstance(value, str) and section in ("teacher", "student"):
        return {"pretrained": {"source": value}}
    return {"source": value} if isinstance(value, str) and section in ("data", "unlabelled") else value
