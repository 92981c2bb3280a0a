"""Recipes to the end, on tiny models: every page of recipes/, and what a run leaves behind."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertTokenizerFast, set_seed

from hfdistill import (
    KD,
    CrossEntropy,
    DistillationArguments,
    DistillationTrainer,
    HubUnreachable,
    load,
    load_classifier,
    measure,
    record,
    shrink,
)
from hfdistill.recipe import RecipeError, read_recipe, schema
from hfdistill.recipe.run import arguments, run_recipe
from tests.conftest import make_bert, make_tokenizer
from tests.files.hub_server import HubServer, connected

PAGES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
DATA = {"dkd": "three", "dist": "three", "regression": "values", "pairs": "pairs", "tokens": "words"}
OWN_DATA = {"augmentation", "csv", "unlabelled", "no_labels", "few_labels", "answers"}
SMALL = {
    "teacher": {
        "pretrained": ["teacher=teacher"],
        "finetune": ["teacher.finetune.encoder=encoder", "teacher.finetune.epochs=1"],
        "ensemble": ["teacher.ensemble.members=[teacher, teacher]"],
        "peer": ["teacher.peer.model=encoder"],
        "few_shot": ["teacher.few_shot.encoder=encoder", "teacher.few_shot.cache=answers"],
    },
    "student": {
        "shrink": ["student.shrink.layers=2"],
        "static": ["student.static.width=8"],
        "bilstm": ["student.bilstm={embedding_size: 8, hidden_size: 8}"],
    },
}

PAGE = """teacher: teacher
student:
  shrink: {layers: 2}
data: two
objective:
  - cross_entropy: {weight: 0.5}
  - kd: {weight: 0.5, temperature: 2}
training:
  output_dir: out
  max_steps: 2
  use_cpu: true
  disable_tqdm: true
measure:
  speed: false
