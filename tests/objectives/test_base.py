"""Sums of terms: operators, names, formula, what is refused, and the register."""

import math

import numpy as np
import pytest
import torch

from hfdistill import (
    KD,
    After,
    Blend,
    Cosine,
    CrossEntropy,
    ExitKD,
    HiddenMSE,
    LabelMSE,
    Linear,
    LogitMSE,
    MiniLMv2,
    Objective,
    Schedule,
    Stairs,
    Step,
    Tap,
    Trace,
    Until,
    register,
)
from hfdistill.network.architectures import ModelSpec
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


def test_terms_of_a_list_are_summed_as_numbers_are():
    assert str(sum([KD(), LogitMSE()])) == str(KD() + LogitMSE())
    assert str(sum([0.5 * KD(), CrossEntropy()])) == str(0.5 * KD() + CrossEntropy())
    for wrong in (1, True, None):
        with pytest.raises(TypeError, match="unsupported operand"):
            wrong + KD()


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


# Weights and temperatures that change


def at(blend, progress):
    blend.set_progress(progress)
    return blend


def test_a_weight_may_be_a_schedule_on_either_side_and_scaled():
    blend = Linear(1, 0) * CrossEntropy() + KD() * Linear(0, 2) + 0.5 * LogitMSE()
    assert blend.weights == [1, 0, 0.5]
    assert at(blend, 0.25).weights == [0.75, 0.5, 0.5]
    assert at(0.5 * Linear(1, 0) * KD(), 0.5).weights == [0.25]
    assert at(0.5 * (Linear(1, 0) * KD()), 0.5).weights == [0.25]
    assert at(Until(0.8) * (2 * KD() + Linear(1, 0) * LogitMSE()), 0.5).weights == [2, 0.5]
    assert at(Until(0.8) * (2 * KD() + Linear(1, 0) * LogitMSE()) + CrossEntropy(), 0.8).weights == [0, 0, 1]


def test_progress_says_all_there_is_to_say_so_that_resuming_is_exact():
    def build():
        return Cosine(1, 0) * CrossEntropy() + Step({0: 1, 0.3: 2}) * KD(temperature=Linear(8, 1))

    through, resumed = build(), build()
    for step in range(40):
        at(through, step / 40)
    at(resumed, 39 / 40)
    assert resumed.weights == through.weights
    assert torch.equal(resumed(STUDENT, TEACHER, LABELS), through(STUDENT, TEACHER, LABELS))
    assert at(through, 0).weights == build().weights


def test_progress_reaches_the_terms():
    blend = CrossEntropy() + KD(temperature=Linear(8, 2))
    for progress, temperature in [(0, 8), (0.5, 5), (1, 2)]:
        expected = KD(temperature=temperature)(STUDENT, TEACHER, LABELS)
        assert at(blend, progress)(STUDENT, TEACHER, LABELS)[1] == expected


def test_a_scale_may_be_a_schedule():
    blend = 1 * LogitMSE(scale=Stairs(2))
    halved = Trace(TEACHER.logits / 2)
    assert at(blend, 0)(STUDENT, TEACHER, LABELS)[0] == LogitMSE()(STUDENT, halved, LABELS)
    assert at(blend, 0.5)(STUDENT, TEACHER, LABELS)[0] == LogitMSE()(STUDENT, TEACHER, LABELS)


def test_annealing_kd_is_two_stages_in_one_formula():
    blend = Until(0.6) * LogitMSE(scale=Stairs(3, until=0.6)) + After(0.6) * CrossEntropy()
    blend.bind(SINGLE)
    first = [at(blend, p)(STUDENT, TEACHER, LABELS).tolist() for p in (0, 0.2, 0.4)]
    phis = [Trace(TEACHER.logits * phi) for phi in (1 / 3, 2 / 3, 1)]
    assert first == [[pytest.approx(LogitMSE()(STUDENT, t, LABELS).item()), 0] for t in phis]
    assert blend.needs_teacher
    assert blend.needs_teacher_now
    gold = CrossEntropy()(STUDENT, TEACHER, LABELS).item()
    assert at(blend, 0.6)(STUDENT, TEACHER, LABELS).tolist() == [0, gold]
    assert blend.needs_teacher
    assert not blend.needs_teacher_now


