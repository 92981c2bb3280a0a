from pathlib import Path

import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value, concatenate_datasets

from hfdistill.data import label_columns as module
from hfdistill.data import load
from hfdistill.data.align import align_labels
from hfdistill.data.label_columns import (
    as_split,
    indicator_columns,
    joined_labels,
    multi_hot_names,
    with_listed_classes,
)
from hfdistill.network.label_space import LabelSpaceError
from tests.data.conftest import messages, write, write_codes, write_rows


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


@pytest.mark.parametrize("streaming", [False, True])
def test_true_and_false_are_classes_of_these_names(tmp_path, streaming):
    """As in a csv; they were 0 and 1, and True was "no" of a student of the classes "yes" and "no"."""
    path = write_rows(tmp_path / "a.parquet", text=["a", "b", "c"], label=[True, False, True])
    for names, wanted in {
        None: [1, 0, 1],
        ("True", "False"): [0, 1, 0],
        ("no", "yes"): [1, 0, 1],  # says what 0 and 1 are
    }.items():
        rows = load(path, streaming=streaming, label_names=names)["train"]
        assert rows.features["label"].names == list(names or ("False", "True"))
        assert [row["label"] for row in rows] == wanted
    true = write_rows(tmp_path / "true.parquet", text=["a", "b"], label=[True, True])
    assert load({"train": true, "test": path})["test"]["label"][:] == [1, 0, 1]
    numbers = write_rows(tmp_path / "numbers.parquet", text=["a", "b"], label=[1, 0])
    assert load({"train": path, "test": numbers})["test"]["label"][:] == [1, 0]
    with pytest.raises(LabelSpaceError, match="has rows of 'False', 'True', which the model does not have"):
        align_labels(load(path)["train"], ["yes", "no"], split="dev")
    aligned = align_labels(load(path)["train"], ["True", "False"], split="dev")
    assert aligned["label"][:] == [0, 1, 0]


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


@pytest.mark.parametrize("names", [{0: "no", 1: "yes"}, {"no": 0, "yes": 1}, "yes", 2, ["no", "no"]])
def test_what_is_no_list_of_names_is_refused(names):
    """Of a mapping the keys would be the names: "0" and "1"."""
    with pytest.raises(ValueError, match=r"label_names is .+, and a list of names is needed, each once, in"):
        load([{"text": "a", "label": 0}, {"text": "b", "label": 1}], label_names=names)


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


@pytest.mark.parametrize("kind", ["csv", "tsv", "xlsx", "jsonl", "parquet"])
def test_spellings_of_a_number_are_classes_of_their_own_and_warned_of(tmp_path, caplog, kind):
    """Of "01", "1" and "001" nobody knows whether they are one class: no file makes them one in silence."""
    path = write_codes(tmp_path / f"train.{kind}", ["01", "1", "001", "2", "01", "10"])
    rows = load(path)["train"]
    names = rows.features["label"].names
    assert names == ["001", "01", "1", "10", "2"]
    assert [names[row["label"]] for row in rows] == ["01", "1", "001", "2", "01", "10"]
    assert (
        "alone, and each counts as a class of its own: '01' (2 rows) and '001' (1 row) and '1' (1 row). "
        in (messages(caplog)[-1])
    )
    caplog.clear()
    for streaming in (False, kind != "xlsx"):
        named = load(path, streaming=streaming, label_names=["1", "2", "10", "01", "001"])["train"]
        assert [row["label"] for row in named] == [3, 0, 4, 1, 3, 2]
    assert messages(caplog) == []


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["1", "+1", "0"], ["+1", "0", "1"]),
        (["+1", "-1"], ["+1", "-1"]),
        (["00", "01"], ["00", "01"]),
        (["-0", "1", "0"], ["-0", "0", "1"]),
        (["1", "\uff11", "0"], ["0", "1", "\uff11"]),  # a one of full width
        (["True", "TRUE", "1", "x"], ["1", "TRUE", "True", "x"]),
        ([" 1", "1", "0 "], None),  # spaces around a number are no part of it
    ],
)
def test_whole_numbers_of_a_csv_are_class_numbers_where_each_is_written_as_one(tmp_path, labels, names):
    rows = load(write_codes(tmp_path / "train.csv", labels))["train"]
    assert rows.features["label"] == (Value("int64") if names is None else ClassLabel(names=names))
    assert list(rows["label"]) == ([1, 1, 0] if names is None else [names.index(label) for label in labels])


