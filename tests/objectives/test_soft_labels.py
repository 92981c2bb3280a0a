"""DKD, DIST, WSL and standardised logits: values by hand, a float64 reference, identities."""

import math

import numpy as np
import pytest
import torch

from hfdistill import DIST, DKD, KD, WSL, Linear, Trace
from hfdistill.objectives import Setting
from hfdistill.objectives.soft_labels import decoupled
from tests.objectives.inside import every_third_case

SINGLE = Setting(task="single_label", classes=3)
TWO = Setting(task="single_label", classes=2)
S = [[2.0, -1.0, 0.5], [0.0, 1.0, -3.0]]
T = [[1.0, 0.0, 0.0], [-2.0, 2.0, 1.0]]
LABELS = [0, 2]
OBJECTIVES = [DKD(), DKD(standardise=True), KD(standardise=True), DIST(), WSL()]
each_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=str)


def value(objective, student=S, teacher=T, labels=LABELS):
    return objective(
        Trace(torch.as_tensor(student)), Trace(torch.as_tensor(teacher)), torch.as_tensor(labels)
    )


def softmax(row, temperature=1.0):
    powers = [math.exp(z / temperature) for z in row]
    return [p / sum(powers) for p in powers]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def pearson(u, v):
    u, v = ([x - sum(w) / len(w) for x in w] for w in (u, v))
    dot, length_u, length_v = (sum(a * b for a, b in zip(*p, strict=True)) for p in ((u, v), (u, u), (v, v)))
    return dot / math.sqrt(length_u * length_v)


