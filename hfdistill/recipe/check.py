"""A page becomes a recipe, or all of its mistakes at once, before a model or data is touched."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from hfdistill.files.plain_data import printable
from hfdistill.recipe import schema
from hfdistill.recipe.binding import Binder, accepted_arguments
from hfdistill.recipe.goal.target import Goal
from hfdistill.recipe.page import Page, RecipeError, Where, hint, read_page
from hfdistill.recipe.schema import Card, Measurement, Splits, Student
from hfdistill.recipe.search_space import Dimension, dimensions
from hfdistill.recipe.signatures import parameters_by_inspection
from hfdistill.recipe.written_folders import strings_in, written_by
from hfdistill.schedules import moments

REQUIRED = ("teacher", "student", "data", "training")
SECTIONS = (
    *REQUIRED,
    "objective",
    "assistants",
    "generations",
    "theseus",
    "teacher_cache",
    "label_map",
    "search",
    "goal",
    "measure",
    "export",
    "card",
    "allow_pickle",
)

RECOMMENDED = "recommended"
KindAndArguments = tuple[str, dict[str, Any]]
"""A key of a table of `schema`, and the arguments that the page writes under it."""


@dataclass(frozen=True)
class Recipe:
    """A page without mistakes.

    Args:
        page: its content with overrides, as plain data.
        teacher: its kind and arguments; None trains without one.
        student: how it is made.
        load: arguments of `hfdistill.load`.
        splits: which rows.
        objective: the `Blend`; "recommended", with all that goes with it (see `Recommended`), where the page
            says so or says nothing; None for the labels alone, where there is no teacher.
        training: fields of `DistillationArguments`.
        measurement: what to measure; None for nothing.
        export: arguments of `hfdistill.export`; None for no export.
        assistants: students that are trained first, each taught by the one before; the last of them teaches
            the student.
        generations: how often the student is trained, each time by the one before.
        options: further arguments of `DistillationTrainer`: teacher_cache and label_map.
        theseus: arguments of `Theseus`; None to train the student's blocks as they are.
        search: what `hfdistill train --search` tries; empty where the page does not say.
        card: what the student's card says that no run can know.
        goal: what a student must keep and may cost, where it is to be found; `student` is then the teacher
            itself.
        allow_pickle: load models whose weights are a pickle alone; see `load_classifier`.
    """

    page: dict[str, Any]
    teacher: KindAndArguments | None
    student: Student
    load: dict[str, Any]
    splits: Splits
    objective: Any
    training: dict[str, Any]
    measurement: Measurement | None
    export: dict[str, Any] | None
    assistants: tuple[Student, ...] = ()
    generations: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    theseus: dict[str, Any] | None = None
    search: tuple[Dimension, ...] = ()
    card: Card = field(default_factory=Card)
    goal: Goal | None = None
    allow_pickle: bool = False


def teacher_kind(recipe: Recipe) -> str | None:
    """Return the kind of a recipe's teacher, a key of `schema.TEACHERS`; None without one."""
    return None if recipe.teacher is None else recipe.teacher[0]


def read_recipe(path: str | Path, *, overrides: Iterable[str] = ()) -> Recipe:
    """Read a page and check every key and value that can be judged without loading a model or data.

    Args:
        path: the page.
        overrides: "path=value" each, such as "training.seed=1" or "objective.1.kd.temperature=2".

    Returns:
        The recipe, for `run_recipe`.

    Raises:
        RecipeError: with all mistakes, a line for each: where, what was found, why, what to type.

    Example:
        >>> recipe = read_recipe("recipes/kd.yaml", overrides=["training.seed=1"])  # doctest: +SKIP
        >>> report = run_recipe(recipe)  # doctest: +SKIP
    """
    return check(read_page(path, overrides))


def check(page: Page) -> Recipe:
    """Return the recipe that a page holds, or raise a RecipeError with all mistakes."""
    if not isinstance(page.values, dict):
        page.refuse((), f"holds no sections. Write {', '.join(REQUIRED)}, as recipes/kd.yaml does.")
        raise RecipeError(page.mistakes)
    recipe = _Checker(page).recipe(page.values)
    search = dimensions(page, page.values.get("search"), mistakes_of)
    if page.mistakes:
        raise RecipeError(sorted(page.mistakes, key=lambda mistake: mistake.line or 0))
    assert recipe is not None  # noqa: S101 - for the type checker: no mistakes, so a recipe
    return replace(recipe, search=search)


