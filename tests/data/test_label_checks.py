"""Label columns looked through row by row."""

import math
import time
from types import SimpleNamespace

import numpy as np
import pytest

from hfdistill import LabelSpaceError
from hfdistill.data.label_checks import _check_rows_of_tokens, check_labels, check_one_output
from tests.network.test_label_space import HOSTILE, MULTI, NAMED, REGRESSION, config

NAN = math.nan


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
    ("labels", "is_clear"),
    [
        ([0, 1, 0], False),
        ([1.0, np.int64(0), -100, NAN, None], False),
        ([0, 1, 2], True),
        ([0.5, -100], True),
        ([-100, NAN, None, "1"], True),
    ],
    ids=str,
)
def test_zeros_and_ones_for_one_output_may_be_values_or_a_class(labels, is_clear):
    model = SimpleNamespace(num_labels=1, problem_type=None)
    if is_clear:
        check_one_output([], labels, model, split="train")
    else:
        with pytest.raises(LabelSpaceError, match=r"train has the labels 0, 1(.0)?, .*problem_type = "):
            check_one_output([], labels, model, split="train")
    model.problem_type = "regression"
    check_one_output([], labels, model, split="train")


def test_rows_of_tokens_without_labels_are_passed_over():
    assert _check_rows_of_tokens([None, [0, -100, 1], None], 3, "train") == 1
    with pytest.raises(LabelSpaceError, match="train, row 1: 2 is one label, but the student labels every"):
        _check_rows_of_tokens([None, 2], 3, "train")
