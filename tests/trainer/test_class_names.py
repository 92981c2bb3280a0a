"""The labels of a run's data go by the names of the student's classes."""

import pytest
import torch
from datasets import Dataset

from hfdistill import KD, CrossEntropy, DistillationTrainer, LabelSpaceError, load, shrink
from hfdistill.data.align import RunLabels
from tests.class_material import NAMES, answered_rows, make_four, write_csv
from tests.conftest import make_bert, make_tokenizer
from tests.word_material import TAGS, make_named_words, make_tagger

SOME = ["calm", "anger", "fear"]


@pytest.fixture
def read(tmp_path):
    def reads(classes, **options):
        return load(write_csv(tmp_path / "train.csv", classes, **options))["train"]

    return reads


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def trainer_of(arguments, model, train, evaluation=None, **options):
    options = {"teacher": None, "processing_class": make_tokenizer(), **options}
    return DistillationTrainer(
        model, arguments(), train_dataset=train, eval_dataset=evaluation, compute_metrics=accuracy, **options
    )


def test_a_model_that_is_right_is_right_on_some_of_its_classes(arguments, read):
    part, one, other = read(SOME), read(["calm"]), read(["joy", "fear"], spelled=str.title)
    trainer = trainer_of(arguments, make_four(), part, {"part": part, "one": one}, teacher=make_four())
    metrics = trainer.evaluate()
    assert (metrics["eval_part_accuracy"], metrics["eval_one_accuracy"]) == (1.0, 1.0)
    assert trainer.evaluate(other)["eval_accuracy"] == 1.0
    assert trainer.predict(other).metrics["test_accuracy"] == 1.0
    named = [NAMES[i] for i in trainer.train_dataset["label"]]
    assert named == [name for _, name in answered_rows() if name in SOME]


def test_the_teacher_is_found_right_on_some_of_its_classes(arguments, read):
    trainer = trainer_of(arguments, make_four(), read(SOME), read(["calm", "joy"]), teacher=make_four())
    trainer.train()
    assert (
        next(log["teacher_accuracy"] for log in trainer.state.log_history if "teacher_accuracy" in log) == 1
    )


@pytest.mark.parametrize("form", ["csv", "stream", "torch"])
def test_training_on_some_classes_learns_what_training_on_the_right_ids_does(arguments, read, form):
    data, right = read(SOME), read(SOME)
    ids = [NAMES.index(name) for _, name in answered_rows() if name in SOME]
    right = right.remove_columns("label").add_column("label", ids)
    weights = []
    for rows in (data, right):
        if form == "stream":
            rows = rows.to_iterable_dataset()
        model = shrink(make_four(), layers=1)
        args = arguments(learning_rate=0.05, max_steps=6)
        options = {"teacher": make_four(), "objective": 0.5 * CrossEntropy() + 0.5 * KD(temperature=2)}
        if form == "torch":
            rows = rows.with_format("torch")
        trainer = DistillationTrainer(
            model, args, train_dataset=rows, processing_class=make_tokenizer(), **options
        )
        trainer.train()
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


def test_words_are_numbered_by_the_students_names(arguments):
    data = make_named_words().rename_column("ner_tags", "label")
    turned = make_tagger(labels=dict(enumerate(TAGS[::-1])))
    trainer = DistillationTrainer(
        turned, arguments(), teacher=None, train_dataset=data, processing_class=make_tokenizer()
    )
    labels = [label for row in trainer.train_dataset["labels"] for label in row if label >= 0]
    assert [TAGS[::-1][label] for label in labels] == [TAGS[i] for row in data["label"] for i in row]


def test_a_foreign_column_is_refused_before_anything_trains(arguments, read):
    foreign = read(NAMES, spelled=lambda name: "high" if name == "joy" else "low")
    with pytest.raises(LabelSpaceError, match=r"train_dataset has rows of 'high', 'low'.*'joy', 'anger'"):
        trainer_of(arguments, make_four(), foreign)
    with pytest.raises(LabelSpaceError, match=r"eval_dataset\['b'\] has rows of 'high'"):
        trainer_of(arguments, make_four(), read(NAMES), {"a": read(["joy"]), "b": foreign})


