"""A model that is always right is right on every subset of its classes, whatever measures it."""

import json

import pytest
import torch
from datasets import Dataset, DatasetDict

from hfdistill import (
    Contender,
    LabelSpaceError,
    exit_curve,
    export,
    load,
    load_classifier,
    measure,
    time_together,
    with_exits,
)
from hfdistill.cli import main
from hfdistill.evaluation.speed import SpeedPlan
from hfdistill.exporters import gate
from hfdistill.exporters.onnx import OnnxModel
from tests.class_material import NAMES, make_four, write_csv
from tests.conftest import make_bert, make_tokenizer
from tests.word_material import TAGS, make_named_words, make_tagger

TINY = SpeedPlan(latency_rows=2, batch_size=4, throughput_rows=4, repeats=1)
SUBSETS = [NAMES, ["joy", "anger", "fear"], ["anger", "calm"], ["calm"]]


@pytest.mark.parametrize("classes", SUBSETS, ids=len)
def test_measure_gives_every_subset_its_accuracy(tmp_path, classes):
    data = load(write_csv(tmp_path / "train.csv", classes, spelled=str.upper))["train"]
    report = measure(make_four(), data, teacher=make_four(), tokenizer=make_tokenizer(), speed=None)
    assert report.student.metrics["accuracy"] == report.teacher.metrics["accuracy"] == 1.0
    assert {c.label: c.rows for c in report.classes} == {n: 20 * (n in classes) for n in NAMES}


@pytest.mark.parametrize("classes", SUBSETS, ids=len)
def test_the_command_does_too(tmp_path, classes, capsys):
    make_four().save_pretrained(tmp_path / "four")
    make_tokenizer().save_pretrained(tmp_path / "four")
    data = str(write_csv(tmp_path / "dev.csv", classes))
    assert main(["measure", str(tmp_path / "four"), "--data", data, "--no-speed"]) == 0
    assert "100.0 %" in capsys.readouterr().out.splitlines()[2]


def test_a_column_of_foreign_names_is_refused_by_the_command(tmp_path, capsys):
    make_four().save_pretrained(tmp_path / "four")
    make_tokenizer().save_pretrained(tmp_path / "four")
    spelled = {"joy": "high", "anger": "low", "fear": "low", "calm": "high"}.__getitem__
    data = str(write_csv(tmp_path / "dev.csv", NAMES, spelled=spelled, column="Priority"))
    words = ["measure", str(tmp_path / "four"), "--data", data, "--label", "Priority", "--no-speed"]
    assert main(words) == 1
    message = capsys.readouterr().err
    assert "'high', 'low'" in message
    assert "'joy', 'anger', 'fear', 'calm'" in message


def test_the_students_order_counts_beside_a_teacher_in_another(tmp_path):
    data = load(write_csv(tmp_path / "train.csv", ["anger", "calm"]))["train"]
    teacher = make_four()
    teacher.config.id2label = {0: "calm", 1: "joy", 2: "anger", 3: "fear"}
    order = [NAMES.index(name) for name in teacher.config.id2label.values()]
    with torch.no_grad():
        for tensor in teacher.classifier.parameters():
            tensor.copy_(tensor[order])
    report = measure(make_four(), data, teacher=teacher, tokenizer=make_tokenizer(), speed=None)
    assert report.teacher.metrics["accuracy"] == report.student.fidelity["agreement"] == 1.0


@pytest.mark.parametrize("classes", SUBSETS, ids=len)
def test_exit_curve_does_too(tmp_path, classes):
    data = load(write_csv(tmp_path / "train.csv", classes))["train"]
    points = exit_curve(with_exits(make_four()), data, [0.5], tokenizer=make_tokenizer(), speed=TINY)
    assert points[0].accuracy == 1.0


def test_exit_curve_without_labels_is_refused():
    with pytest.raises(ValueError, match="found none"):
        exit_curve(with_exits(make_four()), Dataset.from_dict({"text": ["a"]}), tokenizer=make_tokenizer())