def mistakes_of(page: Page) -> list[str]:
    """Return the mistakes of a page, one text each; its `search` section is not checked."""
    checked = Page(page.name, page.values)
    _Checker(checked).recipe(page.values)
    return [f"{mistake.where}: {mistake.text}" for mistake in checked.mistakes]


class _Checker(Binder):
    def recipe(self, values: dict[Any, Any]) -> Recipe | None:
        self._check_sections(values)
        goal = self._goal(values)
        section = {name: schema.written_out(name, value) for name, value in values.items()}
        teacher = self._teacher(values.get("teacher"))
        students = [Student("pretrained", {})] if "goal" in values else self._students(values)
        data, training = self._data(section), self._training(section, students)
        after = {name: self._section(name, section, what) for name, what in schema.AFTERWARDS.items()}
        theseus, options = self._theseus(section, teacher), self._options(section, teacher)
        splits = self._made_of_fields(("data",), Splits, data)
        self._origins(section, students, training)
        if data.get("streaming"):
            for where, text in stream_mistakes(data, training, teacher, goal="goal" in section):
                self.page.refuse(where, text)
        generations, allow_pickle = options.pop("generations", 1), options.pop("allow_pickle", False)
        blend = self._objective(
            section.get("objective"),
            has_teacher=section.get("teacher") is not None or generations + len(students) > 2,
            exits=all(s is None or s.kind == "pretrained" or "exits" in s.changes for s in students),
        )
        if self.page.mistakes or None in students or splits is None:
            return None
        return Recipe(
            page=values,
            teacher=teacher,
            student=students[-1],
            load={k: v for k, v in data.items() if k not in Splits.__dataclass_fields__},
            splits=splits,
            objective=blend,
            training=training,
            measurement=Measurement(**after["measure"]) if section.get("measure", {}) is not None else None,
            export=after["export"] if section.get("export") is not None else None,
            assistants=tuple(students[:-1]),
            generations=generations,
            options=options,
            theseus=theseus,
            card=Card(**after["card"]),
            goal=goal,
            allow_pickle=allow_pickle,
        )

    def _check_sections(self, values: Mapping[Any, Any]) -> None:
        """Note sections that are not known, and those that are missing; a goal chooses the student."""
        for name in [name for name in values if name not in SECTIONS]:
            self._unknown((name,), name, "section", SECTIONS)
        for name in [name for name in REQUIRED if name not in values]:
            if name != "student" or "goal" not in values:
                self.page.refuse((), f"lacks the section {name}. Add `{name}:`, as recipes/kd.yaml does.")

    def _goal(self, values: Mapping[Any, Any]) -> Goal | None:
        """Return what a student must keep; None where the page names the student itself."""
        if "goal" not in values:
            return None
        for name in [name for name in schema.WITHOUT_GOAL if values.get(name) is not None]:
            self.page.refuse(
                (name,), "has no place beside `goal:`, which chooses the student. Leave one out."
            )
        teacher = schema.written_out("teacher", values.get("teacher"))
        if not (isinstance(teacher, dict) and teacher.keys() <= {"pretrained", "finetune"}):
            text = "needs one model as the teacher, of which students are made: pretrained or finetune."
            self.page.refuse(("goal",), text)
        for section, name in (("measure", "baseline"), ("training", "push_to_hub")):
            inside = values.get(section)
            if isinstance(inside, dict) and inside.get(name):
                text = "is not done for a goal. Leave it out, and do it with the student that was found."
                self.page.refuse((section, name), text)
        training = values.get("training")
        if isinstance(training, dict) and training.get("max_steps", -1) != -1:
            text = "cannot be shared among trials, which train for parts of epochs. Type num_train_epochs: 3."
            self.page.refuse(("training", "max_steps"), text)
        goal: Goal | None = self._made_of_fields(("goal",), Goal, self._section("goal", values, *schema.GOAL))
        return goal

    def _section(self, name: str, section: Mapping[Any, Any], *targets: schema.Component) -> dict[str, Any]:
        """Return the arguments of a section; none where the page has no such section."""
        return self._bound((name,), section[name], *targets) if name in section else {}

    def _teacher(self, value: Any) -> KindAndArguments | None:
        """Return a mapping with one key, the kind; under it its arguments."""
        plan = schema.written_out("teacher", value)
        if plan is None:
            return None
        named = self._named(("teacher",), plan, "teacher", schema.TEACHERS, _not_one(plan, schema.TEACHERS))
        if named is None:
            return None
        name, arguments = named
        place = ("teacher", name) if isinstance(value, dict) else ("teacher",)
        bound = self._bound(place, arguments, schema.TEACHERS[name])
        if schema.TEACHERS[name].reads_text:
            self._made_of_fields(place, schema.Trusted, bound)
        if name == "finetune":
            self._made_of_fields(place, schema.Finetuning, bound)
        return name, bound

    def _students(self, values: Mapping[Any, Any]) -> list[Any]:
        """Return the assistants and, last, the student; None for one with mistakes."""
        assistants = values.get("assistants") or []
        if not isinstance(assistants, list):
            self.page.refuse(("assistants",), "is a list of students. Type `- shrink: {layers: 4}`.")
            assistants = []
        plans = [self._student(("assistants", i), value) for i, value in enumerate(assistants)]
        return [*plans, self._student(("student",), values["student"]) if "student" in values else None]

    def _student(self, where: Where, value: Any) -> Student | None:
        """Return the kind of student, its arguments, and the cuts that follow."""
        plan = schema.written_out("student", value)
        if plan is None:
            self.page.refuse(where, "is empty. Type student: {shrink: {layers: 3}}.")
            return None
        table = {**schema.STUDENTS, **schema.CHANGES}
        if not isinstance(plan, dict):
            self.page.refuse(where, _not_one(plan, schema.STUDENTS))
            return None
        for name in [name for name in plan if name not in table]:
            self._unknown((*where, name), name, "student", table)
        chosen = [name for name in plan if name in schema.STUDENTS]
        if len(chosen) != 1:
            if all(name in table for name in plan):
                self.page.refuse(where, _not_one(dict.fromkeys(chosen), schema.STUDENTS))
            return None
        bound = {
            name: self._bound((*where, name) if isinstance(value, dict) else where, plan[name], table[name])
            for name in plan
            if name in table
        }
        kind = chosen[0]
        for name in () if schema.STUDENTS[kind].has_attention else schema.CHANGES.keys() & bound.keys():
            text = f"is for students with attention, and a {kind} student has none. Leave it out."
            self.page.refuse((*where, name), text)
        arguments = bound.pop(kind)
        if arguments.get("choose") == "importance" and type(arguments.get("layers")) is not int:
            self.page.refuse((*where, kind), "chooses by importance, and lacks how many. Type layers: 3.")
        fit = arguments.get("fit") if kind == "shrink" else None
        how = "Type fit: true for the training rows, fit: 1000 for some of them, or the path of texts."
        if isinstance(fit, str) and not Path(fit).expanduser().exists():
            self.page.refuse((*where, kind, "fit"), f"there is no file or folder {printable(fit)!r}. {how}")
        elif type(fit) is int and fit < 10:
            self.page.refuse((*where, kind, "fit"), f"{fit} is no number of texts to fit weights to. {how}")
        return Student(kind, arguments, bound)

    def _data(self, section: Mapping[Any, Any]) -> dict[str, Any]:
        """Return the keys of data, with those of `unlabelled` in it."""
        data = self._section("data", section, *schema.DATA)
        unlabelled = schema.written_out("unlabelled", data.get("unlabelled"))
        if isinstance(unlabelled, dict):
            where: Where = ("data", "unlabelled")
            data["unlabelled"] = self._bound(where, unlabelled, schema.UNLABELLED)
            self._made_of_fields(where, schema.Text, data["unlabelled"])
        if isinstance(data.get("augment"), list):
            data["augment"] = [
                self._augmentation(("data", "augment", i), step) for i, step in enumerate(data["augment"])
            ]
        return data

    def _augmentation(self, where: Where, step: Any) -> KindAndArguments | None:
        """Return a name and its arguments."""
        refusal = "is not an augmentation. Type `- delete: {p: 0.1}`, one to a dash."
        named = self._named(where, step, "augmentation", schema.AUGMENTATIONS, refusal)
        if named is None:
            return None
        name, arguments = named
        return name, self._bound((*where, name), arguments, schema.AUGMENTATIONS[name])

    def _theseus(self, section: Mapping[Any, Any], teacher: KindAndArguments | None) -> dict[str, Any] | None:
        """Return arguments of `Theseus`; None where the page has no such section."""
        if "theseus" not in section:
            return None
        chain = section.get("assistants") or section.get("generations")
        if teacher is None or teacher[0] not in ("pretrained", "finetune") or chain:
            self.page.refuse(
                ("theseus",),
                "puts the student's blocks in the places of one teacher's. Name a model under `teacher:`, "
                "and leave assistants and generations out.",
            )
        return self._bound(("theseus",), section["theseus"], *schema.THESEUS)

    def _training(self, section: Mapping[Any, Any], students: Iterable[Student | None]) -> dict[str, Any]:
        training = self._section("training", section, *schema.TRAINING)
        kind = next((s.kind for s in students if s is not None and s.kind in schema.WITHOUT_BLOCKS), None)
        for name in ("activation_checkpointing", "gradient_checkpointing"):
            if kind is not None and training.get(name) is True:
                text = f"computes blocks twice to save memory, and a {kind} student has none. Leave it out."
                self.page.refuse(("training", name), text)
        if "training" in section and training.get("output_dir") in (None, ""):
            self.page.refuse(
                ("training",), "lacks output_dir, where the student is written. Type output_dir: out/kd."
            )
        for name, (lowest, usual) in schema.LOWEST.items():
            value = training.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value < lowest:
                text = f"found {value}, and it starts from {lowest:g}. Usual: {name}: {usual}."
                self.page.refuse(("training", name), text)
        epochs, steps = training.get("num_train_epochs"), training.get("max_steps", -1)
        if epochs == 0 and steps in (-1, 0):
            self.page.refuse(("training", "num_train_epochs"), "found 0, which trains nothing. Type 3.")
        return training

    def _options(self, section: Mapping[Any, Any], teacher: KindAndArguments | None) -> dict[str, Any]:
        """Return the arguments of the trainer beside the sections, and how often a student is trained."""
        options: dict[str, Any] = {}
        kinds = {name: takes.annotation for name, takes in accepted_arguments(schema.TRAINER).items()}
        for name, kind in {**kinds, "generations": "int", "allow_pickle": "bool"}.items():
            if name == "teacher_cache" and section.get(name) is False:
                options[name] = False
            elif section.get(name) is not None:
                options[name] = self._value((name,), section[name], kind)
        generations = options.get("generations", 1)
        if type(generations) is not int:
            options["generations"] = 2  # it is refused already, and more than one was meant
        elif generations < 1:
            self.page.refuse(("generations",), f"found {generations}. Type how often to train: from 1 up.")
        if options.get("teacher_cache") and (teacher is None or schema.TEACHERS[teacher[0]].moves):
            why = "there is none" if teacher is None else f"those of {teacher[0]} change with every step"
            text = f"keeps a teacher's answers, and {why}. Leave it out."
            self.page.refuse(("teacher_cache",), text)
        return options

    def _origins(
        self, section: Mapping[Any, Any], students: Iterable[Student | None], training: Mapping[str, Any]
    ) -> None:
        """Refuse a student where no model is named of which it is made, or whose tokenizer it reads."""
        self._not_over_what_is_read(section, training)
        teacher = section.get("teacher")
        kind, arguments = next(iter(teacher.items()), (None, None)) if isinstance(teacher, dict) else (0, 0)
        named = teacher is not None
        if kind in schema.TEACHERS:
            component = schema.TEACHERS[kind]
            takes = accepted_arguments(component)
            arguments = arguments if isinstance(arguments, dict) else {}
            required = {name for name, parameter in takes.items() if parameter.default is parameter.empty}
            named = any(n in required or arguments.get(n) is not None for n in component.models)
        for student in students:
            if student is None or named or student.arguments.get("source") is not None:
                continue
            is_made = schema.STUDENTS[student.kind].made_of_model
            needs = "is made of one teacher" if is_made else "reads the tokenizer of a teacher's model"
            self.page.refuse(
                ("student",),
                f"{student.kind!r} {needs}, and there is none. Say of which model: "
                f"`{student.kind}: {{source: …}}`, or name one under `teacher:`.",
            )

    def _not_over_what_is_read(self, section: Mapping[Any, Any], training: Mapping[str, Any]) -> None:
        """Refuse a model as teacher or origin that the run would write over."""
        out = training.get("output_dir")
        if not isinstance(out, str):
            return
        for name in ("teacher", "student", "assistants"):
            for where, path in strings_in(section.get(name), (name,)):
                tuned = name == "teacher" and "finetune" in where
                if written_by(path, out, teacher=tuned):
                    self.page.refuse(
                        where[:2],
                        f"{printable(path)} is a folder that this run writes, and what is read there would "
                        "be lost. Type output_dir: ANOTHER.",
                    )

    def _objective(self, terms: Any, *, has_teacher: bool, exits: bool) -> Any:
        """Return the blend of a list of terms; "recommended" where there is none, but a teacher."""
        if terms is None and not has_teacher:
            return None
        if terms in (None, RECOMMENDED):
            if not has_teacher:
                self._refuse_without_teacher()
            return RECOMMENDED
        if not isinstance(terms, list) or not terms:
            self.page.refuse(
                ("objective",),
                "is `recommended` or a list of terms. Type `- kd: {weight: 0.5, temperature: 4}`.",
            )
            return None
        blends = [self._term(("objective", i), term, exits=exits) for i, term in enumerate(terms)]
        if any(one is None for one in blends):
            return None
        blend = reduce(add, blends)
        for moment in moments(blend._written):
            before = len(self.page.mistakes)
            self._made(("objective",), blend.set_progress, moment)
            if len(self.page.mistakes) > before:
                return None
        blend.set_progress(0.0)
        if blend.needs_teacher and not has_teacher:
            self._refuse_without_teacher()
        return blend

    def _refuse_without_teacher(self) -> None:
        self.page.refuse(
            ("objective",), "learns from a teacher, and there is none. Name one under `teacher:`."
        )

    def _term(self, where: Where, term: Any, *, exits: bool) -> Any:
        """Return the weight and objective of {kd: {weight: 0.5, temperature: 4}}."""
        from hfdistill.objectives import registered  # loads torch
        from hfdistill.objectives.exits import ExitObjective

        refusal = "is not a term. Type `- kd: {weight: 0.5, temperature: 4}`, one term to a dash."
        named = self._named(where, term, "objective", registered(), refusal)
        if named is None:
            return None
        name, written = named
        place = (*where, name)
        cls = registered()[name]
        if issubclass(cls, ExitObjective) and not exits:
            self.page.refuse(
                place,
                "learns at exits, and the student has none. Add `exits: {layers: all}` under `student:`.",
            )
            return None
        weight = inspect.Parameter(
            "weight", inspect.Parameter.KEYWORD_ONLY, default=1.0, annotation="float | Schedule"
        )
        before = len(self.page.mistakes)
        values = self._arguments(place, written, {"weight": weight, **parameters_by_inspection(cls)})
        share = values.pop("weight", 1.0) if values else 1.0
        if len(self.page.mistakes) > before:
            return None
        return self._made(place, lambda: share * cls(**values))


