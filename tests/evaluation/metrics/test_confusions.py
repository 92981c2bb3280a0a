"""Counts of what is taken for what, and the bins of calibration."""

import numpy as np
import pytest

from hfdistill.evaluation.metrics.calibration import expected_calibration_error, reliability
from hfdistill.evaluation.metrics.compare import confusions
from hfdistill.evaluation.report import MAX_CELLS, Bin


def one_hot(answers, classes):
    return np.eye(classes)[np.array(answers)]


def test_few_classes_are_counted_whole():
    labels = np.array([0, 0, 1, 1, 2])
    logits = {"student": one_hot([0, 1, 1, 1, 0, 2], 3), "teacher": one_hot([0, 0, 1, 1, 2, 2], 3)}
    known = {role: values[:5] for role, values in logits.items()}  # the sixth row has no label
    against_labels, against_teacher = confusions("single_label", logits, known, labels)
    assert against_labels.against == "labels"
    assert against_labels.complete
    assert [(c.row, c.column, c.rows) for c in against_labels.cells] == [
        (0, 0, 1),
        (0, 1, 1),
        (1, 1, 2),
        (2, 0, 1),
    ]
    assert against_teacher.against == "teacher"
    assert sum(c.rows for c in against_teacher.cells) == 6


def test_many_classes_keep_their_most_frequent_confusions():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 500, 20_000)
    answers = np.where(np.arange(20_000) % 4 == 0, rng.integers(0, 500, 20_000), labels)
    answers[labels == 7] = 9
    logits = {"student": one_hot(answers, 500)}
    (found,) = confusions("single_label", logits, logits, labels)
    assert not found.complete
    assert len(found.cells) == MAX_CELLS // 10
    assert (found.cells[0].row, found.cells[0].column) == (7, 9)
    assert found.cells[0].rows == int((labels == 7).sum())
    assert all(c.row != c.column for c in found.cells)
    assert [c.rows for c in found.cells] == sorted((c.rows for c in found.cells), reverse=True)


def test_several_labels_numbers_and_no_labels():
    logits = {"student": one_hot([0, 1], 2)}
    assert confusions("multi_label", logits, logits, np.eye(2)) == ()
    assert confusions("regression", logits, logits, np.zeros(2)) == ()
    none = {"student": np.zeros((0, 2))}
    assert confusions("single_label", logits, none, np.zeros(0, dtype=int)) == ()


def test_the_bins_add_up_to_the_error():
    p = np.array([[0.75, 0.25], [0.74, 0.26], [0.1, 0.9], [0.45, 0.55]])
    labels = np.array([0, 1, 1, 0])
    bins = reliability(p, labels)
    assert bins == (Bin(1, 0.55, 0.0), Bin(2, pytest.approx(0.745), 0.5), Bin(1, 0.9, 1.0))
    error = sum(b.rows * abs(b.accuracy - b.confidence) for b in bins) / 4
    assert error == pytest.approx(expected_calibration_error(p, labels))
