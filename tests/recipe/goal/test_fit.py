"""A whole search on tiny models: what is chosen, on which rows, and what is refused at once."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from datasets import Dataset, load_dataset
from safetensors.torch import load_file, save_file

import hfdistill
from hfdistill.cli import main
from hfdistill.recipe.check import check
from hfdistill.recipe.goal import fit as fitting
from hfdistill.recipe.goal import sizing
from hfdistill.recipe.goal import trials as trying
from hfdistill.recipe.goal.fit import fit_recipe
from hfdistill.recipe.goal.outcome import Choice, Outcome
from hfdistill.recipe.goal.page import _data_on_disk as data_on_disk
from hfdistill.recipe.page import Page
from hfdistill.recipe.rows import read_rows
from hfdistill.recipe.schema import Splits
from tests.conftest import BAD, GOOD, make_bert, make_tokenizer

pytestmark = pytest.mark.usefixtures("here")
PAGE = """teacher: teacher
data: opinions
training: {output_dir: out, num_train_epochs: 3, per_device_train_batch_size: 16, use_cpu: true}
goal: {keep: 50%, max_ms: 10000, metric: agreement, candidates: [layers], texts: 40}
"""


def opinions(count, start=0):
    """Texts that all differ, half of them good."""
    words = [(GOOD if i % 2 else BAD)[i // 2 % 8] for i in range(start, start + count)]
    texts = [f"the film {i} was {word}" for i, word in enumerate(words, start)]
    return Dataset.from_dict({"text": texts, "label": [i % 2 for i in range(start, start + count)]})


@pytest.fixture(autouse=True)
def data(here, monkeypatch):
    """A data set whose rows all differ, a teacher of three layers, and times that are no machine's."""
    monkeypatch.setattr(sizing, "_milliseconds", lambda loaded: loaded.model.num_parameters() / 1e3)
    (here / "opinions").mkdir()
    opinions(150).to_parquet(here / "opinions" / "train.parquet")
    opinions(60, start=500).to_parquet(here / "opinions" / "validation.parquet")
    (here / "teacher").unlink()
    make_bert(3, seed=1, initializer_range=0.5).save_pretrained(here / "teacher")
    make_tokenizer().save_pretrained(here / "teacher")


def page(**goal):
    values = {
        "teacher": "teacher",
        "data": "opinions",
        "training": {"output_dir": "out", "num_train_epochs": 3, "per_device_train_batch_size": 16},
        "measure": {"speed": False},
        "goal": {"keep": 0.5, "max_ms": 10000, "metric": "agreement", "candidates": ["layers"], "texts": 40},
    }
    values["goal"] |= goal
    return {**values, "goal": {name: value for name, value in values["goal"].items() if value is not None}}


def search(**goal):
    return fit_recipe(check(Page("page", page(**goal))))


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """What a search gives and leaves in `out`, searched once for all tests."""
    ended = {}

    def make(keep):
        if keep in ended:
            result, folder = ended[keep]
            shutil.copytree(folder, "out")
            return result
        result, folder = search(keep=keep), tmp_path_factory.mktemp("searched") / "out"
        shutil.copytree("out", folder)
        ended[keep] = result, folder
        return result

    return make


def test_the_fastest_that_is_proven_is_found_without_training(here, searched):
    result = searched(0.2)
    assert (result.name, result.verdict) == ("1 layer", "kept")
    assert [len(tried.looks) for tried in result.tried] == [1, 0, 0]
    assert result.evidence.low >= 0.2
    assert result.evidence.looks == 3 + 2 + 1
    assert result.report.data.rows == 60
    assert result.reported == result.report.student.fidelity["agreement"]
    student = hfdistill.load_classifier("out/student")
    assert student.config.num_hidden_layers == 1
    assert student.config.shrunk_from["fitted_on"] == 40
    card = (here / "out/student/README.md").read_text()
    assert "fitted to it by least squares, not trained, and chosen among 3 candidates" in card
    assert "plots/trials.png" in card
    assert hfdistill.Report.load("out/student/report.json").notes["chosen"] == "1 layer"
    assert not list((here / "out/goal").glob("*/start*"))
    assert "1 layer" in str(result)
    best = hfdistill.read_recipe("out/best.yaml")
    assert best.student.arguments == {"layers": 1, "fit": 40}
    assert best.training["output_dir"] == "out/best"
    weights = student.state_dict()
    shutil.rmtree("out/student")
    again = search(keep=0.2)  # its weights are made anew, and nothing is looked at twice
    assert again.evidence == result.evidence
    assert again.tried[0].looks[0].seconds == result.tried[0].looks[0].seconds
    student = hfdistill.load_classifier("out/student")
    assert all(weights[name].equal(value) for name, value in student.state_dict().items())


