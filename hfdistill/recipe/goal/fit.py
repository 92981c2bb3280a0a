"""Searches for a student that meets a goal: sizes first, then trials rung by rung, then the outcome."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from hfdistill.evaluation.models import Contender
from hfdistill.evaluation.report import TITLES, counted, show
from hfdistill.files.plain_data import read_json, write_json
from hfdistill.files.progress import duration
from hfdistill.files.run_lock import only_run
from hfdistill.network.fingerprints import fingerprint_of
from hfdistill.network.foreign_code import allowing_pickles
from hfdistill.objectives import Objective
from hfdistill.recipe.check import Recipe, check, teacher_kind
from hfdistill.recipe.goal.candidates import Candidate, candidates
from hfdistill.recipe.goal.outcome import Choice, FitResult, Outcome, Tried
from hfdistill.recipe.goal.sizing import MAX_BYTES, Scale
from hfdistill.recipe.goal.trials import Judge, Trials
from hfdistill.recipe.page import Page
from hfdistill.recipe.page_facts import deciding_facts
from hfdistill.recipe.rehearsal import rehearse
from hfdistill.recipe.rows import Rows, read_rows
from hfdistill.recipe.run import Run, arguments, trial_page
from hfdistill.recipe.schema import STUDENTS
from hfdistill.recipe.terminal import Terminal, quiet_libraries

ETA = 3
"""The best third goes on, with three times the training."""
FACTS, WEIGHTS = "facts.json", "the teacher's weights"
LENGTH = ("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps")
"""Training arguments on which a trial depends, beside those on which any checkpoint does."""


def fit_recipe(recipe: Recipe) -> FitResult:
    """Find a student that meets a page's goal, and leave it in training.output_dir.

    See `fit_student`.

    Raises:
        ValueError: before anything is trained: no candidate is within the limits (with what each measures),
            the metric is not the task's, too few rows, several processes, or trials of another page there.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("A goal is searched by trials one after the other. Start it on one process.")
    out = Path(recipe.training["output_dir"])
    with only_run(out), quiet_libraries(), allowing_pickles(recipe.allow_pickle):
        return _Search(recipe).result()


def check_goal(recipe: Recipe) -> Rows:
    """Return the rows of a page with a goal: to learn from, to choose on and to report."""
    assert recipe.goal is not None  # noqa: S101 - whoever asks has looked
    seed = arguments(recipe).seed
    rows = read_rows(recipe.load, recipe.splits, seed=seed, choosing=recipe.goal.choose)
    recipe.goal.metric_of(rows.task, labelled="label" in rows.labelled.column_names)
    return rows


