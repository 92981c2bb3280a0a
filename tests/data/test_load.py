import json
import logging
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from hfdistill.data import HubUnreachable, load, sources

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="the real data sets are not beside the checkout")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def write_rows(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def messages(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("hfdistill")]


FORMATS = {
    "train.csv": 'body,kind\n"a, b",x\nc,y\n',
    "train.tsv": "body\tkind\na, b\tx\nc\ty\n",
    "train.jsonl": '{"body": "a, b", "kind": "x"}\n{"body": "c", "kind": "y"}\n',
    "train.json": '[{"body": "a, b", "kind": "x"}, {"body": "c", "kind": "y"}]',
}


@pytest.mark.parametrize("name", [*FORMATS, "train.parquet"])
def test_every_format_gives_the_same(tmp_path, name):
    path = tmp_path / name
    if name in FORMATS:
        path.write_text(FORMATS[name])
    else:
        write_rows(path, body=["a, b", "c"], kind=["x", "y"])
    splits = load(path, text="body", label="kind")
    assert isinstance(splits, DatasetDict)
    assert list(splits) == ["train"]
    assert splits["train"].features == Features(
        {"text": Value("string"), "label": ClassLabel(names=["x", "y"])}
    )
    assert splits["train"].to_list() == [{"text": "a, b", "label": 0}, {"text": "c", "label": 1}]
    assert load(tmp_path, text="body", label="kind")["train"].to_list() == splits["train"].to_list()


def test_file_names_name_the_splits(tmp_path):
    names = ["test", "dev", "train", "unlabelled-tweets"]
    folder = write(tmp_path, {f"{name}.csv": f"text,label\n{name},a\n" for name in names})
    write(tmp_path, {"dataset_info.json": "{}", ".hidden.csv": "no", "README.md": "no"})
    splits = load(folder)
    assert list(splits) == ["train", "validation", "test", "unlabelled_tweets"]
    assert [rows[0]["text"] for rows in splits.values()] == ["train", "dev", "test", "unlabelled-tweets"]
    assert list(load(folder, split="validation")) == ["validation"]
    with pytest.raises(ValueError, match=r"no split 'eval', found \['train', 'validation'"):
        load(folder, split="eval")


def test_shards_belong_to_one_split_and_stand_in_order(tmp_path):
    (tmp_path / "data").mkdir()
    for i in (1, 0):
        write_rows(tmp_path / "data" / f"train-0000{i}-of-00002.parquet", text=[f"row {i}"])
    write_rows(tmp_path / "data" / "validation-00000-of-00001.parquet", text=["other"])
    splits = load(tmp_path)
    assert list(splits["train"]["text"]) == ["row 0", "row 1"]
    assert list(splits["validation"]["text"]) == ["other"]


@pytest.mark.parametrize(
    "files",
    [("dev.csv", "validation.csv"), ("train.csv", "train.tsv"), ("train.csv", "test.jsonl")],
)
def test_ambiguous_folders_are_refused(tmp_path, files):
    with pytest.raises(ValueError, match="Leave one file"):
        load(write(tmp_path, dict.fromkeys(files, "text,label\na,b\n")))


def test_odd_paths(tmp_path, monkeypatch):
    folder = write(tmp_path / "odd [1] *?", {"train.csv": "text\na\n"})
    assert load(folder / "train.csv")["train"][0] == {"text": "a"}
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("~/odd [1] *?")["train"][0] == {"text": "a"}
    monkeypatch.chdir(folder)
    assert load("train.csv")["train"][0] == {"text": "a"}


@pytest.mark.parametrize("name", ["./none", "~/none", "rows.parquet", "a/b/c", "held/rows", "/no/such"])
def test_a_missing_path_says_what_lies_beside_it(tmp_path, monkeypatch, name):
    write(tmp_path, {"held/train.csv": "text\na\n"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError) as caught:
        load(name)
    assert str(caught.value).startswith(f"There is no file or folder {name!r}; ")
    if not name.startswith("/"):
        assert ("train.csv" if name.startswith("held") else "held") in str(caught.value)


def test_what_is_no_data_is_refused(tmp_path):
    write(tmp_path, {"script.py": "raise SystemExit", "empty/notes.txt": ""})
    for path in (tmp_path / "script.py", tmp_path / "empty"):
        with pytest.raises(ValueError, match="is no data file and no folder of data files"):
            load(path)


def test_the_hub_is_asked_for_what_is_no_path(monkeypatch):
    rows = Dataset.from_dict({"idx": [0], "sentence1": ["a"], "sentence2": ["b"], "label": [1]})
    asked = []
    monkeypatch.setattr(sources, "load_dataset", lambda *args: asked.append(args) or DatasetDict(train=rows))
    assert load("nyu-mll/glue", config="mrpc")["train"][0] == {"text": "a", "text_pair": "b", "label": 1}
    assert load("imdb")["train"].column_names == ["text", "text_pair", "label"]
    assert asked == [("nyu-mll/glue", "mrpc"), ("imdb", None)]


class TransportError(Exception):
    """Stands for the HTTP library's, which is known by its name."""


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("Couldn't reach it\nsecond line"),
        ConnectionRefusedError(),
        TransportError("proxy"),
        FileNotFoundError("Couldn't find it either: LocalEntryNotFoundError: no"),
    ],
)
def test_an_unreachable_hub_is_one_line_with_the_ways_on(monkeypatch, error):
    def refuse(*_):
        raise error

    monkeypatch.setattr(sources, "load_dataset", refuse)
    with pytest.raises(HubUnreachable) as caught:
        load("stanfordnlp/sst2")
    message = str(caught.value)
    assert "\n" not in message
    assert "'stanfordnlp/sst2'" in message
    assert "a local copy" in message
    assert "recipes/quickstart.py" in message
    assert caught.value.__suppress_context__