def test_what_no_student_keeps_ends_with_the_best_and_what_would_help(here, monkeypatch):
    seen = {}
    monkeypatch.setattr(trying.Judge, "_evidence", lambda self, logits: trying.Evidence(0.7, 1.0, 30))
    look = trying.Trials.look

    def watched(self, candidate, size, rung, share):
        found = look(self, candidate, size, rung, share)
        kept = {"1 layer": 0.5, "2 layers": 0.7, "3 layers": 0.6}[candidate.name]
        seen.setdefault(rung, []).append((candidate.name, round(share, 2)))
        return replace(found, evidence=replace(found.evidence, quality=kept + rung / 100))

    monkeypatch.setattr(trying.Trials, "look", watched)
    result = search(keep=1.0)
    assert [sorted(rung) for rung in seen.values()] == [
        [("1 layer", 0), ("2 layers", 0), ("3 layers", 0)],
        [("2 layers", 0.33), ("3 layers", 0.33)],
        [("2 layers", 1.0)],
    ]
    assert (result.name, result.verdict) == ("2 layers", "missed")
    assert result.tried[1].looks[-1].epochs == 3
    advice = " ".join(result.advice)
    assert "Missing: 28.0 points" in advice
    assert "Longer training" in advice
    assert "More text" in advice
    history = json.loads((here / "out/student/report.json").read_text())["notes"]
    assert history["epochs"] == 3


def test_nothing_sees_the_rows_that_are_reported(here, searched):
    """With other labels and texts to report on, the same is chosen from the same evidence."""
    first = searched(0.2)
    shutil.move("out", "before")
    rows = load_dataset("parquet", data_files="opinions/validation.parquet", split="train")
    other = [text.replace("film", "plot") for text in rows["text"]]
    Dataset.from_dict({"text": other, "label": rows["label"][::-1]}).to_parquet("opinions/validation.parquet")
    second = search(keep=0.2)
    assert [t.looks[0].evidence for t in first.tried if t.looks] == [
        t.looks[0].evidence for t in second.tried if t.looks
    ]


def test_a_text_is_on_one_side_alone(here):
    twice = opinions(40).to_dict()
    twice = {name: values * 2 for name, values in twice.items()}
    twice["text"][0] = opinions(1, start=500)["text"][0]  # one that is reported
    Dataset.from_dict(twice).to_parquet("opinions/train.parquet")
    rows = read_rows({"source": "opinions"}, Splits(), seed=1, choosing=0.25)
    learned, chosen, reported = (set(part["text"]) for part in (rows.train, rows.choosing, rows.evaluation))
    assert not learned & chosen
    assert not (learned | chosen) & reported
    assert len(rows.choosing) == 20
    text_only = read_rows({"source": "opinions"}, Splits(labelled_rows=60), seed=1, choosing=0.25)
    assert len(text_only.choosing) == 15
    assert not set(text_only.train["text"]) & set(text_only.choosing["text"])


def test_nothing_is_chosen_on_a_text_that_is_reported(here):
    opinions(40, start=540).to_parquet("opinions/dev2.parquet")
    rows = read_rows({"source": "opinions"}, Splits(evaluation="validation"), seed=1, choosing="dev2")
    assert rows.choosing["text"][:] == opinions(20, start=560)["text"][:]
    opinions(60, start=495).to_parquet("opinions/dev2.parquet")
    with pytest.raises(ValueError, match=r"150 rows to learn from and 5 to choose .* Type choose: 0\.2"):
        read_rows({"source": "opinions"}, Splits(evaluation="validation"), seed=1, choosing="dev2")


