"""Terms on the exits of a student: by hand, and what they leave alone."""

import math
import re

import pytest
import torch

from hfdistill import KD, CrossEntropy, ExitCrossEntropy, ExitKD, Linear, Tap, Trace
from hfdistill.files.plain_data import as_python
from hfdistill.network.architectures import ModelSpec
from hfdistill.objectives import Setting


def setting(exits=(1, 2), **options):
    student = ModelSpec(model_type="bert", depth=3, width=8, heads=2, classes=3, exits=exits)
    return Setting(**{"task": "single_label", "classes": 3, "student": student, **options})


def bound(objective, **options):
    objective.bind(setting(**options))
    return objective


LAST = [[2.0, 0.5, -1.0], [0.0, 1.0, 0.5]]
EXITS = {1: [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]], 2: [[1.5, 0.2, -0.5], [0.0, 0.2, 1.0]]}
LABELS = torch.tensor([0, 2])


def trace(requires_grad=False):
    readings = {Tap("exit", n): torch.tensor(z, requires_grad=requires_grad) for n, z in EXITS.items()}
    return Trace(torch.tensor(LAST, requires_grad=requires_grad), readings=readings)


def log_softmax(row, temperature=1.0):
    scaled = [z / temperature for z in row]
    total = math.log(sum(math.exp(z) for z in scaled))
    return [z - total for z in scaled]


def test_cross_entropy_by_hand():
    expected = -sum(log_softmax(z[0])[0] + log_softmax(z[1])[2] for z in EXITS.values()) / 2
    found = bound(ExitCrossEntropy())(trace(), trace(), LABELS)
    assert found.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_labels_of_the_last_head_by_hand(temperature):
    total = 0.0
    for logits in EXITS.values():
        for own, last in zip(logits, LAST, strict=True):
            p, q = log_softmax(last, temperature), log_softmax(own, temperature)
            total += sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True)) / 2
    found = bound(ExitKD(temperature=temperature))(trace(), trace(), LABELS)
    assert found.item() == pytest.approx(temperature**2 * total, rel=1e-6)


def test_the_last_head_learns_nothing_from_its_exits():
    student = trace(requires_grad=True)
    (
        bound(ExitKD())(student, student, LABELS) + bound(ExitCrossEntropy())(student, student, LABELS)
    ).backward()
    assert student.logits.grad is None
    assert all(reading.grad.abs().sum() > 0 for reading in student.readings.values())


def test_an_exit_that_agrees_with_the_last_head_is_best():
    logits = torch.tensor(LAST)
    exits = {Tap("exit", n): logits.clone().requires_grad_() for n in (1, 2)}
    loss = bound(ExitKD())(Trace(logits, readings=exits), trace(), LABELS)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-7)
    assert all(reading.grad.abs().max() < 1e-6 for reading in exits.values())


def test_chosen_exits_alone():
    both, second = bound(ExitCrossEntropy()), bound(ExitCrossEntropy(exits=[2]))
    assert second.taps() == (frozenset({Tap("exit", 2)}), frozenset())
    assert both.taps()[0] == {Tap("exit", 1), Tap("exit", 2)}
    alone = CrossEntropy()(Trace(torch.tensor(EXITS[2])), trace(), LABELS)
    assert second(trace(), trace(), LABELS) == alone
    assert repr(second) == "ExitCrossEntropy(exits=[2])"
    assert repr(0.5 * ExitKD(temperature=3)) == "0.5 * ExitKD(temperature=3)"


def test_a_scheduled_temperature_moves():
    objective = bound(ExitKD(temperature=Linear(1, 3)))
    for progress, temperature in ((0, 1.0), (0.5, 2.0), (1, 3.0)):
        objective.set_progress(progress)
        fixed = bound(ExitKD(temperature=temperature))
        assert objective(trace(), trace(), LABELS) == fixed(trace(), trace(), LABELS)


def test_the_runs_label_smoothing_counts():
    smooth = bound(ExitCrossEntropy(exits=[1]), label_smoothing=0.2)
    hard = CrossEntropy(label_smoothing=0.2)
    hard.bind(setting())
    assert smooth(trace(), trace(), LABELS) == hard(Trace(torch.tensor(EXITS[1])), trace(), LABELS)


@pytest.mark.parametrize("objective", [ExitCrossEntropy, ExitKD])
def test_a_student_without_these_exits(objective):
    with pytest.raises(ValueError, match=r"the student has no exits\. .*with_exits\(student, layers='all'\)"):
        bound(objective(), exits=())
    with pytest.raises(ValueError, match=r"the student has no exits"):
        bound(objective(), student=None)
    with pytest.raises(ValueError, match=r"exits at \[1, 2\]\. .*with_exits\(student, layers=\[3\]\)"):
        bound(objective(exits=[1, 3]))
    with pytest.raises(RuntimeError, match="not bound yet"):
        objective().taps()
    with pytest.raises(ValueError, match=r"needs Tap\(kind='exit', layer=1\) of the student"):
        bound(objective())(Trace(torch.tensor(LAST)), trace(), LABELS)


@pytest.mark.parametrize("exits", [2, torch.tensor(2), [], "all", [1, 1], [1.0]])
def test_exits_that_are_no_list_of_layers_are_refused(exits):
    for objective in (ExitCrossEntropy, ExitKD):
        with pytest.raises(
            ValueError, match=re.escape(f"found {as_python(exits)!r}. Type exits=[2], or leave it out")
        ):
            objective(exits=exits)


def test_exits_out_of_an_array_are_those_that_were_typed():
    assert repr(ExitCrossEntropy(exits=torch.tensor([1, 2]))) == "ExitCrossEntropy(exits=[1, 2])"


@pytest.mark.parametrize("objective", [ExitCrossEntropy, ExitKD])
def test_regression_is_refused(objective):
    with pytest.raises(ValueError, match="one output"):
        bound(objective(), task="regression", classes=1)


def test_a_temperature_of_zero():
    with pytest.raises(ValueError, match="temperature above 0"):
        ExitKD(temperature=0)
    assert KD(temperature=1).temperature == ExitKD().temperature
