"""Students with exits as one ONNX graph a stage: the same logits, the same exits, in any batches."""

import importlib
import json
import re
import subprocess
import sys

import pytest
import torch
from datasets import Dataset

from hfdistill import ExportReport, QualityGateError, StagedModel, export, with_exits
from hfdistill.cli import main
from hfdistill.exporters.onnx import int8_layers, require_packages
from hfdistill.exporters.stages import heads_of, to_stages
from hfdistill.files.checkpoint import verify
from hfdistill.prediction.predictor import load_predictor
from tests.conftest import make_bert, make_dataset, make_tokenizer
from tests.students.test_early_exit import MODELS, build, middle_threshold
from tests.students.test_early_exit import batch as rows_of_many_lengths

try:
    require_packages()
except ModuleNotFoundError as missing:
    pytest.skip(str(missing), allow_module_level=True)


def make_student():
    """Two layers and an exit after the first, at which some rows leave."""
    torch.manual_seed(0)
    model = with_exits(make_bert(2, seed=2))
    with torch.no_grad():
        for head in model.exits.values():
            for layer in (head.narrow, head.value, head.dense, head.classifier):
                layer.weight.mul_(5)
    model.exit_threshold = 0.25  # 20 of 40 rows leave; none is within 0.02 of it
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    make_student().save_pretrained(folder / "student")
    make_tokenizer().save_pretrained(folder / "student")
    report = export(folder / "student", folder / "onnx", data=make_dataset(40), max_drop=20, speed=False)
    return folder, report


@pytest.fixture(scope="module")
def answers():
    """What the student in PyTorch answers to 40 rows, one by one, and where they leave."""
    student, tokenizer = make_student(), make_tokenizer()
    with torch.no_grad():
        outputs = [student(**tokenizer(text, return_tensors="pt")) for text in make_dataset(40)["text"]]
    return torch.cat([o.logits for o in outputs]), torch.cat([o.exit_layers for o in outputs])


def batches(size, rows=40):
    texts = make_dataset(rows)["text"][:]
    return [
        make_tokenizer()(texts[i : i + size], padding=True, return_tensors="pt") for i in range(0, rows, size)
    ]


def test_rows_leave_where_they_leave_in_pytorch_with_the_same_logits(made, answers):
    logits, layers = answers
    assert set(layers.tolist()) == {1, 2}, "some rows leave, and some stay"
    model = StagedModel(made[0] / "onnx")
    for size in (1, 7, 40):
        found = [model(**batch) for batch in batches(size)]
        torch.testing.assert_close(torch.cat([f["logits"] for f in found]), logits, atol=1e-4, rtol=0)
        assert torch.cat([f["exit_layers"] for f in found]).tolist() == layers.tolist()
    found = model(**{name: ids.to(torch.int32) for name, ids in batches(7)[0].items()})
    torch.testing.assert_close(found["logits"], logits[:7], atol=1e-4, rtol=0)


def test_rows_of_several_batches_go_on_together(made, answers):
    logits, layers = answers
    model = StagedModel(made[0] / "onnx")
    sizes = [[], []]

    def counted(number, run):
        def inner(names, feed):
            sizes[number].append(len(feed["attention_mask"]))
            return run(names, feed)

        return inner

    class Counting:
        def __init__(self, number, session):
            self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs
            self.run = counted(number, session.run)

    model.sessions = [Counting(number, session) for number, session in enumerate(model.sessions)]
    found, where = model.predict(batches(8), batch_size=8)
    torch.testing.assert_close(found, logits, atol=1e-4, rtol=0)
    assert where.tolist() == layers.tolist()
    going = [sum(layer > n for layer in layers.tolist()) for n in range(2)]
    assert [sum(each) for each in sizes] == going, "each stage computes the rows that were left, once"
    assert sizes[0] == [8] * 5
    assert len(sizes[1]) > 1
    assert sizes[1][:-1] == [8] * (len(sizes[1]) - 1)


def test_a_lower_threshold_can_be_named_when_the_files_are_run(made):
    never = StagedModel(made[0] / "onnx", threshold=1e-9)
    found, where = never.predict(batches(40))
    with torch.no_grad():
        expected = make_student().backbone(**batches(40)[0]).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert set(where.tolist()) == {2}
    for wrong in (0, 1.5, True):
        with pytest.raises(ValueError, match="above 0 and up to 1"):
            StagedModel(made[0] / "onnx", threshold=wrong)


