"""Files of one split as they are read: what the libraries below change, join or pass over is told."""

import gzip
import json
import zipfile

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from pandas import DataFrame

from hfdistill.data import load
from hfdistill.data.table_files import FileOptions, read_files
from hfdistill.teachers.text.files import answers_from


@pytest.mark.parametrize("source", ["list", "frame", "jsonl", "json", "jsonl.gz", "utf-16"])
@pytest.mark.parametrize("odd", ["01", "1", "true", "null", "x"])
def test_strings_among_numbers_are_never_read_as_numbers(tmp_path, source, odd):
    """`datasets` stores such a column as JSON, whose string "01" came back as 1."""
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": odd}, {"text": "c", "label": 0}]
    path = tmp_path / f"train.{'jsonl' if source == 'utf-16' else source}"
    if source == "json":
        path.write_text(json.dumps(rows))
    elif source not in ("list", "frame"):
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode(
            "utf-16" if source == "utf-16" else "utf-8"
        )
        path.write_bytes(gzip.compress(lines) if source == "jsonl.gz" else lines)
    data = {"list": rows, "frame": DataFrame(rows)}.get(source, path)
    with pytest.raises(
        ValueError, match=rf"Column 'label' holds \['int', 'str'\], such as '{odd}', \d\. Make"
    ):
        load(data)
    texts = load([{"text": value} for value in (odd, 7, "c")], on_bad_row="drop")["train"]["text"][:]
    assert texts == [odd, "c"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("first", "second", "holds"),
    [
        ([1, 0], ["01", "0"], r"\['int', 'str'\]"),
        (["01", "0"], [1, 0], r"\['int', 'str'\]"),
        ([1.5, 0.0], ["2", "3"], r"\['float', 'str'\]"),
        ([True, False], ["true", "x"], r"\['int', 'str'\]"),
        ([True, False], [2, 0], None),
        ([1.5, 2.0], [1, 0], None),
    ],
)
def test_a_later_file_of_a_split_is_not_made_like_the_first(tmp_path, kind, first, second, holds):
    """`datasets` made 1 of "01", and True of 2."""
    for shard, labels in enumerate((first, second)):
        file = tmp_path / f"train-0000{shard}-of-00002.{kind}"
        rows = DataFrame({"text": ["a", "b"], "label": labels})
        rows.to_parquet(file) if kind == "parquet" else rows.to_json(file, orient="records", lines=True)
    if holds is None:
        assert load(tmp_path)["train"]["label"][:] == [float(label) for label in [*first, *second]]
    else:
        with pytest.raises(ValueError, match=f"Column 'label' holds {holds}"):
            load(tmp_path)
    if kind == "parquet" and second != [1, 0]:
        with pytest.raises(
            ValueError, match=r"of split 'train' differ in what 'label' holds.*or leave streaming"
        ):
            load(tmp_path, streaming=True)


@pytest.mark.parametrize("named", [(0, 1), (0,), (1,)])
def test_class_names_stay_where_another_column_differs_in_kind(tmp_path, named):
    """They were lost, and the classes met those of a model by number."""
    for shard, (label, score, kind) in enumerate(((1, 1, "int64"), (0, 0.5, "float64"))):
        of_label = ClassLabel(names=["bad", "good"]) if shard in named else Value("int64")
        features = Features({"text": Value("string"), "label": of_label, "score": Value(kind)})
        rows = Dataset.from_dict({"text": ["a"], "label": [label], "score": [score]}, features=features)
        rows.to_parquet(tmp_path / f"train-0000{shard}-of-00002.parquet")
    data = load(tmp_path, label="label")["train"]
    assert data.features["label"].names == ["bad", "good"]
    assert data["label"][:] == [1, 0]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("first", "second"),
    [([[0, 1]], [[1.0, 0.5]]), ([None], [0.5]), ([2], [0.5]), ([{"a": 1}], [{"a": "x"}])],
)
def test_a_later_file_need_not_fit_the_types_of_the_first(tmp_path, kind, first, second):
    """`datasets` refused them, and it was said that a row lacks a column."""
    for shard, values in enumerate((first, second)):
        file = tmp_path / f"train-0000{shard}-of-00002.{kind}"
        rows = DataFrame({"text": ["a"], "other": values, "label": [shard]})
        rows.to_parquet(file) if kind == "parquet" else rows.to_json(file, orient="records", lines=True)
    read = read_files("train", sorted(tmp_path.iterdir()), FileOptions())
    assert read["text"][:] == ["a", "a"]
    assert read["other"][:] == [*first, *second]


