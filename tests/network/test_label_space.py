"""What outputs mean: matching classes by name, looking through label columns, losses per row."""

import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hfdistill.data.label_checks import check_labels
from hfdistill.network.label_space import (
    LabelSpaceError,
    check_same_task,
    class_names,
    in_order_of,
    match_labels,
)
from hfdistill.network.task import as_targets, missing, row_losses, task_kind, unlabelled

NAN = math.nan
HOSTILE = "\x1b]0;owned\x07\n# <script>\u202e"


def config(*names, task=None, classes=None):
    """A config with these class names, or with a number of outputs alone."""
    return SimpleNamespace(
        num_labels=len(names) if classes is None else classes,
        id2label=dict(enumerate(names)),
        problem_type=task,
    )


UNNAMED = config("LABEL_0", "LABEL_1")
NAMED = config("negative", "positive")
THREE = config("no", "maybe", "yes")
MULTI = config("a", "b", task="multi_label_classification")
REGRESSION = config("LABEL_0")


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


def test_class_names_are_in_column_order_and_never_missing():
    shuffled = SimpleNamespace(num_labels=3, id2label={2: "c", 0: "a", "1": "b"})
    assert class_names(shuffled) == ["a", "b", "c"]
    assert class_names(SimpleNamespace(num_labels=2)) == ["LABEL_0", "LABEL_1"]


def test_teacher_and_student_of_different_tasks_are_refused():
    check_same_task(NAMED, UNNAMED)
    with pytest.raises(LabelSpaceError, match=r"teacher's task is multi_label.*student's single_label.*Set"):
        check_same_task(NAMED, MULTI)


@pytest.mark.parametrize(
    ("student", "teacher", "label_map", "columns"),
    [
        (NAMED, NAMED, None, None),
        (NAMED, config("POSITIVE", " negative "), None, [1, 0]),
        (THREE, config("Yes", "No", "Maybe"), None, [1, 2, 0]),
        (config("Straße", "x"), config("X", "STRASSE"), None, [1, 0]),
        (config("STRASSE", "x"), config("X", "straße"), None, [1, 0]),
        (UNNAMED, UNNAMED, None, None),
        (UNNAMED, config("LABEL_1", "LABEL_0"), None, [1, 0]),
        (UNNAMED, config("LABEL_1", "LABEL_2"), None, None),
        (config("score"), config("LABEL_0"), None, None),
        (NAMED, UNNAMED, {"LABEL_0": "positive", "LABEL_1": "negative"}, [1, 0]),
        (UNNAMED, NAMED, {"Negative": 0, "POSITIVE": 1}, None),
        (NAMED, UNNAMED, {0: 1, 1: 0}, [1, 0]),
        (THREE, config("2", "0", "1"), {"0": "no", "1": "maybe", "2": "yes"}, [1, 2, 0]),
        (THREE, THREE, {"no": "yes", "yes": "no", "maybe": "maybe"}, [2, 1, 0]),
    ],
)
def test_classes_are_matched_by_name_or_as_the_map_says(student, teacher, label_map, columns):
    assert match_labels(student, teacher, label_map=label_map) == columns


def test_matched_columns_put_the_teacher_in_the_students_order():
    logits = torch.tensor([[10.0, 20.0, 30.0]])  # Yes, No, Maybe
    columns = match_labels(THREE, config("Yes", "No", "Maybe"))
    assert logits[:, columns].tolist() == [[20.0, 30.0, 10.0]]  # no, maybe, yes