def test_the_report_says_where_rows_leave(made, answers):
    folder, report = made
    layers = answers[1].float()
    assert report.of("pytorch").exits.mean_layers == pytest.approx(layers.mean().item(), abs=1e-4)
    exits = report.of("onnx").exits
    assert (exits.threshold, exits.depth, exits.agreement) == (0.25, 2, 1.0)
    assert report.of("onnx").max_difference <= 1e-4
    assert report.of("onnx").file == "stage_*.onnx"
    assert report.of("int8").file == "int8_stage_*.onnx"
    found, where = StagedModel(folder / "onnx" / "int8_stage_01.onnx").predict(batches(8), batch_size=8)
    assert (found.argmax(-1) == answers[0].argmax(-1)).float().mean() >= 0.8
    assert (where == layers).float().mean() >= 0.6
    assert report.of("int8").exits.agreement >= 0.6
    sizes = [path.stat().st_size for path in (folder / "onnx").glob("stage_*.onnx")]
    assert report.of("onnx").size_mb == pytest.approx(sum(sizes) / 1e6, abs=1e-4)
    assert "below 0.25, after so many of 2 layers on average: " in " ".join(report.table().split())
    assert ExportReport.load(folder / "onnx" / "export.json") == report


def test_each_file_holds_its_own_blocks_alone(made):
    folder = made[0] / "onnx"
    verify(folder)
    names = {path.name for path in folder.iterdir()}
    assert {f"{kind}stage_0{n}.onnx" for kind in ("", "int8_") for n in (1, 2)} <= names
    assert "model.onnx" not in names
    for number in (1, 2):
        layers = int8_layers(folder / f"stage_0{number}.onnx")
        blocks = {name.split(".layer.")[1].split(".")[0] for name in layers if ".layer." in name}
        assert blocks == {str(number - 1)}
        assert any("word_embeddings" in name for name in layers) == (number == 1)
        assert any(name == f"exits.{number}.dense" for name in layers) == (number < 2)
        assert any(name == "backbone.classifier" for name in layers) == (number == 2)


def test_the_cards_lines_run_without_torch_and_this_library(made, tmp_path, answers):
    (code,) = re.findall(r"```python\n(.*?)```", (made[0] / "onnx" / "README.md").read_text(), re.DOTALL)
    assert "int8_stage_*.onnx" in code
    code = code.replace("path/to/this/folder", str(made[0] / "onnx")).replace("int8_stage", "stage")
    texts = make_dataset(40)["text"][:]
    code = re.sub(r"encode_batch\(\[.*\]\)", f"encode_batch({texts!r})", code)
    code += '\nimport sys\nassert not {"torch", "transformers", "hfdistill", "onnx"} & sys.modules.keys()\n'
    code += "print(json.dumps([[float(x) for x in answers[row]] for row in range(len(texts))]))\n"
    (tmp_path / "example.py").write_text(code)
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    torch.testing.assert_close(found, answers[0], atol=1e-4, rtol=0)


def test_predictions_of_a_file_by_the_command_line(made, answers, tmp_path):
    data = make_dataset(40)
    predicted = load_predictor(made[0] / "onnx", batch_size=8).predict({"text": data["text"][:]})
    torch.testing.assert_close(torch.stack(predicted), answers[0], atol=1e-4, rtol=0)
    last = load_predictor(made[0] / "onnx" / "stage_02.onnx").predict({"text": data["text"][:8]})
    torch.testing.assert_close(torch.stack(last), answers[0][:8], atol=1e-4, rtol=0)
    Dataset.from_dict({"text": data["text"][:]}).to_csv(tmp_path / "rows.csv")
    words = ["predict", str(made[0] / "onnx"), str(tmp_path / "rows.csv"), "--out", str(tmp_path / "o.jsonl")]
    assert main(words) == 0
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    names = make_student().config.id2label
    assert [row["prediction"] for row in rows] == [names[int(i)] for i in answers[0].argmax(-1)]


def test_stages_that_are_missing_are_refused(made, tmp_path):
    for path in (made[0] / "onnx").iterdir():
        if path.name != "stage_02.onnx":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"holds 1 files of stages, and its config.json has exits at \[1\]"):
        StagedModel(tmp_path)


