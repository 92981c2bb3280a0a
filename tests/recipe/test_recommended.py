"""What a page leaves to the recommended recipe: start, rate and copies, each with its reason and its key."""

from types import SimpleNamespace

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value, concatenate_datasets
from transformers import AlbertConfig, AlbertForSequenceClassification

from hfdistill import (
    Chain,
    FreshCopies,
    Mask,
    NGramSample,
    Refit,
    load,
    load_classifier,
    shrink,
)
from hfdistill.recipe import RecipeError, read_recipe
from hfdistill.recipe import recommended as module
from hfdistill.recipe.rows import Rows
from hfdistill.recipe.run import Run, run_recipe
from tests.conftest import make_bert

PAGE = """teacher: teacher
student:
  shrink: {layers: 2}
data: two
training: {output_dir: out, max_steps: 2, use_cpu: true, per_device_train_batch_size: 16, save_strategy: "no"}
measure: null
"""
OBJECTIVE = (
    "0.5 * CrossEntropy() + 0.5 * KD(temperature=4) + 1 * HiddenMSE(layers='uniform', pooling='token') + "
    "1 * TinyBERTAttention(layers='uniform')"
)

KEPT = {"freeze_embeddings": True, "student_dropout": 0.0}
"""What a student of its teacher's width trains with."""


@pytest.fixture
def trained(here, monkeypatch):
    """Runs a page and keeps the trainer of every stage, before it trains, with the start's weights."""
    stages, make = {}, Run.trainer

    def watched(self, stage, *args, **options):
        trainer = make(self, stage, *args, **options)
        start = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
        if "folder" not in options:
            stages[stage] = SimpleNamespace(trainer=trainer, start=start)
        return trainer

    monkeypatch.setattr(Run, "trainer", watched)

    def run(*overrides):
        stages.clear()
        run_recipe(read_recipe("page.yaml", overrides=overrides))
        return stages

    return run


def starts_as(stage, model):
    own, other = stage.start, model.state_dict()
    return own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)


def test_a_page_without_an_objective_is_the_script_with_all_of_it(trained, capsys):
    student = trained()["student"]
    rows, tokenizer = load("two")["train"], student.trainer.processing_class
    fitted = shrink(load_classifier("teacher"), layers=2, fit=Refit(rows, rows=64), tokenizer=tokenizer)
    assert starts_as(student, fitted)
    assert str(student.trainer.objective) == OBJECTIVE
    assert student.trainer.args.learning_rate == 2.1e-4  # 3e-4 · √(16 / 32), width 16
    assert student.trainer.args.warmup_steps == 0.1
    table = "bert.embeddings.word_embeddings.weight"
    assert student.trainer.model.state_dict()[table].equal(student.start[table])
    copies = FreshCopies(rows, Chain(Mask("[MASK]"), NGramSample(p=0.25)), seed=42, in_place=True)
    assert student.trainer.train_dataset.fingerprint() == copies.fingerprint()
    said = " ".join(capsys.readouterr().err.split())
    choices = [
        f"recommended: {OBJECTIVE}",
        "what is kept is fitted to the teacher on 64 training texts",
        "word embeddings stay as they are",
        "no dropout",
        "learning rate 0.00021 (width 16, 16 rows a step)",
        "half of the rows are written anew in each epoch (64 rows are few; up to 5,000)",
    ]
    assert "; ".join(choices) in said
    assert said.count("recommended:") == said.count("fitting the student to its teacher on 64 texts") == 1


def test_the_word_is_the_same_as_nothing(here):
    assert read_recipe("page.yaml", overrides=["objective=recommended"]).objective == "recommended"
    assert read_recipe("page.yaml").objective == "recommended"


