"""Candidates are made, trained for a while, and compared with their teacher on the rows to choose on."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback

from hfdistill.evaluation.metrics.gold_labels import gold
from hfdistill.evaluation.metrics.scores import Array
from hfdistill.evaluation.models import Contender, load_models
from hfdistill.evaluation.predictions import checked, evaluating, predict
from hfdistill.exporters.bench import of_many_sizes
from hfdistill.files.checkpoint import newest_checkpoint
from hfdistill.files.plain_data import build, read_json, whole_folder, write_json
from hfdistill.network.label_space import match_labels
from hfdistill.network.task import task_kind
from hfdistill.recipe.check import check
from hfdistill.recipe.goal.candidates import Candidate
from hfdistill.recipe.goal.evidence import Evidence, evidence
from hfdistill.recipe.goal.sizing import MAX_BYTES, Size, in_form, load
from hfdistill.recipe.goal.target import LEARNING_RATE, Goal
from hfdistill.recipe.page import Page
from hfdistill.recipe.run import Run
from hfdistill.recipe.schema import Student
from hfdistill.students.refit import Refit


@dataclass(frozen=True)
class Look:
    """What was seen of a candidate at the end of a rung.

    Args:
        rung: its number.
        form: in which it ran, as in `Size`.
        pruned: whether its vocabulary was cut.
        evidence: how much it keeps.
        seconds: of making, training and looking, for this rung.
        share: of the whole training that it had.
        epochs: the same in epochs; 0 where it was not trained.
        metric: what was compared.
    """

    rung: int
    form: str
    pruned: bool
    evidence: Evidence
    seconds: float
    share: float
    epochs: float
    metric: str


class Judge:
    """The teacher's answers to the rows to choose on, and what students keep of them.

    Raises:
        ValueError: the goal does not go with the task or the rows, or the teacher has nothing to teach.
    """

    def __init__(self, rows: Dataset, teacher: Contender, goal: Goal, *, max_length: int | None) -> None:
        self.rows, self.max_length = rows, max_length
        models, data = load_models({"teacher": teacher}, rows, None, max_length)
        self.config = config = models["teacher"].config
        self.task = task_kind(config)
        goal.metric_of(self.task, labelled="label" in rows.column_names)  # refuses labels of words
        self.labels, self.known = gold(data, config, {})
        self.metric = goal.metric_of(self.task, labelled=bool(self.known.any()))
        with evaluating(models):
            self.logits = checked(predict(models["teacher"]), models["teacher"])
        self._evidence(self.logits)  # refuses a teacher that has nothing to teach

    def evidence(self, folder: Path, form: str) -> Evidence:
        """Compare the student in a folder, as it is or in the form in which it is to run."""
        network = load(Contender(str(folder)), self.rows, self.max_length)
        network = dataclasses.replace(network, columns=match_labels(self.config, network.config))
        with TemporaryDirectory() as scratch:
            student, _ = in_form(network, form, Path(scratch))
            batches = list(of_many_sizes(len(self.rows))) if form == "int8" else None
            with evaluating({"student": student}):
                logits = checked(predict(student, batches), student)
        return self._evidence(logits)

    def _evidence(self, logits: Array) -> Evidence:
        if self.metric == "agreement":
            return evidence(self.task, self.metric, logits, self.logits, None)
        known = self.known
        return evidence(self.task, self.metric, logits[known], self.logits[known], self.labels[known])


class Trials:
    """The candidates' folders: what they begin as, how far they are trained, and what was seen of them.

    Everything in them is whole or absent, so that a search that was killed goes on there.

    Args:
        run: of the page, its teacher made, with the rows to choose on as its evaluation.
        page: as every trial runs it.
        folder: holds a folder for each candidate.
        judge: compares them with the teacher.
        texts: training texts that cuts are fitted to.
    """

    def __init__(self, run: Run, page: Mapping[str, Any], folder: Path, judge: Judge, *, texts: int) -> None:
        self.run, self.page, self.folder, self.judge, self.texts = run, page, folder, judge, texts
        # Those of the training texts first, then the most frequent: a few texts lack words of the next ones.
        self.tokens = int(run.teacher.config.vocab_size) // 2

    def make(self, candidate: Candidate, pruned: bool, *, fitted: bool = False) -> tuple[Any, Any]:
        """Return a candidate's model and tokenizer, not trained.

        One that is not cut is kept as well: its table of words takes a pass of the teacher.
        """
        arguments = dict(candidate.plan.arguments)
        rows, length = self.run.rows.train, self.run.args.max_length
        if candidate.is_cut:
            fits = fitted and candidate.fits
            arguments["fit"] = Refit(rows, rows=self.texts, max_length=length) if fits else False
        changes = {"prune_vocabulary": {"keep": self.tokens}} if pruned else {}
        made = self.run.student(Student(candidate.plan.kind, arguments, changes))
        if not candidate.is_cut:
            self._keep(made, self._start(candidate, pruned))
        return made

    def look(self, candidate: Candidate, size: Size, rung: int, share: float) -> Look:
        """Train a candidate up to a share of its whole training, and compare it with the teacher.

        A student that is drawn at random gets no training with a share of 0, too.
        """
        for look in self.looks(candidate):
            if (look.rung, look.form, look.pruned) == (rung, size.form, size.pruned):
                return look
        started = time.monotonic()
        begins = self._begin(candidate, size.pruned)
        student = begins if share == 0 else self._train(candidate, begins, share)
        look = Look(
            rung,
            size.form,
            size.pruned,
            self.judge.evidence(student, size.form),
            round(time.monotonic() - started, 1),
            share,
            round(share * self.epochs(candidate), 2),
            self.judge.metric,
        )
        every = [dataclasses.asdict(each) for each in (*self.looks(candidate), look)]
        write_json(self.of(candidate) / "looks.json", {"looks": every})
        return look

    def looks(self, candidate: Candidate) -> tuple[Look, ...]:
        """Return what was seen of a candidate so far."""
        path = self.of(candidate) / "looks.json"
        if not path.is_file():
            return ()
        content: dict[str, tuple[Look, ...]]
        content = build(dict[str, tuple[Look, ...]], read_json(path, limit=MAX_BYTES), path.name)
        return content["looks"]

    def of(self, candidate: Candidate) -> Path:
        """Return a candidate's folder."""
        return self.folder / candidate.slug

    def epochs(self, candidate: Candidate) -> float:
        """Return the epochs of a candidate's whole training."""
        return float(self.run.args.num_train_epochs) * candidate.training["epochs"]

    def student(self, candidate: Candidate, look: Look) -> Path:
        """Return the folder of a candidate's model, as it was looked at.

        It is made anew where it is gone, or was trained further since: seeds and rows are the same.
        """
        begins = self._begin(candidate, look.pruned)
        if not look.share:
            return begins
        if any(later.share > look.share for later in self.looks(candidate)):
            shutil.rmtree(_trained(begins), ignore_errors=True)
        return self._train(candidate, begins, look.share)

    def forget(self, candidate: Candidate) -> None:
        """Remove a candidate's weights; what was measured and seen stays."""
        for folder in (path for path in self.of(candidate).glob("*") if path.is_dir()):
            shutil.rmtree(folder)

    def _begin(self, candidate: Candidate, pruned: bool) -> Path:
        """Return the folder of a candidate that is not trained; it is made once."""
        folder = self._start(candidate, pruned)
        if not folder.is_dir():
            made = self.make(candidate, pruned, fitted=True)
            if candidate.is_cut:
                self._keep(made, folder)
        return folder

    def _keep(self, made: tuple[Any, Any], folder: Path) -> None:
        with whole_folder(folder) as staged:
            for part in made:
                part.save_pretrained(staged)

    def _train(self, candidate: Candidate, begins: Path, share: float) -> Path:
        """Train a candidate on, up to a share of its whole training."""
        page: dict[str, Any] = {**self.page, "student": {"pretrained": {"source": str(begins)}}}
        page["training"] = {
            **self.page["training"],
            "num_train_epochs": self.epochs(candidate),
            "output_dir": str(_trained(begins)),
            "eval_strategy": "no",
            "save_strategy": "epoch",
            "save_total_limit": 1,
        }
        rate = self.page["training"].get("learning_rate", LEARNING_RATE)
        page["training"]["learning_rate"] = rate * candidate.training["rate"]
        folder = Path(page["training"]["output_dir"], "student")
        if not _is_as_far(newest_checkpoint(folder), share):
            run = Run(check(Page("goal", page)), rows=self.run.rows, speaks=False)
            run.train_student(callbacks=[StopAt(share)])
        return Path(newest_checkpoint(folder) or folder)

    def _start(self, candidate: Candidate, pruned: bool) -> Path:
        return self.of(candidate) / ("start-pruned" if pruned else "start")


def _trained(begins: Path) -> Path:
    """Return the folder of a candidate's training, beside that of what it begins with."""
    return begins.with_name(begins.name.replace("start", "trained"))


class StopAt(TrainerCallback):
    """Ends a training at a share of its steps, after a checkpoint from which it resumes exactly."""

    def __init__(self, share: float) -> None:
        self.share = share

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Stop once the share is reached."""
        if state.global_step >= _steps(self.share, state.max_steps):
            control.should_training_stop = control.should_save = True


def _steps(share: float, of: int) -> int:
    return math.ceil(share * of - 1e-6)


def _is_as_far(checkpoint: str | None, share: float) -> bool:
    """Return whether a checkpoint has reached a share of its training's steps."""
    if checkpoint is None:
        return False
    state = read_json(Path(checkpoint, "trainer_state.json"), limit=100 * MAX_BYTES)
    return bool(state["global_step"] >= _steps(share, state["max_steps"]))
