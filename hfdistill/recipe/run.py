"""A recipe is run: teacher, student and baseline in folders of their own, measured and exported."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser, PreTrainedModel, set_seed

from hfdistill.evaluation.card import write_card
from hfdistill.evaluation.exit_curve import exit_curve
from hfdistill.evaluation.measure import STANDARD, measure
from hfdistill.evaluation.plots import write_plots
from hfdistill.evaluation.report import Report
from hfdistill.exporters.gate import check_request, export
from hfdistill.exporters.onnx import require_packages
from hfdistill.files.checkpoint import newest_checkpoint
from hfdistill.files.hub import make_repository, push_to_hub
from hfdistill.files.markdown import as_yaml
from hfdistill.files.plain_data import read_json, write_atomically
from hfdistill.network.loading import load_classifier, load_tokenizer
from hfdistill.recipe import schema
from hfdistill.recipe.binding import built
from hfdistill.recipe.check import Recipe
from hfdistill.recipe.models import Workshop
from hfdistill.recipe.page import MAX_BYTES, Mistake, RecipeError
from hfdistill.recipe.rows import read_rows
from hfdistill.recipe.schema import Student
from hfdistill.teachers import CachedTeacher, Contents, ModelTeacher, Teacher
from hfdistill.trainer import DistillationTrainer
from hfdistill.trainer.arguments import DistillationArguments
from hfdistill.trainer.theseus import Theseus

PAGE = "page.json"
_DECIDING = ("teacher", "student", "data", "objective", "assistants", "generations", "theseus", "label_map")
_SETTINGS: tuple[str, ...] = ("adam", "optim", "lr_", "warmup", "weight_decay", "max_grad_norm", "max_length")
_SETTINGS += ("seed", "data_seed", "learning_rate", "label_smoothing", "mixup", "length_grouping")
SMOKE_STEPS = 2
SMOKE_DROP = 200.0
"""Points; a correlation that turns round loses as many hundredths."""


def run_recipe(recipe: Recipe, *, smoke: bool = False) -> Report | None:
    """Train, measure and export what a page says, under training.output_dir.

    `student/` is a plain Transformers model with recipe.yaml, report.json and its card; `teacher/`,
    `assistant-1/`, `generation-1/` and `baseline/` stand beside it where the page asks for them, and `onnx/`
    what was exported. Started again, a run goes on where it stopped. With `push_to_hub: true` under
    `training`, the finished student is published under `hub_model_id` (else the name of output_dir), with
    its card and what was exported; see `push_to_hub`.

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
    return Run(recipe, smoke=smoke).report()


