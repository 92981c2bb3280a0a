"""A recipe is run: teacher, student and baseline in folders of their own, measured and exported."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser, PreTrainedModel, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from hfdistill.evaluation.report import Report
from hfdistill.files.checkpoint import newest_checkpoint
from hfdistill.files.hub import make_repository
from hfdistill.files.plain_data import public_name, write_atomically
from hfdistill.files.run_lock import only_run
from hfdistill.network.foreign_code import allowing_pickles
from hfdistill.network.loading import load_classifier, load_tokenizer
from hfdistill.recipe import schema
from hfdistill.recipe.binding import accepted_arguments, build
from hfdistill.recipe.check import Recipe, read_recipe, teacher_kind
from hfdistill.recipe.models import ModelBuilder
from hfdistill.recipe.page import Mistake, RecipeError
from hfdistill.recipe.page_facts import PAGE, by_name, deciding_facts, refuse_other_page, task_scores
from hfdistill.recipe.recommended import Recommended
from hfdistill.recipe.rounding import MOST_CHANGED, MOST_MOVED, roundings
from hfdistill.recipe.rows import Rows, read_rows
from hfdistill.recipe.run_defaults import ANSWERS, DEFAULTS, can_be_recorded, is_worth_recording, precision
from hfdistill.recipe.schema import Student
from hfdistill.recipe.terminal import FrequentCheckpoints, Progress, Terminal, quiet_libraries
from hfdistill.recipe.training_record import TrainingRecord
from hfdistill.teachers import CachedTeacher, Contents, ModelTeacher, Teacher
from hfdistill.teachers.base import as_teacher
from hfdistill.teachers.cache.manifest import reads_mask
from hfdistill.teachers.text.teacher import TextAnswers
from hfdistill.trainer import DistillationTrainer
from hfdistill.trainer.arguments import DistillationArguments
from hfdistill.trainer.theseus import Theseus

SMOKE_STEPS = 2


class Interrupted(KeyboardInterrupt):
    """Ctrl-C was pressed; the message says what is saved, and from which step the same command goes on."""


def run_recipe(recipe: Recipe | str | Path, *, smoke: bool = False) -> Report | None:
    """Train, measure and export what a page says, under training.output_dir.

    `student/` is a plain Transformers model with recipe.yaml, report.json and its card; `teacher/`,
    `assistant-1/`, `generation-1/` and `baseline/` stand beside it where the page asks for them, and `onnx/`
    what was exported. Rows that were kept back to measure on are in `held_out.parquet`. Everything that can
    be known before anything is trained is checked first. Started again, a run goes on where it stopped; a
    checkpoint is saved each epoch and every few minutes. With `push_to_hub: true` under `training`, the
    finished student is published under `hub_model_id` (else the name of output_dir), with its card and what
    was exported; see `push_to_hub`. A page with a `goal` section finds its student; see `fit_student`.

    Args:
        recipe: what `read_recipe` gave, or the path of a page.
        smoke: take two steps on a few rows, under output_dir/smoke, and measure no speed: does it run?

    Returns:
        The report on the main process, where something is measured; else None.

    Raises:
        RecipeError: a value under training that Transformers refuses.
        ValueError: models, data and objective do not fit together; before the first step.
        FolderInUse: a ValueError, where another run writes to output_dir at this moment.
        QualityGateError: the exported student lost too much.
        Interrupted: a KeyboardInterrupt, after Ctrl-C.
    """
    from hfdistill.recipe.outcome import Outcome
    from hfdistill.recipe.rehearsal import rehearse

    recipe = read_recipe(recipe) if isinstance(recipe, (str, Path)) else recipe
    if not isinstance(recipe, Recipe):
        raise TypeError(
            f"run_recipe needs a page, found a {type(recipe).__name__}. Type run_recipe('page.yaml')."
        )
    if recipe.goal is not None:
        from hfdistill.recipe.goal.fit import fit_recipe

        if smoke:
            raise ValueError("A goal cannot be tried by two steps, which compare nothing. Leave --smoke out.")
        result = fit_recipe(recipe)
        print(f"{result.report.table()}\n\n{result}")
        return result.report
    with quiet_libraries(), allowing_pickles(recipe.allow_pickle):
        run = Run(recipe, smoke=smoke)
        try:
            rehearse(run)
            with nullcontext() if run.args.process_index else only_run(Path(run.args.output_dir)):
                return Outcome(run).report()
        except Interrupted:
            raise
        except KeyboardInterrupt as error:
            raise Interrupted(
                f"Stopped outside of any training. What is trained so far is in {run.args.output_dir}, and "
                "the same command goes on from there."
            ) from error


def check_recipe(recipe: Recipe) -> None:
    """Check everything about a recipe that can be known before anything is trained, and train nothing."""
    from hfdistill.recipe.rehearsal import rehearse

    with quiet_libraries(), allowing_pickles(recipe.allow_pickle):
        if recipe.goal is not None:
            from hfdistill.recipe.goal.fit import check_goal

            check_goal(recipe)
        rehearse(Run(recipe, speaks=False), thoroughly=True)


def arguments(recipe: Recipe, *, smoke: bool = False) -> Any:
    """Return the `training` section as arguments of the trainer, or say what Transformers refuses of it."""
    training = {**DEFAULTS, **precision(recipe.training), **recipe.training}
    if smoke:
        training |= {"max_steps": SMOKE_STEPS, "output_dir": str(Path(training["output_dir"], "smoke"))}
        training |= {"save_strategy": "no", "load_best_model_at_end": False, "push_to_hub": False}
    try:
        (args,) = HfArgumentParser(DistillationArguments).parse_dict(training)
    except (ValueError, TypeError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError([Mistake("training", None, "", f"Transformers refuses this: {reason}")]) from error
    return args


class Run:
    """One run of a recipe: its rows and checks first, then teacher, assistants, student and baseline.

    `rows` stand in the place of those that the page names.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        smoke: bool = False,
        searching: bool = False,
        speaks: bool = True,
        rows: Rows | None = None,
    ) -> None:
        self.recipe, self.smoke = recipe, smoke
        self.args = arguments(recipe, smoke=smoke)
        self.terminal = Terminal(self._phases(), speaks=speaks and not self.args.process_index)
        set_seed(self.args.seed)
        self.rows = rows or read_rows(
            recipe.load, recipe.splits, seed=self.args.seed, smoke=smoke, searching=searching
        )
        if "eval_strategy" not in recipe.training and "label" in self.rows.evaluation.column_names:
            self.args = dataclasses.replace(self.args, eval_strategy="epoch")
        facts = deciding_facts(recipe.page, self.rows)
        refuse_other_page(self.args, facts)
        self.facts = json.dumps(facts, indent=1)
        self.builder = ModelBuilder(
            self.rows, seed=self.args.seed, max_length=self.args.max_length, device=self.args.device
        )
        self.recommended = Recommended(recipe, self.rows, self.args)
        self.origin: str | None = None
        self.answerable: Any = None  # the training rows, where the teacher answers only some of them
        self.options = dict(recipe.options)
        silent = "teacher_cache" not in self.options
        self.is_recorded = silent and is_worth_recording(recipe, self.rows, self.args)
        if self.options.get("teacher_cache") is False:
            del self.options["teacher_cache"]
        elif self.is_recorded or (smoke and "teacher_cache" in self.options):
            self.options["teacher_cache"] = str(Path(self.args.output_dir, ANSWERS))
        self.records: dict[str, TrainingRecord] = {}
        self.rounding: list[str] = []
        self.repository: str | None = None
        self.is_prepared = False

    def describe(self) -> None:
        """Print which rows are learned from and measured on, and what the page leaves to the run."""
        rows, source = self.rows, public_name(str(self.recipe.load["source"]))
        held = " kept back" if rows.is_drawn else f" of {rows.evaluation.split or 'another split'}"
        purpose = f"{held} to measure on" if self.recipe.goal is None else " to choose on"
        more = f" ({len(rows.labelled):,} with labels)" if len(rows.labelled) < len(rows.train) else ""
        learned = f"{len(rows.train):,} rows to learn from{more}"
        if rows.stream is not None:
            learned = f"a stream to learn from, of which the first {len(rows.train):,} rows are looked at now"
        self.terminal.line(f"{source}: {learned}, {len(rows.evaluation):,}{purpose}")
        if "bf16" not in self.recipe.training and self.args.bf16:
            self.terminal.line(
                "bfloat16, which is fast on this machine; training.bf16=false computes in float32"
            )
        if self.is_recorded:
            self.terminal.line(
                "the teacher answers each row once, before the first step; teacher_cache=false asks each time"
            )

    def prepare(self) -> None:
        """Make the teacher, which may train it, and the student."""
        self.prepare_teacher()
        self.model, self.tokenizer = self.student(self.recipe.student)

    def prepare_teacher(self) -> None:
        """Make the teacher, which may train it."""
        self.is_prepared = True
        args = self.args
        if args.push_to_hub and not args.process_index:
            name = args.hub_model_id or Path(args.output_dir).absolute().name
            self.repository = make_repository(name, private=args.hub_private_repo, token=args.hub_token)
        self.teacher, self.source = self._teacher()
        if self.is_recorded and not reads_mask(as_teacher(self.teacher)):
            self.is_recorded = False
            del self.options["teacher_cache"]
            self.terminal.line(
                "the teacher takes no attention_mask and reads padding: it is asked in each step"
            )
        self._look_at_rounding()

    def _look_at_rounding(self) -> None:
        """Print how bfloat16 changes the teacher's answers; compute in float32 where it changes them much.

        What the page says of bf16 is done in any case, and told by one process alone. Under DeepSpeed, which
        may have divided the weights, nothing is looked at.
        """
        args, silent = self.args, "bf16" not in self.recipe.training
        if not args.bf16 or args.deepspeed_plugin is not None or not (silent or self.terminal.speaks):
            return
        found = roundings(
            self.teacher, self.rows.train, source=self.source, device=args.device, max_length=args.max_length
        )
        for number, each in enumerate(found, start=1):
            whose = "the teacher's" if len(found) == 1 else f"member {number}'s"
            self.rounding.append(f"bfloat16 moves {whose} {each}")
            self.terminal.line(self.rounding[-1])
        if silent and not all(each.is_small for each in found):
            self.args = dataclasses.replace(args, bf16=False)
            self.rounding.append(
                f"that is much (above {100 * MOST_CHANGED:g} % of the answers, or {MOST_MOVED:g} standard "
                "deviations on average): float32 was computed in from there on"
            )
            self.terminal.line(f"! {self.rounding[-1]}; training.bf16=true computes in bfloat16 in any case")

    def train_student(self, *, callbacks: Sequence[Any] = ()) -> DistillationTrainer:
        """Train the student by the teacher, or by the last of a chain that begins with it."""
        if not self.is_prepared:
            self.prepare()
        recipe, teacher = self.recipe, self.teacher
        if isinstance(teacher, PreTrainedModel):
            # It may read other ids than the student.
            teacher = as_lesson(teacher, load_tokenizer(self.source))
        options = dict(self.options)
        stages = [(f"assistant-{i}", plan) for i, plan in enumerate(recipe.assistants, start=1)]
        stages += [(f"generation-{i}", recipe.student) for i in range(1, recipe.generations)]
        for stage, plan in stages:
            made = self.student(plan)
            by = {} if teacher is None else {"objective": recipe.objective, "options": options}
            trainer = self.fit(stage, made, teacher=teacher, **by)
            trainer.accelerator.wait_for_everyone()  # the next stage reads the folder
            teacher = as_lesson(self.trained_model(trainer), made[1])
            self.source = self.source or str(trainer.args.output_dir)
            options.pop("label_map", None)  # students name the classes alike
        self.last = teacher
        objective = recipe.objective
        if recipe.theseus is not None:
            callbacks = [Theseus(self.teacher, **recipe.theseus), *callbacks]
            if self.recommended.is_on:  # the logits alone: attention within a block cannot be read
                objective = None
                self.recommended.choices["left out"] = "the teacher's blocks stand in for those to compare"
        options = {"callbacks": list(callbacks)} | (options if teacher is not None else {})
        made = self.model, self.tokenizer
        return self.fit("student", made, teacher=teacher, objective=objective, options=options)

    def train_baseline(self) -> str:
        """Train the same student without a teacher, and return its folder."""
        made = self.student(self.recipe.student, is_taught=False)
        return str(self.fit("baseline", made).args.output_dir)

    def student(self, plan: Student, *, is_taught: bool = True) -> tuple[PreTrainedModel, Any]:
        """Return a student that the page plans, and its tokenizer.

        Args:
            plan: of the page.
            is_taught: False for one without a teacher, which is not fitted unless the page says so.
        """
        whole = self.teacher if isinstance(self.teacher, PreTrainedModel) else self.origin
        like = getattr(self.teacher, "config", None)
        fit = self.recommended.refit(plan, self.teacher) if is_taught else None
        if fit is not None:
            self.terminal.line(f"fitting the student to its teacher on {fit.rows:,} texts, block by block")
        return self.builder.student(plan, of=whole, origin=self.origin, like=like, fit=fit)

    def who_taught(self, folder: str | Path) -> str | Teacher | None:
        """Return where the teacher is once the student in `folder` is trained: inside it, if it learned too.

        A teacher that is asked about texts lies nowhere, and is given itself; so is one of a plugin that
        can be measured, whose answers need not be those of the model that it was made of.
        """
        if isinstance(self.last, TextAnswers) or self._is_own(self.last):
            return self.last
        moved = self.last.saved_as if isinstance(self.last, Teacher) else ""
        return str(Path(folder, moved)) if moved else self.source

    @staticmethod
    def _is_own(teacher: Any) -> bool:
        """Whether a teacher is of a plugin, stays as it is, names its classes, and computes its answers."""
        if not isinstance(teacher, Teacher) or type(teacher).__module__.startswith("hfdistill."):
            return False
        return not teacher.saved_as and teacher.config is not None and any(True for _ in teacher.parameters())

    def trained_model(self, trainer: DistillationTrainer) -> PreTrainedModel:
        """Return a model that has been trained, as it was saved."""
        return load_classifier(str(trainer.args.output_dir))

    def _phases(self) -> int:
        recipe = self.recipe
        count = (teacher_kind(recipe) == "finetune") + len(recipe.assistants) + recipe.generations
        if recipe.measurement is not None:
            count += 1 + recipe.measurement.baseline
        return int(count) + (recipe.export is not None)

    def _teacher(self) -> tuple[Any, str | None]:
        """Return the teacher, and the folder or id of the model that the student is measured beside.

        `origin` is where the model lies of which students are made.
        """
        if self.recipe.teacher is None:
            return None, None
        kind, arguments = self.recipe.teacher
        if kind == "finetune":
            return self._finetuned(schema.Finetuning(**arguments))
        component = schema.TEACHERS[kind]
        first = next(iter(by_name(arguments.get("members"))[1]), None)
        named = [arguments.get(name) for name in component.models if name != "members"]
        self.origin = next((source for source in [*named, first] if source is not None), None)
        if component.reads_text:
            if "cache" in accepted_arguments(component) and "teacher_cache" in self.options:
                arguments = {"cache": self.options.pop("teacher_cache"), **arguments}
            teacher = self.builder.asked(kind, arguments)
            self.answerable = self.builder.believed(teacher, arguments.get("keep"))
            return teacher, None
        if kind == "peer":
            arguments = {**arguments, "model": self.builder.peer(arguments)}
        if kind == "ensemble":
            arguments = {**arguments, "members": self._members(arguments)}
        teacher = build(component, arguments, {})
        elsewhere = kind == "ensemble" or component.moves  # no model, or one that has moved since
        return teacher, None if elsewhere else self.origin

    def _members(self, arguments: dict[str, Any]) -> Any:
        """Return the members of an ensemble, each with its own recorded answers: labels may weigh them."""
        folder = self.options.pop("teacher_cache", None)
        if folder is None:
            return arguments["members"]
        names, members = by_name(arguments["members"])
        precision = "bf16" if self.args.bf16 else "fp16" if self.args.fp16 else None
        inside = arguments.get("features")
        recorded = {
            str(name): member
            if inside in (name, number)
            else CachedTeacher(folder, teacher=member, contents=Contents(precision=precision))
            for number, (name, member) in enumerate(zip(names, members, strict=True))
        }
        return recorded if isinstance(arguments["members"], dict) else list(recorded.values())

    def _finetuned(self, plan: schema.Finetuning) -> tuple[PreTrainedModel, str]:
        """Return the encoder, fine-tuned on the labelled rows, and where it lies."""
        steps = SMOKE_STEPS if self.smoke else -1  # its own epochs count
        changes = {"num_train_epochs": plan.epochs, "learning_rate": plan.learning_rate, "max_steps": steps}
        made = self.builder.fresh(plan.encoder), load_tokenizer(plan.encoder)
        trainer = self.fit("teacher", made, **changes)
        self.origin = str(trainer.args.output_dir)
        return self.trained_model(trainer), self.origin

    def fit(
        self,
        stage: str,
        made: tuple[PreTrainedModel, Any],
        *,
        teacher: Any = None,
        objective: Any = None,
        options: Any = None,
        **changes: Any,
    ) -> DistillationTrainer:
        """Train one model in its own folder; a run that was stopped continues where it was."""
        if not self.args.process_index:
            write_atomically(Path(self.args.output_dir, PAGE), self.facts)
        trainer = self.trainer(stage, made, teacher=teacher, objective=objective, options=options, **changes)
        if (objective is not None or teacher is not None) and self.recommended.is_on:
            self.terminal.line(self.recommended.summary(trainer.objective, trainer.left_out))
        record = self.records[stage] = TrainingRecord(self.args.output_dir, stage, self.recipe.page)
        trainer.remove_callback(ProgressCallback)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Progress(self.terminal, self._title(stage, trainer), on_begin=record.begin))
        if trainer.args.save_strategy != "no":
            trainer.add_callback(FrequentCheckpoints())
        is_begun = not self.smoke and newest_checkpoint(trainer.args.output_dir) is not None
        try:
            trainer.train(resume_from_checkpoint=any(trainer.of_all(is_begun)) or None)
        except KeyboardInterrupt as error:
            raise Interrupted(_stopped(stage, trainer)) from error
        trainer.save_model()
        return trainer

    def trainer(
        self, stage: str, made: tuple[PreTrainedModel, Any], *, teacher: Any = None, objective: Any = None,
        options: Any = None, **changes: Any,
    ) -> DistillationTrainer:  # fmt: skip
        """Return the trainer of one model, in a folder of its own; it checks whatever a trainer can check."""
        folder = Path(self.args.output_dir, stage)
        model, tokenizer = made
        if stage != "teacher":
            plan = self.recipe.student
            if stage.startswith("assistant-"):
                plan = self.recipe.assistants[int(stage.removeprefix("assistant-")) - 1]
            changes = {**self.recommended.settings(plan, model, is_taught=teacher is not None), **changes}
        args = dataclasses.replace(self.args, **changes, output_dir=str(folder), push_to_hub=False)
        rows, train = self.builder.rows, self._rows_to_train_on(teacher, objective, tokenizer)
        scores: Callable | None = task_scores(rows.task) if "label" in rows.evaluation.column_names else None
        return DistillationTrainer(
            model,
            args,
            teacher=teacher,
            objective=objective,
            train_dataset=train,
            eval_dataset=rows.evaluation,
            processing_class=tokenizer,
            compute_metrics=scores,
            **(options or {}),
        )

    def _rows_to_train_on(self, teacher: Any, objective: Any, tokenizer: Any) -> Any:
        """Return what a model trains on: a model without teacher and objective learns from labels alone."""
        rows = self.builder.rows
        if rows.stream is not None:
            return rows.stream
        if teacher is None:
            return rows.labelled if objective is None else rows.train
        if self.answerable is not None:
            return self.answerable
        return self.recommended.with_copies(rows.train, teacher, tokenizer)

    def _title(self, stage: str, trainer: DistillationTrainer) -> str:
        """Return a phase's heading without its steps: "student: 3 of 6 layers, 17.4 M parameters"."""
        model = trainer.accelerator.unwrap_model(trainer.model)
        layers = getattr(model.config, "num_hidden_layers", None)
        cut = getattr(model.config, "shrunk_from", None)
        whole = getattr(getattr(self, "teacher", None), "config", None)
        depth = getattr(whole, "num_hidden_layers", None)
        of = f" of {depth}" if cut and depth else ""
        size = f"{layers}{of} layers, " if layers else ""
        return f"{stage}: {size}{model.num_parameters() / 1e6:.3g} M parameters"


