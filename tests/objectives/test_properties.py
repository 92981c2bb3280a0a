"""What holds for every registered objective, on every task that it accepts."""

import math

import pytest
import torch

import hfdistill
from hfdistill import Trace
from hfdistill.network.architectures import ModelSpec
from hfdistill.objectives import Setting, registered

ROWS, CLASSES = 7, 3
TOKENS, HEADS, WIDTH = 4, 2, 8
NETWORK = ModelSpec(model_type="bert", depth=4, width=WIDTH, heads=HEADS, classes=CLASSES, exits=(1, 3))
INSIDE = {"student": NETWORK, "teacher": NETWORK}
SETTINGS = [
    Setting(task="single_label", classes=CLASSES, **INSIDE),
    Setting(task="multi_label", classes=CLASSES, **INSIDE),
    Setting(task="regression", classes=1, **INSIDE),
]
CONTRASTS = {"info_nce", "weighted_cross_entropy"}
"""Terms that go on telling rows apart, or learn the labels, where the student agrees with the teacher."""


def accepts(name, setting):
    try:
        registered()[name]().bind(setting)
    except ValueError:
        return False
    return True


NAMES = sorted(registered())  # before other tests add some of their own
FITTING = [(name, setting) for name in NAMES for setting in SETTINGS if accepts(name, setting)]
each_objective = pytest.mark.parametrize(
    ("name", "setting"), FITTING, ids=[f"{name}-{setting.task}" for name, setting in FITTING]
)


def bound(name, setting):
    objective = registered()[name]()
    objective.bind(setting)
    return objective


def batch(objective, setting, *, labelled=True):
    """Student, teacher, labels: every third row unlabelled, or all.

    A row of student and teacher is all that the objective reads of it: its logits, and then its readings.
    """
    generator = torch.Generator().manual_seed(3)
    columns = setting.classes + sum(size(tap) for tap in objective.taps()[0])
    student, teacher = 2 * torch.randn(2, ROWS, columns, generator=generator)
    labels = {
        "single_label": torch.randint(CLASSES, (ROWS,), generator=generator),
        "multi_label": torch.randint(2, (ROWS, CLASSES), generator=generator).float(),
        "regression": torch.randn(ROWS, generator=generator),
    }[setting.task]
    labels[:: 3 if labelled else 1] = math.nan if setting.task == "regression" else -100
    return student, teacher, labels


SHAPES = {"hidden": (TOKENS, WIDTH), "exit": (CLASSES,)}


def shape(tap):
    return SHAPES.get(tap.kind, (HEADS, TOKENS, WIDTH // HEADS))


def size(tap):
    return math.prod(shape(tap))


def trace(taps, rows):
    """Rows as a trace: the columns of the readings last, layer by layer."""
    classes = rows.shape[1] - sum(map(size, taps))
    parts = rows[:, classes:].split([size(tap) for tap in sorted(taps)], dim=1) if taps else ()
    readings = {tap: part.unflatten(1, shape(tap)) for tap, part in zip(sorted(taps), parts, strict=True)}
    return Trace(rows[:, :classes], readings=readings)


def value(objective, student, teacher, labels):
    own, other = objective.taps()
    return objective(trace(own, student), trace(other, teacher), labels)


def test_every_registered_objective_fits_some_task():
    assert {name for name, _ in FITTING} == set(NAMES)


@each_objective
def test_the_value_is_a_finite_float32_scalar(name, setting):
    objective = bound(name, setting)
    loss = value(objective, *batch(objective, setting))
    assert (loss.shape, loss.dtype) == ((), torch.float32)
    assert loss > 0
    assert loss.isfinite()


@each_objective
def test_the_order_of_the_rows_does_not_matter(name, setting):
    objective = bound(name, setting)
    tensors = batch(objective, setting)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))
    shuffled = value(objective, *(tensor[order] for tensor in tensors))
    torch.testing.assert_close(shuffled, value(objective, *tensors), rtol=1e-6, atol=0)