def test_a_term_without_weight_at_the_moment_is_not_computed():
    early, late = Constant(value=1.0), Constant(value=2.0)
    blend = Until(0.5) * early + After(0.5) * late
    assert [at(blend, p)(STUDENT, TEACHER, LABELS).tolist() for p in (0, 0.25, 0.5)] == [[1, 0]] * 2 + [
        [0, 2]
    ]
    assert (early.calls, late.calls) == (2, 1)


def test_a_term_asks_for_what_it_needs_at_any_moment():
    blend = After(0.5) * KD() + Until(0.5) * CrossEntropy()
    for progress in (0, 0.9):
        assert at(blend, progress).needs_teacher
        assert blend.needs_labels
    never = Linear(0, 0) * KD() + Linear(0, 1) * LabelMSE() + LogitMSE()
    assert never.needs_labels
    assert not (Until(0.5) * After(0.5) * CrossEntropy() + KD()).needs_labels
    assert not (0 * Linear(1, 0) * KD() + CrossEntropy()).needs_teacher


def test_a_term_that_has_weight_only_between_two_knots_counts():
    assert (Until(0.123) * After(0.1225) * CrossEntropy() + KD()).needs_labels


@pytest.mark.parametrize(
    "formula",
    [
        "Linear(1, 0) * CrossEntropy() + 0.5 * KD(temperature=Linear(8, 1))",
        "0.5 * Cosine(1, 0, until=0.5) * KD(temperature=4) + 1 * CrossEntropy()",
        "Until(0.5) * Linear(0, 1) * LogitMSE(scale=Stairs(10)) + Step({0: 1, 0.5: 2}) * CrossEntropy()",
    ],
)
def test_a_formula_with_schedules_reads_as_it_is_written(formula):
    blend = eval(formula)  # noqa: S307
    assert str(blend) == formula
    assert str(at(blend, 0.7)) == formula


@pytest.mark.parametrize(
    ("weight", "moment"),
    [
        (Linear(1, -1), "0.51"),
        (Linear(0, -1), "0.01"),
        (-1 * Until(0.5), "0"),
        (Step({0: 1, 0.75: -2}), "0.75"),
    ],
)
def test_a_schedule_that_falls_below_0_is_no_weight(weight, moment):
    with pytest.raises(ValueError, match=rf"number from 0 up, found .*, which is -.* at progress {moment}\."):
        weight * KD()


def test_a_weight_that_is_0_throughout_is_no_weight():
    with pytest.raises(ValueError, match="no term with weight, so nothing would be learnt"):
        (Linear(0, 0) * KD() + 0 * Until(0.5) * CrossEntropy()).bind(SINGLE)


@pytest.mark.parametrize(
    ("blend", "moment"),
    [
        (Linear(0, 1) * KD(), "0"),
        (Until(0.5) * KD() + Until(0.4) * CrossEntropy(), "0.5"),
        (Until(0.333) * KD() + After(0.334) * CrossEntropy(), "0.333"),
        (Linear(1, 0, until=0.7) * KD() + After(0.9) * CrossEntropy(), "0.7"),
        (0 * KD() + After(0.001) * CrossEntropy(), "0"),
    ],
    ids=str,
)
def test_a_moment_at_which_nothing_would_be_learnt_is_refused_by_its_name(blend, moment):
    message = rf"No term of .* has weight at progress {moment} \(0 is the first step.* as in .*Linear\(0, 1\)"
    with pytest.raises(ValueError, match=message):
        blend.bind(SINGLE)


