"""A page whose training rows are streamed: trained to its report, or refused with what to type."""

import json

import pytest
from datasets import IterableDataset

from hfdistill.recipe import RecipeError, read_recipe
from hfdistill.recipe.check import stream_mistakes
from hfdistill.recipe.rows import read_rows
from hfdistill.recipe.run import run_recipe
from hfdistill.recipe.schema import Splits
from tests.conftest import make_sentences

PAGE = """teacher: teacher
student:
  shrink: {layers: 2}
data: {source: two, streaming: true}
training:
  output_dir: out
  max_steps: 2
  use_cpu: true
  disable_tqdm: true
measure: {speed: false, baseline: true}
"""


@pytest.fixture(autouse=True)
def no_sleep(monkeypatch):
    """datasets sleeps five seconds where reading a shuffled parquet file ends."""
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


def test_a_page_is_trained_on_a_stream(here, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(
        "hfdistill.recipe.run.DistillationTrainer.begin_run",
        lambda self, begin=run_recipe.__globals__["DistillationTrainer"].begin_run: (
            seen.append(self.train_dataset),
            begin(self),
        ),
    )
    report = run_recipe(read_recipe("page.yaml"))
    assert [type(data) for data in seen] == [IterableDataset] * 2  # the student's and the baseline's
    assert "a stream to learn from, of which the first 64 rows" in " ".join(capsys.readouterr().err.split())
    notes = json.loads((here / "out" / "student" / "report.json").read_text())["notes"]
    assert "rows" not in notes
    assert report.data.rows == 20


def test_the_rows_that_a_page_streams(here):
    rows = read_rows({"source": "two", "streaming": True}, Splits(), seed=3)
    whole = read_rows({"source": "two"}, Splits(), seed=3)
    assert rows.evaluation[:] == whole.evaluation[:]
    assert rows.train[:] == whole.train[:]
    assert rows.class_names() == whole.class_names()
    streamed = [row["text"] for row in rows.stream]
    assert streamed != whole.train["text"][:]
    assert sorted(streamed) == sorted(whole.train["text"][:])
    assert sorted(row["text"] for row in rows.texts()) == sorted(whole.texts()["text"])
    assert rows.few().stream is None
    assert read_rows({"source": "two", "streaming": True}, Splits(), seed=3, smoke=True).stream is None
    with pytest.raises(ValueError, match="a stream keeps no rows back"):
        read_rows({"source": {"train": "two/train.parquet"}, "streaming": True}, Splits(), seed=3)


def test_rows_of_a_stream_that_nobody_labelled_learn_from_the_teacher(here):
    (here / "some").mkdir()
    labels = ["positive", "negative", "-100", "-100"] * 6
    lines = [f"{text},{label}" for (text, _), label in zip(make_sentences(24), labels, strict=True)]
    for split in ("train", "validation"):
        (here / "some" / f"{split}.csv").write_text("\n".join(["text,label", *lines, ""]))
    source = {"source": "some", "streaming": True, "label_names": ["negative", "positive"]}
    rows = read_rows(source, Splits(), seed=3)
    for part in (rows.train, rows.evaluation, list(rows.stream)):
        assert sorted(row["label"] for row in part) == [-100] * 12 + [0] * 6 + [1] * 6
    assert rows.class_names() == ["negative", "positive"]
    report = run_recipe(read_recipe("page.yaml", overrides=[f"data={json.dumps(source)}"]))
    assert (report.data.rows, report.data.labelled_rows) == (24, 12)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.max_steps=-1", "training: lacks max_steps: the rows of a stream cannot be counted"),
        ("data.train_rows=10", "data.train_rows: needs all rows"),
        ("data.holdout=0.2", "data.holdout: needs all rows"),
        ("data.fresh_copies=true", "data.fresh_copies: needs all rows"),
        ("data.augment=[delete]", "data.augment: needs all rows"),
        ("teacher={finetune: {encoder: encoder}}", "Fine-tune it first, by a page of its own"),
        ("teacher={zero_shot: {model: teacher}}", "is asked about every text before the first step"),
    ],
)
def test_what_a_page_cannot_ask_of_a_stream(here, override, message):
    with pytest.raises(RecipeError, match=message):
        read_recipe("page.yaml", overrides=[override])


def test_a_goal_is_not_searched_in_a_stream():
    assert list(stream_mistakes({}, {"max_steps": 5}, None, goal=True)) == [
        (("goal",), "compares students on parts of all rows. Leave streaming out of `data:`.")
    ]
    assert list(stream_mistakes({}, {"max_steps": 5}, None, goal=False)) == []
