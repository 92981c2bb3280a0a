"""Students that were measured one by one are timed in one pass, beside their teacher."""

import dataclasses
import sys

import pytest

from hfdistill import Contender, TextTeacher, measure, time_together
from hfdistill.evaluation.speed import SpeedPlan
from tests.conftest import make_bert, make_dataset, make_tokenizer

PLAN = SpeedPlan(latency_rows=3, batch_size=4, throughput_rows=8, repeats=2)


def test_what_was_measured_stays_and_the_speeds_come(monkeypatch):
    calls = []
    data, teacher = make_dataset(8), Contender(make_bert(4, seed=1), tokenizer=make_tokenizer(), name="big")
    models = {n: Contender(make_bert(n, seed=n), tokenizer=make_tokenizer()) for n in (1, 2)}
    reports = {n: measure(model, data, teacher=teacher, speed=None) for n, model in models.items()}

    def counting(loaded, plan):
        calls.append(list(loaded))
        return speeds(loaded, plan)

    module = sys.modules["hfdistill.evaluation.measure"]  # the package has a function of this name
    speeds = module.speeds
    monkeypatch.setattr(module, "speeds", counting)
    timed = time_together(reports, models, data, teacher=teacher, plan=PLAN)
    assert calls == [["teacher", "student 1", "student 2"]]  # one pass for all
    for n, report in timed.items():
        assert report.student.speed.repeats == report.teacher.speed.repeats == 2
        assert report.teacher.speed == timed[1].teacher.speed
        bare = dataclasses.replace(
            report,
            student=dataclasses.replace(report.student, speed=None),
            teacher=dataclasses.replace(report.teacher, speed=None),
            environment=reports[n].environment,
        )
        assert bare == reports[n]


def test_reports_and_models_go_by_the_same_names():
    data, model = make_dataset(4), Contender(make_bert(1), tokenizer=make_tokenizer())
    alone = measure(model, data, speed=None)
    with pytest.raises(ValueError, match="reports a and models b"):
        time_together({"a": alone}, {"b": model}, data, teacher=model)
    with pytest.raises(ValueError, match="beside a teacher"):
        time_together({"a": alone}, {"a": model}, data, teacher=model)


def test_a_teacher_that_is_looked_up_is_measured_alone_and_not_timed(tmp_path):
    """`measure(teacher, rows)` is how one learns what such a teacher is worth."""
    data = make_dataset(8)
    right = dict(zip(data["text"][:], data["label"][:], strict=True))
    wrong = data["text"][0]

    def answer(texts):
        return [names[right[text] if text != wrong else 1 - right[text]] for text in texts]

    names = ["negative", "positive"]
    teacher = TextTeacher(answer, names, cache=tmp_path, name="all but one")
    alone = measure(teacher, data)
    assert alone.student.metrics["accuracy"] == 7 / 8
    assert alone.student.speed is None
    student = Contender(make_bert(1), tokenizer=make_tokenizer())
    report = measure(student, data, teacher=teacher, speed=None)
    timed = time_together({1: report}, {1: student}, data, teacher=teacher, plan=PLAN)[1]
    assert timed.student.speed.repeats == 2
    assert timed.teacher.speed is None
