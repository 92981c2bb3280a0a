"""Work in forked children: what a killed process leaves, what two do together, with no new Python started."""

import itertools
import os
import signal
import socket
import sys
import traceback
import warnings

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

import hfdistill

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def in_child(work):
    """Run `work` in a forked child, and return how it ended: 0 where it came to its end without an error."""
    pid = os.fork()
    if pid == 0:
        torch.set_num_threads(1)  # the threads of the parent are not there
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1]


def killed_at(micro_batch, work):
    """Run `work` in a child that is killed when it trains on its n-th micro-batch, counted from 1."""

    def dying():
        seen, train = itertools.count(1), hfdistill.DistillationTrainer.training_step

        def training_step(trainer, *arguments):
            if next(seen) == micro_batch:
                os.kill(os.getpid(), signal.SIGKILL)
            return train(trainer, *arguments)

        hfdistill.DistillationTrainer.training_step = training_step
        work()

    status = in_child(dying)
    assert os.WIFSIGNALED(status), "the work was over before it could be killed"
    assert os.WTERMSIG(status) == signal.SIGKILL


def on_two_processes(work, folder, **options):
    """Run `work` in two children, which find each other as those of `accelerate launch` do: by gloo, on CPU.

    What they print lies in the folder, as output-0.txt and output-1.txt.
    """
    ends = [os.waitpid(child, 0)[1] for child in two_started(work, folder, **options)]
    assert ends == [0, 0], "\n".join((folder / f"output-{rank}.txt").read_text()[-3000:] for rank in range(2))


def two_started(work, folder, *, nodes=1):
    """Start the two children of `on_two_processes`, and return their numbers; each may be a node."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    environment |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": str(2 // nodes)}
    own = [{"RANK": str(rank), "LOCAL_RANK": str(rank if nodes == 1 else 0)} for rank in range(2)]
    outputs = [folder / f"output-{rank}.txt" for rank in range(2)]
    return [
        _started(work, *each) for each in zip(outputs, [environment | ranks for ranks in own], strict=True)
    ]


def _started(work, output, environment):
    """Fork a child in the state of a process that a launcher has just started, and return its number."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(1, 2)
        sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)
        os.environ.update(environment)
        torch.set_num_threads(1)  # the threads of the parent are not there
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        warnings.resetwarnings()
        work()
        torch.distributed.destroy_process_group()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)
