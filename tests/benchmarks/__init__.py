"""Benchmarks, run by hand: `python -m tests.benchmarks`."""

import time

import torch


def now():
    """Return the seconds on the clock that ratios are made of.

    It is the CPU time of this process where one thread computes on a CPU, which other processes on the machine
    hardly change, and the time by the clock otherwise.
    """
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time() if alone else time.perf_counter()


def clock_name():
    """Return which clock `now` reads, for the table."""
    return (
        "CPU time" if torch.get_num_threads() == 1 and not torch.cuda.is_available() else "time by the clock"
    )