"""


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub 2.4
def test_the_student_is_published_once_with_its_card_and_nothing_else_is(here, monkeypatch, capsys):
    page = PAGE.replace(
        "disable_tqdm: true", "disable_tqdm: true\n  push_to_hub: true\n  hub_model_id: me/small"
    )
    (here / "page.yaml").write_text(page.replace("speed: false", "speed: false\n  baseline: true"))
    with HubServer(token="hf_sentinel") as hub:
        connected(monkeypatch, hub)
        run_recipe(read_recipe(here / "page.yaml"))
        assert f"{hub.endpoint}/me/small/commit/" in capsys.readouterr().out
    assert [name for name, _, _ in hub.commits] == ["me/small"]
    assert {"recipe.yaml", "report.json", "model.safetensors"} <= set(hub.repositories["me/small"])
    assert (
        hub.repositories["me/small"]["model.safetensors"]
        == (here / "out/student/model.safetensors").read_bytes()
    )
    assert b'model="me/small"' in hub.repositories["me/small"]["README.md"]


def test_a_name_that_the_hub_does_not_have_is_refused_before_anything_is_trained(here):
    overrides = ["training.push_to_hub=true", "training.hub_model_id=me/small//"]
    with pytest.raises(ValueError, match="cannot be the name of a repository"):
        run_recipe(read_recipe(here / "page.yaml", overrides=overrides))
    assert not (here / "out").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_pages_run_two_steps(here, page):
    told = yaml.safe_load(page.read_text())
    (here / "page.yaml").write_text(yaml.safe_dump({k: v for k, v in told.items() if k != "export"}))
    overrides = ["training.use_cpu=true", "training.disable_tqdm=true"]
    for section in ("teacher", "student"):
        kind = next(iter(schema.written_out(section, told[section]) or [""]))
        overrides += SMALL[section].get(kind, [])
    if "source" in (told["student"].get("shrink") or {}):
        overrides += ["student.shrink.source=encoder"]
    if "exits" in told["student"]:
        overrides += ["student.pretrained.source=encoder"]
    overrides += [] if page.stem in OWN_DATA else [f"data={DATA.get(page.stem, 'two')}"]
    if page.stem == "augmentation":
        overrides += ["data.augment=[delete, swap]", "data.source=two", "data.copies=2"]
    elif "assistants" in told:
        overrides += ["assistants.0.shrink.layers=3"]
    report = run_recipe(read_recipe("page.yaml", overrides=overrides), smoke=True)
    student = here / told["training"]["output_dir"] / "smoke" / "student"
    assert report.data.rows <= 16 * (9 if page.stem == "tokens" else 1)  # words
    assert report.student.speed is None
    assert report.notes["objective"]
    kept = read_recipe(student / "recipe.yaml")
    assert kept.training["use_cpu"] is True, "the recipe that is kept has the overrides in it"
    assert "## Results" in (student / "README.md").read_text()
    assert (report.baseline is not None) == told.get("measure", {}).get("baseline", False)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_pages_are_complete_and_short(page):
    assert read_recipe(page).training["output_dir"] == f"out/{page.stem}"
    assert len(page.read_text().splitlines()) <= 40


def test_a_run_leaves_a_plain_student_with_its_recipe(here):
    with pytest.raises(TypeError, match=r"run_recipe needs a page, found a dict. Type run_recipe\('page"):
        run_recipe({"teacher": "t"})
    report = run_recipe("page.yaml")
    student = here / "out" / "student"
    assert AutoModelForSequenceClassification.from_pretrained(student).config.num_hidden_layers == 2
    notes = json.loads((student / "report.json").read_text())["notes"]
    assert notes["recipe"]["student"] == {"shrink": {"layers": 2}}
    assert yaml.safe_load((student / "recipe.yaml").read_text()) == yaml.safe_load(PAGE)
    assert report.teacher.name == "teacher"
    assert not list(here.joinpath("out").rglob("training_args.bin"))


def test_a_page_trains_what_the_same_script_trains(here):
    """The recipe is the formula: the weights are those of a script with the same arguments."""
    run_recipe(read_recipe("page.yaml", overrides=["measure=null"]))
    data, teacher = load("two"), load_classifier("teacher")
    set_seed(42)
    trainer = DistillationTrainer(
        shrink(teacher, layers=2),
        DistillationArguments("script", max_steps=2, use_cpu=True, disable_tqdm=True, report_to="none"),
        teacher=teacher,
        objective=0.5 * CrossEntropy() + 0.5 * KD(temperature=2),
        train_dataset=data["train"],
        processing_class=AutoTokenizer.from_pretrained("teacher"),
    )
    trainer.train()
    trained = AutoModelForSequenceClassification.from_pretrained("out/student").state_dict()
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight, trained[name]), name


def test_a_run_goes_on_where_it_stopped(here):
    often = ["training.save_strategy=steps", "training.save_steps=2", "training.max_steps=4", "measure=null"]
    run_recipe(read_recipe("page.yaml", overrides=[*often, "training.output_dir=straight"]))
    run_recipe(read_recipe("page.yaml", overrides=often))
    for path in (here / "out" / "student" / "checkpoint-4", here / "out" / "student" / "model.safetensors"):
        path.rename(here / f"lost-{path.name}")
    run_recipe(read_recipe("page.yaml", overrides=often))
    files = [here / folder / "student" / "model.safetensors" for folder in ("straight", "out")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_an_encoder_is_fine_tuned_first(here):
    run_recipe(read_recipe("page.yaml", overrides=["teacher={finetune: {encoder: encoder}}", "measure=null"]))
    taught = AutoModelForSequenceClassification.from_pretrained(here / "out" / "teacher")
    assert taught.config.id2label == {0: "negative", 1: "positive"}
    assert taught.config.num_hidden_layers == 4
    assert (here / "out" / "student" / "model.safetensors").is_file()


def test_a_student_of_its_own_and_no_teacher(here):
    overrides = ["teacher=null", "student=teacher", "objective=null", "data={source: two, train_rows: 8}"]
    report = run_recipe(read_recipe("page.yaml", overrides=overrides))
    assert report.teacher is None
    assert report.notes["objective"] == "1 * CrossEntropy()"
    assert report.notes["rows"] == 8


@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        ("{ensemble: {members: [teacher, teacher]}}", "teacher"),
        ("{peer: {model: teacher}}", "{shrink: {layers: 2}}"),
        ("{ema: {decay: 0.9}}", "teacher"),
        ("{cached: {folder: answers, teacher: teacher}}", "{shrink: {layers: 2}}"),
    ],
)
def test_teachers_of_every_kind(here, teacher, student):
    if "cached" in teacher:
        record(
            "teacher",
            load("two")["train"],
            folder="answers",
            tokenizer=AutoTokenizer.from_pretrained("teacher"),
        )
    overrides = [f"teacher={teacher}", f"student={student}", "training.teacher_check_rows=0"]
    report = run_recipe(read_recipe("page.yaml", overrides=overrides))
    assert report.notes["objective"] == "0.5 * CrossEntropy() + 0.5 * KD(temperature=2)"
    assert (report.teacher is not None) == ("ensemble" not in teacher)
    moved = {"peer": "out/student/peer", "ema": "out/student/ema"}.get(teacher[1:].partition(":")[0])
    if moved:
        rows = load("two")["validation"]
        assert measure(moved, rows, speed=None).student.metrics == report.teacher.metrics
        assert report.teacher.name == Path(moved).name


def test_rows_are_held_out_where_there_is_one_split(here):
    data = "data={source: reviews.csv, text: review, label: verdict, holdout: 0.25}"
    classes = "teacher={finetune: {encoder: encoder, epochs: 1}}"
    report = run_recipe(read_recipe("page.yaml", overrides=[data, classes]))
    assert report.data.rows == 10
    assert report.notes["rows"] == 30
    again = read_recipe("page.yaml", overrides=[data, "teacher=out/teacher", "training.output_dir=again"])
    assert run_recipe(again).data == report.data, "the same rows are held out by the same seed"


def test_d6_a_smoke_run_touches_nothing_else(here):
    run_recipe(read_recipe("page.yaml", overrides=["training.max_steps=100"]), smoke=True)
    assert sorted(path.name for path in (here / "out").iterdir()) == ["smoke"]
    assert not list((here / "out").rglob("checkpoint-*"))


@pytest.mark.parametrize(
    ("override", "error", "match"),
    [
        ("training.load_best_model_at_end=true", RecipeError, "Transformers refuses this"),
        ("data={source: two, evaluation: dev}", ValueError, "no split 'dev', found .'train', 'validation'."),
        ("teacher=null", ValueError, "is made of one teacher, and there is none"),
        ("data={source: nowhere}", HubUnreachable, "nowhere"),
        ("student.shrink.layers=9", ValueError, "Choose between 1 and 4"),
    ],
)
def test_what_only_a_run_can_know_is_refused_before_the_first_step(here, override, error, match):
    overrides = [override, "objective=null"]
    with pytest.raises(error, match=match):
        run_recipe(read_recipe("page.yaml", overrides=overrides))
    assert not list(here.rglob("model.safetensors")) or not (here / "out").exists()


def test_arguments_are_those_of_the_page(here):
    overrides = ["training.learning_rate=3e-5", "training.max_length=16"]
    args = arguments(read_recipe("page.yaml", overrides=overrides))
    assert (args.learning_rate, args.max_length, args.report_to) == (3e-5, 16, [])
    assert arguments(read_recipe("page.yaml"), smoke=True).save_strategy == "no"


def test_measurement_follows_the_page(here):
    report = run_recipe(read_recipe("page.yaml", overrides=["measure.baseline=true", "measure.max_length=9"]))
    assert report.baseline is not None
    assert report.data.max_length == 9
    direct = measure("out/student", load("two")["validation"], speed=None, max_length=9)
    assert direct.student.metrics == report.student.metrics


def other_student(here, *, head=True):
    """A student in a folder whose tokenizer gives other ids than the teacher's."""
    model = make_bert(1, seed=3)
    (model if head else model.bert).save_pretrained(here / "other")
    tokenizer = make_tokenizer()
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    (here / "other" / "vocab.txt").write_text("\n".join([*words[:5], *words[:4:-1]]))
    BertTokenizerFast(vocab=str(here / "other" / "vocab.txt")).save_pretrained(here / "other")


