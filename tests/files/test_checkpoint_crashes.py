"""A save that fails or is killed at any call to the operating system loses no checkpoint."""

import errno
import io
import os
import shutil

import pytest

from hfdistill.files.checkpoint import (
    MANIFEST,
    STAGING,
    clear_staging,
    newest_complete,
    publish,
    verify,
)
from hfdistill.files.plain_data import write_atomically
from tests.files.test_checkpoint import RUN, save, stage

IO = ["fsync", "open", "rename", "replace", "unlink", "rmdir"]


@pytest.fixture(autouse=True)
def fsync(monkeypatch):
    """Calls to `os.fsync` are counted, failed and looked at here, but no test waits for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Crash(BaseException):
    """A process that ends here and now."""


class Faults:
    """Calls to the operating system, of which the n-th does not happen.

    Args:
        happen: what happens instead.
        at: n, from 0; None counts only.
    """

    def __init__(self, happen, at=None):
        self.happen, self.at, self.calls = happen, at, 0

    def count(self):
        self.calls += 1
        if self.calls - 1 == self.at:
            self.happen()

    def wrap(self, function):
        def counted(*args, **kwargs):
            self.count()
            result = function(*args, **kwargs)
            if hasattr(result, "write") and result.writable():
                result.write = self.wrap(result.write)
            return result

        return counted

    def __enter__(self):
        self.patch = pytest.MonkeyPatch()
        for module, name in [*((os, name) for name in IO), (io, "open")]:
            self.patch.setattr(module, name, self.wrap(getattr(module, name)))
        return self

    def __exit__(self, *_):
        self.patch.undo()


def publish_with(faults, run_dir):
    staged = run_dir / STAGING / "checkpoint-8"
    with faults:
        publish(staged, run_dir / "checkpoint-8", run=RUN)


def prepared(folder, *, older):
    """A run with checkpoint-4, perhaps an older checkpoint-8, and a staged checkpoint-8."""
    save(folder, 4, b"four")
    if older:
        save(folder, 8, b"old")
    stage(folder, 8, b"new")
    return folder


def calls_of_a_publish(tmp_path, *, older):
    faults = Faults(None)
    publish_with(faults, prepared(tmp_path / "count", older=older))
    return faults.calls


def the_last_good_one_is_there(run_dir, *, older):
    newest = newest_complete(run_dir)
    content = (newest / "model.safetensors").read_bytes()[:3]
    if older:
        assert content in (b"old", b"new")
    else:
        assert content == (b"new" if newest.name == "checkpoint-8" else b"fou")
    assert verify(newest)["run"] == RUN
    return content


def crash():
    raise Crash


def disk_full():
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("older", [False, True], ids=["new step", "step saved before"])
@pytest.mark.parametrize("happen", [crash, disk_full])
def test_a_failure_at_any_call_leaves_the_old_checkpoint_or_the_new(tmp_path, happen, older):
    seen = set()
    calls = calls_of_a_publish(tmp_path, older=older)
    assert calls > 20
    for n in range(calls):
        run_dir = prepared(tmp_path / str(n), older=older)
        with pytest.raises((Crash, OSError)):
            publish_with(Faults(happen, n), run_dir)
        seen.add(the_last_good_one_is_there(run_dir, older=older))
        assert not list(run_dir.rglob(f".{MANIFEST}.*"))
        # The next save starts clean, loses nothing on the way, and succeeds.
        clear_staging(run_dir)
        assert not (run_dir / STAGING).exists()
        the_last_good_one_is_there(run_dir, older=older)
        assert (save(run_dir, 8, b"new") / "model.safetensors").read_bytes()[:3] == b"new"
        shutil.rmtree(run_dir)
    assert seen == {b"new", b"old" if older else b"fou"}


# Python 3.12 warns where a process with threads is forked (python/cpython#100228); this child only publishes.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("older", [False, True], ids=["new step", "step saved before"])
@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])  # other failures come at each
def test_a_process_killed_at_any_call_leaves_the_old_checkpoint_or_the_new(tmp_path, older, every):
    for n in range(0, calls_of_a_publish(tmp_path, older=older), every):
        run_dir = prepared(tmp_path / str(n), older=older)
        child = os.fork()
        if child == 0:
            try:
                publish_with(Faults(lambda: os._exit(9), n), run_dir)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        the_last_good_one_is_there(run_dir, older=older)
        clear_staging(run_dir)
        the_last_good_one_is_there(run_dir, older=older)
        assert not (run_dir / STAGING).exists()


def test_a_new_checkpoint_that_is_damaged_gives_way_to_the_one_it_was_about_to_replace(tmp_path):
    run_dir = prepared(tmp_path, older=True)
    old = run_dir / STAGING / "checkpoint-8.old"
    (run_dir / "checkpoint-8").rename(old)
    assert newest_complete(run_dir) == old
    publish(run_dir / STAGING / "checkpoint-8", run_dir / "checkpoint-8", run=RUN)
    assert newest_complete(run_dir) == run_dir / "checkpoint-8"
    assert not old.exists()


# Text files written whole


def test_a_text_file_is_replaced_whole(tmp_path):
    path = tmp_path / "report.json"
    for text in ("old", "new → é"):
        write_atomically(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("happen", [crash, disk_full])
def test_a_failed_write_leaves_the_old_text_and_no_temporary_file(tmp_path, happen):
    path = tmp_path / "report.json"
    path.write_text("old")
    counted = Faults(None)
    with counted:
        write_atomically(tmp_path / "other.json", "new")
    assert counted.calls >= 4  # open, write, flush to disk, replace
    for n in range(counted.calls):
        with Faults(happen, n), pytest.raises((Crash, OSError)):
            write_atomically(path, "new")
        assert path.read_text() == "old"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["other.json", "report.json"]


def test_text_that_cannot_be_encoded_leaves_the_old_text(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