def test_each_part_has_a_key_that_switches_it_off(trained):
    off = [
        "student.shrink.fit=false",
        "data={source: two, fresh_copies: false}",
        "training.learning_rate=1e-3",
        "training.freeze_embeddings=false",
        "training.student_dropout=null",
    ]
    student = trained(*off, "training.warmup_steps=0")["student"]
    assert starts_as(student, shrink(load_classifier("teacher"), layers=2))
    assert len(student.trainer.train_dataset) == 64
    assert not isinstance(student.trainer.train_dataset, FreshCopies)
    assert (student.trainer.args.learning_rate, student.trainer.args.warmup_steps) == (1e-3, 0)
    assert student.trainer.model.get_input_embeddings().weight.requires_grad
    assert student.trainer.args.student_dropout is None
    assert str(student.trainer.objective) == OBJECTIVE


def test_terms_of_a_page_switch_all_of_it_off(trained, capsys):
    student = trained("objective=[cross_entropy, kd]")["student"]
    assert starts_as(student, shrink(load_classifier("teacher"), layers=2))
    assert not isinstance(student.trainer.train_dataset, FreshCopies)
    assert (student.trainer.args.learning_rate, student.trainer.args.warmup_steps) == (5e-5, 0)
    assert "recommended" not in capsys.readouterr().err


def test_the_baseline_has_the_rate_and_nothing_of_the_teacher(trained):
    stages = trained("measure={baseline: true, speed: false}")
    baseline = stages["baseline"]
    assert starts_as(baseline, shrink(load_classifier("teacher"), layers=2))
    assert not starts_as(baseline, stages["student"].trainer.model)
    assert str(baseline.trainer.objective) == "1 * CrossEntropy()"
    assert (baseline.trainer.args.student_dropout, stages["student"].trainer.args.student_dropout) == (
        None,
        0,
    )
    assert not isinstance(baseline.trainer.train_dataset, FreshCopies)
    assert baseline.trainer.args.learning_rate == stages["student"].trainer.args.learning_rate


def test_a_finetuned_teacher_keeps_its_own_rate_and_a_fit_of_the_page_goes_before(trained):
    overrides = ["teacher={finetune: {encoder: encoder, epochs: 1, learning_rate: 2e-5}}"]
    stages = trained(*overrides, "student.shrink.fit=comments.csv", "measure={baseline: true, speed: false}")
    assert (stages["teacher"].trainer.args.learning_rate, stages["teacher"].trainer.args.warmup_steps) == (
        2e-5,
        0,
    )
    assert stages["student"].trainer.args.learning_rate == 2.1e-4
    assert stages["student"].trainer.model.config.shrunk_from["fitted_on"] == 24
    assert stages["baseline"].trainer.model.config.shrunk_from["fitted_on"] == 24


def test_copies_with_terms_of_ones_own(trained):
    student = trained("objective=[kd]", "data={source: two, fresh_copies: true}")["student"]
    assert student.trainer.train_dataset.in_place


def of_classes(classes):
    """Sixty-four rows of so many classes."""
    rows = {"text": [f"number {i}" for i in range(64)], "label": [i % classes for i in range(64)]}
    return Dataset.from_dict(rows, Features(text=Value("string"), label=ClassLabel(num_classes=classes)))


def decided(**changes):
    """A `Recommended` of a page, with a stand-in for rows and arguments."""
    page = {
        "teacher": ("pretrained", {}),
        "objective": "recommended",
        "options": {},
        "training": {},
        "theseus": None,
    }
    page["student"] = SimpleNamespace(kind="shrink", arguments={"layers": 2}, changes={})
    page["splits"] = SimpleNamespace(fresh_copies=None, augment=None)
    args = {"max_steps": -1, "num_train_epochs": 3, "train_batch_size": 32, "gradient_accumulation_steps": 1}
    args |= {"world_size": 1, "max_length": None, "mixup": None, "seed": 1}
    rows = changes.pop("rows", load("two")["train"])
    args |= {name: changes.pop(name) for name in list(changes) if name in args}
    recipe = SimpleNamespace(**{**page, **changes})
    return module.Recommended(recipe, Rows(rows, rows, rows), SimpleNamespace(**args))