@each_objective
def test_the_gradient_reaches_the_student_and_what_the_objective_learns(name, setting):
    objective = bound(name, setting)
    student, teacher, labels = batch(objective, setting)
    student.requires_grad_()
    before = student.clone(), teacher.clone(), labels.clone()
    value(objective, student, teacher, labels).backward()
    assert student.grad.isfinite().all()
    assert student.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.parameters())
    for now, then in zip((student, teacher, labels), before, strict=True):
        torch.testing.assert_close(now, then, rtol=0, atol=0, equal_nan=True)


HELD = {"wsl", "exit_kd"}
"""Terms that read weights or targets off the student and hold them fixed: their gradient is not the value's
slope."""


@pytest.mark.parametrize(("name", "setting"), [case for case in FITTING if case[0] not in HELD])
def test_the_gradient_is_the_slope_of_the_value(name, setting):
    objective = bound(name, setting)
    student, teacher, labels = batch(objective, setting)
    student.requires_grad_()
    value(objective, student, teacher, labels).backward()
    direction = student.grad / student.grad.norm()
    up, down = (value(objective, student.detach() + h * direction, teacher, labels) for h in (0.01, -0.01))
    assert ((up - down) / 0.02).item() == pytest.approx(student.grad.norm().item(), rel=2e-3)


