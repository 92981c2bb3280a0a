"""`hfdistill shrink`: a student that is cut and fitted, without any training."""

import pytest
from transformers import AutoTokenizer

import hfdistill
from hfdistill.cli import main
from hfdistill.cli.shrink import _layers
from tests.conftest import make_sentences
from tests.recipe import material


@pytest.fixture
def here(tmp_path, monkeypatch):
    material.make(tmp_path)
    lines = [f"{text} {number}" for number, (text, _label) in enumerate(make_sentences(40))]
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_it_writes_a_student_with_report_and_card(here, capsys):
    words = ["shrink", "teacher", "small", "--layers", "1,3", "--fit", "texts.txt", "--data", "two"]
    assert main(words) == 0
    assert "M parameters, not trained" in capsys.readouterr().out
    student = hfdistill.load_classifier("small")
    assert student.config.shrunk_from["layers"] == [1, 3]
    assert student.config.shrunk_from["fitted_on"] == 40
    assert "fitted to it by least squares on texts, not trained," in (here / "small/README.md").read_text()
    assert hfdistill.Report.load("small/report.json")
    assert AutoTokenizer.from_pretrained("small")("a film")["input_ids"]
    assert main(words) == 1
    assert "holds a model. Type --overwrite" in capsys.readouterr().err


def test_it_says_what_to_type(here, capsys):
    assert main(["shrink", "teacher", "small", "--layers", "x"]) == 1
    assert "Type --layers 3, or 2,4,6" in capsys.readouterr().err
    assert main(["shrink", "teacher", "small", "--layers", "2", "--choose-layers"]) == 1
    assert "Type --fit TEXTS, too" in capsys.readouterr().err
    assert main(["shrink", "teacher", "small", "--layers", "2"]) == 0
    assert "Type --data with labelled rows" in capsys.readouterr().out


@pytest.mark.parametrize("size", [("--width", "8"), ("--heads", "2"), ("--ffn", "16"), ("--size", "tiny")])
def test_sizes_that_are_measured_ask_for_texts_by_their_flag(here, capsys, size):
    """The advice was that of Python: pass data=[tokenizer(…)]."""
    assert main(["shrink", "teacher", "small", *size]) == 1
    assert f"{size[0]} keeps is measured on texts. Type --fit TEXTS, too." in capsys.readouterr().err


def test_layers_are_a_number_or_numbers_or_none():
    assert [_layers(text) for text in (None, "3", "2, 4,6")] == [None, 3, [2, 4, 6]]


def test_a_teacher_is_not_replaced_by_its_student(here, capsys):
    before = (here / "teacher/model.safetensors").read_bytes()
    assert main(["shrink", "teacher", "teacher/../teacher", "--layers", "2", "--overwrite"]) == 1
    assert "is the teacher, which the student would replace. Type another folder." in capsys.readouterr().err
    assert (here / "teacher/model.safetensors").read_bytes() == before
