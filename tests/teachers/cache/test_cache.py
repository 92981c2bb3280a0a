"""Recorded answers are the live teacher's, and those of no other teacher, text or settings."""

import dataclasses
import shutil
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from torch import nn

import hfdistill.teachers.cache.recording as recording
import hfdistill.teachers.cache.store as store
from hfdistill import CachedTeacher, CacheError, Contents, Ensemble, ModelTeacher, Tap, Teacher, Trace, record
from hfdistill.data import encode
from tests.conftest import make_bert, make_dataset, make_tokenizer
from tests.teachers.cache.cached import (
    INSIDE,
    batch_of,
    digests,
    encoded,
    hits,
    live,
    recorded,
    same_traces,
    shards,
    teacher,
)

# Live = cached


def test_the_same_batches_give_the_same_bits(tmp_path):
    data = encoded()
    cached = recorded(tmp_path, data, tokens_per_batch=10**6, contents=INSIDE)
    keys = cached.rows(batch_of(data)).keys
    order = sorted(range(24), key=lambda i: (-len(data[i]["input_ids"]), keys[i].tobytes()))
    batch = batch_of(data, order)  # as it was recorded
    same_traces(
        cached.trace(batch, taps=INSIDE.taps), live(batch, taps=INSIDE.taps), where=batch["attention_mask"]
    )


@pytest.mark.parametrize("rows", [range(24), range(23, -1, -1), [5], [3, 3, 4], range(1, 24, 5)], ids=str)
@pytest.mark.parametrize("to", [None, 32])
def test_other_batches_give_the_same_numbers(tmp_path, rows, to):
    data = encoded()
    cached = recorded(tmp_path, data, contents=INSIDE)
    batch = batch_of(data, rows, to=to)
    mine, other = cached.trace(batch, taps=INSIDE.taps), live(batch, taps=INSIDE.taps)
    same_traces(mine, other, atol=1e-5, where=batch["attention_mask"])
    assert torch.equal(mine.logits.argmax(-1), other.logits.argmax(-1))
    assert torch.equal(mine.attention_mask, batch["attention_mask"])
    assert mine.logits.dtype == torch.float32


def test_left_padding_is_answered_as_right_padding_is(tmp_path):
    """BERT counts positions from the batch's left edge, so a live answer would depend on the other rows."""
    data = encoded()
    cached = recorded(tmp_path, data, contents=INSIDE)
    left, right = batch_of(data, side="left"), batch_of(data)
    mine, other = cached.trace(left, taps=INSIDE.taps), cached.trace(right, taps=INSIDE.taps)
    assert torch.equal(mine.logits, other.logits)
    for tap in INSIDE.taps:
        a, b = (
            t.readings[tap] if tap.kind == "hidden" else t.readings[tap].transpose(1, 2)
            for t in (mine, other)
        )
        assert torch.equal(a[left["attention_mask"].bool()], b[right["attention_mask"].bool()])
        assert not a[~left["attention_mask"].bool()].any()
    tokenizer = make_tokenizer()
    tokenizer.padding_side = "left"
    from_left = recorded(tmp_path / "left", data, contents=INSIDE, tokenizer=tokenizer)
    assert torch.equal(from_left.trace(left).logits, other.logits)


@pytest.mark.parametrize("pooled", ["mean", "cls"])
def test_pooled_states_pool_to_themselves(tmp_path, pooled):
    data, tap = encoded(), Tap("hidden", 2)
    cached = recorded(tmp_path, data, contents=Contents(taps={tap}, pooled=pooled))
    batch = batch_of(data)
    reading, whole = cached.trace(batch, taps={tap}).readings[tap], live(batch, taps={tap}).readings[tap]
    mask = batch["attention_mask"][..., None].double()
    mean = (whole.double() * mask).sum(1) / mask.sum(1)
    expected = (whole[:, 0].double() if pooled == "cls" else mean)[:, None].expand(whole.shape)
    torch.testing.assert_close(reading.double(), expected, atol=1e-6, rtol=0)
    assert not cached.same_tokens  # nobody may compare token by token
    assert sum(p.stat().st_size for p in shards(tmp_path)) < 24 * (16 * 4 + 16 + 4 + 8) + 2000


