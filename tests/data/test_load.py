import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import Value

from hfdistill.data import load
from tests.data.conftest import messages, write, write_rows

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="the real data sets are not beside the checkout")


@pytest.mark.parametrize(
    ("columns", "told", "expected"),
    [
        (["text_pair", "text", "label"], {}, ["text", "text_pair", "label"]),
        (["question1", "question2", "label"], {}, ["question1", "question2", "label"]),
        (["passage", "query", "label"], {}, ["query", "passage", "label"]),
        (["document", "query", "label"], {}, ["query", "document", "label"]),
        (["passage", "question", "label"], {}, ["question", "passage", "label"]),
        (["context", "question", "label"], {}, ["question", "context", "label"]),
        (["text2", "text1", "label"], {}, ["text1", "text2", "label"]),
        (["text_b", "text_a", "label"], {}, ["text_a", "text_b", "label"]),
        (["Sentence_B", "Sentence_A", "label"], {}, ["Sentence_A", "Sentence_B", "label"]),
        (["sentence_1", "sentence_2", "label"], {}, ["sentence_1", "sentence_2", "label"]),
        (["idx", "Sentence", "LABEL"], {}, ["Sentence", "LABEL"]),
        (["sentence2", "sentence1", "label"], {}, ["sentence1", "sentence2", "label"]),
        (["question", "sentence", "label"], {}, ["question", "sentence", "label"]),
        (["premise", "hypothesis", "label"], {"text": "hypothesis"}, ["hypothesis", "label"]),
        (
            ["premise", "hypothesis"],
            {"text": "hypothesis", "text_pair": "premise"},
            ["hypothesis", "premise"],
        ),
        (["text", "other", "label"], {"text_pair": "other"}, ["text", "other", "label"]),
        (["text_pair", "text"], {"text": "text_pair", "text_pair": "text"}, ["text_pair", "text"]),
        (["text", "label", "score"], {"label": "score"}, ["text", "score"]),
        (["text", "review", "intent"], {"text": "review"}, ["review", "intent"]),
    ],
)
def test_columns_are_found(tmp_path, columns, told, expected):
    path = write_rows(tmp_path / "train.parquet", **{name: [f"in {name}"] for name in columns})
    row = load(path, **told)["train"]
    found = [row[0][name] for name in ("text", "text_pair") if name in row.column_names]
    if "label" in row.column_names:
        found.append(row.features["label"].int2str(row[0]["label"]))
    assert found == [f"in {name}" for name in expected]


@pytest.mark.parametrize(
    ("columns", "told", "words"),
    [
        (["text", "review", "label"], {}, r"\['text', 'review'\] could all be the text"),
        (["text", "Text", "label"], {}, r"\['text', 'Text'\] could all be the text"),
        (["text", "sentence1", "sentence2"], {}, "could all be the text"),
        (
            ["body", "label"],
            {},
            r"Found the columns \['body', 'label'\], of which none.*Say which: text='body' ",
        ),
        (["text", "label", "intent"], {}, r"\['label', 'intent'\] could all be the label. Pass label='...'"),
        (
            ["body", "label"],
            {"text": "bodi"},
            r"no column 'bodi', found \['body', 'label'\]. Did you mean text='body'",
        ),
        (
            ["text", "kind"],
            {"label": "stars"},
            r"no column 'stars', found \['kind'\]. Pass one of them as label=",
        ),
        (["text", "label"], {"text": "text", "text_pair": "text"}, "a pair needs two columns"),
        (
            ["text", "label"],
            {"on_bad_row": "skip"},
            "on_bad_row is 'skip'.*Pass on_bad_row='raise' or 'drop'",
        ),
    ],
)
def test_columns_not_found_or_ambiguous(tmp_path, columns, told, words):
    path = write_rows(tmp_path / "train.parquet", **{name: ["a"] for name in columns})
    with pytest.raises(ValueError, match=words):
        load(path, **told)


def test_a_column_that_one_split_lacks(tmp_path, caplog):
    write(tmp_path, {"train.csv": "text,label\na,x\n", "test.csv": "text\nb\n"})
    splits = load(tmp_path)
    assert [rows.column_names for rows in splits.values()] == [["text", "label"], ["text"]]
    assert messages(caplog) == []
    write(tmp_path, {"test.csv": "sentence,label\nb,x\n"})
    with pytest.raises(ValueError, match=r"Split 'test' has no column 'text', found \['sentence', 'label'\]"):
        load(tmp_path, text="text")


def test_text_without_labels_is_said_to_be_so(tmp_path, caplog):
    write(tmp_path, {"train.csv": "text,idx\na,1\n"})
    assert load(tmp_path)["train"].column_names == ["text"]
    assert messages(caplog) == [
        "none of the columns ['idx'] has a usual name for labels: loaded as unlabelled text"
    ]


