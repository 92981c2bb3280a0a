"""What a trained student is worth: measured, told on its card, exported, published, and said at the end."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from datasets import Dataset

from hfdistill.data.label_columns import with_listed_classes
from hfdistill.evaluation.card import write_card
from hfdistill.evaluation.exit_curve import exit_curve
from hfdistill.evaluation.measure import STANDARD, measure
from hfdistill.evaluation.models import Contender
from hfdistill.evaluation.nothing_to_teach import doubt_of_teacher
from hfdistill.evaluation.plots import write_plots
from hfdistill.evaluation.report import Report, counted
from hfdistill.exporters.gate import export
from hfdistill.files.hub import push_to_hub
from hfdistill.files.markdown import as_yaml
from hfdistill.files.plain_data import public_name, whole_file, write_atomically, write_json
from hfdistill.recipe import schema
from hfdistill.recipe.page_facts import by_name
from hfdistill.recipe.run import Run
from hfdistill.teachers.text.files import FileTeacher
from hfdistill.trainer import DistillationTrainer

SMOKE_DROP = 200.0
"""Points; a correlation that turns round loses as many hundredths."""
HELD_OUT_FILE = "held_out.parquet"
READING = ("encoding", "delimiter", "quotes", "on_bad_row")
"""What a page says of how text files are read."""


class Outcome:
    """Trains a run's student and baseline, measures them, and writes report, card, plots and export."""

    def __init__(self, run: Run) -> None:
        self.run, self.recipe, self.args = run, run.recipe, run.args
        self.onnx = Path(run.args.output_dir, "onnx")

    def report(self) -> Report | None:
        """Train the student, and measure what it is worth.

        Returns:
            The report on the main process, where something is measured; else None.
        """
        run, recipe = self.run, self.recipe
        trained = run.train_student()
        self.folder = Path(trained.args.output_dir)
        self.record = run.records["student"]
        self.page = self.record.trained_page()
        self.exports = run.rows.task != "token" and not getattr(type(trained.model), "no_onnx", "")
        if trained.is_world_process_zero():
            write_atomically(self.folder / "recipe.yaml", as_yaml(self.page))
        baseline = None
        if recipe.measurement is not None and recipe.measurement.baseline:
            baseline = run.train_baseline()
        if not trained.is_world_process_zero():
            return None
        self._tell_untrained()
        self.held_out = self._save_held_out()
        self.teacher = self._measured_teacher()
        self.teacher_folder = self.teacher if isinstance(self.teacher, str) else None
        report = None if recipe.measurement is None else self._measured(trained, baseline)
        if recipe.export is not None:
            self._exported()
        if run.repository:
            onnx = self.onnx if recipe.export is not None else None
            options = {"revision": self.args.hub_revision, "token": self.args.hub_token}
            print(push_to_hub(self.folder, run.repository, onnx=onnx, **options))
        if report is not None:
            print(report.table())
        self._tell_what_is_next(report, baseline)
        return report

    def _tell_untrained(self) -> None:
        """Warn of settings of the page that trained nothing, since every model was finished before."""
        if differ := self.record.untrained():
            places = ", ".join(f"{place} {value}" for place, value in differ.items())
            self.run.terminal.line(
                f"nothing was trained by what this page changes ({places}): the student was finished before. "
                "recipe.yaml and the card say what it was trained by. To train it anew, type another "
                "training.output_dir."
            )

    def _save_held_out(self) -> Path | None:
        """Write the rows that are measured on to a file, unless they are a whole split; return its path."""
        rows = self.run.rows
        if not rows.is_drawn or self.run.smoke:
            return None
        path = Path(self.args.output_dir, HELD_OUT_FILE)
        with whole_file(path) as stream:
            with_listed_classes(rows.evaluation).to_parquet(stream)
        return path

    def _beside(self, teacher: Any) -> Any:
        """Return the teacher with the names and the label map that the page gives for its classes."""
        _, arguments = self.recipe.teacher or (None, {})
        names = arguments.get("label_names") if teacher == self.run.source else None
        label_map = self.recipe.options.get("label_map")
        if not isinstance(teacher, str) or (names is None and label_map is None):
            return teacher
        return Contender(teacher, label_names=names, label_map=label_map)

    def _measured_teacher(self) -> Any:
        """Return what the student is measured beside; none where answers in a file lack some of the rows."""
        teacher = self.run.who_taught(self.folder)
        if not isinstance(teacher, FileTeacher) or teacher.answers_all(self.run.rows.evaluation):
            return teacher
        self.run.terminal.line(
            f"{teacher.label} does not answer every row that is measured on: the teacher is not measured."
        )
        return None

    def _measured(self, trained: DistillationTrainer, baseline: str | None) -> Report:
        rows = self.run.rows
        self.run.terminal.heading(f"measure: {len(rows.evaluation):,} rows")
        models = {"teacher": self._beside(self.teacher), "baseline": baseline}
        report = measured(self.run, self.folder, rows.evaluation, notes=self._notes(trained), **models)
        report.save(self.folder / "report.json")
        write_plots(self.folder, report, history=trained.state.log_history)
        name = self.run.repository or Path(self.args.output_dir).absolute().name
        write_card_of(
            self.run, self.folder, report, base_model=self._base(), name=name, origin=self._origin()
        )
        timed = report.student.speed is not None
        if "exits" in self.recipe.student.changes and timed and rows.task == "single_label":
            curve = exit_curve(self.folder, rows.evaluation, max_length=read_length(self.run))
            write_json(self.folder / "exit_curve.json", [dataclasses.asdict(point) for point in curve])
            print(*curve, sep="\n")
        return report

    def _notes(self, trained: DistillationTrainer) -> dict[str, Any]:
        """Return the notes on the run that the report keeps."""
        rows, training = self.run.rows, self.page.get("training", {})
        notes: dict[str, Any] = {"objective": str(trained.objective), "recipe": self.page}
        if rows.stream is None:
            notes["rows"] = len(rows.train)
        if len(rows.labelled) < len(rows.train):
            notes["labelled"] = len(rows.labelled)
        if self.run.recommended.is_on:
            notes["recommended"] = dict(self.run.recommended.choices)
        if self.run.rounding:
            notes["bfloat16"] = self.run.rounding
        parts = [sentence for record in self.run.records.values() for sentence in record.earlier_parts()]
        others = [
            f"{stage}: {place} {value}"
            for stage, record in self.run.records.items()
            if stage != "student"
            for place, value in record.untrained().items()
        ]
        if parts or others:
            notes["trained otherwise"] = [*parts, *others]
        if self.held_out is not None:
            notes["measured again by"] = self._measure_command("student", ["--data", HELD_OUT_FILE])
        return {**notes, "seed": training.get("seed", self.args.seed)}

    def _data_words(self, held_out: Path | None) -> list[str]:
        """Return the words of a command that name the rows which were measured on."""
        if held_out is not None:
            return ["--data", str(held_out)]
        rows = self.run.rows
        words = self._load_words("text", "text_pair", "label", "config", "label_names", *READING)
        split = ["--split", str(rows.evaluation.split)] if rows.evaluation.split else []
        return ["--data", str(self.recipe.load["source"]), *split, *words]

    def _load_words(self, *names: str) -> list[str]:
        """Return how the page reads its data, as flags: --text COLUMN."""
        load = self.recipe.load
        return [word for name in names for word in _flag(name, load.get(name))]

    def _length_words(self) -> list[str]:
        """Return the flag for how many tokens of a row are read."""
        length = read_length(self.run)
        return ["--max-length", str(length)] if length else []

    def _measure_command(self, student: str, data: list[str]) -> str:
        return shlex.join(["hfdistill", "measure", student, *data, *self._length_words()])

    def _base(self) -> str:
        """Return what the student was made of, for its card."""
        _, arguments = self.recipe.teacher or (None, {})
        named = (self.recipe.student.arguments.get("source"), arguments.get("encoder"), self.run.origin)
        return next((str(name) for name in named if name is not None), "a model of its own")

    def _origin(self) -> str:
        """Return how the student came to be, in a card's words; `{base}` stands for what it was made of."""
        recipe = self.recipe
        between = recipe.generations - 1 + len(recipe.assistants)
        steps = f", by way of {counted(between, 'student')} in between" if between else ""
        kind, arguments = recipe.teacher or (None, {})
        if kind is not None and schema.TEACHERS[kind].reads_text:
            return self._origin_of_answers(kind, arguments, steps)
        if kind == "finetune":
            return f"It was distilled from {{base}}, fine-tuned on the same labels first{steps},"
        if kind == "ensemble":
            names = [public_name(str(member)) for member in by_name(arguments.get("members"))[1]]
            return f"It was made of {{base}} and distilled from an ensemble of {', '.join(names)}{steps}"
        if kind == "peer":
            return f"It was made of {{base}} and learned beside a second student, each from the other{steps}"
        if kind == "ema":
            return f"It was made of {{base}} and learned from the moving average of its own weights{steps}"
        if kind is None and steps:
            return f"It was made of {{base}} and learned from students like it{steps}"
        if kind is None:
            return "It was made of {base} and trained on labels alone, without a teacher,"
        return f"It was distilled from {{base}}{steps}"

    def _origin_of_answers(self, kind: str, arguments: dict[str, Any], steps: str) -> str:
        """Say how a student learned from answers to texts, and whether a person labelled any."""
        rows = self.run.rows
        named = arguments.get("encoder") or arguments.get("model") or arguments.get("file")
        model = public_name(str(named))
        who = {
            "few_shot": f"class names and few examples by embeddings of {model}",
            "zero_shot": f"the zero-shot answers of {model}",
            "prompted": f"the answers of {model} to a prompt",
            "answers": f"the answers in {model}",
        }[kind]
        labelled = len(rows.labelled) if "label" in rows.labelled.column_names else 0
        by = f"a person labelled {labelled:,} of its {len(rows.train):,} training rows"
        if not labelled:
            by = "no person labelled its training rows"
            who = who.replace("class names and few examples", "class names")
        return f"It was made of {{base}} and distilled from {who}{steps} ({by})"

    def _exported(self) -> None:
        options = {"max_length": self.args.max_length, **(self.recipe.export or {})}
        if self.run.smoke:  # two steps teach nothing that could be lost
            options |= {"speed": False, "max_drop": SMOKE_DROP}
        self.run.terminal.heading("export: float32 and int8, compared with the student on the same rows")
        report = export(
            str(self.folder),
            self.onnx,
            data=self.run.rows.evaluation,
            teacher=self._beside(self.teacher_folder),
            calibration=self.run.rows.train,
            **options,
        )
        print(report.table())

    def _tell_what_is_next(self, report: Report | None, baseline: str | None) -> None:
        """Print what was made, where it is, and what to type next."""
        terminal, student = self.run.terminal, str(self.folder)
        line, command = terminal.line, terminal.command
        if self.run.smoke:
            line("It runs: two steps on a few rows. Now type the same without --smoke.")
            return
        line(f"The student is in {student}, with its card (README.md), report.json, plots and recipe.yaml.")
        if report is not None and (warning := doubt_of_teacher(report)):
            line(f"! {warning}")
        data = self._data_words(self.held_out)
        beside = [f"--teacher {shlex.quote(self.teacher_folder)}"] if self.teacher_folder else []
        beside += [f"--baseline {shlex.quote(baseline)}"] if baseline else []
        if self.held_out is not None:
            line(f"The rows that it was measured on are in {self.held_out}.")
        line("Next:")
        columns = [*self._load_words("text", "text_pair", *READING), *self._length_words()]
        command(shlex.join(["hfdistill", "predict", student, "FILE.csv", *columns, "--out", "labelled.csv"]))
        command(" ".join([self._measure_command(student, data), *beside]))
        if self.recipe.export is None and self.exports:
            command(
                shlex.join(["hfdistill", "export", student, str(self.onnx), *data, *self._length_words()])
            )
        command(f"transformers.pipeline({self._pipeline(student, report)})  # in Python")

    def _pipeline(self, student: str, report: Report | None) -> str:
        """Return the arguments of the pipeline that reads as much of a text as was measured."""
        if self.run.rows.task == "token":  # which cuts by itself, and takes no length
            return f"'token-classification', model={student!r}"
        length = self.args.max_length if report is None else report.data.max_length
        cut = "" if length is None else f", max_length={length}"
        return f"'text-classification', model={student!r}, truncation=True{cut}"


