import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
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
    assert load(path, on_bad_row="drop")["validation"].to_list() == [{"text": "kept", "label": 1}]
    empty = "1 of 8 rows of split 'validation' have an empty text (first rows [4])"
    assert messages(caplog) == [f"{reason}; {empty}: dropped"]


@pytest.mark.parametrize("kind", ["csv", "xlsx", "parquet", "columns", "pairs"])
def test_empty_texts_are_warned_of_and_left_out_where_that_is_asked(tmp_path, caplog, kind):
    columns = {"text": ["a", "", " \t\u00a0", "b"], "label": ["x", "y", "x", "y"]}
    source = tmp_path / f"train.{kind}"
    if kind == "csv":
        source.write_text('text,label\na,x\n,y\n" \t\u00a0",x\nb,y\n', encoding="utf-8")
    elif kind == "xlsx":
        pd.DataFrame(columns).to_excel(source, index=False)
    elif kind == "parquet":
        write_rows(source, **columns)
    else:
        source = columns if kind == "columns" else [*map(list, zip(*columns.values(), strict=True))]
    assert len(load(source)["train"]) == 4
    (said,) = messages(caplog)
    assert said.startswith("2 of 4 rows of split 'train' have an empty text (first rows [1, 2])")
    assert said.endswith('on_bad_row="drop" leaves them out')
    assert list(load(source, on_bad_row="drop")["train"]["text"]) == ["a", "b"]


def test_a_pair_is_empty_where_both_texts_are(tmp_path, caplog):
    columns = {"sentence1": ["a", "", "c", ""], "sentence2": ["a", "b", "", ""], "label": [0, 1, 0, 1]}
    assert len(load(columns)["train"]) == 4
    assert ["(first rows [3])" in said for said in messages(caplog)] == [True]
    assert list(load(columns, on_bad_row="drop")["train"]["text"]) == ["a", "", "c"]


def test_every_split_of_files_knows_its_name(tmp_path):
    frame = pd.DataFrame({"text": ["a", "b"], "label": ["x", "y"]})
    for name in ("train", "test"):
        frame.to_excel(tmp_path / f"{name}.xlsx", index=False)
    (tmp_path / "json").mkdir()
    for name in ("train", "test"):
        rows = frame.to_json(orient="records", lines=True)
        (tmp_path / "json" / f"{name}.jsonl").write_bytes(rows.encode("utf-16"))
    sources = [tmp_path, tmp_path / "json", {"train": frame, "test": frame}]
    for source in sources:
        assert {name: str(rows.split) for name, rows in load(source).items()} == {
            "train": "train",
            "test": "test",
        }
    assert load(frame)["train"].split is None


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
