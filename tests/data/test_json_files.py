import gzip
import json

import pytest
from datasets import Value

from hfdistill.data import load
from hfdistill.data.json_files import json_rows

GOOD = '{"text": "a", "label": "x"}\n'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD + '{"text": "b", "label":\n' + GOOD, "line 2, is not JSON (Expecting value at letter 24)"),
        (GOOD.replace("}", "},"), "line 1, is not JSON"),
        (GOOD + '["b", "y"]\n', 'line 2, holds no object: \'["b", "y"]\''),
        (GOOD + '{"text": "b", "text": "c"}\n', "line 2, has the key 'text' twice"),
        ('"a"\n"b"\n', "element 0, is 'a' and not an object"),
        ('["a", "b"]', "element 0, is 'a' and not an object"),
    ],
)
def test_a_broken_line_is_named(tmp_path, content, words):
    (tmp_path / "train.jsonl").write_text(content)
    if content.startswith("["):  # datasets reads a list of strings as texts
        with pytest.raises(ValueError, match=r"is not JSON|not an object"):
            list(json_rows(tmp_path / "train.jsonl"))
        return
    with pytest.raises(ValueError, match=r"train.jsonl, ") as caught:
        load(tmp_path)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["train.json", "train.jsonl"])
@pytest.mark.parametrize("start", ["", '{"text": '])
def test_what_is_nested_too_deeply_is_refused(tmp_path, name, start):
    (tmp_path / name).write_text(start + "[" * 200_000)
    with pytest.raises(ValueError, match=r"deeper than can be read\. Write an array of objects"):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"text": "a", "label": "x"}, {"label": "y"}], r"1 of 2 rows .*'text' \(first rows \[1\]\)"),
        ([{"text": "a"}, {"text": "a"}, {"text": "c", "label": "y"}], r"2 of 3 rows .*'label' .*\[0, 1\]"),
        ([{"text": {"body": "a"}, "label": "x"}], r"it holds objects with the keys \['body'\]"),
        ([{"text": ["a", "b"], "label": ["x", "y"]}], "it holds lists"),
        ([{"text": [{"body": "a"}], "label": "x"}], r"it holds lists of objects with the keys \['body'\]"),
        ([{"data": {"text": "a"}, "label": "x"}], r"Found the columns \['data', 'label'\]"),
        ([{"text": "a", "label": 1}, {"text": "b", "label": "x"}], r"holds \['int', 'str'\]"),
    ],
)
def test_missing_keys_and_nested_values_are_refused(tmp_path, rows, words):
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=words):
        load(tmp_path)


def test_strings_stay_strings(tmp_path):
    rows = [
        {"text": "2020-01-01", "label": "1"},
        {"text": "007", "label": "0"},
        {"text": "null", "label": "0"},
    ]
    (tmp_path / "train.jsonl").write_text("\ufeff" + "\r\n".join(json.dumps(row) for row in rows))
    read = load(tmp_path)["train"]
    assert read.features["text"] == Value("string")
    assert list(read["text"]) == ["2020-01-01", "007", "null"]
    assert read.features["label"].names == ["0", "1"]


def test_dates_are_texts_and_names(tmp_path):
    rows = [{"text": "2020-01-01", "label": "2020-01-01"}, {"text": "2020-01-02", "label": "2021-01-01"}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = load(tmp_path)["train"]
    assert list(read["text"]) == ["2020-01-01", "2020-01-02"]
    assert read.features["label"].names == ["2020-01-01", "2021-01-01"]


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_other_encodings_are_read_when_they_are_known(tmp_path, encoding):
    (tmp_path / "train.jsonl").write_bytes('{"text": "caf\u00e9", "label": "x"}\n'.encode(encoding))
    if encoding == "cp1252":
        with pytest.raises(ValueError, match=r"train.jsonl, line 1, is not UTF-8.*encoding='cp1252'"):
            load(tmp_path)
    told = {"encoding": "cp1252"} if encoding == "cp1252" else {}
    assert list(load(tmp_path, **told)["train"]["text"]) == ["caf\u00e9"]


@pytest.mark.parametrize(
    "content",
    [
        json.dumps([{"text": "a"}, {"text": "b"}], indent=1),
        '{\n "text": "a"\n}\n{\n "text": "b"\n}\n',
        '{"text": "a"}\n\n{"text": "b"}',
    ],
)
def test_arrays_and_objects_over_several_lines(tmp_path, content):
    (tmp_path / "train.json").write_text(content)
    assert list(json_rows(tmp_path / "train.json")) == [{"text": "a"}, {"text": "b"}]
    assert list(load(tmp_path)["train"]["text"]) == ["a", "b"]


@pytest.mark.parametrize("streaming", [False, True])
def test_an_array_that_was_packed_in_part_is_named(tmp_path, streaming):
    packed = gzip.compress(json.dumps([{"text": str(i * 7919), "label": i} for i in range(20)]).encode())
    (tmp_path / "train.json.gz").write_bytes(packed[: len(packed) * 2 // 3])
    with pytest.raises(ValueError, match=r"^train\.json\.gz cannot be unpacked \(.*\)\. Pack it again"):
        load(tmp_path / "train.json.gz", streaming=streaming)
