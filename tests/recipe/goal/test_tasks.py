"""Searches for every kind of task: numbers of pairs, several labels, names, and a class that is not seen."""

import pytest
import torch
from datasets import Dataset

import hfdistill
from hfdistill.recipe.check import check
from hfdistill.recipe.goal import evidence, sizing
from hfdistill.recipe.goal.fit import fit_recipe
from hfdistill.recipe.page import Page
from tests.conftest import BAD, GOOD, make_bert, make_tokenizer

GOAL = {"keep": 0.1, "max_mb": 100, "candidates": ["layers"], "texts": 30, "choose": "validation"}
NAMES = ["anger", "joy", "fear"]


def texts_of(count, start=0):
    return [
        f"the {(GOOD + BAD)[i % 16]} film {i} is {(BAD + GOOD)[i * 7 % 16]}"
        for i in range(start, start + count)
    ]


@pytest.fixture
def searched(tmp_path, monkeypatch):
    """Return what a search finds for a teacher that is right on most rows."""
    monkeypatch.setattr(sizing, "_milliseconds", lambda loaded: loaded.model.num_parameters() / 1e3)
    monkeypatch.setattr(evidence, "DRAWS", 40)
    monkeypatch.chdir(tmp_path)

    def search(label, *, pairs=False, goal=None, leave_out=None, config=None, data=None):
        teacher, tokenizer = make_bert(2, seed=1, initializer_range=0.5, **(config or {})), make_tokenizer()
        parts = {}
        for split, count, start in (("train", 60, 0), ("validation", 40, 100), ("test", 40, 200)):
            columns = {"text": texts_of(count, start)}
            if pairs:
                columns["text_pair"] = texts_of(count, start + 3)
            with torch.no_grad():
                logits = teacher(**tokenizer(*columns.values(), return_tensors="pt", padding=True)).logits
            columns["label"] = [label(row, i) for i, row in enumerate(logits)]
            rows = Dataset.from_dict(columns)
            parts[split] = rows if split == "train" else rows.filter(lambda row: row["label"] != leave_out)
        page = {
            "data": {"source": "rows", "evaluation": "test", **(data or {})},
            "teacher": "own",
            "training": {"output_dir": "out", "num_train_epochs": 1, "max_length": 16, "use_cpu": True},
            "measure": {"speed": False},
            "goal": {**GOAL, **(goal or {})},
        }
        (tmp_path / "rows").mkdir()
        for split, rows in parts.items():
            rows.to_parquet(f"rows/{split}.parquet")
        teacher.save_pretrained("own")
        tokenizer.save_pretrained("own")
        return fit_recipe(check(Page("page", page)))

    return search


def named(task):
    ids = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
    return {"num_labels": 3, "problem_type": task, **ids}


def test_numbers_of_pairs(searched):
    config = {
        "num_labels": 1,
        "id2label": {0: "score"},
        "label2id": {"score": 0},
        "problem_type": "regression",
    }
    result = searched(lambda row, i: row[0].item() + (i % 5) / 100, pairs=True, config=config)
    student, teacher = (model.metrics["pearson"] for model in (result.report.student, result.report.teacher))
    assert teacher > 0.95
    assert result.reported == student / teacher
    assert (result.verdict, result.report.data.pairs) == ("kept", True)
    assert "of the teacher's Pearson" in str(result)


def test_several_labels_with_names_and_texts_without(searched, tmp_path):
    (tmp_path / "more.txt").write_text("\n".join(texts_of(20, 300)))

    def label(row, i):
        return [name for name, value in zip(NAMES, row, strict=True) if value > 0 or i % 9 == 0]

    data = {"unlabelled": "more.txt"}
    result = searched(label, config=named("multi_label_classification"), data=data)
    assert result.report.notes["rows"] == 60 + 20
    student, teacher = (model.metrics["micro_f1"] for model in (result.report.student, result.report.teacher))
    assert 0.7 < teacher < 1
    assert (result.verdict, result.reported) == ("kept", student / teacher)
    assert hfdistill.load_classifier(str(result.student)).config.problem_type == "multi_label_classification"


def test_names_of_classes_one_of_which_is_in_neither_part(searched):
    """The mean over classes is that of those that are there, so that the teacher keeps all of its own."""
    result = searched(
        lambda row, i: NAMES[row.argmax()],
        leave_out="fear",
        config=named("single_label_classification"),
        goal={"metric": "macro_f1", "keep": 0.02},
    )
    assert result.evidence.teacher == result.report.teacher.metrics["macro_f1"] == 1
    assert result.reported == result.report.student.metrics["macro_f1"]
    assert [each.label for each in result.report.classes] == NAMES
