"""Work in a forked child, which may be killed: what a process leaves, without starting another Python."""

import itertools
import os
import signal

import pytest
import torch

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