@each_objective
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_give_the_float32_value_of_the_rounded_logits(name, setting, dtype):
    objective = bound(name, setting)
    student, teacher, labels = batch(objective, setting)
    student, teacher = student.to(dtype), teacher.to(dtype)
    half = value(objective, student, teacher, labels)
    assert half.dtype == torch.float32
    torch.testing.assert_close(
        half, value(objective, student.float(), teacher.float(), labels), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(("name", "setting"), [case for case in FITTING if registered()[case[0]].additive])
@pytest.mark.parametrize("cut", range(1, ROWS))
def test_halves_average_to_the_whole_when_weighted_by_their_counts(name, setting, cut):
    objective = bound(name, setting)
    tensors = batch(objective, setting)
    parts = [[t[:cut] for t in tensors], [t[cut:] for t in tensors]]  # the first row alone is unlabelled
    counts = torch.stack([objective.count(labels) for _, _, labels in parts])
    values = torch.stack([value(objective, *part) for part in parts])
    assert counts.sum() == objective.count(tensors[2])
    whole = (counts * values).sum() / counts.sum()
    torch.testing.assert_close(whole, value(objective, *tensors), rtol=1e-6, atol=1e-7)


@each_objective
def test_rows_without_labels_weigh_nothing_in_terms_that_read_labels(name, setting):
    objective = bound(name, setting)
    student, teacher, labels = batch(objective, setting, labelled=False)
    student.requires_grad_()
    loss, count = value(objective, student, teacher, labels), objective.count(labels)
    loss.backward()
    assert student.grad.isfinite().all()
    if objective.needs_labels:
        assert (loss.item(), count.item(), student.grad.abs().sum().item()) == (0, 0, 0)
    else:
        assert loss.item() == value(objective, *batch(objective, setting)).item()
        assert count == ROWS


@each_objective
def test_a_term_reads_what_it_declares(name, setting):
    objective = bound(name, setting)
    student, teacher, labels = batch(objective, setting)
    other = teacher + torch.arange(teacher.numel()).view_as(teacher)
    moved = value(objective, student, other, labels) != value(objective, student, teacher, labels)
    assert moved == objective.needs_teacher


@pytest.mark.parametrize(
    ("name", "setting"),
    [case for case in FITTING if registered()[case[0]].needs_teacher and case[0] not in CONTRASTS],
)
def test_agreeing_with_the_teacher_is_best(name, setting):
    objective = bound(name, setting)
    _, teacher, labels = batch(objective, setting)
    student = teacher.clone().requires_grad_()
    loss = value(objective, student, teacher, labels)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert student.grad.abs().max() < 1e-6
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        other = teacher + torch.randn(teacher.shape, generator=generator) * 0.3
        assert value(objective, other, teacher, labels) > loss


@pytest.mark.parametrize("name", sorted(registered()))
def test_repr_is_the_constructor_call(name):
    objective = registered()[name]()
    names = {**vars(hfdistill), **{cls.__name__: cls for cls in registered().values()}}
    again = eval(repr(objective), names)  # noqa: S307
    assert type(again) is type(objective)
    assert repr(again) == repr(objective)


@pytest.mark.parametrize(
    "formula",
    [
        "0.5 * CrossEntropy() + 0.5 * KD(temperature=4)",
        "0.25 * CrossEntropy(label_smoothing=0.1, class_weights=[1.0, 2.5]) + 2 * KD(temperature=0.5)",
        "1 * LabelMSE() + 3 * LogitMSE()",
    ],
)
def test_a_formula_read_back_is_itself(formula):
    names = {name: getattr(hfdistill, name) for name in hfdistill.__all__}
    assert repr(eval(formula, names)) == formula  # noqa: S307


def padded(given, columns, *, left):
    """The trace with columns of padding, whose readings are large."""
    before, after = (columns, 0) if left else (0, columns)
    generator = torch.Generator().manual_seed(columns)

    def pad(tap, reading):
        rest = list(reading.shape)
        rest[-2] = columns
        junk = 30 * torch.randn(rest, generator=generator)
        return torch.cat([junk, reading] if before else [reading, junk], dim=-2)

    mask = torch.nn.functional.pad(given.attention_mask, (before, after))
    return Trace(given.logits, mask, {tap: pad(tap, reading) for tap, reading in given.readings.items()})


INNER = [case for case in FITTING if any(tap.kind != "exit" for taps in bound(*case).taps() for tap in taps)]


@pytest.mark.parametrize(("name", "setting"), INNER)
@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_padding_weighs_nothing(name, setting, left):
    objective = bound(name, setting)
    student, teacher, labels = batch(objective, setting)
    lengths = torch.arange(ROWS)[:, None] % TOKENS + 1
    mask = (torch.arange(TOKENS) < lengths).long()
    mask = mask.flip(1) if left else mask
    own, other = (trace(taps, rows) for taps, rows in zip(objective.taps(), (student, teacher), strict=True))
    own, other = (Trace(x.logits, mask, x.readings) for x in (own, other))
    expected = objective(own, other, labels)
    assert expected > 0
    for columns in (1, 2, 7, 32, 100):
        wider = padded(own, columns, left=left), padded(other, columns, left=left)
        torch.testing.assert_close(objective(*wider, labels), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("name", "setting"), INNER)
def test_no_padding_is_a_mask_of_ones(name, setting):
    objective = bound(name, setting)
    student, teacher, labels = batch(objective, setting)
    own, other = (trace(taps, rows) for taps, rows in zip(objective.taps(), (student, teacher), strict=True))
    ones = torch.ones(ROWS, TOKENS)
    masked = (Trace(x.logits, ones, x.readings) for x in (own, other))
    assert objective(*masked, labels) == objective(own, other, labels)


@pytest.mark.parametrize(("name", "setting"), INNER)
def test_no_gradient_reaches_the_teacher(name, setting):
    objective = bound(name, setting)
    student, teacher, labels = batch(objective, setting)
    student.requires_grad_(), teacher.requires_grad_()
    value(objective, student, teacher, labels).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@pytest.mark.parametrize(("name", "setting"), INNER)
def test_sizes_that_are_not_known_are_refused_with_the_way_out(name, setting):
    for whose in ("student", "teacher"):
        lacking = Setting(**{**vars(setting), whose: None})
        with pytest.raises(ValueError, match=rf"looks inside the {whose}.*register_anatomy.*KD\(\)"):
            registered()[name]().bind(lacking)


@pytest.mark.parametrize(("name", "setting"), INNER)
def test_a_trace_without_the_readings_is_refused_with_the_tap(name, setting):
    objective = bound(name, setting)
    logits = torch.zeros(ROWS, CLASSES)
    with pytest.raises(ValueError, match=r"needs Tap\(kind=.* of the student, which its trace does not hold"):
        objective(Trace(logits), Trace(logits), torch.zeros(ROWS))


@pytest.mark.parametrize(("name", "setting"), INNER)
def test_what_is_read_is_known_once_bound(name, setting):
    with pytest.raises(RuntimeError, match="is not bound yet"):
        registered()[name]().taps()
    (1.0 * registered()[name]()).bind(setting)
