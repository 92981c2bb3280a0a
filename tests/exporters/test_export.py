"""Exported students: what they answer, what the gate keeps back, and what the folder holds."""

import dataclasses
import importlib
import json
import pickletools
import re
import shutil
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import (
    BertForTokenClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LongformerConfig,
    LongformerForSequenceClassification,
)

from hfdistill import (
    ExportReport,
    QualityGateError,
    bilstm_from_teacher,
    cnn_from_teacher,
    export,
    static_from_teacher,
)
from hfdistill.exporters.onnx import OnnxModel, check_file, int8_layers, require_packages, to_int8
from hfdistill.exporters.report import TEXTS, USAGE
from hfdistill.files.checkpoint import verify
from tests.conftest import make_bert, make_dataset, make_tokenizer

try:
    require_packages()
except ModuleNotFoundError as missing:
    pytest.skip(str(missing), allow_module_level=True)

gate = importlib.import_module("hfdistill.exporters.gate")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A student in a folder, its teacher, and its export with both; torch.export takes seconds."""
    folder = tmp_path_factory.mktemp("export")
    student = make_bert(2, seed=2)
    student.config._name_or_path = str(folder)
    student.save_pretrained(folder / "student")
    make_tokenizer().save_pretrained(folder / "student")
    report = export(
        folder / "student", folder / "onnx", data=make_dataset(40), max_drop=20, speed=False,
        teacher=make_bert(4, seed=1, labels={0: "positive", 1: "negative"}),
    )  # fmt: skip
    return folder, report


@pytest.fixture
def quick(made, monkeypatch):
    """The exporter's file without the exporter."""
    monkeypatch.setattr(
        gate, "to_onnx", lambda model, path, *, inputs: shutil.copy(made[0] / "onnx/model.onnx", path)
    )
    return made[0]


def rows(lengths, *, seed=0):
    draw = torch.Generator().manual_seed(seed)
    ids = [torch.randint(1, 36, (n,), generator=draw) for n in lengths]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    return {"input_ids": padded, "attention_mask": (padded > 0).long()}


def test_float32_gives_the_logits_of_pytorch_on_1000_inputs(made):
    """5 lengths, batches of 1 to 8."""
    folder, report = made
    student, exported = make_bert(2, seed=2), OnnxModel(folder / "onnx" / "model.onnx")
    seen, worst = 0, 0.0
    while seen < 1000:
        batch = rows([(3, 8, 17, 25, 32)[(seen + i) % 5] for i in range(seen % 8 + 1)], seed=seen)
        with torch.no_grad():
            expected = student(**batch).logits
        found = exported(**batch)["logits"]
        worst = max(worst, float((expected - found).abs().max()))
        assert torch.equal(expected.argmax(-1), found.argmax(-1))
        seen += len(expected)
    assert worst <= 1e-4
    assert report.of("onnx").max_difference <= 1e-4
    assert report.of("onnx").agreement == 1


def test_the_report_is_what_one_computes_by_hand(made):
    folder, report = made
    data, tokenizer = make_dataset(40), make_tokenizer()
    int8, student = OnnxModel(folder / "onnx" / "model_int8.onnx"), make_bert(2, seed=2)
    found, expected, start, size = [], [], 0, 1
    while start < 40:
        batch = tokenizer(data["text"][start : start + size], padding=True, return_tensors="pt")
        found.append(int8(**batch)["logits"].numpy())
        with torch.no_grad():
            expected.append(student(**batch).logits.numpy())
        start, size = start + size, size % 8 + 1
    found, expected = np.concatenate(found), np.concatenate(expected)
    told = report.of("int8")
    labels = np.array(data["label"])
    assert told.max_difference == pytest.approx(np.abs(found - expected).max(), abs=1e-6)
    assert told.agreement == (found.argmax(1) == expected.argmax(1)).mean()
    assert told.quality == (found.argmax(1) == labels).mean()
    lost = (expected.argmax(1) == labels).mean() - told.quality
    assert told.drop == pytest.approx(100 * lost, abs=1e-3)
    assert 0 < told.max_difference < 0.2
    assert told.size_mb == pytest.approx((folder / "onnx" / "model_int8.onnx").stat().st_size / 1e6, abs=1e-4)


