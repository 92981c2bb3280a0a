"""Answers of every form become the same logits, and broken ones are told with row, value and fix."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from hfdistill.teachers.text.values import FLOOR, AnswerError, AnswerReader

CLASSES = ["anger", "joy", "sadness"]
WANTED = torch.tensor([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]])


def read(answers, **options):
    return AnswerReader(CLASSES, **options)(answers)


@pytest.mark.parametrize(
    "answers",
    [
        [[0.7, 0.2, 0.1], [0, 1, 0]],
        np.array([[0.7, 0.2, 0.1], [0, 1, 0]], np.float32),
        torch.tensor([[0.7, 0.2, 0.1], [0, 1, 0]], dtype=torch.float64),
        [{"anger": 0.7, "joy": 0.2, "sadness": 0.1}, {"joy": 1.0, " Anger": 0, "SADNESS": 0}],
        [{"anger": math.log(0.7), "joy": math.log(0.2)}, {"joy": 0.0}],
        [["anger"] * 7 + ["joy"] * 2 + ["sadness"], ["joy"]],
    ],
    ids=["lists", "array", "tensor", "mappings", "top log-probabilities", "votes"],
)
def test_forms_of_one_answer_are_the_same_logits(answers):
    logits = read(answers)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.softmax(-1), WANTED, atol=1e-6, rtol=0)


def test_a_confidence_leaves_the_rest_to_the_others():
    for answers in ([("joy", 0.8), (2, 0.5)], (["joy", 2], [0.8, 0.5]), (["joy", 2], np.array([0.8, 0.5]))):
        wanted = torch.tensor([[0.1, 0.8, 0.1], [0.25, 0.25, 0.5]])
        torch.testing.assert_close(read(answers).softmax(-1), wanted)


def test_a_label_alone_is_certain():
    logits = read(["joy", 1, "2"])
    assert logits.argmax(-1).tolist() == [1, 1, 2]
    assert float(logits.exp().min()) == pytest.approx(FLOOR)


def test_logits_stay_as_they_are():
    numbers = np.array([[1.5, -2.0, 0.25], [0.1, 0.2, 0.3]], np.float32)
    assert torch.equal(read(numbers), torch.from_numpy(numbers))
    assert torch.equal(read(numbers[1:], kind="logits"), torch.from_numpy(numbers[1:]))


def test_classes_that_a_mapping_leaves_out_share_the_rest():
    torch.testing.assert_close(read([{"joy": 0.5}]).softmax(-1), torch.tensor([[0.25, 0.5, 0.25]]))


def test_numbers_of_classes_that_are_named_by_numbers_are_names():
    assert AnswerReader(["7", "1", "0"])([1, 7]).argmax(-1).tolist() == [1, 0]
    with pytest.raises(AnswerError, match="Row 0 names the class 0, and the classes are '1', '2', '3'"):
        AnswerReader(["1", "2", "3"])([0, 1, 2])
    assert AnswerReader(["404", "login"])([0, 404, 1]).argmax(-1).tolist() == [0, 0, 1]


def test_what_a_pipeline_of_transformers_returns():
    one = [{"label": "joy", "score": 0.8}, {"label": "anger", "score": 0.9}]
    torch.testing.assert_close(read(one).softmax(-1), torch.tensor([[0.1, 0.8, 0.1], [0.9, 0.05, 0.05]]))
    several = [[{"label": "joy", "score": 0.8}, {"label": "anger", "score": 0.15}]]
    torch.testing.assert_close(read(several).softmax(-1), torch.tensor([[0.15, 0.8, 0.05]]))
    named_so = AnswerReader(["label", "score"])([{"label": 0.3, "score": 0.7}])
    torch.testing.assert_close(named_so.softmax(-1), torch.tensor([[0.3, 0.7]]))


def test_multi_label_answers_are_logits_of_each_class():
    reader = AnswerReader(CLASSES, multi_label=True)
    torch.testing.assert_close(reader([[0.9, 0.8, 0.1]]).sigmoid(), torch.tensor([[0.9, 0.8, 0.1]]))
    chosen = AnswerReader(CLASSES, multi_label=True, kind="labels")([["joy", "anger"], []])
    assert (chosen > 0).tolist() == [[True, True, False], [False, False, False]]


BROKEN = {
    "sum": ([[0.5, 0.2, 0.1]], r"Row 0: the probabilities of the 3 classes sum to 0\.8.*Divide each row"),
    "percentages": ([[70, 20, 10]], r"Row 0: the probabilities sum to 100: these are percentages.*by 100"),
    "NaN": ([[0.7, 0.2, 0.1], [0.5, math.nan, 0.5]], r"Row 1: the answer for class 'joy' is nan"),
    "infinite": ([[1.0, -2.0, math.inf]], r"Row 0: the answer for class 'sadness' is inf"),
    "unknown class": ([("fear", 0.9)], r"Row 0 names the class 'fear', and the classes are 'anger', 'joy'"),
    "too few": ([[0.5, 0.5]], r"shape \(1, 2\), and \(1, 3\) was expected"),
    "ragged": ([[0.7, 0.2, 0.1], [0.5, 0.5]], r"Row 1: the answer has 2 numbers .* for 3 classes"),
    "one number": ([0.3, 0.4], r"names the class 0\.3"),
    "confidence": ([("joy", 80.0)], r"Row 0: the confidence is 80\.0.*Divide percentages by 100"),
    "too much": ([{"joy": 0.9, "anger": 0.9}], r"Row 0: the 2 classes that it names .* sum to 1\.8"),
    "words": ([{"joy": "high"}], r"Row 0: the answer for class 'joy' is 'high', which is not a number"),
    "twice": ([{"joy": 0.9, "Joy ": 0.1}], r"Row 0 answers for the class 'Joy ' twice"),
    "nothing": ([None, "joy"], r"Row 0 has no answer"),
    "no class": ([7, 1], r"Row 0 names the class 7"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_answer_names_row_value_and_fix(name):
    answers, message = BROKEN[name]
    with pytest.raises(AnswerError, match=message):
        read(answers)


def test_what_is_said_of_the_kind_is_held_against_the_numbers():
    with pytest.raises(AnswerError, match=r"Row 0: the log-probability of 'joy' is 0\.5, above 0"):
        read([[-1.0, 0.5, -2.0]], kind="log_probabilities")
    with pytest.raises(AnswerError, match=r"Row 0: the probability of 'joy' is 1\.5.*kind='logits'"):
        read([[0.0, 1.5, 0.0]], kind="probabilities")
    with pytest.raises(AnswerError, match=r"has no answer for 'anger', 'sadness'"):
        read([{"joy": 3.0}], kind="logits")
    with pytest.raises(ValueError, match="Choose one of probabilities, logits"):
        read([], kind="probability")


def test_classes_need_names_of_their_own():
    with pytest.raises(ValueError, match=r"twice"):
        AnswerReader(["yes", "no", "Yes"])
    with pytest.raises(ValueError, match="two or more"):
        AnswerReader(["yes"])
    with pytest.raises(ValueError, match="two or more"):
        AnswerReader("yes")


def test_two_tuples_that_are_no_labels_and_confidences_are_two_answers():
    torch.testing.assert_close(read(([0.7, 0.2, 0.1], [0, 1, 0])).softmax(-1), WANTED, atol=1e-6, rtol=0)
    assert read((["joy", "joy", "anger"], ["sadness"])).argmax(-1).tolist() == [1, 2]


def test_columns_of_a_dataframe_go_by_name_and_labels_beside_scores_too():
    reader = AnswerReader(["bad", "good"])
    frame = pd.DataFrame([[0.8, 0.2], [0.3, 0.7]], columns=["good", "BAD"])
    assert reader(frame).softmax(-1).flatten().tolist() == pytest.approx([0.2, 0.8, 0.7, 0.3])
    unnamed = pd.DataFrame([[0.8, 0.2]])
    assert reader(unnamed).softmax(-1).flatten().tolist() == pytest.approx([0.8, 0.2])
    told = "The columns of the answers are 'good', 'odd', and the classes .*Return a column for each of these"
    with pytest.raises(AnswerError, match=told):
        reader(frame.rename(columns={"BAD": "odd"}))
    with pytest.raises(AnswerError, match=r"are 'text', 'good', 'BAD', and .* and no other, or type the col"):
        reader(frame.assign(text="a").iloc[:, [2, 0, 1]])
    entry = {"sequence": "a text", "labels": ["good", "bad"], "scores": [0.8, 0.2]}
    found = AnswerReader(["bad", "good"])([entry, entry]).softmax(-1)
    assert found.flatten().tolist() == pytest.approx([0.2, 0.8] * 2)


def test_one_probability_a_text_and_a_set_of_classes_are_refused():
    with pytest.raises(AnswerError, match=r"For two classes return both probabilities, \[1 - p, p\]"):
        AnswerReader(["bad", "good"])(np.array([0.8, 0.1]))
    assert AnswerReader(["bad", "good"])(np.array([1.0, 0.0])).argmax(-1).tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"classes is a set, \['bad', 'good'\], which has no order"):
        AnswerReader({"bad", "good"})
