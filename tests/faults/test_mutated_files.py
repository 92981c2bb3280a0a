"""Files with any content are read, or refused by an error of ours: in 5 seconds, in little memory."""

import csv
import dataclasses
import functools
import hashlib
import io
import json
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st

import hfdistill
from hfdistill import CachedTeacher, CacheError, CheckpointError, Report
from hfdistill.data.csv_files import CsvRows, csv_layout
from hfdistill.files.checkpoint import publish, seal, verify
from hfdistill.network.loading import load_classifier, load_tokenizer
from hfdistill.recipe import read_recipe
from hfdistill.teachers.text.files import answers_from
from tests.any_input import holds_for
from tests.conftest import make_bert, make_report, make_tokenizer
from tests.teachers.cache.cached import batch_of, encoded, recorded, shards

SECONDS, BYTES = 5, 64 * 2**20
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
ROLES = ("text", "probabilities", "logits", "logprobs", "votes", "label", "confidence", "text_pair", "good")

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.just("9" * 400)
plain_data = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def changed_bytes(draw, content):
    """Content with up to four changes: bits, pieces put in, parts left out, doubled or exchanged."""
    for _ in range(draw(st.integers(1, 4))):
        a = draw(st.integers(0, len(content)))
        b = min(len(content), a + draw(st.sampled_from((1, 4, 40, 4000))))
        piece = draw(st.sampled_from(PIECES))
        change = draw(st.sampled_from(("put", "leave", "double", "bits", "exchange", "cut")))
        middle = {
            "put": piece + content[a:b],
            "leave": b"",
            "double": content[a:b] * 2,
            "bits": bytes(byte ^ (1 << draw(st.integers(0, 7))) for byte in content[a : min(b, a + 8)])
            + content[min(b, a + 8) : b],
            "exchange": piece * draw(st.sampled_from((2, 50, 3000))),
            "cut": b"",
        }[change]
        content = content[:a] + middle + (b"" if change == "cut" else content[b:])
    return content


def places(value, path=()):
    """The path to every value in plain data."""
    yield path
    for key, inner in (
        value.items() if isinstance(value, dict) else enumerate(value if type(value) is list else ())
    ):
        yield from places(inner, (*path, key))


@st.composite
def changed_data(draw, document):
    """Plain data in which up to three values are others, or absent."""
    document = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(document))))
        new = draw(plain_data)
        if not path:
            if draw(st.integers(0, 9)) == 0:
                return new
            continue
        *above, last = path
        parent = document
        for key in above:
            parent = parent[key]
        if draw(st.booleans()):
            parent[last] = new
        elif isinstance(parent, dict):
            parent[draw(st.text(max_size=5))] = parent.pop(last)
        else:
            del parent[last]
    return document


def sealed(document):
    """JSON that says its own sha256, as what we write does, so that what it holds is looked at."""
    if isinstance(document, dict):
        rest = {name: value for name, value in document.items() if name != "sha256"}
        with suppress(ValueError):
            document = {**rest, "sha256": seal(rest)}
    return json.dumps(document).encode()


def written_csv(table):
    text = io.StringIO(newline="")
    csv.writer(text).writerows(table)
    return text.getvalue().encode("utf-8", "surrogatepass")


def as_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def shard(header, content):
    """A safetensors file with a header of this JSON."""
    written = json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + content


pages = st.dictionaries(
    st.sampled_from(list(yaml.safe_load(PAGE))) | st.text(max_size=5), plain_data, max_size=5
)
tables = st.lists(st.lists(st.text(max_size=8), max_size=4), max_size=8)
answers = st.lists(st.dictionaries(st.sampled_from(ROLES), plain_data, max_size=4), max_size=4)


@dataclasses.dataclass
class Kind:
    """A kind of file: what is read of it, the error that refuses it, and contents to try."""

    path: Path
    read: Callable[[Path], Any]
    refusal: type[Exception]
    contents: st.SearchStrategy[bytes]
    place: Callable[[bytes], Path] | None = None
    """Where content is put; None for `path`."""

    def put(self, content):
        """Write content where it is read."""
        if self.place is not None:
            for other in self.path.parent.glob("*shard-*"):
                other.unlink()
        path = self.path if self.place is None else self.place(content)
        path.write_bytes(content)
        return path


def rows_of(path):
    return list(CsvRows(path, csv_layout(path), lambda bad: None))


def loaded(path):
    return hfdistill.load(path, on_bad_row="drop")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return good_files(tmp_path_factory.mktemp("good"))


