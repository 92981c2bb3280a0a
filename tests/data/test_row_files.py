"""Files of rows, read and written piece by piece."""

import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hfdistill.data.row_files import RowFile, writing
from hfdistill.data.table_files import FileOptions
from hfdistill.data.unlabelled_texts import load_texts
from tests.data.conftest import write


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (".", FileNotFoundError, "is a folder, and rows of one file are read"),
        ("none.csv", FileNotFoundError, "'none.csv' does not exist"),
        ("a.docx", ValueError, "a.docx is not a file of rows: only .*csv"),
    ],
)
def test_what_is_no_file_of_rows_is_refused(tmp_path, name, error, message):
    write(tmp_path, {"a.docx": "x"})
    with pytest.raises(error, match=message):
        RowFile(tmp_path / name, FileOptions())


def test_a_file_without_rows_is_refused(tmp_path):
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "empty.parquet")
    empty = RowFile(tmp_path / "empty.parquet", FileOptions())
    for ask in (empty.count, empty.first):
        with pytest.raises(ValueError, match=r"empty.parquet holds no rows\. Check that it was written"):
            ask()


def test_a_row_with_a_column_that_the_header_lacks_is_refused_and_no_file_is_left(tmp_path):
    new = {"prediction": pa.array(["y"])}
    first = [{"text": "a", "note": None}]

    def written(second):
        with writing(tmp_path / "out.csv") as writer:
            writer.write(first, new)
            writer.write(second, new)

    with pytest.raises(ValueError, match=r"A row has \['more'\].*Write a .jsonl file"):
        written([{"text": "b", "more": 1}])
    assert list(tmp_path.iterdir()) == []
    written([{"text": "b"}])
    assert (tmp_path / "out.csv").read_text() == "text,note,prediction\na,,y\nb,,y\n"


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_later_row_that_has_a_new_column_itself_is_refused(tmp_path, kind):
    new = {"prediction": pa.array(["y"])}

    def written():
        with writing(tmp_path / f"out.{kind}") as writer:
            writer.write([{"text": "a"}], new)
            writer.write([{"text": "b", "prediction": "the user's own"}], new)

    with pytest.raises(ValueError, match="prediction"):
        written()
    assert list(tmp_path.iterdir()) == []


def test_a_parquet_file_that_breaks_on_the_way_is_refused_by_its_name(tmp_path):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a warm film", "dull"] * 50}), file)
    content = file.read_bytes()
    file.write_bytes(content[:4] + b"\xff" * 36 + content[40:])  # the first page, not what stands at the end
    for read in (lambda: list(RowFile(file, FileOptions())), lambda: load_texts(file)):
        with pytest.raises(
            ValueError, match=r"(?s)a\.parquet cannot be read as parquet \(.*\)\. Check that it"
        ):
            read()


def test_json_has_null_for_numbers_that_are_none(tmp_path):
    """NaN is no JSON: what is written is read by other programs, too."""
    pq.write_table(
        pa.table({"text": ["a", "b"], "x": [math.nan, 1.5], "y": [[1.0, -math.inf], []]}),
        tmp_path / "a.parquet",
    )
    with writing(tmp_path / "a.jsonl") as writer:
        for rows in RowFile(tmp_path / "a.parquet", FileOptions()):
            writer.write(rows, {"p": pa.array([0.25, math.nan])})
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert lines == [
        '{"text": "a", "x": null, "y": [1.0, null], "p": 0.25}',
        '{"text": "b", "x": 1.5, "y": [], "p": null}',
    ]
