"""What is said of a teacher that was trained too little."""

from dataclasses import replace

import pytest

from hfdistill.evaluation.card import _limits
from hfdistill.evaluation.nothing_to_teach import doubt_of_teacher, undertrained
from hfdistill.evaluation.report import ClassReport, Difference
from tests.conftest import make_report

ADVICE = (
    "The teacher is trained too little, or on other rows: train it longer or on more labels, or take another "
    "one, before students learn from it."
)


def scored(model, accuracy, error=0.02):
    return replace(model, metrics={"accuracy": accuracy, "accuracy_se": error})


def of_class(label, rows, recall):
    return ClassReport(label, rows, 0.1, 0.5, recall, 0, 0)


@pytest.fixture
def judged():
    plain = make_report({})
    student = scored(plain.student, 0.8)
    models = {"student": student, "teacher": scored(student, 0.9), "baseline": scored(student, 0.8)}
    classes = (of_class("joy", 40, 0.9), of_class("fear", 4, 0.0))
    return replace(plain, task="single_label", **models, classes=classes, differences=())


def test_a_class_of_few_rows_and_a_baseline_within_chance_say_nothing(judged):
    close = replace(judged, baseline=scored(judged.student, 0.955))  # 1.96 x 2.83 points are 5.54
    near = Difference("baseline", "accuracy", -0.02, -0.05, 0.0)
    assert undertrained(replace(close, differences=(near,))) == ""
    assert undertrained(replace(judged, teacher=None, baseline=scored(judged.student, 1.0))) == ""
    assert undertrained(replace(judged, baseline=None)) == ""


def test_classes_that_the_teacher_never_finds_are_named(judged):
    missed = [of_class(name, rows, 0.0) for name, rows in (("a", 5), ("b", 12), ("c", 9), ("d", 7), ("e", 6))]
    assert undertrained(replace(judged, classes=(*judged.classes, *missed))) == (
        "The teacher finds none of the 5 rows of a, the 12 rows of b, the 9 rows of c and those of 2 more "
        f"classes. {ADVICE}"
    )


def test_a_baseline_above_student_or_teacher_is_told(judged):
    less = Difference("baseline", "accuracy", -0.031, -0.05, -0.001)
    assert undertrained(replace(judged, differences=(less,))) == (
        "The same student trained on the labels alone is better by 3.1 points than with the teacher. "
        + ADVICE
    )
    ahead = replace(judged, baseline=scored(judged.student, 0.96))
    assert undertrained(ahead) == (
        "The student trained on the labels alone is right on 6.0 points more than the teacher. " + ADVICE
    )
    assert doubt_of_teacher(ahead) == undertrained(ahead)
    words = replace(ahead, baseline=replace(judged.student, metrics={"accuracy": 1.0}))
    assert undertrained(words) == "", "whether it is chance is not known"


def test_a_card_says_what_to_do_whatever_the_names_of_classes(judged):
    missed = [of_class(name * 60, 5, 0.0) for name in "abcd"]
    less = Difference("baseline", "accuracy", -0.031, -0.05, -0.001)
    report = replace(judged, classes=(*judged.classes, *missed), differences=(less,))
    assert len(undertrained(report)) > 400
    assert "another one, before students learn from it.**" in _limits(report)
