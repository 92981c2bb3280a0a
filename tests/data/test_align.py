"""Label ids by the names of the classes."""

import json

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value, concatenate_datasets
from transformers import TrainingArguments

from hfdistill import DistillationTrainer, FreshCopies, LabelSpaceError, Swap, load
from hfdistill.data.align import align_labels, names_of
from tests.class_material import NAMES, answered_rows, write_csv
from tests.conftest import make_bert, make_tokenizer

MODEL = ["calm", "fear", "joy", "rage"]


def rows(names, ids):
    data = Dataset.from_dict({"text": [f"text {i}" for i in range(len(ids))], "label": ids})
    return data.cast_column("label", ClassLabel(names=names))  # from_dict knows no -100


def named(data):
    """What each row's label is called."""
    names = data.features["label"].names
    return [name if name == -100 else names[name] for name in data["label"]]


def test_ids_follow_the_names_and_rows_without_a_label_stay():
    data = rows(["rage", "joy"], [0, 1, -100, 1])
    aligned = align_labels(data, MODEL, split="dev")
    assert aligned["label"][:] == [3, 2, -100, 2]
    assert named(aligned) == named(data) == ["rage", "joy", -100, "joy"]
    assert aligned["text"][:] == data["text"][:]
    assert align_labels(aligned, MODEL, split="dev") is aligned


@pytest.mark.parametrize("classes", [MODEL, MODEL[:3], ["joy", "calm"]])
def test_every_subset_of_a_files_classes_means_what_it_says(tmp_path, classes):
    path = write_csv(tmp_path / "some.csv", ["joy", "calm"])
    aligned = align_labels(load(path)["train"], classes, split="train")
    assert [classes[i] for i in aligned["label"]] == [n for _, n in answered_rows() if n in ("joy", "calm")]


@pytest.mark.parametrize(
    ("form", "first"),
    [
        (lambda data: data.to_iterable_dataset(), 3),
        (lambda data: DatasetDict(dev=data)["dev"], 3),
        (lambda data: data.with_format("torch", columns=["label"]), 3),
        (
            lambda data: FreshCopies(
                data.cast_column("label", data.features["label"]), Swap(), keep_labels=True
            ),
            3,
        ),
    ],
    ids=["stream", "split", "torch", "copies"],
)
def test_streams_formats_and_fresh_copies_are_aligned_alike(form, first):
    data = form(rows(["rage", "joy"], [0, 1]))
    aligned = align_labels(data, MODEL, split="dev")
    assert [int(row["label"]) for row in aligned] == [3, 2] * (len([*aligned]) // 2)
    if isinstance(data, Dataset):
        assert aligned.format == data.format


def test_words_are_aligned_one_by_one():
    features = Features({"tokens": List(Value("string")), "label": List(ClassLabel(names=["B-x", "O"]))})
    data = Dataset.from_dict({"tokens": [["a", "b"], ["c"]], "label": [[1, 0], [1]]}, features=features)
    aligned = align_labels(data, ["O", "B-y", "B-x"], split="dev")
    assert aligned["label"][:] == [[0, 2], [0]]
    assert names_of(aligned) == ["O", "B-y", "B-x"]


def test_every_split_of_a_dict_is_aligned_and_named_in_errors():
    data = DatasetDict(a=rows(["joy"], [0]), b=rows(["rage"], [0]))
    aligned = align_labels(data, MODEL, split="eval_dataset")
    assert (aligned["a"]["label"][:], aligned["b"]["label"][:]) == ([2], [3])
    with pytest.raises(LabelSpaceError, match=r"eval_dataset\['b'\] has rows of 'rage'"):
        align_labels(data, ["joy", "calm"], split="eval_dataset")


def test_classes_that_no_row_has_may_be_unknown():
    data = rows(["joy", "unsure", "rage"], [0, 2, 2])
    assert align_labels(data, MODEL, split="dev")["label"][:] == [2, 3, 3]
    with pytest.raises(
        LabelSpaceError, match=r"rows of 'unsure', which.*'joy', 'unsure'; the model's: 'calm', 'fear'"
    ):
        align_labels(rows(["joy", "unsure"], [0, 1]), MODEL, split="dev")
    with pytest.raises(LabelSpaceError, match="rows of 'unsure'"):  # nobody has read the stream
        align_labels(data.to_iterable_dataset(), MODEL, split="dev")


def test_a_foreign_column_is_refused_with_both_lists_and_what_to_type(tmp_path):
    path = write_csv(tmp_path / "t.csv", NAMES, spelled=lambda name: "high" if name == "joy" else "low")
    with pytest.raises(LabelSpaceError) as caught:
        align_labels(load(path)["train"], NAMES, split="dev")
    for part in ("'high', 'low'", "'joy', 'anger', 'fear', 'calm'", "--label COLUMN", "new_head="):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("names", "ids", "model"),
    [
        (["0", "1", "2"], [0, 2], MODEL),
        (["LABEL_0", "LABEL_1"], [0, 1], MODEL),
        (["a", "b", "c"], [0, 2], ["LABEL_0", "LABEL_1", "LABEL_2"]),
        (["a", "b", "c"], [0, 2], ["0", "1", "2"]),
        (["a", "b", "c"], [0, 1], ["LABEL_0", "LABEL_1"]),
        (["joy", "calm"], [0, 1], []),
    ],
)
def test_numbers_stay_where_one_side_has_no_names(names, ids, model):
    data = rows(names, ids)
    assert align_labels(data, model, split="dev") is data


