"""Searches: what is tried, what is refused, killed and started again, and the page that comes out."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from hfdistill.cli import main
from hfdistill.recipe import RecipeError, read_recipe
from hfdistill.recipe import run as trial_module
from hfdistill.recipe import search as searching
from hfdistill.recipe.check import mistakes_of
from hfdistill.recipe.run import Run, run_recipe
from hfdistill.recipe.search import search_recipe
from hfdistill.recipe.search_space import Dimension, usual
from tests.forked import killed_at, needs_fork

PAGE = """teacher: teacher
student:
  shrink: {layers: 2}
data: two
objective:
  - cross_entropy: {weight: 0.5}
  - kd: {weight: 0.5, temperature: 4}
training: {output_dir: out, max_steps: 2, use_cpu: true, disable_tqdm: true}
measure: null
search:
  objective.kd.temperature: [1, 8]
  training.learning_rate: [1.0e-5, 1.0e-2, log]
  student.shrink.layers: {choices: [1, 2, [1, 4]]}
"""


def read(*overrides):
    return read_recipe("page.yaml", overrides=overrides)


def journal(here):
    return [json.loads(line) for line in (here / "out/search/journal.jsonl").read_text().splitlines()]


def test_ranges_are_read(here):
    assert read().search == (
        Dimension("objective.kd.temperature", low=1, high=8),
        Dimension("training.learning_rate", low=1e-5, high=1e-2, log=True),
        Dimension("student.shrink.layers", choices=(1, 2, [1, 4])),
    )
    told = "search={student.shrink.layers: [1, 3], training.lr_scheduler_type: [linear, cosine]}"
    whole, names = read(told).search
    assert whole == Dimension("student.shrink.layers", low=1, high=3, whole=True)
    assert names == Dimension("training.lr_scheduler_type", choices=("linear", "cosine"))


@pytest.mark.parametrize(
    ("told", "match"),
    [
        ("[1, 2]", "search: takes places and ranges"),
        ("{objective.kd.temprature: [1, 8]}", "Did you mean temperature?"),
        ("{objective.kd.temperature: [0, 8]}", "temperature above 0, found 0"),
        ("{objective.kd.temperature: [1, hot]}", "a number or a schedule"),
        ("{objective.pkd.weight: [1, 8]}", "there is no such place"),
        ("{objectve.kd.weight: [1, 8]}", "Did you mean objective?"),
        ("{training..seed: [1, 8]}", "there is no such place"),
        ("{training.learning_rate: 1}", "is not a range"),
        ("{training.learning_rate: [2, 1]}", "is not a range"),
        ("{training.learning_rate: [0, 1, log]}", "is not a range"),
        ("{training.learning_rate: {choices: []}}", "is not a range"),
        ("{data.holdout: [0.1, 0.5]}", "which rows are measured on"),
        ("{training.seed: [1, 5]}", "which rows are measured on"),
        ("{training.lr_scheduler_type: [linear, cosinus]}", "one of linear, cosine"),
        ("{student.shrink.layers: [one, 2]}", "a whole number or a list"),
    ],
)  # fmt: skip
def test_a_range_that_does_not_fit_is_a_mistake_of_the_page(here, told, match):
    with pytest.raises(RecipeError) as caught:
        read(f"search={told}")
    assert len(caught.value.mistakes) == 1
    assert match in str(caught.value)


def test_mistakes_of_the_page_and_of_its_ranges_are_told_together(here):
    with pytest.raises(RecipeError) as caught:
        read("student.shrink.layer=3", "search={objective.kd.temprature: [1, 8]}")
    assert len(caught.value.mistakes) == 2


def test_without_ranges_the_usual_places_are_searched(here):
    terms = [{"cross_entropy": {"weight": 0.5}}, "kd", {"hidden_mse": {"layers": "uniform"}}, {"pkd": {}}]
    page = {**yaml.safe_load(PAGE), "objective": terms}
    found = {dimension.path: dimension for dimension in usual(page, mistakes_of)}
    assert found["training.learning_rate"] == Dimension(
        "training.learning_rate", low=1e-5, high=2.5e-4, log=True
    )
    assert found["objective.cross_entropy.weight"].ends() == (0.1, 2.5)
    assert found["objective.kd.temperature"].ends() == (1.0, 8.0)
    assert "last" in found["objective.hidden_mse.layers"].choices
    assert {"objective.kd.weight", "objective.hidden_mse.weight", "objective.pkd.weight"} <= found.keys()


def test_a_search_writes_a_page_that_trains(here):
    found = search_recipe(read(), trials=2)
    assert found.finished + found.pruned == 2
    assert found.metric == "eval_accuracy"
    page = yaml.safe_load((here / "out" / "best.yaml").read_text())
    assert page.keys() == yaml.safe_load(PAGE).keys() - {"search"}
    best = max(line for line in found.lines if "stopped" not in line).split(":")
    assert found.value >= float(best[1].split()[0])
    assert main(["train", "out/best.yaml"]) == 0
    again = Run(read_recipe("out/best.yaml"), searching=True).train_student()
    assert again.evaluate()["eval_accuracy"] == found.value, "the page is the trial"
    assert sorted(p.name for p in (here / "out" / "search").iterdir()) == ["answers", "journal.jsonl"]


def test_the_first_trial_is_the_page(here, monkeypatch):
    seen = []
    real = searching._Search._trial
    monkeypatch.setattr(
        searching._Search, "_trial", lambda self, trial: (real(self, trial), seen.append(trial.params))[0]
    )
    search_recipe(read("training.learning_rate=1e-3"), trials=1)
    told = {"objective.kd.temperature": 4, "training.learning_rate": 1e-3, "student.shrink.layers": "2"}
    assert seen == [told]


def test_the_teacher_is_asked_once(here, monkeypatch):
    counted = []
    real = searching.Run.train_student

    def taught(run, **told):
        trainer = real(run, **told)
        counted.append((trainer.teacher.store is not None, type(trainer.teacher).__name__))
        return trainer

    monkeypatch.setattr(searching.Run, "train_student", taught)
    search_recipe(read(), trials=1)
    files = {p: p.stat().st_mtime_ns for p in (here / "out/search/answers").rglob("*") if p.is_file()}
    search_recipe(read(), trials=2)
    assert counted == [(True, "CachedTeacher")] * 2
    later = {p: p.stat().st_mtime_ns for p in (here / "out/search/answers").rglob("*") if p.is_file()}
    assert later == files


def test_bad_trials_are_stopped_early(here, monkeypatch):
    """A trial below the median of the others at its first evaluation goes no further."""
    seen = {}

    def taught(run, callbacks):
        rate = run.args.learning_rate
        for step in (1, 2, 3):
            state = SimpleNamespace(global_step=step, max_steps=3)
            seen[rate] = step
            callbacks[0].on_evaluate(None, state, None, metrics={"eval_accuracy": rate * step})

    monkeypatch.setattr(searching.Run, "train_student", taught)
    found = search_recipe(read("search={training.learning_rate: [0.1, 0.3]}"), trials=12)
    assert found.pruned
    assert len(set(seen.values())) > 1
    assert min(rate for rate, step in seen.items() if step == 3) <= found.value / 3
    assert found.value == 3 * max(seen)
    assert len([line for line in found.lines if "stopped at step 1" in line]) == found.pruned


def test_training_ends_where_a_trial_is_stopped(here, monkeypatch):
    search_recipe(read(), trials=1)
    monkeypatch.setattr("optuna.trial.Trial.should_prune", lambda trial: True)
    steps = ["training.max_steps=9", "training.eval_strategy=steps", "training.eval_steps=3"]
    with pytest.raises(ValueError, match="No trial ran to the end"):
        search_recipe(read(*steps, "training.output_dir=other"), trials=1)
    told = (here / "other" / "search" / "journal.jsonl").read_text()
    assert '"step":3' in told
    assert '"step":6' not in told


@needs_fork
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_killed_search_goes_on(here):
    steps = ["training.max_steps=6", "training.eval_strategy=no"]
    killed_at(8, lambda: main(["train", "page.yaml", "--search", "--trials", "4", *steps]))
    file = here / "out" / "search" / "journal.jsonl"
    assert (here / "out" / "search" / "trial-1").exists()
    with file.open("a") as stream:
        stream.write('{"op_code": 5, "worker')  # as a kill within a write leaves it
    Path(f"{file}.lock").symlink_to(file)
    found = search_recipe(read(*steps), trials=4)
    assert found.finished + found.pruned == 4
    tried = [line.partition(" ")[2].partition("  ")[2] for line in found.lines]
    assert len(set(tried)) == 4, "nothing is tried twice"
    assert search_recipe(read(*steps), trials=4).lines == found.lines
    assert all(isinstance(line, dict) for line in journal(here))


def test_the_journal_of_another_page_is_refused(here):
    search_recipe(read(), trials=1)
    with pytest.raises(ValueError, match="holds the trials of another page"):
        search_recipe(read("training.seed=7"), trials=2)


def test_a_teacher_is_fine_tuned_once(here, monkeypatch):
    seen = []
    real = searching.Run.fit
    monkeypatch.setattr(
        searching.Run,
        "fit",
        lambda self, stage, *a, **k: (seen.append(stage), real(self, stage, *a, **k))[1],
    )
    teacher = "teacher={finetune: {encoder: encoder, epochs: 1}}"
    search_recipe(read(teacher), trials=2)
    assert seen == ["teacher", "student", "student"]
    page = yaml.safe_load((here / "out" / "best.yaml").read_text())
    assert page["teacher"] == {"finetune": {"encoder": "encoder", "epochs": 1}}


def test_numbers_that_are_none_stop_a_trial_and_not_the_search(here, monkeypatch):
    def broken(run, **_):
        raise searching.NonFiniteError("loss is nan at step 1")

    real = searching.Run.train_student
    search_recipe(read(), trials=1)
    monkeypatch.setattr(searching.Run, "train_student", broken)
    found = search_recipe(read(), trials=2)
    assert (found.finished, found.pruned) == (1, 1)
    assert real is not broken


def test_what_a_search_refuses(here, monkeypatch, capsys):
    assert main(["train", "page.yaml", "--search", "--smoke"]) == 1
    assert main(["train", "page.yaml", "--trials", "3"]) == 1
    said = capsys.readouterr().err
    assert "do not go together" in said
    assert "belong to --search" in said
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="Start it on one process"):
        search_recipe(read())
    monkeypatch.setattr(searching, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'hfdistill\[search\]'"):
        search_recipe(read())


def test_two_searches_do_not_run_in_one_folder(here, monkeypatch):
    found = []

    def prepared(search, recipe):
        with pytest.raises(ValueError, match="Another run writes to out now"):
            search_recipe(read())
        found.append(recipe)
        raise KeyboardInterrupt

    monkeypatch.setattr(searching._Search, "_prepared", prepared)
    for count in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            search_recipe(read())
        assert len(found) == count, "the folder is free again"


def test_a_page_with_ranges_trains_as_it_is(here):
    run_recipe(read())
    assert (here / "out" / "student" / "model.safetensors").is_file()


def test_whole_numbers_are_drawn_whole():
    drawn = []
    trial = SimpleNamespace(suggest_int=lambda *ends, log: drawn.append((*ends, log)) or 3)
    assert Dimension("student.shrink.layers", low=1.0, high=6.0, whole=True).suggested(trial) == 3
    assert drawn == [("student.shrink.layers", 1, 6, False)]


def test_a_loss_without_weight_is_searched_at_its_temperature_alone():
    page = {"training": {}, "objective": [{"cross_entropy": {"weight": 0.5}}, {"kd": {"weight": 0}}]}
    paths = [dimension.path for dimension in usual(page, lambda page: [])]
    assert "objective.cross_entropy.weight" in paths
    assert "objective.kd.weight" not in paths
    assert "objective.kd.temperature" in paths


@pytest.mark.parametrize(("used", "expected"), [(False, False), (True, None)])
def test_trials_compute_as_precisely_as_the_run_that_made_their_teacher(monkeypatch, used, expected):
    monkeypatch.setattr(trial_module, "can_be_recorded", lambda recipe, rows: False)
    monkeypatch.setattr(trial_module, "precision", lambda training: {"bf16": True})
    page = {"training": {"output_dir": "out"}, "export": {}}
    recipe = SimpleNamespace(teacher=None, assistants=(), generations=1, training=page["training"])
    run = SimpleNamespace(recipe=recipe, rows=None, args=SimpleNamespace(bf16=used))
    made = trial_module.trial_page(page, run, Path("answers"))
    assert made["training"].get("bf16") is expected
    assert (made["measure"], made["export"]) == (None, None)
    assert page["training"] == {"output_dir": "out"}