def test_half_precision_is_rounded_once(tmp_path):
    data = encoded()
    cached = recorded(tmp_path, data, contents=Contents(dtype="float16"))
    exact = recorded(tmp_path, data)
    assert torch.equal(cached.trace(batch_of(data)).logits, exact.trace(batch_of(data)).logits.half().float())


def test_autocast_is_the_recording_s_own(tmp_path):
    data = encoded()
    low, exact = recorded(tmp_path, data, contents=Contents(precision="bf16")), recorded(tmp_path, data)
    gap = (low.trace(batch_of(data)).logits - exact.trace(batch_of(data)).logits).abs().max()
    assert 1e-4 < gap < 0.1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        around = CachedTeacher(tmp_path / "around", teacher=teacher()).trace(batch_of(data))
    torch.testing.assert_close(around.logits, live(batch_of(data)).logits, atol=1e-5, rtol=0)


def test_pairs_and_raw_text(tmp_path):
    texts = [row["text"] for row in make_dataset(12)]
    others = texts[1:] + texts[:1]
    pairs = Dataset.from_dict({"text": texts, "text_pair": others})
    recorded(tmp_path, pairs)
    ids = encode(pairs, make_tokenizer(), token_types=True)
    assert all(hits(tmp_path, batch_of(ids)))
    turned = encode(Dataset.from_dict({"text": others, "text_pair": texts}), make_tokenizer())
    assert not any(hits(tmp_path, batch_of(turned)))  # E8


def test_a_folder_alone_is_enough(folder):
    cached = CachedTeacher(folder)
    assert cached.fingerprint() == ModelTeacher(teacher()).fingerprint()
    assert cached.inputs() == ModelTeacher(teacher()).inputs()
    assert cached.config.to_dict() == {
        **teacher().config.to_dict(),
        "architectures": cached.config.architectures,
    }
    assert not list(cached.parameters())
    assert len(cached.store) == 24
    inner = CachedTeacher(cached.folder)
    assert torch.equal(inner.trace(batch_of(encoded())).logits, cached.trace(batch_of(encoded())).logits)


def test_two_fresh_recordings_are_the_same_bytes(tmp_path):
    data = encoded()
    for name, rows in (("one", data), ("two", data.shuffle(seed=3))):
        recorded(tmp_path / name, rows, contents=INSIDE)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert len(shards(tmp_path / "one")) == 1


def test_the_shards_of_two_folders_copied_into_one_are_one_recording(tmp_path):
    data = encoded(24)
    halves = {"one": range(12), "other": range(12, 24)}
    for name, rows in halves.items():
        recorded(tmp_path / name, data.select(rows))
    for shard in shards(tmp_path / "other"):
        shutil.copy(shard, tmp_path / "one" / shard.parent.name)
    merged = CachedTeacher(tmp_path / "one")
    batch = batch_of(data)
    assert torch.equal(merged.trace(batch).logits, recorded(tmp_path / "whole").trace(batch).logits)


def test_the_folder_is_its_owner_s(tmp_path):
    recorded(tmp_path / "a" / "b")
    for path in [tmp_path / "a" / "b", *(tmp_path / "a" / "b").iterdir()]:
        assert path.stat().st_mode & 0o777 == 0o700


# A live teacher that answers what is missing


def test_what_is_missing_is_asked_and_kept(tmp_path):
    data, model = encoded(), teacher()
    recorded(tmp_path, data.select(range(8)), model=model)
    cached = CachedTeacher(tmp_path, teacher=model)
    first = cached.trace(batch_of(data, range(4, 12)))
    torch.testing.assert_close(first.logits, live(batch_of(data, range(4, 12))).logits, atol=1e-5, rtol=0)
    assert torch.equal(cached.trace(batch_of(data, range(4, 12))).logits, first.logits)
    assert hits(tmp_path, batch_of(data)) == [i < 8 for i in range(24)]
    cached.drop_live_teacher()
    assert hits(tmp_path, batch_of(data)) == [i < 12 for i in range(24)]
    assert torch.equal(CachedTeacher(tmp_path).trace(batch_of(data, range(4, 12))).logits, first.logits)
    with pytest.raises(
        CacheError, match=r"4 of 8 rows are not recorded.*hfdistill\.record\(teacher, dataset"
    ):
        cached.trace(batch_of(data, range(8, 16)))