@pytest.mark.parametrize(
    ("student", "teacher", "label_map", "message"),
    [
        (NAMED, THREE, None, r"teacher has 3 outputs.*student 2.*num_labels=3"),
        (NAMED, config("score"), None, r"teacher has 1 outputs.*num_labels=1"),
        (UNNAMED, NAMED, None, r"student's classes have no names.*label_map=\{'negative': 'LABEL_0'"),
        (NAMED, UNNAMED, None, r"teacher's classes have no names.*label_map=\{'LABEL_0': 'negative'"),
        (NAMED, config("negative", "neutral"), None, r"'neutral' do not match the student's 'positive'"),
        (config("a", "A"), config("a", "A"), None, r"do not match.*label_map="),
        (THREE, config("no", "no", "yes"), None, r"label_map=\{'no': 'no', 'no': 'maybe', …\}"),
        (NAMED, UNNAMED, {0: 1}, r"must pair each of the 2 teacher classes"),
        (NAMED, UNNAMED, {0: 1, 1: 1}, r"must pair each"),
        (NAMED, UNNAMED, {0: 0, "LABEL_0": 1}, r"must pair each"),
        (NAMED, UNNAMED, {0: 0, 1: 1, "LABEL_1": 1}, r"must pair each"),
        (NAMED, UNNAMED, {"LABEL_0": "negativ", 1: 1}, r"'negativ', which is no class of the student"),
        (NAMED, UNNAMED, {"positive": 0, 1: 1}, r"'positive', which is no class of the teacher"),
        (NAMED, UNNAMED, {2: 0, 1: 1}, r"names 2, which is no class of the teacher.*'LABEL_0', 'LABEL_1'"),
        (NAMED, UNNAMED, {-1: 0, 0: 1}, r"names -1, which is no class"),
    ],
)
def test_classes_that_cannot_be_matched_are_refused_with_the_fix(student, teacher, label_map, message):
    with pytest.raises(LabelSpaceError, match=message):
        match_labels(student, teacher, label_map=label_map)


@pytest.mark.parametrize("other", [config("x", "y"), UNNAMED, THREE])
def test_hostile_names_are_escaped_and_cut_in_messages(other):
    with pytest.raises(LabelSpaceError) as caught:
        match_labels(config(HOSTILE, "a" * 1_000_000), other)
    text = str(caught.value)
    assert text.isprintable()
    assert r"\x1b]0;owned" in text
    assert len(text) < 1000


def test_a_long_list_of_classes_is_cut_in_messages():
    with pytest.raises(LabelSpaceError, match=r"'c5', … 94 more") as caught:
        match_labels(config(*(f"c{i}" for i in range(100))), NAMED)
    assert "c6" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "student", "known"),
    [
        ([0, 1, -100, 1], NAMED, 3),
        ([-100, -100], NAMED, 0),
        ([0.0, 1.0], NAMED, 2),
        (np.array([0, 1, 1]), NAMED, 3),
        ([], NAMED, 0),
        ([0.5, NAN, None, -1, 7], REGRESSION, 3),
        (np.array([0.5, NAN], dtype=np.float32), REGRESSION, 1),
        ([[0, 1], [0.5, -100], [-100, -100]], MULTI, 2),
        (np.array([[0, 1], [1, 1]]), MULTI, 2),
        ([[True, False]], MULTI, 1),
        ([], MULTI, 0),
    ],
)
def test_a_good_column_gives_the_number_of_labelled_rows(labels, student, known):
    assert check_labels(labels, student, split="train_dataset") == known


