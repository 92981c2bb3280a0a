"""Pages whose teacher is asked about texts: to a student, a report and a card, also without any label."""

import html
import json

import pytest
import yaml
from transformers import AutoModelForSequenceClassification

from hfdistill import DistillationTrainer, RecipeError, read_recipe, run_recipe

PAGE = """teacher:
  few_shot:
    encoder: encoder
    classes: {bad: a bad and boring film, good: a good and moving film}
    cache: answers
student:
  shrink: {source: encoder, layers: 2}
data:
  source: comments.csv
  text: comment
objective:
  - kd: {temperature: 2, weight_by: entropy}
training:
  output_dir: out
  max_steps: 2
  use_cpu: true
measure:
  speed: false
"""


def run(here, **changes):
    page = yaml.safe_load(PAGE) | changes
    (here / "page.yaml").write_text(yaml.safe_dump({k: v for k, v in page.items() if v is not None}))
    return run_recipe(read_recipe("page.yaml"))


def card(here):
    """The text of the card on one line."""
    return html.unescape((here / "out" / "student" / "README.md").read_text()).replace("\n", " ")


def test_text_and_class_names_alone_make_a_student_a_report_and_a_card(here):
    report = run(here)
    assert report.student.metrics is None
    assert report.teacher.name == "few-shot encoder"
    assert 0 <= report.student.fidelity["agreement"] <= 1
    assert "distilled from class names by embeddings of encoder (no person labelled its training rows)" in (
        card(here)
    )
    student = AutoModelForSequenceClassification.from_pretrained(here / "out" / "student")
    assert student.config.id2label == {0: "bad", 1: "good"}
    assert report.notes["rows"] == 22  # of 24 comments, 2 are kept back


def test_labelled_rows_are_the_examples_and_said_on_the_card(here):
    unlabelled = {"source": "comments.csv", "text": "comment"}
    data = {"source": "reviews.csv", "text": "review", "label": "verdict", "holdout": 0.5}
    report = run(
        here, teacher={"few_shot": {"encoder": "encoder", "cache": "answers"}},
        data={**data, "unlabelled": unlabelled}, objective=None,
    )  # fmt: skip
    assert report.teacher.metrics["accuracy"] >= 0
    assert f"a person labelled 20 of its {report.notes['rows']} training rows" in card(here).replace(
        "\n", " "
    )


def test_rows_that_a_file_does_not_answer_are_left_out_and_told(here, caplog, capsys):
    answers = map(json.loads, (here / "answers.jsonl").read_text().splitlines()[:14])
    lines = ["|".join(map(str, answer.values())) for answer in answers]
    content = "\n".join(["text|label|confidence", *lines])
    (here / "some.csv").write_text(content, encoding="utf-16-le")
    reading = {"encoding": "utf-16-le", "delimiter": "|", "quotes": False}
    report = run(here, teacher={"answers": {"file": "some.csv", **reading}})
    assert "of 22 rows have no answer in some.csv and are left out" in caplog.text
    assert report.teacher is None
    assert "some.csv does not answer every row that is measured on" in capsys.readouterr().err
    assert "distilled from the answers in some.csv (no person labelled" in card(here)


def test_keep_trains_on_the_surest_rows(here, monkeypatch):
    sizes, made = [], DistillationTrainer.__init__
    monkeypatch.setattr(
        DistillationTrainer,
        "__init__",
        lambda self, *a, **k: (sizes.append(len(k["train_dataset"])), made(self, *a, **k))[1],
    )
    run(here, teacher={"answers": {"file": "answers.jsonl", "keep": 0.5}})
    assert sizes[-1] in (11, 12)  # half of 22, rounded up in each class


def test_calibration_is_fitted_on_the_labelled_rows(here):
    """A teacher that is always wrong comes out unsure."""
    answers = [
        {"text": text, "label": "good" if verdict == "bad" else "bad", "confidence": 0.9}
        for text, verdict in (
            line.rsplit(",", 1) for line in (here / "reviews.csv").read_text().split("\n")[1:-1]
        )
    ]
    (here / "wrong.jsonl").write_text("\n".join(map(json.dumps, answers)))
    data = {"source": "reviews.csv", "text": "review", "label": "verdict"}
    plain = run(here, teacher={"answers": {"file": "wrong.jsonl"}}, data=data, objective=None)
    fitted = {"answers": {"file": "wrong.jsonl", "calibrate": True}}
    report = run(
        here, teacher=fitted, data=data, objective=None, training={"output_dir": "b", "max_steps": 1}
    )
    assert plain.teacher.metrics["accuracy"] == report.teacher.metrics["accuracy"] == 0.0
    assert report.teacher.metrics["ece"] < plain.teacher.metrics["ece"] - 0.2
    with pytest.raises(ValueError, match="the data has none"):
        run(here, teacher=fitted, training={"output_dir": "c", "max_steps": 1})


def test_the_cache_of_the_page_is_the_teachers(here):
    page = yaml.safe_load(PAGE)
    del page["teacher"]["few_shot"]["cache"]
    run(here, **page, teacher_cache="kept")
    assert list((here / "kept").glob("*/cache.json"))


CUT = {"shrink": {"source": "encoder", "layers": 2}}
MISTAKES = {
    "keep": ({"answers": {"file": "answers.jsonl", "keep": 3}}, CUT, "share in (0, 1]"),
    "student": (
        {"zero_shot": {"model": "nli"}},
        {"shrink": {"layers": 2}},
        "'shrink' is made of one teacher",
    ),
    "misspelt": ({"few_shot": {"encodr": "encoder"}}, CUT, "Did you mean encoder?"),
    "no prompt": ({"prompted": {"model": "lm"}}, CUT, "lacks prompt"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_before_anything_is_loaded(here, name):
    teacher, student, message = MISTAKES[name]
    with pytest.raises(RecipeError) as told:
        run(here, teacher=teacher, student=student)
    assert message in "\n".join(map(str, told.value.mistakes))