def test_the_teacher_is_compared_in_the_students_class_order(made):
    _, report = made
    with torch.no_grad():
        texts = make_tokenizer()(make_dataset(40)["text"][:], padding=True, return_tensors="pt")
        teacher = make_bert(4, seed=1)(**texts).logits.flip(-1).argmax(-1)
        student = make_bert(2, seed=2)(**texts).logits.argmax(-1)
    assert report.of("pytorch").teacher_agreement == pytest.approx((teacher == student).float().mean().item())
    assert report.of("teacher").quality == pytest.approx(
        (teacher == torch.tensor(make_dataset(40)["label"])).float().mean().item()
    )


def test_the_folder_holds_what_it_says_and_nothing_of_this_machine(made):
    folder = made[0] / "onnx"
    names = ["README.md", "config.json", "export.json", "hfdistill.json", "model.onnx", "model_int8.onnx"]
    assert sorted(path.name for path in folder.iterdir()) == [*names, "tokenizer.json"]
    verify(folder)
    for path in folder.iterdir():
        content = path.read_bytes()
        assert str(made[0]).encode() not in content
        assert b"site-packages" not in content
        with pytest.raises(ValueError, match=r"."):  # no pickle
            list(pickletools.genops(content))
    for name in ("model.onnx", "model_int8.onnx"):
        check_file(folder / name)
    assert ExportReport.load(folder / "export.json") == made[1]
    assert not [path for path in made[0].iterdir() if path.name.startswith("_")]


def test_a_gate_that_lets_everything_pass_is_none(made):
    """A search for a goal has judged the file itself, and exports it whatever it loses."""
    assert "1 to 8; a loss over" in made[1].card("student")
    card = dataclasses.replace(made[1], max_drop=200.0).card("student")
    assert "in batches of 1 to 8. " in card
    assert "would have failed" not in card


def test_fifteen_lines_with_onnxruntime_and_a_tokenizer_alone(made, tmp_path):
    """The card's example, in a process that has neither torch nor Transformers nor this library."""
    (card_code,) = re.findall(r"```python\n(.*?)```", (made[0] / "onnx" / "README.md").read_text(), re.DOTALL)
    expected = USAGE.replace("FOLDER", "path/to/this/folder").replace("MODEL", "model_int8.onnx")
    assert card_code == expected.replace("TEXTS", TEXTS).replace("ANSWER", "names[str(logits.argmax())]")
    assert len([line for line in card_code.splitlines() if line.strip()]) <= 15
    code = card_code.replace("path/to/this/folder", str(made[0] / "onnx"))
    code += textwrap.dedent("""
        import sys
        assert not {"torch", "transformers", "hfdistill", "onnx"} & sys.modules.keys()
    """)
    (tmp_path / "example.py").write_text(code)
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert {line.split()[0] for line in lines} <= {"negative", "positive"}


