"""Values by hand, in float64: shifted teachers, weighted rows."""

import math

import pytest
import torch

from hfdistill import KD, Trace, WeightedCrossEntropy
from hfdistill.objectives import Setting
from hfdistill.objectives.row_weights import shifted, trust

LOG = math.log
STUDENT = torch.tensor([[LOG(2), LOG(1), LOG(1)], [LOG(1), LOG(1), LOG(2)]], dtype=torch.float64)
TEACHER = torch.tensor([[LOG(6), LOG(3), LOG(1)], [LOG(1), LOG(3), LOG(6)]], dtype=torch.float64)


def kl(p, q):
    return sum(a * LOG(a / b) for a, b in zip(p, q, strict=True))


def value(objective, labels, task="single_label"):
    objective.bind(Setting(task=task, classes=3))
    return objective(Trace(STUDENT), Trace(TEACHER), torch.tensor(labels)).item()


def test_the_largest_and_the_labels_probability_change_places():
    before = TEACHER.clone()
    found = shifted(TEACHER, torch.tensor([1, 2])).exp()
    torch.testing.assert_close(found, torch.tensor([[3.0, 6, 1], [1, 3, 6]], dtype=torch.float64))
    assert torch.equal(shifted(TEACHER, torch.tensor([-100, -100])), TEACHER)
    assert torch.equal(TEACHER, before)


def test_the_first_of_two_largest_is_the_teachers_answer():
    tied = torch.tensor([[2.0, 2.0, 1.0]])
    assert torch.equal(shifted(tied, torch.tensor([1])), tied)
    assert shifted(tied, torch.tensor([2])).tolist() == [[1.0, 2.0, 2.0]]


def test_shifted_kd_by_hand():
    """Row 0 is put right, row 1 already is, at T = 1."""
    q = [(0.5, 0.25, 0.25), (0.25, 0.25, 0.5)]
    expected = (kl((0.3, 0.6, 0.1), q[0]) + kl((0.1, 0.3, 0.6), q[1])) / 2
    objective = KD(temperature=1, probability_shift=True)
    assert value(objective, [1, 2]) == pytest.approx(expected, rel=1e-6)
    unlabelled = (kl((0.6, 0.3, 0.1), q[0]) + kl((0.1, 0.3, 0.6), q[1])) / 2
    assert value(objective, [-100, -100]) == pytest.approx(unlabelled, rel=1e-6)
    assert value(KD(temperature=1), [1, 2]) == pytest.approx(unlabelled, rel=1e-6)


def test_weights_by_hand():
    labels = torch.tensor([1, -100])
    entropy = -sum(p * LOG(p) for p in (0.6, 0.3, 0.1))
    assert trust(TEACHER, labels, by="entropy").tolist() == pytest.approx([1 - entropy / LOG(3)] * 2)
    assert trust(torch.zeros(1, 4), labels[:1], by="entropy").item() == pytest.approx(0, abs=1e-6)
    assert trust(TEACHER, labels, by="confidence").tolist() == pytest.approx([0.6, 0.6])
    assert trust(TEACHER, labels, by="label").tolist() == pytest.approx([1 / (1 - LOG(0.3)), 1])


def test_weighted_kd_by_hand():
    """The weight is that of the teacher as it is, at T = 1, whatever the temperature and the shift."""
    q = [(0.5, 0.25, 0.25), (0.25, 0.25, 0.5)]
    each = kl((0.3, 0.6, 0.1), q[0]), kl((0.1, 0.3, 0.6), q[1])
    objective = KD(temperature=1, probability_shift=True, weight_by="label")
    expected = (each[0] / (1 - LOG(0.3)) + each[1] / (1 - LOG(0.6))) / 2
    assert value(objective, [1, 2]) == pytest.approx(expected, rel=1e-6)
    whole = value(KD(temperature=3), [1, 2])
    assert value(KD(temperature=3, weight_by="confidence"), [1, 2]) == pytest.approx(0.6 * whole, rel=1e-6)


def test_weighted_cross_entropy_by_hand():
    own = -LOG(0.25), -LOG(0.5)
    found = value(WeightedCrossEntropy(), [1, 2])
    assert found == pytest.approx((0.6 * own[0] + 0.6 * own[1]) / 2, rel=1e-6)
    by_label = value(WeightedCrossEntropy(by="label"), [1, -100])
    assert by_label == pytest.approx(own[0] / (1 - LOG(0.3)), rel=1e-6)


def test_a_label_that_the_teacher_finds_absurd_hardly_weighs():
    sure = torch.tensor([[1000.0, 0.0]], dtype=torch.float64)
    assert trust(sure, torch.tensor([1]), by="label").item() == pytest.approx(1 / 1001)
    assert trust(sure, torch.tensor([0]), by="label").item() == 1


@pytest.mark.parametrize("objective", [KD(probability_shift=True), KD(weight_by="label")])
def test_several_labels_a_row_are_refused(objective):
    with pytest.raises(ValueError, match=r"decided one by one\. Leave probability_shift and weight_by out"):
        objective.bind(Setting(task="multi_label", classes=3))


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_weighted_cross_entropy_needs_one_class_a_row(task):
    with pytest.raises(ValueError, match="WeightedCrossEntropy compares"):
        WeightedCrossEntropy().bind(Setting(task=task, classes=1 if task == "regression" else 3))


def test_another_weight_is_refused():
    with pytest.raises(ValueError, match=r"KD weighs rows by .*found 'margin'"):
        KD(weight_by="margin")
    with pytest.raises(ValueError, match=r"WeightedCrossEntropy weighs rows by .*found None"):
        WeightedCrossEntropy(by=None)
