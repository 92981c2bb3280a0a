"""RKD and InfoNCE against values worked out by hand and against a float64 reference."""

import math

import numpy as np
import pytest
import torch

from hfdistill import RKD, InfoNCE, Tap
from hfdistill.objectives.between_rows import _direction
from tests.objectives.inside import bound, case, every_third_case, log_softmax, value

ONE = "1:1"
S = [[[0.0, 0.0]], [[3.0, 4.0]], [[0.0, 4.0]]]  # (3, 1, 2); distances 5, 4, 3
T = [[[0.0, 0.0]], [[6.0, 0.0]], [[0.0, 6.0]]]
TWO = {"depth": 1, "width": 2}


def hidden(values):
    return {("hidden", 1): values}


def huber(x):
    return np.where(np.abs(x) < 1, 0.5 * x**2, np.abs(x) - 0.5)


def relations(e):
    """Distances over their mean and cosines of all triples, one by one."""
    rows = len(e)
    d = np.array([[np.linalg.norm(a - b) for b in e] for a in e])
    mean = d[d > 0].mean() if (d > 0).any() else 1.0
    angles = np.zeros((rows, rows, rows))
    for i in range(rows):
        for j in range(rows):
            for k in range(rows):
                if d[i, j] and d[i, k]:
                    angles[i, j, k] = (e[j] - e[i]) @ (e[k] - e[i]) / (d[i, j] * d[i, k])
    return d / mean, angles


def pooled(x, mask, pooling):
    if pooling == "cls":
        return np.stack([row[real][0] for row, real in zip(x.astype(np.float64), mask, strict=True)])
    return np.stack([row[real].mean(0) for row, real in zip(x.astype(np.float64), mask, strict=True)])


def test_rkd_distance_by_hand():
    own = np.array([5, 4, 3]) / 4
    other = np.array([6, 6, math.sqrt(72)]) / ((12 + math.sqrt(72)) / 3)
    expected = 2 * huber(own - other).sum() / 9
    loss = value(bound(RKD(layers=ONE, distance=1, angle=0), TWO, TWO), hidden(S), hidden(T))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_rkd_angle_by_hand():
    # Cosines at the three corners: 0.8, 0.6, 0 in the student, 0, √½, √½ in the teacher.
    corners = [0.8 - 0, 0.6 - math.sqrt(0.5), 0 - math.sqrt(0.5)]
    expected = 2 * sum(0.5 * x**2 for x in corners) / 27
    loss = value(bound(RKD(layers=ONE, distance=0, angle=1), TWO, TWO), hidden(S), hidden(T))
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    both = value(bound(RKD(layers=ONE), TWO, TWO), hidden(S), hidden(T))
    distance = value(bound(RKD(layers=ONE, distance=1, angle=0), TWO, TWO), hidden(S), hidden(T))
    assert both.item() == pytest.approx(distance.item() + 2 * expected, rel=1e-6)


def test_info_nce_by_hand():
    objective = bound(InfoNCE(layers=ONE, temperature=0.5, dimension=2), TWO, TWO)
    assert torch.equal(objective.project_student.weight, torch.eye(2))
    loss = value(objective, hidden([[[1.0, 0.0]], [[0.0, 2.0]]]), hidden([[[3.0, 4.0]], [[0.0, 1.0]]]))
    expected = (math.log(1 + math.exp((0 - 0.6) / 0.5)) + math.log(1 + math.exp((0.8 - 1) / 0.5))) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@every_third_case
def test_rkd_is_within_1e_6_of_a_float64_reference_in_1000_random_cases(every):
    for number in range(0, 1000, every):
        pooling = "mean" if number < 500 else "cls"
        random, draw, rows, tokens, mask = case(number)
        widths = random.integers(1, 9, size=2)
        s, t = (draw(rows, tokens, int(width)) for width in widths)
        sizes = [{"depth": 1, "width": int(width)} for width in widths]
        got = value(bound(RKD(layers=ONE, pooling=pooling), *sizes), hidden(s), hidden(t), mask).item()
        (d, a), (e, b) = (relations(pooled(x, mask, pooling)) for x in (s, t))
        expected = huber(d - e).mean() + 2 * huber(a - b).mean()
        assert got == pytest.approx(expected, rel=1e-6, abs=1e-9)


