"""One run in a folder at a time: a lock that the death of its holder frees."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not noticed
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

LOCK = ".hfdistill.lock"
"""Its name in an output folder. It is there while a run is, and is never published."""
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


class FolderInUse(ValueError):  # noqa: N818
    """Another run writes to this folder at this moment."""


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; no process waits for another.

    The system frees the lock where its holder ends in any way, also by SIGKILL, so none is ever stale. A
    folder that is not there is made. Where the file system has no locks (some of the network), a warning says
    so and the run goes on.

    Raises:
        FolderInUse: a ValueError, with the process that holds it and what to type.
        OSError: where nothing can be written there.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = _locked(folder / LOCK)
    try:
        yield
    finally:
        if descriptor is not None:
            with suppress(OSError):
                (folder / LOCK).unlink()
            os.close(descriptor)
        if is_new:
            with suppress(OSError):
                folder.rmdir()  # where the run came to nothing


def _locked(path: Path) -> int | None:
    """Return a descriptor that holds the lock; None where locking is not possible."""
    while fcntl is not None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(path, descriptor):
                holder = f"process {os.getpid()} on {socket.gethostname()}"
                os.truncate(descriptor, 0)
                os.pwrite(descriptor, holder.encode(), 0)
                return descriptor
            os.close(descriptor)  # its holder has removed it since
        except OSError as error:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace")
            os.close(descriptor)
            if error.errno in _HELD:
                raise FolderInUse(
                    f"Another run writes to {path.parent} now ({holder or 'which has just begun'}). Wait for "
                    "it or end it, or choose another folder: output_dir=..."
                ) from None
            logger.warning("%s cannot be locked (%s): start no second run there.", path.parent, error)
            return None
    return None


def _is(path: Path, descriptor: int) -> bool:
    """Whether a path still leads to an open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False
