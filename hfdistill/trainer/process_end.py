"""How the processes of a run on several end: in order, so that none aborts after its work is done."""

from __future__ import annotations

import atexit
import gc
import os
import weakref
from typing import TYPE_CHECKING

from torch import distributed

if TYPE_CHECKING:
    from transformers import Trainer

if int(os.environ.get("WORLD_SIZE", "1")) > 1:
    # First imported when a process group is there, as DistributedDataParallel would do it, it holds the group
    # and its threads to the end.
    import torch._dynamo  # noqa: F401

_trainers: weakref.WeakSet[Trainer] = weakref.WeakSet()


def end_in_order(trainer: Trainer) -> None:
    """Have gloo's process group ended before Python is torn down; other backends are left alone.

    Its threads may hold tensors still, and one that lets go of them in a Python half gone aborts the process
    after all its work is done (pytorch/pytorch#179291). They end with the last object that holds the group,
    so that what `trainer` has wrapped in DistributedDataParallel is let go of, too.
    """
    _trainers.add(trainer)
    atexit.unregister(end_gloo)  # once, however many trainers there were
    atexit.register(end_gloo)


def end_gloo() -> None:
    """End gloo's process group, its threads and the trainers' references to it; none is not an error."""
    if distributed.is_available() and distributed.is_initialized() and distributed.get_backend() == "gloo":
        for trainer in _trainers:
            trainer.model_wrapped = trainer.model
            trainer.accelerator.free_memory()
        gc.collect()  # trainers and models are held in cycles
        distributed.destroy_process_group()
