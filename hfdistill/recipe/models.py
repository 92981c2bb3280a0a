"""Teachers and students of a page, made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, set_seed

from hfdistill.network.architectures import room_for
from hfdistill.network.inputs import ModelInputs
from hfdistill.network.loading import (
    MissingHead,
    Source,
    head_task,
    load_classifier,
    load_student,
    read_tokenizer,
)
from hfdistill.recipe import schema
from hfdistill.recipe.binding import build
from hfdistill.recipe.rows import Rows, drawn
from hfdistill.recipe.schema import Student
from hfdistill.students.early_exit import with_exits
from hfdistill.students.importance import block_importance, most_important
from hfdistill.students.refit import Refit
from hfdistill.students.shrink import shrink
from hfdistill.students.vocabulary import prune_vocabulary
from hfdistill.teachers.text.few_shot import FACTS as FEW_SHOT
from hfdistill.teachers.text.files import FileTeacher
from hfdistill.teachers.text.surest import keep_surest
from hfdistill.teachers.text.teacher import TextAnswers

CALIBRATION_ROWS, CALIBRATION_BATCH = 256, 32


class ModelBuilder:
    """Makes teachers and students for the rows of a run."""

    def __init__(self, rows: Rows, *, seed: int, max_length: int | None, device: Any = "cpu") -> None:
        self.rows, self.seed, self.max_length, self.device = rows, seed, max_length, device
        self.classes: list[str] | None = None  # of the teacher, where the data names none

    def start(self, source: Source) -> PreTrainedModel:
        """Return a classifier to cut or to train: an encoder gets a new head of the data's classes."""
        try:
            return load_classifier(source, role="student")
        except MissingHead:
            return self.fresh(source)

    def fresh(self, source: Source) -> PreTrainedModel:
        """Return a model with a new head of the data's classes."""
        task = head_task(self.rows.task)
        set_seed(self.seed)
        own = "label" in self.rows.labelled.column_names or self.classes is None
        return load_classifier(source, new_head=self.rows.class_names() if own else self.classes, task=task)

    def student(
        self, plan: Student, *, of: Any, origin: str | None, like: Any, fit: Refit | None = None
    ) -> tuple[PreTrainedModel, Any]:
        """Return a student and its tokenizer; a `source` of its own goes before `of` the teacher.

        `fit` says how what is kept is fitted to the whole, where the plan does not.
        """
        source = plan.arguments.get("source") or origin
        if source is None:
            raise ValueError(
                "Neither student nor teacher names a model, whose tokenizer would be read. Add source to the "
                f"student: `{plan.kind}: {{source: …}}`."
            )
        tokenizer = read_tokenizer(source)
        made_of = plan.arguments.get("source") or of
        if plan.kind == "pretrained":
            model = self.start(source) if like is None else load_student(source, like=like)
        else:
            whole = made_of if isinstance(made_of, PreTrainedModel) else self.start(made_of)
            model = self._made(plan, whole, tokenizer, fit)
        if "prune_vocabulary" in plan.changes:
            texts = self.rows.texts()
            model, tokenizer = prune_vocabulary(model, tokenizer, texts, **plan.changes["prune_vocabulary"])
        if "exits" in plan.changes:
            set_seed(self.seed)
            model = with_exits(model, **plan.changes["exits"])
        return model, tokenizer

    def peer(self, arguments: Mapping[str, Any]) -> PreTrainedModel:
        """Return a peer's model, cut where the page says so."""
        model, layers = self.start(arguments["model"]), arguments.get("layers")
        return model if layers is None else shrink(model, layers=layers)

    def asked(self, kind: str, arguments: Mapping[str, Any]) -> TextAnswers:
        """Make a teacher that is asked about texts; the data gives classes that the page does not name."""
        arguments = dict(arguments)
        has_labels = "label" in self.rows.labelled.column_names
        calibrates = arguments.pop("calibrate", False)
        if calibrates and not has_labels:
            raise ValueError(
                "calibrate: true fits the teacher's confidence on labelled rows: the data has none. Leave "
                "it out, or add a few labels."
            )
        fitted = kind == "few_shot" and Path(arguments["encoder"], FEW_SHOT).is_file()
        if has_labels and not fitted and kind != "answers":
            if self.rows.task != "single_label":
                raise ValueError(
                    "A teacher that is asked about texts gives each one class, and these rows have several "
                    "labels, real values or labels of words. Name a classifier, or an encoder to fine-tune: "
                    "`teacher: {finetune: {encoder: …}}`."
                )
            arguments.setdefault("classes", self.rows.class_names())
            if kind == "few_shot":
                arguments.setdefault("examples", self.rows.labelled)
        given = {"calibrate": self.rows.labelled if calibrates else None}
        teacher: TextAnswers = build(schema.TEACHERS[kind], arguments, given)
        self.classes = teacher.classes
        return teacher

    def believed(self, teacher: Any, keep: float | None) -> Dataset:
        """Return the training rows that a teacher can answer and, with `keep`, of which it is surest."""
        rows = self.rows.train
        if isinstance(teacher, FileTeacher):
            rows = teacher.answered(rows)
        return rows if keep is None else keep_surest(rows, teacher, keep=keep)

    def _made(
        self, plan: Student, whole: PreTrainedModel, tokenizer: Any, fit: Refit | None
    ) -> PreTrainedModel:
        """Return a student made of a whole model."""
        arguments = dict(plan.arguments)
        of_run = {"teacher": whole, "tokenizer": tokenizer, "corpus": self.rows.texts()}
        of_run["pairs"] = "text_pair" in self.rows.train.column_names
        component = schema.STUDENTS[plan.kind]
        measured = schema.MEASURED & {name for name, value in arguments.items() if value is not None}
        chosen = arguments.get("choose") == "importance"
        if "data" in component.withheld and (measured or chosen or plan.kind != "shrink"):
            of_run["data"] = batches = self._calibration(whole, tokenizer)
            if chosen:
                arguments["layers"] = most_important(block_importance(whole, batches), arguments["layers"])
        texts = arguments.pop("fit", None) if plan.kind == "shrink" else None
        if texts:
            fit = self._refit(texts)
        if fit is not None:
            of_run |= {"fit": fit, "teacher": whole.to(self.device)}  # the student comes to be there, too
        set_seed(self.seed)  # the same new head for student and baseline
        return build(component, arguments, of_run)

    def _refit(self, fit: Any) -> Refit:
        """Return how a cut is fitted: to all or some of the training texts, or to those of a path."""
        if isinstance(fit, Refit):
            return fit
        if isinstance(fit, int) and not isinstance(fit, bool):
            return Refit(self.rows.train, rows=fit, max_length=self.max_length)
        return Refit(self.rows.train if fit is True else fit, max_length=self.max_length)

    def _calibration(self, model: Any, tokenizer: Any) -> list[dict[str, torch.Tensor]]:
        """Return batches of training rows as the model reads them, without labels: its answers are judged."""
        rows, batches = drawn(self.rows.train, CALIBRATION_ROWS, self.seed), []
        for start in range(0, len(rows), CALIBRATION_BATCH):
            texts = rows[start : start + CALIBRATION_BATCH]
            columns = [texts[name] for name in ("tokens", "text", "text_pair") if name in texts]
            batches.append(
                tokenizer(
                    *columns,
                    is_split_into_words=isinstance(columns[0][0], list),
                    truncation=True,
                    max_length=room_for(model.config, tokenizer, self.max_length),
                    padding=True,
                    padding_side=ModelInputs.of(model, tokenizer).side,
                    return_tensors="pt",
                )
            )
        return batches
