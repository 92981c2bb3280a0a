"""Benchmarks, run by hand: `python -m tests.benchmarks`."""

import time

import torch


def now():
    """Return the seconds on the clock that ratios are made of.

    It is the CPU time of this process where one thread computes on a CPU, which other processes on the
    machine hardly change, and the time by the clock otherwise.
    """
    return time.process_time() if _alone() else time.perf_counter()


def conditions(*, bf16):
    """Return under what a table was measured, in a line."""
    clock = "CPU time" if _alone() else "time by the clock"
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads, {clock}, bf16={bf16}"


def _alone():
    return torch.get_num_threads() == 1 and not torch.cuda.is_available()
