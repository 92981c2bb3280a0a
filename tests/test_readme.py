"""The code of README and guide runs as it stands: Hub ids are folders of tiny models where it runs."""

import re
from pathlib import Path

import pytest
from transformers import BertModel

from tests.conftest import make_bert, make_byte_tokenizer, make_dataset, make_roberta, make_tokenizer

README = Path(__file__).parents[1] / "README.md"
GUIDE = README.parent / "recipes" / "README.md"
PAGES = (README, GUIDE)
BLOCKS = [
    block
    for page in PAGES
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
]


@pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning")  # plain TrainingArguments on a CPU
def test_python_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "cache"))
    teacher = tmp_path / "textattack" / "bert-base-uncased-SST-2"
    make_bert(6, seed=1).save_pretrained(teacher)
    make_tokenizer().save_pretrained(teacher)
    other = tmp_path / "textattack" / "roberta-base-SST-2"
    make_roberta().save_pretrained(other)
    make_byte_tokenizer().save_pretrained(other)
    for encoder in ("all-mpnet-base-v2", "all-MiniLM-L6-v2"):
        BertModel(make_bert(2).config).save_pretrained(tmp_path / "sentence-transformers" / encoder)
        make_tokenizer().save_pretrained(tmp_path / "sentence-transformers" / encoder)
    (tmp_path / "reviews.txt").write_text("a warm film\nthe plot is dull\n" * 8)
    (tmp_path / "stanfordnlp" / "sst2").mkdir(parents=True)
    make_dataset(32).to_parquet("stanfordnlp/sst2/train.parquet")
    make_dataset(20).to_parquet("stanfordnlp/sst2/validation.parquet")
    assert len(BLOCKS) == 14
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})  # noqa: S102
    said = capsys.readouterr().out
    assert "agreement" in said
    assert "'label'" in said
    assert "['bad', 'good']" in said
    assert "0.1 * CrossEntropy() + 0.9 * KD(temperature=2) + 0.5 * Margin()" in said


def test_readme_is_short_and_finished():
    text = README.read_text(encoding="utf-8")
    assert len(text.split()) <= 1500
    assert "@@" not in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
        other = page.parent / target if target else page
        assert other.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", other.read_text(encoding="utf-8"), flags=re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{target}#{anchor}"
