"""Students that were measured one by one are timed in one pass, beside their teacher."""

import dataclasses
import sys

import pytest

from hfdistill import Contender, measure, time_together
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