def test_bad_rows_are_named_or_dropped(tmp_path, caplog):
    texts = [None, "kept", None, None, "", None, None, None]
    path = write_rows(tmp_path / "dev.parquet", text=texts, label=[0, 1, 0, 1, 0, 1, 0, 1])
    reason = (
        "6 of 8 rows of split 'validation' have no readable string in 'text' (first rows [0, 2, 3, 5, 6])"
    )
    with pytest.raises(ValueError, match="6 of 8 rows") as caught:
        load(path)
    assert str(caught.value) == (
        f"{reason}: None, NaN, a number or bytes that are not UTF-8 cannot be learned from. "
        'Repair them, or leave them out with on_bad_row="drop".'
    )
    assert load(path, on_bad_row="drop")["validation"].to_list() == [
        {"text": "kept", "label": 1},
        {"text": "", "label": 0},
    ]
    assert messages(caplog) == [f"{reason}: dropped"]


def test_every_column_of_a_row_must_be_good(tmp_path):
    pair = {
        "sentence1": ["a", None, "c", "d"],
        "sentence2": ["a", "b", None, "d"],
        "label": [0.5, 1.0, 2.0, np.nan],
    }
    path = write_rows(tmp_path / "train.parquet", **pair)
    with pytest.raises(
        ValueError, match=r"'text' \(first rows \[1\]\).*'text_pair' .*\[2\].*value in 'label' .*\[3\]"
    ):
        load(path)
    assert load(path, on_bad_row="drop")["train"].to_list() == [{"text": "a", "text_pair": "a", "label": 0.5}]


def test_text_that_is_no_text(tmp_path):
    mixed = [
        {"text": "a", "label": 1},
        {"text": 5, "label": 0},
        {"text": None, "label": 1},
        {"text": "b", "label": 0},
    ]
    write(tmp_path, {"train.jsonl": "\n".join(json.dumps(row) for row in mixed)})
    with pytest.raises(ValueError, match=r"2 of 4 rows.*\(first rows \[1, 2\]\)"):
        load(tmp_path)
    kept = load(tmp_path, on_bad_row="drop")["train"]
    assert kept.features["text"] == Value("string")
    assert list(kept["text"]) == ["a", "b"]
    numbers = write_rows(tmp_path / "numbers.parquet", text=[1.0, float("nan")])
    for on_bad_row in ("raise", "drop"):
        with pytest.raises(ValueError, match=r"2 of 2 rows.*No other row is left"):
            load(numbers, on_bad_row=on_bad_row)


def test_broken_utf8_and_surrogates_are_named(tmp_path):
    offsets = pa.py_buffer(np.array([0, 1, 4, 5], dtype="int32").tobytes())
    texts = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"a\xed\xa0\x80b")])
    path = write_rows(tmp_path / "train.parquet", text=texts)
    with pytest.raises(ValueError, match=r"1 of 3 rows.*\(first rows \[1\]\)"):
        load(path)
    assert list(load(path, on_bad_row="drop")["train"]["text"]) == ["a", "b"]
    write(tmp_path, {"half.jsonl": '{"text": "a\\ud800b"}\n'})
    with pytest.raises(ValueError, match=r"cannot be read as json: .*surrogate"):
        load(tmp_path / "half.jsonl")


def test_odd_texts_survive(tmp_path):
    texts = ["", " ", "\x00", "\U0001f600", "a\u202eb", "x" * 1_000_000]
    assert list(load(write_rows(tmp_path / "train.parquet", text=texts))["train"]["text"]) == texts


@needs_data
@pytest.mark.parametrize(
    ("name", "rows", "label", "first"),
    [
        ("sst2", {"train": 67349, "validation": 872}, ["negative", "positive"], "hide new secretions"),
        ("mrpc", {"train": 3667, "validation": 408}, ["not_equivalent", "equivalent"], "Amrozi accused"),
        ("stsb", {"train": 5749, "validation": 1500}, None, "A plane is taking off."),
        ("banking77", {"train": 10003, "test": 3080}, 77, "I am still waiting on my card?"),
        (
            "emotion",
            {"train": 3257, "validation": 374, "test": 1421},
            ["anger", "joy", "optimism", "sadness"],
            "\u201cWorry",
        ),
    ],
)
def test_real_data(caplog, name, rows, label, first):
    caplog.set_level(logging.INFO, logger="hfdistill")
    splits = load(SHARED / name)
    assert {split: len(found) for split, found in splits.items()} == rows
    assert splits["train"][0]["text"].startswith(first)
    feature = splits["train"].features["label"]
    if label is None:
        assert feature == Value("float32")
    else:
        assert len(feature.names) == label if isinstance(label, int) else feature.names == label
    pair = ["text_pair"] if name in ("mrpc", "stsb") else []
    assert {tuple(found.column_names) for found in splits.values()} == {("text", *pair, "label")}
    assert not messages(caplog)