def test_the_end_itself_needs_no_weight_since_no_step_is_taken_there():
    for weight in (Linear(1, 0), Cosine(1, 0), Until(1)):
        blend = weight * CrossEntropy()
        blend.bind(SINGLE)
        assert at(blend, 1).weights == [0]


def test_a_schedule_of_your_own_that_leaves_a_moment_without_weight_is_stopped_there():
    class Gap(Schedule):
        def at(self, progress):
            return float(not 0.5031 < progress < 0.5039)

    blend = Gap() * CrossEntropy()
    blend.bind(SINGLE)
    at(blend, 0.5)
    with pytest.raises(ValueError, match=r"has weight at progress 0\.5035 "):
        blend.set_progress(0.5035)


@pytest.mark.parametrize("progress", [-0.1, 1.1, math.nan, "0.5", None, True])
def test_progress_outside_training_is_refused_and_changes_nothing(progress):
    blend = at(Linear(1, 0) * KD(temperature=Linear(8, 1)), 0.5)
    with pytest.raises(ValueError, match=r"number in \[0, 1\]; found"):
        blend.set_progress(progress)
    assert blend.weights == [0.5]
    assert blend.terms[0].progress == 0.5


def test_numbers_as_weights_do_not_move():
    blend = 0.5 * CrossEntropy() + 0.5 * KD()
    assert at(blend, 0.9).weights == [0.5, 0.5]


@pytest.mark.parametrize("temperature", [Linear(8, 0), Until(0.5), Linear(-1, 8)])
def test_a_temperature_that_reaches_0_is_refused_with_the_moment(temperature):
    with pytest.raises(
        ValueError, match=r"needs a temperature above 0, found .*, which is .* at progress .*Usual"
    ):
        KD(temperature=temperature)


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
        ("single_label", {"has_teacher": False}, "1 * CrossEntropy()"),
        ("regression", {"has_teacher": False}, "1 * LabelMSE()"),
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


def test_a_blend_reads_what_its_terms_with_weight_read():
    network = ModelSpec(model_type="bert", depth=4, width=8, heads=2, classes=3)
    blend = KD() + 0.5 * HiddenMSE(layers="1:2") + 2 * MiniLMv2(layers="2:4") + 0 * HiddenMSE(layers="3:3")
    with pytest.warns(UserWarning, match="weight 0 throughout"):
        blend.bind(Setting(task="single_label", classes=3, student=network, teacher=network))
    kinds = ("query", "key", "value")
    assert blend.taps() == (
        frozenset({Tap("hidden", 1), *(Tap(kind, 2) for kind in kinds)}),
        frozenset({Tap("hidden", 2), *(Tap(kind, 4) for kind in kinds)}),
    )
    assert (KD() + CrossEntropy()).taps() == (frozenset(), frozenset())


def test_numbers_of_numpy_and_torch_are_shown_as_numbers():
    typed = 0.5 * KD(temperature=2) + 0.25 * CrossEntropy(class_weights=[1.0, 2.0], label_smoothing=0.5)
    drawn = np.float32(0.5) * KD(temperature=np.int64(2)) + torch.tensor(0.25) * CrossEntropy(
        class_weights=torch.tensor([1.0, 2.0]), label_smoothing=np.float64(0.5)
    )
    assert str(drawn) == str(typed)
    assert str(KD(temperature=np.float64(3.5))) == "KD(temperature=3.5)"
    assert str(ExitKD(temperature=np.float32(3.5))) == "ExitKD(temperature=3.5)"
    assert str(CrossEntropy(class_weights=[np.float32(1), 2])) == "CrossEntropy(class_weights=[1.0, 2.0])"


def test_a_weight_that_would_learn_is_not_taken_for_a_number():
    learned = torch.nn.Parameter(torch.tensor(2.0))
    with pytest.raises(ValueError, match="The weight of an objective is a number"):
        learned * KD()
    with pytest.raises(ValueError, match="KD needs a temperature above 0"):
        KD(temperature=learned)
