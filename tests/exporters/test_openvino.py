"""Students for OpenVINO: what they answer, and what is refused of their files."""

import re
import shutil
import subprocess
import sys

import pytest
import torch

from hfdistill import export
from hfdistill.exporters import OpenVinoModel
from hfdistill.exporters.openvino import check_openvino_file, require_openvino
from hfdistill.files.checkpoint import verify
from hfdistill.prediction.predictor import load_predictor
from tests.conftest import make_bert, make_dataset, make_tokenizer


def is_missing():
    try:
        require_openvino()
    except ModuleNotFoundError:
        return True
    return False


needs_openvino = pytest.mark.skipif(is_missing(), reason="hfdistill[openvino] is not installed")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("openvino") / "o"
    report = export(
        make_bert(2, seed=2), folder, data=make_dataset(40), calibration=make_dataset(20), max_drop=20,
        tokenizer=make_tokenizer(), engine="openvino", speed=False,
    )  # fmt: skip
    return folder, report


def test_without_the_extra_it_says_what_to_type(monkeypatch, tmp_path):
    monkeypatch.setattr("hfdistill.exporters.openvino.PACKAGES", ("openvino", "no_such_nncf"))
    monkeypatch.setattr("hfdistill.exporters.gate.require_packages", lambda: None)
    with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'hfdistill[openvino]'")):
        export(make_bert(1), tmp_path / "o", data=make_dataset(8), engine="openvino")
    assert list(tmp_path.iterdir()) == []


def hostile(path, text, *, weights=b"0123"):
    path.write_text(text)
    path.with_suffix(".bin").write_bytes(weights)
    return path


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('<!DOCTYPE net [<!ENTITY a "b">]><net/>', "document type"),
        ('<net><layers><layer type="Run" version="extension"/></layers></net>', "'Run' of 'extension'"),
        ('<net><layer type="Const" version="opset1"><data offset="2" size="3"/></layer></net>', "file of 4"),
        ('<net><layer type="Const" version="opset1"><data offset="-1" size="3"/></layer></net>', "file of 4"),
        ('<net><layer type="Const" version="opset1"><data offset="x" size="3"/></layer></net>', "invalid"),
        ("<net><layers>", "no element found"),
    ],
)
def test_hostile_files_are_refused_before_openvino_reads_them(tmp_path, text, match):
    with pytest.raises(ValueError, match=match):
        check_openvino_file(hostile(tmp_path / "m.xml", text))


def test_weights_that_are_missing_or_lie_elsewhere_are_refused(tmp_path):
    path = hostile(tmp_path / "m.xml", "<net/>")
    check_openvino_file(path)
    path.with_suffix(".bin").rename(tmp_path / "w")
    with pytest.raises(ValueError, match=r"no m\.bin beside"):
        check_openvino_file(path)
    path.with_suffix(".bin").symlink_to(tmp_path / "w")
    with pytest.raises(ValueError, match=r"no m\.bin beside"):
        check_openvino_file(path)


@needs_openvino
def test_both_files_answer_as_the_student(made):
    folder, report = made
    names = {path.name for path in folder.iterdir()}
    assert {f"openvino_model{kind}.{end}" for kind in ("", "_int8") for end in ("xml", "bin")} <= names
    assert not {name for name in names if name.endswith(".onnx")}
    verify(folder)
    assert [each.name for each in report.formats] == ["pytorch", "openvino", "openvino_int8"]
    assert report.of("openvino").max_difference <= 1e-4
    assert 1e-4 < report.of("openvino_int8").max_difference < 0.2
    assert set(report.versions) == {"openvino", "nncf"}
    texts = make_dataset(40)["text"][:8]
    with torch.no_grad():
        expected = make_bert(2, seed=2)(**make_tokenizer()(texts, padding=True, return_tensors="pt")).logits
    predicted = load_predictor(folder).predict({"text": texts})
    torch.testing.assert_close(torch.stack(predicted), expected, atol=1e-4, rtol=1e-4)
    int8 = OpenVinoModel(folder / "openvino_model_int8.xml")
    answers = int8(**make_tokenizer()(texts, padding=True, return_tensors="pt"))["logits"]
    torch.testing.assert_close(answers, expected, atol=0.2, rtol=0)


@needs_openvino
def test_the_cards_lines_run_without_torch_and_this_library(made, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (made[0] / "README.md").read_text(), re.DOTALL)
    code = code.replace("path/to/this/folder", str(made[0]))
    code += '\nimport sys\nassert not {"torch", "transformers", "hfdistill", "nncf"} & sys.modules.keys()\n'
    (tmp_path / "example.py").write_text(code)
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()} <= {"negative", "positive"}


@needs_openvino
def test_a_file_that_was_cut_short_is_refused(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "o")
    weights = tmp_path / "o" / "openvino_model.bin"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ValueError, match="in a file of"):
        load_predictor(tmp_path / "o")