def test_real_values_are_equal_however_they_are_written(tmp_path, caplog):
    path = write_codes(tmp_path / "train.csv", ["1.0", "1", "01", "1e0", "2.5"])
    assert list(load(path)["train"]["label"]) == [1.0, 1.0, 1.0, 1.0, 2.5]
    assert messages(caplog) == []


def test_codes_of_one_split_are_not_the_numbers_of_another(tmp_path):
    write_codes(tmp_path / "train.csv", ["01", "02"])
    write_codes(tmp_path / "test.csv", ["1", "2"])
    with pytest.raises(
        ValueError, match=r"Split 'test' has the label '1' in row 0, none of the names \['01', '02'\]"
    ):
        load(tmp_path)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_numbers_are_the_classes_whose_names_spell_them(tmp_path, kind):
    """A sheet that ate the zeros of "01" to "03" is named by them again, and never counted from 0."""
    path = tmp_path / f"train.{kind}"
    if kind == "csv":
        write_codes(path, ["1", "3", "2"])
    else:
        write_rows(path, text=["a", "b", "c"], label=[1, 3, 2])
    for streaming in (False, True):
        rows = load(path, label_names=["01", "02", "03"], streaming=streaming)["train"]
        assert [row["label"] for row in rows] == [0, 2, 1]
    write_codes(path.with_suffix(".csv"), ["01", "02"])  # among names as they stand
    assert list(load(path.with_suffix(".csv"), label_names=["00", "01", "02"])["train"]["label"]) == [1, 2]


def test_different_labels_give_different_fingerprints(tmp_path):
    folder = write_labels(tmp_path, train=[0, 1])
    prints = {
        load(folder, label_names=names)["train"]._fingerprint for names in (["a", "b"], ["1", "0"], None)
    }
    assert len(prints) == 3


def doubts_of(caplog, labels, **options):
    """What is said about a csv of these labels."""
    caplog.clear()
    load({"text": [str(i) for i in range(len(labels))], "label": labels}, **options)
    return messages(caplog)


def test_classes_that_differ_in_case_or_spaces_alone_are_said_with_their_counts(caplog):
    (doubt,) = doubts_of(caplog, ["pos"] * 3 + ["pos ", "Pos", "neg", "very  good", "Very good"])
    assert doubt == (
        "classes of 'label' differ in case, spaces or the spelling of a number alone, and each counts as a "
        "class of its own: 'pos' (3 rows) and 'Pos' (1 row) and 'pos ' (1 row); 'Very good' (1 row) and "
        "'very  good' (1 row). If they are one, write them alike, case and spaces for instance by "
        "frame['label'] = frame['label'].str.strip().str.lower()"
    )
    assert doubts_of(caplog, ["pos", "Pos", "neg"], label_names=["pos", "Pos", "neg"]) == []
    assert doubts_of(caplog, ["pos", "neg"] * 3) == []


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["a"] * 3, "all 3 rows have the label 'a' in 'label'"),
        ([1] * 3, "all 3 rows have the label 1 in 'label'"),
        ([0.5] * 3, "all 3 rows have the label 0.5 in 'label'"),
        (["x", "x;y", "y"], "1 of the classes of 'label' look like lists of classes, such as 'x;y' (1 row)"),
        (["['x', 'y']", "['x']"], "look like lists of classes"),
        ([" x", " y"], "every class of 'label' begins or ends with a space: [' x', ' y']"),
        (["a", "nan", "b"], "classes that look like missing values: 'nan' (1 row)"),
        ([1, 2, 5], "go up to 5, and only 3 of these 6 classes have rows. For a student of "
                    "these classes alone, pass label_names=['1', '2', '5']"),
        ([0, 4, 0], "go up to 4, and only 2 of these 5 classes have rows"),
        ([0, 1, 2_000_000], "go up to 2,000,000, and only 3 of these 2,000,001 classes have rows"),
        ([0.0, 1.0, 1.0], "holds the whole numbers [0, 1] written as real ones, and is learned as real "
                          "values (regression). If they are classes, pass label_names=['0', '1']"),
        ([f"name {i}" for i in range(60)], "the 60 rows have 60 classes in 'label': nearly every row"),
    ],
)  # fmt: skip
def test_labels_that_are_probably_not_meant_so_are_said(caplog, labels, words):
    assert words in doubts_of(caplog, labels)[0]


