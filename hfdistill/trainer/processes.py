"""Several processes end in order."""

from __future__ import annotations

import atexit

from torch import distributed


def leave_in_order() -> None:
    """Have gloo's process group ended before Python is torn down; other backends are left alone.

    Its threads may hold tensors still, and one that lets go of them in a Python half gone aborts the process
    after all its work is done (pytorch/pytorch#179291).
    """
    atexit.unregister(_end)  # once, however many trainers there were
    atexit.register(_end)


def _end() -> None:
    if distributed.is_available() and distributed.is_initialized() and distributed.get_backend() == "gloo":
        distributed.destroy_process_group()