@every_third_case
def test_info_nce_is_within_1e_6_of_a_float64_reference_in_1000_random_cases(every):
    for number in range(0, 1000, every):
        pooling = "mean" if number < 500 else "cls"
        random, draw, rows, tokens, mask = case(number)
        widths = random.integers(1, 9, size=2)
        s, t = (draw(rows, tokens, int(width)) for width in widths)
        sizes = [{"depth": 1, "width": int(width)} for width in widths]
        options = {"layers": ONE, "pooling": pooling, "dimension": 5, "temperature": 0.5}
        objective = bound(InfoNCE(**options), *sizes)
        got = value(objective, hidden(s), hidden(t), mask).item()
        weights = objective.project_student.weight, objective.project_teacher.weight
        u, v = (
            pooled(x, mask, pooling) @ w.detach().double().numpy().T
            for x, w in zip((s, t), weights, strict=True)
        )
        u, v = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (u, v))
        assert got == pytest.approx(-np.diagonal(log_softmax(u @ v.T / 0.5)).mean(), rel=2e-6)


def test_a_student_that_is_the_teacher_has_nothing_to_learn_from_its_relations():
    states = torch.randn(5, 4, 8, generator=torch.Generator().manual_seed(0))
    assert value(bound(RKD(layers=ONE)), hidden(states), hidden(states)).item() == 0
    turned = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))[0]
    assert value(bound(RKD(layers=ONE)), hidden(3 * states @ turned + 1), hidden(states)) < 1e-9
    assert value(bound(RKD(layers=ONE)), hidden(states.flip(2) * states), hidden(states)) > 0.01


@pytest.mark.parametrize("objective", [RKD(layers=ONE), InfoNCE(layers=ONE)], ids=repr)
def test_one_row_and_equal_rows_have_finite_gradients(objective):
    for rows in (torch.ones(1, 2, 8), torch.ones(4, 2, 8), torch.zeros(4, 2, 8)):
        student = rows.clone().requires_grad_()
        teacher = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
        loss = value(bound(objective), hidden(student), hidden(teacher))
        loss.backward()
        assert loss.isfinite()
        assert student.grad.isfinite().all()
        if len(rows) == 1:
            assert loss.item() == 0


def test_widths_and_tokens_may_differ():
    student, teacher = torch.randn(4, 3, 6), torch.randn(4, 7, 10)
    for objective in (RKD(layers=ONE), InfoNCE(layers=ONE)):
        bound(objective, {"width": 6}, {"width": 10}, same_tokens=False)
        assert objective.taps() == (frozenset({Tap("hidden", 1)}),) * 2
        assert value(objective, hidden(student), hidden(teacher)) > 0
        assert not objective.additive
    before = torch.random.get_rng_state()
    assert [p.shape for p in bound(InfoNCE(), {"width": 6}).parameters()] == [(128, 6), (128, 8)]
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RKD(distance=0, angle=0), "RKD needs weights from 0 up, one of them above 0"),
        (lambda: RKD(distance=-1), "found distance=-1"),
        (lambda: RKD(angle=math.nan), "angle=nan"),
        (lambda: RKD(pooling="token"), "pooling is one of 'cls', 'mean', found 'token'"),
        (lambda: InfoNCE(temperature=0), "temperature above 0, found 0. Usual: 0.07"),
        (lambda: InfoNCE(dimension=0), "dimension is a number from 1 up, found 0. Usual: 128"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_projections_are_made_when_the_widths_are_known():
    with pytest.raises(RuntimeError, match=r"InfoNCE\(\) is not bound yet"):
        _direction(None, torch.zeros(2, 2))
    project = torch.nn.Linear(2, 2, bias=False)
    project.weight.data = 3 * torch.eye(2)
    assert _direction(project, torch.tensor([[3.0, 4.0]]))[0].tolist() == pytest.approx([0.6, 0.8])
