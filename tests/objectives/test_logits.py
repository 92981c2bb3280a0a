"""Objectives on logits against values worked out by hand and against a float64 reference."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hfdistill import KD, CrossEntropy, LabelMSE, LogitMSE, Trace
from hfdistill.files.plain_data import as_python
from hfdistill.objectives import Setting

NAN = math.nan
TASKS = {
    "single_label": Setting(task="single_label", classes=3),
    "multi_label": Setting(task="multi_label", classes=3),
    "regression": Setting(task="regression", classes=1),
}
S = [[2.0, -1.0, 0.5], [0.0, 1.0, -3.0]]
T = [[1.0, 0.0, 0.0], [-2.0, 2.0, 1.0]]
LABELS = [0, 2]
ROWS = [[1.0, 0.0, -100.0], [-100.0, 1.0, 0.0]]


def bound(objective, task="single_label", **changes):
    setting = TASKS[task]
    objective.bind(Setting(**{**vars(setting), **changes}))
    return objective


def value(objective, student=S, teacher=T, labels=LABELS):
    student, teacher = torch.as_tensor(student), torch.as_tensor(teacher)
    return objective(Trace(student), Trace(teacher), torch.as_tensor(labels))


def softmax(row, temperature=1.0):
    powers = [math.exp(z / temperature) for z in row]
    return [p / sum(powers) for p in powers]


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


# Hard labels


def test_cross_entropy_by_hand():
    expected = -(math.log(softmax(S[0])[0]) + math.log(softmax(S[1])[2])) / 2
    assert value(bound(CrossEntropy())).item() == pytest.approx(expected, rel=1e-6)


def test_cross_entropy_leaves_out_rows_without_a_label():
    expected = -math.log(softmax(S[1])[2])
    assert value(bound(CrossEntropy()), labels=[-100, 2]).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("own", [True, False], ids=["own", "the run's"])
def test_label_smoothing_is_the_hand_formula_and_torchs_own(own):
    objective = CrossEntropy(label_smoothing=0.1) if own else CrossEntropy()
    got = value(bound(objective, label_smoothing=0.0 if own else 0.1))
    logs = [[math.log(p) for p in softmax(row)] for row in S]
    expected = -sum(0.9 * row[y] + 0.1 / 3 * sum(row) for row, y in zip(logs, LABELS, strict=True)) / 2
    assert got.item() == pytest.approx(expected, rel=1e-6)
    torchs = F.cross_entropy(torch.tensor(S), torch.tensor(LABELS), label_smoothing=0.1)
    assert got.item() == pytest.approx(torchs.item(), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_class_weights_are_torchs_weighted_mean(smoothing):
    weights, labels = [0.5, 2.0, 3.0], [0, -100, 2, 1]
    logits = [*S, *T]
    got = value(
        bound(CrossEntropy(class_weights=weights, label_smoothing=smoothing)), student=logits, labels=labels
    )
    loss = torch.nn.CrossEntropyLoss(weight=torch.tensor(weights), label_smoothing=smoothing)
    torch.testing.assert_close(got, loss(torch.tensor(logits), torch.tensor(labels)))
    if not smoothing:
        logs = [math.log(softmax(row)[y]) for row, y in zip(logits, labels, strict=True) if y >= 0]
        expected = -sum(w * log for w, log in zip([0.5, 3.0, 2.0], logs, strict=True)) / 5.5
        assert got.item() == pytest.approx(expected, rel=1e-6)


def test_class_weights_count_what_the_labels_weigh():
    objective = bound(CrossEntropy(class_weights=[0.5, 2.0, 3.0]))
    assert objective.count(torch.tensor([0, -100, 2, 0])).item() == 4.0


NAMES = ("bad", "good", "odd")


@pytest.mark.parametrize(
    ("named", "names"),
    [({"odd": 3, "bad": np.float32(0.5), "good": 2}, NAMES), ({1: 0.5, 2: 2, 3: 3}, ("1", "2", "3"))],
)
def test_class_weights_by_name_are_those_in_the_order_of_the_classes(named, names):
    """Also where another student, with another order, is bound to the same term."""
    term, labels = CrossEntropy(class_weights=named), torch.tensor([0, -100, 2, 2])
    for order in ((0, 1, 2), (2, 0, 1)):
        wanted = CrossEntropy(class_weights=[[0.5, 2.0, 3.0][i] for i in order])
        bound(term, class_names=tuple(names[i] for i in order))
        assert term.count(labels) == bound(wanted).count(labels)
        torch.testing.assert_close(value(term), value(wanted), rtol=0, atol=0)
    assert (
        repr(term)
        == f"CrossEntropy(class_weights={dict(zip(named, map(as_python, named.values()), strict=True))!r})"
    )


def test_class_weights_by_number_are_those_of_the_classes_of_these_numbers():
    term = bound(CrossEntropy(class_weights={2: 3, 0: 0.5, 1: 2}), class_names=NAMES)
    assert [term.count(torch.tensor([label])).item() for label in range(3)] == [0.5, 2, 3]


@pytest.mark.parametrize("names", [NAMES, ("LABEL_0", "LABEL_1", "LABEL_2")])
def test_class_weights_of_other_names_are_refused_with_those_that_lack(names):
    words = r"names 'bad', 'god', and the student's .*; it has no .*'god'; no weight for .*\. Give one"
    with pytest.raises(ValueError, match=words):
        bound(CrossEntropy(class_weights={"bad": 1, "god": 2}), class_names=names)
    with pytest.raises(ValueError, match=r"positive numbers, one per class; found \{'bad': 0\}"):
        CrossEntropy(class_weights={"bad": 0})


def test_class_weights_by_name_have_no_order_before_the_classes_are_known():
    term = CrossEntropy(class_weights={"good": 3, "bad": 1})
    with pytest.raises(ValueError, match="order of the classes is not known before bind"):
        term.count(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="give a list in their order"):
        value(term)


@pytest.mark.parametrize("gap", [-100.0, NAN])
def test_multi_label_is_the_mean_over_the_labels_that_are_known(gap):
    rows = [[gap if y == -100 else y for y in row] for row in ROWS]
    student = torch.tensor(S, requires_grad=True)
    loss = value(bound(CrossEntropy(), "multi_label"), student=student, labels=rows)
    known = [(2.0, 1), (-1.0, 0), (1.0, 1), (-3.0, 0)]
    expected = -sum(math.log(sigmoid(z) if y else 1 - sigmoid(z)) for z, y in known) / 4
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    z, y = torch.tensor(known).T
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(z, y))
    loss.backward()
    assert (student.grad == 0).tolist() == [[False, False, True], [True, False, False]]


def test_multi_label_class_weights_weigh_the_positive_labels():
    weights = [0.5, 2.0, 3.0]
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    got = value(bound(CrossEntropy(class_weights=weights), "multi_label"), labels=labels)
    loss = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weights))
    torch.testing.assert_close(got, loss(torch.tensor(S), labels))


def test_label_mse_by_hand_without_rows_that_have_no_value():
    got = value(bound(LabelMSE(), "regression"), student=[[1.0], [9.0], [-2.0]], labels=[0.5, NAN, 1.0])
    assert got.item() == (0.5**2 + 3.0**2) / 2


# Soft labels


@pytest.mark.parametrize("temperature", [1, 4])
def test_kd_by_hand_is_t_squared_times_the_mean_kl_of_teacher_from_student(temperature):
    each = [kl(softmax(t, temperature), softmax(s, temperature)) for s, t in zip(S, T, strict=True)]
    got = value(bound(KD(temperature=temperature)))
    assert got.item() == pytest.approx(temperature**2 * sum(each) / 2, rel=1e-6)
    s, t = torch.tensor(S) / temperature, torch.tensor(T) / temperature
    torchs = temperature**2 * F.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="batchmean")
    assert got.item() == pytest.approx(torchs.item(), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kds_gradient_is_t_over_b_times_the_difference_of_probabilities(temperature):
    student, teacher = torch.tensor(S, dtype=torch.float64, requires_grad=True), torch.tensor(T).double()
    value(bound(KD(temperature=temperature)), student=student, teacher=teacher).backward()
    difference = (student.detach() / temperature).softmax(-1) - (teacher / temperature).softmax(-1)
    torch.testing.assert_close(student.grad, temperature / 2 * difference)


def test_kd_at_a_huge_temperature_is_half_the_squared_error_of_centred_logits():
    s, t = torch.tensor(S), torch.tensor(T)
    centred = (s - s.mean(-1, keepdim=True)) - (t - t.mean(-1, keepdim=True))
    expected = centred.square().mean(-1).mean() / 2
    assert value(bound(KD(temperature=1e5))).item() == pytest.approx(expected.item(), rel=1e-4)


def test_a7_multi_label_kd_by_hand_is_the_mean_kl_of_bernoullis():
    pairs = [(z, y) for s, t in zip(S, T, strict=True) for z, y in zip(s, t, strict=True)]
    bernoullis = [([sigmoid(z / 2), sigmoid(-z / 2)], [sigmoid(y / 2), sigmoid(-y / 2)]) for z, y in pairs]
    expected = 4 * sum(kl(q, p) for p, q in bernoullis) / 6
    assert value(bound(KD(temperature=2), "multi_label")).item() == pytest.approx(expected, rel=1e-6)


def test_multi_label_kd_at_t_1_is_binary_cross_entropy_less_the_teachers_entropy():
    student, teacher = torch.tensor(S), torch.tensor(T)
    q = teacher.sigmoid()
    entropy = F.binary_cross_entropy(q, q)
    expected = F.binary_cross_entropy_with_logits(student, q) - entropy
    torch.testing.assert_close(value(bound(KD(temperature=1), "multi_label")), expected)
    hard = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    got = value(bound(KD(temperature=1), "multi_label"), teacher=(2 * hard - 1) * 1e4)
    torch.testing.assert_close(got, F.binary_cross_entropy_with_logits(student, hard))


def test_logit_mse_by_hand():
    expected = (1 + 1 + 0.25 + 4 + 1 + 16) / 6
    assert value(bound(LogitMSE())).item() == pytest.approx(expected, rel=1e-7)


# Precision: float64 reference, inputs in float32


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def log_sigmoid(z):
    return np.minimum(z, 0) - np.log1p(np.exp(-np.abs(z)))


def reference_kd(s, t, temperature, task):
    s, t = s / temperature, t / temperature
    if task == "single_label":
        log_p, log_q = log_softmax(t), log_softmax(s)
        return temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum(-1).mean()
    each = sum(np.exp(log_sigmoid(a * t)) * (log_sigmoid(a * t) - log_sigmoid(a * s)) for a in (1, -1))
    return temperature**2 * each.mean()


def random_cases(cases=1000):
    """Pairs of logits up to 10^4 and temperatures from 0.1 to 50, both spread over their magnitudes."""
    draw = np.random.default_rng(0)
    for _ in range(cases):
        temperature, scale = np.exp(draw.uniform(np.log([0.1, 0.1]), np.log([50, 1e4])))
        shape = (2, int(draw.integers(1, 9)), int(draw.integers(2, 9)))
        yield (draw.uniform(-1, 1, shape) * scale).astype(np.float32), float(temperature)


def precisely(expected, floor):
    """Within 1e-6 of the value; below `floor`, which float64 cannot resolve either, within that."""
    return pytest.approx(expected, rel=1e-6, abs=floor)


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_kd_is_within_1e_6_of_a_float64_reference(task):
    for logits, temperature in random_cases():
        objective = bound(KD(temperature=temperature), task)
        got = value(objective, *logits, labels=np.zeros(len(logits[0]))).item()
        s, t = logits.astype(np.float64)
        # What rounding the logits to float64 alone can do to the value.
        floor = 10 * np.finfo(np.float64).eps * temperature**2 * max(1, np.abs(logits).max() / temperature)
        assert got == precisely(reference_kd(s, t, temperature, task), floor)


def test_logit_mse_is_within_1e_6_of_a_float64_reference():
    for logits, _ in random_cases():
        s, t = logits.astype(np.float64)
        got = value(LogitMSE(), *logits, labels=np.zeros(len(s))).item()
        assert got == pytest.approx(((s - t) ** 2).mean(), rel=1e-6)


def test_cross_entropy_is_within_1e_6_of_a_float64_reference():
    """Relative to the value, or to 1 where it is smaller: log(1 + x) in float32 rounds at 6e-8."""
    for logits, _ in random_cases():
        s = logits[0].astype(np.float64)
        labels = np.arange(len(s)) % s.shape[1]
        got = value(bound(CrossEntropy(), classes=s.shape[1]), *logits, labels=labels).item()
        assert got == precisely(-log_softmax(s)[np.arange(len(s)), labels].mean(), floor=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0, 1e3, 1e4])
@pytest.mark.parametrize(
    ("objective", "task"),
    [
        (CrossEntropy(), "single_label"),
        (CrossEntropy(), "multi_label"),
        (KD(temperature=0.1), "single_label"),
        (KD(temperature=0.1), "multi_label"),
        (KD(temperature=50), "single_label"),
        (LogitMSE(), "single_label"),
        (LabelMSE(), "regression"),
    ],
    ids=str,
)
def test_half_precision_logits_of_any_size_give_finite_values_and_gradients(objective, task, scale, dtype):
    generator = torch.Generator().manual_seed(0)
    classes = TASKS[task].classes
    student, teacher = (torch.rand(2, 4, classes, generator=generator) * 2 - 1).mul(scale).to(dtype)
    labels = {"single_label": torch.tensor([0, 1, 2, -100]), "regression": torch.tensor([0.5, 1, NAN, 2])}
    student.requires_grad_()
    targets = labels.get(task, torch.tensor([[0.0, 1.0, -100.0]] * 4))
    loss = value(bound(objective, task), student=student, teacher=teacher, labels=targets)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert loss >= -1e-6
    assert student.grad.isfinite().all()


# What is refused


@pytest.mark.parametrize("temperature", [0, -1, NAN, math.inf, True, "4", None])
def test_a_temperature_that_is_not_above_0_is_refused_with_the_value(temperature):
    with pytest.raises(ValueError, match=r"KD needs a temperature above 0, found .*Usual: 1 to 8"):
        KD(temperature=temperature)


@pytest.mark.parametrize("smoothing", [-0.1, 1, NAN, "0.1", True])
def test_label_smoothing_out_of_range_is_refused_with_the_value(smoothing):
    with pytest.raises(ValueError, match=r"label_smoothing lies in \[0, 1\), found .*Usual: 0.1"):
        CrossEntropy(label_smoothing=smoothing)


@pytest.mark.parametrize(
    "weights", [[1, 0], [1, -1], [1, NAN], [1, math.inf], ["1", "2"], "12", 2.0, [], {1.0, 2.0}]
)
def test_class_weights_that_are_not_positive_are_refused(weights):
    with pytest.raises(ValueError, match="class_weights are positive numbers, one per class"):
        CrossEntropy(class_weights=weights)


@pytest.mark.parametrize(
    ("objective", "task", "changes", "message"),
    [
        (KD(), "regression", {}, "Use LogitMSE"),
        (KD(), "single_label", {"classes": 1}, "Use LogitMSE"),
        (CrossEntropy(), "regression", {}, "Use LabelMSE"),
        (CrossEntropy(), "single_label", {"classes": 1}, "num_labels=2"),
        (LabelMSE(), "single_label", {}, "task is single_label. Use CrossEntropy"),
        (LabelMSE(), "multi_label", {}, "task is multi_label. Use CrossEntropy"),
        (CrossEntropy(class_weights=[1, 2]), "single_label", {}, "2 class_weights for 3 classes. Give one"),
        (CrossEntropy(label_smoothing=0.1), "multi_label", {}, "Leave label_smoothing at 0"),
        (CrossEntropy(label_smoothing=0.1), "single_label", {"label_smoothing": 0.2}, "twice.*Leave one"),
    ],
)
def test_an_objective_that_does_not_fit_is_refused_when_bound(objective, task, changes, message):
    with pytest.raises(ValueError, match=message):
        bound(objective, task, **changes)


def test_label_smoothing_of_0_overrules_nothing_and_agreeing_settings_pass():
    plain = value(bound(CrossEntropy(label_smoothing=0.1), label_smoothing=0.1))
    assert plain.item() == value(bound(CrossEntropy(), label_smoothing=0.1)).item()
    assert plain.item() != value(bound(CrossEntropy())).item()