def read_length(run: Run) -> int | None:
    """Return how many tokens of a text are read when a run's student is measured; None for all."""
    plan = run.recipe.measurement
    return (plan and plan.max_length) or run.args.max_length


def measured(run: Run, folder: Path, rows: Dataset, *, notes: dict[str, Any], **models: Any) -> Report:
    """Measure a run's student on some rows, as its page says, with the name of the page's data."""
    plan = run.recipe.measurement
    speed = STANDARD if (plan is None or plan.speed) and not run.smoke else None
    report = measure(str(folder), rows, max_length=read_length(run), speed=speed, notes=notes, **models)
    name = report.data.name or public_name(str(run.recipe.load["source"]))
    return dataclasses.replace(report, data=dataclasses.replace(report.data, name=name))


def write_card_of(run: Run, folder: Path, report: Report, *, base_model: str, name: str, origin: str) -> None:
    """Write the card of a run's student, with what its page says under `card`; see `write_card`."""
    card = run.recipe.card
    write_card(
        folder,
        report,
        base_model=base_model,
        dataset=str(run.recipe.load["source"]),
        dataset_license=card.dataset_license,
        license=card.license,
        model_name=card.name or name,
        metadata={} if card.language is None else {"language": card.language},
        origin=origin,
    )


def _flag(name: str, value: Any) -> list[str]:
    """Return a key of a page as a flag of a command; nothing for None."""
    flag = f"--{name.replace('_', '-')}"
    if value is None:
        return []
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if name == "label_names":
        return [flag, *map(str, value)]
    return [word for each in ([value] if isinstance(value, str) else value) for word in (flag, str(each))]