@pytest.mark.parametrize("task", ["pairs", "multi_label", "regression"])
def test_the_cards_lines_print_what_a_student_of_this_task_answers(tmp_path, task):
    """They printed the highest of several labels where none holds, and fed single texts to one of pairs."""
    kinds = {"multi_label": "multi_label_classification", "regression": "regression"}
    names = {0: "value"} if task == "regression" else {0: "x", 1: "y"}
    student = make_bert(1, seed=3, labels=names, problem_type=kinds.get(task), num_labels=len(names))
    with torch.no_grad():
        student.classifier.bias -= 1.0 if task == "multi_label" else 0.0
    columns = {"text": make_dataset(8)["text"][:]}
    columns |= {"text_pair": columns["text"][::-1]} if task == "pairs" else {}
    data = Dataset.from_dict(columns)
    export(student, tmp_path / "o", data=data, tokenizer=make_tokenizer(), max_drop=100, speed=False)
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "o" / "README.md").read_text(), re.DOTALL)
    code = code.replace("path/to/this/folder", str(tmp_path / "o")).replace("model_int8", "model")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    texts = (["a film that warms the heart", "dull and flat"], ["a moving film", "never dull"])
    batch = make_tokenizer()(*texts[: 2 if task == "pairs" else 1], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = student(**batch).logits
    for line, row in zip(done.stdout.splitlines(), logits, strict=True):
        answer, numbers = re.fullmatch(r"(.+) \[(.+)\]", line).groups()
        torch.testing.assert_close(torch.tensor([*map(float, numbers.split())]), row, atol=1e-5, rtol=0)
        if task == "regression":
            assert float(answer) == pytest.approx(row.item(), abs=1e-5)
        elif task == "pairs":
            assert answer == names[int(row.argmax())]
        else:
            assert answer == str([names[i] for i in (0, 1) if row[i] > 0])


def test_the_saved_tokenizer_pads_and_cuts_as_transformers_does(made):
    from tokenizers import Tokenizer

    alone = Tokenizer.from_file(str(made[0] / "onnx" / "tokenizer.json"))
    texts = ["good film", "the plot " * 40, "it was very dull"]
    found = alone.encode_batch(texts)
    expected = make_tokenizer()(texts, padding=True, truncation=True, max_length=32)
    assert [e.ids for e in found] == expected["input_ids"]
    assert [e.attention_mask for e in found] == expected["attention_mask"]


def test_a_model_without_token_types_and_several_labels(tmp_path):
    config = DistilBertConfig(
        vocab_size=36, dim=16, n_layers=1, n_heads=4, hidden_dim=32, max_position_embeddings=32, num_labels=3,
        problem_type="multi_label_classification",
    )  # fmt: skip
    torch.manual_seed(0)
    student = DistilBertForSequenceClassification(config)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    texts = make_dataset(16)["text"]
    labels = [[float(i % 2), float(i % 3 == 0), 1.0] for i in range(16)]
    data = Dataset.from_dict({"text": texts, "label": labels})
    report = export(
        student, tmp_path / "o", data=data, tokenizer=make_tokenizer(), int8="blockwise", max_drop=100
    )
    assert report.metric == "subset_accuracy"
    assert OnnxModel(tmp_path / "o" / "model.onnx").inputs == ("input_ids", "attention_mask")
    assert report.of("int8").speed.latency_ms_p50 > 0
    assert "rows/s" in report.table()
    assert student.training, "a model given as an object stays as it was"
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


@pytest.mark.parametrize(
    "make", [partial(static_from_teacher, width=8), partial(cnn_from_teacher, filters=8)]
)
def test_a_light_student_of_pairs(tmp_path, make):
    student = make(make_bert(1), make_tokenizer(), pairs=True)
    report = export(student, tmp_path / "o", data=make_dataset(8), tokenizer=make_tokenizer(), speed=False)
    assert report.of("onnx").max_difference <= 1e-5
    assert report.of("int8").agreement == 1


@pytest.mark.parametrize(
    ("student", "match"),
    [
        (lambda: bilstm_from_teacher(make_bert(1), make_tokenizer()), "no ONNX form here"),
        (lambda: BertForTokenClassification(make_bert(1).config), "labels words"),
    ],
)
def test_students_without_an_onnx_form_are_refused(tmp_path, student, match):
    with pytest.raises(ValueError, match=match):
        export(student(), tmp_path / "o", data=make_dataset(8), tokenizer=make_tokenizer())
    assert list(tmp_path.iterdir()) == []


def test_regression_without_rows_is_compared_on_made_up_ones(tmp_path):
    student = make_bert(1, labels={0: "value"}, num_labels=1, problem_type="regression")
    report = export(student, tmp_path / "o", tokenizer=make_tokenizer(), int8=None)
    assert (report.rows, report.labelled_rows, report.metric) == (0, 0, "pearson")
    assert report.of("onnx").max_difference <= 1e-4
    assert [found.name for found in report.formats] == ["pytorch", "onnx"]
    assert "made-up rows alone" in (tmp_path / "o" / "README.md").read_text()


def wreck(source, path, *, scheme, floating=()):
    """An int8 file that answers the opposite."""
    import onnx
    from onnx import numpy_helper

    proto = onnx.load(str(source))
    for tensor in proto.graph.initializer:
        if tensor.name.endswith(("classifier.weight", "classifier.bias")):
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    onnx.save_model(proto, path)


def test_the_gate_keeps_a_bad_file_back_and_says_the_numbers(quick, monkeypatch, tmp_path):
    monkeypatch.setattr(gate, "to_int8", wreck)
    with pytest.raises(QualityGateError) as caught:
        export(quick / "student", tmp_path / "o", data=make_dataset(40).remove_columns("label"), speed=False)
    found = caught.value.report.of("int8")
    assert found.drop == pytest.approx(100)
    assert (
        "model_int8.onnx loses 100.00 points of agreement with the PyTorch student on 40 rows, more than"
        in str(caught.value)
    )
    assert "max_drop=0.5" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_gate_counts_points_of_accuracy(quick, monkeypatch, tmp_path):
    data = make_dataset(40)
    batch = make_tokenizer()(data["text"][:], padding=True, return_tensors="pt")
    with torch.no_grad():
        answers = make_bert(2, seed=2)(**batch).logits.argmax(-1).tolist()
    data = data.remove_columns("label").add_column("label", answers)  # the PyTorch student is always right
    monkeypatch.setattr(gate, "to_int8", wreck)
    with pytest.raises(
        QualityGateError, match=re.escape("100.00 points of accuracy (100.00 → 0.00) on 40 rows")
    ):
        export(quick / "student", tmp_path / "o", data=data, speed=False, max_drop=99.9)
    assert (
        export(quick / "student", tmp_path / "o", data=data, speed=False, max_drop=100).of("int8").quality
        == 0
    )


@pytest.mark.parametrize("labels", [{"label": [0.0, 1.0] * 8}, {}])
def test_8_bits_that_give_all_rows_one_number_do_not_pass(labels, monkeypatch, tmp_path):
    """Its correlation is not defined, which is no proof that nothing was lost."""
    import onnx

    def flatten(source, path, **_options):
        proto = onnx.load(str(source))
        for tensor in proto.graph.initializer:
            if tensor.name.endswith("classifier.weight"):
                zero = np.zeros(tuple(tensor.dims), np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(zero, tensor.name))
        onnx.save_model(proto, path)

    student = make_bert(1, labels={0: "value"}, num_labels=1, problem_type="regression")
    data = Dataset.from_dict({"text": make_dataset(16)["text"][:], **labels})
    monkeypatch.setattr(gate, "to_int8", flatten)
    with pytest.raises(QualityGateError, match=r"model_int8.onnx loses 100\.00 points") as caught:
        export(student, tmp_path / "o", data=data, tokenizer=make_tokenizer(), speed=False)
    assert caught.value.report.of("int8").drop == 100
    assert not (tmp_path / "o").exists()


def test_an_exporter_that_errs_is_found_out(made, monkeypatch, tmp_path):
    monkeypatch.setattr(
        gate, "to_onnx", lambda model, path, *, inputs: wreck(made[0] / "onnx/model.onnx", path, scheme="")
    )
    with pytest.raises(QualityGateError, match="the exporter does not know this architecture"):
        export(made[0] / "student", tmp_path / "o", data=make_dataset(8), int8=None)
    assert not (tmp_path / "o").exists()


def test_an_earlier_export_stays_until_the_new_one_has_passed(quick, monkeypatch, tmp_path):
    shutil.copytree(quick / "onnx", tmp_path / "o")
    before = {path.name: path.read_bytes() for path in (tmp_path / "o").iterdir()}
    monkeypatch.setattr(gate, "to_int8", wreck)
    with pytest.raises(QualityGateError):
        export(quick / "student", tmp_path / "o", data=make_dataset(40).remove_columns("label"), speed=False)
    assert {path.name: path.read_bytes() for path in (tmp_path / "o").iterdir()} == before
    monkeypatch.setattr(gate, "to_int8", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        export(quick / "student", tmp_path / "o", data=make_dataset(8), speed=False)
    assert {path.name: path.read_bytes() for path in (tmp_path / "o").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["o"]
    export(quick / "student", tmp_path / "o", data=make_dataset(8), int8=None)
    assert not (tmp_path / "o" / "model_int8.onnx").exists()


def test_what_a_killed_export_left_is_put_back(quick, tmp_path):
    shutil.copytree(quick / "onnx", tmp_path / "_unfinished_o" / "o.old")
    (tmp_path / "_unfinished_o" / "o").mkdir()
    with pytest.raises(ValueError, match="without a tokenizer"):
        export(make_bert(1), tmp_path / "o", data=make_dataset(8))
    export(quick / "student", tmp_path / "o", data=make_dataset(8), int8=None)
    assert [path.name for path in tmp_path.iterdir()] == ["o"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"data": None}, "nobody knows what that costs"),
        ({"data": make_dataset(8).select([])}, "nobody knows what that costs"),
        ({"max_drop": -1}, "points from 0 up"),
        ({"max_drop": float("nan")}, "points from 0 up"),
        ({"tokenizer": None}, "came without a tokenizer"),
        ({"tokenizer": type("Slow", (), {"model_max_length": 32})()}, "has no tokenizer.json"),
    ],
)
def test_refusals_come_before_any_work(monkeypatch, tmp_path, options, match):
    monkeypatch.setattr(gate, "to_onnx", lambda *a, **k: pytest.fail("the exporter ran"))
    told = {"data": make_dataset(8), "tokenizer": make_tokenizer(), **options}
    with pytest.raises(ValueError, match=match):
        export(make_bert(1), tmp_path / "o", **told)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match="holds other things than an export"):
        export(make_bert(1), tmp_path / "o", data=make_dataset(8), tokenizer=make_tokenizer())
    assert (tmp_path / "o" / "thesis.txt").read_text() == "x"