def logits(rows=16, classes=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 2 * torch.randn(2, rows, classes, generator=generator, dtype=dtype)
    return student, teacher, torch.randint(classes, (rows,), generator=generator)


# By hand


@pytest.mark.parametrize("temperature", [1, 4])
def test_dkd_by_hand(temperature):
    target, others = [], []
    for s, t, y in zip(S, T, LABELS, strict=True):
        p, q = softmax(t, temperature), softmax(s, temperature)
        target.append(kl([p[y], 1 - p[y]], [q[y], 1 - q[y]]))
        rest = [[c / (1 - probs[y]) for i, c in enumerate(probs) if i != y] for probs in (p, q)]
        others.append(kl(*rest))
    expected = temperature**2 * (0.5 * sum(target) + 3 * sum(others)) / 2
    got = value(DKD(alpha=0.5, beta=3, temperature=temperature))
    assert got.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("temperature", [1, 4])
def test_dist_by_hand(temperature):
    p, q = ([softmax(row, temperature) for row in rows] for rows in (T, S))
    inter = 1 - sum(pearson(a, b) for a, b in zip(q, p, strict=True)) / 2
    columns = [list(zip(*rows, strict=True)) for rows in (q, p)]
    intra = 1 - sum(pearson(a, b) for a, b in zip(*columns, strict=True)) / 3
    got = value(DIST(inter=2, intra=0.5, temperature=temperature))
    assert got.item() == pytest.approx(temperature**2 * (2 * inter + 0.5 * intra), rel=1e-6)


@pytest.mark.parametrize("temperature", [1, 2])
def test_wsl_by_hand(temperature):
    expected = 0.0
    for s, t, y in zip(S, T, LABELS, strict=True):
        c_s, c_t = -math.log(softmax(s)[y]), -math.log(softmax(t)[y])
        weight = 1 - math.exp(-c_s / (c_t + 1e-7))
        expected += temperature**2 * weight * kl(softmax(t, temperature), softmax(s, temperature)) / 2
    assert value(WSL(temperature=temperature)).item() == pytest.approx(expected, rel=1e-6)


def test_standardised_kd_by_hand():
    expected = 0.0
    for rows in zip(T, S, strict=True):
        means = [sum(row) / 3 for row in rows]
        sizes = [math.sqrt(sum((z - m) ** 2 for z in row) / 2) for row, m in zip(rows, means, strict=True)]
        z = [[(x - m) / d for x in row] for row, m, d in zip(rows, means, sizes, strict=True)]
        expected += 4 * kl(*(softmax(row, 2) for row in z)) / 2
    assert value(KD(temperature=2, standardise=True)).item() == pytest.approx(expected, rel=1e-6)


# Precision: float64 reference in numpy, inputs in float32


def reference_standardised(z):
    return (z - z.mean(-1, keepdims=True)) / (z.std(-1, ddof=1, keepdims=True) + 1e-7)


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def rows_kl(log_p, log_q):
    return (np.exp(log_p) * (log_p - log_q)).sum(-1)


def reference_kd(s, t, labels, temperature):
    s, t = reference_standardised(s) / temperature, reference_standardised(t) / temperature
    return temperature**2 * rows_kl(log_softmax(t), log_softmax(s)).mean()


def reference_dkd(s, t, labels, temperature, *, standardise=False):
    if standardise:
        s, t = reference_standardised(s), reference_standardised(t)
    rows, classes = s.shape
    y = np.eye(classes, dtype=bool)[labels]
    two, rest = [], []
    for z in (t / temperature, s / temperature):
        others = z[~y].reshape(rows, classes - 1)
        top = others.max(-1)
        total = top + np.log(np.exp(others - top[:, None]).sum(-1))
        two.append(log_softmax(np.stack([z[y], total], -1)))
        rest.append(log_softmax(others))
    return temperature**2 * (rows_kl(*two) + 8 * rows_kl(*rest)).mean()


def reference_wsl(s, t, labels, temperature):
    rows = np.arange(len(s))
    c_s, c_t = (-log_softmax(z)[rows, labels] for z in (s, t))
    divergence = rows_kl(log_softmax(t / temperature), log_softmax(s / temperature))
    return temperature**2 * (-np.expm1(-c_s / (c_t + 1e-7)) * divergence).mean()


def reference_dist(s, t, labels, temperature):
    y_s, y_t = (np.exp(log_softmax(z / temperature)) for z in (s, t))

    def far(a, b):
        centred = [x - x.mean(-1, keepdims=True) for x in (a, b)]
        u, v = ((x**2).sum(-1) for x in centred)
        floors = [np.maximum(1e-8 * np.sqrt((x**2).sum(-1)), 1e-138) for x in (a, b)]
        varies = [np.sqrt(square) > floor for square, floor in zip((u, v), floors, strict=True)]
        both = varies[0] & varies[1]
        rho = (centred[0] * centred[1]).sum(-1) / np.where(both, np.sqrt(u) * np.sqrt(v), 1)
        return np.where(both, 1 - rho, varies[0] | varies[1]).mean()

    return temperature**2 * (far(y_s, y_t) + far(y_s.T, y_t.T))


REFERENCES = [
    (lambda T: KD(temperature=T, standardise=True), reference_kd),  # noqa: N803
    (lambda T: DKD(temperature=T), reference_dkd),  # noqa: N803
    (
        lambda T: DKD(temperature=T, standardise=True),  # noqa: N803
        lambda *case: reference_dkd(*case, standardise=True),
    ),
    (lambda T: DIST(temperature=T), reference_dist),  # noqa: N803
    (lambda T: WSL(temperature=T), reference_wsl),  # noqa: N803
]


@every_third_case
@pytest.mark.parametrize(
    ("build", "reference"), REFERENCES, ids=["kd-standardised", "dkd", "dkd-standardised", "dist", "wsl"]
)
def test_the_value_is_within_1e_6_of_a_float64_reference(build, reference, every):
    """Relative; below `floor`, what rounding the logits to float64 alone can do, within that."""
    draw = np.random.default_rng(0)
    for _ in range(1000 // every):
        temperature, scale = np.exp(draw.uniform(np.log([0.1, 0.1]), np.log([50, 1e3])))
        rows, classes = int(draw.integers(2, 9)), int(draw.integers(3, 9))
        case = (draw.uniform(-1, 1, (2, rows, classes)) * scale).astype(np.float32)
        labels = draw.integers(classes, size=rows)
        expected = reference(*case.astype(np.float64), labels, float(temperature))
        floor = 1e-13 * temperature**2 * max(1, scale / temperature)
        got = value(build(float(temperature)), *case, labels=labels).item()
        assert got == pytest.approx(expected, rel=1e-6, abs=floor), (temperature, scale, rows, classes)


# Identities


def test_dkd_with_the_weight_of_the_paper_is_kd():
    student, teacher, labels = logits()
    target, others = decoupled(student / 4, teacher / 4, labels)
    unsure = 1 - (teacher / 4).softmax(-1)[torch.arange(16), labels]
    again = 16 * (target + unsure * others).mean()
    assert again.item() == pytest.approx(value(KD(temperature=4), student, teacher, labels).item(), rel=1e-7)
    s, t = student[:1], teacher[:1]
    by_row = DKD(alpha=1, beta=unsure[0].item(), temperature=4)
    assert value(by_row, s, t, labels[:1]).item() == pytest.approx(value(KD(), s, t).item(), rel=1e-6)


def test_dkd_of_two_classes_is_alpha_times_kd_whatever_beta():
    student, teacher, labels = logits(classes=2)
    _, others = decoupled(student, teacher, labels)
    assert others.abs().max() == 0
    got = value(DKD(alpha=0.5, beta=100, temperature=2), student, teacher, labels)
    expected = 0.5 * value(KD(temperature=2), student, teacher, labels)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)


def test_dkd_of_a_teacher_that_is_sure_stays_finite():
    student = torch.tensor([[0.0, 1.0, 2.0]], requires_grad=True)
    loss = value(DKD(temperature=1), student, [[1e4, 0.0, -1e4]], [0])
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("objective", [KD(standardise=True), DKD(standardise=True)], ids=str)
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (3.0, -2.0), (0.2, 100.0)])
def test_standardised_logits_see_neither_scale_nor_shift(objective, scale, shift):
    _, teacher, labels = logits()
    student = (scale * teacher + shift).requires_grad_()
    loss = value(objective, student, teacher, labels)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert student.grad.abs().max() < 1e-6
    assert value(objective, -student, teacher, labels) > 0.1


