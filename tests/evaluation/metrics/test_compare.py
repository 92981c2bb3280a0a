"""Errors per class, by hand."""

import numpy as np

from hfdistill.evaluation.metrics.compare import classes, errors


def hot(*answers):
    return np.eye(3)[list(answers)]


LABELS = np.array([0, 0, 0, 0, 1, 1, 2])
LOGITS = {
    "teacher": hot(0, 1, 1, 2, 1, 0, 2),
    "student": hot(1, 1, 0, 1, 1, 0, 0),
    "baseline": hot(0, 1, 1, 0, 0, 2, 2),
}


def test_what_became_of_the_teachers_errors_in_each_class():
    found = classes("single_label", LOGITS, LABELS, ["a", "b", "c"])
    counts = [(c.teacher_wrong, c.same_wrong, c.corrected, c.new, c.baseline_same_wrong) for c in found]
    assert counts == [(3, 1, 1, 1, 2), (1, 1, 0, 0, 0), (0, 0, 0, 1, 0)]
    whole = errors(LOGITS, LABELS)
    sums = tuple(sum(column) for column in zip(*counts, strict=True))
    assert sums == (whole.teacher_wrong, whole.same_wrong, whole.corrected, whole.new, 2)
    assert whole.baseline_same_wrong == 2


def test_decisions_of_several_labels_are_counted_each():
    labels = np.array([[1, 0], [1, 1], [0, 1]])
    logits = {
        "teacher": np.array([[1, 1], [-1, 1], [1, -1]]),
        "student": np.array([[-1, 1], [-1, -1], [-1, -1]]),
    }
    found = classes("multi_label", logits, labels, ["a", "b"])
    counts = [(c.teacher_wrong, c.same_wrong, c.corrected, c.new, c.baseline_same_wrong) for c in found]
    assert counts == [(2, 1, 1, 1, None), (2, 2, 0, 1, None)]


def test_without_a_teacher_nothing_is_inherited():
    found = classes("single_label", {"student": LOGITS["student"]}, LABELS, ["a", "b", "c"])
    assert {(c.teacher_wrong, c.same_wrong, c.corrected, c.new) for c in found} == {(None,) * 4}
