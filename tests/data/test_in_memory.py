import logging

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from hfdistill.data import load
from tests.data.conftest import messages

ROWS = [{"text": "a", "label": "y"}, {"text": "b", "label": "x"}]
COLUMNS = {"text": ["a", "b"], "label": ["y", "x"]}


@pytest.mark.parametrize(
    "source",
    [
        pd.DataFrame(COLUMNS),
        pd.DataFrame(COLUMNS, index=[7, 3]),
        pd.DataFrame(COLUMNS).astype({"label": "category", "text": "string"}),
        pa.table(COLUMNS),
        COLUMNS,
        {name: np.array(values) for name, values in COLUMNS.items()},
        {name: pd.Series(values) for name, values in COLUMNS.items()},
        ROWS,
        tuple(ROWS),
        [("a", "y"), ("b", "x")],
        [["a", "y"], ["b", "x"]],
        Dataset.from_dict(COLUMNS),
        Dataset.from_dict(COLUMNS).with_format("numpy"),
        DatasetDict(train=Dataset.from_dict(COLUMNS)),
        {"train": pd.DataFrame(COLUMNS)},
        {"train": ROWS},
    ],
    ids=lambda source: type(source).__name__,
)
def test_every_object_gives_the_same(source):
    splits = load(source)
    assert list(splits) == ["train"]
    assert splits["train"].features == Features(
        {"text": Value("string"), "label": ClassLabel(names=["x", "y"])}
    )
    assert splits["train"].to_list() == [{"text": "a", "label": 1}, {"text": "b", "label": 0}]


def test_splits_and_names_are_kept():
    features = Features({"sentence": Value("string"), "Label": ClassLabel(names=["no", "yes"])})
    rows = Dataset.from_dict({"sentence": ["a"], "Label": [1]}, features=features, split="test")
    assert load(rows)["test"].features["label"].names == ["no", "yes"]
    both = load(DatasetDict(train=rows, dev=rows), split="dev")
    assert both["dev"].to_list() == [{"text": "a", "label": 1}]
    frames = {"train": pd.DataFrame(COLUMNS), "validation": pd.DataFrame(COLUMNS)}
    assert {name: len(rows) for name, rows in load(frames).items()} == {"train": 2, "validation": 2}


def test_texts_alone_are_loaded_as_unlabelled_text():
    assert load(["a", "b"])["train"].to_list() == [{"text": "a"}, {"text": "b"}]
    assert load(pd.DataFrame({"review": ["a"]}))["train"].to_list() == [{"text": "a"}]


def test_usual_columns_are_found():
    frame = pd.DataFrame({"Review": ["a", "b"], "Sentiment": ["pos", "neg"]})
    assert load(frame)["train"].to_list() == [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
    with pytest.raises(ValueError, match=r"Found the columns \['body', 'label'\].*Say which: text='body'"):
        load(pd.DataFrame({"body": ["a"], "label": ["x"]}))


@pytest.mark.parametrize(
    "name",
    [
        "label",
        "labels",
        "label_ids",
        "intent",
        "class",
        "category",
        "target",
        "sentiment",
        "emotion",
        "score",
    ],
)
def test_a_column_of_a_usual_name_holds_the_labels(name):
    rows = load({"text": ["a", "b"], "id": [7, 8], name: ["x", "y"]})["train"]
    assert rows.to_list() == [{"text": "a", "label": 0}, {"text": "b", "label": 1}]


def test_missing_values_are_named_and_dropped(caplog):
    frame = pd.DataFrame({"text": ["a", None, np.nan, pd.NA, "e"], "label": [1, 0, 1, 0, None]})
    with pytest.raises(ValueError, match=r"3 of 5 rows .*\[1, 2, 3\].*1 of 5 rows .*'label' .*\[4\]"):
        load(frame, label_names=["no", "yes"])
    rows = load(frame, on_bad_row="drop", label_names=["no", "yes"])["train"]
    assert rows.to_list() == [{"text": "a", "label": 1}]


def test_strings_among_numbers_are_named_where_the_column_is_used(caplog):
    frame = pd.DataFrame({"text": ["a", 5, "c"], "label": ["x", "y", "x"], "other": [1, "b", {"c": 1}]})
    with pytest.raises(ValueError, match=r"1 of 3 rows .*'text' \(first rows \[1\]\)"):
        load(frame)
    assert list(load(frame, on_bad_row="drop")["train"]["text"]) == ["a", "c"]
    with pytest.raises(ValueError, match=r"holds \['int', 'str'\]"):
        load([("a", 1), ("b", "x")])


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ([], "has no rows in split 'train'"),
        ({}, "has no rows"),
        (pd.DataFrame({"text": [], "label": []}), "has no rows"),
        (Dataset.from_dict({"text": [], "label": []}), "has no rows"),
        (DatasetDict(train=Dataset.from_dict(COLUMNS), test=Dataset.from_dict({"text": []})), "split 'test'"),
        (pd.DataFrame([["a", "b", "x"]], columns=["text", "text", "label"]), "columns of the same name"),
        ({"text": ["a", "b"], "label": ["x"]}, "differ in length: {'text': 2, 'label': 1}"),
        ({"text": "a", "label": "x"}, "no list of values under 'text': 'a'"),
        ([("a", "x", "y")], "Row 0 of the list passed to load is .*a list of pairs"),
        ([("a", "x"), "b"], "Row 1 of the list passed to load is 'b'"),
        (3, "cannot read rows from builtins.int"),
        (None, "cannot read rows from builtins.NoneType"),
        (Dataset.from_dict(COLUMNS).to_iterable_dataset(), "is a stream .*streaming=True"),
    ],
)
def test_what_cannot_be_read_says_what_to_pass(source, words):
    with pytest.raises(ValueError, match=words):
        load(source)


def test_words_with_labels_are_read_from_memory():
    rows = load({"tokens": [["a", "b"]], "ner_tags": [["O", "X"]]})["train"]
    assert rows.to_list() == [{"tokens": ["a", "b"], "label": [0, 1]}]


def test_the_same_rows_have_the_same_fingerprint(caplog):
    caplog.set_level(logging.ERROR)
    prints = {load(pd.DataFrame(COLUMNS))["train"]._fingerprint for _ in range(2)}
    assert len(prints) == 1
    assert load(ROWS[::-1])["train"]._fingerprint not in prints
    assert messages(caplog) == []


def test_a_frame_that_gives_arrow_is_read():
    class Frame:
        columns = ("text", "label")

        def to_arrow(self):
            return pa.table({"text": ["good", "bad"], "label": ["y", "x"]})

    rows = load(Frame())["train"]
    assert rows.to_list() == [{"text": "good", "label": 1}, {"text": "bad", "label": 0}]
    assert rows.features["label"].names == ["x", "y"]


def test_a_list_of_files_is_no_list_of_texts(tmp_path):
    paths = [tmp_path / "one.csv", tmp_path / "two.csv"]
    for path in paths:
        path.write_text("text,label\na film,good\n")
    for names in (paths, list(map(str, paths))):
        with pytest.raises(ValueError, match=r"names files, 'one\.csv' among them\. Load them by split"):
            load(names)
    assert load([*map(str, paths), "a text " * 999])["train"]["text"][2] == "a text " * 999
