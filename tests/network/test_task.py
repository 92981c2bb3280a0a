"""What a classifier's outputs are, and the losses of its rows."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from hfdistill.network.task import as_targets, missing, row_losses, task_kind, unlabelled

NAN = math.nan


@pytest.mark.parametrize(
    ("settings", "task"),
    [
        ({"num_labels": 1}, "regression"),
        ({"num_labels": 3}, "single_label"),
        ({}, "single_label"),
        ({"num_labels": 1, "problem_type": "single_label_classification"}, "single_label"),
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, "multi_label"),
        ({"num_labels": 3, "problem_type": "regression"}, "regression"),
    ],
)
def test_the_task_follows_from_the_config(settings, task):
    assert task_kind(SimpleNamespace(**settings)) == task


def test_an_unknown_problem_type_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'multilabel' is not known.*multi_label_classification"):
        task_kind(SimpleNamespace(problem_type="multilabel"))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (torch.tensor([0, -100, 1]), [False, True, False]),
        (torch.tensor([0.5, NAN, -100.0]), [False, True, False]),
        (torch.tensor([[0, -100], [1, 1]]), [[False, True], [False, False]]),
        (torch.tensor([[0.0, -100.0], [NAN, 1.0]]), [[False, True], [True, False]]),
    ],
)
def test_missing_labels_are_found(labels, expected):
    assert missing(labels).tolist() == expected


@pytest.mark.parametrize("task", ["single_label", "multi_label", "regression"])
def test_labels_that_say_nothing_are_missing_and_of_the_tasks_type(task):
    labels = unlabelled(3, 2, task)
    assert missing(labels).all()
    assert labels.shape == ((3, 2) if task == "multi_label" else (3,))
    assert as_targets(labels, task).dtype == labels.dtype


@pytest.mark.parametrize(
    ("labels", "task", "expected"),
    [
        (torch.tensor([[1], [0]], dtype=torch.int32), "single_label", torch.tensor([1, 0])),
        (torch.tensor([[1], [2]]), "regression", torch.tensor([1.0, 2.0])),
        (torch.tensor([[1, 0]]), "multi_label", torch.tensor([[1.0, 0.0]])),
    ],
)
def test_labels_become_targets_of_the_tasks_shape_and_type(labels, task, expected):
    targets = as_targets(labels, task)
    assert targets.dtype == expected.dtype
    assert targets.tolist() == expected.tolist()


def test_row_losses_are_torchs_own_losses_row_by_row():
    torch.manual_seed(0)
    logits = torch.randn(3, 2)
    ids, rows, values = (
        torch.tensor([0, -100, 1]),
        torch.tensor([[0, 1], [-100, 1], [-100, -100]]),
        [0.5, NAN, 2],
    )

    single = row_losses(logits, ids, "single_label")
    assert single[:, 1].tolist() == [1, 0, 1]
    torch.testing.assert_close(single[:, 0].sum(), F.cross_entropy(logits, ids, reduction="sum"))
    smooth = row_losses(logits, ids, "single_label", smoothing=0.2)
    nll = -logits.log_softmax(-1)
    expected = 0.8 * torch.stack([nll[0, 0], nll[2, 1]]) + 0.2 * nll[[0, 2]].mean(-1)
    torch.testing.assert_close(smooth[[0, 2]], torch.stack([expected, torch.ones(2)], dim=-1))
    assert smooth[1].tolist() == [0, 0]
    words = row_losses(logits[None], ids[None], "token", smoothing=0.2)
    torch.testing.assert_close(words, smooth.sum(0, keepdim=True))

    multi = row_losses(logits, rows.float(), "multi_label")
    assert multi[:, 1].tolist() == [2, 1, 0]
    known = F.binary_cross_entropy_with_logits(logits[:2, 1], torch.ones(2), reduction="none")
    first = F.binary_cross_entropy_with_logits(logits[0, 0], torch.tensor(0.0))
    torch.testing.assert_close(multi[:, 0], torch.stack([first + known[0], known[1], torch.tensor(0.0)]))

    regression = row_losses(logits[:, :1], torch.tensor(values), "regression")
    assert regression[:, 1].tolist() == [1, 0, 1]
    expected = [(logits[0, 0].item() - 0.5) ** 2, 0.0, (logits[2, 0].item() - 2) ** 2]
    torch.testing.assert_close(regression[:, 0], torch.tensor(expected))