def good_files(folder):
    """Write a good file of each kind."""
    for name, content in {"page.yaml": PAGE, "rows.csv": CSV, "answers.jsonl": ANSWERS}.items():
        (folder / name).write_text(content, newline="")
    make_report({"objective": "KD()"}).save(folder / "report.json")
    staged = folder / "_unfinished" / "checkpoint-1"
    staged.mkdir(parents=True)
    (staged / "model.safetensors").write_bytes(b"weights")
    publish(staged, folder / "checkpoint-1", run={"seed": 1})
    recorded(folder / "answers", encoded(8))
    make_bert(1).save_pretrained(folder / "model")
    make_tokenizer().save_pretrained(folder / "model")
    return folder


def page(folder):
    path = folder / "page.yaml"
    dumped = pages.map(lambda page: yaml.safe_dump(page, allow_unicode=True).encode("utf-8", "surrogatepass"))
    return Kind(path, read_recipe, ValueError, changed_bytes(PAGE.encode()) | dumped)


def csv_file(folder):
    contents = changed_bytes(CSV.encode()) | tables.map(written_csv) | st.binary(max_size=60)
    return Kind(folder / "rows.csv", rows_of, ValueError, contents)


def load(folder):
    return dataclasses.replace(csv_file(folder), read=loaded)


def answers_file(folder):
    contents = changed_bytes(ANSWERS.encode()) | answers.map(as_lines)
    return Kind(folder / "answers.jsonl", answers_from, ValueError, contents)


def report(folder):
    path = folder / "report.json"
    written = path.read_bytes()
    other = changed_data(json.loads(written)).map(lambda document: json.dumps(document).encode())
    return Kind(path, Report.load, ValueError, changed_bytes(written) | other)


def manifest(folder):
    path = folder / "checkpoint-1" / "hfdistill.json"
    written = path.read_bytes()
    contents = changed_bytes(written) | changed_data(json.loads(written)).map(sealed)
    return Kind(path, lambda path: verify(path.parent), CheckpointError, contents)


def facts(folder):
    (path,) = (folder / "answers").glob("*/cache.json")
    written = path.read_bytes()
    contents = changed_bytes(written) | changed_data(json.loads(written)).map(sealed)
    return Kind(path, lambda path: answered(path.parent), CacheError, contents)


def recording(folder):
    """A shard under the sha256 that its content has: an accident is found by it, and this is none."""
    (path,) = shards(folder / "answers")
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]

    def place(content):
        return path.with_name(f"shard-{hashlib.sha256(content).hexdigest()}.safetensors")

    contents = changed_bytes(content) | changed_data(header).map(lambda header: shard(header, data))
    return Kind(path, lambda path: answered(path.parent), CacheError, contents, place)


def answered(folder):
    """The answers of a recording: all rows, or the error that says which are missing."""
    return CachedTeacher(folder).trace(batch()).logits


@functools.cache
def batch():
    return batch_of(encoded(8))


def config(folder):
    return model_file(folder / "model" / "config.json", load_classifier)


def tokenizer(folder):
    return model_file(folder / "model" / "tokenizer.json", load_tokenizer)


def tokenizer_config(folder):
    return model_file(folder / "model" / "tokenizer_config.json", load_tokenizer)


def model_file(path, read):
    """A file beside a model's weights."""
    written = path.read_bytes()
    other = changed_data(json.loads(written)).map(lambda document: json.dumps(document).encode())
    return Kind(path, lambda path: read(path.parent), ValueError, changed_bytes(written) | other)


def weights(folder):
    path = folder / "model" / "model.safetensors"
    contents = changed_bytes(path.read_bytes())
    return Kind(path, lambda path: load_classifier(path.parent), ValueError, contents)


class Peak:
    """The bytes that this process took at most, beyond those that it had; 0 where the system cannot tell."""

    def __enter__(self):
        self.bytes = 0
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self.before = self.now("VmRSS")
        return self

    def __exit__(self, *raised):
        self.bytes = self.now("VmHWM") - self.before

    @staticmethod
    def now(name):
        with suppress(OSError):
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
        return 0


SLOW = (load, config, weights)
OF_A_MODEL = (config, tokenizer, tokenizer_config, weights)
KINDS = (page, csv_file, load, answers_file, report, manifest, facts, recording, *OF_A_MODEL)


@pytest.mark.parametrize("examples", [20, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_any_content_is_read_or_refused(folder, tmp_path, monkeypatch, caplog, make, examples):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    shutil.copytree(folder, tmp_path / "good")
    kind, refused = make(tmp_path / "good"), 0
    kind.read(kind.path)

    def check(content):
        nonlocal refused
        caplog.clear()
        path = kind.put(content)
        began = time.process_time()
        with Peak() as peak:
            try:
                kind.read(path)
            except kind.refusal:
                refused += 1
        assert time.process_time() - began < SECONDS
        assert peak.bytes < 2 * len(content) + BYTES

    holds_for(kind.contents, check, examples=examples // (5 if make in SLOW else 1))
    assert refused > 0
