"""Schedules: values, edges, products, what is printed and read back, what is refused."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch

from hfdistill import (
    KD,
    After,
    Constant,
    Cosine,
    CrossEntropy,
    Linear,
    Schedule,
    Stairs,
    Step,
    Until,
    schedules,
)
from hfdistill.schedules import checked_progress, moments, value_at

BUILT = [
    Constant(0.3),
    Linear(8, 1),
    Linear(0, 1, since=0.1, until=0.5),
    Cosine(1, 0),
    Cosine(1, 0.25, since=0.2),
    Step({0.0: 8, 0.5: 1}),
    Until(0.5),
    After(1 / 3),
    Stairs(10),
    Stairs(7, until=2 / 3),
    0.5 * Linear(1, 0),
    Until(0.5) * Linear(1, 0) * 3,
]
each = pytest.mark.parametrize("schedule", BUILT, ids=repr)


# Values


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Constant(2), {0: 2, 0.3: 2, 1: 2}),
        (Linear(8, 1), {0: 8, 0.25: 6.25, 0.5: 4.5, 1: 1}),
        (Linear(0, 1, until=0.2), {0: 0, 0.1: 0.5, 0.2: 1, 1: 1}),
        (Linear(2, 4, since=0.5), {0: 2, 0.5: 2, 0.75: 3, 1: 4}),
        (Cosine(1, 0), {0: 1, 1 / 3: 0.75, 0.5: 0.5, 2 / 3: 0.25, 1: 0}),
        (Cosine(0, 2, since=0.2, until=0.6), {0.1: 0, 0.2: 0, 0.4: 1, 0.6: 2, 0.9: 2}),
        (Step({0.5: 1, 0.0: 8}), {0: 8, 0.4999: 8, 0.5: 1, 1: 1}),
        (Step([(0, 8), (0.5, 1)]), {0: 8, 0.4999: 8, 0.5: 1, 1: 1}),
        (Until(0.5), {0: 1, 0.4999: 1, 0.5: 0, 1: 0}),
        (After(0.5), {0: 0, 0.4999: 0, 0.5: 1, 1: 1}),
        (After(0), {0: 1, 1: 1}),
        (Until(1), {0: 1, 0.9999: 1}),
        (Stairs(4), {0: 0.25, 0.2499: 0.25, 0.25: 0.5, 0.5: 0.75, 0.75: 1, 1: 1}),
        (Stairs(2, until=0.5), {0: 0.5, 0.25: 1, 0.5: 1, 1: 1}),
        (Stairs(1), {0: 1, 1: 1}),
    ],
)
def test_values(schedule, expected):
    assert {p: schedule(p) for p in expected} == pytest.approx(expected, rel=1e-12)
    assert all(type(schedule(p)) is float for p in expected)


@pytest.mark.parametrize("kind", [Linear, Cosine])
def test_a_line_meets_both_ends_exactly_and_stays_between_them(kind):
    for start, end in [(0.1, 0.3), (0.7, 1e-9), (1 / 3, 1 / 3), (5, -5)]:
        line = kind(start, end)
        assert (line(0), line(1)) == (start, end)
        values = [line(step / 1000) for step in range(1001)]
        assert values == sorted(values, reverse=end < start)


@pytest.mark.parametrize("share", [0.1, 0.3, 1 / 3, 0.5, 0.7, 1.0])
def test_two_stages_follow_each_other_without_gap_or_overlap(share):
    after = After(share) if share < 1 else Constant(0)
    assert all(Until(share)(step / 1000) + after(step / 1000) == 1 for step in range(1000))


def test_stages_change_at_the_step_that_is_written():
    assert [Until(0.3)(step / 10) for step in range(10)] == [1] * 3 + [0] * 7
    heights = [Stairs(100)(step / 100) for step in range(100)]
    assert heights == [step / 100 for step in range(1, 101)]


@pytest.mark.parametrize("levels", [1, 7, 10])
def test_stairs_are_the_phi_of_annealing_kd(levels):
    for stage, temperature in enumerate(range(levels, 0, -1)):
        phi = 1 - (temperature - 1) / levels
        assert Stairs(levels)((stage + 0.5) / levels) == pytest.approx(phi, rel=1e-12)


@each
def test_a_value_follows_from_progress_alone(schedule):
    forwards = [schedule(step / 37) for step in range(38)]
    backwards = [schedule(step / 37) for step in reversed(range(38))]
    assert forwards == backwards[::-1]


# Products


def test_products_multiply_values():
    product = 0.5 * Linear(1, 0) * Until(0.5) * 4
    assert [product(p) for p in (0, 0.25, 0.5, 1)] == [2, 1.5, 0, 0]
    assert (Linear(1, 0) * Linear(1, 0))(0.25) == 0.75**2


@pytest.mark.parametrize(
    ("product", "text"),
    [
        (1 * Linear(1, 0), "Linear(1, 0)"),
        (0.5 * Linear(1, 0), "0.5 * Linear(1, 0)"),
        (Linear(1, 0) * 0.5 * 2, "Linear(1, 0)"),
        (2 * Until(0.5) * (3 * Cosine(1, 0)), "6 * Until(0.5) * Cosine(1, 0)"),
        (0 * After(0.5), "0 * After(0.5)"),
    ],
)
def test_a_product_is_printed_with_its_number_first(product, text):
    assert repr(product) == text


@pytest.mark.parametrize("other", ["0.5", None, [1.0], 1j])
def test_only_numbers_and_schedules_multiply(other):
    with pytest.raises(TypeError):
        Linear(1, 0) * other


@pytest.mark.parametrize("factor", [math.nan, math.inf, True])
def test_a_factor_that_is_no_finite_number_is_refused(factor):
    with pytest.raises(ValueError, match="factor of a schedule is a finite number, found"):
        factor * Linear(1, 0)


# What is printed and read back


@each
def test_repr_is_read_back_as_an_equal_schedule(schedule):
    again = eval(repr(schedule), vars(schedules).copy())  # noqa: S307
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert repr(again) == repr(schedule)
    assert [again(p / 10) for p in range(11)] == [schedule(p / 10) for p in range(11)]


@each
def test_copies_are_equal(schedule):
    assert copy.deepcopy(schedule) == pickle.loads(pickle.dumps(schedule)) == schedule


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (Linear(8.0, 1), "Linear(8, 1)"),
        (Linear(0, 1, until=0.1), "Linear(0, 1, until=0.1)"),
        (Cosine(0.1, 1e-9, since=0.25), "Cosine(0.1, 1e-09, since=0.25)"),
        (Step({0.5: 1, 0.0: 8}), "Step({0: 8, 0.5: 1})"),
        (After(1 / 3), "After(0.3333333333333333)"),
        (Stairs(10), "Stairs(10)"),
        (KD(temperature=Linear(8, 1)), "KD(temperature=Linear(8, 1))"),
    ],
)
def test_numbers_are_printed_as_short_as_they_can_be_read_back(schedule, text):
    assert repr(schedule) == text


def test_kinds_with_the_same_numbers_are_not_equal():
    assert Linear(1, 0) != Cosine(1, 0)
    assert Until(0.5) != After(0.5)
    assert Linear(1, 0) != 0.5 * Linear(1, 0)


def test_a_step_keeps_its_own_copy():
    stages = {0.0: 8, 0.5: 1}
    step = Step(stages)
    stages[0.25] = 100
    assert step(0.3) == 8


# One of your own


class Sawtooth(Schedule):
    def at(self, progress):
        return 2 * progress % 1


def test_a_schedule_of_your_own_needs_at_alone():
    assert Sawtooth()(0.75) == 0.5
    assert (2 * Sawtooth())(0.25) == 1
    assert 0.5 in moments([Sawtooth()])


def test_a_schedule_without_at_says_what_it_lacks():
    with pytest.raises(NotImplementedError, match=r"Schedule needs an `at\(progress\)`"):
        Schedule()(0.5)


class Odd(Schedule):
    """1 but for one moment, which no look before the first step meets."""

    def __init__(self, value):
        self.value = value

    def at(self, progress):
        return self.value if progress == 0.507 else 1.0


class Called(Odd):
    """The same by a `__call__` of its own, past the checks of Schedule's."""

    def __call__(self, progress):
        return self.at(progress)


