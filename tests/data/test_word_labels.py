"""Words with a label each: found, numbered, aligned with tokens."""

import logging

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from hfdistill.data import encode, load
from hfdistill.data.word_labels import split_of_words
from hfdistill.network.task import UNKNOWN
from tests.conftest import make_tokenizer
from tests.word_material import TAGS, make_named_words, make_words

ROWS = {"tokens": [["good", "film"], ["dull"]], "ner_tags": [["B-X", "O"], ["B-Y"]]}


def written(folder, **columns):
    Dataset.from_dict(columns).to_json(folder / "train.jsonl")
    return folder / "train.jsonl"


@pytest.mark.parametrize(
    ("columns", "told", "label"),
    [
        ({"tokens": "tokens", "ner_tags": "ner_tags"}, {}, ["B-X", "O"]),
        ({"words": "tokens", "labels": "ner_tags", "id": "id"}, {}, ["B-X", "O"]),
        ({"tokens": "tokens", "pos_tags": "pos", "ner_tags": "ner_tags"}, {}, ["B-X", "O"]),
        (
            {"tokens": "tokens", "pos_tags": "pos", "ner_tags": "ner_tags"},
            {"label": "pos_tags"},
            ["J", "N"],
        ),
        ({"parts": "tokens", "kinds": "ner_tags"}, {"text": "parts", "label": "kinds"}, ["B-X", "O"]),
    ],
)
def test_columns_are_found(tmp_path, columns, told, label):
    values = {**ROWS, "id": [1, 2], "pos": [["J", "N"], ["J"]]}
    path = written(tmp_path, **{name: values[source] for name, source in columns.items()})
    rows = load(path, **told)["train"]
    assert rows.column_names == ["tokens", "label"]
    assert rows[0]["tokens"] == ["good", "film"]
    names = rows.features["label"].feature.names
    assert names == sorted(names)
    assert [names[i] for i in rows[0]["label"]] == label


def test_names_of_the_data_are_kept_over_splits(tmp_path):
    make_named_words(6).to_parquet(tmp_path / "train.parquet")
    make_named_words(4).to_parquet(tmp_path / "validation.parquet")
    data = load(tmp_path)
    assert type(data) is DatasetDict
    for split in data.values():
        assert split.features["label"].feature.names == TAGS
    assert data["train"]["label"][:] == make_named_words(6)["ner_tags"][:]
    assert list(load(tmp_path, split="validation")) == ["validation"]


def test_numbers_take_names_or_stay_numbers(tmp_path):
    path = written(tmp_path, tokens=ROWS["tokens"], tags=[[1, 0], [1]])
    assert load(path)["train"].features["label"] == List(Value("int64"))
    assert load(path, label_names=["O", "B-X"])["train"].features["label"].feature.names == ["O", "B-X"]


def test_words_beside_a_label_a_text_are_not_the_data(tmp_path):
    path = written(tmp_path, text=["good film", "dull"], tokens=ROWS["tokens"], label=["yes", "no"])
    assert load(path)["train"].column_names == ["text", "label"]


def test_words_without_labels_are_unlabelled_text(tmp_path):
    rows = load(written(tmp_path, tokens=ROWS["tokens"]), text="tokens")["train"]
    assert rows.column_names == ["tokens"]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (
            {"ner_tags": [["B-X"], ["B-Y"]]},
            {},
            r"1 of 2 rows.*not as many.*first rows \[0\]",
        ),
        ({"ner_tags": [["B-X", "O"], None]}, {}, r"1 of 2 rows.*first rows \[1\]"),
        ({}, {"label_names": ["O", "B-X"]}, r"row 1: 'B-Y' is not a label of \['O', 'B-X'\]"),
        ({"ner_tags": [[0, 5], [0]]}, {"label_names": ["O", "B-X"]}, r"row 0: 5 is not a label of"),
        ({"ner_tags": [[0, -1], [0]]}, {}, r"row 0: -1 is not a label of numbers from 0"),
        ({}, {"text": "tokens", "text_pair": "ner_tags"}, "come without a second text"),
    ],
)
def test_bad_rows_are_refused(tmp_path, columns, options, message):
    with pytest.raises(ValueError, match=message):
        load(written(tmp_path, **{**ROWS, **columns}), **options)