def test_numbers_in_names_are_numbers():
    data = rows(["LABEL_0", "LABEL_2"], [0, 1, 1])
    assert align_labels(data, MODEL, split="dev")["label"][:] == [0, 2, 2]
    assert align_labels(data, ["LABEL_0", "LABEL_1", "LABEL_2"], split="dev")["label"][:] == [0, 2, 2]
    with pytest.raises(LabelSpaceError, match="rows of 'LABEL_2'"):
        align_labels(data, ["calm", "joy"], split="dev")


def test_some_classes_beside_a_model_without_names_are_a_guess():
    with pytest.raises(
        LabelSpaceError, match=r"has 2 classes.*has 3 without names.*label_names=\['joy', …\]"
    ):
        align_labels(rows(["joy", "rage"], [0, 1]), ["LABEL_0", "LABEL_1", "LABEL_2"], split="dev")


def test_case_and_blanks_do_not_count_where_they_tell_nothing_apart():
    assert align_labels(rows([" Joy", "RAGE "], [0, 1]), MODEL, split="dev")["label"][:] == [2, 3]
    assert align_labels(rows(["B", "b"], [0, 1]), ["a", "b", "B"], split="dev")["label"][:] == [2, 1]
    with pytest.raises(LabelSpaceError, match="rows of ' b'"):
        align_labels(rows([" b"], [0]), ["b", "B"], split="dev")


def test_numbers_that_are_names_of_other_classes_are_refused():
    stars = Dataset.from_dict({"text": ["a", "b"], "label": [1, 4]})
    for zero in ("", "0"):
        classes = [f"{zero}{star}" for star in range(1, 6)]
        typed = rf"1 is the name of the model's class 0.*label_names=\['{zero}1', …\]"
        with pytest.raises(LabelSpaceError, match=typed):
            align_labels(stars, classes, split="dev")
    from_zero = Dataset.from_dict({"text": ["a", "b"], "label": [0, 4]})
    assert align_labels(from_zero, ["1", "2", "3", "4", "5"], split="dev") is from_zero


def test_ids_that_code_of_the_users_reads_are_refused_and_not_changed():
    data = rows(["rage", "joy"], [0, 1])
    with pytest.raises(LabelSpaceError, match="align_labels_with_mapping"):
        align_labels(data, MODEL, split="dev", own=True)
    same = rows(["calm", "fear"], [0, 1])
    assert align_labels(same, MODEL, split="dev", own=True) is same


def several(path, *rows):
    lines = [json.dumps({"text": f"text {i}", "labels": row}) for i, row in enumerate(rows)]
    path.write_text("\n".join(lines))
    return load(path)["train"]


def test_rows_of_several_labels_get_the_models_columns(tmp_path):
    data = several(tmp_path / "train.jsonl", ["joy", "rage"], ["calm"], [])
    assert data["label"][:] == [[0, 1, 1], [1, 0, 0], [0, 0, 0]]  # calm, joy, rage
    aligned = align_labels(data, ["rage", "calm", "joy"], split="dev")
    assert aligned["label"][:] == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert align_labels(aligned, ["rage", "calm", "joy"], split="dev") is aligned


def test_a_class_that_rows_of_several_labels_lack_is_missing(tmp_path):
    data = several(tmp_path / "train.jsonl", ["joy"], ["calm"])
    data = concatenate_datasets([data, data.select([0]).remove_columns("label")])
    aligned = align_labels(data, MODEL, split="dev")
    assert aligned["label"][:2] == [[0, -100, 1, -100], [1, -100, 0, -100]]
    assert aligned["label"][-1] is None
    with pytest.raises(LabelSpaceError, match="rows of 'joy'"):
        align_labels(data, ["calm", "rage"], split="dev")


@pytest.mark.parametrize("classes", [[f"LABEL_{i}" for i in range(12)], [str(i) for i in range(12)]])
def test_names_that_are_numbers_are_numbers_in_whatever_order_they_are_sorted(classes, tmp_path, caplog):
    """Strings are sorted "0", "1", "10", "11", "2", …: class "10" is number 10 of a model, not number 2."""
    numbers = list(range(12))
    data = Dataset.from_dict({"label": [str(i) for i in numbers]}).class_encode_column("label")
    assert data["label"][:4] == [0, 1, 4, 5]
    assert align_labels(data, classes, split="data")["label"][:] == numbers
    student = make_bert(1, labels=dict(enumerate(classes)))
    trainer = DistillationTrainer(
        student,
        TrainingArguments(str(tmp_path), report_to="none", use_cpu=True),
        teacher=make_bert(1, seed=1, labels=dict(enumerate(f"LABEL_{i}" for i in numbers))),
        train_dataset=data.add_column("text", ["a film"] * 12),
        processing_class=make_tokenizer(),
    )
    assert trainer.train_dataset["label"][:] == numbers
    assert trainer._columns is None
    assert "taken in this order" not in caplog.text