@pytest.mark.parametrize(
    "labels",
    [
        [0, 1, 2],
        ["a", "b"],
        [0.5, 1.0],
        ["none", "NA", "x"],
        ["New York, NY", "Rome", "x;"],
        [True, False],
        [0.0, 1.0, 2.5],
        [1, 0, 1, 0],
    ],
)
def test_usual_labels_are_passed_over_in_silence(caplog, labels):
    assert doubts_of(caplog, labels) == []


def test_class_numbers_from_one_are_named_as_the_warning_says(caplog):
    assert doubts_of(caplog, [1, 2, 5], label_names=["1", "2", "5"]) == []
    rows = load([("a", 5), ("b", 1), ("c", 2)], label_names=["1", "2", "5"])["train"]
    assert list(rows["label"]) == [2, 0, 1]
    classes = load([("a", 1.0), ("b", 0.0)], label_names=["0", "1"])["train"]
    assert classes.features["label"] == ClassLabel(names=["0", "1"])


def test_numbers_with_a_decimal_comma_are_refused(tmp_path):
    write(tmp_path, {"train.csv": "text;score\ngood;1,5\nbad;2\n"})
    with pytest.raises(ValueError, match=r"numbers with a decimal comma, such as '1,5'.*Write '1.5'"):
        load(tmp_path)
    assert load(tmp_path, label_names=["1,5", "2"])["train"].features["label"].names == ["1,5", "2"]


def test_names_that_no_class_can_have_are_refused(tmp_path):
    path = write_codes(tmp_path / "train.csv", ["0.5", "1.0"])
    with pytest.raises(
        ValueError, match=r"real values, such as 0\.5, and label_names names classes: \['a', 'b'\]"
    ):
        load(path, label_names=["a", "b"])
    for names in ("ab", ["a", "a"], [1, "1"]):
        with pytest.raises(ValueError, match="a list of names is needed, each once"):
            load(path, label_names=names)
    whole = write_codes(tmp_path / "whole.csv", ["2", "1"])
    assert load(whole, label_names=[1, 2])["train"].features["label"].names == ["1", "2"]


FLAGS = {
    "train.csv": "id,comment,toxic,insult,threat\n1,a,1,1,0\n2,b,0,0,0\n3,c,0,1,0\n",
    "test.csv": "id,comment,toxic,insult,threat\n4,d,0,0,1\n",
}


