"""load(..., streaming=True) gives the rows that load gives, and refuses what only all rows together show."""

import json
import re
from itertools import islice

import pytest
from datasets import ClassLabel, Dataset, IterableDataset, IterableDatasetDict

from hfdistill.data import load, streams
from hfdistill.data.label_columns import multi_hot_names
from tests.data.conftest import messages, write, write_rows

ROWS = 25


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch):
    monkeypatch.setattr(streams, "ROWS_AT_ONCE", 10)


def columns(**more):
    return {"sentence": [f"row {i} of films" for i in range(ROWS)], **more}


def parquet(folder, **more):
    return write_rows(folder / "train.parquet", **columns(**more))


def csv(folder, **more):
    table = columns(**more)
    lines = [";".join(table), *(";".join(map(str, row)) for row in zip(*table.values(), strict=True))]
    write(folder, {"train.csv": "\n".join(lines) + "\n"})
    return folder / "train.csv"


def jsonl(folder, **more):
    table = columns(**more)
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    write(folder, {"train.jsonl": "\n".join(map(json.dumps, rows)) + "\n"})
    return folder / "train.jsonl"


NUMBERS = [i % 3 for i in range(ROWS)]
NAMES = [("bad", "good", "fair")[i] for i in NUMBERS]


@pytest.mark.parametrize("file", [parquet, csv, jsonl])
@pytest.mark.parametrize(
    ("labels", "options"),
    [
        ({"label": NUMBERS}, {}),
        ({"label": NAMES}, {"label_names": ["bad", "fair", "good"]}),
        ({"label": [i / 4 for i in range(ROWS)]}, {}),
        ({"label": [1, 1.5] + [3] * (ROWS - 2)}, {}),  # real values, whole ones alone in some parts
        (
            {"sad": [i % 2 for i in range(ROWS)], "new": [i // 13 for i in range(ROWS)]},
            {"label": ["sad", "new"]},
        ),
        ({}, {}),
    ],
    ids=["numbers", "names", "values", "some whole", "several", "none"],
)
def test_a_stream_has_the_rows_of_the_file(tmp_path, file, labels, options):
    path = file(tmp_path, **labels)
    whole, stream = load(path, **options), load(path, streaming=True, **options)
    assert isinstance(stream, IterableDatasetDict)
    assert stream["train"].features == whole["train"].features
    assert list(stream["train"]) == list(whole["train"])
    assert multi_hot_names(stream["train"]) == multi_hot_names(whole["train"])


def test_words_lists_of_labels_and_pairs(tmp_path):
    words = [["a", "film"]] * ROWS
    tags = write_rows(tmp_path / "tags.parquet", tokens=words, ner_tags=[[i % 3, 0] for i in range(ROWS)])
    several = write_rows(
        tmp_path / "several.parquet", text=["a"] * ROWS, label=[["b"], ["a", "b"], []] * 8 + [[]]
    )
    pair = write_rows(tmp_path / "pair.parquet", premise=["a"] * ROWS, hypothesis=["b"] * ROWS, label=NUMBERS)
    for path, names in ((tags, ["O", "B", "I"]), (several, ["a", "b"]), (pair, None)):
        whole, stream = load(path, label_names=names), load(path, label_names=names, streaming=True)
        assert stream["train"].features == whole["train"].features
        assert list(stream["train"]) == list(whole["train"])


def test_rows_in_memory_and_streams_of_the_users_own():
    data = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}).cast_column(
        "label", ClassLabel(names=["x", "y"])
    )
    nameless = IterableDataset.from_generator(lambda: iter(list(data)))
    for source in (
        data,
        data.to_iterable_dataset(),
        IterableDatasetDict({"train": data.to_iterable_dataset()}),
    ):
        stream = load(source, streaming=True)["train"]
        assert list(stream) == list(data)
        assert stream.features["label"].names == ["x", "y"]
    assert list(load(nameless, streaming=True)["train"]) == list(data)
    with pytest.raises(ValueError, match=r"Type load\(data, streaming=True\)"):
        load(nameless)


