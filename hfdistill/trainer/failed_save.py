"""What a save says that the disk did not take."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from hfdistill.files.checkpoint import CheckpointError, read_manifest

_OF_A_WRITE = ("inline_container", "PytorchStreamWriter", "unexpected pos", "I/O error", "os error")


@contextmanager
def telling_failed_writes(folder: Path, *, newest: Callable[[], Path | None]) -> Iterator[None]:
    """While open, report a failed write with its cause, the free space, and what is still whole.

    Safetensors and `torch.save` say of a full disk that a file is "unexpected pos 48192 vs 48084".

    Args:
        folder: that is written to.
        newest: finds the last checkpoint that can be gone on from.

    Raises:
        CheckpointError: from the error of the write; any other error passes.
    """
    try:
        yield
    except Exception as error:
        if not _is_of_a_write(error):
            raise
        raise CheckpointError(_explained(error, folder, newest())) from error


def _is_of_a_write(error: Exception) -> bool:
    if isinstance(error, CheckpointError):
        return False
    named = isinstance(error, (RuntimeError, SafetensorError)) and any(m in str(error) for m in _OF_A_WRITE)
    return named or isinstance(error, OSError)


def _explained(error: Exception, folder: Path, newest: Path | None) -> str:
    room = ""
    with suppress(OSError):
        room = f", where {shutil.disk_usage(folder).free / 1e6:,.1f} MB are free"
    text = f"{folder} did not take what was to be saved ({' '.join(str(error).split())[:200]}){room}. "
    if newest is None:
        return f"{text}No checkpoint is there yet: make room or choose another output_dir, and begin anew."
    size = 0
    with suppress(CheckpointError):
        size = sum(file["bytes"] for file in (read_manifest(newest) or {"files": {}})["files"].values())
    needs = f" (a checkpoint takes {size / 1e6:,.1f} MB)" if size else ""
    return (
        f"{text}Make room{needs}, by save_total_limit=1 for one, and go on with "
        f"train(resume_from_checkpoint=True), or the same command: {newest} is whole."
    )