@pytest.mark.parametrize("value", [math.nan, math.inf, "1", None, [1.0], torch.ones((), requires_grad=True)])
@pytest.mark.parametrize("kind", [Odd, Called])
def test_a_value_that_is_no_finite_number_is_refused_with_term_and_moment(value, kind):
    words = (
        r"at progress 0\.507 \(.*\); it has to be a finite number\. Return one at every progress from \w+\.at"
    )
    for schedule in (kind(value), 0.5 * kind(value)):
        blend = CrossEntropy() + schedule * KD()
        with pytest.raises(ValueError, match=rf"^The weight of kd: .*{words}"):
            blend.set_progress(0.507)
    term = KD(temperature=kind(value))
    term.set_progress(0.507)
    with pytest.raises(ValueError, match=rf"^KD: .*{words}"):
        term.now(term.temperature)
    assert ("nothing, where it does not reach a return" in blend_message(blend)) == (value is None)


def blend_message(blend):
    with pytest.raises(ValueError, match="weight of kd") as refused:
        blend.set_progress(0.507)
    return str(refused.value)


def test_a_weight_below_0_is_refused_at_its_moment():
    blend = CrossEntropy() + Odd(-1.0) * KD()
    blend.set_progress(0.506)
    with pytest.raises(
        ValueError, match=r"weight of kd is a number from 0 up, and Odd\(.*\) is -1 at progress 0"
    ):
        blend.set_progress(0.507)


