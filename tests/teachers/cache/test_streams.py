"""A stream is recorded as rows in memory are, and answers are read from files as from memory."""

import copy
import pickle

import pytest
from datasets import IterableDataset

from hfdistill import CachedTeacher, CacheError, record
from hfdistill.teachers.cache import index, recording, store
from hfdistill.teachers.cache.index import Index
from tests.conftest import make_tokenizer
from tests.teachers.cache.cached import (
    INSIDE,
    batch_of,
    encoded,
    recorded,
    same_traces,
    shards,
    teacher,
    texts,
)


@pytest.mark.parametrize("columns", ["ids", "text", "unknown"])
def test_a_stream_is_recorded_as_its_rows_are(tmp_path, columns, monkeypatch):
    monkeypatch.setattr(recording, "ROWS_PER_WINDOW", 10)
    data = encoded()
    rows = data if columns == "ids" else texts()
    stream = rows.to_iterable_dataset()
    if columns == "unknown":
        stream = IterableDataset.from_generator(lambda: iter(list(rows)))
    cached = record(teacher(), stream, folder=tmp_path / "a", tokenizer=make_tokenizer(), contents=INSIDE)
    whole = recorded(tmp_path / "b", data, contents=INSIDE)
    assert len(cached.store) == len(whole.store)
    batch = batch_of(data)
    for tap in INSIDE.taps:
        same_traces(
            cached.trace(batch, taps={tap}), whole.trace(batch, taps={tap}), atol=1e-6,
            where=batch["attention_mask"],
        )  # fmt: skip


def test_a_stream_that_was_recorded_is_not_asked_about_again(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "ROWS_PER_WINDOW", 10)
    stream = encoded().to_iterable_dataset()
    cached = record(teacher(), stream.take(15), folder=tmp_path, tokenizer=make_tokenizer())
    before = set(shards(tmp_path))
    again = record(teacher(), stream, folder=tmp_path, tokenizer=make_tokenizer())
    assert before < set(shards(tmp_path))
    assert len(again.store) == len(set(map(bytes, again.rows(batch_of(encoded())).keys)))
    assert len(cached.store) <= 15


def test_an_empty_stream_is_refused(tmp_path):
    stream = encoded().to_iterable_dataset().filter(lambda row: False)
    with pytest.raises(ValueError, match="holds no row to record"):
        record(teacher(), stream, folder=tmp_path, tokenizer=make_tokenizer())


@pytest.mark.parametrize("contents", [INSIDE, None], ids=["inside", "logits"])
def test_answers_left_in_their_files_are_those_held_in_memory(tmp_path, contents, monkeypatch):
    data = encoded()
    held = recorded(tmp_path, data, contents=contents)
    monkeypatch.setattr(store, "BYTES_IN_MEMORY", 0)
    left = CachedTeacher(tmp_path)
    batch, taps = batch_of(data, [5, 3, 3, 20]), (contents.taps if contents else frozenset())
    same_traces(left.trace(batch, taps=taps), held.trace(batch, taps=taps), where=batch["attention_mask"])
    assert not any(shard._held for shard in left.store._shards)


def test_a_disk_without_room_for_the_places_is_told(tmp_path, monkeypatch):
    recorded(tmp_path)

    def full(*parts):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hfdistill.teachers.cache.index._made", full)
    with pytest.raises(CacheError, match=r"No space left on device.*Make room"):
        CachedTeacher(tmp_path)


def test_no_rows_have_no_answers(tmp_path):
    data = encoded()
    batch = {name: value[:0] for name, value in batch_of(data).items()}
    assert recorded(tmp_path, data).trace(batch).logits.shape == (0, 2)


def test_a_teacher_whose_places_are_in_files_can_be_copied_and_sent(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "ROWS_IN_MEMORY", 4)
    data = encoded()
    teacher, batch = recorded(tmp_path, data), batch_of(data)
    for other in (copy.deepcopy(teacher), pickle.loads(pickle.dumps(teacher))):
        same_traces(other.trace(batch), teacher.trace(batch))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_refresh_that_is_cut_short_mixes_no_answers(tmp_path, monkeypatch, error):
    """Rows of another shard would stand where those of the one that was cut short were to come."""
    data, add = encoded(), Index.add
    open_before = recorded(tmp_path, data.select(range(4)))
    recorded(tmp_path, data.select(range(4, 12)))

    def cut_short(self, blocks):
        next(iter(blocks))
        raise error

    monkeypatch.setattr(Index, "add", cut_short)
    with pytest.raises((CacheError, KeyboardInterrupt)):
        open_before.store.refresh()
    monkeypatch.setattr(Index, "add", add)
    recorded(tmp_path, data.select(range(12, 20)))
    open_before.store.refresh()
    batch = batch_of(data, range(20))
    same_traces(open_before.trace(batch), CachedTeacher(tmp_path).trace(batch), where=batch["attention_mask"])


def test_a_shard_that_goes_away_is_named(tmp_path, monkeypatch):
    data = encoded()
    recorded(tmp_path, data)
    monkeypatch.setattr(store, "BYTES_IN_MEMORY", 0)
    left, batch = CachedTeacher(tmp_path), batch_of(data, [0])
    path = shards(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CacheError, match=f"{path.name} is shorter than when"):
        left.trace(batch)
    path.unlink()
    with pytest.raises(CacheError, match=f"{path.name} was there when the recording was opened"):
        left.trace(batch)
