"""Files that were changed at random are read, or refused by an error of ours: never another, never late."""

import random
import shutil
import time

import pytest

import hfdistill
from hfdistill import CheckpointError, Report
from hfdistill.data.csv_files import CsvRows, csv_layout
from hfdistill.files.checkpoint import publish, read_manifest
from hfdistill.recipe import read_recipe
from hfdistill.teachers.text.files import answers_from
from tests.conftest import make_report

PAGE = """# a page
teacher: {finetune: {encoder: a/b, epochs: 2}}
student: {shrink: {layers: [1, 3], fit: true}}
data: {source: a/c, text: review, evaluation_rows: 100, augment: [delete: {p: 0.1}]}
objective:
  - cross_entropy: {weight: 0.5}
  - kd: {weight: {linear: {start: 0.2, end: 1}}, temperature: 4}
training:
  output_dir: out
  learning_rate: 5e-5
measure: {speed: false}
export: {int8: dynamic}
label_map: {bad: good}
"""
CSV = 'text,label\r\n"a, film",good\r\n"two\r\nlines ""so""",bad\r\n  ,good\r\n' + "the cast,bad\r\n" * 30
ANSWERS = "".join(
    f'{{"text": "film {i}", "probabilities": {{"bad": 0.{i % 10}, "good": {1 - i % 10 / 10:.1f}}}}}\n'
    for i in range(20)
)
PIECES = (b"\0", b'"', b"'", b"\n", b"\r", b",", b"{", b"}", b"[", b"]", b":", b"- ", b"\t", b"\xff")
PIECES += (b"&a ", b"*a", b"!!", b"NaN", b"1e999", b"-1", b"null", b"true", b"9" * 400)
PIECES += (b"\xed\xa0\x80", b"\\ud800", b"\xef\xbb\xbf")


def mutated(content, dice):
    """Content with up to four changes: bits, pieces put in, parts left out, doubled or exchanged."""
    for _ in range(dice.randint(1, 4)):
        a, b = sorted(dice.randrange(len(content) + 1) for _ in range(2))
        b = min(b, a + dice.choice((1, 4, 40, 4000)))
        piece = dice.choice(PIECES)
        content = dice.choice(
            (
                content[:a] + piece + content[a:],
                content[:a] + content[b:],
                content[:b] + content[a:b] + content[b:],
                content[:a] + bytes(byte ^ (1 << dice.randrange(8)) for byte in content[a:b]) + content[b:],
                content[:a] + piece * dice.choice((2, 50, 3000)) + content[b:],
                content[:a],
            )
        )
    return content


def csv(path):
    layout = csv_layout(path)
    return list(CsvRows(path, layout, lambda bad: None))


def loaded(path):
    return hfdistill.load(path, on_bad_row="drop")


def manifest(path):
    return read_manifest(path.parent)


READERS = {
    "page": ("page.yaml", read_recipe, ValueError),
    "csv": ("rows.csv", csv, ValueError),
    "load": ("rows.csv", loaded, ValueError),
    "answers": ("answers.jsonl", answers_from, ValueError),
    "report": ("report.json", Report.load, ValueError),
    "manifest": ("hfdistill.json", manifest, CheckpointError),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A good file of each kind."""
    folder = tmp_path_factory.mktemp("good")
    (folder / "page.yaml").write_text(PAGE)
    (folder / "rows.csv").write_text(CSV, newline="")
    (folder / "answers.jsonl").write_text(ANSWERS)
    make_report({"objective": "KD()"}).save(folder / "report.json")
    staged = folder / "_unfinished" / "checkpoint-1"
    staged.mkdir(parents=True)
    (staged / "model.safetensors").write_bytes(b"weights")
    publish(staged, folder / "checkpoint-1", run={"seed": 1})
    shutil.copy(folder / "checkpoint-1" / "hfdistill.json", folder)
    return folder


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("trials", [25, pytest.param(3000, marks=pytest.mark.slow)])
def test_a_mutated_file_is_read_or_refused(good, tmp_path, monkeypatch, kind, trials):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    name, read, refusal = READERS[kind]
    dice, content = random.Random(kind), (good / name).read_bytes()
    read(good / name)
    refused = 0
    for trial in range(trials if kind != "load" else trials // 5):
        path = tmp_path / name
        path.write_bytes(mutated(content, dice))
        began = time.monotonic()
        try:
            read(path)
        except refusal:
            refused += 1
        except Exception as error:
            raise AssertionError(f"trial {trial}: {path.read_bytes()[:3000]!r}") from error
        assert time.monotonic() - began < 5
    assert refused > 0
