"""The part of test_two_recipes: each process runs recipes/sst2.py, and what it prints is kept."""

import os
import runpy
import sys
from pathlib import Path

import pytest
from transformers import BertModel

from hfdistill.evaluation import plots
from hfdistill.files.plain_data import write_atomically
from tests.conftest import DOT, make_bert, make_dataset, make_tokenizer
from tests.distributed.launched import ROOT


def make_material(folder: Path) -> Path:
    """Two splits of parquet, a fine-tuned teacher, and an encoder."""
    (folder / "data").mkdir()
    make_dataset(64).to_parquet(folder / "data" / "train.parquet")
    make_dataset(20).to_parquet(folder / "data" / "validation.parquet")
    teacher = make_bert(4, seed=1)
    teacher.save_pretrained(folder / "teacher")
    BertModel(teacher.config).save_pretrained(folder / "encoder")
    for name in ("teacher", "encoder"):
        make_tokenizer().save_pretrained(folder / name)
    return folder


def sst2_arguments(material: Path, out: Path) -> list[str]:
    arguments = {"dataset": material / "data", "teacher": material / "teacher", "output_dir": out}
    arguments |= {"layers": 2, "use_cpu": "true", "bf16": "false"}
    return [part for name, value in arguments.items() for part in (f"--{name}", str(value))]


def main(folder: Path, processes: int) -> None:
    if processes == 1:  # test_recipes does
        return
    words = ["sst2.py", *sst2_arguments(folder, folder / "out"), "--max_steps", "2"]
    with (
        pytest.MonkeyPatch.context() as patch,
        (folder / f"printed-{os.environ['RANK']}.txt").open("w") as out,
    ):
        patch.setattr(sys, "argv", words)
        patch.setattr(sys, "stdout", out)
        patch.setattr(plots, "write_picture", lambda make, path: write_atomically(path, DOT))
        runpy.run_path(str(ROOT / "recipes" / "sst2.py"), run_name="__main__")