def test_a_student_without_names_takes_those_of_the_training_data(arguments, read, caplog):
    model = make_four()
    model.config.id2label = {i: f"LABEL_{i}" for i in range(4)}
    trainer = trainer_of(arguments, model, read(NAMES), read(SOME))
    assert "'anger', 'calm', 'fear', 'joy', which are taken in this order" in caplog.text
    names = trainer.train_dataset.features["label"].names
    assert [names[i] for i in trainer.eval_dataset["label"]] == [n for _, n in answered_rows() if n in SOME]
    with pytest.raises(LabelSpaceError, match=r"2 classes.*has 4 without names"):
        trainer_of(arguments, model, read(["joy", "calm"]), teacher=make_four_without_names())


def make_four_without_names():
    model = make_four()
    model.config.id2label = {i: f"LABEL_{i}" for i in range(4)}
    return model


def test_a_label_map_gives_a_student_without_names_those_of_its_teacher(arguments, read):
    places = {"joy": 3, "anger": 2, "fear": 1, "calm": 0}
    trainer = trainer_of(
        arguments, make_four_without_names(), read(SOME), teacher=make_four(), label_map=places
    )
    expected = [places[name] for _, name in answered_rows() if name in SOME]
    assert trainer.train_dataset["label"][:] == expected
    student = make_four().config
    assert RunLabels.of(trainer.args, None, student, {"train_dataset": read(SOME)}, places).classes == sorted(
        SOME
    )


def test_a_student_made_later_is_checked(arguments, read):
    turned = make_bert(1, labels=dict(enumerate(NAMES[::-1])))
    with pytest.raises(LabelSpaceError, match=r"model_init makes a student.*'calm', 'fear', 'anger', 'joy'"):
        trainer_of(arguments, None, read(SOME), teacher=make_four(), model_init=lambda: turned)
    trainer = trainer_of(arguments, None, read(SOME), teacher=make_four(), model_init=make_four)
    assert trainer.train_dataset.features["label"].names == NAMES


def test_labels_that_a_transform_of_the_users_reads_are_not_changed(arguments, read):
    tokenizer = make_tokenizer()
    data = read(SOME).with_transform(lambda rows: {**tokenizer(rows["text"]), "label": rows["label"]})
    with pytest.raises(LabelSpaceError, match="code of your own"):
        trainer_of(arguments, make_four(), data)


ONE = {0: "LABEL_0"}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["good"] * 4, "train_dataset has one class alone, 'good'"),
        (["good", "bad"] * 2, r"has the labels 'bad', 'good'.*one output and no problem_type"),
        ([0, 1, 1, 0], r"labels 0, 1.*'regression'.*'multi_label_classification'.*num_labels=2"),
        ([0.0, 1.0, 1.0, 0.0], "labels 0.0, 1.0"),
        ([1, 1, 1, 1], "has the labels 1, and"),
    ],
)
def test_classes_for_one_output_are_no_regression(arguments, labels, message):
    data = Dataset.from_dict({"text": ["a film", "a cast", "the plot", "it"], "label": labels})
    data = data.class_encode_column("label") if isinstance(labels[0], str) else data
    with pytest.raises(LabelSpaceError, match=message):
        trainer_of(arguments, make_bert(1, labels=ONE), data)


def test_one_output_learns_values_or_one_class_where_the_config_says_so(arguments):
    rows = {"text": ["a film", "a cast", "the plot", "it"], "label": [0, 1, 1, 0]}
    values = make_bert(1, labels=ONE, problem_type="regression")
    trainer_of(arguments, values, Dataset.from_dict(rows))
    rows["label"] = [[0.0], [1.0], [1.0], [0.0]]
    crossing = make_bert(1, labels=ONE, problem_type="multi_label_classification")
    trainer = trainer_of(arguments, crossing, Dataset.from_dict(rows))
    logits = crossing(**make_tokenizer()(rows["text"], padding=True, return_tensors="pt")).logits
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor(rows["label"]))
    assert trainer.train().training_loss == pytest.approx(expected.item(), rel=1e-4)
    trainer_of(arguments, make_bert(1, labels=ONE), Dataset.from_dict({**rows, "label": [1, 3, 2, 5]}))