def test_rows_in_memory_are_published_when_there_are_many(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "ROWS_PER_SHARD", 6)
    cached = CachedTeacher(tmp_path, teacher=teacher(), contents=INSIDE)
    data = encoded()
    seen = [cached.trace(batch_of(data, range(i, i + 4)), taps=INSIDE.taps) for i in range(0, 24, 4)]
    assert len(shards(tmp_path)) == 3
    for i, trace in enumerate(seen):
        batch = batch_of(data, range(4 * i, 4 * i + 4))
        same_traces(
            CachedTeacher(tmp_path).trace(batch, taps=INSIDE.taps), trace, where=batch["attention_mask"]
        )


# Teachers that are no plain model


class Scaled(Teacher):
    """Reads columns of its own, under other names."""

    def __init__(self, model, scale=1.0):
        super().__init__()
        self.inner, self.scale = ModelTeacher(model), scale

    def select_inputs(self, batch):
        return {name.removeprefix("own_"): v for name, v in batch.items() if name.startswith("own_")}

    def inputs(self):
        return frozenset({"own_input_ids", "own_attention_mask"})

    def trace(self, batch):
        read = self.select_inputs(batch)
        return Trace(self.scale * self.inner.trace(read).logits, read["attention_mask"])

    def fingerprint(self):
        return f"{self.scale} {self.inner.fingerprint()}"


def test_a_teacher_with_columns_of_its_own(tmp_path):
    plain = batch_of(encoded())
    both = {
        **plain,
        "own_input_ids": plain["input_ids"].flip(0),
        "own_attention_mask": plain["attention_mask"].flip(0),
    }
    rows = [{name: value[i] for name, value in both.items()} for i in range(24)]

    def stack(some):
        return {name: torch.stack([row[name] for row in some]) for name in some[0]}

    cached = record(Scaled(teacher(), 2.0), rows, folder=tmp_path, tokenizer=stack)
    expected = 2 * live({n: v.flip(0) for n, v in plain.items() if n != "token_type_ids"}).logits
    torch.testing.assert_close(cached.trace(both).logits, expected, atol=1e-5, rtol=0)
    assert cached.inputs() == {"own_input_ids", "own_attention_mask"}
    assert all(hits(tmp_path, {**both, "input_ids": plain["input_ids"] + 1}))
    assert not any(hits(tmp_path, {**both, "own_input_ids": both["own_input_ids"] + 1}))


class Nameless(Scaled):
    fingerprint = Teacher.fingerprint


class Drunk(Teacher):
    def trace(self, batch):
        return Trace(torch.randn(len(batch["input_ids"]), 2))

    def fingerprint(self):
        return "drunk"


class Dropping(Teacher):
    """Keeps its dropout, whatever mode it was put into."""

    def __init__(self):
        super().__init__()
        self.model = make_bert(2, hidden_dropout_prob=0.1)

    def trace(self, batch):
        return Trace(self.model.train()(batch["input_ids"]).logits)

    def fingerprint(self):
        return "dropping"


class Table(nn.Module):
    def __init__(self, config=None):
        super().__init__()
        self.table = nn.Embedding(40, 2)
        self.config = config

    def forward(self, input_ids):
        return {"logits": self.table(input_ids).mean(1)}


class Halved(ModelTeacher):
    """Answers in a way of its own under its model's fingerprint."""

    def trace(self, batch, *, taps=frozenset()):
        return Trace(super().trace(batch).logits / 2)


