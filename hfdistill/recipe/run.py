"""A recipe is run: teacher, student and baseline in folders of their own, measured and exported."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict, List
from transformers import AutoTokenizer, HfArgumentParser, PreTrainedModel, set_seed

import hfdistill.students  # noqa: F401 - registers the architectures that are no part of Transformers
from hfdistill.anatomy import longest_input
from hfdistill.arguments import DistillationArguments
from hfdistill.card import write_card
from hfdistill.checkpoint import newest_checkpoint
from hfdistill.data import load
from hfdistill.export.gate import check_request, export
from hfdistill.export.onnx import require_packages
from hfdistill.markdown import as_yaml
from hfdistill.measure import STANDARD, measure
from hfdistill.plain import write_atomically
from hfdistill.pretrained import load_classifier, load_tokenizer
from hfdistill.recipe import kinds
from hfdistill.recipe.check import Chosen, Recipe
from hfdistill.recipe.page import Mistake, RecipeError
from hfdistill.report import Report
from hfdistill.teachers import ModelTeacher, Teacher
from hfdistill.trainer import DistillationTrainer

logger = logging.getLogger(__name__)

SMOKE_STEPS, SMOKE_ROWS = 2, 16
CALIBRATION_ROWS, CALIBRATION_BATCH = 256, 32
SMOKE_DROP = 200.0
"""Points; a correlation that turns round loses as many hundredths."""


def run_recipe(recipe: Recipe, *, smoke: bool = False) -> Report | None:
    """Train, measure and export what a page says, under training.output_dir.

    `student/` is a plain Transformers model with recipe.yaml, report.json and its card; `teacher/` and
    `baseline/` stand beside it where the page asks for them, and `onnx/` what was exported. Started again, a
    run goes on where it stopped.

    Args:
        recipe: what `read_recipe` gave.
        smoke: take two steps on a few rows, under output_dir/smoke, and measure no speed: does it run?

    Returns:
        The report on the main process, where something is measured; else None.

    Raises:
        RecipeError: a value under training that Transformers refuses.
        ValueError: models, data and objective do not fit together; before the first step.
        QualityGateError: the exported student lost too much.
    """
    return _Run(recipe, smoke=smoke).report()


def arguments(recipe: Recipe, *, smoke: bool = False) -> Any:
    """The `training` section as arguments of the trainer.

    Raises:
        RecipeError: a value that Transformers refuses.
    """
    told = dict(recipe.training)
    if smoke:
        told |= {"max_steps": SMOKE_STEPS, "output_dir": str(Path(told["output_dir"], "smoke"))}
        told |= {"save_strategy": "no", "load_best_model_at_end": False}
    try:
        (args,) = HfArgumentParser(DistillationArguments).parse_dict({"report_to": "none", **told})
    except (ValueError, TypeError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError([Mistake("training", None, "", f"Transformers refuses this: {reason}")]) from error
    return args


class _Run:
    """One run of a recipe; its parts are made in this order."""

    def __init__(self, recipe: Recipe, *, smoke: bool) -> None:
        self.recipe, self.smoke = recipe, smoke
        self.args = arguments(recipe, smoke=smoke)
        set_seed(self.args.seed)
        self.train, self.evaluation = self._rows(load(**recipe.load))
        self._check_export()
        self.task = _task(self.train)
        self.teacher, self.source = self._teacher()
        self.model = self._student()
        self.tokenizer = AutoTokenizer.from_pretrained(self._tokenizer_source(), trust_remote_code=False)

    def report(self) -> Report | None:
        """Train the student, and see what it is worth."""
        recipe, trained = self.recipe, self._taught()
        self.folder = Path(trained.args.output_dir)
        if trained.is_world_process_zero():
            write_atomically(self.folder / "recipe.yaml", as_yaml(recipe.page))
        baseline = None
        if recipe.measurement and recipe.measurement.baseline:
            baseline = self._fit("baseline", self._student(), teacher=None).args.output_dir
        if not trained.is_world_process_zero():
            return None
        found = None if recipe.measurement is None else self._measured(trained, baseline)
        if recipe.export is not None:
            self._exported()
        return found

    def _check_export(self) -> None:
        """Refuse, before anything is trained, an export that could not be written."""
        self.onnx, told = Path(self.args.output_dir, "onnx"), self.recipe.export
        if told is not None:
            require_packages()
            int8, max_drop = told.get("int8", "dynamic"), told.get("max_drop", 0.5)
            check_request(self.onnx, data=self.evaluation, int8=int8, max_drop=max_drop)

    def _rows(self, data: DatasetDict) -> tuple[Dataset, Dataset]:
        """The rows to learn from and the rows to measure on."""
        splits, seed = self.recipe.splits, self.args.seed
        for name in [n for n in (splits.train, splits.evaluation) if n is not None and n not in data]:
            raise ValueError(f"The data has no split {name!r}, found {list(data)}. Name one under `data:`.")
        train = data[splits.train]
        other = splits.evaluation or next((n for n in ("validation", "test") if n in data), None)
        if other is None:
            parts = train.train_test_split(test_size=splits.holdout, seed=seed)
            train, evaluation = parts["train"], parts["test"]
            logger.warning(
                "The data has one split: %d of its rows are kept back to measure on.", len(evaluation)
            )
        else:
            evaluation = data[other]
        limits = (splits.train_rows, splits.evaluation_rows)
        if self.smoke:
            limits = (SMOKE_ROWS, SMOKE_ROWS)
        return _drawn(train, limits[0], seed), _drawn(evaluation, limits[1], seed)

    def _teacher(self) -> tuple[Any, str | None]:
        """The teacher and where it lies; it is fine-tuned first where the page says so."""
        if self.recipe.teacher is None:
            return None, None
        kind, told = self.recipe.teacher
        if kind != "finetune":
            source = next((told[name] for name in ("source", "teacher", "model") if name in told), None)
            return _built(kinds.TEACHERS, self.recipe.teacher, {}), source
        plan = kinds.Finetuning(**told)
        names = _class_names(self.train)
        set_seed(self.args.seed)
        model = load_classifier(plan.encoder, new_head=names)
        self.tokenizer = AutoTokenizer.from_pretrained(plan.encoder, trust_remote_code=False)
        steps = SMOKE_STEPS if self.smoke else -1  # its own epochs count
        changes = {"num_train_epochs": plan.epochs, "learning_rate": plan.learning_rate, "max_steps": steps}
        folder = self._fit("teacher", model, teacher=None, **changes).args.output_dir
        return load_classifier(folder), folder

    def _student(self) -> Any:
        like = getattr(self.teacher, "config", None)
        teacher = self.teacher if isinstance(self.teacher, PreTrainedModel) else self.source
        if "teacher" in kinds.STUDENTS[self.recipe.student[0]].withheld and teacher is None:
            raise ValueError(
                f"The student {self.recipe.student[0]!r} is made of one teacher, and there is none. Name one "
                "under `teacher:`, or a student of its own: `student: {pretrained: {source: …}}`."
            )
        given = {"teacher": teacher, "like": like}
        if kinds.MEASURED & {name for name, value in self.recipe.student[1].items() if value is not None}:
            given["data"] = self._calibration(teacher)
        set_seed(self.args.seed)  # the same new head for student and baseline
        return _built(kinds.STUDENTS, self.recipe.student, given)

    def _calibration(self, teacher: Any) -> list[dict[str, torch.Tensor]]:
        """Batches of training rows as the teacher reads them, without labels: its answers are judged."""
        tokenizer = AutoTokenizer.from_pretrained(self.source, trust_remote_code=False)
        config = getattr(teacher, "config", None)
        room = (self.args.max_length, longest_input(config) if config else None, tokenizer.model_max_length)
        rows, batches = _drawn(self.train, CALIBRATION_ROWS, self.args.seed), []
        for start in range(0, len(rows), CALIBRATION_BATCH):
            texts = rows[start : start + CALIBRATION_BATCH]
            columns = [texts[name] for name in ("text", "text_pair") if name in texts]
            batches.append(
                tokenizer(
                    *columns,
                    is_split_into_words=isinstance(columns[0][0], list),
                    truncation=True,
                    max_length=min(limit for limit in room if limit),
                    padding=True,
                    return_tensors="pt",
                )
            )
        return batches

    def _tokenizer_source(self) -> str:
        """Where the student's tokenizer lies: with its own weights, else with the teacher's."""
        source = self.recipe.student[1].get("source", self.source)
        if source is None:
            raise ValueError("Neither student nor teacher names a folder with a tokenizer. Name a teacher.")
        return str(source)

    def _taught(self) -> DistillationTrainer:
        teacher = self.teacher
        if isinstance(teacher, PreTrainedModel):
            teacher = ModelTeacher(teacher)
            teacher.tokenizer = load_tokenizer(self.source)  # it may read other ids than the student
        return self._fit("student", self.model, teacher=teacher, objective=self.recipe.objective)

    def _who_taught(self) -> str | None:
        """Where the teacher lies once the student is trained; beside the student where it moved too."""
        moved = self.teacher.saved_as if isinstance(self.teacher, Teacher) else ""
        return str(self.folder / moved) if moved else self.source

    def _fit(
        self, stage: str, model: Any, *, teacher: Any, objective: Any = None, **changes: Any
    ) -> DistillationTrainer:
        """Train one model in its own folder; a killed run goes on where it stopped."""
        args = dataclasses.replace(self.args, output_dir=str(Path(self.args.output_dir, stage)), **changes)
        trainer = DistillationTrainer(
            model,
            args,
            teacher=teacher,
            objective=objective,
            train_dataset=self.train,
            eval_dataset=self.evaluation,
            processing_class=self.tokenizer,
            compute_metrics=_accuracy if self.task == "single_label" else None,
        )
        trainer.train(resume_from_checkpoint=None if self.smoke else newest_checkpoint(args.output_dir))
        trainer.save_model()
        return trainer

    def _measured(self, trained: DistillationTrainer, baseline: str | None) -> Report:
        plan, args = self.recipe.measurement, self.args
        assert plan is not None  # noqa: S101 - `report` asks first
        notes = {"objective": str(trained.blend), "recipe": self.recipe.page, "rows": len(self.train)}
        found = measure(
            str(self.folder),
            self.evaluation,
            teacher=self._who_taught(),
            baseline=baseline,
            max_length=plan.max_length or args.max_length,
            speed=STANDARD if plan.speed and not self.smoke else None,
            notes={**notes, "seed": args.seed},
        )
        found.save(self.folder / "report.json")
        told = self.recipe.teacher[1] if self.recipe.teacher else self.recipe.student[1]
        base = next((str(told[name]) for name in ("source", "encoder") if name in told), "a model of its own")
        write_card(self.folder, found, base_model=base, dataset=str(self.recipe.load["source"]))
        return found

    def _exported(self) -> None:
        options = {"max_length": self.args.max_length, **(self.recipe.export or {})}
        if self.smoke:  # two steps teach nothing that could be lost
            options |= {"speed": False, "max_drop": SMOKE_DROP}
        found = export(
            str(self.folder), self.onnx, data=self.evaluation, teacher=self._who_taught(), **options
        )
        print(found.table())


def _built(table: Mapping[str, kinds.Kind], chosen: Chosen, run: Mapping[str, Any]) -> Any:
    """Call a kind's constructor with the page's arguments, and those of the run that it takes."""
    name, told = chosen
    module, _, attribute = table[name].target.partition(":")
    make = getattr(importlib.import_module(module), attribute)
    takes = inspect.signature(make).parameters
    return make(**told, **{k: v for k, v in run.items() if k in takes and k in table[name].withheld})


def _accuracy(prediction: Any) -> dict[str, float]:
    """Accuracy on the labelled rows, for the log and `metric_for_best_model`."""
    known = prediction.label_ids != -100
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids)[known].mean())}


def _task(rows: Dataset) -> str:
    """What the labels are: classes, several labels a row, or real values."""
    feature = rows.features.get("label")
    if isinstance(feature, List):
        return "multi_label"
    return "regression" if str(getattr(feature, "dtype", "")).startswith("float") else "single_label"


def _class_names(rows: Dataset) -> list[str]:
    """Names for the classifier of a teacher that is fine-tuned; one for real values."""
    feature = rows.features.get("label")
    if feature is None or isinstance(feature, List):
        raise ValueError(
            "A teacher is fine-tuned on classes or real values, and the data has neither. Fine-tune it "
            "elsewhere, and name it: `teacher: {pretrained: {source: …}}`."
        )
    if getattr(feature, "names", None):
        return list(feature.names)
    return ["value"] if _task(rows) == "regression" else [f"LABEL_{i}" for i in range(max(rows["label"]) + 1)]


def _drawn(rows: Dataset, wanted: int | None, seed: int) -> Dataset:
    if wanted is None or wanted >= len(rows):
        return rows
    return rows.shuffle(seed=seed).select(range(wanted))