def test_several_columns_of_zeros_and_ones_are_a_multi_label_task(tmp_path, caplog):
    folder = write(tmp_path, FLAGS)
    splits = load(folder)
    assert splits["train"].features["label"] == List(Value("float32"), length=3)
    assert list(splits["train"]["label"]) == [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert multi_hot_names(splits["test"]) == ["toxic", "insult", "threat"]
    (guess,) = messages(caplog)
    assert "the columns ['toxic', 'insult', 'threat'] hold 0 and 1 alone" in guess
    caplog.clear()
    chosen = load(folder, label=["threat", "toxic"])
    assert list(chosen["train"]["label"]) == [[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
    assert multi_hot_names(chosen["train"]) == ["threat", "toxic"]
    assert messages(caplog) == []
    named = load(folder, label=["threat", "toxic"], label_names=["Threat", "Toxic"])["train"]
    assert multi_hot_names(named) == ["Threat", "Toxic"]


@pytest.mark.parametrize("kind", ["uint8", "int64", "bool", "string", "words", "float32"])
def test_the_type_of_a_column_of_zeros_and_ones_says_whether_it_is_a_flag(kind):
    """Of values of float nobody knows whether they are shares."""
    values = {"string": ["0", "1"], "bool": [False, True], "words": ["False", "TRUE"]}.get(kind, [0, 1])
    kind = kind.replace("words", "string")
    columns = {name: Value(kind) for name in ("toxic", "insult")}
    rows = Dataset.from_dict({"text": ["a", "b"], "toxic": values, "insult": values[::-1]})
    rows = rows.cast(Features({"text": Value("string"), **columns}))
    found = indicator_columns({"train": rows}, list(columns))
    assert found == ([] if kind == "float32" else list(columns))
    with_numbers = rows.add_column("id", [1, 2])
    assert indicator_columns({"train": with_numbers}, [*columns, "id"]) == found


def test_names_of_multi_hot_rows_outlive_what_is_done_with_the_rows(tmp_path):
    rows = load(write(tmp_path, FLAGS))["train"]
    kept = concatenate_datasets(
        [rows.select([0]), rows.shuffle(seed=0).map(lambda row: {"n": len(row["text"])})]
    )
    assert multi_hot_names(kept) == ["toxic", "insult", "threat"]
    assert multi_hot_names(rows.train_test_split(test_size=1, seed=0)["test"]) == [
        "toxic",
        "insult",
        "threat",
    ]
    lists = load([("a", ["y", "x"]), ("b", [])])["train"]
    assert (multi_hot_names(lists), list(lists["label"])) == (["x", "y"], [[1.0, 1.0], [0.0, 0.0]])
    numbers = load([("a", [1, 0]), ("b", [0, 0])])["train"]
    assert multi_hot_names(numbers) is None
    assert multi_hot_names(load([("a", [1, 0])], label_names=["p", "q"])["train"]) == ["p", "q"]
    with pytest.raises(ValueError, match="The label lists have 2 numbers, and label_names has 1"):
        load([("a", [1, 0])], label_names=["p"])


@pytest.mark.parametrize(
    "header",
    ["text,kind,flag\na,x,1\nb,y,0\n", "text,flag\na,1\nb,0\n", "text,number,flag\na,3,1\nb,1,0\n"],
)
def test_columns_that_may_be_something_else_are_not_taken_for_labels(tmp_path, caplog, header):
    write(tmp_path, {"train.csv": header})
    assert load(tmp_path)["train"].column_names == ["text"]
    assert "loaded as unlabelled text" in messages(caplog)[0]


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ("2,0", r"has .2. in the label column 'a' in row 1"),
        (",0", r"has None in the label column 'a' in row 1"),
        ("-1,0", r"has -1.0 in the label column 'a' in row 1.*hidden labels"),
        ("yes,0", r"has 'yes' in the label column 'a' in row 1"),
    ],
)
def test_flags_that_are_no_zeros_and_ones_are_refused(tmp_path, cells, words):
    write(tmp_path, {"train.csv": f"text,a,b\nx,1,0\ny,{cells}\n"})
    with pytest.raises(ValueError, match=words):
        load(tmp_path, label=["a", "b"])


def test_flags_of_other_spellings_and_hidden_ones(tmp_path, caplog):
    flags = "x,True,0\ny,false,1.0\nz,1,1\nw,0.0,TRUE\nv,true,False\n"
    write(tmp_path, {"train.csv": f"text,a,b\n{flags}", "test.csv": "text,a,b\nx,-1,-1\n"})
    splits = load(tmp_path, label=["a", "b"])
    rows = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]]
    assert list(splits["train"]["label"]) == rows
    assert splits["test"].column_names == ["text"]
    assert messages(caplog) == ["split 'test' has hidden labels only: its label columns are dropped"]
    frame = {"text": ["x", "y"], "a": [True, False], "b": [False, True]}
    caplog.clear()
    assert list(load(frame, label=["a", "b"])["train"]["label"]) == [[1.0, 0.0], [0.0, 1.0]]
    assert "every row has exactly one of the classes ['a', 'b']" in messages(caplog)[0]
    for label in (["a"], ["a", "a"], []):
        with pytest.raises(ValueError, match="Pass two or more columns, each once"):
            load(frame, label=label)


