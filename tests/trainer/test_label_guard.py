"""Labels that are not the student's are refused as a batch is collated, by the row where it is found."""

from types import SimpleNamespace

import pytest
import torch

from hfdistill import LabelSpaceError
from hfdistill.trainer.label_guard import LabelGuard
from tests.conftest import make_bert


def config(task=None, labels=2):
    names = {number: f"class {number}" for number in range(labels)}
    return make_bert(1, labels=names, problem_type=task).config


def guard(data, of=None):
    return LabelGuard(collated, data, name="labels", config=of or config(), split="train_dataset")


def collated(rows):
    return {"labels": torch.tensor([row["labels"] for row in rows])}


@pytest.mark.parametrize(
    ("of", "fit", "wrong"),
    [
        (config(), [0, 1, -100], [0, 2]),
        (config(), [1], [[0, 1]]),
        (config("regression", labels=1), [0.5, float("nan")], [0.5, float("inf")]),
        (config("regression", labels=1), [3, -4], [[0.5, 1.0]]),
        (config("multi_label_classification"), [[0.0, 1.0], [-100.0, 0.5]], [[0.0, 1.5]]),
    ],
    ids=["class", "two of one label", "infinite", "two of one value", "share"],
)
def test_labels_of_each_task(of, fit, wrong):
    rows = [{"labels": label} for label in fit]
    assert guard(rows, of)(rows)["labels"].shape == torch.tensor(fit).shape
    rows = [{"labels": label} for label in wrong]
    with pytest.raises(LabelSpaceError, match="train_dataset"):
        guard(rows, of)(rows)


def test_the_row_is_named_where_the_data_have_its_label():
    rows = [{"labels": 0}, {"labels": 1}, {"labels": 7}]
    with pytest.raises(LabelSpaceError) as named:
        guard(rows)(rows[2:])
    assert "a batch of" not in str(named.value)
    for data in (iter(rows), [], [{"text": "a"}], [SimpleNamespace(labels=7)], rows[:2]):
        with pytest.raises(LabelSpaceError, match="a batch of train_dataset"):
            guard(data)(rows[2:])


def test_a_batch_without_labels_passes():
    batch = [1, 2]
    assert LabelGuard(lambda rows: batch, [], name="labels", config=config(), split="it")([]) is batch
