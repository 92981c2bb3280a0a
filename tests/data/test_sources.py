import gzip
import os
import sys

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
        with pytest.raises(ValueError, match="is neither a data file nor a folder of data files"):
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
    ("name", "content", "words"),
    [
        ("train.csv", b"", "train.csv is empty. Save it with a header"),
        ("train.csv", b"\n \n", "train.csv is empty"),
        ("train.csv", b"text,label\n", r"train.csv \(split 'train'\) holds no rows"),
        ("train.csv", b"text,text\na,b\n", "columns of the same name"),
        ("train.csv.gz", b"text,label\n", "cannot be unpacked"),
        ("train.jsonl", b"", r"train.jsonl \(split 'train'\) holds no rows"),
        ("train.json", b"[]", r"train.json \(split 'train'\) holds no rows"),
        ("train.parquet", b"PAR", r"cannot be read as parquet"),
    ],
)
def test_a_file_without_rows_is_refused(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        load(tmp_path)


def test_packed_files_are_read(tmp_path):
    for name, content in FORMATS.items():
        with gzip.open(tmp_path / f"{name}.gz", "wt") as file:
            file.write(content)
        splits = load(tmp_path / f"{name}.gz", text="body", label="kind")
        assert splits["train"].to_list() == [{"text": "a, b", "label": 0}, {"text": "c", "label": 1}]


def test_files_by_split(tmp_path):
    write(tmp_path, {"a.csv": "text,label\na,x\nb,y\n", "b.csv": "text,label\nc,x\n"})
    splits = load({"train": tmp_path / "a.csv", "test": str(tmp_path / "b.csv")})
    assert [rows.to_list() for rows in splits.values()] == [
        [{"text": "a", "label": 0}, {"text": "b", "label": 1}],
        [{"text": "c", "label": 0}],
    ]
    with pytest.raises(FileNotFoundError, match=r"holds a.csv, b.csv. Did you mean '.*/b.csv'"):
        load({"train": tmp_path / "a.csv", "test": tmp_path / "bb.csv"})


def test_near_names_are_offered(tmp_path, monkeypatch):
    write(tmp_path, {"reviews/train.csv": "text,label\na,x\n", "reviews/dev.csv": "text,label\na,x\n"})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"Did you mean 'reviews/train.csv'"):
        load("reviews/trian.csv")
    with pytest.raises((HubUnreachable, FileNotFoundError), match=r"did you mean './reviews'"):
        load("reveiws")
    with pytest.raises(ValueError, match=r"no split 'val', found .*Did you mean split='validation'"):
        load("reviews", split="val")
    monkeypatch.chdir(tmp_path / "reviews")
    assert list(load(".")) == ["train", "validation"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rows.txt", "is read by hfdistill.load_texts"),
        ("rows.xls", "Save the sheet as .xlsx or .csv"),
        ("rows.ods", "Save the sheet as .xlsx or .csv"),
        ("rows.zip", "Unpack it first"),
        ("rows.tar.gz", "Unpack it first"),
        ("rows.py", "Code is never run"),
        ("rows.arrow", r"Pass datasets.Dataset.from_file\(path\)"),
        ("rows.feather", r"Pass pandas.read_feather\(path\)"),
        ("rows.pkl", "Pickles are never read: pass the DataFrame"),
    ],
)
def test_other_kinds_of_files_say_what_to_pass(tmp_path, name, words):
    write(tmp_path, {name: "x"})
    with pytest.raises(ValueError, match=f"is neither a data file.*{words}"):
        load(tmp_path / name)


@pytest.mark.parametrize("name", ["texts/a.txt", "texts/good/a.txt"])
def test_a_folder_of_texts_says_where_they_belong(tmp_path, name):
    write(tmp_path, {name: "x"})
    with pytest.raises(
        ValueError, match=r"data: unlabelled: .*--unlabelled .*write a csv: the line text,label"
    ):
        load(tmp_path / "texts")


def test_a_saved_data_set_names_the_function_that_reads_it(tmp_path):
    Dataset.from_dict({"text": ["a"], "label": [0]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"pass datasets.load_from_disk\('.*saved'\)"):
        load(tmp_path / "saved")


def test_excel_sheets_are_read_as_they_are_written(tmp_path):
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl reads Excel sheets")
    book = openpyxl.Workbook()
    for row in (["text", "label"], ["null", 1], [2020, 0], ["a\nb", None]):
        book.active.append(row)
    book.save(tmp_path / "train.xlsx")
    rows = load(tmp_path, on_bad_row="drop")["train"]
    assert rows.to_list() == [{"text": "null", "label": 1}, {"text": "2020", "label": 0}]
    book.create_sheet("more").append(["text"])
    book["more"].append(["x"])
    book.save(tmp_path / "train.xlsx")
    with pytest.raises(ValueError, match=r"several sheets with rows: \['Sheet', 'more'\]"):
        load(tmp_path)


def test_excel_without_openpyxl_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    write(tmp_path, {"train.xlsx": "x"})
    with pytest.raises(ValueError, match="Type pip install openpyxl"):
        load(tmp_path)


def test_an_unnamed_column_of_row_numbers_is_left_out(tmp_path):
    write(tmp_path, {"train.csv": ",text,label\n0,a,1\n1,b,0\n"})
    assert load(tmp_path)["train"].to_list() == [{"text": "a", "label": 1}, {"text": "b", "label": 0}]


def test_a_file_that_changes_is_read_again(tmp_path):
    write(tmp_path, {"train.csv": "text\na\n"})
    assert load(tmp_path)["train"][0]["text"] == "a"
    write(tmp_path, {"train.csv": "text\nb\n"})
    assert load(tmp_path)["train"][0]["text"] == "b"


def test_splits_by_path_are_files_of_one_kind(tmp_path):
    write(tmp_path, {"a.csv": "text,label\na,x\n", "b.jsonl": '{"text": "c", "label": "x"}\n', "c/d.csv": ""})
    with pytest.raises(ValueError, match=r"files of the splits are of several kinds.*Make them one kind"):
        load({"train": tmp_path / "a.csv", "test": tmp_path / "b.jsonl"})
    with pytest.raises(FileNotFoundError, match=r"There is no file .*c', the path of split 'test'"):
        load({"train": tmp_path / "a.csv", "test": tmp_path / "c"})
