"""What lies in a cache folder is what was recorded, or it is not read."""

import json
import os
import random
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save

from hfdistill import CachedTeacher, CacheError, Contents, Tap
from hfdistill.files.checkpoint import seal
from hfdistill.teachers.cache.contents import FACTS
from tests.teachers.cache.cached import batch_of, digests, encoded, hits, recorded, shards, teacher

HIDDEN = Contents(taps={Tap("hidden", 1)})


class Recording:
    """A small recording in several shards, its bytes, and the answers that it gives."""

    def __init__(self, folder):
        self.data = encoded(12)
        for part in (range(4), range(4, 8), range(8, 12)):
            recorded(folder, self.data.select(part), contents=HIDDEN)
        self.folder = CachedTeacher(folder).folder
        self.batch = batch_of(self.data)
        self.files = {p.name: p.read_bytes() for p in self.folder.iterdir() if p.stat().st_size}
        self.sound = self.answers()
        self.kept = 12

    def answers(self):
        """The logits and one reading of every row that is found; None for the others."""
        cached = CachedTeacher(self.folder)
        found = (~cached.missing(cached.rows(self.batch).keys)).nonzero()[0].tolist()
        answers = [None] * 12
        if found:
            trace = cached.trace({n: v[found] for n, v in self.batch.items()}, taps=HIDDEN.taps)
            states = trace.readings[Tap("hidden", 1)]
            for i, logits, state in zip(found, trace.logits, states, strict=True):
                answers[i] = (logits.tolist(), state.tolist())
        return answers

    def outcome(self, name, content):
        """With one file changed: refused, or what was recorded, or misses."""
        path = self.folder / name
        path.write_bytes(content)
        try:
            answers = self.answers()
        except CacheError:
            return "refused"
        finally:
            for odd in self.folder.glob("broken-*"):
                odd.unlink()
            path.write_bytes(self.files[name])
        assert all(a is None or a == b for a, b in zip(answers, self.sound, strict=True)), "silently changed"
        return "missed" if None in answers else "unnoticed"


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return Recording(tmp_path_factory.mktemp("damage"))


def damaged(recording, kind, draw):
    """One file with one fault, drawn at random over all bytes of the folder."""
    names = list(recording.files)
    name = draw.choices(names, [len(recording.files[n]) for n in names])[0]
    content = bytearray(recording.files[name])
    if kind == "flip":
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        del content[draw.randrange(len(content)) :]
    else:
        start = draw.randrange(0, len(content), 512)
        content[start : start + 512] = bytes(len(content[start : start + 512]))
    return name, bytes(content)


def torment(recording, flips, cuts, zeros):
    draw, outcomes, slowest = random.Random(0), {"refused": 0, "missed": 0, "unnoticed": 0}, 0.0
    for kind, times in (("flip", flips), ("cut", cuts), ("zero", zeros)):
        for _ in range(times):
            name, content = damaged(recording, kind, draw)
            began = time.process_time()
            outcome = recording.outcome(name, content)
            slowest = max(slowest, time.process_time() - began)
            assert outcome != "unnoticed" or content == recording.files[name], (kind, name)
            outcomes[outcome] += 1
    return outcomes, slowest


def test_no_damage_is_read(recording):
    outcomes, slowest = torment(recording, 300, 60, 60)
    assert outcomes["refused"]
    assert outcomes["missed"]
    assert slowest < 5


@pytest.mark.slow
def test_no_damage_of_12_000_is_read(recording, capsys):
    outcomes, slowest = torment(recording, 10_000, 1_000, 1_000)
    with capsys.disabled():
        print(f"\n{outcomes}, slowest {slowest:.2f} s")
    assert slowest < 5


def test_damaged_shards_are_set_aside_named_and_recorded_again(tmp_path, caplog):
    data = encoded()
    recorded(tmp_path, data)
    before, shard = digests(tmp_path), shards(tmp_path)[0]
    content = bytearray(shard.read_bytes())
    content[-3] ^= 4
    shard.write_bytes(content)
    assert not any(hits(tmp_path, batch_of(data)))
    assert f"{shard} is set aside" in caplog.text
    assert "sha256" in caplog.text
    with pytest.raises(CacheError, match="24 of 24 rows"):
        CachedTeacher(tmp_path).trace(batch_of(data))
    recorded(tmp_path, data)
    aside = shard.with_name(f"broken-{shard.name}")
    assert {n: d for n, d in digests(tmp_path).items() if "broken-" not in n} == before
    assert aside.exists()


