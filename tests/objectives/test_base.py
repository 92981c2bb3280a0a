"""Sums of terms: operators, names, formula, what is refused, and the register."""

import math

import pytest
import torch

from hfdistill import KD, Blend, CrossEntropy, LabelMSE, LogitMSE, Objective, Trace, register
from hfdistill.objectives import Setting, as_blend, base, default_objective, registered

SINGLE = Setting(task="single_label", classes=3)
STUDENT, TEACHER = Trace(torch.tensor([[1.0, 0.0, 2.0]])), Trace(torch.tensor([[0.0, 3.0, 1.0]]))
LABELS = torch.tensor([2])


class Constant(Objective):
    """A term of known value that counts how often it is computed."""

    def __init__(self, *, value: float = 1.0) -> None:
        super().__init__()
        self.value, self.calls = value, 0

    def forward(self, student, teacher, labels):
        self.calls += 1
        return torch.tensor(self.value, dtype=torch.float64)


@pytest.fixture
def clean_register(monkeypatch):
    monkeypatch.setattr(base, "_REGISTER", dict(base._REGISTER))


def test_operators_build_the_sum_that_is_written():
    blend = 0.1 * CrossEntropy() + KD(temperature=2) * 0.7 + 2 * LogitMSE()
    assert blend.weights == [0.1, 0.7, 2.0]
    assert [type(term) for term in blend.terms] == [CrossEntropy, KD, LogitMSE]
    assert (CrossEntropy() + KD()).weights == [1.0, 1.0]
    assert (CrossEntropy() + 0.5 * KD()).weights == [1.0, 0.5]


def test_scaling_a_sum_scales_every_term_and_nests():
    blend = 0.5 * (2 * (Constant(value=1) + 3 * Constant(value=2))) + 1 * Constant(value=4)
    assert blend.weights == [1.0, 3.0, 1.0]
    values = blend(STUDENT, TEACHER, LABELS)
    assert values.dtype == torch.float32
    assert (values * torch.tensor(blend.weights)).sum() == 1 + 3 * 2 + 4


def test_scaling_leaves_the_scaled_sum_as_it_was():
    blend = CrossEntropy() + KD()
    assert (blend * 0.5).weights == [0.5, 0.5]
    assert blend.weights == [1.0, 1.0]


def test_a_sum_in_code_is_the_weighted_sum_of_its_terms():
    blend = 0.3 * CrossEntropy() + 0.7 * KD(temperature=2)
    blend.bind(SINGLE)
    values = blend(STUDENT, TEACHER, LABELS)
    assert values.tolist() == [
        CrossEntropy()(STUDENT, TEACHER, LABELS).item(),
        KD(temperature=2)(STUDENT, TEACHER, LABELS).item(),
    ]


def test_names_are_numbered_from_the_second_use():
    blend = KD(temperature=1) + KD(temperature=4) + CrossEntropy() + KD(temperature=8)
    assert blend.names == ["kd", "kd_2", "cross_entropy", "kd_3"]


def test_an_objective_without_a_registered_name_is_called_after_its_class():
    assert (Constant() + Constant()).names == ["constant", "constant_2"]


def test_the_formula_reads_as_it_is_written():
    blend = 0.1 * CrossEntropy(label_smoothing=0.1) + 0.9 * KD(temperature=4)
    assert str(blend) == "0.1 * CrossEntropy(label_smoothing=0.1) + 0.9 * KD(temperature=4)"
    assert repr(1 * LogitMSE()) == "1 * LogitMSE()"


@pytest.mark.parametrize("weight", [-1, -1e-9, math.nan, math.inf, True, "0.5", None, 1j, [1.0]])
def test_a_weight_that_is_no_number_from_0_up_is_refused_with_the_value(weight):
    with pytest.raises(ValueError, match=r"weight of an objective is a number from 0 up, found .*0\.5 \* KD"):
        KD() * weight
    with pytest.raises(ValueError, match="weight of an objective"):
        (KD() + CrossEntropy()) * weight
    with pytest.raises(ValueError, match="weight of an objective"):
        Blend([(weight, KD())])


