"""What can be known before anything is trained is told before anything is trained."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import Dataset, Features, List, Value

from hfdistill import DistillationTrainer
from hfdistill.data.label_columns import with_class_names
from hfdistill.recipe import RecipeError, read_recipe, rehearsal
from hfdistill.recipe import rows as row_module
from hfdistill.recipe.models import ModelBuilder
from hfdistill.recipe.rows import Rows
from hfdistill.recipe.run import check_recipe, run_recipe
from hfdistill.recipe.schema import Student
from tests.conftest import make_bert, make_tokenizer

PAGE = """teacher: {finetune: {encoder: encoder, epochs: 1}}
student:
  shrink: {layers: 2}
data: {source: reviews.csv, text: review, label: verdict, holdout: 0.25}
training:
  output_dir: out
  use_cpu: true
measure: {speed: false}
"""
EXITS = "{shrink: {layers: 2}, exits: {layers: all}}"
TWO = "data=two"


@pytest.fixture
def untrained(here, monkeypatch):
    def train(*_, **__):
        raise AssertionError("something was trained before everything was checked")

    monkeypatch.setattr(DistillationTrainer, "train", train)
    return here


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["student.shrink.layers=12"], "layers=12 does not fit a teacher of 4 layers.*between 1 and 4"),
        (["student.shrink={width: 5}"], "width=5"),
        (["student={shrink: {layers: [3, 9]}}"], "names block 9"),
        (["assistants=[{shrink: {layers: 7}}]"], "layers=7 does not fit"),
        (["objective=[kd, {hidden_mse: {layers: '1:2, 2:9'}}]"], "9"),
        (["student={bilstm: {}}", "export={}"], "no ONNX form"),
        ([f"student={EXITS}", "export={}"], "exits and no threshold"),
        (["data.source=nowhere.csv"], "nowhere.csv"),
        (["data.text=body"], "no column 'body'"),
        (["data.label=verdct"], "Did you mean label='verdict'"),
        (["data.label_names=[only]"], "label_names"),
        (["data.holdout=0.001"], "holdout: 0.001 keeps 0 of 40"),
        ([TWO, "data.evaluation=test"], "no split 'test'"),
        (["teacher.finetune.encoder=missing/folder"], "missing/folder"),
        (["training.mixup=-1"], "mixup is the a of Beta"),
        (["training.output_dir=reviews.csv/out"], "reviews.csv is a file"),
        ([TWO, "theseus={}", "student.shrink.layers=3"], "cannot be dealt out evenly"),
    ],
)  # fmt: skip
def test_a_run_is_refused_before_anything_is_trained(untrained, overrides, match):
    recipe = read_recipe("page.yaml", overrides=overrides)
    for start in (run_recipe, check_recipe):
        with pytest.raises((ValueError, OSError), match=match):
            start(recipe)
    assert not Path("out").exists()


def test_a_folder_that_cannot_be_written_is_told_first(untrained, monkeypatch):
    def touch(path, *_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", touch)
    with pytest.raises(ValueError, match=r"cannot be written .Permission denied.. Name a folder"):
        run_recipe(read_recipe("page.yaml"))


def test_packages_that_an_export_needs_are_asked_for_first(untrained, monkeypatch):
    monkeypatch.setattr("hfdistill.exporters.onnx.PACKAGES", ("no_such_package",))
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'hfdistill\[export\]'"):
        run_recipe(read_recipe("page.yaml", overrides=["export={}"]))


def test_a_check_trains_and_leaves_nothing(untrained):
    check_recipe(read_recipe("page.yaml", overrides=["assistants=[{shrink: {layers: 3}}]", "export={}"]))
    assert not Path("out").exists()


def test_a_rehearsal_changes_no_number(here, monkeypatch):
    """With it and without, the same heads are drawn and the same weights come out."""
    run_recipe(read_recipe("page.yaml", overrides=["measure=null"]))
    monkeypatch.setattr("hfdistill.recipe.rehearsal.rehearse", lambda run: None)
    run_recipe(read_recipe("page.yaml", overrides=["measure=null", "training.output_dir=straight"]))
    for stage in ("teacher", "student"):
        weights = [Path(out, stage, "model.safetensors").read_bytes() for out in ("out", "straight")]
        assert weights[0] == weights[1]


def test_a_tokenizer_without_a_fast_form_is_not_exported(untrained, monkeypatch):
    class Slow(type(make_tokenizer())):
        is_fast = False

    model = make_bert(4, seed=1)
    model.save_pretrained("slow")
    make_tokenizer().save_pretrained("slow")
    monkeypatch.setattr(
        "hfdistill.network.loading.AutoTokenizer.from_pretrained",
        lambda *_, **__: Slow.from_pretrained("slow"),
    )
    with pytest.raises(ValueError, match=r"has no tokenizer.json"):
        run_recipe(read_recipe("page.yaml", overrides=["export={}"]))


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("training.batch_size=8", "Did you mean per_device_train_batch_size?"),
        ("training.lr=1e-4", "Did you mean learning_rate?"),
        ("training.epochs=3", "Did you mean num_train_epochs?"),
        ("training.warmup_ratio=0.1", "Did you mean warmup_steps?"),
        ("training.scheduler=linear", "Did you mean lr_scheduler_type?"),
        ("data.file=x.csv", "Did you mean source?"),
        ("student.shrink.num_layers=3", "Did you mean layers?"),
        ("objective=[{kd: {T: 2}}]", "Did you mean temperature?"),
        ("data.label_names=[0, 1]", "it is a list of text each; quote numbers, as in ['0', '1']"),
        ("student.shrink.layers=[1, two]", "a whole number or a list of a whole number each"),
        ("training.per_device_train_batch_size=0", "found 0, and it starts from 1"),
        ("training.num_train_epochs=0", "found 0, which trains nothing"),
        ("training.num_train_epochs=-1", "found -1, and it starts from 0"),
        ("training.learning_rate=-1e-4", "found -0.0001, and it starts from 0"),
        ("training.gradient_accumulation_steps=0", "it starts from 1"),
        ("training.max_length=0", "found 0, and it starts from 3"),
        ("teacher.finetune.epochs=0", "epochs is 0, and a teacher that is not trained knows nothing"),
        ("teacher.finetune.learning_rate=0", "learning_rate is 0"),
        ("card={licence: mit}", "Did you mean license?"),
        ("card={language: [1]}", "text or a list of text each"),
    ],
)  # fmt: skip
def test_a_key_or_number_that_cannot_be_is_told_with_what_to_type(here, override, match):
    with pytest.raises(RecipeError) as caught:
        read_recipe("page.yaml", overrides=[override])
    (mistake,) = caught.value.mistakes
    assert match in str(mistake)


def test_a_folder_or_a_mistyped_page_is_told_with_the_pages_that_are_there(here):
    for path, match in ((".", "there are page.yaml"), ("pgae.yaml", "Did you mean page.yaml?")):
        with pytest.raises(RecipeError, match=r"cannot be read") as caught:
            read_recipe(path)
        assert match in str(caught.value)
    Path("empty").mkdir()
    with pytest.raises(RecipeError, match=r"empty: cannot be read .*hfdistill init FILE"):
        read_recipe("empty")


def test_packages_that_a_report_lacks_are_said(monkeypatch):
    monkeypatch.setattr(rehearsal, "find_spec", lambda name: None)
    lines = []
    run = SimpleNamespace(
        recipe=SimpleNamespace(export=None, measurement={}),
        rows=SimpleNamespace(task="token"),
        terminal=SimpleNamespace(line=lines.append),
    )
    rehearsal._check_packages(run)
    assert lines == [
        "no pictures will be drawn: pip install 'hfdistill[plots]'",
        "no entity F1 will be measured: pip install 'hfdistill[tokens]'",
    ]
    monkeypatch.setattr(rehearsal, "find_spec", lambda name: "there")
    rehearsal._check_packages(run)
    assert len(lines) == 2


def test_rows_of_several_labels_make_a_new_classifier_and_rows_of_none_do_not():
    features = Features({"text": Value("string"), "label": List(Value("float32"), length=2)})
    several = Dataset.from_dict({"text": ["a"], "label": [[1.0, 0.0]]}, features=features)
    assert Rows(several, several, several).task == "multi_label"
    assert Rows(several, several, several).class_names() == ["LABEL_0", "LABEL_1"]
    named = with_class_names(several, ["rude", "toxic"])
    assert Rows(named, named, named).class_names() == ["rude", "toxic"]
    texts = several.remove_columns("label")
    with pytest.raises(ValueError, match=r"the data has neither. Fine-tune a model elsewhere"):
        Rows(texts, texts, texts).class_names()
    with pytest.raises(
        ValueError, match="asked about texts gives each one class, and these rows have several"
    ):
        ModelBuilder(Rows(named, named, named), seed=0, max_length=None).asked(
            "zero_shot", {"model": "org/nli"}
        )


def test_splits_that_hold_nothing_or_are_not_there_are_refused(monkeypatch):
    train, none = Dataset.from_dict({"text": ["a"]}), Dataset.from_dict({"text": []})
    monkeypatch.setattr(row_module, "_evaluation_split", lambda *_, **__: "test")
    with pytest.raises(ValueError, match=r"The split 'test' has no row to measure on\. Name another"):
        row_module._divided(
            {"train": train, "test": none}, SimpleNamespace(train="train"), seed=0, searching=False
        )
    monkeypatch.setattr(row_module, "load", lambda **_: {"train": train})
    unlabelled = {"source": "texts", "split": "extra"}
    with pytest.raises(ValueError, match=r"has no split 'extra', found \['train'\]\. Name one"):
        row_module._with_text(train, unlabelled, evaluation=train, seed=0, smoke=False)


def test_a_student_of_nothing_that_has_a_tokenizer_is_refused():
    with pytest.raises(ValueError, match=r"names a model, whose .* `shrink: \{source: …\}`"):
        ModelBuilder.student(None, Student("shrink", {"layers": 2}), of=None, origin=None, like=None)