@pytest.mark.parametrize(
    ("labels", "student", "row", "value", "fix"),
    [
        (["good", "bad"], NAMED, 0, "'good'", "class_encode_column"),
        ([None, HOSTILE], NAMED, 1, r"\x1b]0;owned", "class_encode_column"),
        (["0.5", "1"], REGRESSION, 0, "'0.5'", "hfdistill.load"),
        ([0, 1, -1], NAMED, 2, "-1", "Use the validation split"),
        ([0, 2], NAMED, 1, "2", "num_labels=3"),
        ([0, -2], NAMED, 1, "-2", "correct the row"),
        ([0, NAN], NAMED, 1, "nan", "-100 for rows without"),
        ([0, math.inf], NAMED, 1, "inf", "whole numbers from 0"),
        ([0, True], NAMED, 1, "True", "whole numbers from 0"),
        (np.array([True, False]), NAMED, 0, "True", "whole numbers from 0"),
        ([1, 0.5], NAMED, 1, "0.5", "num_labels=1 for regression"),
        ([1, None], NAMED, 1, "None", "-100 for rows without"),
        ([None, None], NAMED, 0, "None", "-100 for rows without"),
        ([1, "bad"], NAMED, 1, "'bad'", "whole numbers from 0"),
        ([1, [0]], NAMED, 1, "[0]", "whole numbers from 0"),
        ([[1.0, 0.0]], NAMED, 0, "[1.0, 0.0]", "problem_type='multi_label_classification'"),
        ([None, [1.0, 0.0]], NAMED, 1, "[1.0, 0.0]", "problem_type="),
        (np.eye(2), NAMED, 0, "1.0", "problem_type="),
        ([1, 0], MULTI, 0, "1", "'single_label_classification'"),
        ([[0, 1], [1, 0, 1]], MULTI, 1, "[1, 0, 1]", "Give 2 numbers"),
        ([[0, 1], None], MULTI, 1, "None", "Give 2 numbers"),
        ([[0, 1], 1], MULTI, 1, "1", "Give 2 numbers"),
        ([[0, 1], "ab"], MULTI, 1, "'ab'", "Give 2 numbers"),
        ([[0, 1], [0, 2]], MULTI, 1, "2", "-100 where nobody knows"),
        ([[0, -1]], MULTI, 0, "-1", "-100 where nobody knows"),
        ([[0, NAN]], MULTI, 0, "nan", "-100 where nobody knows"),
        ([[0, "x"]], MULTI, 0, "'x'", "-100 where nobody knows"),
        ([0.5, math.inf], REGRESSION, 1, "inf", "NaN for rows without"),
        ([0.5, "x"], REGRESSION, 1, "'x'", "Correct the row"),
    ],
)
def test_a_bad_label_is_refused_with_split_row_value_and_fix(labels, student, row, value, fix):
    with pytest.raises(LabelSpaceError) as caught:
        check_labels(labels, student, split="eval_dataset['dev']")
    text = str(caught.value)
    assert text.isprintable()
    for part in ("eval_dataset['dev']", f"row {row}", value, fix):
        assert part in text


def test_a_huge_label_does_not_fill_the_message():
    with pytest.raises(LabelSpaceError) as caught:
        check_labels(["x" * 1_000_000], NAMED, split="train_dataset")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("labels", "student"),
    [
        ([0, 1, 1, -100] * 25_000, NAMED),
        ([0.5, 1.5, NAN, None] * 25_000, REGRESSION),
        ([[0, 1] * 3] * 100_000, config(*"abcdef", task="multi_label_classification")),
    ],
    ids=["classes", "values", "rows of six"],
)
def test_a_hundred_thousand_rows_are_looked_through_in_a_second(labels, student):
    start = time.process_time()
    assert check_labels(labels, student, split="train_dataset") >= 50_000
    assert time.process_time() - start < 1


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

    multi = row_losses(logits, rows.float(), "multi_label")
    assert multi[:, 1].tolist() == [2, 1, 0]
    known = F.binary_cross_entropy_with_logits(logits[:2, 1], torch.ones(2), reduction="none")
    first = F.binary_cross_entropy_with_logits(logits[0, 0], torch.tensor(0.0))
    torch.testing.assert_close(multi[:, 0], torch.stack([first + known[0], known[1], torch.tensor(0.0)]))

    regression = row_losses(logits[:, :1], torch.tensor(values), "regression")
    assert regression[:, 1].tolist() == [1, 0, 1]
    expected = [(logits[0, 0].item() - 0.5) ** 2, 0.0, (logits[2, 0].item() - 2) ** 2]
    torch.testing.assert_close(regression[:, 0], torch.tensor(expected))


def test_labels_stand_in_another_models_order():
    columns = [2, 0, 1]  # the student's class 0 is the teacher's column 2
    assert in_order_of(torch.tensor([0, 1, 2, -100]), columns).tolist() == [2, 0, 1, -100]
    assert in_order_of(torch.tensor([[1.0, 0.0, -100.0]]), columns).tolist() == [[0.0, -100.0, 1.0]]
    labels = torch.tensor([0, 1])
    assert in_order_of(labels, None) is labels