def test_damaged_facts_are_written_again_and_the_shards_stay(tmp_path):
    data = encoded()
    recorded(tmp_path, data)
    before, path = digests(tmp_path), CachedTeacher(tmp_path).folder / FACTS
    path.write_text(path.read_text().replace('"float32"', '"float16"', 1))
    with pytest.raises(CacheError, match=r"its own sha256 is another.*hfdistill\.record"):
        CachedTeacher(tmp_path)
    recorded(tmp_path, data)
    assert digests(tmp_path) == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"sha256": 1}',
        "[" * 100_000,
        '{"schema": NaN}',
        '{"a":' * 5000 + "1" + "}" * 5000,
    ],
    ids=range(8),
)
def test_hostile_facts_are_refused(tmp_path, text):
    recorded(tmp_path)
    path = CachedTeacher(tmp_path).folder / FACTS
    path.write_text(text)
    with pytest.raises(CacheError, match="cannot be read"):
        CachedTeacher(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"renamed": [1]}, "renamed"),
        ({"fingerprint": 3}, "fingerprint should be str"),
        ({"shapes": {"hidden.1": [16]}}, r"shapes should be those of \['hidden.1', 'logits'\]"),
        ({"shapes": {"hidden.1": [16], "logits": [-2]}}, "shapes should be"),
        ({"versions": {"transformers": "5"}}, r"lacks \['attention'\]"),
        ({"config": {"": 1, "id2label": 5}}, "config cannot be read"),
        ({"config": {"model_type": "bert", "id2label": 5}}, "config cannot be read"),
    ],
    ids=str,
)
def test_facts_of_other_types_are_refused_whatever_their_sha256(recording, change, words):
    path, text = recording.folder / FACTS, recording.files[FACTS].decode()
    facts = {**json.loads(text), **change}
    facts.pop("sha256")
    path.write_text(json.dumps({**facts, "sha256": seal(facts)}))
    try:
        with pytest.raises(CacheError, match=f"{words}.*hfdistill.record"):
            CachedTeacher(recording.folder)
    finally:
        path.write_text(text)


@pytest.mark.parametrize("accepts", [[], ["attention_mask"], ["of_another"]])
def test_facts_by_which_no_batch_can_be_read_are_told(recording, accepts):
    path, text = recording.folder / FACTS, recording.files[FACTS].decode()
    facts = {**json.loads(text), "inputs": accepts, "accepts": accepts}
    facts.pop("sha256")
    path.write_text(json.dumps({**facts, "sha256": seal(facts)}))
    try:
        with pytest.raises(CacheError, match=r"The batch has .*'input_ids'.* that reads .*hfdistill.record"):
            CachedTeacher(recording.folder).trace(recording.batch)
    finally:
        path.write_text(text)


def test_a_batch_without_what_was_recorded_is_told(recording):
    with pytest.raises(
        CacheError, match=r"The batch has \['labels'\], .*'input_ids'.* Give batches with what"
    ):
        CachedTeacher(recording.folder).trace({"labels": recording.batch["input_ids"][:, 0]})


def sealed(shard, tensors):
    """A shard whose sha256 is right and whose content is not."""
    import hashlib

    content = tensors if isinstance(tensors, bytes) else save(tensors)
    shard.unlink()
    shard.with_name(f"shard-{hashlib.sha256(content).hexdigest()}.safetensors").write_bytes(content)


def without(tensors, name):
    return {n: v for n, v in tensors.items() if n != name}


HOSTILE = {
    "float64 logits": lambda t: {**t, "logits": t["logits"].double()},
    "a class more": lambda t: {**t, "logits": t["logits"].repeat(1, 2)},
    "a row less": lambda t: {**t, "logits": t["logits"][:-1].clone()},
    "short keys": lambda t: {**t, "keys": t["keys"][:, :8].clone()},
    "no lengths": lambda t: without(t, "lengths"),
    "no reading": lambda t: without(t, "hidden.1"),
    "a tensor more": lambda t: {**t, "extra": torch.zeros(3)},
    "negative lengths": lambda t: {**t, "lengths": torch.cat([t["lengths"][:-2], t["lengths"][-2:] * -1])},
    "other lengths": lambda t: {**t, "lengths": t["lengths"] + 1},
    "nothing": lambda t: b"",
    "a huge header": lambda t: (1 << 40).to_bytes(8, "little") + b"{}",
    "a header of spaces": lambda t: (200_000).to_bytes(8, "little") + b"{}" + b" " * 199_998,
    "overlapping tensors": lambda t: _raw({n: ("U8", [4], [0, 4]) for n in "ab"}, bytes(4)),
    "offsets outside": lambda t: _raw({"keys": ("U8", [1 << 40], [0, 1 << 40])}, bytes(4)),
}