@pytest.mark.parametrize(
    ("student", "options", "match"),
    [
        (lambda: with_exits(make_bert(2)), {}, "exits and no threshold"),
        (lambda: with_exits(make_bert(2)), {"exit_threshold": 1.5}, "above 0 and up to 1"),
        (lambda: with_exits(make_bert(2)), {"exit_threshold": "0.3"}, "above 0 and up to 1"),
        (lambda: make_bert(2), {"exit_threshold": 0.3}, "BertForSequenceClassification has no exits"),
        (make_student, {"engine": "openvino"}, "run by ONNX Runtime alone"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(tmp_path, monkeypatch, student, options, match):
    monkeypatch.setattr("hfdistill.exporters.gate.to_onnx", lambda *a, **k: pytest.fail("the exporter ran"))
    monkeypatch.setattr("hfdistill.exporters.gate.to_stages", lambda *a, **k: pytest.fail("the exporter ran"))
    monkeypatch.setattr("hfdistill.exporters.gate.require_openvino", lambda: None)
    with pytest.raises(ValueError, match=match):
        export(student(), tmp_path / "o", data=make_dataset(8), tokenizer=make_tokenizer(), **options)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_logit_at_any_head_is_refused_though_no_row_leaves_there(made, monkeypatch, tmp_path):
    """The gate compares all heads, and not those alone at which these rows leave."""
    import shutil

    import onnx
    from onnx import numpy_helper

    def broken(model, folder, *, inputs):
        for path in (made[0] / "onnx").glob("stage_*.onnx"):
            shutil.copy(path, folder)
        proto = onnx.load(str(folder / "stage_01.onnx"))
        for tensor in proto.graph.initializer:
            if tensor.name.endswith("exits.1.classifier.weight"):
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, tensor.name))
        onnx.save_model(proto, folder / "stage_01.onnx")
        return sorted(folder.glob("stage_*.onnx"))

    monkeypatch.setattr("hfdistill.exporters.gate.to_stages", broken)
    options = {"data": make_dataset(8), "int8": None, "exit_threshold": 1e-6}
    with pytest.raises(
        QualityGateError, match=r"stage_\*\.onnx differs from the PyTorch student by up to 2\."
    ):
        export(made[0] / "student", tmp_path / "o", **options)
    assert not (tmp_path / "o").exists()


def test_layers_that_stay_float32_are_named_with_their_stage(made, monkeypatch, tmp_path):
    """Nodes of two stages may have one name."""
    import shutil

    gate = "hfdistill.exporters.gate"

    def rounded(source, path, *, scheme, floating=()):
        shutil.copy(source, path)
        kept[path.name].append(sorted(floating))

    sources = sorted((made[0] / "onnx").glob("stage_*.onnx"))
    kept = {f"int8_{source.name}": [] for source in sources}
    monkeypatch.setattr(f"{gate}.to_int8", rounded)
    eight = importlib.import_module(gate).EightBits(
        "onnx", "dynamic", sources, [tmp_path / name for name in kept], []
    )
    layers = eight.layers()
    assert len(set(layers)) == len(layers) == sum(len(int8_layers(source)) for source in sources)
    shutil.copy(made[0] / "onnx" / "config.json", tmp_path)
    eight.write(tmp_path, [layers[1], layers[-1]])
    first, last = int8_layers(sources[0])[1], int8_layers(sources[1])[-1]
    assert kept == {"int8_stage_01.onnx": [[first]], "int8_stage_02.onnx": [[last]]}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_every_architecture_with_exits(tmp_path, kind):
    """python -m pytest tests/exporters/test_stages.py -m slow"""
    _, model = build(kind)
    inputs = rows_of_many_lengths()
    model.exit_threshold = middle_threshold(model, inputs)
    model.config.save_pretrained(tmp_path)
    to_stages(model, tmp_path, inputs=("input_ids", "attention_mask", "token_type_ids"))
    staged = StagedModel(tmp_path)
    with torch.no_grad():
        expected, heads = model(**inputs), heads_of(model)(**inputs)["logits"]
    found = staged(**inputs)
    torch.testing.assert_close(found["logits"], expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(staged.heads(**inputs)["logits"], heads, atol=1e-4, rtol=1e-4)
    assert found["exit_layers"].tolist() == expected.exit_layers.tolist()