@pytest.mark.parametrize(
    ("width", "options", "rate"),
    [
        (384, {}, 3e-4),
        (192, {}, 3e-4),
        (768, {}, 1.5e-4),
        (384, {"train_batch_size": 8}, 1.5e-4),
        (384, {"train_batch_size": 8, "gradient_accumulation_steps": 2, "world_size": 2}, 3e-4),
        (384, {"train_batch_size": 64}, 3e-4),
        (1024, {"train_batch_size": 16}, 8e-5),
    ],
)
def test_the_rate_falls_with_width_and_with_few_rows_a_step(here, width, options, rate):
    model = make_bert(1, hidden_size=width, intermediate_size=4)
    chosen = decided(**options)
    settings = {"warmup_steps": 0.1, "learning_rate": rate}
    plan = chosen.recipe.student
    assert chosen.settings(plan, model, is_taught=False) == settings
    assert chosen.settings(plan, model, is_taught=True) == {**settings, **KEPT}
    narrow = SimpleNamespace(kind="shrink", arguments={"layers": 2, "heads": 1}, changes={})
    assert chosen.settings(narrow, model, is_taught=True) == settings


@pytest.mark.parametrize(("classes", "rate"), [(19, 3e-4), (20, 5e-4), (64, 5e-4)])
def test_many_classes_take_a_higher_rate(here, classes, rate):
    chosen = decided(rows=of_classes(classes))
    assert chosen.settings(chosen.recipe.student, make_bert(1), is_taught=True)["learning_rate"] == rate
    told = f", {classes} classes" if classes > 19 else ""
    assert chosen.choices["rate"] == f"learning rate {rate:g} (width 16, 32 rows a step{told})"


def test_rows_without_labels_have_no_number_of_classes(here):
    rows = of_classes(20).remove_columns("label")
    assert module.many_classes(Rows(rows, rows, rows)) == 0


@pytest.mark.parametrize(("kind", "rate"), [("static", 1e-3), ("bilstm", 1e-3), ("pretrained", None)])
def test_the_rate_of_other_students(here, kind, rate):
    student = SimpleNamespace(kind=kind, arguments={}, changes={})
    settings = decided(student=student).settings(student, make_bert(1), is_taught=True)
    assert settings.get("learning_rate") == rate
    assert not KEPT.keys() & settings.keys()


def test_an_assistant_has_the_rate_and_the_start_of_its_own_kind(trained, capsys):
    """Word vectors take 1e-3, with which the layers of an assistant would be lost."""
    stages = trained("student={static: {width: 8}}", "assistants=[{shrink: {layers: 2}}]")
    rates = {name: stage.trainer.args.learning_rate for name, stage in stages.items()}
    assert rates == {"assistant-1": 2.1e-4, "student": 1e-3}
    lines = " ".join(capsys.readouterr().err.split()).split("recommended: ")[1:]
    assert ["what is kept is fitted" in line for line in lines] == [True, False]


@pytest.mark.parametrize(("copies", "count"), [(1, 64), (10, 128), (80, 320), (400, 1500)])
def test_a_sixteenth_of_the_rows_is_fitted_to(here, copies, count):
    chosen = decided(rows=concatenate_datasets([load("two")["train"]] * copies))
    assert chosen.refit(chosen.recipe.student, make_bert(4)).rows == count


