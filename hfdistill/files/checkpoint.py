"""Checkpoints that are complete or absent.

A checkpoint is written into a staging folder, listed with sha256 in a manifest, flushed to disk and renamed
into place in one step. What is read back is verified against the manifest. sha256 finds accidents, not an
attacker.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from hfdistill.files.plain_data import as_read_back, write_json

logger = logging.getLogger(__name__)

MANIFEST = "hfdistill.json"
STAGING = "_unfinished"
REPLACED = ".old"
_PLAIN = ("trainer_state.json", "training_args.bin")
"""What a plain Trainer leaves in every checkpoint; the second is never in ours."""
_NAME = re.compile(rf"checkpoint-([0-9]+)({re.escape(REPLACED)})?")
_INSTEAD = (
    "Resume from another checkpoint: train(resume_from_checkpoint=True) takes the newest that is whole."
)


class CheckpointError(RuntimeError):
    """A checkpoint is incomplete, damaged, or belongs to another run."""


def clear_staging(run_dir: Path) -> None:
    """Remove what an interrupted save left behind; put back a checkpoint that it was about to replace."""
    staging = run_dir / STAGING
    if staging.is_symlink() or not staging.is_dir():
        return
    for old in staging.glob(f"checkpoint-*{REPLACED}"):
        final = run_dir / old.name.removesuffix(REPLACED)
        if not os.path.lexists(final):
            old.rename(final)
    shutil.rmtree(staging)


def publish(staged: Path, final: Path, *, run: dict[str, Any]) -> None:
    """Seal a staged checkpoint and put it in place with one rename.

    Whenever it is interrupted, `newest_complete` finds the older checkpoint or the new one.

    Args:
        staged: the folder just written, in the folder STAGING beside `final`.
        final: where it shall stand; an older folder of that name is replaced.
        run: facts about the run, kept in the manifest and compared at resume.
    """
    files = {}
    for path in sorted(p for p in staged.rglob("*") if p.is_file() and p.name != MANIFEST):
        files[path.relative_to(staged).as_posix()] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        fsync(path)
    manifest = as_read_back({"schema": 1, "run": run, "files": files})
    write_json(staged / MANIFEST, {**manifest, "sha256": seal(manifest)})
    for folder in [*(p for p in staged.rglob("*") if p.is_dir()), staged]:
        fsync(folder)
    old = staged.parent / f"{final.name}{REPLACED}"
    if os.path.lexists(final):
        final.rename(old)
    staged.rename(final)
    fsync(final.parent)
    if old.is_symlink():
        old.unlink()
    elif old.is_dir():
        shutil.rmtree(old)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest, None where a plain Trainer wrote the folder; refuse one that cannot be read."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        sha256 = manifest.pop("sha256")
        if manifest.keys() != {"schema", "run", "files"} or sha256 != seal(manifest):
            raise ValueError("its own sha256 is another")
        if manifest["schema"] != 1:
            raise ValueError(f"schema {manifest['schema']!r} is not known; a newer hfdistill may know it")
        if not isinstance(manifest["files"], dict) or not isinstance(manifest["run"], dict):
            raise TypeError("files and run must be objects")
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}). {_INSTEAD}") from error
    return manifest


def verify(folder: Path) -> dict[str, Any] | None:
    """Check every file of a checkpoint against its manifest.

    Returns:
        The manifest, or None where a plain Trainer wrote the folder.

    Raises:
        CheckpointError: naming the first file that is missing, cut short or changed.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        if not all((folder / name).is_file() for name in _PLAIN):
            raise CheckpointError(
                f"{folder / MANIFEST} is missing, and the folder is not a plain Trainer's (which has "
                f"{' and '.join(_PLAIN)}). {_INSTEAD}"
            )
        _check_state(folder)
        return None
    for name, facts in manifest["files"].items():
        try:
            wrong = _fault(folder, name, facts)
        except (ValueError, KeyError, TypeError, OSError) as error:
            wrong = f"cannot be checked ({error})"
        if wrong:
            raise CheckpointError(f"{str(folder / name)!r} {wrong}. {_INSTEAD}")
    return manifest


def _check_state(folder: Path) -> None:
    """Refuse a plain Trainer's checkpoint, which has no sha256, whose state is not that of its step."""
    path, name = folder / _PLAIN[0], _NAME.fullmatch(folder.name)
    try:
        step = json.loads(path.read_text(encoding="utf-8"))["global_step"]
        if type(step) is not int or step < 0 or (name is not None and step != int(name[1])):
            raise ValueError(f"global_step is {step!r}")
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} is not that of this checkpoint ({error}). {_INSTEAD}") from error


