"""What bfloat16 does to a teacher is told before it teaches, and float32 taken where it does much."""

import json

import numpy as np
import pytest
import torch

import hfdistill
from hfdistill.recipe import rounding, run_defaults
from hfdistill.recipe.check import check
from hfdistill.recipe.page import Page
from hfdistill.recipe.rounding import Rounding, roundings
from hfdistill.recipe.run import Run
from tests.conftest import make_bert, make_dataset, make_tokenizer
from tests.recipe import material

PAGE = ""
TRAINING = {**material.TRAINING, "num_train_epochs": 1}
VALUES = {**material.VALUES, "training": TRAINING}


def run_of(**sections):
    return Run(check(Page("page", {**VALUES, **sections})), speaks=True)


def test_the_numbers_are_those_of_two_passes():
    teacher, rows = make_bert(2, seed=1), make_dataset(40)
    asked = hfdistill.ModelTeacher(teacher)
    asked.tokenizer = make_tokenizer()
    (found,) = roundings(asked, rows, source=None, device=torch.device("cpu"), max_length=32)
    batch = make_tokenizer()(rows["text"][:], padding=True, return_tensors="pt")
    with torch.no_grad():
        exact = teacher(**batch).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = teacher(**batch).logits.float()
    assert found.answers == 40
    assert found.largest == pytest.approx((exact - rounded).abs().max().item(), rel=0.5)
    assert found.mean == pytest.approx((exact - rounded).abs().mean().item(), rel=0.5)
    assert found.deviation == pytest.approx(exact.numpy().std(), rel=1e-4)
    assert found.largest > 0


@pytest.mark.parametrize(
    ("exact", "rounded", "task", "changed", "small"),
    [
        ([[0, 1], [2, 0]], [[0, 1.1], [2, 0]], "single_label", 0.0, True),
        ([[0, 1], [2, 0]], [[1.1, 1], [2, 0]], "single_label", 0.5, False),
        ([[0, 1], [2, 0]], [[0, 2], [3, 0]], "single_label", 0.0, False),
        ([[-1, 1], [2, -1]], [[-1, 1], [2, 0.1]], "multi_label", 0.5, False),
        ([[1.0], [3.0]], [[1.05], [3.0]], "regression", None, True),
        ([[1.0], [3.0]], [[1.5], [3.0]], "regression", None, False),
        ([[0, 1], [2, 0]], [[0, np.nan], [2, 0]], "single_label", 0.0, False),
    ],
)
def test_what_is_much(exact, rounded, task, changed, small):
    found = Rounding.between(np.array(exact, np.float32), np.array(rounded, np.float32), task)
    assert found.changed == changed
    assert found.is_small is small


def test_a_page_tells_it_first_and_in_its_report(here, capsys, monkeypatch):
    monkeypatch.setattr(run_defaults, "fast_bf16", lambda use_cpu: True)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    for most, bf16 in ((1.0, True), (-1.0, False)):
        monkeypatch.setattr(rounding, "MOST_CHANGED", most)
        monkeypatch.setattr(rounding, "MOST_MOVED", 10.0)
        page = {**VALUES, "measure": {"speed": False}, "training": {**TRAINING, "output_dir": f"o{most}"}}
        hfdistill.run_recipe(check(Page("page", page)))
        lines = " ".join(capsys.readouterr().err.split())
        assert lines.index("bfloat16 moves the teacher's logits by ") < lines.index("student: 1 of ")
        assert ("training.bf16=true computes in bfloat16 in any case" in lines) is not bf16
        notes = json.loads((here / f"o{most}" / "student" / "report.json").read_text())["notes"]
        assert notes["bfloat16"][0].startswith("bfloat16 moves the teacher's logits by ")
        assert len(notes["bfloat16"]) == (1 if bf16 else 2)


def test_what_the_page_says_of_bf16_is_done(here, monkeypatch):
    monkeypatch.setattr(rounding, "MOST_CHANGED", -1.0)
    run = run_of(training={**TRAINING, "bf16": True})
    run.prepare_teacher()
    assert run.args.bf16 is True
    assert run.rounding[0].startswith("bfloat16 moves the teacher's logits by ")
    run = run_of(training={**TRAINING, "bf16": False})
    run.prepare_teacher()
    assert run.rounding == []


def test_values_are_counted_and_not_said_to_change():
    values = Rounding(40, 0.5, 0.25, 2.0, None)
    assert str(values) == (
        "logits by 0.25 on average and 0.5 at most, where their standard deviation is 2 (40 values)"
    )


@pytest.mark.parametrize("teacher", [make_bert(1, seed=1), object()], ids=["no tokenizer", "no teacher"])
def test_what_cannot_be_asked_is_not_rounded(teacher):
    device = torch.device("cpu")
    assert list(roundings(teacher, make_dataset(4), source=None, device=device, max_length=8)) == []
