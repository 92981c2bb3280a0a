"""Search the values of a page: trials that are pruned early, a journal that a killed search goes on from."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import shutil
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from hfdistill.files.markdown import as_yaml
from hfdistill.files.plain_data import write_atomically
from hfdistill.files.run_lock import only_run
from hfdistill.network.foreign_code import allowing_pickles
from hfdistill.recipe.check import Recipe, check, mistakes_of
from hfdistill.recipe.page import Page, put, value_at
from hfdistill.recipe.rehearsal import rehearse
from hfdistill.recipe.run import Run, trial_page
from hfdistill.recipe.search_space import Dimension, described, usual
from hfdistill.recipe.terminal import quiet_libraries
from hfdistill.trainer import NonFiniteError

STARTUP_TRIALS = 4
"""Trials that are neither pruned nor chosen by what others have found."""


@dataclasses.dataclass(frozen=True)
class Search:
    """The outcome of a search.

    Args:
        page: the best page.
        metric: what was compared, such as "eval_accuracy".
        value: the best trial's.
        finished: trials that ran to the end.
        pruned: trials that were stopped early.
        lines: a line for each trial.
    """

    page: Path
    metric: str
    value: float
    finished: int
    pruned: int
    lines: tuple[str, ...]

    def __str__(self) -> str:
        count = f"{self.finished} trials to the end, {self.pruned} stopped early"
        return "\n".join([*self.lines, f"{count}; best {self.metric} {self.value:.4f}: {self.page}"])


def search_recipe(recipe: Recipe, *, trials: int = 20, timeout: float | None = None) -> Search:
    """Try values at the places that the page's `search` section names, and write the best page.

    The first trial is the page as it is, where it writes the values that are searched; the next few are drawn
    at random, then a tree-structured Parzen estimator chooses (Optuna's TPE, Bergstra et al. 2011). After
    each evaluation a trial that is worse than the median of the others at the same step is stopped. Accuracy
    is compared for one label of several, the student's own loss for all other tasks, on the validation split;
    without one on a share of the training rows, never on test rows. A teacher is fine-tuned once, and its
    answers are recorded once where the objective reads nothing else.

    Everything is under training.output_dir: `search/journal.jsonl` (JSON lines; nothing is pickled) and
    `best.yaml`, a page for `hfdistill train`. A search that was killed goes on there; the trial that it
    was at starts anew.

    Args:
        recipe: what `read_recipe` gave; without a `search` section the learning rate and each term's weight,
            temperature and layer map are searched.
        trials: how many in all, those of earlier starts included.
        timeout: seconds, after which no new trial begins.

    Returns:
        The best page and a line for each trial.

    Raises:
        ImportError: Optuna is not installed.
        ValueError: on several processes, or beside another run there; or the journal is of another page,
            or the page has a `goal` section.
    """
    if recipe.goal is not None:
        raise ValueError("A page with `goal:` finds its student without --search. Leave --search out.")
    with only_run(Path(recipe.training["output_dir"])), allowing_pickles(recipe.allow_pickle):
        return _Search(recipe).best(trials=trials, timeout=timeout)


class _Search:
    def __init__(self, recipe: Recipe) -> None:
        if find_spec("optuna") is None:
            raise ImportError(
                "A search needs Optuna, and it is not installed. pip install 'hfdistill[search]'"
            )
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("A search runs its trials one after the other. Start it on one process.")
        self.page = {name: value for name, value in recipe.page.items() if name != "search"}
        self.space = recipe.search or usual(self.page, mistakes_of)
        self.seed = recipe.training.get("seed", 42)
        self.out = Path(recipe.training["output_dir"])
        self.folder = self.out / "search"
        for dimension in self.space:
            print(f"searching {described(dimension)}")
        self.base = self._prepared(recipe)

    def best(self, *, trials: int, timeout: float | None) -> Search:
        """Run what is missing to `trials`, and write the best page."""
        from optuna.trial import TrialState

        study = self._study()
        _restart(study, {d.path: d.to_optuna(value_at(self.page, d.path)) for d in self.space})
        missing = trials - len(study.get_trials(deepcopy=False, states=_over()))
        if missing > 0:
            tell = lambda _, trial: print(_line(trial, self.space), file=sys.stderr)  # noqa: E731
            with quiet_libraries():
                study.optimize(self._trial, n_trials=missing, timeout=timeout, callbacks=[tell])
        every = study.get_trials(deepcopy=False, states=_over())
        finished = sum(trial.state == TrialState.COMPLETE for trial in every)
        if not finished:
            raise ValueError(
                "No trial ran to the end. Give more --trials, or narrow the ranges of `search:`."
            )
        best = study.best_trial
        path = write_atomically(self.out / "best.yaml", as_yaml(self._page(self.page, best)))
        lines = tuple(_line(trial, self.space) for trial in every)
        return Search(path, self.metric, best.value, finished, len(every) - finished, lines)

    def _prepared(self, recipe: Recipe) -> dict[str, Any]:
        """Return the page that every trial runs: the teacher made, an evaluation each epoch, no report."""
        page = copy.deepcopy(self.page)
        page["training"] |= {"output_dir": str(self.folder)}
        run = Run(check(Page("search", page)), searching=True, speaks=False)
        self.metric = "eval_accuracy" if run.rows.task == "single_label" else "eval_loss"
        searched = any(d.path.startswith("teacher.") for d in self.space)
        rehearse(run)
        run.prepare()
        page = trial_page(page, run, self.folder, teacher_varies=searched)
        if page["training"].get("eval_strategy", "no") == "no":
            page["training"]["eval_strategy"] = "epoch"
        page["training"]["save_strategy"] = "no"
        return page

    def _study(self) -> Any:
        """Return the study in the journal, or a new one."""
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        self.folder.mkdir(parents=True, exist_ok=True)
        journal = self.folder / "journal.jsonl"
        _mend(journal)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal))),
            study_name="search",
            direction="maximize" if self.metric == "eval_accuracy" else "minimize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS),
            load_if_exists=True,
        )
        space = [dataclasses.asdict(d) | {"choices": list(d.choices)} for d in self.space]
        settings = {"page": as_yaml(self.page), "space": space}
        known = {name: study.user_attrs.get(name, value) for name, value in settings.items()}
        if known != settings:
            raise ValueError(
                f"{self.folder} holds the trials of another page or another `search:`. Name another "
                "training.output_dir, or delete that folder."
            )
        for name, value in settings.items():
            study.set_user_attr(name, value)
        over = len(study.get_trials(deepcopy=False, states=_over()))
        study.sampler = optuna.samplers.TPESampler(  # one that starts anew must not draw the same again
            seed=self.seed + over, n_startup_trials=STARTUP_TRIALS
        )
        return study

    def _trial(self, trial: Any) -> float:
        """Train the page with the values of a trial, and return its score."""
        import optuna

        page = self._page(self.base, trial)
        folder = self.folder / f"trial-{trial.number}"
        page["training"] |= {"output_dir": str(folder)}
        watch = _Watch(trial, self.metric)
        try:
            trained = Run(check(Page("search", page)), searching=True, speaks=False).train_student(
                callbacks=[watch]
            )
            return float(watch.last if watch.last is not None else trained.evaluate()[self.metric])
        except NonFiniteError as error:
            trial.set_user_attr("stopped", " ".join(str(error).split())[:200])
            raise optuna.TrialPruned from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _page(self, base: Mapping[str, Any], trial: Any) -> dict[str, Any]:
        """Return a page with the values of a trial."""
        page = Page("search", copy.deepcopy(dict(base)))
        for dimension in self.space:
            put(page, dimension.path, dimension.suggested(trial))
        return dict(page.values)


class _Watch(TrainerCallback):
    """Tells Optuna each evaluation, and stops a trial that is worse than the others were at that step."""

    def __init__(self, trial: Any, metric: str) -> None:
        self.trial, self.metric = trial, metric
        self.last: float | None = None

    def on_evaluate(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Report an evaluation, and end a trial that is worse than others were."""
        import optuna

        value = others["metrics"][self.metric]
        self.last = value if math.isfinite(value) else None
        self.trial.report(value, state.global_step)
        if state.global_step < state.max_steps and self.trial.should_prune():
            raise optuna.TrialPruned


def _over() -> tuple[Any, ...]:
    """Return the states of trials that count."""
    from optuna.trial import TrialState

    return TrialState.COMPLETE, TrialState.PRUNED


def _restart(study: Any, first: Mapping[str, Any]) -> None:
    """Queue the page as it is where nothing was tried yet, and again a trial that a kill cut off."""
    from optuna.trial import TrialState

    every = study.get_trials(deepcopy=False)
    if not every:
        study.enqueue_trial({path: value for path, value in first.items() if value is not None})
    for trial in every:
        if trial.state == TrialState.RUNNING:
            study.enqueue_trial(trial.params or trial.system_attrs.get("fixed_params", {}))
            study.tell(trial.number, state=TrialState.FAIL)


def _mend(journal: Path) -> None:
    """Cut off a last line that a kill left half written, and a lock that nobody holds any more."""
    if journal.exists():
        text = journal.read_bytes()
        if text and not text.endswith(b"\n"):
            with journal.open("r+b") as stream:
                stream.truncate(text.rfind(b"\n") + 1)
    journal.with_name(journal.name + ".lock").unlink(missing_ok=True)


def _line(trial: Any, space: tuple[Dimension, ...]) -> str:
    values = ", ".join(f"{d.path}={_shown(trial.params.get(d.path))}" for d in space)
    value = "no number" if trial.value is None else f"{trial.value:.4f}"
    stopped = f", stopped at step {trial.last_step}" if trial.state.name == "PRUNED" else ""
    return f"trial {trial.number}: {value}{stopped}  {values}"


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
