"""What an earlier hfdistill wrote is read, gone on with and answered with as then.

`fixtures/version_before` says which version, and how the files came about. Public names and the command line
alone, wherever modules live now. Numbers agree to 1e-5: other machines round otherwise.
"""

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hfdistill import (
    KD,
    CachedTeacher,
    CrossEntropy,
    DistillationArguments,
    DistillationTrainer,
    HiddenMSE,
    MiniLMv2,
    Report,
    Tap,
    load_classifier,
    newest_checkpoint,
    read_recipe,
)

BEFORE = Path(__file__).parent / "fixtures" / "version_before"
CHECKPOINT = BEFORE / "checkpoint-2"


def rows():
    return Dataset.from_dict(json.loads((BEFORE / "texts.json").read_text(encoding="utf-8")))


def trained(folder, objective, teacher, *, resume=None, **options):
    """The student of the checkpoint after 4 steps; adam_epsilon as then, so that rounding stays small."""
    settings = {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "adam_epsilon": 1e-3,
        "save_steps": 2,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
    }
    trainer = DistillationTrainer(
        AutoModelForSequenceClassification.from_pretrained(CHECKPOINT),
        DistillationArguments(str(folder), **{**settings, **options}),
        teacher=teacher,
        objective=objective,
        train_dataset=rows(),
        processing_class=AutoTokenizer.from_pretrained(CHECKPOINT),
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def assert_near(found, expected):
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def hfdistill(monkeypatch, *words):
    """`python -m hfdistill`, in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", ["hfdistill", *words])
    monkeypatch.delitem(sys.modules, "hfdistill.__main__", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("hfdistill", run_name="__main__")
    return ended.value.code


def test_a_checkpoint_is_gone_on_from_to_the_same_weights(tmp_path):
    objective = (
        0.5 * CrossEntropy()
        + 0.5 * KD(temperature=4)
        + HiddenMSE(layers="0:0, 1:2")
        + MiniLMv2(relation_heads=4)
    )
    resume = newest_checkpoint(BEFORE)
    assert resume == str(CHECKPOINT)
    trainer = trained(tmp_path, objective, str(BEFORE / "teacher"), resume=resume)
    assert trainer.state.global_step == 4
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [1, 2, 3, 4]
    end = tmp_path / "checkpoint-4"
    found = {f"student.{name}": value for name, value in load_file(end / "model.safetensors").items()}
    projections = load_file(end / "objective.safetensors")
    found |= {f"objective.{name}": value for name, value in projections.items()}
    assert_near(found, load_file(BEFORE / "end.safetensors"))


def test_recorded_answers_teach_without_their_teacher(tmp_path):
    shutil.copytree(BEFORE / "answers", tmp_path / "answers")
    cached = CachedTeacher(tmp_path / "answers")
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    batch = dict(tokenizer(rows()["text"][:], padding=True, return_tensors="pt"))
    trace = cached.trace(batch, taps={Tap("hidden", 2)})
    torch.testing.assert_close(trace.logits, load_file(BEFORE / "logits.safetensors")["teacher"])
    live = load_classifier(BEFORE / "teacher")
    with torch.no_grad():
        hidden = live(**batch, output_hidden_states=True).hidden_states[2]
    mask = batch["attention_mask"].bool()
    torch.testing.assert_close(trace.readings[Tap("hidden", 2)][mask], hidden[mask], atol=1e-5, rtol=1e-5)
    assert live.config.id2label == cached.config.id2label

    objective = 0.5 * CrossEntropy() + 0.5 * KD(temperature=4) + HiddenMSE(layers="1:2")
    options = {"save_strategy": "no"}
    from_disk = trained(tmp_path / "cached", objective, cached, **options)
    from_life = trained(tmp_path / "live", objective, live, **options)
    assert from_disk.teacher.teacher is None
    assert_near(from_disk.model.state_dict(), from_life.model.state_dict())


def test_a_report_is_shown():
    report = Report.load(BEFORE / "report.json")
    assert (report.student.name, report.teacher.name, report.baseline.name) == ("small", "big", "plain")
    assert report.notes["seeds"] == [0, 1]
    table = report.table()
    for model in (report.student, report.teacher, report.baseline):
        assert model.name in table
        assert f"{100 * model.metrics['accuracy']:.1f} %" in table


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The page where it was, beside what it names."""
    for name in ("teacher", "rows", "run"):
        shutil.copytree(BEFORE / name, tmp_path / name)
    shutil.copy(BEFORE / "page.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "page.yaml"


def test_a_page_has_no_mistakes_and_says_the_same(page, monkeypatch, capsys):
    recipe = read_recipe(page)
    assert str(recipe.objective) == (
        "0.5 * CrossEntropy() + 0.5 * KD(temperature=Linear(4, 1)) + "
        "Until(0.75) * HiddenMSE(layers='1:2', pooling='token')"
    )
    assert recipe.teacher == ("pretrained", {"source": "teacher"})
    assert recipe.training["optim"] == "sgd"
    assert hfdistill(monkeypatch, "train", str(page), "--check") == 0
    assert capsys.readouterr().out == "page.yaml: no mistakes found\n"


def test_the_run_of_a_page_is_gone_on_with_to_the_same_weights(page, monkeypatch, capsys):
    assert hfdistill(monkeypatch, "train", str(page)) == 0
    student = page.parent / "run" / "student"
    state = json.loads((student / "checkpoint-4" / "trainer_state.json").read_text(encoding="utf-8"))
    assert [entry["teacher_rows"] for entry in state["log_history"] if "teacher_rows" in entry] == [4, 4]
    assert_near(load_file(student / "model.safetensors"), load_file(BEFORE / "page_end.safetensors"))


@pytest.mark.parametrize("name", ["cnn", "exits"])
def test_a_student_of_our_own_architecture_answers_as_it_did(name):
    student = AutoModelForSequenceClassification.from_pretrained(BEFORE / name).eval()
    batch = AutoTokenizer.from_pretrained(BEFORE / name)(rows()["text"][:], padding=True, return_tensors="pt")
    with torch.no_grad():
        answer = student(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    found = {name: answer.logits}
    for number, logits in enumerate(getattr(answer, "exit_logits", None) or (), start=1):
        found[f"{name}.{number}"] = logits
    stored = load_file(BEFORE / "logits.safetensors")
    assert_near(found, {key: value for key, value in stored.items() if key.split(".")[0] == name})