class Told(Halved):
    def fingerprint(self):
        return f"{super().fingerprint()} halved"


@pytest.mark.parametrize("kind", [Nameless, Halved, "member"])
def test_a_teacher_that_cannot_be_told_from_another_is_refused(tmp_path, kind):
    nameless = Ensemble([teacher(), Halved(teacher())]) if kind == "member" else kind(teacher())
    with pytest.raises(CacheError, match="def fingerprint"):
        recorded(tmp_path, model=nameless)


def test_a_subclass_that_says_who_it_is_is_recorded_beside_its_model(tmp_path):
    recorded(tmp_path, model=ModelTeacher(teacher()))
    recorded(tmp_path, model=Told(teacher()))
    batch = batch_of(encoded())
    for kind, share in ((ModelTeacher, 1), (Told, 0.5)):
        found = CachedTeacher(tmp_path, teacher=kind(teacher())).trace(batch).logits
        torch.testing.assert_close(found, share * live(batch).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [Drunk, Dropping])
def test_e13_a_teacher_that_answers_twice_differently_is_refused(tmp_path, kind):
    """E13."""
    with pytest.raises(CacheError, match="two answers"):
        recorded(tmp_path, model=kind())
    assert not shards(tmp_path)


def test_a_model_in_train_mode_is_asked_in_eval_mode(tmp_path):
    data, model = encoded(), teacher(hidden_dropout_prob=0.5)
    cached = recorded(tmp_path, data, model=model.train())
    torch.testing.assert_close(cached.trace(batch_of(data)).logits, live(batch_of(data), model.eval()).logits)


@pytest.mark.parametrize("config", [None, SimpleNamespace(id2label={0: "no", 1: "yes"}, num_labels=2)])
def test_a_module_of_one_s_own(tmp_path, config):
    """It reads no mask, so the padding is part of what it reads."""
    data, model = encoded(), Table(config)
    batch = batch_of(data, range(6))
    cached = CachedTeacher(tmp_path, teacher=model)
    assert torch.equal(cached.trace(batch).logits, live(batch, model).logits)
    cached.drop_live_teacher()
    again = CachedTeacher(tmp_path)
    assert (again.config is None) == (config is None)
    assert config is None or again.config.id2label == config.id2label
    assert not all(hits(tmp_path, batch_of(data, range(6), to=32)))


# Refusals


def test_b7_numbers_that_are_none_are_never_recorded(tmp_path):
    """B7: the rows are named."""
    model, data = teacher(), encoded()
    word = next(i for i in data[3]["input_ids"] if sum(i in row for row in data["input_ids"]) < 9 and i > 4)
    model.bert.embeddings.word_embeddings.weight.data[word] = float("nan")
    bad = [i for i, ids in enumerate(data["input_ids"]) if word in ids]
    with pytest.raises(CacheError, match="not finite") as caught:
        recorded(tmp_path, data, model=model)
    assert any(f"{i}" in str(caught.value) for i in bad)
    assert not shards(tmp_path)


def test_b8_half_precision_that_overflows_is_refused(tmp_path):
    """B8."""
    model = teacher()
    model.classifier.weight.data *= 1e6
    with pytest.raises(CacheError, match="float16: keep float32"):
        recorded(tmp_path, model=model, contents=Contents(dtype="float16"))


@pytest.mark.parametrize("wrong", [{"dtype": "bf16"}, {"pooled": "max"}, {"precision": "int8"}])
def test_other_contents_are_refused(wrong):
    with pytest.raises(ValueError, match="is one of"):
        Contents(**wrong)
    with pytest.raises(ValueError, match="hidden"):
        Contents(taps={Tap("query", 1)}, pooled="mean")


def test_a_folder_without_answers_or_with_several(tmp_path):
    with pytest.raises(CacheError, match=r"no recorded answers.*hfdistill\.record"):
        CachedTeacher(tmp_path / "none")
    recorded(tmp_path)
    recorded(tmp_path, contents=Contents(dtype="float16"))
    with pytest.raises(CacheError, match="Name one"):
        CachedTeacher(tmp_path)
    assert CachedTeacher(tmp_path, contents=Contents(dtype="float16")).contents.dtype == "float16"


