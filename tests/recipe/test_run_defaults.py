"""What a run decides where its page is silent."""

from types import SimpleNamespace

import pytest

import hfdistill
from hfdistill.recipe import run_defaults
from hfdistill.recipe.check import check
from hfdistill.recipe.page import Page
from hfdistill.recipe.run import Run
from hfdistill.recipe.run_defaults import is_worth_recording, precision
from tests.conftest import make_fnet, make_tokenizer
from tests.recipe.material import TRAINING, VALUES

pytestmark = pytest.mark.usefixtures("here")
PAGE = ""
READ = ("max_steps", "train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "mixup")


def run_of(**sections):
    return Run(check(Page("page", {**VALUES, **sections})), speaks=False)


def test_bf16_where_it_is_fast_and_nothing_else_is_said(monkeypatch):
    monkeypatch.setattr(run_defaults, "fast_bf16", lambda use_cpu: use_cpu)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    assert precision({"use_cpu": True}) == {"bf16": True}
    assert precision({}) == {"bf16": False}
    assert run_of().args.bf16 is True
    assert run_of(training={**TRAINING, "bf16": False}).args.bf16 is False
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    assert precision({"use_cpu": True}) == {}


@pytest.mark.parametrize(
    ("sections", "recorded"),
    [
        ({}, True),
        ({"teacher_cache": False}, False),
        ({"training": {**TRAINING, "num_train_epochs": 1}}, False),
        ({"training": {**TRAINING, "max_steps": 4}}, False),
        ({"training": {**TRAINING, "max_steps": 5}}, True),
        ({"training": {**TRAINING, "mixup": 0.4}}, False),
        ({"objective": [{"kd": {}}, {"hidden_mse": {"layers": "uniform"}}]}, False),
        ({"objective": "recommended"}, False),
        ({"student": {"static": {}}}, True),
        ({"student": {"static": {}}, "objective": "recommended"}, False),  # which writes few rows anew
        ({"data": {"source": "two", "fresh_copies": True}}, False),
        ({"assistants": [{"shrink": {"layers": 1}}]}, False),
        ({"generations": 2}, False),
        ({"teacher": {"ema": {}}, "student": "teacher"}, False),
    ],
)
def test_a_teacher_whose_answers_are_read_twice_is_recorded(sections, recorded):
    run = run_of(**sections)
    assert run.is_recorded is recorded
    assert ("teacher_cache" in run.options) is recorded


def test_a_teacher_of_many_classes_is_recorded_where_few_rows_would_be_written_anew(monkeypatch):
    run = run_of(student={"static": {}}, objective="recommended")
    assert is_worth_recording(run.recipe, run.rows, run.args) is False
    monkeypatch.setattr("hfdistill.recipe.recommended.MANY_CLASSES", 2)
    assert is_worth_recording(run.recipe, run.rows, run.args) is True


def test_processes_of_several_machines_record_where_the_page_says(monkeypatch):
    run = run_of()
    args = SimpleNamespace(**{name: getattr(run.args, name) for name in READ}, world_size=2)
    assert is_worth_recording(run.recipe, run.rows, args) is True
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert is_worth_recording(run.recipe, run.rows, args) is False


def test_recorded_and_asked_each_time_train_alike(here, capsys):
    """In float32 they differ by the rounding of another batch at most; both say what they do."""
    students = []
    for cache in (None, False):
        page = {**VALUES, "measure": None, "training": {**TRAINING, "output_dir": f"out-{cache}"}}
        hfdistill.run_recipe(check(Page("page", page if cache is None else {**page, "teacher_cache": cache})))
        students.append(hfdistill.load_classifier(f"out-{cache}/student").state_dict())
    assert (here / "out-None/answers").is_dir()
    assert not (here / "out-False/answers").exists()
    assert all((students[0][name] - value).abs().max() < 1e-5 for name, value in students[1].items())
    assert capsys.readouterr().err.count("the teacher answers each row once, before the first step") == 1


def test_a_page_for_the_recorded_teacher_may_name_a_folder_of_its_own():
    run = run_of(teacher_cache="answers")
    assert run.is_recorded is False
    assert run.options == {"teacher_cache": "answers"}


def test_a_teacher_that_reads_padding_is_asked_in_each_step(here, capsys):
    for saved in (make_fnet(2), make_tokenizer()):
        saved.save_pretrained(here / "fnet")
    run = Run(check(Page("page", {**VALUES, "teacher": "fnet", "student": {"static": {}}})), speaks=True)
    assert run.is_recorded is True
    run.prepare_teacher()
    assert run.is_recorded is False
    assert "teacher_cache" not in run.options
    assert "takes no attention_mask and reads padding: it is asked in each step" in capsys.readouterr().err
