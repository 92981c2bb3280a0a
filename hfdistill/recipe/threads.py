"""Chooses as many threads as there are idle cores, since all threads wait for the slowest."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil

LOOK_SECONDS = 0.5


def idle_cores(seconds: float = LOOK_SECONDS) -> tuple[float, int]:
    """Return how many cores nobody uses now, and how many this process may run on."""
    own = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    busy = psutil.cpu_percent(seconds, percpu=True)
    shares = [busy[core] for core in own if core < len(busy)] if own else busy
    idle = sum(max(0.0, 100 - share) / 100 for share in shares)
    return min(idle, _quota()), len(shares)


def choose_threads(seconds: float = LOOK_SECONDS) -> tuple[int, str]:
    """Return how many threads to compute with, and why, in a sentence; "" where all cores are idle.

    OMP_NUM_THREADS wins where it is set. Several processes on one machine (LOCAL_WORLD_SIZE) share the cores.

    Example:
        >>> threads, why = choose_threads()
        >>> threads >= 1
        True
    """
    setting = os.environ.get("OMP_NUM_THREADS", "")
    if setting.isdecimal() and int(setting) > 0:
        return int(setting), ""
    idle, cores = idle_cores(seconds)
    processes = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    threads = max(1, int((idle + 0.25) / processes))
    if threads * processes >= cores:
        return threads, ""
    share = f", shared by {processes} processes" if processes > 1 else ""
    return threads, (
        f"threads: {threads}, since {idle:.1f} of {cores} cores are idle{share}; OMP_NUM_THREADS=N decides "
        "otherwise"
    )


def use_idle_cores() -> None:
    """Compute with as many threads as cores are idle, and say so where some are busy."""
    threads, why = choose_threads()
    if os.environ.get("OMP_NUM_THREADS"):
        return
    import torch

    if threads < torch.get_num_threads():
        torch.set_num_threads(threads)
    if why and os.environ.get("LOCAL_RANK", "0") == "0":
        print(why, file=sys.stderr)


def _quota() -> float:
    """Return how many cores a container may use at once; infinity where nothing says so."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return float("inf") if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        return float("inf")


def main() -> None:
    """Print the number of threads, for a shell, and why on stderr."""
    threads, why = choose_threads()
    if why:
        print(why, file=sys.stderr)
    print(threads)