def test_offline_is_unreachable():
    if os.environ.get("HF_HUB_OFFLINE") != "1":
        pytest.skip("the Hub is allowed here")
    with pytest.raises(HubUnreachable, match="OfflineModeIsEnabled"):
        load("stanfordnlp/sst2")


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (RuntimeError("Dataset scripts are no longer supported, but found x.py"), ValueError, "never run"),
        (
            ValueError("Config name is missing. Please pick one among ['mrpc']"),
            ValueError,
            "'mrpc'.*Pass config=",
        ),
        (ValueError("something else"), ValueError, "^something else$"),
        (FileNotFoundError("doesn't exist on the Hub"), FileNotFoundError, "^doesn't exist on the Hub$"),
        (RuntimeError("other"), RuntimeError, "^other$"),
    ],
)
def test_other_hub_errors(monkeypatch, error, kind, words):
    def refuse(*_):
        raise error

    monkeypatch.setattr(sources, "load_dataset", refuse)
    with pytest.raises(kind, match=words):
        load("some/set")


@pytest.mark.parametrize(
    ("columns", "told", "expected"),
    [
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
            r"Found the columns \['body', 'label'\], of which none.*Say which: text='...'",
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


def write_labels(folder: Path, kind: pa.DataType | None = None, **labels: list[object]) -> Path:
    for split, values in labels.items():
        write_rows(folder / f"{split}.parquet", text=[str(v) for v in values], label=pa.array(values, kind))
    return folder


def test_names_are_sorted_and_the_same_over_all_splits(tmp_path):
    splits = load(write_labels(tmp_path, train=["b", "c", "a"], test=["c"]))
    assert {rows.features["label"].names == ["a", "b", "c"] for rows in splits.values()} == {True}
    assert list(splits["train"]["label"]) == [1, 2, 0]
    assert list(load(tmp_path, split="test")["test"]["label"]) == [2]
    assert list(load(tmp_path, label_names=["c", "b", "a", "d"])["train"]["label"]) == [1, 0, 2]


def test_a_name_that_training_lacks_is_refused(tmp_path):
    write_labels(tmp_path, train=["a", "b"], validation=["a", "new"])
    with pytest.raises(
        ValueError, match=r"Split 'validation' has the label 'new' in row 1, none of the names \['a', 'b'\]"
    ):
        load(tmp_path)


def test_integers(tmp_path):
    folder = write_labels(tmp_path, train=[0, 2, 1], test=[2])
    assert load(folder)["train"].features["label"] == Value("int64")
    named = load(folder, label_names=["x", "y", "z"])
    assert named["test"].features["label"] == ClassLabel(names=["x", "y", "z"])
    assert list(named["train"]["label"]) == [0, 2, 1]
    with pytest.raises(ValueError, match=r"Split 'train' has the label 2 in row 1, a class number is 0 to 1"):
        load(folder, label_names=["x", "y"])
    assert load(write_labels(tmp_path, train=[True, False], test=[True]))["train"].features["label"] == Value(
        "int64"
    )


def test_numbers_that_are_names_are_matched_by_name(tmp_path):
    folder = write_labels(tmp_path, train=[1, 5, 3])
    stars = load(folder, label_names=["1", "2", "3", "4", "5"])["train"]
    assert list(stars["label"]) == [0, 4, 2]
    features = Features({"text": Value("string"), "label": ClassLabel(names=["1", "0"])})
    Dataset.from_dict({"text": ["a"], "label": [0]}, features=features).to_parquet(tmp_path / "train.parquet")
    kept = load(tmp_path)["train"]
    assert (kept[0]["label"], kept.features["label"].names) == (0, ["1", "0"])


def test_class_names_are_kept_and_aligned_by_name(tmp_path):
    for split, names in (("train", ["no", "yes"]), ("test", ["yes", "no"])):
        features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
        rows = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features)
        rows.to_parquet(tmp_path / f"{split}.parquet")
    splits = load(tmp_path)
    assert {tuple(rows.features["label"].names) for rows in splits.values()} == {("no", "yes")}
    assert [list(rows["label"]) for rows in splits.values()] == [[0, 1], [1, 0]]
    assert load(tmp_path, label_names=["yes", "no"])["train"]["label"] == [1, 0]
    with pytest.raises(ValueError, match=r"carry the names \['no', 'yes'\], label_names has \['a', 'b'\]"):
        load(tmp_path, label_names=["a", "b"])


def test_floats_are_a_regression_target(tmp_path):
    folder = write_labels(tmp_path, train=[0.5, -1.0, 3.0], test=[-1.0, -1.0])
    splits = load(folder)
    assert splits["train"].features["label"] == Value("float32")
    assert list(splits["train"]["label"]) == [0.5, -1.0, 3.0]
    assert splits["test"].column_names == ["text"]
    whole = load(write_labels(tmp_path, train=[1.0, 0.0], test=[1.0]), label_names=["a", "b"])
    assert whole["train"].features["label"].names == ["a", "b"]
    assert list(whole["train"]["label"]) == [1, 0]


def test_lists_of_names_become_multi_hot(tmp_path):
    folder = write_labels(tmp_path, train=[["b", "a"], [], ["b"]], test=[["a"]])
    splits = load(folder)
    assert splits["train"].features["label"] == List(Value("float32"), length=2)
    assert list(splits["train"]["label"]) == [[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]
    assert list(splits["test"]["label"]) == [[1.0, 0.0]]
    write_labels(tmp_path, test=[["a"], ["a", "zz"]])
    with pytest.raises(ValueError, match="Split 'test' has the label 'zz' in row 1"):
        load(folder)


def test_lists_of_class_numbers_become_multi_hot(tmp_path):
    features = Features({"text": Value("string"), "labels": List(ClassLabel(names=["joy", "fear", "awe"]))})
    rows = Dataset.from_dict({"text": ["a", "b"], "labels": [[2, 0], [1]]}, features=features)
    rows.to_parquet(tmp_path / "train.parquet")
    assert list(load(tmp_path)["train"]["label"]) == [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]


def test_lists_of_numbers_must_be_multi_hot(tmp_path):
    assert list(load(write_labels(tmp_path, train=[[1, 0], [0, 0]]))["train"]["label"]) == [
        [1.0, 0.0],
        [0.0, 0.0],
    ]
    for rows in ([[1, 0], [1]], [[1, 7], [0, 3]]):
        with pytest.raises(ValueError, match="must be multi-hot"):
            load(write_labels(tmp_path, train=rows))


@pytest.mark.parametrize("hidden", [[-1, -1], [None, None]])
def test_hidden_labels_are_dropped_with_a_warning(tmp_path, caplog, hidden):
    splits = load(write_labels(tmp_path, pa.int64(), train=[1, 0], test=hidden))
    assert splits["train"].column_names == ["text", "label"]
    assert splits["test"].column_names == ["text"]
    assert messages(caplog) == ["split 'test' has hidden labels only: its column 'label' is dropped"]


@pytest.mark.parametrize("on_bad_row", ["raise", "drop"])
def test_hidden_among_real_labels_is_refused(tmp_path, on_bad_row):
    folder = write_labels(tmp_path, train=[1, 0, -1])
    with pytest.raises(ValueError, match=r"Split 'train' has the label -1 in row 2.*hidden labels"):
        load(folder, on_bad_row=on_bad_row)
    with pytest.raises(ValueError, match=r"Split 'train' has the label -1 in row 2.*0 to 1 for the names"):
        load(folder, label_names=["x", "y"])


def test_labels_of_mixed_kinds_are_refused(tmp_path):
    write_labels(tmp_path, train=["a", "b"])
    write_labels(tmp_path, test=[0, 1])
    with pytest.raises(ValueError, match=r"Column 'label' holds \['int', 'str'\]"):
        load(tmp_path)


def test_csv_is_read_as_it_is_written(tmp_path):
    write(tmp_path, {"train.csv": '\ufefftext,label\nnull,1\n2020,0\n007,1\n"",0\n"  ",1\n"two\nlines",0\n'})
    rows = load(tmp_path)["train"]
    assert list(rows["text"]) == ["null", "2020", "007", "", "  ", "two\nlines"]
    assert list(rows["label"]) == [1, 0, 1, 0, 1, 0]
    assert rows.features["label"] == Value("int64")


@pytest.mark.parametrize(
    ("train", "test", "feature"),
    [
        ("1", "0", Value("int64")),
        ("1.5", "2", Value("float32")),
        ("NA", "NA", ClassLabel(names=["NA"])),
        ("-1", "-1", None),
    ],
)
def test_csv_labels_are_numbers_only_if_all_are(tmp_path, train, test, feature):
    write(tmp_path, {"train.csv": f"text,label\na,{train}\n", "test.csv": f"text,label\na,{test}\n"})
    assert load(tmp_path)["train"].features.get("label") == feature


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"text,label\ncaf\xe9,1\n", "train.csv is not UTF-8|utf-8"),
        (b"text,label\na,1\nb,2,3,4\n", "cannot be read as csv: .*Expected 2 fields in line 3, saw 4"),
        (b"", r"train.csv \(split 'train'\) holds no rows"),
        (b"text,label\n", r"train.csv \(split 'train'\) holds no rows"),
        (b"text,text\na,b\n", "columns of the same name"),
    ],
)
def test_broken_csv_is_refused(tmp_path, content, words):
    (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        load(tmp_path)


def test_a_tsv_whose_quotes_are_letters_is_not_misread(tmp_path):
    write(tmp_path, {"train.tsv": 'text\tlabel\na\t1\n"opened here\t0\nand" here\t1\n'})
    with pytest.raises(ValueError, match=r"in row 1 of train.tsv swallowed the lines after it.*opened here"):
        load(tmp_path)
    write(tmp_path, {"train.tsv": 'text\tlabel\n"opened here\t0\n'})
    with pytest.raises(ValueError, match="EOF inside string"):
        load(tmp_path)


def test_an_unnamed_column_of_row_numbers_is_left_out(tmp_path):
    write(tmp_path, {"train.csv": ",text,label\n0,a,1\n1,b,0\n"})
    assert load(tmp_path)["train"].to_list() == [{"text": "a", "label": 1}, {"text": "b", "label": 0}]


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


def test_different_labels_give_different_fingerprints(tmp_path):
    folder = write_labels(tmp_path, train=[0, 1])
    prints = {
        load(folder, label_names=names)["train"]._fingerprint for names in (["a", "b"], ["1", "0"], None)
    }
    assert len(prints) == 3


def test_a_file_that_changes_is_read_again(tmp_path):
    write(tmp_path, {"train.csv": "text\na\n"})
    assert load(tmp_path)["train"][0]["text"] == "a"
    write(tmp_path, {"train.csv": "text\nb\n"})
    assert load(tmp_path)["train"][0]["text"] == "b"


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
