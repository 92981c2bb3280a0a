"""What is said of the student that was found, and in which form it is written and judged."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from hfdistill.recipe.goal import outcome as module
from hfdistill.recipe.goal.candidates import Candidate
from hfdistill.recipe.goal.evidence import Evidence
from hfdistill.recipe.goal.outcome import NO_GATE, Choice, Outcome, Tried
from hfdistill.recipe.goal.sizing import Size, Sizes
from hfdistill.recipe.goal.target import Goal
from hfdistill.recipe.goal.trials import Look
from hfdistill.recipe.schema import Student

REPORTED = ("the rows", "to report")
SMALL, LARGE = Size("pytorch", False, 2.0, 10.0), Size("pytorch", False, 9.0, 90.0)


def tried(name, *kept, size=SMALL, rows=400, form="pytorch", pruned=False):
    """A cut that kept so much of a teacher with a metric of 1 at the end of each rung."""
    looks = [
        Look(rung, form, pruned, Evidence(share, 1.0, rows, spread=0.02), 5.0, 1.0, 2.0, "accuracy")
        for rung, share in enumerate(kept)
    ]
    cut = Candidate(name, Student("shrink", {"layers": 2}), fits=True)
    return Tried(cut, Sizes((size or LARGE,)), size, tuple(looks))


def outcome(verdict="kept", *others, best=None, train=range(9000), export=None, metric="accuracy", page=None):
    best = best or tried("2 layers", 0.99)
    run = SimpleNamespace(
        recipe=SimpleNamespace(export=export, page=page),
        rows=SimpleNamespace(train=train),
        args=SimpleNamespace(output_dir="out", max_length=64),
    )
    trials = SimpleNamespace(judge=SimpleNamespace(metric=metric), tokens=700, epochs=lambda _: 3)
    rows = SimpleNamespace(evaluation=REPORTED)
    goal = Goal(keep="98%", max_ms=5.0)
    choice = Choice(best, best.looks[-1], verdict)
    return Outcome(run, goal, trials, choice, (best, *others), rows, teacher="the teacher")


def seen(name, rung, kept, spread, share=0.0):
    look = Look(rung, "pytorch", False, Evidence(kept, 1.0, 374, spread), 5.0, share, 3 * share, "accuracy")
    return replace(tried(name), looks=(look,))


def test_the_likeliest_look_is_chosen_where_none_is_proven():
    """Training may do harm, and 1.3 points above tell more than 1.7 with a wider interval."""
    six, three, done = (
        seen("6", 0, 0.993, 0.01),
        seen("3", 1, 0.997, 0.02, 1 / 3),
        seen("3", 2, 0.987, 0.02, 1.0),
    )
    three = replace(three, looks=(*three.looks, *done.looks))
    worse = replace(six, looks=(*six.looks, *seen("6", 1, 0.977, 0.01, 1 / 3).looks))
    chosen = Choice.best([three, worse], 0.98)
    assert (chosen.tried.candidate.name, chosen.look.rung, chosen.verdict) == ("6", 0, "likely")
    assert Choice.best([three], 0.98).look.rung == 1
    missed = Choice.best([three, worse], 0.999)  # the one that keeps most, at whichever rung
    assert (missed.tried.candidate.name, missed.look.rung, missed.verdict) == ("3", 1, "missed")
    same = [seen("2", 0, 0.9, 0.01), seen("2", 1, 0.9, 0.01, 1 / 3)]
    assert Choice.best(same, 0.95).look.rung == 1


def report_of(agreement=None, ms=None):
    speed = None if ms is None else SimpleNamespace(latency_ms_p50=ms)
    student = SimpleNamespace(fidelity=None if agreement is None else {"agreement": agreement}, speed=speed)
    return SimpleNamespace(student=student)


def test_advice_is_given_where_the_goal_is_not_proven(monkeypatch):
    monkeypatch.setattr(module, "bounded_by_teacher", lambda _: "")
    assert list(outcome("kept")._advice(report_of())) == []
    (prove,) = outcome("likely", best=tried("2 layers", 0.99))._advice(report_of())
    rows = int(prove.split("some ")[1].split(" ")[0].replace(",", ""))
    assert rows == pytest.approx(400 * (1.645 * 0.02 / 0.01) ** 2, rel=0.01)
    (prove,) = outcome("likely", best=tried("2 layers", 0.98))._advice(report_of())
    assert "far more rows than there are instead of 400" in prove


def test_a_missed_goal_says_what_would_help_and_nothing_else(monkeypatch):
    monkeypatch.setattr(module, "bounded_by_teacher", lambda _: "")
    assert list(outcome("missed", best=tried("2 layers", 0.9, 0.902))._advice(report_of())) == [
        "Missing: 7.8 points of what the teacher keeps."
    ]
    monkeypatch.setattr(module, "bounded_by_teacher", lambda _: "it is right on 60 %.")
    found = outcome(
        "missed", tried("4 layers", size=None), best=tried("2 layers", 0.8, 0.9), train=range(1200)
    )
    assert list(found._advice(report_of())) == [
        "Missing: 8.0 points of what the teacher keeps.",
        "Longer training: it was still gaining from rung to rung. Type more epochs.",
        "More layers: 4 layers takes 9.0 ms, 90.0 MB, beyond 5 ms.",
        "More text: it learned from 1,200 rows. Texts like them need no labels (`unlabelled:` under "
        "`data:`).",
        "A better teacher: it is right on 60 %.",
    ]


@pytest.mark.parametrize(
    ("form", "asked", "options"),
    [
        ("pytorch", None, None),
        ("pytorch", {"int8": "static"}, {"max_length": 64, "int8": "static"}),
        ("onnx", None, {"max_length": 64, "int8": None, "max_drop": NO_GATE, "engine": "onnx"}),
        (
            "int8",
            {"max_length": 32, "max_drop": 0.1},
            {"max_length": 32, "int8": "dynamic", "max_drop": NO_GATE, "engine": "onnx"},
        ),
    ],
)
def test_it_is_exported_in_the_form_that_was_judged(monkeypatch, form, asked, options):
    monkeypatch.setattr(module, "export", lambda *places, **options: (places, options))
    found = outcome(best=tried("2 layers", 0.99, form=form), export=asked)._exported()
    if options is None:
        assert found is None
    else:
        given = {"data": REPORTED, "teacher": "the teacher"}
        assert found == ((str(Path("out/student")), Path("out/onnx")), {**given, **options})


def exported(metric, **variants):
    return SimpleNamespace(metric=metric, of=variants.__getitem__)


def test_what_is_reported_is_what_the_form_that_runs_keeps(monkeypatch):
    monkeypatch.setattr(Outcome, "_judged", lambda self: 0.25)
    files = exported(
        "accuracy",
        int8=SimpleNamespace(
            quality=0.72, teacher_agreement=0.85, speed=SimpleNamespace(latency_ms_p50=1.25)
        ),
        teacher=SimpleNamespace(quality=0.9),
    )
    runs = tried("2 layers", 0.99, form="int8")
    assert outcome(best=runs)._reported(report_of(), files) == pytest.approx(0.8)
    assert outcome(best=runs, metric="agreement")._reported(report_of(), files) == 0.85
    assert outcome(best=runs, metric="macro_f1")._reported(report_of(), files) == 0.25
    worthless = exported("accuracy", int8=SimpleNamespace(quality=0.7), teacher=SimpleNamespace(quality=0.0))
    assert outcome(best=runs)._reported(report_of(), worthless) is None
    assert outcome(metric="agreement")._reported(report_of(agreement=0.7), files) == 0.7
    assert outcome(metric="agreement")._reported(report_of(), None) is None
    assert outcome(best=runs)._costs(report_of(ms=4.0), files) == ", in 1.2 ms a row"
    assert outcome()._costs(report_of(ms=4.0), files) == ", in 4.0 ms a row"
    assert outcome()._costs(report_of(), None) == ""
    slow = " where 5 were asked for: is this machine busy?"
    assert outcome()._costs(report_of(ms=60.1), None) == f", in 60.1 ms a row{slow}"


@pytest.mark.parametrize(
    ("cut", "form", "share", "sentence"),
    [
        (True, "pytorch", 1.0, "cut from {base}, fitted to it by least squares, distilled from it"),
        (True, "int8", 0.0, "cut from {base}, fitted to it by least squares, not trained"),
        (False, "onnx", 0.0, "{base} itself, not trained"),
    ],
)
def test_what_it_is_and_how_it_runs_is_said(cut, form, share, sentence):
    size, look = replace(SMALL, form=form), tried("x", 0.99, form=form).looks[0]
    look = replace(look, share=share, epochs=share)
    whole = Candidate("2 layers", Student("shrink", {"layers": 2}), fits=cut, is_whole=not cut)
    found = outcome(best=Tried(whole, Sizes((size,)), size, (look,)))
    runs = {"pytorch": "", "onnx": ", to run as ONNX,", "int8": ", to run in 8 bits as ONNX,"}[form]
    assert found._origin() == f"It was {sentence}, and chosen among 1 candidate{runs}".replace(
        "was {base}", "is {base}"
    )
    first, _, kept, effort, _ = found._summary(report_of(), None, 0.97)
    what = ", which is the whole teacher, not trained" if not cut else ""
    how = "after 1 epoch" if share else "fitted and not trained" if cut else "not trained"
    assert first.startswith(f"2 layers ({size}){what}")
    assert f", {how}: keeps 98 %" in first
    assert "keeps 97.0 %, less than the 98 % asked for." in kept
    assert (
        effort
        == f"Candidates: 1, of which 1 within 5 ms, 1 tried and {int(share)} trained, 5 s in all trials."
    )


def test_a_judge_of_another_metric_reports_nothing(monkeypatch):
    monkeypatch.setattr(module, "Judge", lambda *rows, **options: SimpleNamespace(metric="agreement"))
    assert outcome(metric="macro_f1")._judged() is None


def test_the_page_that_trains_it_alone_prunes_what_was_pruned():
    page = {"goal": {"max_ms": 5}, "teacher": "t", "training": {"learning_rate": 1e-4, "output_dir": "out"}}
    plain, pruned = (
        outcome(best=tried("2 layers", 0.99, pruned=cut), page=page)._page() for cut in (False, True)
    )
    assert "goal" not in plain
    assert plain["student"] == {"shrink": {"layers": 2, "fit": Goal(max_ms=5).texts}}
    assert pruned["student"] == {**plain["student"], "prune_vocabulary": {"keep": 700}}
    assert pruned["training"]["output_dir"] == str(Path("out/best"))
    assert page["training"]["output_dir"] == "out"