def test_trials_of_another_teacher_or_other_rows_to_choose_on_are_refused(here, searched):
    searched(0.2)
    weights = load_file("teacher/model.safetensors")
    save_file(
        {**weights, "classifier.bias": weights["classifier.bias"] + 1},
        "teacher/model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(ValueError, match=r"another page .the teacher's weights differ."):
        search(keep=0.2)
    save_file(weights, "teacher/model.safetensors", metadata={"format": "pt"})
    assert search(keep=0.2).name == "1 layer"
    with pytest.raises(ValueError, match=r"per_device_train_batch_size differ"):
        fit_recipe(check(Page("page", {**page(keep=0.2), "training": {"output_dir": "out"}})))


def test_fresh_copies_are_not_recorded(here):
    values = page(keep=0.2, candidates=["static"])
    values["data"] = {"source": "opinions", "fresh_copies": True}
    values["training"]["num_train_epochs"] = 1
    assert fit_recipe(check(Page("page", values))).name == "static"
    assert not (here / "out/goal/answers").exists()


def test_kinds_that_a_teacher_does_not_have(here, monkeypatch):
    monkeypatch.setattr(fitting, "candidates", lambda *_: [])
    with pytest.raises(ValueError, match=r"no student of the kinds that are asked for\. Type candidates:"):
        search(candidates=["width"])


@pytest.mark.parametrize("source", ["splits", "1.csv", "1.csv.gz", "1.csv.GZ"])
def test_data_without_a_path_keeps_its_columns(here, source):
    """What the options name is there when the page reads it; text of a csv is read as that of a csv."""
    splits = {name: opinions(20).rename_columns({"text": "body"}) for name in ("train", "test")}
    if source != "splits":
        packed = "gzip" if source.lower().endswith("gz") else None
        for name, rows in splits.items():
            rows.to_pandas().to_csv(f"{name}.{source}", index=False, compression=packed)
        splits = {name: f"{name}.{source}" for name in splits}
    path = data_on_disk(splits, here / "inputs" / "data")
    data = hfdistill.load(path, text="body")
    assert {name: rows["text"][:] for name, rows in data.items()} == dict.fromkeys(
        ("train", "test"), opinions(20)["text"][:]
    )
    assert data["train"].features["label"].dtype == "int64"


def test_a_metric_that_an_export_has_not_is_measured_on_the_rows_to_report(here, monkeypatch):
    monkeypatch.setattr("hfdistill.recipe.goal.evidence.DRAWS", 15)
    made, result_of = [], fitting.Outcome.result
    monkeypatch.setattr(fitting.Outcome, "result", lambda self: made.append(self) or result_of(self))
    result = search(metric="macro_f1", keep=0.2)
    assert made[0]._judged() == pytest.approx(result.reported)
    made[0].rows = replace(made[0].rows, evaluation=made[0].rows.evaluation.remove_columns("label"))
    assert made[0]._judged() is None


def test_a_search_that_has_ended_trains_nothing_again(here, searched, monkeypatch):
    first = searched(1.0)
    monkeypatch.setattr(trying.Trials, "_train", lambda *_: pytest.fail("the winner is trained again"))
    again = search(keep=1.0)
    assert (again.name, again.evidence) == (first.name, first.evidence)
    assert again.report.student.metrics == first.report.student.metrics
    assert json.loads((here / "out/goal/chosen.json").read_text())["history"][-1]["epoch"] == 3


def test_the_look_that_won_is_made_anew_where_training_went_on(here, searched, monkeypatch):
    winner = next(tried for tried in searched(1.0).tried if len(tried.looks) == 3)
    monkeypatch.setattr(trying.Trials, "forget", lambda *_: None)
    save, seen = Outcome._save_student, []

    def saved(self):
        history = save(self)
        seen.append((history[-1]["epoch"], self.trials.judge.evidence(self.folder, "pytorch").quality))
        return history

    monkeypatch.setattr(Outcome, "_save_student", saved)
    for look in (winner.looks[2], winner.looks[1]):
        monkeypatch.setattr(Choice, "best", lambda tried, share, look=look: Choice(winner, look, "missed"))
        assert search(keep=1.0).evidence == look.evidence
    assert seen == [(3, winner.looks[2].evidence.quality), (1, winner.looks[1].evidence.quality)]


def test_a_search_that_was_killed_goes_on(here, searched, monkeypatch):
    """Killed in the middle of the last training, it measures no size again, and ends with the same bits."""
    straight = searched(1.0)
    shutil.move("out", "straight")
    stop = trying.StopAt.on_step_end

    def killed(self, args, state, control, **others):
        if state.global_step == 20:  # of 24; the last checkpoint is behind the second epoch
            raise KeyboardInterrupt
        stop(self, args, state, control, **others)

    monkeypatch.setattr(trying.StopAt, "on_step_end", killed)
    with pytest.raises(KeyboardInterrupt):
        search(keep=1.0)
    monkeypatch.setattr(trying.StopAt, "on_step_end", stop)
    monkeypatch.setattr(sizing.Scale, "_measured", lambda *_: pytest.fail("a size is measured again"))
    resumed = search(keep=1.0)
    own, theirs = ([[look.evidence for look in t.looks] for t in r.tried] for r in (resumed, straight))
    assert own == theirs
    weights = [hfdistill.load_classifier(f"{folder}/student").state_dict() for folder in ("out", "straight")]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[1])
    with pytest.raises(ValueError, match=r"trials of another page .goal.texts differ.. Name another"):
        search(keep=1.0, texts=41)