def _fault(folder: Path, name: str, facts: dict[str, Any]) -> str | None:
    """Return what is wrong with one file of a manifest."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        return f"lies outside of {folder}"
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != facts["bytes"]:
        return f"has {path.stat().st_size} bytes of {facts['bytes']}"
    return None if _sha256(path) == facts["sha256"] else "has changed since it was written (sha256)"


def names_in(run_dir: Path) -> list[str]:
    """Return the names of the checkpoints in a folder, whole or not."""
    return [folder.name for folder in _in_order(run_dir)]


def newest_complete(run_dir: Path, *, among: Collection[str] | None = None) -> Path | None:
    """Return the latest run's checkpoint of the highest step that verifies; the log names damaged ones.

    A folder of a plain Trainer, which has no manifest, counts where it is whole as far as can be seen. Where
    a save was killed while it replaced a checkpoint, the replaced one counts. `among` are the names of those
    that are looked at, all by default.
    """
    for folder in reversed(_in_order(run_dir)):
        if among is not None and folder.name not in among:
            continue
        try:
            verify(folder)
        except CheckpointError as error:
            logger.warning("%s is passed over: %s", folder, error)
        else:
            return folder
    return None


def rotate(run_dir: Path, *, limit: int | None, protected: Collection[str | None]) -> None:
    """Delete the oldest checkpoints beyond `limit` (none for None or 0): those of earlier runs first.

    Paths in `protected` stay in any case.
    """
    folders = [folder for folder in _in_order(run_dir) if folder.parent == run_dir]
    loose = [folder for folder in folders if str(folder) not in protected]
    for folder in loose[: max(0, len(folders) - limit) if limit else 0]:
        if folder.is_symlink():
            folder.unlink()
            continue
        trash = run_dir / STAGING / f"{folder.name}.trash"  # half deleted, it must not look like a checkpoint
        trash.parent.mkdir(exist_ok=True)
        folder.rename(trash)
        shutil.rmtree(trash)


def _in_order(run_dir: Path) -> list[Path]:
    """Return checkpoints from the oldest to the newest: by the start of their run, then by step."""
    places = [*run_dir.glob("checkpoint-*"), *(run_dir / STAGING).glob(f"checkpoint-*{REPLACED}")]
    matches = [(p, m) for p in places if p.is_dir() and (m := _NAME.fullmatch(p.name))]
    return [
        p for p, m in sorted(matches, key=lambda pair: (_began(pair[0]), int(pair[1][1]), not pair[1][2]))
    ]


def _began(folder: Path) -> float:
    """Return when the checkpoint's run began, in seconds since 1970; 0 where it does not say."""
    try:
        began = (read_manifest(folder) or {"run": {}})["run"].get("began", 0.0)
    except CheckpointError:
        return 0.0
    return float(began) if isinstance(began, (int, float)) else 0.0


def newest_checkpoint(folder: str | Path) -> str | None:
    """Return the newest whole checkpoint, for `train(resume_from_checkpoint=…)`; None for a new run.

    Example:
        >>> newest_checkpoint("no/such/run") is None
        True
        >>> trainer.train(resume_from_checkpoint=newest_checkpoint(args.output_dir))  # doctest: +SKIP
    """
    newest = newest_complete(Path(folder))
    return None if newest is None else str(newest)


_ADDED_LATER: dict[str, Any] = {"student_dropout": None}
"""What the runs of older versions had, whose checkpoints do not say it."""


def check_same_run(manifest: dict[str, Any] | None, run: dict[str, Any], *, folder: Path) -> None:
    """Refuse to resume with another objective, teacher or label map than the checkpoint's."""
    before = {**_ADDED_LATER, **manifest["run"]} if manifest else {}
    changed = [
        f"{key}: {before[key]!r} → {now!r}"
        for key, now in as_read_back(run).items()
        if key in before and before[key] != now
    ]
    if changed:
        raise CheckpointError(
            f"{folder} was trained with other settings ({'; '.join(changed)}). Choose a new output_dir, or "
            "go on deliberately with DistillationArguments(allow_changed=True)."
        )


def seal(manifest: dict[str, Any]) -> str:
    """Return the sha256 over the content of a manifest."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Flush a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_OF_A_WRITE = ("inline_container", "PytorchStreamWriter", "unexpected pos", "I/O error", "os error")


@contextmanager
def telling_failed_writes(folder: Path, *, newest: Callable[[], Path | None]) -> Iterator[None]:
    """While open, report a failed write with its cause, the free space, and what is still whole.

    Safetensors and `torch.save` say of a full disk that a file is "unexpected pos 48192 vs 48084".

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