def _stopped(stage: str, trainer: DistillationTrainer) -> str:
    """Return one line for Ctrl-C: what is saved, and at which step the same command continues."""
    state, saved = trainer.state, newest_checkpoint(trainer.args.output_dir)
    where = f"Stopped at step {state.global_step:,} of {state.max_steps:,} of the {stage}"
    if saved is None:
        return f"{where}, before a checkpoint was saved; the same command begins the {stage} anew."
    step = int(Path(saved).name.rpartition("-")[2])
    return f"{where}. {saved} is saved; the same command goes on from step {step:,}."


def as_lesson(model: PreTrainedModel, tokenizer: Any) -> ModelTeacher:
    """Return a model as a teacher, with the tokenizer that it reads by."""
    teacher = ModelTeacher(model)
    teacher.tokenizer = tokenizer
    return teacher


def trial_page(
    page: Mapping[str, Any], run: Run, folder: Path, *, teacher_varies: bool = False
) -> dict[str, Any]:
    """Return a page with the teacher that `run` has made, its answers recorded once, and nothing measured.

    A fine-tuned teacher is named by its folder. Answers are recorded where the objective reads nothing else
    of the teacher, no other model teaches in between, and the page does not ask for fresh copies.
    """
    made, recipe = copy.deepcopy(dict(page)), run.recipe
    if teacher_kind(recipe) == "finetune" and not teacher_varies:
        made["teacher"] = {"pretrained": {"source": run.origin}}
    others_teach = teacher_varies or recipe.assistants or recipe.generations > 1
    if can_be_recorded(recipe, run.rows) and not others_teach:
        made.setdefault("teacher_cache", str(folder / ANSWERS))
    made["training"] |= {"load_best_model_at_end": False, "teacher_check_rows": 0}
    if precision(recipe.training).get("bf16") and not run.args.bf16:  # which moves this teacher too far
        made["training"]["bf16"] = False
    return made | {"measure": None, "export": None}