def _not_one(value: Any, table: Iterable[str]) -> str:
    content = f"{len(value)} keys" if isinstance(value, dict) else type(value).__name__
    return f"holds one kind and its arguments, found {content}. {hint('', table)}"


_DRAWN = ("train_rows", "labelled_rows", "unlabelled", "augment", "fresh_copies", "holdout")
"""Keys of `data` that draw among all rows, or add to them."""


def stream_mistakes(
    data: Mapping[str, Any],
    training: Mapping[str, Any],
    teacher: tuple[str, dict[str, Any]] | None,
    *,
    goal: bool,
) -> Iterator[tuple[Where, str]]:
    """Yield where a page with `streaming: true` asks for too much, and why with what to type."""
    steps = training.get("max_steps", -1)
    if isinstance(steps, int) and steps <= 0:
        yield (
            ("training",),
            "lacks max_steps: the rows of a stream cannot be counted, and the learning rate has to know the "
            "last step. Type max_steps: 10000, rows * epochs / rows a step.",
        )
    for name in _DRAWN:
        if data.get(name):
            text = "needs all rows, and `streaming: true` reads them one after the other. Leave one out."
            yield ("data", name), text
    if goal:
        yield ("goal",), "compares students on parts of all rows. Leave streaming out of `data:`."
    kind = None if teacher is None else teacher[0]
    if kind == "finetune":
        yield (
            ("teacher", kind),
            "is trained in epochs of rows in memory. Fine-tune it first, by a page of its own with `teacher: "
            "null` and `streaming: true`, and name its folder: `teacher: out/teacher/student`.",
        )
    if kind is not None and schema.TEACHERS[kind].reads_text:
        text = "is asked about every text before the first step. Leave streaming out of `data:`."
        yield ("teacher", kind), text
