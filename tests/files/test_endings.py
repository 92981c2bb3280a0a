"""How a process ends by a signal, and who holds a folder of runs."""

import os
import signal

import pytest

from hfdistill.files import run_lock
from hfdistill.files.endings import EXIT_CODES, Ended, EndInOrder, ending_in_order, is_free
from hfdistill.files.markdown import MAX_LISTING, listing


def test_a_process_that_was_forked_ends_by_the_signal_itself(monkeypatch):
    handler, done = EndInOrder(), []
    with pytest.raises(Ended) as ended:
        handler(signal.SIGTERM, None)
    assert (ended.value.code, ended.value.number) == (143, signal.SIGTERM)
    monkeypatch.setattr(signal, "signal", lambda number, action: done.append((number, action)))
    monkeypatch.setattr(os, "kill", lambda process, number: done.append((process, number)))
    handler._process += 1
    handler(signal.SIGTERM, None)
    assert done == [(signal.SIGTERM, signal.SIG_DFL), (os.getpid(), signal.SIGTERM)]


def test_a_handler_set_meanwhile_stays(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    before = {each: signal.signal(each, signal.SIG_DFL) for each in EXIT_CODES}

    def other(number, frame):
        """Stand for a user's."""

    try:
        with ending_in_order():
            assert all(isinstance(signal.getsignal(each), EndInOrder) for each in EXIT_CODES)
            signal.signal(signal.SIGTERM, other)
        assert signal.getsignal(signal.SIGTERM) is other
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
        assert not is_free(signal.SIGTERM)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_a_lock_that_its_holder_has_removed_is_taken_anew(tmp_path, monkeypatch):
    answers, asked = [False, True], run_lock._is
    monkeypatch.setattr(run_lock, "_is", lambda *which: answers.pop(0) and asked(*which))
    with run_lock.only_run(tmp_path):
        assert answers == []
        assert (tmp_path / run_lock.LOCK).read_text().startswith(f"process {os.getpid()} on ")
    assert not (tmp_path / run_lock.LOCK).exists()


def test_a_machine_without_file_locks_runs_unlocked(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "fcntl", None)
    with run_lock.only_run(tmp_path), run_lock.only_run(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_a_long_listing_is_cut():
    shown = listing({f"note {number}": "x" * 100 for number in range(400)})
    assert shown.startswith("<pre><code>note 0: xxx")
    assert shown.endswith("\n… cut, the whole is in the report\n</code></pre>")
    assert len(shown) < MAX_LISTING + 100
    assert "cut" not in listing({"note": 1})