def test_text_needs_a_tokenizer(tmp_path):
    with pytest.raises(ValueError, match="tokenizer="):
        record(teacher(), make_dataset(), folder=tmp_path)


def test_rows_that_change_at_every_reading_are_refused(tmp_path):
    data = encoded().with_transform(
        lambda rows: {
            **rows,
            "input_ids": [[2, *torch.randint(5, 30, (9,)).tolist(), 3] for _ in rows["input_ids"]],
        }
    )
    data = data.remove_columns(["token_type_ids", "attention_mask"])
    with pytest.raises(CacheError, match="augmentation"):
        recorded(tmp_path, data)


@pytest.mark.parametrize("contents", [Contents(), INSIDE], ids=["logits", "inside"])
def test_rows_on_disk_and_rows_held_in_memory_answer_one_batch(tmp_path, contents):
    data, model = encoded(), teacher()
    recorded(tmp_path, data.select(range(8)), model=model, contents=contents)
    cached = CachedTeacher(tmp_path, teacher=model, contents=contents)
    for first in (8, 12):
        cached.trace(batch_of(data, range(first, first + 4)), taps=contents.taps)
    assert len(cached.store) == 16
    assert len(shards(tmp_path)) == 1
    cached.teacher = None  # nobody is asked again
    mixed = batch_of(data, [13, 2, 9, 0, 15, 7, 8, 13])
    found = cached.trace(mixed, taps=contents.taps)
    expected = live(mixed, model, contents.taps)
    same_traces(found, expected, atol=1e-5, where=mixed["attention_mask"])
    cached.store.flush()
    assert len(cached.store) == 16
    same_traces(cached.trace(mixed, taps=contents.taps), found, where=mixed["attention_mask"])


def test_what_another_records_meanwhile_is_not_asked_again(tmp_path, monkeypatch):
    """Another process has answered the first batches of a chunk by the time it is ours: the rest is asked."""
    data, claim, asked, own = encoded(), store.Store.claim, [], []
    longest = sorted(range(24), key=lambda i: -len(data[i]["input_ids"]))[:8]

    def late(folder, chunk, *, wait):
        if not own:
            own.append("the other's turn")
            recorded(tmp_path, data.select(longest))
            asked.clear()
        return claim(folder, chunk, wait=wait)

    def answers(cached, batch, *, names=None):
        asked.append(len(batch["input_ids"]))
        return answer(cached, batch, names=names)

    answer = CachedTeacher.answers
    monkeypatch.setattr(store.Store, "claim", late)
    monkeypatch.setattr(CachedTeacher, "answers", answers)
    recorded(tmp_path, data)
    assert all(hits(tmp_path, batch_of(data)))
    assert sum(asked) == 16


def test_answers_are_published_in_a_twentieth_of_the_time(monkeypatch):
    now, written = [100.0], []

    def publish(tensors, *, chunk):
        now[0] += 2
        written.append((tensors["keys"].tolist(), chunk))

    monkeypatch.setattr(recording.time, "monotonic", lambda: now[0])
    pace = recording._Pace(SimpleNamespace(publish=publish), "chunk")
    assert pace.is_due()
    assert pace.publish([{"keys": torch.tensor([1])}, {"keys": torch.tensor([2, 3])}]) == []
    assert written == [([1, 2, 3], "chunk")]
    for waited, is_due in ((0, False), (39.9, False), (40, True), (70, True)):
        now[0] = 102 + waited
        assert pace.is_due() is is_due, waited
    assert pace.publish([]) == []
    assert len(written) == 1


def test_what_is_recorded_does_not_change_its_name():
    """A folder is named by its contents."""
    contents = Contents(taps={Tap("hidden", 1)})
    with pytest.raises(dataclasses.FrozenInstanceError):
        contents.dtype = "float16"
    assert {contents, Contents(taps=[Tap("hidden", 1)])} == {contents}
