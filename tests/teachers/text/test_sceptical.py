"""Teachers that are often wrong: the surest rows, weights, members recorded ahead, and what is measured."""

from dataclasses import replace

import pytest
import torch
from datasets import Dataset

from hfdistill import KD, Contender, Ensemble, TextTeacher, Trace, answers_from, keep_surest, measure
from hfdistill.evaluation.nothing_to_teach import bounded_by_teacher
from hfdistill.objectives.row_weights import trust
from tests.conftest import make_bert, make_dataset, make_tokenizer
from tests.teachers.text.test_files import jsonl
from tests.teachers.text.test_teacher import CLASSES, Opinions, train

SHARES = {"a": 0.99, "b": 0.8, "c": 0.6, "d": 0.45, "e": 0.3, "f": 0.1}


def shares(texts):
    return [[SHARES[text], 1 - SHARES[text]] for text in texts]


def test_the_surest_share_of_each_class_stays_in_order(tmp_path):
    teacher = TextTeacher(shares, CLASSES, cache=tmp_path)
    data = Dataset.from_dict({"text": list("fedcba")})
    assert keep_surest(data, teacher, keep=0.6)["text"][:] == list("feba")  # two of three of each class
    assert keep_surest(data, teacher, keep=1.0)["text"][:] == list("fedcba")
    labelled = data.add_column("label", [-100, -100, 1, -100, -100, -100])
    assert keep_surest(labelled, teacher, keep=0.3)["text"][:] == list("fda")
    with pytest.raises(ValueError, match="keep is a share"):
        keep_surest(data, teacher, keep=0)


def test_a_class_that_the_teacher_never_gives_is_told(tmp_path, caplog):
    teacher = TextTeacher(lambda texts: [[0.9, 0.1]] * len(texts), CLASSES, cache=tmp_path)
    keep_surest(Dataset.from_dict({"text": ["a"]}), teacher)
    assert "no row to the classes 'positive'" in caplog.text


def test_entropy_weighs_a_row_by_what_the_teacher_knows_of_it():
    teacher = torch.tensor([[0.0, 0.0, 0.0, 0.0], [50.0, 0.0, 0.0, 0.0], [0.0, 0.0, -50.0, -50.0]])
    found = trust(teacher, torch.full((3,), -100), by="entropy")
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 0.5]))
    student = torch.randn(3, 4)
    rows = [
        KD(temperature=1)(Trace(student[i : i + 1]), Trace(teacher[i : i + 1]), torch.tensor([-100]))
        for i in range(3)
    ]
    wanted = sum(float(row) * weight for row, weight in zip(rows, (0.0, 1.0, 0.5), strict=True)) / 3
    term = KD(temperature=1, weight_by="entropy")
    assert float(term(Trace(student), Trace(teacher), torch.full((3,), -100))) == pytest.approx(wanted)


def test_members_of_an_ensemble_are_recorded_before_the_first_step(tmp_path):
    function = Opinions()
    both = Ensemble([make_bert(2, seed=3), TextTeacher(function, cache=tmp_path, batch_size=16)])
    train(both, tmp_path / "out", steps=1)
    assert len(set(function.asked())) == len(set(make_dataset()["text"]))


def test_a_teacher_of_texts_is_measured_beside_its_student(tmp_path):
    data, teacher = make_dataset(), TextTeacher(Opinions(), cache=tmp_path, name="opinions")
    report = measure(
        Contender(make_bert(2, seed=2), name="small"), data, teacher=teacher, tokenizer=make_tokenizer()
    )
    assert report.teacher.name == "opinions"
    assert report.teacher.metrics["accuracy"] == 1.0
    assert report.teacher.speed is None
    assert report.student.speed is not None
    assert "the size" not in report.table()
    assert all(each.teacher_recall == 1.0 for each in report.classes)


def test_a_student_that_its_teacher_holds_back_is_told(tmp_path):
    data = make_dataset()
    function = Opinions()
    often_wrong = TextTeacher(
        lambda texts: [p if len(t) % 4 else p[::-1] for t, p in zip(texts, function(texts), strict=True)],
        CLASSES, cache=tmp_path, name="wrong on a quarter",
    )  # fmt: skip
    copy = TextTeacher(function, cache=tmp_path, name="right")
    report = measure(often_wrong, data, teacher=often_wrong, speed=None)
    wrong = [len(text) % 4 == 0 for text in data["text"]]
    accuracy = 100 * (1 - sum(wrong) / len(wrong))
    assert f"right on {accuracy:.1f} % of 32 rows, and the student answers as it does on 100.0 %" in (
        bounded_by_teacher(report)
    )
    assert bounded_by_teacher(measure(copy, data, teacher=copy, speed=None)) == ""
    better = replace(report.student, metrics={**report.student.metrics, "accuracy": accuracy / 100 + 0.1})
    assert bounded_by_teacher(replace(report, student=better)) == "", "it is better than its teacher"


def test_answers_for_training_rows_alone_are_enough(tmp_path):
    """The look at the teacher before the first step takes the evaluation rows that it answers: none."""
    data = make_dataset()
    rows = [
        {"text": text, "label": label, "confidence": 0.9}
        for text, label in zip(data["text"], data["label"], strict=True)
    ]
    teacher = answers_from(jsonl(tmp_path / "a.jsonl", rows), CLASSES)
    other = Dataset.from_dict({"text": ["not answered", "nor this"], "label": [0, 1]})
    trainer = train(teacher, tmp_path / "out", evaluation=other)
    assert trainer.state.global_step == 4
    assert not any("teacher_accuracy" in line for line in trainer.state.log_history)
    seen = train(teacher, tmp_path / "seen", evaluation=data)
    assert any(line.get("teacher_accuracy") == 1.0 for line in seen.state.log_history)


def test_only_one_label_a_row_can_be_ranked_and_pairs_are_read_as_pairs(tmp_path):
    several = TextTeacher(lambda texts: [[0.9, 0.9]] * len(texts), CLASSES, cache=tmp_path, multi_label=True)
    data = Dataset.from_dict({"text": list("abc"), "text_pair": list("fed")})
    with pytest.raises(
        ValueError, match="keep_surest ranks rows of one label, and this teacher gives several"
    ):
        keep_surest(data, several)

    def second(pairs):
        return shares([other for _, other in pairs])

    teacher = TextTeacher(second, CLASSES, cache=tmp_path)
    assert keep_surest(data, teacher, keep=0.3)["text"][:] == ["a"]  # beside f: 0.9 of the second class
