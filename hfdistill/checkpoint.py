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
import tempfile
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

MANIFEST = "hfdistill.json"
STAGING = ".unfinished"
_NAME = re.compile(r"checkpoint-(\d+)")


class CheckpointError(RuntimeError):
    """A checkpoint is incomplete, damaged, or belongs to another run."""


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def clear_staging(run_dir: Path) -> None:
    """Remove what an interrupted save left behind."""
    staging = run_dir / STAGING
    if staging.is_dir() and not staging.is_symlink():
        shutil.rmtree(staging)


def publish(staged: Path, final: Path, *, run: dict[str, Any]) -> None:
    """Seal a staged checkpoint and put it in place with one rename.

    Args:
        staged: the folder just written.
        final: where it shall stand; an older folder of that name is replaced.
        run: facts about the run, kept in the manifest and compared at resume.
    """
    files = {}
    for path in sorted(p for p in staged.rglob("*") if p.is_file() and p.name != MANIFEST):
        files[path.relative_to(staged).as_posix()] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        _fsync(path)
    write_atomic(staged / MANIFEST, json.dumps({"schema": 1, "run": run, "files": files}, indent=1))
    _fsync(staged)
    if final.exists():
        old = staged.parent / f"{final.name}.old"
        final.rename(old)
        staged.rename(final)
        shutil.rmtree(old)
    else:
        staged.rename(final)
    _fsync(final.parent)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest, or None where the folder has none (a plain Trainer wrote it).

    Raises:
        CheckpointError: where there is one that cannot be read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest["files"], dict) or not isinstance(manifest["run"], dict):
            raise TypeError("files and run must be objects")
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}). Resume from another checkpoint.") from error
    return manifest


def verify(folder: Path) -> dict[str, Any] | None:
    """Check every file of a checkpoint against its manifest.

    Returns:
        The manifest, or None where the folder has none.

    Raises:
        CheckpointError: naming the first file that is missing, cut short or changed.
    """
    manifest = read_manifest(folder)
    for name, facts in (manifest or {"files": {}})["files"].items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise CheckpointError(
                f"{folder} lists {name!r}, which lies outside it. Resume from another checkpoint."
            )
        if not path.is_file():
            raise CheckpointError(f"{path} is missing. Resume from another checkpoint.")
        if path.stat().st_size != facts["bytes"]:
            raise CheckpointError(
                f"{path} has {path.stat().st_size} bytes of {facts['bytes']}. Resume from another."
            )
        if _sha256(path) != facts["sha256"]:
            raise CheckpointError(
                f"{path} has changed since it was written (sha256). Resume from another checkpoint."
            )
    return manifest


def newest_complete(run_dir: Path) -> Path | None:
    """The checkpoint of the highest step that verifies; damaged ones are named in the log and passed over.

    A folder without a manifest counts where it holds the file that a plain Trainer writes last.
    """
    found = [
        (int(m[1]), p) for p in run_dir.glob("checkpoint-*") if p.is_dir() and (m := _NAME.fullmatch(p.name))
    ]
    for _, folder in sorted(found, reverse=True):
        try:
            if verify(folder) is not None or (folder / "trainer_state.json").is_file():
                return folder
            logger.warning("%s is unfinished and is passed over.", folder)
        except CheckpointError as error:
            logger.warning("%s is passed over: %s", folder, error)
    return None


def check_same_run(manifest: dict[str, Any] | None, run: dict[str, Any], *, folder: Path) -> None:
    """Refuse to go on with another objective, teacher or label map than the checkpoint's.

    Raises:
        CheckpointError: listing what differs.
    """
    before = (manifest or {"run": {}})["run"]
    changed = [
        f"{key}: {before[key]!r} → {now!r}"
        for key, now in run.items()
        if key in before and before[key] != now
    ]
    if changed:
        raise CheckpointError(
            f"{folder} was trained with other settings ({'; '.join(changed)}). Choose a new output_dir, or "
            "go on deliberately with DistillationArguments(allow_changed=True)."
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return (
            hashlib.file_digest(stream, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else _digest(stream)
        )


def _digest(stream: Any) -> str:
    """`hashlib.file_digest` for Python 3.10."""
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