def test_export_does_too(tmp_path, monkeypatch):
    class StandIn(OnnxModel):
        def __init__(self, model):
            torch.nn.Module.__init__(self)
            self.model = model

        def forward(self, input_ids, attention_mask, token_type_ids=None):
            return self.model(input_ids, attention_mask, token_type_ids)

    def write(model, staged, **options):
        (staged / "model.onnx").write_bytes(b"stand-in")
        return {"onnx": StandIn(model)}, None

    monkeypatch.setattr(gate, "write_networks", write)
    monkeypatch.setattr(gate, "require_packages", lambda: None)
    monkeypatch.setattr("hfdistill.exporters.onnx.PACKAGES", ())
    data = load(write_csv(tmp_path / "train.csv", ["anger", "calm"]))["train"]
    options = {"tokenizer": make_tokenizer(), "speed": False, "int8": None, "teacher": make_four()}
    report = export(make_four(), tmp_path / "onnx", data=data, **options)
    assert [report.of(name).quality for name in ("teacher", "pytorch", "onnx")] == [1.0, 1.0, 1.0]
    foreign = load(write_csv(tmp_path / "train.csv", ["anger", "calm"], spelled=lambda name: name[:2]))
    with pytest.raises(LabelSpaceError, match="rows of 'an', 'ca'"):
        export(make_four(), tmp_path / "onnx", data=foreign["train"], **options)


def test_words_do_too(tmp_path):
    tagger, tokenizer, lines = make_tagger(seed=3), make_tokenizer(), []
    for words in make_named_words()["tokens"]:
        encoded = tokenizer(words, is_split_into_words=True, return_tensors="pt")
        with torch.no_grad():
            answers = tagger(**encoded).logits[0].argmax(-1).tolist()
        first = {word: i for i, word in reversed([*enumerate(encoded.word_ids())]) if word is not None}
        lines.append({"tokens": words, "ner_tags": [TAGS[answers[first[i]]] for i in range(len(words))]})
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    data = load(path)["train"]
    names = data.features["label"].feature.names
    assert len(names) > 1
    assert names != TAGS[: len(names)]
    assert measure(tagger, data, tokenizer=tokenizer, speed=None).student.metrics["accuracy"] == 1.0


def test_time_together_reads_no_label(tmp_path):
    data = load(write_csv(tmp_path / "train.csv", NAMES, spelled=lambda name: f"no {name}"))["train"]
    model = Contender(make_four(), tokenizer=make_tokenizer())
    report = measure(model, data.remove_columns("label"), teacher=model, speed=None)
    timed = time_together({1: report}, {1: model}, data, teacher=model, plan=TINY)
    assert timed[1].student.speed.latency_rows == 2


def test_models_without_names_get_those_that_are_given(tmp_path, caplog):
    data = load(write_csv(tmp_path / "train.csv", ["anger", "calm"]))["train"]
    bare = make_four()
    bare.config.id2label = {i: f"LABEL_{i}" for i in range(4)}
    options = {"tokenizer": make_tokenizer(), "speed": None}
    with pytest.raises(LabelSpaceError, match=r"2 classes.*has 4 without names.*label_names="):
        measure(bare, data, **options)
    report = measure(bare, data, teacher=make_four(), label_names=NAMES, **options)
    assert report.student.metrics["accuracy"] == report.student.fidelity["agreement"] == 1.0
    assert [c.label for c in report.classes] == NAMES
    assert bare.config.id2label[0] == "LABEL_0"  # measuring changes nothing
    beside = measure(make_four(), data, teacher=Contender(bare, label_names=NAMES), **options)
    assert beside.student.fidelity["agreement"] == 1.0
    places = {name: i for i, name in enumerate(NAMES)}
    paired = measure(bare, data, teacher=Contender(make_four(), label_map=places), **options)
    assert paired.student.metrics["accuracy"] == 1.0
    assert [c.label for c in paired.classes] == NAMES
    whole = load(write_csv(tmp_path / "train.csv", NAMES))["train"]
    measure(bare, whole, **options)
    assert "'anger', 'calm', 'fear', 'joy', which are taken in this order" in caplog.text
    for names, message in ((NAMES[:3], "has 4 classes"), (["a", "a", "b", "c"], "a name of its own")):
        with pytest.raises(LabelSpaceError, match=message):
            measure(bare, data, label_names=names, **options)


