"""How far long work is: a bar, lines now and then, or nothing; and the time that is left."""

import sys

import pytest

from hfdistill.files import progress as progress_file
from hfdistill.files.progress import Progress, announce, duration


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves."""
    now = [100.0]
    monkeypatch.setattr(progress_file.time, "monotonic", lambda: now[0])
    return now


def work(clock, **options):
    """Do 12,000 rows in 100 seconds."""
    with Progress("reading", **options) as progress:
        for seconds, rows in ((10, 1000), (30, 2000), (50, 1000), (75, 2000), (100, 6000)):
            clock[0] = 100.0 + seconds
            progress.update(rows)
    assert progress.n == 12_000


def test_a_line_comes_every_half_minute_with_the_time_left_and_none_at_the_end(clock, caplog, capsys):
    with caplog.at_level("INFO", "hfdistill"):
        work(clock, total=12_000, show="log")
    assert caplog.messages == [
        "reading: 3,000 of 12,000 rows, 2 min left",
        "reading: 6,000 of 12,000 rows, 75 s left",
    ]
    assert capsys.readouterr().err == ""


def test_what_has_no_known_end_is_counted(clock, caplog):
    with caplog.at_level("INFO", "hfdistill"):
        work(clock, unit="texts", show="log")
    assert caplog.messages == ["reading: 3,000 texts", "reading: 6,000 texts"]


@pytest.mark.parametrize("watched", [True, False])
def test_a_bar_is_for_a_terminal_unless_it_is_asked_for(clock, caplog, capsys, monkeypatch, watched):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: watched)
    with caplog.at_level("INFO", "hfdistill"):
        work(clock, total=12_000)
    assert ("Reading: " in capsys.readouterr().err) == watched
    assert bool(caplog.messages) != watched
    work(clock, total=12_000, show="bar")
    assert "Reading: " in capsys.readouterr().err
    work(clock, total=12_000, show="none")
    assert capsys.readouterr().err == ""


def test_what_begins_is_said_where_its_progress_is_shown(caplog, capsys):
    with caplog.at_level("INFO", "hfdistill"):
        for show in ("none", "bar", "log"):
            announce(f"to be shown by {show}", show)
    assert (caplog.messages, capsys.readouterr().err) == (["to be shown by log"], "to be shown by bar.\n")


def test_a_time_is_said_as_people_say_it():
    assert [duration(s) for s in (0.2, 89, 91, 3600, 11_100)] == [
        "1 s",
        "89 s",
        "2 min",
        "60 min",
        "3 h 5 min",
    ]
