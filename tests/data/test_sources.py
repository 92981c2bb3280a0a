import os

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from hfdistill.data import load, sources
from hfdistill.files.hub import HubUnreachable
from tests.data.conftest import write, write_rows

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


def test_csv_is_read_as_it_is_written(tmp_path):
    write(tmp_path, {"train.csv": '\ufefftext,label\nnull,1\n2020,0\n007,1\n"",0\n"  ",1\n"two\nlines",0\n'})
    rows = load(tmp_path)["train"]
    assert list(rows["text"]) == ["null", "2020", "007", "", "  ", "two\nlines"]
    assert list(rows["label"]) == [1, 0, 1, 0, 1, 0]
    assert rows.features["label"] == Value("int64")


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


def test_a_file_that_changes_is_read_again(tmp_path):
    write(tmp_path, {"train.csv": "text\na\n"})
    assert load(tmp_path)["train"][0]["text"] == "a"
    write(tmp_path, {"train.csv": "text\nb\n"})
    assert load(tmp_path)["train"][0]["text"] == "b"
