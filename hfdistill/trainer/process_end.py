"""How the processes of a run on several end: in order, so that none aborts after its work is done."""

from __future__ import annotations

import atexit
import os

from torch import distributed

if int(os.environ.get("WORLD_SIZE", "1")) > 1:
    # First imported when a process group is there, as DistributedDataParallel would do it, it holds the group
    # and its threads to the end.
    import torch._dynamo  # noqa: F401


def end_in_order() -> None:
    """Have gloo's process group ended before Python is torn down; other backends are left alone.

    Its threads may hold tensors still, and one that lets go of them in a Python half gone aborts the process
    after all its work is done (pytorch/pytorch#179291).
    """
    atexit.unregister(_end_gloo)  # once, however many trainers there were
    atexit.register(_end_gloo)


def _end_gloo() -> None:
    if distributed.is_available() and distributed.is_initialized() and distributed.get_backend() == "gloo":
        distributed.destroy_process_group()
