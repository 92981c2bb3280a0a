"""The README's code runs as it stands: Hub ids are folders of tiny models, relative to where it runs."""

import re
from pathlib import Path

import pytest

from tests.conftest import make_bert, make_byte_tokenizer, make_dataset, make_roberta, make_tokenizer

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning")  # plain TrainingArguments on a CPU
def test_python_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    teacher = tmp_path / "textattack" / "bert-base-uncased-SST-2"
    make_bert(6, seed=1).save_pretrained(teacher)
    make_tokenizer().save_pretrained(teacher)
    other = tmp_path / "textattack" / "roberta-base-SST-2"
    make_roberta().save_pretrained(other)
    make_byte_tokenizer().save_pretrained(other)
    (tmp_path / "stanfordnlp" / "sst2").mkdir(parents=True)
    make_dataset(32).to_parquet("stanfordnlp/sst2/train.parquet")
    make_dataset(20).to_parquet("stanfordnlp/sst2/validation.parquet")
    assert len(BLOCKS) == 12
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})  # noqa: S102
    said = capsys.readouterr().out
    assert "agreement" in said
    assert "'label'" in said
    assert "['bad', 'good']" in said
    assert "0.1 * CrossEntropy() + 0.9 * KD(temperature=2) + 0.5 * Margin()" in said


def test_nothing_is_left_to_fill_in():
    assert not re.findall(r"\b(?:TIME|QUICKSTART|SST2|TIMING)_[A-Z]+\b", README.read_text(encoding="utf-8"))


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target