def test_numbers_of_numpy_and_torch_are_numbers_of_a_schedule():
    assert [value_at(Odd(one), 0.507) for one in (np.float32(0.5), torch.tensor(0.5), 1)] == [0.5, 0.5, 1.0]


# Where to look


def test_moments_hold_every_knot_and_the_middles_between():
    found = moments([Until(0.123), 0.5, Linear(0, 1, since=0.701, until=0.702)])
    assert found == sorted(found)
    assert {0, 0.0615, 0.123, 0.412, 0.701, 0.7015, 0.702, 0.851, 1} <= {round(p, 6) for p in found}
    assert 0.1235 in moments([Until(0.123) * After(0.124)])


def test_a_number_is_its_own_value():
    assert value_at(0.5, 0.9) == 0.5
    assert value_at(Linear(1, 0), 0.75) == 0.25


# What is refused


@pytest.mark.parametrize("progress", [-0.1, 1.0001, math.nan, math.inf, True, "0.5", None, [0.5]])
def test_progress_outside_training_is_refused_with_the_value(progress):
    for call in (checked_progress, Linear(1, 0), Constant(1), 2 * Until(0.5)):
        with pytest.raises(ValueError, match=r"a number in \[0, 1\]; found .*global_step / state\.max_steps"):
            call(progress)


@pytest.mark.parametrize("value", [math.nan, -math.inf, True, "1", None, Linear(1, 0)])
def test_values_that_are_no_finite_numbers_are_refused(value):
    for build in (Constant, lambda v: Linear(v, 1), lambda v: Cosine(1, v), lambda v: Step({0: v})):
        with pytest.raises(ValueError, match=r"(Constant|Linear|Cosine|Step) is a finite number, found"):
            build(value)


@pytest.mark.parametrize("kind", [Linear, Cosine])
@pytest.mark.parametrize(
    "span", [{"since": 1}, {"until": 0}, {"since": 0.6, "until": 0.5}, {"until": 1.5}, {"since": math.nan}]
)
def test_a_ramp_that_does_not_lie_in_the_training_is_refused(kind, span):
    with pytest.raises(ValueError, match=rf"{kind.__name__} runs from since to until.*found since=.*Usual"):
        kind(0, 1, **span)


@pytest.mark.parametrize(
    "stages", [{}, {0.5: 1}, {0: 1, 1: 2}, {0: 1, -0.5: 2}, {0: 1, math.nan: 2}, {"0": 1}, 0.5, [0, 0.5]]
)
def test_stages_that_do_not_cover_the_training_are_refused(stages):
    with pytest.raises(ValueError, match=r"start in \[0, 1\), the first at 0; found .*Write Step"):
        Step(stages)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan, True, "0.5", None])
def test_stages_that_end_or_start_outside_are_refused(share):
    for build in (Until, After, lambda end: Stairs(10, until=end)):
        with pytest.raises(ValueError, match="of the training, found"):
            build(share)


def test_stages_that_never_are_are_refused():
    with pytest.raises(ValueError, match="Until"):
        Until(0)
    with pytest.raises(ValueError, match="After"):
        After(1)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True, "10", None])
def test_stairs_have_whole_steps(steps):
    with pytest.raises(ValueError, match="whole number of steps from 1 up, found"):
        Stairs(steps)