def test_bad_rows_are_dropped_when_asked(tmp_path, caplog):
    path = written(tmp_path, **{**ROWS, "ner_tags": [["B-X"], ["B-Y"]]})
    with caplog.at_level(logging.WARNING, logger="hfdistill"):
        rows = load(path, on_bad_row="drop")["train"]
    assert rows["tokens"][:] == [["dull"]]
    assert "1 of 2 rows" in caplog.text


def test_a_word_is_labelled_on_its_first_token():
    data = Dataset.from_dict(
        {"tokens": [["good", "film, film", "end"], ["a", "b"], [], ["a"]],
         "label": [[2, 1, 0], [-100, 3], [], None]}
    )  # fmt: skip
    encoded = encode(data, make_tokenizer())
    assert encoded.column_names == ["input_ids", "token_type_ids", "attention_mask", "labels"]
    assert encoded["labels"][:] == [
        [-100, 2, 1, -100, -100, 0, -100],
        [-100, UNKNOWN, 3, -100],
        [-100, -100],
        [-100, UNKNOWN, -100],
    ]
    joined = make_tokenizer()("good film, film end")["input_ids"]
    assert encoded[0]["input_ids"] == joined


def test_words_without_labels_are_marked_all_the_same():
    encoded = encode(Dataset.from_dict({"tokens": [["good", "film"]]}), make_tokenizer())
    assert encoded["labels"][:] == [[-100, UNKNOWN, UNKNOWN, -100]]


def test_long_rows_are_cut_and_counted(caplog):
    with caplog.at_level(logging.WARNING, logger="hfdistill"):
        encoded = encode(make_words(8), make_tokenizer(), max_length=6)
    assert all(len(row["input_ids"]) == len(row["labels"]) <= 6 for row in encoded)
    whole = encode(make_words(8), make_tokenizer())
    cut = sum(len(row["input_ids"]) > 6 for row in whole)
    assert f"{cut} of 8 rows are longer than 6 tokens and were cut" in caplog.text
    for short, long in zip(encoded["labels"], whole["labels"], strict=True):
        assert short[:5] == long[:5]


def test_a_stream_gives_the_same_rows():
    stream = make_words(6).to_iterable_dataset()
    assert list(encode(stream, make_tokenizer())) == list(encode(make_words(6), make_tokenizer()))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"tokens": [["a", None]], "label": [[0, 1]]}, "Row 0 of column 'tokens' is not a list of words"),
        ({"tokens": [["a"], ["b"]], "label": [[0], [0, 1]]}, "Row 1 has 1 words and 2 labels"),
        ({"tokens": [["a"]], "label": [["B-X"]]}, "Row 0 of column 'label' names its labels"),
        ({"tokens": ["a b"], "label": [[0]]}, "Row 0 of column 'tokens' is not a list of words"),
    ],
)
def test_what_cannot_be_aligned_is_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        encode(Dataset.from_dict(rows), make_tokenizer())


def test_named_labels_are_read(tokenizer):
    features = Features({"tokens": List(Value("string")), "label": List(ClassLabel(names=["O", "B"]))})
    data = Dataset.from_dict({"tokens": [["a", "b"]], "label": [[0, 1]]}, features=features)
    assert encode(data, tokenizer)["labels"][:] == [[-100, 0, 1, -100]]


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (
            (["O", "B-X"], ["O", "B-X"]),
            {"label_names": ["a", "b"]},
            "carry the names .* Leave label_names out",
        ),
        ((["O", "B-X"], ["B-X", "O"]), {}, "The splits name the classes of 'ner_tags' differently"),
    ],
)
def test_names_that_contradict_those_of_the_data_are_refused(names, options, message):
    splits = {}
    for split, own in zip(("train", "test"), names, strict=True):
        features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=own))})
        splits[split] = Dataset.from_dict({"tokens": [["a"]], "ner_tags": [[0]]}, features=features)
    with pytest.raises(ValueError, match=message):
        load(DatasetDict(splits), **options)


def test_a_split_without_the_words_is_named():
    rows = Dataset.from_dict({"text": ["a"]})
    with pytest.raises(ValueError, match=r"Split 'test' has no column 'tokens', found \['text'\]"):
        split_of_words("test", rows, "tokens", None, None, "raise")