def arguments(recipe: Recipe, *, smoke: bool = False) -> Any:
    """The `training` section as arguments of the trainer.

    Raises:
        RecipeError: a value that Transformers refuses.
    """
    told = dict(recipe.training)
    if smoke:
        told |= {"max_steps": SMOKE_STEPS, "output_dir": str(Path(told["output_dir"], "smoke"))}
        told |= {"save_strategy": "no", "load_best_model_at_end": False, "push_to_hub": False}
    try:
        (args,) = HfArgumentParser(DistillationArguments).parse_dict({"report_to": "none", **told})
    except (ValueError, TypeError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError([Mistake("training", None, "", f"Transformers refuses this: {reason}")]) from error
    return args


class Run:
    """One run of a recipe; its parts are made in this order.

    Args:
        recipe: what `read_recipe` gave.
        smoke: as in `run_recipe`.
        searching: measure on no test row; see `read_rows`.
    """

    def __init__(self, recipe: Recipe, *, smoke: bool = False, searching: bool = False) -> None:
        self.recipe, self.smoke = recipe, smoke
        self.args = arguments(recipe, smoke=smoke)
        self.repository = self._repository()
        set_seed(self.args.seed)
        self.rows = read_rows(
            recipe.load, recipe.splits, seed=self.args.seed, smoke=smoke, searching=searching
        )
        self._check_export()
        self._check_same_page()
        self.workshop = Workshop(self.rows, seed=self.args.seed, max_length=self.args.max_length)
        self.origin: str | None = None
        self.options = dict(recipe.options)
        if smoke and "teacher_cache" in self.options:
            self.options["teacher_cache"] = str(Path(self.args.output_dir, "answers"))
        self.teacher, self.source = self._teacher()
        self.model, self.tokenizer = self._student(recipe.student)

    def report(self) -> Report | None:
        """Train the student, and see what it is worth."""
        recipe, trained = self.recipe, self.taught()
        self.folder = Path(trained.args.output_dir)
        if trained.is_world_process_zero():
            write_atomically(self.folder / "recipe.yaml", as_yaml(recipe.page))
        baseline = None
        if recipe.measurement and recipe.measurement.baseline:
            baseline = self._fit("baseline", self._student(recipe.student)).args.output_dir
        if not trained.is_world_process_zero():
            return None
        found = None if recipe.measurement is None else self._measured(trained, baseline)
        if recipe.export is not None:
            self._exported()
        if self.repository:
            self._published(self.repository)
        return found

    def _repository(self) -> str | None:
        """Where the student will be published, made before anything is trained."""
        args = self.args
        if not args.push_to_hub or args.process_index:
            return None
        name = args.hub_model_id or Path(args.output_dir).absolute().name
        return make_repository(name, private=args.hub_private_repo, token=args.hub_token)

    def _published(self, repository: str) -> None:
        """The student with its card, and what was exported; once, when all of it is there."""
        onnx = self.onnx if self.recipe.export is not None else None
        options = {"revision": self.args.hub_revision, "token": self.args.hub_token}
        print(push_to_hub(self.folder, repository, onnx=onnx, **options))

    def _check_export(self) -> None:
        """Refuse, before anything is trained, an export that could not be written."""
        self.onnx, told = Path(self.args.output_dir, "onnx"), self.recipe.export
        if told is not None:
            require_packages()
            int8, max_drop = told.get("int8", "dynamic"), told.get("max_drop", 0.5)
            check_request(self.onnx, data=self.rows.evaluation, int8=int8, max_drop=max_drop)

    def _check_same_page(self) -> None:
        """Refuse to go on from checkpoints that another page left.

        Raises:
            ValueError: naming what differs.
        """
        folder = Path(self.args.output_dir)
        kept, facts = folder / PAGE, _deciding(self.recipe.page)
        facts["the training rows"] = self.rows.fingerprint()
        facts = json.loads(json.dumps(facts, default=str))  # as it is read back
        goes_on = kept.exists() and not self.args.allow_changed and any(folder.glob("*/checkpoint-*"))
        before = read_json(kept, limit=10 * MAX_BYTES) if goes_on else facts
        changed = [name for name in {**before, **facts} if before.get(name) != facts.get(name)]
        if changed:
            raise ValueError(
                f"{folder} holds the checkpoints of another page ({', '.join(changed)} differ). Choose a new "
                "training.output_dir, or go on deliberately with training.allow_changed=true."
            )
        self.facts = json.dumps(facts, indent=1)

    def _teacher(self) -> tuple[Any, str | None]:
        """The teacher, and where the model lies that the student is measured beside.

        `origin` is where the model lies of which students are made.
        """
        if self.recipe.teacher is None:
            return None, None
        kind, told = self.recipe.teacher
        if kind == "finetune":
            self.origin = self._finetuned(schema.Finetuning(**told))
            return load_classifier(self.origin), self.origin
        first = next(iter(_by_name(told.get("members"))[1]), None)
        named = [told.get(name) for name in ("source", "teacher", "model")]
        self.origin = next((source for source in [*named, first] if source is not None), None)
        if kind == "peer":
            told = {**told, "model": self.workshop.peer(told)}
        if kind == "ensemble":
            told = {**told, "members": self._members(told)}
        teacher = built(schema.TEACHERS[kind], told, {})
        elsewhere = kind == "ensemble" or kind in schema.MOVING  # no model, or one that has moved since
        return teacher, None if elsewhere else self.origin

    def _members(self, told: dict[str, Any]) -> Any:
        """The members of an ensemble, each with its own recorded answers: labels may weigh them."""
        folder = self.options.pop("teacher_cache", None)
        if folder is None:
            return told["members"]
        names, members = _by_name(told["members"])
        precision = "bf16" if self.args.bf16 else "fp16" if self.args.fp16 else None
        inside = told.get("features")
        kept = {
            str(name): member
            if inside in (name, number)
            else CachedTeacher(folder, teacher=member, contents=Contents(precision=precision))
            for number, (name, member) in enumerate(zip(names, members, strict=True))
        }
        return kept if isinstance(told["members"], dict) else list(kept.values())

    def _finetuned(self, plan: schema.Finetuning) -> str:
        """Where the encoder lies that was fine-tuned on the labelled rows."""
        steps = SMOKE_STEPS if self.smoke else -1  # its own epochs count
        changes = {"num_train_epochs": plan.epochs, "learning_rate": plan.learning_rate, "max_steps": steps}
        made = self.workshop.fresh(plan.encoder), load_tokenizer(plan.encoder)
        return str(self._fit("teacher", made, **changes).args.output_dir)

    def _student(self, plan: Student) -> tuple[PreTrainedModel, Any]:
        whole = self.teacher if isinstance(self.teacher, PreTrainedModel) else self.origin
        like = getattr(self.teacher, "config", None)
        return self.workshop.student(plan, of=whole, origin=self.origin, like=like)

    def taught(self, *, callbacks: Sequence[Any] = ()) -> DistillationTrainer:
        """The student, trained by the teacher, or by the last of a chain that begins with it.

        Args:
            callbacks: told of the student's training, not of those before it.
        """
        recipe, teacher = self.recipe, self.teacher
        if isinstance(teacher, PreTrainedModel):
            teacher = _lesson(teacher, load_tokenizer(self.source))  # it may read other ids than the student
        options = dict(self.options)
        stages = [(f"assistant-{i}", plan) for i, plan in enumerate(recipe.assistants, start=1)]
        stages += [(f"generation-{i}", recipe.student) for i in range(1, recipe.generations)]
        for stage, plan in stages:
            made = self._student(plan)
            taught = {} if teacher is None else {"objective": recipe.objective, "options": options}
            trained = self._fit(stage, made, teacher=teacher, **taught)
            trained.accelerator.wait_for_everyone()  # the next stage reads the folder
            folder = str(trained.args.output_dir)
            teacher = _lesson(load_classifier(folder), made[1])
            self.source = self.source or folder
            options.pop("label_map", None)  # students name the classes alike
        made = self.model, self.tokenizer
        self.last = teacher
        if recipe.theseus is not None:
            callbacks = [Theseus(self.teacher, **recipe.theseus), *callbacks]
        options = {"callbacks": list(callbacks)} | (options if teacher is not None else {})
        return self._fit("student", made, teacher=teacher, objective=recipe.objective, options=options)

    def _who_taught(self) -> str | None:
        """Where the teacher lies once the student is trained; beside the student where it moved too."""
        moved = self.last.saved_as if isinstance(self.last, Teacher) else ""
        return str(self.folder / moved) if moved else self.source

    def _fit(
        self,
        stage: str,
        made: tuple[PreTrainedModel, Any],
        *,
        teacher: Any = None,
        objective: Any = None,
        options: Any = None,
        **changes: Any,
    ) -> DistillationTrainer:
        """Train one model in its own folder; a killed run goes on where it stopped."""
        changes |= {"output_dir": str(Path(self.args.output_dir, stage)), "push_to_hub": False}
        args = dataclasses.replace(self.args, **changes)
        if not args.process_index:
            write_atomically(Path(self.args.output_dir, PAGE), self.facts)
        model, tokenizer = made
        labels_alone = teacher is None and objective is None
        trainer = DistillationTrainer(
            model,
            args,
            teacher=teacher,
            objective=objective,
            train_dataset=self.rows.labelled if labels_alone else self.rows.train,
            eval_dataset=self.rows.evaluation,
            processing_class=tokenizer,
            compute_metrics=_accuracy if self.rows.task == "single_label" else None,
            **(options or {}),
        )
        trainer.train(resume_from_checkpoint=None if self.smoke else newest_checkpoint(args.output_dir))
        trainer.save_model()
        return trainer

    def _measured(self, trained: DistillationTrainer, baseline: str | None) -> Report:
        plan, args = self.recipe.measurement, self.args
        assert plan is not None  # noqa: S101 - `report` asks first
        rows = self.rows
        notes = {"objective": str(trained.objective), "recipe": self.recipe.page, "rows": len(rows.train)}
        if len(rows.labelled) < len(rows.train):
            notes["labelled"] = len(rows.labelled)
        max_length = plan.max_length or args.max_length
        timed = plan.speed and not self.smoke
        found = measure(
            str(self.folder),
            rows.evaluation,
            teacher=self._who_taught(),
            baseline=baseline,
            max_length=max_length,
            speed=STANDARD if timed else None,
            notes={**notes, "seed": args.seed},
        )
        found.save(self.folder / "report.json")
        write_plots(self.folder, found, history=trained.state.log_history)
        data, name = str(self.recipe.load["source"]), self.repository
        write_card(self.folder, found, base_model=self._base(), dataset=data, model_name=name)
        if "exits" in self.recipe.student.changes and timed and rows.task == "single_label":
            curve = exit_curve(self.folder, rows.evaluation, max_length=max_length)
            points = json.dumps([dataclasses.asdict(point) for point in curve], indent=1)
            write_atomically(self.folder / "exit_curve.json", points)
            print(*curve, sep="\n")
        return found

    def _base(self) -> str:
        """What the student was made of, for its card."""
        told = self.recipe.teacher[1] if self.recipe.teacher else {}
        named = (self.recipe.student.told.get("source"), told.get("encoder"), self.origin)
        return next((str(name) for name in named if name is not None), "a model of its own")

    def _exported(self) -> None:
        options = {"max_length": self.args.max_length, **(self.recipe.export or {})}
        if self.smoke:  # two steps teach nothing that could be lost
            options |= {"speed": False, "max_drop": SMOKE_DROP}
        teacher = self._who_taught()
        print(
            export(str(self.folder), self.onnx, data=self.rows.evaluation, teacher=teacher, **options).table()
        )


def _deciding(page: dict[str, Any]) -> dict[str, Any]:
    """What decides the weights of a page's models, as place → value; a run may grow longer."""
    sections = {name: schema.given(name, value) for name, value in page.items() if name in _DECIDING}
    data = {n: v for n, v in sections["data"].items() if n not in ("evaluation", "evaluation_rows")}
    training = {n: v for n, v in page["training"].items() if n.startswith(_SETTINGS)}
    del sections["data"]
    inside = {f"data.{n}": v for n, v in data.items()} | {f"training.{n}": v for n, v in training.items()}
    return {n: v for n, v in {**sections, **inside}.items() if v is not None}


def _by_name(members: Any) -> tuple[list[Any], list[Any]]:
    """The names and the members of an ensemble as a page has them."""
    if isinstance(members, dict):
        return list(members), list(members.values())
    return list(range(len(members or ()))), list(members or ())


def _lesson(model: PreTrainedModel, tokenizer: Any) -> ModelTeacher:
    """A model that teaches, with what it reads."""
    teacher = ModelTeacher(model)
    teacher.tokenizer = tokenizer
    return teacher


def _accuracy(prediction: Any) -> dict[str, float]:
    """Accuracy on the labelled rows, for the log and `metric_for_best_model`."""
    known = prediction.label_ids != -100
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids)[known].mean())}
