"""recipe.yaml and the card say what was really trained, whatever the page of the last start says."""

import json
from pathlib import Path

import pytest
import yaml

from hfdistill import load, measure
from hfdistill.recipe import read_recipe
from hfdistill.recipe.run import run_recipe
from hfdistill.recipe.training_record import TrainingRecord, changes

PAGE = """teacher: {finetune: {encoder: encoder, epochs: 1}}
student:
  shrink: {layers: 2, fit: false}
data: {source: reviews.csv, text: review, label: verdict, holdout: 0.25}
training:
  output_dir: out
  learning_rate: 1.0e-4
  num_train_epochs: 1
  use_cpu: true
measure: {speed: false}
"""
pytestmark = pytest.mark.usefixtures("unrehearsed")


def run(*overrides):
    return run_recipe(read_recipe("page.yaml", overrides=overrides))


def recipe_of(folder="out"):
    return yaml.safe_load(Path(folder, "student", "recipe.yaml").read_text())


def test_a_finished_run_is_not_told_by_settings_that_trained_nothing(here, capsys):
    weights = Path("out/student/model.safetensors")
    run()
    before = weights.read_bytes()
    capsys.readouterr()
    report = run("training.learning_rate=1e-5", "training.allow_changed=true", "measure={speed: false}")
    assert weights.read_bytes() == before
    assert recipe_of()["training"]["learning_rate"] == 1e-4
    assert "allow_changed" not in recipe_of()["training"]
    assert report.notes["recipe"]["training"]["learning_rate"] == 1e-4
    card = Path("out/student/README.md").read_text()
    assert "learning_rate: 0.0001" in card
    assert "1.0e-05" not in card
    told = " ".join(capsys.readouterr().err.split())
    assert "student: 2 of 4 layers" in told
    assert "is finished, at step 4 of 4 steps" in told
    assert "nothing was trained by what this page changes (training.learning_rate 0.0001 → 1e-05)" in told
    assert "type another training.output_dir" in told


def test_a_longer_run_goes_on_and_the_card_says_which_steps_were_made_by_what(here, capsys):
    run()
    capsys.readouterr()
    report = run("training.num_train_epochs=2", "training.warmup_steps=1", "training.allow_changed=true")
    assert "8 steps, goes on from step 4" in capsys.readouterr().err
    assert recipe_of()["training"]["num_train_epochs"] == 2
    (earlier,) = [line for line in report.notes["trained otherwise"] if line.startswith("student")]
    assert earlier.startswith("student, steps 1 to 4, then → now: ")
    assert "training.num_train_epochs 1 → 2" in earlier
    assert "training.warmup_steps None → 1" in earlier
    assert "trained otherwise" in Path("out/student/README.md").read_text()
    teacher = [line for line in report.notes["trained otherwise"] if line.startswith("teacher")]
    assert "teacher: training.warmup_steps None → 1" in teacher  # it was finished, and trained by no warmup


def test_the_rows_that_were_kept_back_are_measured_again_from_their_file(here):
    report = run()
    assert report.data.split == "holdout"
    assert report.data.name == "reviews.csv"
    card = Path("out/student/README.md").read_text()
    assert "On 10 rows of reviews.csv (holdout)" in card
    assert " train:" not in card
    rows = load("out/held_out.parquet")["train"]
    assert rows.features["label"].names == ["bad", "good"]
    assert len(rows) == 10
    again = measure("out/student", rows, teacher="out/teacher", speed=None)
    assert again.student.metrics == report.student.metrics
    assert again.student.fidelity == report.student.fidelity
    assert report.notes["measured again by"] == "hfdistill measure student --data held_out.parquet"


def test_a_split_of_its_own_is_saved_nowhere_else(here):
    run("data=two", "measure={speed: false}")
    assert not Path("out/held_out.parquet").exists()