@pytest.mark.parametrize("file", [parquet, csv, jsonl])
@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (NUMBERS, None),
        (NUMBERS, ["bad", "good", "fair"]),
        (NAMES, ["bad", "fair", "good"]),
        ([number + 1 for number in NUMBERS], ["1", "2", "3"]),
    ],
    ids=["numbers", "named numbers", "names", "spelled"],
)
def test_rows_that_nobody_labelled_are_marked_in_a_stream_as_in_a_file(tmp_path, capfd, file, labels, names):
    """-100 stands in the first rows, in a later part, and alone in the last one."""
    kind = type(labels[0])
    path = file(tmp_path, label=[kind(-100) if i in (1, 12) or i > 19 else v for i, v in enumerate(labels)])
    read, stream = (load(path, label_names=names, streaming=s)["train"] for s in (False, True))
    assert [i for i, row in enumerate(read) if row["label"] == -100] == [1, 12, *range(20, ROWS)]
    assert list(stream) == list(read)
    assert stream.features == read.features
    read.to_parquet(tmp_path / "again.parquet")  # which declares its classes
    declared = load(tmp_path / "again.parquet", streaming=True)["train"]
    assert list(declared) == list(read)
    assert "Casting" not in capfd.readouterr().err  # no copy of all columns is made


def test_several_files_a_split_and_a_shuffled_pass(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    for number in range(3):
        write_rows(
            tmp_path / f"train-{number}-of-3.parquet",
            text=[f"{number} {i}" for i in range(12)],
            label=[0] * 12,
        )
    stream = load(tmp_path, streaming=True, split="train")["train"]
    assert stream.num_shards == 3
    texts = [row["text"] for row in stream]
    shuffled = stream.shuffle(seed=1, buffer_size=5)
    first = [row["text"] for row in shuffled]
    shuffled.set_epoch(1)
    assert sorted(first) == sorted(texts) == sorted(row["text"] for row in shuffled)
    assert first != texts
    assert first != [row["text"] for row in shuffled]


# Refused


def test_names_that_only_all_rows_know(tmp_path):
    with pytest.raises(
        ValueError, match=re.escape("Type label_names=['bad', 'fair', 'good'], which the first 10")
    ):
        load(csv(tmp_path, label=NAMES), streaming=True)
    lines = [{"text": f"text {i}", "tags": [["b"], [], ["a", "b"]][i % 3]} for i in range(6)]
    (tmp_path / "several.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match=re.escape("Type label_names=['a', 'b'], which the first 6")):
        load(tmp_path / "several.jsonl", label="tags", streaming=True)
    named = load(tmp_path / "several.jsonl", label="tags", streaming=True, label_names=["a", "b", "c"])
    assert [row["label"] for row in named["train"]][:3] == [[0.0, 1.0, 0.0], [0.0] * 3, [1.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([*NUMBERS[:-1], "many"], {}, "the classes .*first rows class numbers.*Row 0 is row 20"),
        ([*NUMBERS[:-1], -1], {}, "label -1 in row 4.*Row 0 is row 20 of the stream"),
        ([*NUMBERS[:-1], 1.5], {}, "real values, and the first rows class numbers"),
        ([*NAMES[:-1], "ugly"], {"label_names": ["bad", "fair", "good"]}, "'ugly' in row 4"),
        ([*NUMBERS[:-1], ""], {}, "1 of 5 rows of split 'train' have no value in 'label'"),
    ],
    ids=["name", "hidden", "value", "unknown", "missing"],
)
def test_a_later_row_that_does_not_fit(tmp_path, labels, options, message):
    stream = load(csv(tmp_path, label=labels), streaming=True, **options)["train"]
    rows = iter(stream)
    assert len(list(islice(rows, 20))) == 20
    with pytest.raises(ValueError, match=message):
        next(rows)


def test_bad_rows_are_left_out_where_that_is_asked_for(tmp_path, caplog):
    path = parquet(tmp_path, label=NUMBERS[:20] + [None] * 5)
    assert len(list(load(path, streaming=True, on_bad_row="drop")["train"])) == 20
    assert any("5 of 5 rows" in message and "dropped" in message for message in messages(caplog))


def test_a_line_that_is_no_row_is_met_on_the_way(tmp_path, caplog):
    lines = ["text,label", *[f"a film,{i}" for i in NUMBERS], "one,too,many", "two,too,many"]
    write(tmp_path, {"train.csv": "\n".join(lines) + "\n"})
    with pytest.raises(ValueError, match=f"line {ROWS + 2} "):
        list(load(tmp_path / "train.csv", streaming=True)["train"])
    dropped = load(tmp_path / "train.csv", streaming=True, on_bad_row="drop")["train"]
    assert len(list(dropped)) == ROWS
    (message,) = {each for each in messages(caplog) if "too,many" in each}
    assert f"line {ROWS + 2} " in message
    assert message.endswith(": dropped, as such lines after it are")


def test_what_can_only_be_read_whole(tmp_path):
    write(tmp_path, {"train.json": '\n [{"text": "a", "label": 0}]'})
    with pytest.raises(ValueError, match=r"train.json is one JSON array.*\.jsonl"):
        load(tmp_path / "train.json", streaming=True)
    write(tmp_path, {"sheet.xlsx": ""})
    with pytest.raises(ValueError, match="is an Excel sheet"):
        load(tmp_path / "sheet.xlsx", streaming=True)
    write(tmp_path, {"none.jsonl": ""})
    with pytest.raises(ValueError, match="holds no rows"):
        load(tmp_path / "none.jsonl", streaming=True)


def test_nothing_is_written(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(cache))
    path = csv(tmp_path, label=NUMBERS)
    assert len(list(load(path, streaming=True)["train"])) == ROWS
    assert not [file for file in cache.rglob("*") if file.is_file() and file.suffix != ".lock"]


@pytest.mark.parametrize(
    ("file", "labels", "names"),
    [
        (csv, [*([0, 1, 2] * 8), 1], ["1", "2", "3"]),
        (jsonl, [*([0, 1, 2] * 8), 1], ["1", "2", "3"]),
        (csv, [*([1, 2, 3] * 8), 1], ["1", "2", "3"]),
        (csv, [*(["01", "two"] * 12), "01"], ["01", "two"]),
        (jsonl, [*([["x"], ["y", "x"]] * 12), []], ["x", "y"]),
    ],
    ids=["numbers", "json numbers", "spelled", "names", "no class"],
)
def test_few_rows_are_read_as_all_rows_are(tmp_path, file, labels, names):
    """The last part has no 0, no name that is not a number, or no class: alone it would read otherwise."""
    path = file(tmp_path, label=labels)
    read, stream = (load(path, label_names=names, streaming=s)["train"] for s in (False, True))
    assert list(stream) == list(read)
    assert stream.features == read.features


def test_labels_within_objects_are_read_in_a_stream_as_in_a_file(tmp_path):
    rows = [{"text": f"row {i}", "meta": {"label": i % 2}} for i in range(ROWS + 5)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"label": "meta.label", "label_names": ["bad", "good"]}
    read, stream = (load(tmp_path, **options, streaming=s)["train"] for s in (False, True))
    assert [row["label"] for row in stream] == read["label"][:] == [i % 2 for i in range(ROWS + 5)]


def test_classes_that_the_data_declares_may_stand_in_another_order():
    rows = Dataset.from_dict({"text": [f"row {i}" for i in range(ROWS)], "label": NUMBERS})
    rows = rows.cast_column("label", ClassLabel(names=["1", "2", "3"]))
    read, stream = (load(rows, label_names=["3", "2", "1"], streaming=s)["train"] for s in (False, True))
    assert [row["label"] for row in stream] == read["label"][:] == [2 - number for number in NUMBERS]


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([*([1, 2] * 12), 0], ["1", "2"], "'0' in row 4"),
        ([*([0, 1] * 12), "good"], ["bad", "good"], "names or real values, and the first rows class numbers"),
        ([*([["x"]] * 20), *[[0, 1]] * 5], ["x", "y"], "lists of 0 and 1, and the first rows lists of names"),
        ([*([[0, 1]] * 20), *[["x"]] * 5], ["x", "y"], "lists of names, and the first rows lists of 0 and 1"),
        ([*([-1] * 20), *[1] * 5], None, "holds labels, and its first rows hide theirs.*Row 0 is row 20"),
    ],
    ids=["spelled", "numbers", "names", "flags", "hidden"],
)
def test_later_labels_are_never_read_in_another_way(tmp_path, labels, names, message):
    stream = load(jsonl(tmp_path, label=labels[:ROWS]), streaming=True, label_names=names)["train"]
    with pytest.raises(ValueError, match=message):
        list(stream)