def test_the_command_and_load_classifier_name_classes_too(tmp_path, capsys):
    bare = make_four()
    bare.config.id2label = {i: f"LABEL_{i}" for i in range(4)}
    bare.save_pretrained(tmp_path / "bare")
    make_tokenizer().save_pretrained(tmp_path / "bare")
    data = str(write_csv(tmp_path / "train.csv", ["anger", "calm"]))
    words = ["measure", str(tmp_path / "bare"), "--data", data, "--no-speed", "--label-names", *NAMES]
    assert main(words) == 0
    assert "100.0 %" in capsys.readouterr().out
    model = load_classifier(str(tmp_path / "bare"), label_names=NAMES)
    assert model.config.id2label == dict(enumerate(NAMES))
    assert model.config.label2id["calm"] == 3
    with pytest.raises(LabelSpaceError, match="names its classes 'joy', 'anger'"):
        load_classifier(model, label_names=NAMES[::-1])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DatasetDict(train=Dataset.from_dict({"text": ["a"]})), r"the splits 'train'. Pass data\['train'\]"),
        (None, "found None"),
        (["a text", "another"], "found a list"),
        ("dev.csv", "found a str"),
    ],
    ids=["splits", "none", "list", "path"],
)
def test_what_is_no_split_is_refused_with_the_way_to_one(data, message):
    for call in (measure, lambda *args, **options: exit_curve(with_exits(make_four()), args[1])):
        with pytest.raises(TypeError, match=message):
            call(make_four(), data, tokenizer=make_tokenizer())


def test_labels_of_several_classes_that_cannot_be_scored_are_refused():
    model = make_bert(1, labels={0: "a", 1: "b"}, problem_type="multi_label_classification")
    options = {"tokenizer": make_tokenizer(), "speed": None}
    soft = Dataset.from_dict({"text": ["good", "bad"], "label": [[1.0, 0.0], [0.5, 0.0]]})
    with pytest.raises(LabelSpaceError, match=r"row 1: the labels .* are not all 0 or 1"):
        measure(model, soft, **options)
    part = Dataset.from_dict({"text": ["good", "bad"], "label": [[1.0, -100.0], [0.0, -100.0]]})
    with pytest.raises(LabelSpaceError, match="no labels for the student's classes 'b'"):
        measure(model, part, **options)


def test_one_output_and_labels_of_0_and_1_are_asked_about():
    rows = Dataset.from_dict({"text": ["good", "bad"], "label": [1, 0]})
    options = {"tokenizer": make_tokenizer(), "speed": None}
    with pytest.raises(LabelSpaceError, match=r"a value \(regression\) or a class with a sigmoid"):
        measure(make_bert(1, labels={0: "LABEL_0"}), rows, **options)
    values = make_bert(1, labels={0: "LABEL_0"}, problem_type="regression")
    assert measure(values, rows, **options).student.metrics["mse"] > 0
    crossing = make_bert(1, labels={0: "LABEL_0"}, problem_type="multi_label_classification")
    several = Dataset.from_dict({"text": ["good", "bad"], "label": [[1.0], [0.0]]})
    logits = crossing(**make_tokenizer()(several["text"][:], padding=True, return_tensors="pt")).logits[:, 0]
    right = ((logits > 0) == torch.tensor([True, False])).float().mean().item()
    assert measure(crossing, several, **options).student.metrics["subset_accuracy"] == right