@pytest.mark.parametrize(
    ("teacher", "sentence"),
    [
        (
            "{finetune: {encoder: encoder, epochs: 1}}",
            "distilled from **here**, fine-tuned on the same labels",
        ),
        ("null", "made of **here** and trained on labels alone, without a teacher, with hfdistill"),
        ("{ema: {decay: 0.5}}", "learned from the moving average of its own weights with hfdistill"),
    ],
)
def test_a_card_says_how_the_student_came_to_be(here, teacher, sentence):
    Path("here").mkdir()
    Path("here/model").symlink_to(Path("encoder").resolve())
    source = [] if "finetune" in teacher else ["student.shrink.source=here/model"]
    run(
        f"teacher={teacher.replace('encoder: encoder', 'encoder: here/model')}",
        *source,
        "training.max_steps=1",
    )
    assert sentence in Path("out/student/README.md").read_text().replace("&#45;", "-")


def test_what_a_page_says_for_the_card(here):
    run("card={name: tiny-reviews, license: mit, language: en}", "training.max_steps=1")
    header = next(yaml.safe_load_all(Path("out/student/README.md").read_text().split("\n---\n")[0]))
    assert (header["license"], header["language"]) == ("mit", "en")
    assert header["model-index"][0]["name"] == "tiny-reviews"
    assert "# tiny-reviews\n" in Path("out/student/README.md").read_text()


def test_a_record_forgets_steps_that_are_made_again(tmp_path):
    pages = [
        {"training": {"output_dir": "o", "learning_rate": rate}, "data": "d"} for rate in (1.0, 2.0, 3.0)
    ]
    TrainingRecord(tmp_path, "student", pages[0]).begin(0)
    TrainingRecord(tmp_path, "student", pages[1]).begin(10)
    TrainingRecord(tmp_path, "student", pages[2]).begin(10)  # what page 1 made after step 10 was lost
    record = TrainingRecord(tmp_path, "student", pages[2])
    assert [(part["after"], part["page"]["training"]["learning_rate"]) for part in record.parts] == [
        (0, 1.0),
        (10, 3.0),
    ]
    assert record.trained_page() == pages[2]
    assert TrainingRecord(tmp_path, "student", pages[0]).trained_page() == pages[2]
    TrainingRecord(tmp_path, "student", pages[0]).begin(0)
    assert json.loads((tmp_path / "trained-student.json").read_text()) == [{"after": 0, "page": pages[0]}]


def test_a_run_of_an_earlier_version_is_told_by_the_recipe_that_it_left(tmp_path):
    old = {"data": "d", "training": {"output_dir": "o", "learning_rate": 1.0}}
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "recipe.yaml").write_text(yaml.safe_dump(old))
    new = {"data": "d", "training": {"output_dir": "o", "learning_rate": 2.0}}
    assert TrainingRecord(tmp_path, "student", new).trained_page() == old


def test_what_decides_no_weight_is_no_change():
    one = {"training": {"output_dir": "a", "save_steps": 1, "seed": 1}, "measure": {"speed": True}}
    other = {"training": {"output_dir": "b", "logging_steps": 5, "seed": 2}, "export": {}}
    assert changes(one, other) == {"training.seed": "1 → 2"}


def test_a_page_beside_a_student_without_a_record_made_its_first_steps(tmp_path):
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "recipe.yaml").write_text("training: {learning_rate: 0.1}\n", encoding="utf-8")
    record = TrainingRecord(tmp_path, "student", {"training": {"learning_rate": 0.2, "output_dir": "o"}})
    record.begin(7)
    assert [part["after"] for part in record.parts] == [0, 7]
    assert record.parts[0]["page"] == {"training": {"learning_rate": 0.1}}
    (sentence,) = record.earlier_parts()
    assert "steps 1 to 7" in sentence
    assert "training.learning_rate 0.1 → 0.2" in sentence


def test_parts_that_say_what_the_page_says_are_no_others(tmp_path):
    pages = [{"teacher": "a"}, {"teacher": "b"}]
    TrainingRecord(tmp_path, "student", pages[0]).begin(0)
    TrainingRecord(tmp_path, "student", pages[1]).begin(5)
    record = TrainingRecord(tmp_path, "student", pages[0])
    record.begin(9)
    assert [part["after"] for part in record.parts] == [0, 5, 9]
    assert record.earlier_parts() == ["student, steps 6 to 9, then → now: teacher b → a"]
    assert record.trained_page() == {"teacher": "a"}
