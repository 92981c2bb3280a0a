"""How much a student keeps, and how sure that is: values by hand."""

import itertools
import json
import math
from dataclasses import asdict, replace
from statistics import NormalDist

import numpy as np
import pytest

from hfdistill.files.plain_data import build
from hfdistill.recipe.goal import evidence as module
from hfdistill.recipe.goal.evidence import Evidence, evidence
from hfdistill.recipe.goal.fit import looks, rungs


def answers(classes, count=2):
    return np.eye(count)[np.asarray(classes)]


LABELS = np.zeros(100, dtype=np.int64)
TEACHER = answers([0] * 90 + [1] * 10)  # right on 90
STUDENT = answers([0] * 84 + [1] * 12 + [0] * 4)  # right on 88: on 84 of these and on 4 others


def test_a_share_of_accuracies_and_its_interval():
    seen = evidence("single_label", "accuracy", STUDENT, TEACHER, LABELS)
    assert (seen.quality, seen.teacher, seen.rows) == (0.88, 0.9, 100)
    assert seen.kept == pytest.approx(0.88 / 0.9)
    # with one row more on which each alone is right: 84 both, 5 the student, 7 the teacher, 6 none, of 102
    ratio = 89 / 91
    spread = math.sqrt(84 * (1 - ratio) ** 2 + 5 + 7 * ratio**2) / 102 / (91 / 102)
    assert seen.spread == pytest.approx(spread)
    assert seen.low == pytest.approx(seen.kept - NormalDist().inv_cdf(0.95) * spread)
    assert seen.half == pytest.approx(NormalDist().inv_cdf(0.95) * spread)


def test_more_looks_share_the_confidence():
    seen = evidence("single_label", "accuracy", STUDENT, TEACHER, LABELS)
    shared = evidence("single_label", "accuracy", STUDENT, TEACHER, LABELS, looks=10)
    assert shared == replace(seen, looks=10)
    assert shared.half / seen.half == pytest.approx(NormalDist().inv_cdf(0.995) / NormalDist().inv_cdf(0.95))


def test_models_that_never_differ_are_not_proven_equal():
    few = evidence("single_label", "accuracy", TEACHER[:20], TEACHER[:20], LABELS[:20])
    many = evidence("single_label", "accuracy", TEACHER, TEACHER, LABELS)
    assert few.kept == many.kept == 1
    assert few.low < many.low < 1


@pytest.fixture
def few_draws(monkeypatch):
    """A twentieth of the draws: F1 takes a millisecond each."""
    monkeypatch.setattr(module, "DRAWS", 15)


def test_equal_f1_is_not_proven_by_a_few_rows(few_draws):
    labels = LABELS.copy()
    labels[90:] = 1
    few, many = (
        evidence("single_label", "macro_f1", t, t, y)
        for t, y in ((TEACHER[80:], labels[80:]), (TEACHER, labels))
    )
    assert few.kept == many.kept == 1
    assert (few.spread, many.spread) == (math.sqrt(2) / 22, math.sqrt(2) / 102)


def test_agreement_is_a_share_with_wilson_s_interval():
    seen = evidence("single_label", "agreement", STUDENT, TEACHER, None)
    assert (seen.kept, seen.teacher, seen.spread) == (0.9, 1.0, None)
    z = NormalDist().inv_cdf(0.95)
    # the ends are where |p - share| = z sqrt(p (1 - p) / n)
    for end in (seen.low, seen.high):
        assert abs(end - 0.9) == pytest.approx(z * math.sqrt(end * (1 - end) / 100))


def test_what_is_drawn_is_the_same_each_time(few_draws):
    seen = evidence("single_label", "macro_f1", STUDENT, TEACHER, np.arange(100) % 2)
    assert seen == evidence("single_label", "macro_f1", STUDENT, TEACHER, np.arange(100) % 2)


def test_other_metrics_are_drawn_anew_by_rows():
    values = np.linspace(0, 5, 200)
    noise = np.random.default_rng(0).normal(size=200)
    near, far = (
        evidence("regression", "pearson", (values + s * noise)[:, None], values[:, None], values)
        for s in (0.1, 2.0)
    )
    assert near.kept > 0.99 > far.kept
    assert 0 < near.spread < far.spread < 0.1


def test_several_labels_are_right_as_a_whole():
    labels = np.array([[1, 0], [1, 1]] * 30)
    seen = evidence("multi_label", "subset_accuracy", labels - 0.5, labels - 0.5, labels)
    assert seen.kept == seen.quality == 1


def test_a_teacher_that_has_nothing_to_teach_is_refused():
    with pytest.raises(ValueError, match=r"on the rows to choose on is 0\.000: there is nothing to keep"):
        evidence("single_label", "accuracy", STUDENT, 1 - answers(LABELS), LABELS)
    flat = np.zeros((100, 1))
    with pytest.raises(ValueError, match="undefined: there is nothing to keep"):
        evidence("regression", "pearson", flat, flat, np.arange(100.0))


def test_it_is_plain_data():
    seen = evidence("single_label", "accuracy", STUDENT, TEACHER, LABELS, looks=7)
    assert build(Evidence, json.loads(json.dumps(asdict(seen))), "evidence") == seen
    assert str(Evidence(0.88, 0.9, 100, 0.0)) == "keeps 97.8 % (97.8 to 97.8)"


@pytest.mark.parametrize("count", [1, 2, 3, 8, 15])
def test_rungs_get_narrower_and_longer(count):
    plan = rungs(count)
    assert plan[0].candidates == count
    assert [rung.share for rung in plan] == [0, 1 / 3, 1]
    assert plan[1].candidates == max(min(count, 2), -(-count // 3))
    assert plan[2].candidates == -(-plan[1].candidates // 3)
    assert looks(plan) == sum(rung.candidates for rung in plan)
    trained = sum(rung.candidates * (rung.share - before.share) for before, rung in itertools.pairwise(plan))
    assert count < 3 or trained <= 0.45 * count  # of training all of them in full


def test_draws_without_a_metric_leave_the_share_unknown(monkeypatch):
    monkeypatch.setattr(module, "_value", lambda *_: None)
    logits = np.zeros((4, 2))
    assert module._bootstrap("single_label", "macro_f1", logits, logits, np.zeros(4, dtype=int)) == 1.0