@pytest.mark.parametrize("folder", [".", "..", "../here"])
def test_the_working_folder_stays(monkeypatch, tmp_path, folder):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ValueError, match="working folder cannot be replaced"):
        export(make_bert(1), folder, data=make_dataset(8), tokenizer=make_tokenizer())
    assert (tmp_path / "here").is_dir()


def test_d15_files_that_reach_outside_are_refused(made, tmp_path):
    import onnx

    proto = onnx.load(str(made[0] / "onnx" / "model.onnx"))
    onnx.save_model(
        proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    with pytest.raises(ValueError, match="weights in other files"):
        check_file(tmp_path / "m.onnx")
    proto = onnx.load(str(made[0] / "onnx" / "model.onnx"))
    proto.opset_import.add(domain="evil.custom", version=1)
    onnx.save_model(proto, tmp_path / "n.onnx")
    with pytest.raises(ValueError, match=r"evil\.custom"):
        check_file(tmp_path / "n.onnx")


def test_without_the_extra_it_says_what_to_type(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'hfdistill[export]'")):
        export(make_bert(1), tmp_path / "o", data=make_dataset(8))


def test_a_report_with_other_fields_is_refused(made, tmp_path):
    content = json.loads((made[0] / "onnx" / "export.json").read_text())
    content["formats"][0]["size_mb"] = "x"
    Path(tmp_path / "export.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"export\.formats\[0\]\.size_mb should be float"):
        ExportReport.load(tmp_path / "export.json")


def test_from_the_command_line(quick, tmp_path, capsys):
    from hfdistill.cli import main

    make_dataset(40).to_parquet(tmp_path / "validation.parquet")
    words = [
        "export",
        str(quick / "student"),
        str(tmp_path / "o"),
        "--data",
        str(tmp_path / "validation.parquet"),
    ]
    assert main([*words, "--no-speed", "--max-drop", "100", "--rows", "20"]) == 0
    assert "int8" in capsys.readouterr().out
    assert ExportReport.load(tmp_path / "o" / "export.json").rows == 20


def test_windows_of_attention_have_no_onnx_form(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LongformerForSequenceClassification(LongformerConfig(attention_window=8, vocab_size=36, **sizes))
    with pytest.raises(ValueError, match="LongformerForSequenceClassification attends in windows"):
        export(model, tmp_path / "onnx", data=make_dataset(4), tokenizer=make_tokenizer())


def test_what_the_exporter_does_not_get_through_is_said_in_one_line(made, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("Could not guard\non data")

    monkeypatch.setattr("transformers.exporters.exporter_onnx.OnnxExporter.export", fail)
    with pytest.raises(ValueError, match=r"BertForSequenceClassification cannot be.*\(Could not guard\)"):
        export(made[0] / "student", tmp_path / "onnx", data=make_dataset(4))


def test_attention_is_written_as_two_products_and_a_softmax(made):
    """`scaled_dot_product_attention` has a `Where` a layer, for rows that may look at nothing."""
    import onnx

    nodes = onnx.load(str(made[0] / "onnx" / "model.onnx")).graph.node
    made_by = {output: node.op_type for node in nodes for output in node.output}
    count = {kind: sum(node.op_type == kind for node in nodes) for kind in ("Softmax", "IsNaN", "MatMul")}
    assert (count["Softmax"], count["IsNaN"], count["MatMul"]) == (2, 0, 2 * 8)
    after = [node.op_type for node in nodes if "Softmax" in {made_by.get(name) for name in node.input}]
    assert after == ["MatMul", "MatMul"]
    products = {node.output[0] for node in nodes if node.op_type == "MatMul" and "Softmax" in
                {made_by.get(name) for name in node.input}}  # fmt: skip
    assert {n.op_type for n in nodes if products & set(n.input)} == {"Transpose"}


def test_layers_that_lose_most_stay_float32_until_the_gate_passes(quick, monkeypatch, tmp_path):
    """The classifier alone is ruined by 8 bits here: it is found, left as it is, and told."""
    written = []

    def ruined(source, path, *, scheme, floating=()):
        written.append(sorted(floating))
        (shutil.copy(source, path) if "classifier" in floating else wreck(source, path, scheme=scheme))

    monkeypatch.setattr(gate, "to_int8", ruined)
    data = make_dataset(40).remove_columns("label")
    with pytest.raises(TypeError, match=r"^export\(calibration=\) needs a datasets\.Dataset.*found a list"):
        export(quick / "student", tmp_path / "o", data=data, calibration=["a good film"])
    with pytest.raises(TypeError, match=r"^export needs a datasets\.Dataset.*found a IterableDataset"):
        export(quick / "student", tmp_path / "o", data=data.to_iterable_dataset())
    report = export(quick / "student", tmp_path / "o", data=data, calibration=make_dataset(8), speed=False)
    mixed = report.of("int8").mixed
    assert (mixed.floating[0], len(mixed.floating), mixed.layers) == ("classifier", 3, 17)
    assert (mixed.drop, mixed.calibration_rows, report.of("int8").drop) == (100, 8, 0)
    assert written[0] == []
    assert [len(each) for each in written[1:-1]] == [16] * 17, "each layer is rounded alone"
    assert written[-1] == sorted(mixed.floating)
    assert "3 of 17 layers stay float32 (classifier, " in " ".join(report.table().split())
    assert ExportReport.load(tmp_path / "o" / "export.json") == report


def test_layers_left_floating_are_not_rounded(made, tmp_path):
    import onnx

    source = made[0] / "onnx" / "model.onnx"
    layers = int8_layers(source)
    assert {"bert.embeddings.word_embeddings", "bert.pooler.dense", "classifier"} <= set(layers)
    kept = [name for name in layers if "embeddings" not in name][:6]
    to_int8(source, tmp_path / "m.onnx", scheme="dynamic", floating=kept)
    nodes = onnx.load(str(tmp_path / "m.onnx")).graph.node
    assert {node.name for node in nodes if node.op_type in ("MatMul", "Gemm")} >= set(kept)
    assert sum(node.op_type == "MatMulInteger" for node in nodes) == 6 + 2


def test_an_engine_has_its_own_ways_to_8_bits(tmp_path):
    for engine, int8 in (("openvino", "dynamic"), ("onnx", "static"), ("tflite", "auto")):
        with pytest.raises(ValueError, match="engine"):
            export(make_bert(1), tmp_path / "o", data=make_dataset(8), engine=engine, int8=int8)