@pytest.mark.parametrize(
    ("goal", "match"),
    [
        (
            {"max_ms": None, "max_mb": 0.001, "int8": False},
            r"No candidate is within 0.001 MB.*\[1 layer: .* MB",
        ),
        ({"metric": "pearson"}, "metric is pearson, which this task .single_label. does not have"),
        ({"choose": "validation"}, "that split is reported"),
        ({"choose": "train"}, "that split is learned from"),
        ({"choose": "dev"}, "that split is not there"),
        ({"choose": 0.001}, "keeps 0 of 150 training rows apart"),
    ],
)
def test_it_is_refused_before_anything_trains(here, monkeypatch, goal, match):
    monkeypatch.setattr(trying.Trials, "look", lambda *_: pytest.fail("something is tried"))
    with pytest.raises(ValueError, match=match):
        search(**goal)


def test_students_without_layers_are_left_out_where_layers_are_compared(here):
    values = page(candidates=["static", "layers"], keep=0.2)
    values["objective"] = [{"kd": {}}, {"hidden_mse": {"layers": "uniform"}}]
    result = fit_recipe(check(Page("page", values)))
    assert [tried.candidate.name for tried in result.tried] == ["1 layer", "2 layers", "3 layers"]
    shutil.rmtree("out")
    values["goal"]["candidates"] = ["static"]
    with pytest.raises(ValueError, match=r"HiddenMSE.* compares layers.*Type candidates: .layers."):
        fit_recipe(check(Page("page", values)))


def test_rows_without_labels(here):
    for split in ("train", "validation"):
        rows = load_dataset("parquet", data_files=f"opinions/{split}.parquet", split="train")
        rows.remove_columns("label").to_parquet(f"opinions/{split}.parquet")
    with pytest.raises(ValueError, match="metric is accuracy, and the rows to choose on have no labels"):
        search(metric="accuracy")
    assert not (here / "out").exists()
    result = search(metric=None, keep=0.2)
    assert result.verdict == "kept"
    assert result.report.student.metrics is None


def test_the_command_and_the_page(here, capsys, monkeypatch):
    words = [
        "opinions",
        "--teacher",
        "teacher",
        "--metric",
        "agreement",
        "--candidates",
        "layers",
        "--max-ms",
    ]
    assert main(["fit", *words, "10000", "--keep", "20%", "--epochs", "1", "--out", "fit"]) == 0
    printed = capsys.readouterr()
    assert "1 layer" in printed.out
    assert "opinions: 120 rows to learn from, 30 to choose on" in printed.err
    assert "60 rows for the report alone, on which nothing is chosen" in printed.err
    assert "candidates, untrained" in printed.err
    assert "1 epochs" not in printed.err
    (here / "page.yaml").write_text(PAGE)
    assert main(["train", "page.yaml", "goal.keep=20%"]) == 0
    assert (here / "out/student/report.json").exists()
    assert main(["train", "page.yaml", "--smoke"]) == 1
    assert "Leave --smoke out" in capsys.readouterr().err
    assert main(["train", "page.yaml", "--search"]) == 1
    assert "Leave --search out" in capsys.readouterr().err
    missed = SimpleNamespace(report=SimpleNamespace(table=str), verdict="missed")
    monkeypatch.setattr(fitting, "fit_recipe", lambda _: missed)
    assert main(["train", "page.yaml"]) == 3
    assert main(["fit", *words, "5", "--keep", "98"]) == 2
    assert "Type 98% or 0.98" in capsys.readouterr().err


def test_rows_and_a_teacher_in_memory(here, monkeypatch):
    made, student = [], trying.Run.student
    monkeypatch.setattr(trying.Run, "student", lambda run, plan: made.append(plan.kind) or student(run, plan))
    teacher = make_bert(2, seed=1, initializer_range=0.5)
    limits = {"keep": "20%", "max_ms": 10000.0, "goal": {"metric": "agreement", "candidates": ["static"]}}
    result = hfdistill.fit_student(
        opinions(120), teacher, "out", **limits, tokenizer=make_tokenizer(), training={"num_train_epochs": 1}
    )
    assert result.name == "static"
    assert made.count("static") == 1  # its table takes a pass of the teacher, and is made once
    assert not list((here / "out/goal").glob("*/start*"))
    assert result.tried[0].looks[0].epochs == 1.0
    assert result.report.data.rows == 12
    with pytest.raises(ValueError, match="Pass tokenizer="):
        hfdistill.fit_student(opinions(120), teacher, "other", **limits)