def test_a_later_file_that_is_broken_is_named(tmp_path):
    good, broken = tmp_path / "train-00000-of-00002.parquet", tmp_path / "train-00001-of-00002.parquet"
    DataFrame({"text": ["a"], "label": [1]}).to_parquet(good)
    broken.write_bytes(b"PAR1 no more")
    with pytest.raises(ValueError, match=r"train-00001-of-00002\.parquet cannot be read as parquet"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("first", "later", "holds"),
    [(1, "01", r"\['int', 'str'\]"), ("x", 1, r"\['int', 'str'\]"), (True, 2, None), (1, 1.5, None)],
)
def test_a_late_part_of_a_large_file_is_not_made_like_its_first(tmp_path, first, later, holds):
    """`datasets` reads 10 MB at once: "01" became 1 there, and the class x two."""
    path = tmp_path / "train.jsonl"
    texts = ["a" * (11 << 20), "b", "c"]
    lines = [{"text": text, "label": label} for text, label in zip(texts, (first, first, later), strict=True)]
    path.write_text("\n".join(map(json.dumps, lines)))
    if holds is None:
        assert load(path)["train"]["label"][:] == [1, 1, later]
        return
    with pytest.raises(ValueError, match=f"Column 'label' holds {holds}"):
        load(path)


@pytest.mark.parametrize("content", ["[{row}]", "{row}", '[{{"text": "b", "label": 0}}, {row}]'])
def test_a_key_that_stands_twice_is_refused_in_an_array_too(tmp_path, content):
    """The last of them was taken in silence."""
    path = tmp_path / "train.json"
    path.write_text(content.format(row='{"text": "a", "label": 1, "label": 0}'))
    for read in (load, answers_from):
        with pytest.raises(ValueError, match=r"train\.json.* has the key 'label' twice"):
            read(path)


def test_real_numbers_after_whole_ones_are_read_and_columns_of_no_use_may_differ(tmp_path):
    for shard, (labels, key) in enumerate((([1, 0], 7), ([1.5, 2.0], "x"))):
        rows = DataFrame({"text": ["a", "b"], "label": labels, "id": [key, key]})
        rows.to_parquet(tmp_path / f"train-0000{shard}-of-00002.parquet")
    assert load(tmp_path)["train"].to_dict() == {"text": ["a", "b"] * 2, "label": [1.0, 0.0, 1.5, 2.0]}


def test_strings_among_the_numbers_of_a_list_are_never_read_as_numbers(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "a", "label": [0, "01"]}\n{"text": "b", "label": ["1"]}\n')
    with pytest.raises(ValueError, match=r"Column 'label' holds \['list'\], such as \['1'\]. Make"):
        load(path)
    path.write_text('{"tokens": ["x", "y"], "ner_tags": [0, "01"]}\n{"tokens": ["z"], "ner_tags": ["1"]}\n')
    with pytest.raises(ValueError, match="Found the columns"):
        load(path)
    path.write_text('{"text": "a", "label": 1, "meta": [{"a": 1}, {"a": "01"}]}\n{"text": "b", "label": 0}\n')
    assert load(path)["train"]["label"][:] == [1, 0]