def test_load_makes_no_label_that_is_no_class(tmp_path):
    """-1, numbers behind the names, and negative ones are refused whatever brings them."""
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])})
    hidden = Dataset.from_dict({"text": ["x", "y"], "label": [0, -1]}, features=features)
    with pytest.raises(ValueError, match="has the label -1 in row 1, a class number is 0 to 1"):
        load(hidden)
    for labels, words in (([0, 2], "label 2 in row 1"), ([0, -1], "label -1"), ([0, -99], "label -99")):
        with pytest.raises(ValueError, match=words):
            load({"text": ["x", "y"], "label": labels}, label_names=["a", "b"])
    for value in ("2", "-1", "2.0"):
        write(tmp_path, {"train.csv": f"text,label\nx,0\ny,{value}\n"})
        with pytest.raises(ValueError, match=f"has the label {float(value):.0f}"):
            load(tmp_path, label_names=["a", "b"])


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string()])
def test_strings_of_every_arrow_type_are_names(tmp_path, kind):
    labels = pa.array(["b", "a", "b"]).cast(kind) if not pa.types.is_dictionary(kind) else pa.array(
        ["b", "a", "b"]).dictionary_encode()  # fmt: skip
    texts = pa.array(["x", "y", "z"]).dictionary_encode() if pa.types.is_dictionary(kind) else ["x", "y", "z"]
    path = write_rows(tmp_path / "train.parquet", text=texts, label=labels)
    rows = load(path)["train"]
    assert rows.features["label"] == ClassLabel(names=["a", "b"])
    assert rows.to_list()[0] == {"text": "x", "label": 1}


def test_numbers_that_no_class_can_have_are_refused(tmp_path):
    (tmp_path / "ids.csv").write_text("text,label\na,1\nb,99999999999999999999\n")
    with pytest.raises(ValueError, match=r"label 99999999999999999999 in row 1, a class number is 0 or more"):
        load(tmp_path / "ids.csv")


def test_a_split_that_lacks_one_of_several_label_columns_is_refused_and_one_that_lacks_all_has_no_labels():
    train = {"text": ["x", "y"], "a": [1, 0], "b": [1, 1]}
    half = Dataset.from_dict({"text": ["z"], "a": [1]})
    with pytest.raises(ValueError, match=r"Split 'test' lacks the label column 'b'.*Give all files the same"):
        joined_labels({"train": Dataset.from_dict(train), "test": half}, ["a", "b"], names=None)
    none = Dataset.from_dict({"text": ["z"]})
    splits = {"train": Dataset.from_dict(train), "test": none}
    assert joined_labels(splits, ["a", "b"], names=None)[0] == {"train": [[1.0, 1.0], [0.0, 1.0]]}
    assert indicator_columns(splits, ["a", "b"]) == ["a", "b"]


def test_a_description_that_is_other_json_names_no_class():
    rows = Dataset.from_dict({"text": ["x"], "label": [[1.0, 0.0]]})
    rows.info.description = '{"rows": 3}\n[1]\nplain words'
    assert multi_hot_names(rows) is None


def test_labels_of_further_rows_of_a_stream():
    assert module._further_classes("train", ["b", "a", None], "label", ["a", "b"], None, False) == [
        1,
        0,
        None,
    ]
    assert module._further_classes("train", [1, 0, None], "label", ["a", "b"], None, False) == [1, 0, None]
    kinds = [ClassLabel(names=["a"]), List(Value("string")), Value("float32"), Value("int64")]
    assert [module._kind(kind) for kind in kinds] == [
        "the classes ['a']",
        "lists",
        "real values",
        "class numbers",
    ]


