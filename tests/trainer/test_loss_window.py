"""The books of the loss: parts that add up, and an explanation that names what went wrong."""

import math

import pytest
import torch
from torch import nn

from hfdistill import Trace
from hfdistill.trainer.loss_window import LossWindow, NonFiniteError

NAN, INF = math.nan, math.inf
NAMES = ["cross_entropy", "kd"]
GOOD = [[1.0, 2.0]] * 3


def add(window, *parts, student=GOOD, teacher=GOOD, text="abc"):
    window.add(
        torch.tensor(parts),
        batch={"text": text},
        student=Trace(torch.tensor(student)),
        teacher=Trace(torch.tensor(teacher)),
    )


def explain(window, model=None):
    return window.explain(7, model or nn.Linear(1, 1), show=lambda batch, row: repr(batch["text"][row]))


def same(parts):
    return parts


@pytest.fixture
def window():
    window = LossWindow(NAMES)
    window.start()
    window.open([])
    return window


def test_parts_are_summed_over_micro_batches_and_averaged_over_steps(window):
    add(window, 1.0, 10.0)
    add(window, 2.0, 20.0)
    window.close()
    window.open([])
    add(window, 4.0, 40.0)
    window.close()
    taken = window.take_averages(average=same)
    assert taken == {"loss_cross_entropy": 3.5, "loss_kd": 35.0}
    assert sum(taken.values()) == (11 + 22 + 44) / 2


def test_taking_starts_the_sums_anew(window):
    assert LossWindow(NAMES).take_averages(average=same) == {}
    add(window, 1.0, 2.0)
    window.close()
    window.take_averages(average=same)
    assert window.take_averages(average=same) == {}
    window.open([])
    add(window, 5.0, 6.0)
    window.close()
    assert window.take_averages(average=same) == {"loss_cross_entropy": 5.0, "loss_kd": 6.0}


def test_parts_are_averaged_over_processes(window):
    add(window, 1.0, 2.0)
    window.close()
    assert window.take_averages(average=lambda parts: parts * 10) == {
        "loss_cross_entropy": 10.0,
        "loss_kd": 20.0,
    }


def test_a_new_run_forgets_the_last(window):
    add(window, NAN, 1.0)
    window.start()
    assert window.is_finite()
    window.close()
    assert window.take_averages(average=same) == {}


def test_the_books_hold_no_graph(window):
    weight = torch.ones(2, requires_grad=True)
    parts = weight * 2
    window.add(parts, batch={}, student=Trace(parts[None]), teacher=Trace(parts[None]))
    assert not window._sums.requires_grad
    parts.data.fill_(9.0)
    window.close()
    assert window.take_averages(average=same) == {"loss_cross_entropy": 2.0, "loss_kd": 2.0}


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_number_that_is_none_is_seen_in_any_micro_batch_of_the_step(window, bad):
    add(window, 1.0, 1.0)
    assert window.is_finite()
    add(window, 1.0, bad)
    add(window, 1.0, 1.0)
    assert not window.is_finite()
    window.open([])
    assert window.is_finite()
    add(window, 1.0, 1.0, teacher=[[1.0, bad]])
    assert not window.is_finite()


def test_bad_teacher_rows_are_named_with_their_text(window):
    add(window, 1.0, 1.0, teacher=[[1.0, NAN], [1.0, 1.0], [INF, 1.0]])
    text = explain(window)
    assert (
        "Step 7 stopped before the optimizer moved: not finite are the teacher's logits on rows 0 'a', 2 'c'."
        in text
    )
    assert "student" not in text
    assert "train(resume_from_checkpoint=True)" in text


def test_bad_student_rows_and_the_parts_they_spoil_are_named(window):
    add(window, NAN, NAN, student=[[1.0, 1.0], [NAN, 1.0], [1.0, 1.0]])
    text = explain(window)
    assert "the student's logits on rows 1 'b'; the loss part cross_entropy, kd." in text
    assert "teacher's" not in text


def test_the_micro_batch_is_named_where_a_step_has_several(window):
    add(window, 1.0, 1.0)
    add(window, 1.0, INF)
    assert "the loss part kd of micro-batch 2." in explain(window)


def test_many_bad_rows_are_counted(window):
    add(window, 1.0, 1.0, teacher=[[NAN]] * 9, text="abcdefghi")
    assert "rows 0 'a', 1 'b', 2 'c', 3 'd', 4 'e' and 4 more" in explain(window)


def test_rows_without_a_text_leave_no_gap(window):
    add(window, 1.0, 1.0, teacher=[[NAN]] * 2)
    assert "on rows 0, 1." in window.explain(1, nn.Linear(1, 1), show=lambda batch, row: "")


def test_a_bad_gradient_is_named_where_the_loss_is_fine(window):
    add(window, 1.0, 1.0)
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    model(torch.ones(1, 1)).sum().backward()
    assert "not finite are the gradient of another process." in explain(window, model)
    model[1].weight.grad.fill_(NAN)
    assert "not finite are the gradient of 1.weight." in explain(window, model)


def test_the_stop_is_a_floating_point_error():
    assert issubclass(NonFiniteError, FloatingPointError)