def test_a_sum_without_any_weight_is_refused_when_bound():
    with pytest.raises(ValueError, match=r"0 \* CrossEntropy\(\) \+ 0 \* KD.* no term with weight.*above 0"):
        (0 * CrossEntropy() + 0 * KD(temperature=4)).bind(SINGLE)


def test_a_term_without_weight_is_not_computed_and_asks_for_nothing():
    silent, heard = Constant(value=math.nan), Constant(value=2.0)
    blend = 0 * silent + 1 * heard
    assert blend(STUDENT, TEACHER, LABELS).tolist() == [0.0, 2.0]
    assert (silent.calls, heard.calls) == (0, 1)
    assert not (1 * CrossEntropy() + 0 * KD()).needs_teacher
    assert not (0 * CrossEntropy() + 1 * KD()).needs_labels
    assert (CrossEntropy() + KD()).needs_labels
    assert (CrossEntropy() + KD()).needs_teacher


def test_each_term_counts_for_itself():
    blend = CrossEntropy() + KD()
    blend.bind(SINGLE)
    counts = blend.counts(torch.tensor([0, -100, 2, -100, -100]))
    assert counts.tolist() == [2.0, 5.0]
    assert counts.dtype == torch.float32


@pytest.mark.parametrize("other", [1, 0.5, "KD", None, torch.nn.MSELoss()])
def test_only_objectives_are_terms(other):
    with pytest.raises(
        TypeError, match=rf"found {type(other).__name__}\. .*subclass of hfdistill\.Objective"
    ):
        as_blend(other)
    with pytest.raises(TypeError):
        KD() + other
    with pytest.raises(TypeError):
        (KD() + KD()) + other


def test_an_objective_is_a_sum_of_itself_and_a_sum_stays_itself():
    blend = as_blend(KD())
    assert blend.weights == [1.0]
    assert as_blend(blend) is blend


def test_an_objective_without_forward_says_what_it_lacks():
    class Empty(Objective):
        pass

    with pytest.raises(NotImplementedError, match=r"Empty needs a `forward\(student, teacher, labels\)`"):
        Empty()(STUDENT, TEACHER, LABELS)


@pytest.mark.parametrize(
    ("task", "options", "formula"),
    [
        ("single_label", {}, "0.5 * CrossEntropy() + 0.5 * KD(temperature=4)"),
        ("multi_label", {}, "0.5 * CrossEntropy() + 0.5 * KD(temperature=4)"),
        ("regression", {}, "0.5 * LabelMSE() + 0.5 * LogitMSE()"),
        ("single_label", {"taught": False}, "1 * CrossEntropy()"),
        ("regression", {"taught": False}, "1 * LabelMSE()"),
        ("single_label", {"hard": LabelMSE()}, "0.5 * LabelMSE() + 0.5 * KD(temperature=4)"),
    ],
)
def test_the_default_objective_of_each_task(task, options, formula):
    assert str(default_objective(task, **options)) == formula


@pytest.mark.usefixtures("clean_register")
def test_a_registered_objective_carries_its_name_and_is_found():
    @register("steady")
    class Steady(Constant):
        pass

    assert registered()["steady"] is Steady
    assert (Steady() + Steady()).names == ["steady", "steady_2"]


@pytest.mark.usefixtures("clean_register")
def test_a_taken_name_is_refused_even_for_a_class_called_the_same():
    impostor = type("KD", (Objective,), {"__module__": "elsewhere"})
    with pytest.raises(ValueError, match=r"'kd' is taken by hfdistill\.objectives\.logits\.KD. Choose"):
        register("kd")(impostor)
    assert registered()["kd"] is KD


@pytest.mark.usefixtures("clean_register")
def test_a_notebook_cell_may_run_twice():
    for _ in range(2):

        @register("steady")
        class Steady(Constant):
            pass

    assert registered()["steady"] is Steady


@pytest.mark.parametrize("name", ["", "two words", "kd-2", "1st", "a.b", "a\n"])
def test_a_name_that_cannot_stand_in_a_log_is_refused(name):
    with pytest.raises(ValueError, match="not an identifier"):
        register(name)


def test_the_register_cannot_be_changed_through_its_copy():
    registered().clear()
    assert {"kd", "cross_entropy", "logit_mse", "label_mse"} <= registered().keys()