def test_rows_of_a_stream_without_any_class_are_rows_of_zeros():
    options = {"column": "label", "names": None, "from_text": False}
    rows = Dataset.from_dict({"label": [[], None, []]})
    feature = List(Value("float32"), length=2)
    labels = module.further_labels("train", rows, feature=feature, by_name=True, **options)
    assert labels == [[0.0, 0.0], None, [0.0, 0.0]]
    words = Dataset.from_dict({"label": ["a"]})
    with pytest.raises(ValueError, match=r"'label' of split 'train'"):
        module.further_labels("train", words, feature=Value("float32"), by_name=False, **options)


def test_names_of_several_labels_go_into_a_file_and_come_back(tmp_path):
    rows = load([{"text": "x", "label": ["b"]}, {"text": "y", "label": []}], label_names=["c", "b"])["train"]
    assert multi_hot_names(as_split(rows, "kept")) == ["c", "b"]
    assert str(as_split(rows, "kept").split) == "kept"
    assert multi_hot_names(load(rows)["train"]) == ["c", "b"]
    for part in (rows, rows.select([1])):  # also where no row has a class
        with_listed_classes(part).to_parquet(tmp_path / "rows.parquet")
        again = load(tmp_path / "rows.parquet")["train"]
        assert multi_hot_names(again) == ["c", "b"]
        assert again["label"][:] == part["label"][:]
    soft = rows.map(lambda row: {"label": [0.5, 0.0]})
    assert with_listed_classes(soft) is soft
    more = concatenate_datasets([rows, load(["z"])["train"]])  # without a label
    assert with_listed_classes(more) is more
    plain = load([("x", "a"), ("y", "b")])["train"]
    assert with_listed_classes(plain) is plain


@pytest.mark.parametrize("kind", ["memory", "csv"])
def test_rows_that_nobody_labelled_are_marked_by_100_below_zero(tmp_path, caplog, kind):
    def read(labels, **options):
        rows = {"text": [f"text {i}" for i in range(len(labels))], "label": labels}
        if kind == "memory":
            return load(rows, **options)["train"]
        lines = [f"{text},{label}" for text, label in zip(*rows.values(), strict=True)]
        (tmp_path / "train.csv").write_text("\n".join(["text,label", *lines, ""]))
        return load(tmp_path, **options)["train"]

    marks = [-100] if kind != "memory" else ["-100", " -100 "]
    for mark in marks:
        named = read(["b", mark, "a", "b"], label_names=["a", "b"])
        assert named.features["label"].names == ["a", "b"]
        assert [row["label"] for row in named] == [1, -100, 0, 1]
    assert [row["label"] for row in read([1, -100, 0])] == [1, -100, 0]
    assert [row["label"] for row in read([1.5, -100.0, 0.25])] == [1.5, -100.0, 0.25]  # a real value
    assert messages(caplog) == []
    of_a_frame = read([1.0, -100.0, 0.0], label_names=["a", "b"])  # whole numbers beside missing ones
    assert of_a_frame["label"][:] == [1, -100, 0]
    assert read(["b", "-100", "a"]).features["label"].names == ["a", "b"]
    assert load(named)["train"]["label"][:] == [1, -100, 0, 1]
    assert "label" not in read([-100, -100]).column_names


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("labels", "names"),
    [([[0, 1], [-100, -100], [1, 1], [1, 0]], None), ([["b"], ["-100"], ["a", "b"], ["a"]], ["a", "b"])],
    ids=["flags", "names"],
)
def test_a_list_of_100s_below_zero_marks_a_row_of_several_labels(labels, names, streaming, caplog):
    rows = {"text": ["w", "x", "y", "z"], "label": labels}
    read = load(Dataset.from_dict(rows), label_names=names, streaming=streaming)["train"]
    assert [row["label"] for row in read] == [[0.0, 1.0], [-100.0, -100.0], [1.0, 1.0], [1.0, 0.0]]
    assert messages(caplog) == []


def test_a_list_of_which_a_part_alone_is_100_below_zero_is_refused():
    with pytest.raises(ValueError, match=r"must be multi-hot.*values from -100 to 1"):
        load({"text": ["x", "y"], "label": [[-100, 1], [0, 1]]})