def test_a_teacher_with_another_tokenizer_reads_its_own_ids(here, monkeypatch):
    other_student(here)
    seen = []
    monkeypatch.setattr(DistillationTrainer, "train", lambda self, **_: seen.append(self))
    run_recipe(read_recipe("page.yaml", overrides=["student=other", "measure=null"]))
    columns = next(iter(seen[0].get_train_dataloader()))
    assert (columns["teacher_input_ids"] != columns["input_ids"]).any()


def test_a_baseline_starts_from_the_same_head(here, monkeypatch):
    """Whatever was drawn before: a teacher's training draws dropout."""
    other_student(here, head=False)
    seen = []

    def train(trainer, **_):
        torch.rand(7)
        seen.append(trainer.model.state_dict()["classifier.weight"].clone())

    monkeypatch.setattr(DistillationTrainer, "train", train)
    overrides = ["teacher={finetune: {encoder: encoder}}", "student=other", "measure.baseline=true"]
    run_recipe(read_recipe("page.yaml", overrides=overrides))
    _, student, baseline = seen
    assert torch.equal(student, baseline)


def test_a_teacher_is_fine_tuned_for_its_own_epochs(here, monkeypatch):
    seen = []
    monkeypatch.setattr(
        DistillationTrainer,
        "train",
        lambda self, **_: seen.append((self.args.max_steps, self.args.num_train_epochs)),
    )
    page = read_recipe("page.yaml", overrides=["teacher={finetune: {encoder: encoder, epochs: 4}}"])
    run_recipe(page)
    assert seen == [(-1, 4), (2, 3)]
    run_recipe(page, smoke=True)
    assert seen[2][0] == 2


def test_width_is_chosen_on_training_rows(here):
    told = "student={shrink: {layers: 2, ffn: 8, heads: 2}}"
    run_recipe(read_recipe("page.yaml", overrides=[told, "training.max_length=9", "measure=null"]))
    config = AutoModelForSequenceClassification.from_pretrained("out/student").config
    assert (config.intermediate_size, config.num_attention_heads, config.num_hidden_layers) == (8, 2, 2)


def test_an_export_is_judged_before_training_and_told_the_length(here, monkeypatch):
    page = ["export={int8: dynamic}", "training.max_length=9"]
    seen = []
    monkeypatch.setattr("hfdistill.exporters.gate.require_packages", lambda: None)
    monkeypatch.setattr(
        "hfdistill.recipe.outcome.export", lambda *_, **told: seen.append(told) or SimpleNamespace(table=str)
    )
    run_recipe(read_recipe("page.yaml", overrides=page), smoke=True)
    assert (seen[0]["max_length"], seen[0]["speed"], seen[0]["int8"]) == (9, False, "dynamic")
    assert seen[0]["max_drop"] >= 100
    assert "text" in seen[0]["calibration"].column_names
    (here / "out" / "onnx").mkdir()
    (here / "out" / "onnx" / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match="holds other things"):
        run_recipe(read_recipe("page.yaml", overrides=page))
    assert not (here / "out" / "student").exists()
