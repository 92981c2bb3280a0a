"""Threads are as many as cores are idle; what the user says wins."""

import pytest
import torch

from hfdistill.recipe import threads


@pytest.fixture
def machine(monkeypatch):
    """Four cores of a given load, for a process that may run on some of them."""

    def make(busy, *, own=(0, 1, 2, 3), quota=float("inf"), **environment):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(threads.psutil, "cpu_percent", lambda seconds, percpu: list(busy))
        monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(own), raising=False)
        monkeypatch.setattr(threads, "_quota", lambda: quota)

    return make


@pytest.mark.parametrize(
    ("busy", "options", "count", "why"),
    [
        ([0, 0, 0, 0], {}, 4, ""),
        ([5, 3, 0, 10], {}, 4, ""),
        ([100, 0, 0, 0], {}, 3, "threads: 3, since 3.0 of 4 cores are idle"),
        ([100, 100, 100, 100], {}, 1, "threads: 1, since 0.0 of 4 cores are idle"),
        ([100, 0, 100, 100], {"own": (0, 1)}, 1, "threads: 1, since 1.0 of 2 cores are idle"),
        ([50, 50, 0, 0], {"own": (0, 1)}, 1, "since 1.0 of 2"),
        ([0, 0, 0, 0], {"quota": 2.0}, 2, "since 2.0 of 4"),
        ([0, 0, 0, 0], {"LOCAL_WORLD_SIZE": "2"}, 2, ""),
        ([100, 0, 0, 0], {"LOCAL_WORLD_SIZE": "2"}, 1, "shared by 2 processes"),
        ([100, 100, 100, 100], {"OMP_NUM_THREADS": "3"}, 3, ""),
    ],
)
def test_threads_follow_the_load(machine, busy, options, count, why):
    machine(busy, **options)
    number, reason = threads.choose_threads(0)
    assert number == count
    assert why in reason
    assert bool(why) == bool(reason)


def test_a_run_says_in_one_line_that_it_takes_fewer_threads(machine, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    machine([100, 100, 100, 0])
    threads.use_idle_cores()
    assert seen == [1]
    assert capsys.readouterr().err.count("\n") == 1
    machine([100, 100, 100, 0], OMP_NUM_THREADS="2")
    threads.use_idle_cores()
    assert seen == [1]
    assert capsys.readouterr().err == ""


def test_the_idle_cores_of_this_machine():
    idle, cores = threads.idle_cores(0.05)
    assert 0 <= idle <= cores


def test_more_idle_cores_than_threads_change_nothing_and_other_processes_are_silent(
    machine, monkeypatch, capsys
):
    monkeypatch.setattr(torch, "set_num_threads", lambda _: pytest.fail("the number is changed"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    machine([100, 0, 0, 0], LOCAL_RANK="1")
    threads.use_idle_cores()
    assert capsys.readouterr().err == ""
    machine([100, 0, 0, 0], LOCAL_RANK="0")
    threads.use_idle_cores()
    assert capsys.readouterr().err.startswith("threads: 3, since 3.0 of 4 cores are idle")


def test_a_shell_reads_the_number_alone(machine, capsys):
    machine([100, 0, 0, 0])
    threads.main()
    out, err = capsys.readouterr()
    assert out == "3\n"
    assert err.startswith("threads: 3, since")
    machine([0, 0, 0, 0])
    threads.main()
    assert capsys.readouterr() == ("4\n", "")


@pytest.mark.parametrize(
    ("content", "cores"), [("150000 100000", 1.5), ("max 100000", float("inf")), ("odd", float("inf"))]
)
def test_the_share_of_a_container_is_read(monkeypatch, content, cores):
    monkeypatch.setattr(threads.Path, "read_text", lambda self, encoding: content)
    assert threads._quota() == cores