def test_why_a_student_is_not_fitted(here):
    teacher = make_bert(4)
    cases = {
        "it is not cut from the model that teaches": [decided(), "teacher"],
        "its blocks take the teacher's places": [decided(theseus={}), teacher],
        "there are too few texts": [decided(rows=load("two")["train"].select(range(9))), teacher],
    }
    for reason, (chosen, whole) in cases.items():
        assert chosen.refit(chosen.recipe.student, whole) is None
        assert chosen.choices["start"].endswith(f"not fitted: {reason}")

    albert = AlbertForSequenceClassification(
        AlbertConfig(
            hidden_size=8, embedding_size=4, intermediate_size=8, num_attention_heads=2, vocab_size=9
        )
    )
    chosen = decided()
    assert chosen.refit(chosen.recipe.student, albert) is None
    assert "cannot fit the blocks of this albert" in chosen.choices["start"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"teacher": ("answers", {})}, "a teacher of the kind 'answers' is not asked about new text"),
        ({"options": {"teacher_cache": "x"}}, "the teacher's answers are recorded"),
        ({"mixup": 0.4}, "the page has augmentations of its own"),
        ({"few": 63}, "64 rows are more than 63"),
        ({"mask": None}, "student and teacher have no mask token in common"),
        ({"mask": "<mask>"}, "student and teacher have no mask token in common"),
        ({"rows": of_classes(20)}, "20 classes are many; up to 19"),
        ({"words": True}, "the data holds words with a label each"),
    ],
)
def test_why_no_row_is_written_anew(here, monkeypatch, changes, reason):
    monkeypatch.setattr(module, "FEW_ROWS", changes.pop("few", 5000))
    mask = SimpleNamespace(mask_token=changes.pop("mask", "[MASK]"))
    rows = changes.pop("rows", None) or load("two")["train"]
    rows = rows.rename_column("text", "tokens") if changes.pop("words", False) else rows
    chosen = decided(rows=rows, **changes)
    teacher = SimpleNamespace(tokenizer=SimpleNamespace(mask_token="[MASK]"))
    assert chosen.with_copies(rows, teacher, mask) is rows
    assert chosen.choices["copies"] == f"no row is written anew: {reason}"


def test_copies_that_a_page_asks_for_and_cannot_have_are_refused(here):
    splits = SimpleNamespace(fresh_copies=True, augment=None)
    chosen = decided(splits=splits, teacher=("answers", {}), objective=None)
    with pytest.raises(ValueError, match="fresh_copies: true cannot be followed: a teacher of the kind"):
        chosen.with_copies(load("two")["train"], None, SimpleNamespace(mask_token="[MASK]"))


def test_without_a_teacher_nothing_is_recommended(here):
    overrides = ["teacher=null", "student.shrink.source=encoder"]
    assert read_recipe("page.yaml", overrides=overrides).objective is None
    with pytest.raises(RecipeError, match="learns from a teacher, and there is none"):
        read_recipe("page.yaml", overrides=[*overrides, "objective=recommended"])


def test_a_run_may_grow_longer(trained):
    """The start of a run that goes on is that of its first steps, whatever its length."""
    on = "training.save_strategy=epoch"
    first = trained("training.max_steps=4", on)["student"]
    longer = trained("training.max_steps=8", on)["student"]
    assert longer.trainer.state.global_step == 8
    assert longer.start.keys() == first.start.keys()
    assert all(torch.equal(longer.start[name], first.start[name]) for name in first.start)


def test_the_report_remembers_what_was_chosen(here):
    report = run_recipe(read_recipe("page.yaml", overrides=["measure={speed: false}"]))
    assert report.notes["objective"] == OBJECTIVE
    assert report.notes["recommended"] == {
        "start": "what is kept is fitted to the teacher on 64 training texts",
        "embeddings": "word embeddings stay as they are",
        "dropout": "no dropout",
        "rate": "learning rate 0.00021 (width 16, 16 rows a step)",
        "copies": "half of the rows are written anew in each epoch (64 rows are few; up to 5,000)",
    }
    assert "start: what is kept is fitted to the teacher" in (here / "out/student/README.md").read_text()


def test_a_fallback_is_told_in_the_same_line(here, capsys):
    run_recipe(read_recipe("page.yaml", overrides=["student={static: {width: 8}}"]))
    said = " ".join(capsys.readouterr().err.split())
    logits = "recommended: 0.5 * CrossEntropy() + 0.5 * KD(temperature=4)"
    assert f"{logits}; learning rate 0.001 (a static student); half of the rows" in said
    assert "nothing more of the teacher is compared: the student has no layers that are known" in said