class _Search:
    """One search: the rows and the teacher, then sizes, rungs and the outcome."""

    def __init__(self, recipe: Recipe) -> None:
        assert recipe.goal is not None  # noqa: S101 - whoever starts a search has looked
        self.goal, self.started = recipe.goal, time.monotonic()
        self.out = Path(recipe.training["output_dir"])
        self.folder = self.out / "goal"
        self.rows = check_goal(recipe)
        assert self.rows.choosing is not None  # noqa: S101 - asked for
        self.recipe = recipe = _with_objective(recipe, self.rows)
        # Nothing that is trained or chosen sees the rows that are reported, not even to log a loss.
        inner = replace(self.rows, evaluation=self.rows.choosing, choosing=None, is_drawn=True)
        self.run = Run(recipe, rows=inner)
        self.terminal: Terminal = self.run.terminal
        self.terminal.phases = (teacher_kind(recipe) == "finetune") + 2 + 3  # sizes, measure; three rungs
        self.records: dict[str, Tried] = {}

    def result(self) -> FitResult:
        """Search, and measure what was chosen."""
        self._prepare()
        self._measure_sizes()
        choice = self._choose()
        tried = tuple(self.records.values())
        found = Outcome(self.run, self.goal, self.trials, choice, tried, self.rows, self.teacher())
        return found.result()

    def teacher(self) -> Contender:
        """Return the teacher as it is measured, with the names that the page gives to its classes."""
        assert self.recipe.teacher is not None and self.run.source is not None  # noqa: S101, PT018
        return Contender(self.run.source, label_names=self.recipe.teacher[1].get("label_names"))

    def _prepare(self) -> None:
        """Check what can be checked beforehand, make the teacher, and let it answer the rows to choose on."""
        run, rows = self.run, self.rows
        rehearse(run)
        self.terminal.line(
            f"{counted(len(rows.evaluation), 'row')} for the report alone, on which nothing is chosen"
        )
        self._refuse_other_page()
        run.prepare_teacher()
        self._refuse_other_page(weights=fingerprint_of(run.teacher))
        self.judge = Judge(run.rows.evaluation, self.teacher(), self.goal, max_length=run.args.max_length)
        page = trial_page({k: v for k, v in self.recipe.page.items() if k != "goal"}, run, self.folder)
        self.trials = Trials(run, page, self.folder, self.judge, texts=self.goal.texts)

    def _refuse_other_page(self, *, weights: str | None = None) -> None:
        """Refuse trials that another page left: they say nothing about this one. Limits may change.

        `weights` is a fingerprint of the teacher, which may lie where another one lay; None until it is made.
        """
        path, args = self.folder / FACTS, self.run.args
        facts = deciding_facts(self.recipe.page, self.run.rows)
        facts |= {f"goal.{n}": getattr(self.goal, n) for n in ("choose", "metric", "texts")}
        facts |= {f"training.{n}": getattr(args, n) for n in LENGTH}
        chosen_on = replace(self.run.rows, train=self.run.rows.evaluation)
        facts["the rows to choose on"] = chosen_on.fingerprint()
        before = read_json(path, limit=MAX_BYTES) if path.is_file() else {**facts, WEIGHTS: weights}
        facts[WEIGHTS] = before.get(WEIGHTS) if weights is None else weights
        changed = sorted(name for name in {**before, **facts} if before.get(name) != facts.get(name))
        if changed:
            raise ValueError(
                f"{self.folder} holds the trials of another page ({', '.join(changed)} differ). Name another "
                "training.output_dir, or delete that folder."
            )
        if weights is not None:
            write_json(path, facts)

    def _measure_sizes(self) -> None:
        """Measure every candidate untrained."""
        every = self._that_can_learn(candidates(self.run.teacher, self.goal.candidates))
        self.terminal.heading(
            f"sizes: {counted(len(every), 'candidate')}, untrained, for {self.goal.limits()}"
        )
        scale = Scale(
            self.goal, self.run.rows.evaluation, self.trials.make, max_length=self.run.args.max_length
        )
        failures: list[str] = []
        for candidate in every:
            try:
                sizes = scale.sizes(candidate, self.trials.of(candidate))
            except (ValueError, TypeError) as error:
                self.trials.forget(candidate)
                failures.append(f"{candidate.name}: cannot be made ({error})")
                self.terminal.line(failures[-1], indent=2)
                continue
            tried = Tried(candidate, sizes, sizes.best(self.goal))
            self.records[candidate.name] = tried
            if tried.size is None:
                self.trials.forget(candidate)
            words = str(tried.size) if tried.size else f"{sizes.nearest()}: misses the limits, is not trained"
            self.terminal.line(f"{candidate.name}: {words}", indent=2)
        if not self.records:
            raise ValueError(
                "This teacher has no student of the kinds that are asked for. Type candidates: [static, cnn, "
                "bilstm], or leave candidates out." + "".join(f" ({failure})" for failure in failures)
            )
        if not self.admitted():
            lines = [f"[{name}: {tried.sizes}]" for name, tried in self.records.items()]
            notes = dict.fromkeys(t.sizes.note for t in self.records.values() if t.sizes.note)
            raise ValueError(
                f"No candidate is within {self.goal.limits()}, so none was trained. Measured here: "
                f"{', '.join(lines)}. Allow more, or start from a smaller teacher."
                + "".join(f" ({note})" for note in notes)
            )

    def _that_can_learn(self, every: list[Candidate]) -> list[Candidate]:
        """Leave out students without layers where a term compares layers."""
        terms = getattr(self.recipe.objective, "terms", ())  # the recommended one suits itself to the student
        inside = [term for term in terms if type(term).taps is not Objective.taps]
        able = [c for c in every if not inside or STUDENTS[c.plan.kind].has_attention]
        if every and not able:
            raise ValueError(
                f"{inside[0]} compares layers, and no candidate has any. Type candidates: [layers], or leave "
                "objective out."
            )
        for candidate in [candidate for candidate in every if candidate not in able]:
            self.terminal.line(f"{candidate.name}: left out, {inside[0]} compares layers", indent=2)
        return able

    def admitted(self) -> list[Tried]:
        """Return the candidates within the limits, the fastest first."""
        inside = [(tried.size, tried) for tried in self.records.values() if tried.size is not None]
        return [tried for _, tried in sorted(inside, key=lambda pair: (pair[0].ms or 0.0, pair[0].mb))]

    def _choose(self) -> Choice:
        """Try candidates rung by rung, until one is proven to meet the goal or none is left.

        The first rung begins with the fastest, since the first that is proven is what was asked for at the
        lowest price; later ones begin with the best so far.
        """
        order = self.admitted()
        plan = rungs(len(order))
        self.looks = looks(plan)
        with self._bar(self.looks) as bar:
            for rung in plan:
                order = order[: rung.candidates]
                self._announce(rung, len(order))
                for place, tried in enumerate(order):
                    bar.set_description(f"rung {rung.number + 1}/{len(plan)}, {tried.candidate.name}")
                    order[place] = tried = self._looked_at(tried, rung)
                    bar.update()
                    self.terminal.line(self._line(tried), indent=2)
                    if tried.evidence.low >= self.goal.share:
                        return Choice(tried, tried.looks[-1], "kept")
                order.sort(key=lambda tried: -tried.evidence.kept)
                for tried in order[plan[min(rung.number + 1, len(plan) - 1)].candidates :]:
                    self.trials.forget(tried.candidate)
        return Choice.best((tried for tried in self.records.values() if tried.looks), self.goal.share)

    def _looked_at(self, tried: Tried, rung: Rung) -> Tried:
        """Train a candidate as far as a rung says, and compare it."""
        assert tried.size is not None  # noqa: S101 - it was admitted
        share = rung.share
        if not share and not tried.candidate.is_cut:  # it knows nothing yet
            share = rungs(1)[1].share
        look = self.trials.look(tried.candidate, tried.size, rung.number, share)
        shared = replace(look, evidence=replace(look.evidence, looks=self.looks))
        looked = replace(tried, looks=(*tried.looks, shared))
        self.records[looked.candidate.name] = looked
        return looked

    def _announce(self, rung: Rung, count: int) -> None:
        epochs = counted(round(self.run.args.num_train_epochs * rung.share, 2), "epoch")
        how = epochs if rung.share else "fitted to the teacher, not trained"
        self.terminal.heading(f"rung {rung.number + 1}: {counted(count, 'candidate')}, {how}")

    def _line(self, tried: Tried) -> str:
        metric, seen = self.judge.metric, tried.evidence
        quality = f"{TITLES.get(metric, metric)} {show(seen.quality, metric)}"
        seconds = time.monotonic() - self.started  # of earlier starts nothing is included
        return f"{tried.candidate.name}: {quality}, {seen}; {duration(seconds)} so far"

    def _bar(self, total: int) -> Any:
        hidden = not (self.terminal.speaks and sys.stderr.isatty())
        return tqdm(total=total, leave=False, dynamic_ncols=True, disable=hidden, unit=" trials")


