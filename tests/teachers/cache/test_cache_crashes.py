"""A recording that is killed, fails or is shared at any moment loses nothing and is never wrong."""

import errno
import fcntl
import os
import random
import time

import pytest
import torch

import hfdistill.teachers.cache.store as store
from hfdistill import CachedTeacher, CacheError
from hfdistill.teachers.cache.contents import FACTS
from tests.conftest import make_bert
from tests.files.test_checkpoint_crashes import Faults, disk_full
from tests.teachers.cache.cached import batch_of, digests, encoded, hits, recorded, shards

ROWS = 16


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Several shards; and no test waits for the disk."""
    monkeypatch.setattr(store, "ROWS_PER_SHARD", 4)
    monkeypatch.setattr("hfdistill.teachers.cache.recording.ROWS_PER_SHARD", 4)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def data():
    return encoded(ROWS)


@pytest.fixture(scope="module")
def model():
    return make_bert(1, seed=1)


def run(folder, data, model):
    return recorded(folder, data, model=model, tokens_per_batch=64)


def whole(folder):
    """What a recording left: no unfinished file, and these digests."""
    assert not list(folder.rglob("*.part"))
    assert not list(folder.rglob(".cache.json.*"))
    return digests(folder)


def counted(folder, data, model):
    faults = Faults(None)
    with faults:
        run(folder, data, model)
    return faults.calls


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_c6_a_full_disk_at_any_call_costs_no_shard(tmp_path, data, model, every):
    """Goal 11."""
    calls = counted(tmp_path / "whole", data, model)
    expected = whole(tmp_path / "whole")
    assert calls > 20
    assert len(shards(tmp_path / "whole")) >= 3
    partly = 0
    for n in range(0, calls, every):
        folder = tmp_path / str(n)
        try:
            with Faults(disk_full, n):
                run(folder, data, model)
        except (OSError, CacheError):
            pass
        kept = set(shards(folder))
        partly += 0 < len(kept) < len(shards(tmp_path / "whole"))
        run(folder, data, model)
        assert kept <= set(shards(folder))
        assert whole(folder) == expected
    assert partly


# Python 3.12 warns where a process with threads is forked (python/cpython#100228); this child only records.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_a_process_killed_at_any_call_is_gone_on_from(tmp_path, data, model, every):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked child has one
    try:
        calls = counted(tmp_path / "whole", data, model)
        expected = whole(tmp_path / "whole")
        for n in range(0, calls, every):
            folder = tmp_path / str(n)

            def work(folder=folder, n=n):
                with Faults(lambda: os._exit(9), n):
                    run(folder, data, model)

            assert ended(forked(work)) == 9
            if list(folder.glob(f"*/{FACTS}")):
                hits(folder, batch_of(data))  # whatever there is can be read
            run(folder, data, model)
            assert {k: v for k, v in digests(folder).items() if "/.cache.json." not in k} == expected
            assert not list(folder.rglob("*.part"))
    finally:
        torch.set_num_threads(threads)


def forked(work):
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def counting(log):
    """A model that writes down how many rows it is asked about, slowly."""
    model = make_bert(1, seed=1)

    def count(_, args, kwargs):
        with log.open("a") as stream:
            stream.write(f"{len(kwargs['input_ids'])}\n")
        time.sleep(0.005)

    model.register_forward_pre_hook(count, with_kwargs=True)
    return model


def asked(log):
    return sum(int(line) for line in log.read_text().split())


def together(folder, data, *, writers, killed_after, draw):
    """Several processes record one data set; one is killed. Returns the rows that they asked about."""
    log = folder.with_suffix(".log")
    model = counting(log)
    children = [forked(lambda: run(folder, data, model)) for _ in range(writers)]
    if killed_after is not None:
        time.sleep(killed_after)
        os.kill(children[draw.randrange(writers)], 9)
    codes = [ended(child) for child in children]
    assert codes.count(0) >= writers - 1, codes
    return asked(log)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("runs", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_c10_several_writers_one_of_them_killed(tmp_path, runs, capsys):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    data, draw, more = encoded(48), random.Random(1), []
    try:
        run(tmp_path / "one", data, counting(tmp_path / "one.log"))
        alone, expected = asked(tmp_path / "one.log") - 16, whole(tmp_path / "one")
        for i in range(runs):
            writers = 2 + i % 3
            killed = draw.uniform(0.0, 0.15)
            rows = together(tmp_path / str(i), data, writers=writers, killed_after=killed, draw=draw)
            run(tmp_path / str(i), data, make_bert(1, seed=1))  # for what a lone killed one left
            assert whole(tmp_path / str(i)) == expected
            more.append(
                (rows - 16 * writers) / alone
            )  # every process asks eight rows twice to vet its teacher
    finally:
        torch.set_num_threads(threads)
    if runs > 3:
        with capsys.disabled():
            print(f"\nwork over that of one writer: worst {max(more):.3f}, mean {sum(more) / runs:.3f}")
    assert max(more) <= 1.1 + 4 / alone  # of the killed one's, at most the shard that it was at


def test_c12_without_locks_work_may_be_done_twice_and_is_not_wrong(tmp_path, data, model, monkeypatch):
    """C12."""
    run(tmp_path / "locks", data, model)

    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", none)
    run(tmp_path / "none", data, model)
    assert whole(tmp_path / "none") == whole(tmp_path / "locks")
    monkeypatch.setattr(store, "fcntl", None)  # Windows
    run(tmp_path / "windows", data, model)
    assert whole(tmp_path / "windows") == whole(tmp_path / "locks")


def test_c11_a_reader_sees_what_a_writer_has_published(tmp_path, data, model):
    """C11."""
    run(tmp_path, data.select(range(4)), model)
    reader = CachedTeacher(tmp_path)
    keys = reader.rows(batch_of(data)).keys
    assert reader.missing(keys).any()
    run(tmp_path, data, model)
    assert reader.missing(keys).any()
    reader.trace(batch_of(data))
    assert not reader.missing(keys).any()


def test_a_full_disk_is_named_and_what_was_recorded_stays(tmp_path, data, model, monkeypatch):
    """C5, C6."""
    calls, replace = [], os.replace
    monkeypatch.setattr(
        store.Path,
        "replace",
        lambda self, to: calls.append(to) or (disk_full() if len(calls) == 3 else replace(self, to)),
    )
    with pytest.raises(CacheError, match=r"bytes could not be written.*make room"):
        run(tmp_path, data, model)
    monkeypatch.undo()
    kept = shards(tmp_path)
    assert kept
    assert not list(tmp_path.rglob("*.part"))
    run(tmp_path, data, model)
    assert set(kept) <= set(shards(tmp_path))
    assert all(hits(tmp_path, batch_of(data)))