def test_standardised_logits_that_do_not_vary_stay_finite():
    student = torch.zeros(2, 3, requires_grad=True)
    loss = value(KD(standardise=True), student)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_dist_sees_no_shift_of_a_row_but_sees_scale():
    _, teacher, labels = logits()
    shift = torch.arange(16, dtype=torch.float64)[:, None]
    assert value(DIST(), teacher, teacher, labels).item() == 0
    assert value(DIST(), teacher + shift, teacher, labels).item() == pytest.approx(0, abs=1e-12)
    assert value(DIST(), 2 * teacher, teacher, labels) > 1e-3


def test_dist_agrees_on_a_class_that_is_nearly_absent_from_the_batch():
    _, teacher, labels = logits()
    teacher[:, 0] -= 30
    assert value(DIST(), teacher, teacher, labels).item() == 0
    assert value(DIST(inter=0), teacher, teacher.flip(0), labels) > 0.1


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ([[0.0] * 3] * 2, [[1.0] * 3] * 2, 0.0),  # neither varies
        ([[0.0] * 3] * 2, T, 2.0),  # nothing to correlate with: 1 for the rows and 1 for the columns
        ([[1e4, 0.0, -1e4]] * 2, [[1e4, 0.0, -1e4]] * 2, 0.0),
        ([S[0]], [S[0]], 0.0),
    ],
)
def test_dist_of_rows_and_columns_that_do_not_vary(student, teacher, expected):
    student = torch.tensor(student, requires_grad=True)
    loss = value(DIST(), student, teacher)
    loss.backward()
    assert loss.item() == expected
    assert student.grad.isfinite().all()


def test_dist_of_one_row_has_no_intra_class_term():
    one = value(DIST(intra=5), S[:1], T[:1])
    assert one.item() == value(DIST(intra=0), S[:1], T[:1]).item() > 0


def test_the_intra_class_term_reads_the_batch_as_one():
    student, teacher, labels = logits()
    whole = value(DIST(inter=0), student, teacher, labels)
    halves = [value(DIST(inter=0), student[i::2], teacher[i::2], labels) for i in (0, 1)]
    assert not DIST.additive
    assert abs(sum(halves) / 2 - whole) > 1e-3


def test_no_gradient_passes_through_the_weights_of_wsl():
    student, teacher, labels = logits()
    student.requires_grad_()
    value(WSL(temperature=2), student, teacher, labels).backward()
    logs = [z.detach().log_softmax(-1)[torch.arange(16), labels] for z in (student, teacher)]
    weights = 1 - torch.exp(-logs[0] / (logs[1] - 1e-7))
    difference = (student.detach() / 2).softmax(-1) - (teacher / 2).softmax(-1)
    torch.testing.assert_close(student.grad, 2 / 16 * weights[:, None] * difference)


def test_wsl_weighs_rows_little_where_the_student_knows_better():
    teacher = torch.tensor([[0.0, 4.0, 0.0]])
    student = torch.tensor([[6.0, 0.0, 0.0]])
    wrong = value(WSL(temperature=1), student, teacher, [0]) / value(KD(temperature=1), student, teacher)
    right = value(WSL(temperature=1), student, teacher, [1]) / value(KD(temperature=1), student, teacher)
    assert wrong < 0.01
    assert right > 0.99


# Rows without a label


@pytest.mark.parametrize("objective", [DKD(), DKD(standardise=True), WSL()], ids=str)
def test_rows_without_a_label_do_not_count(objective):
    student, teacher, labels = logits()
    labels[::3] = -100
    student.requires_grad_()
    known = labels != -100
    loss = value(objective, student, teacher, labels)
    alone = value(objective, student.detach()[known], teacher[known], labels[known])
    torch.testing.assert_close(loss, alone, rtol=1e-6, atol=0)
    assert objective.count(labels) == known.sum()
    loss.backward()
    assert ((student.grad != 0).any(-1) == known).all()


@each_objective
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
def test_half_precision_logits_of_any_size_give_finite_values_and_gradients(objective, scale, dtype):
    student, teacher, labels = logits(rows=4, dtype=torch.float32)
    labels[0] = -100
    student = (student / 4 * scale).to(dtype).requires_grad_()
    loss = value(objective, student, (teacher / 4 * scale).to(dtype), labels)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert loss >= 0
    assert student.grad.isfinite().all()


# Schedules as hyper-parameters


@pytest.mark.parametrize("kind", [KD, DKD, DIST, WSL])
@pytest.mark.parametrize(("progress", "temperature"), [(0, 8), (0.5, 4.5), (1, 1)])
def test_a_temperature_may_be_a_schedule(kind, progress, temperature):
    moving = kind(temperature=Linear(8, 1))
    moving.set_progress(progress)
    assert value(moving).item() == value(kind(temperature=temperature)).item()
    assert "temperature=Linear(8, 1)" in repr(moving)


def test_options_that_are_off_are_not_printed():
    assert repr(DKD(alpha=1, beta=8, temperature=4)) == "DKD(alpha=1, beta=8, temperature=4)"
    assert repr(KD(temperature=2, standardise=True)) == "KD(temperature=2, standardise=True)"
