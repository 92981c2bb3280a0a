from pathlib import Path

import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hfdistill.data import load
from tests.data.conftest import messages, write, write_rows


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


def test_different_labels_give_different_fingerprints(tmp_path):
    folder = write_labels(tmp_path, train=[0, 1])
    prints = {
        load(folder, label_names=names)["train"]._fingerprint for names in (["a", "b"], ["1", "0"], None)
    }
    assert len(prints) == 3
