"""Everything that can be known before anything is trained is checked in one pass."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from transformers import PreTrainedModel, set_seed

from hfdistill.exporters.gate import (
    check_architecture,
    check_engine,
    check_request,
    check_tokenizer,
    set_threshold,
)
from hfdistill.exporters.onnx import without_logs
from hfdistill.files.plain_data import printable
from hfdistill.recipe import schema
from hfdistill.recipe.check import teacher_kind
from hfdistill.recipe.models import ModelBuilder
from hfdistill.recipe.recommended import Recommended
from hfdistill.recipe.run import Run
from hfdistill.trainer import DistillationTrainer


def rehearse(run: Run, *, thoroughly: bool = False) -> None:
    """Check a run before it trains anything.

    Folders, packages and rows come first. Then, where anything is trained before the student, every model of
    the page is made of what will be trained, untrained, and every trainer is made over a few rows: a size
    that does not fit, an objective that cannot look into these networks, an export of what has no ONNX form
    are told now and not after hours.
    """
    _check_folder(Path(run.args.output_dir))
    _check_packages(run)
    run.describe()
    recipe = run.recipe
    later = bool(recipe.assistants) or recipe.generations > 1 or recipe.export is not None
    if not (thoroughly or teacher_kind(recipe) == "finetune" or later):
        return
    with TemporaryDirectory() as folder, without_logs():  # warnings about all rows are the run's own
        rehearsal = _Rehearsal(run, folder)
        rehearsal.train_student()
        if recipe.measurement is not None and recipe.measurement.baseline:
            rehearsal.train_baseline()
        if recipe.export is not None:
            check_architecture(rehearsal.model)
            threshold, engine = recipe.export.get("exit_threshold"), recipe.export.get("engine", "onnx")
            set_threshold(rehearsal.model, threshold, engine=engine)
            check_tokenizer(rehearsal.tokenizer)
    set_seed(run.args.seed)


class _Rehearsal(Run):
    """A run that makes every model and every trainer, and trains nothing."""

    def __init__(self, run: Run, folder: str) -> None:
        self.__dict__.update(run.__dict__)
        self.args = dataclasses.replace(run.args, output_dir=folder)
        self.options = dict(run.options)
        self.records = {}
        self.terminal = type(run.terminal)(0, speaks=False)
        self.recommended = Recommended(run.recipe, self.rows.few(), self.args)
        self.builder = ModelBuilder(self.rows.few(), seed=self.args.seed, max_length=self.args.max_length)

    def prepare(self) -> None:
        """Make teacher and student; publishing is left to the run."""
        self.is_prepared = True
        self.teacher, self.source = self._teacher()
        self.model, self.tokenizer = self.student(self.recipe.student)

    def _finetuned(self, plan: schema.Finetuning) -> tuple[PreTrainedModel, str]:
        model, _ = super()._finetuned(plan)
        self.origin = str(plan.encoder)  # nothing is written to the folder that is to hold it
        return model, self.origin

    def fit(self, stage: str, made: tuple[PreTrainedModel, Any], **options: Any) -> DistillationTrainer:
        """Make a trainer, and train nothing."""
        return self.trainer(stage, made, **options)

    def trained_model(self, trainer: DistillationTrainer) -> PreTrainedModel:
        """Return the model as it is, untrained."""
        return trainer.accelerator.unwrap_model(trainer.model)


def _check_folder(folder: Path) -> None:
    """Refuse an output folder that cannot be written, and leave no trace of having looked."""
    existing = next(
        place for place in (folder, *folder.parents, *folder.absolute().parents) if os.path.lexists(place)
    )
    wrong = "" if existing.is_dir() else "is a file"
    if not wrong:
        probe = existing / f".{uuid4().hex}"
        try:
            probe.touch()
        except OSError as error:
            wrong = f"cannot be written ({error.strerror})"
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
    if wrong:
        raise ValueError(
            f"training.output_dir is {printable(folder)}, and {printable(existing)} {wrong}. Name a folder "
            "that you can write."
        )


def _check_packages(run: Run) -> None:
    """Refuse an export that could not be written, and say which pictures and scores will be missing."""
    export = run.recipe.export
    if export is not None:
        int8 = export.get("int8", "auto")
        check_engine(export.get("engine", "onnx"), int8)
        check_request(
            Path(run.args.output_dir, "onnx"),
            data=run.rows.evaluation,
            int8=int8,
            max_drop=export.get("max_drop", 0.5),
        )
    if run.recipe.measurement is None:
        return
    if find_spec("matplotlib") is None:
        run.terminal.line("no pictures will be drawn: pip install 'hfdistill[plots]'")
    if run.rows.task == "token" and find_spec("seqeval") is None:
        run.terminal.line("no entity F1 will be measured: pip install 'hfdistill[tokens]'")