def test_files_of_a_split_that_number_their_classes_in_other_orders_are_refused(tmp_path):
    """Their numbers were joined, and the classes of the second file were the wrong ones."""
    for shard, names in enumerate([["neg", "pos"], ["pos", "neg"]]):
        features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
        rows = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features)
        rows.to_parquet(tmp_path / f"train-0000{shard}-of-00002.parquet")
    for streaming in (False, True):
        with pytest.raises(
            ValueError, match=r"^train-00001-of.* \['pos', 'neg'\], and .*: one number is two"
        ):
            load(tmp_path, streaming=streaming)
    second = tmp_path / "train-00001-of-00002.parquet"
    aligned = Dataset.from_parquet(str(second)).align_labels_with_mapping({"neg": 0, "pos": 1}, "label")
    aligned.to_parquet(second)
    assert load(tmp_path)["train"]["label"][:] == [0, 1, 1, 0]


@pytest.mark.parametrize("kind", ["csv", "tsv", "xlsx"])
def test_a_header_that_stands_twice_is_no_row(tmp_path, kind):
    """As where csv files were written one behind the other: it made names of all class numbers."""
    path = tmp_path / f"train.{kind}"
    if kind == "xlsx":
        pytest.importorskip("openpyxl")
        DataFrame({"text": ["a", "text", "b"], "label": ["1", "label", "0"]}).to_excel(path, index=False)
        with pytest.raises(ValueError, match=r"train\.xlsx, row 2, repeats the header, \['text', 'label'\]"):
            load(path)
        return
    cell = "," if kind == "csv" else "\t"
    path.write_text("\n".join(cell.join(row) for row in (["text", "label"], ["a", "1"]) * 2))
    with pytest.raises(
        ValueError, match=r"line 3 repeats the header: 'text.+label'\. Take such lines out; on_bad_row=.drop"
    ):
        load(path)
    assert load(path, on_bad_row="drop")["train"]["label"][:] == [1, 1]


def test_a_sheet_has_its_header_in_the_first_row_that_is_not_empty_and_each_column_once(tmp_path):
    pytest.importorskip("openpyxl")
    rows = [[None, None], ["text", "label"], ["a", 1], ["b", 0]]
    DataFrame(rows).to_excel(tmp_path / "a.xlsx", index=False, header=False)
    assert load(tmp_path / "a.xlsx")["train"].to_dict() == {"text": ["a", "b"], "label": [1, 0]}
    DataFrame([["text", "label", "label"], ["a", 1, 0]]).to_excel(
        tmp_path / "b.xlsx", index=False, header=False
    )
    with pytest.raises(
        ValueError, match=r"b\.xlsx has columns of the same name: \['text', 'label', 'label'\]"
    ):
        load(tmp_path / "b.xlsx")
    DataFrame([["Reviews", None], ["text", "label"], ["a", 1]]).to_excel(
        tmp_path / "c.xlsx", index=False, header=False
    )
    with pytest.raises(ValueError, match=r"\['Reviews', 'Unnamed: 1'\].*header stands in a later row, take"):
        load(tmp_path / "c.xlsx")


@pytest.mark.parametrize("damage", ["cut", "packed", "xml", "of old"])
def test_a_sheet_that_is_damaged_is_named(tmp_path, damage):
    pytest.importorskip("openpyxl")
    file = tmp_path / "a.xlsx"
    DataFrame({"text": [f"film {i * i}" for i in range(400)], "label": [0, 1] * 200}).to_excel(
        file, index=False
    )
    content = file.read_bytes()
    start = content.find(b"xl/worksheets/sheet1.xml") + 60
    if damage == "xml":
        with zipfile.ZipFile(file) as whole:
            parts = {name: whole.read(name) for name in whole.namelist()}
        with zipfile.ZipFile(file, "w") as broken:
            for name, part in parts.items():
                broken.writestr(name, part[:500] if "sheet1" in name else part)
    else:
        file.write_bytes(
            {
                "cut": content[: len(content) // 2],
                "packed": content[:start] + b"\xff" * 300 + content[start + 300 :],
                "of old": bytes.fromhex("d0cf11e0a1b11ae1") + bytes(1000),  # also of one with a password
            }[damage]
        )
    with pytest.raises(
        ValueError, match=r"^a\.xlsx cannot be read as an Excel sheet \(.*\)\. Check that it is"
    ):
        load(file)
