"""What DKD, DIST, WSL and standardised logits refuse, and warn of."""

import math

import pytest

from hfdistill import DIST, DKD, KD, WSL, Linear, LogitMSE
from hfdistill.objectives import Setting
from tests.objectives.test_soft_labels import TWO, logits, value


@pytest.mark.parametrize("kind", [DKD, DIST, WSL])
@pytest.mark.parametrize("temperature", [0, -1, math.nan, math.inf, True, "4", None, Linear(8, 0)])
def test_a_temperature_that_is_not_above_0_is_refused_with_the_value(kind, temperature):
    with pytest.raises(ValueError, match=rf"{kind.__name__} needs a temperature above 0, found .*Usual: 1"):
        kind(temperature=temperature)


@pytest.mark.parametrize(("kind", "first"), [(DKD, "alpha"), (DIST, "inter")])
@pytest.mark.parametrize("weight", [-1, math.nan, math.inf, True, "1", None])
def test_a_weight_that_is_no_number_from_0_up_is_refused(kind, first, weight):
    with pytest.raises(ValueError, match=rf"{kind.__name__} weighs .* from 0 up, found {first}=.*Usual"):
        kind(**{first: weight})


@pytest.mark.parametrize(("kind", "terms"), [(DKD, ("alpha", "beta")), (DIST, ("inter", "intra"))])
def test_two_terms_without_weight_are_refused(kind, terms):
    with pytest.raises(ValueError, match=rf"{kind.__name__} without weight on either term learns nothing"):
        kind(**dict.fromkeys(terms, 0))


@pytest.mark.parametrize("scale", [0, -1, math.nan, "1", Linear(0, 1)])
def test_a_scale_that_is_not_above_0_is_refused(scale):
    with pytest.raises(ValueError, match=r"LogitMSE needs a scale above 0, found .*Usual: Stairs\(10\)"):
        LogitMSE(scale=scale)


@pytest.mark.parametrize("objective", [DKD(), DIST(), WSL()], ids=str)
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (Setting(task="multi_label", classes=3), r"the task is multi_label\. Use KD\(\)"),
        (Setting(task="regression", classes=1), r"one output has none\. Use LogitMSE\(\)"),
        (Setting(task="single_label", classes=1), r"one output has none\. Use LogitMSE\(\)"),
    ],
)
def test_other_tasks_are_refused_with_the_objective_to_use(objective, setting, message):
    with pytest.raises(ValueError, match=message):
        objective.bind(setting)


@pytest.mark.parametrize("objective", [KD(standardise=True), DKD(standardise=True)], ids=str)
def test_standardised_logits_are_refused_for_two_classes_and_several_labels(objective):
    with pytest.raises(ValueError, match=r"the same two numbers in every row.*Leave standardise out"):
        objective.bind(TWO)
    with pytest.raises(ValueError, match=r"Leave standardise out|Use KD\(\)"):
        objective.bind(Setting(task="multi_label", classes=3))


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (DKD(), r"non-target term is 0 for ever.*1 \* KD\. Use KD\(temperature=4\.0\)"),
        (DIST(), r"only the intra-class term teaches\. Use DIST\(inter=0\), or KD"),
    ],
    ids=str,
)
def test_two_classes_warn_and_name_the_objective_to_use(objective, message):
    with pytest.warns(UserWarning, match=message):
        objective.bind(TWO)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (DKD(alpha=0), r"alpha=0 leaves no other\. Use KD\(temperature=4\.0\)"),
        (DIST(intra=0), r"intra=0 leaves no other term\. Use KD\(temperature=4\)"),
    ],
    ids=str,
)
def test_two_classes_are_refused_where_nothing_is_left_to_learn(objective, message):
    with pytest.raises(ValueError, match=message):
        objective.bind(TWO)


@pytest.mark.parametrize("objective", [DIST(inter=0), WSL(), KD()], ids=str)
def test_terms_that_fit_two_classes_say_nothing(objective):
    objective.bind(TWO)


def test_the_inter_class_term_of_two_classes_has_no_gradient():
    student, teacher, labels = logits(classes=2)
    student.requires_grad_()
    value(DIST(intra=0), student, teacher, labels).backward()
    assert student.grad.abs().max() < 1e-12