def _with_objective(recipe: Recipe, rows: Rows) -> Recipe:
    """Return a recipe whose students learn from the teacher's answers alone where its page does not say.

    They are recorded once for all trials; the recommended objective looks inside the teacher, which then runs
    in each step of each trial.
    """
    if recipe.page.get("objective") is not None:
        return recipe
    labels, answers = {"cross_entropy": {"weight": 0.5}}, {"kd": {"weight": 0.5, "temperature": 4}}
    if rows.task == "regression":
        labels, answers = {"label_mse": {"weight": 0.5}}, {"logit_mse": {"weight": 0.5}}
    terms = [labels, answers] if "label" in rows.labelled.column_names else [answers]
    return check(Page("goal", {**recipe.page, "objective": terms}))


@dataclass(frozen=True)
class Rung:
    """One round of trials.

    Args:
        number: from 0.
        candidates: how many take part at most.
        share: of the whole training that each has had at the end of it; 0 for none at all.
    """

    number: int
    candidates: int
    share: float


def rungs(count: int) -> list[Rung]:
    """Plan the rounds for `count` candidates: untrained, after a third of the training, after all of it.

    Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943) with a factor of 3: each round keeps
    the best third and trains it three times as long, so that no round costs much more than another. At least
    two go on to the last round but one, so that no single look decides.

    Args:
        count: candidates within the budget, at least 1.

    Example:
        >>> [(rung.candidates, round(rung.share, 2)) for rung in rungs(9)]
        [(9, 0.0), (3, 0.33), (1, 1.0)]
        >>> [(rung.candidates, round(rung.share, 2)) for rung in rungs(2)]
        [(2, 0.0), (2, 0.33), (1, 1.0)]
    """
    second = min(count, max(2, math.ceil(count / ETA)))
    return [Rung(0, count, 0.0), Rung(1, second, 1 / ETA), Rung(2, max(1, math.ceil(second / ETA)), 1.0)]


def looks(plan: Sequence[Rung]) -> int:
    """Return how often a candidate is compared with the goal in all rounds."""
    return sum(rung.candidates for rung in plan)