def _raw(tensors, data):
    header = json.dumps(
        {n: dict(zip(("dtype", "shape", "data_offsets"), t, strict=True)) for n, t in tensors.items()}
    )
    return len(header).to_bytes(8, "little") + header.encode() + data


@pytest.mark.parametrize("kind", HOSTILE)
def test_d8_hostile_shards_are_set_aside(tmp_path, kind, caplog):
    """D8: a right sha256 does not help them."""
    data = encoded()
    recorded(tmp_path, data, contents=HIDDEN)
    (shard,) = shards(tmp_path)
    sealed(shard, HOSTILE[kind](load_file(shard)))
    assert not any(hits(tmp_path, batch_of(data)))
    assert "is set aside" in caplog.text
    assert not shards(tmp_path)
    assert all(hits_after_recording(tmp_path, data))


def hits_after_recording(folder, data):
    recorded(folder, data, contents=HIDDEN)
    return hits(folder, batch_of(data))


class Canary:
    def __reduce__(self):
        return (os.mkdir, ("canary",))


def test_d10_other_files_are_left_alone_and_never_opened(tmp_path, monkeypatch, caplog):
    """D10, D7."""
    import pickle

    monkeypatch.chdir(tmp_path)
    data = encoded()
    recorded(tmp_path / "answers", data)
    folder = CachedTeacher(tmp_path / "answers").folder
    names = [
        "logits.npz",
        "shard-00.pkl",
        f"shard-{'0' * 64}.bin",
        "x\x1b]0;y",
        "shard-" + "g" * 64 + ".safetensors",
    ]
    for name in names:
        (folder / name).write_bytes(pickle.dumps(Canary()))
    (folder / f"shard-{'a' * 64}.safetensors").mkdir()
    assert all(hits(tmp_path / "answers", batch_of(data)))
    assert sum("is not a part of a cache" in record.message for record in caplog.records) == len(names) + 1
    assert "\x1b" not in caplog.text
    assert not (tmp_path / "canary").exists()
    assert all((folder / name).exists() for name in names)


def test_links_are_not_followed(tmp_path):
    """D16."""
    data = encoded()
    recorded(tmp_path / "one", data)
    (shard,) = shards(tmp_path / "one")
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    assert not any(hits(tmp_path / "one", batch_of(data)))
    facts = shard.parent / FACTS
    facts.rename(tmp_path / "facts")
    facts.symlink_to(tmp_path / "facts")
    with pytest.raises(CacheError, match="link"):
        CachedTeacher(tmp_path / "one")


def test_d11_a_folder_that_anybody_may_write_to_is_refused(tmp_path):
    """D11."""
    recorded(tmp_path)
    folder = CachedTeacher(tmp_path).folder
    folder.chmod(0o777)
    for options in ({}, {"teacher": teacher()}):
        with pytest.raises(CacheError, match="chmod 700"):
            CachedTeacher(tmp_path, **options)


def test_d4_a_config_that_names_code_is_read_without_it(tmp_path):
    """D3, D4."""
    recorded(tmp_path)
    path = CachedTeacher(tmp_path).folder / FACTS
    facts = {n: v for n, v in json.loads(path.read_text()).items() if n != "sha256"}
    facts["config"] |= {
        "auto_map": {"AutoConfig": "evil.Config"},
        "_attn_implementation_internal": "evil/kernel",
    }
    path.write_text(json.dumps({**facts, "sha256": seal(facts)}))
    config = CachedTeacher(tmp_path).config
    assert type(config).__module__ == "transformers.models.bert.configuration_bert"
    assert "evil" not in repr(config.__dict__)


def test_nothing_of_this_machine_is_written(tmp_path, monkeypatch):
    """D13."""
    monkeypatch.setenv("HF_TOKEN", "hf_canarycanarycanary")
    teacher().save_pretrained(tmp_path / "secret-model")
    recorded(tmp_path / "answers", model=str(tmp_path / "secret-model"))
    for path in (tmp_path / "answers").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"canary" not in content
            assert b"secret-model" not in content
            assert str(tmp_path).encode() not in content
    shutil.rmtree(tmp_path / "answers")
