"""What a student that labels words is worth."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from datasets import Dataset

from hfdistill import Report, measure, write_card
from hfdistill.data import encode
from hfdistill.evaluation.measure import Contender
from hfdistill.evaluation.metrics.scores import entity_f1, paired_interval
from tests.conftest import make_bert, make_tokenizer
from tests.word_material import TAGS, make_named_words, make_tagger, make_words

TAG_ID = {name: i for i, name in enumerate(TAGS)}


def ids(*names):
    return np.array([TAG_ID[name] for name in names])


@pytest.fixture(scope="module")
def report():
    return measure(
        Contender(make_tagger(2, seed=2), name="small"),
        make_words(12),
        teacher=Contender(make_tagger(3, seed=1), name="big"),
        baseline=Contender(make_tagger(2, seed=3), name="plain"),
        tokenizer=make_tokenizer(),
        speed=None,
    )


def answers(model):
    """Of each labelled word the label and the answer, one text at a time."""
    found = []
    for row in encode(make_words(12), make_tokenizer()):
        labels = torch.tensor(row.pop("labels"))
        with torch.no_grad():
            logits = model(**{name: torch.tensor([value]) for name, value in row.items()}).logits[0]
        found += [(int(y), int(z.argmax()), y != -100) for y, z in zip(labels, logits, strict=True)]
    return found


def test_words_are_scored_by_their_first_token(report):
    student, teacher = answers(make_tagger(2, seed=2)), answers(make_tagger(3, seed=1))
    known = [(y, z, t) for (y, z, _), (_, t, _) in zip(student, teacher, strict=True) if y >= 0]
    assert report.task == "token"
    assert report.student.metrics["accuracy"] == pytest.approx(np.mean([y == z for y, z, _ in known]))
    assert "accuracy_se" not in report.student.metrics
    both = [(z, t) for (_, z, word), (_, t, _) in zip(student, teacher, strict=True) if word]
    assert report.student.fidelity["agreement"] == pytest.approx(np.mean([z == t for z, t in both]))
    assert len(both) > len(known)
    wrong = [(y, z, t) for y, z, t in known if t != y]
    assert report.errors.teacher_wrong == len(wrong)
    assert report.errors.same_wrong == sum(z == t for _, z, t in wrong)
    assert report.data.labelled_words == len(known) == sum(c.rows for c in report.classes)
    assert (report.data.rows, report.data.labelled_rows) == (12, 10)
    right = [np.array([y == each[i] for y, *each in known]) for i in (0, 1)]
    lengths = [sum(y >= 0 for y in row["labels"]) for row in encode(make_words(12), make_tokenizer())]
    difference = report.differences[0]
    interval = (difference.mean, difference.low, difference.high)
    assert interval == pytest.approx(paired_interval(*right, lengths=lengths))


def test_a_report_and_a_card_speak_of_words(report, tmp_path):
    assert Report.load(report.save(tmp_path / "report.json")) == report
    text = " ".join(report.table().split())
    assert f"(same {report.data.labelled_words} words)" in text
    assert f"of the {report.errors.teacher_wrong} words that the teacher gets wrong" in text
    card = write_card(tmp_path, report, base_model="big", dataset="films").read_text()
    assert "pipeline_tag: token-classification" in card
    assert 'pipeline("token-classification"' in card
    assert "AutoModelForTokenClassification" in card
    assert "text-classification" not in card.replace("token-classification", "")
    assert "| class | words |" in card


def test_order_of_classes_and_encoded_data_do_not_matter(report):
    turned = make_tagger(3, seed=1, labels=dict(enumerate(TAGS[::-1])))
    plain = make_tagger(3, seed=1)
    with torch.no_grad():
        turned.classifier.weight.copy_(plain.classifier.weight.flip(0))
        turned.classifier.bias.copy_(plain.classifier.bias.flip(0))
    again = measure(
        make_tagger(2, seed=2),
        encode(make_words(12), make_tokenizer()),
        teacher=turned,
        tokenizer=make_tokenizer(),
        speed=None,
    )
    assert again.teacher.metrics == pytest.approx(report.teacher.metrics, nan_ok=True)
    assert again.student.fidelity == pytest.approx(report.student.fidelity)


def test_words_without_any_label_are_compared_alone():
    for data in (make_words(6).remove_columns("label"), Dataset.from_dict({"text": ["good film"] * 3})):
        found = measure(make_tagger(2), data, teacher=make_tagger(3), tokenizer=make_tokenizer(), speed=None)
        assert found.student.metrics is None
        assert 0 <= found.student.fidelity["agreement"] <= 1
        assert (found.data.labelled_rows, found.data.labelled_words) == (0, 0)


def test_misuse_is_refused():
    named = make_named_words(4).rename_column("ner_tags", "label")
    with pytest.raises(ValueError, match="teacher is a single_label model and the student a token one"):
        measure(make_tagger(2), named, teacher=make_bert(2), tokenizer=make_tokenizer(), speed=None)
    short = make_tokenizer()
    short.model_max_length = 6
    with pytest.raises(ValueError, match=r"Of row \d the student reads \d+ words and the teacher \d: one of"):
        measure(
            make_tagger(2), named, teacher=Contender(make_tagger(3), tokenizer=short),
            tokenizer=make_tokenizer(), speed=None,
        )  # fmt: skip


def test_entities_count_whole():
    pytest.importorskip("seqeval", reason="pip install 'hfdistill[tokens]'")
    truth = ids("B-good", "I-good", "O", "B-bad", "B-bad", "I-bad")
    found = ids("B-good", "O", "O", "B-bad", "B-bad", "I-bad")
    # three entities on each side, two of them alike: F1 = 4/6
    assert entity_f1(found, truth, lengths=[3, 3], names=TAGS) == pytest.approx(4 / 6)
    # an entity does not go on into the next text
    assert entity_f1(ids("B-bad", "I-bad"), ids("B-bad", "B-bad"), lengths=[1, 1], names=TAGS) == 1
    assert entity_f1(ids("O"), ids("O"), lengths=[1], names=TAGS) == 0


def test_tags_that_are_no_entities_have_no_entity_f1():
    assert entity_f1(np.array([0]), np.array([0]), lengths=[1], names=["NOUN", "VERB"]) is None
    assert entity_f1(np.array([0]), np.array([0]), lengths=[1], names=["O", "PER"]) is None


def test_a_report_of_schema_1_is_read(tmp_path):
    """What came later is None."""
    found = measure(
        make_bert(2),
        Dataset.from_dict({"text": ["good", "bad"], "label": [1, 0]}),
        teacher=make_bert(3),
        tokenizer=make_tokenizer(),
        speed=None,
    )
    plain = json.loads(found.save(tmp_path / "report.json").read_text())
    plain["schema"] = 1
    del plain["data"]["labelled_words"]
    for entry in plain["classes"]:
        for name in ("corrected", "new", "baseline_same_wrong"):
            del entry[name]
    (tmp_path / "old.json").write_text(json.dumps(plain))
    old = Report.load(tmp_path / "old.json")
    assert old.schema == found.schema
    blank = {"corrected": None, "new": None, "baseline_same_wrong": None}
    expected = tuple(dataclasses.replace(c, **blank) for c in found.classes)
    assert old == dataclasses.replace(found, classes=expected)
    assert "| - | - |" in write_card(tmp_path, old, base_model="big", dataset="d").read_text()
