"""Class names: those of teacher, student and data are matched."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hfdistill.network.label_space import (
    LabelSpaceError,
    check_same_task,
    class_names,
    in_order_of,
    match_labels,
    with_names,
)

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
        (UNNAMED, config("1", "0"), None, [1, 0]),
        (config("0", "1"), UNNAMED, None, None),
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
        (
            NAMED,
            UNNAMED,
            [1, 0],
            r"label_map=\[1, 0\] must pair each.*label_map=\{'LABEL_0': 'negative', …\}",
        ),
        (NAMED, UNNAMED, {0: 0, "LABEL_0": 1}, r"must pair each"),
        (NAMED, UNNAMED, {0: 0, 1: 1, "LABEL_1": 1}, r"must pair each"),
        (NAMED, UNNAMED, {"LABEL_0": "negativ", 1: 1}, r"'negativ', which is not a class of the student"),
        (NAMED, UNNAMED, {"positive": 0, 1: 1}, r"'positive', which is not a class of the teacher"),
        (NAMED, UNNAMED, {2: 0, 1: 1}, r"names 2, which is not a class of the teacher.*'LABEL_0', 'LABEL_1'"),
        (NAMED, UNNAMED, {-1: 0, 0: 1}, r"names -1, which is not a class"),
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


def test_labels_stand_in_another_models_order():
    columns = [2, 0, 1]  # the student's class 0 is the teacher's column 2
    assert in_order_of(torch.tensor([0, 1, 2, -100]), columns).tolist() == [2, 0, 1, -100]
    assert in_order_of(torch.tensor([[1.0, 0.0, -100.0]]), columns).tolist() == [[0.0, -100.0, 1.0]]
    labels = torch.tensor([0, 1])
    assert in_order_of(labels, None) is labels


@pytest.mark.parametrize("names", ["no", {"no", "yes"}, frozenset({"no", "yes"}), 2, ["no"], ["no", "no"]])
def test_names_that_say_no_order_are_refused(names):
    with pytest.raises(
        LabelSpaceError, match=r"label_names is .*Give a list with a name of its own for each"
    ):
        with_names(UNNAMED, names)


@pytest.mark.parametrize("names", [("no", "yes"), {"no": 0, "yes": 1}.keys(), np.array(["no", "yes"])])
def test_names_in_an_order_are_those_of_the_classes(names):
    named = with_names(UNNAMED, names)
    assert (named.id2label, named.label2id) == ({0: "no", 1: "yes"}, {"no": 0, "yes": 1})
    assert with_names(named, names) is named
