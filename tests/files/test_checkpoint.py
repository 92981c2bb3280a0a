"""Checkpoints are complete or absent: every damage is noticed, and no crash loses the last good one."""

import errno
import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from hfdistill.files import checkpoint
from hfdistill.files.checkpoint import (
    MANIFEST,
    STAGING,
    CheckpointError,
    check_same_run,
    clear_staging,
    newest_checkpoint,
    newest_complete,
    publish,
    read_manifest,
    verify,
)

RUN = {"objective": "1 * KD(temperature=4)", "columns": [1, 0], "teacher": None}
FILES = ["model.safetensors", "optimizer.pt", "trainer_state.json", "nested/deep/part"]


@pytest.fixture(autouse=True)
def fsync(monkeypatch):
    """Calls to `os.fsync` are counted, failed and looked at here, but no test waits for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def stage(run_dir, step, content=b"new"):
    """What a save leaves in the staging folder; no 512 bytes of it are alike."""
    staged = run_dir / STAGING / f"checkpoint-{step}"
    for name in FILES:
        path = staged / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content + random.Random(f"{step}{name}").randbytes(1500))
    return staged


def save(run_dir, step, content=b"new"):
    final = run_dir / f"checkpoint-{step}"
    publish(stage(run_dir, step, content), final, run=RUN)
    (run_dir / STAGING).rmdir()
    return final


def save_plain(run_dir, step, *files):
    """A folder as a plain Trainer leaves it."""
    folder = run_dir / f"checkpoint-{step}"
    folder.mkdir()
    for name in files or ("model.safetensors", "trainer_state.json", "training_args.bin"):
        (folder / name).write_text(json.dumps({"global_step": step}))
    return folder


@pytest.fixture
def good(tmp_path):
    return save(tmp_path, 8)


# Whole checkpoints


def test_a_published_checkpoint_verifies_and_is_the_newest(good, tmp_path):
    manifest = verify(good)
    assert manifest["run"] == RUN
    assert manifest["files"].keys() == set(FILES)
    weights = (good / "model.safetensors").read_bytes()
    sha256 = hashlib.sha256(weights).hexdigest()
    assert manifest["files"]["model.safetensors"] == {"bytes": 1503, "sha256": sha256}
    assert newest_complete(tmp_path) == good
    assert newest_checkpoint(str(tmp_path)) == str(good)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-8"]


def test_every_file_and_folder_is_on_disk_before_it_is_seen(tmp_path, monkeypatch):
    synced, final = set(), tmp_path / "checkpoint-8"

    def fsync(descriptor):
        # Which file it is, without /proc: the one with this inode.
        inode = os.fstat(descriptor).st_ino
        names = [p.name for p in [tmp_path, *tmp_path.rglob("*")] if p.stat().st_ino == inode]
        synced.update((name, final.exists()) for name in names)

    monkeypatch.setattr(os, "fsync", fsync)
    save(tmp_path, 8)
    before = {name for name, seen in synced if not seen}
    assert {*(Path(name).name for name in FILES), "nested", "deep", "checkpoint-8"} <= before
    assert any(name.startswith(f".{MANIFEST}.") for name in before)
    assert (tmp_path.name, True) in synced


def test_c18_the_newest_is_the_highest_step_whatever_the_clock_says(tmp_path):
    folders = [save(tmp_path, step) for step in (8, 90, 100)]
    for age, folder in enumerate(folders):
        os.utime(folder, (10**9 - age, 10**9 - age))
    assert newest_complete(tmp_path) == folders[2]


@pytest.mark.parametrize(
    "name", ["checkpoint-", "checkpoint-9x", "checkpoint-9.old", "my-checkpoint-9", "checkpoint-٩"]
)
def test_other_folders_and_files_are_no_checkpoints(good, tmp_path, name):
    shutil.copytree(good, tmp_path / name)
    (tmp_path / "checkpoint-99").write_text("a file")
    assert newest_complete(tmp_path) == (tmp_path / name if name.endswith(".old") else good)


def test_there_is_none_in_an_empty_or_absent_folder(tmp_path):
    assert newest_complete(tmp_path) is None
    assert newest_complete(tmp_path / "absent") is None
    assert newest_checkpoint(tmp_path) is None


def test_publishing_again_replaces_the_older_folder(good, tmp_path):
    (good / "extra").write_text("from the older save")
    save(tmp_path, 8, b"newer")
    assert (good / "model.safetensors").read_bytes().startswith(b"newer")
    assert not (good / "extra").exists()
    assert verify(good)["files"].keys() == set(FILES)


def test_publishing_over_a_link_leaves_what_it_points_to(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("kept")
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for target in (elsewhere, tmp_path / "dangling"):
        (run_dir / "checkpoint-8").symlink_to(target)
        final = save(run_dir, 8)
        assert not final.is_symlink()
        assert verify(final)["run"] == RUN
        shutil.rmtree(final)
    assert (elsewhere / "precious").read_text() == "kept"


# Damage


def flip_one_bit(path, dice):
    content = bytearray(path.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def truncate(path, dice):
    path.write_bytes(path.read_bytes()[: dice.randrange(path.stat().st_size)])


def zero_a_block(path, dice):
    content = bytearray(path.read_bytes())
    start = dice.randrange(max(len(content) - 512, 1))
    content[start : start + 512] = bytes(len(content[start : start + 512]))
    path.write_bytes(content)


def grow(path, dice):
    path.write_bytes(path.read_bytes() + b"\0")


def delete(path, dice):
    path.unlink()


def replace_by_folder(path, dice):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
@pytest.mark.parametrize(
    ("damage", "trials"),
    [
        (flip_one_bit, 60),
        (truncate, 20),
        (zero_a_block, 20),
        (grow, 1),
        (delete, 1),
        (replace_by_folder, 1),
    ],
)
def test_c8_damage_is_noticed_and_the_file_named(good, name, damage, trials):
    path, dice = good / name, random.Random(f"{name}{damage.__name__}")
    whole = path.read_bytes()
    for _ in range(trials):
        damage(path, dice)
        with pytest.raises(CheckpointError) as caught:
            verify(good)
        # A changed name in the manifest is noticed as such, or as a file that is not there.
        assert path.name in str(caught.value)
        assert "Resume from another" in str(caught.value)
        if path.is_dir():
            path.rmdir()
        path.write_bytes(whole)
    verify(good)


def test_a_file_that_was_cut_short_is_called_so(good):
    truncate(good / "optimizer.pt", random.Random(0))
    with pytest.raises(CheckpointError, match=r"optimizer\.pt' has \d+ bytes of 1503\. Resume"):
        verify(good)


def test_a_file_that_became_a_link_out_of_the_folder_is_refused(good):
    outside = shutil.move(good / "optimizer.pt", good.parent / "outside")
    (good / "optimizer.pt").symlink_to(outside)
    with pytest.raises(CheckpointError, match=r"optimizer\.pt' lies outside"):
        verify(good)


@pytest.mark.parametrize("damage", [flip_one_bit, truncate, delete])
def test_a_damaged_checkpoint_is_passed_over_for_the_older_good_one(good, tmp_path, damage, caplog):
    newer = save(tmp_path, 16)
    damage(newer / "optimizer.pt", random.Random(0))
    assert newest_complete(tmp_path) == good
    assert f"{newer} is passed over" in caplog.text
    assert "optimizer.pt" in caplog.text


@pytest.mark.parametrize("failure", [OSError(errno.EIO, "Input/output error"), PermissionError(13, "denied")])
def test_a_file_that_cannot_be_read_is_damage(good, tmp_path, monkeypatch, failure):
    newer, real = save(tmp_path, 16), checkpoint._sha256

    def sha256(path):
        if path.is_relative_to(newer):
            raise failure
        return real(path)

    monkeypatch.setattr(checkpoint, "_sha256", sha256)
    with pytest.raises(CheckpointError, match=failure.strerror):
        verify(newer)
    assert newest_complete(tmp_path) == good


def write_manifest(folder, **changes):
    """A manifest whose own sha256 is right, whatever it says."""
    manifest = {"schema": 1, "run": {}, "files": {}, **changes}
    (folder / MANIFEST).write_text(json.dumps({**manifest, "sha256": checkpoint.seal(manifest)}))


FACTS = {"bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "../checkpoint-8-twin/x",
        "/etc/passwd",
        "//etc/passwd",
        "nested/../../x",
        "..",
        "",
        ".",
        "nul\0byte",
        "a" * 300,
        "a/" * 3000,
        "\\\\host\\share\\x",
        "..\\x",
        "C:\\x",
        "lone surrogate \ud800",
        "line\nbreak\x1b[31m",
    ],
)
def test_d7_a_hostile_file_name_in_the_manifest_is_refused(good, tmp_path, name):
    (tmp_path / "x").write_bytes(b"{}")
    write_manifest(good, files={name: FACTS})
    with pytest.raises(CheckpointError) as caught:
        verify(good)
    assert "\x1b" not in str(caught.value)
    assert newest_complete(tmp_path) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {"model.safetensors": {}}},
        {"files": {"model.safetensors": None}},
        {"files": {"model.safetensors": 5}},
        {"files": {"model.safetensors": "abc"}},
        {"files": {"model.safetensors": []}},
        {"files": {"model.safetensors": {"bytes": "1503", "sha256": "x"}}},
        {"files": {"model.safetensors": {"bytes": 1503, "sha256": None}}},
        {"files": []},
        {"files": None},
        {"run": []},
        {"run": None},
        {"schema": 2},
        {"schema": None},
        {"further": 1},
    ],
    ids=str,
)
def test_a_manifest_of_wrong_types_is_refused(good, changes):
    write_manifest(good, **changes)
    with pytest.raises(CheckpointError, match="Resume from another"):
        verify(good)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 100,
        b"\xff\xfe",
        b"{",
        b"[]",
        b"null",
        b"5",
        b'"x"',
        b"{}",
        b"[" * 100_000,
        b"1" * 5000,
        b"NaN",
    ],
    ids=lambda content: repr(content[:6]),
)
def test_a_manifest_that_is_no_manifest_is_refused(good, content):
    (good / MANIFEST).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{MANIFEST} cannot be read"):
        read_manifest(good)


def test_a_half_deleted_checkpoint_is_never_the_newest(tmp_path):
    save(tmp_path, 4)
    for n, name in enumerate([MANIFEST, *FILES]):
        half = save(tmp_path, 8 + n)
        (half / name).unlink()
        assert newest_complete(tmp_path) == tmp_path / "checkpoint-4"


# Folders of a plain Trainer


def test_a_plain_trainers_folder_counts_though_it_has_no_manifest(good, tmp_path):
    plain = save_plain(tmp_path, 16)
    assert verify(plain) is None
    assert newest_complete(tmp_path) == plain


@pytest.mark.parametrize("files", [["model.safetensors"], ["trainer_state.json"], ["training_args.bin"]])
def test_a_plain_trainers_unfinished_folder_does_not_count(good, tmp_path, files):
    save_plain(tmp_path, 16, *files)
    assert newest_complete(tmp_path) == good


# Staging


def test_clearing_removes_what_an_interrupted_save_left(good, tmp_path):
    stage(tmp_path, 16)
    clear_staging(tmp_path)
    clear_staging(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-8"]


@pytest.mark.parametrize("inner", [False, True], ids=["the folder", "a folder in it"])
def test_d16_clearing_never_deletes_through_a_link(tmp_path, inner):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("kept")
    staging = tmp_path / STAGING
    if inner:
        staging.mkdir()
        staging = staging / "checkpoint-8"
    staging.symlink_to(elsewhere)
    clear_staging(tmp_path)
    assert (elsewhere / "precious").read_text() == "kept"
    assert (tmp_path / STAGING).is_symlink() != inner


# The same run


def test_the_same_settings_resume_whatever_json_made_of_them(tmp_path):
    run = {"objective": "KD", "columns": (1, 0), "teacher": None, "classes": {0: "no", 10: "yes", 9: "é→"}}
    final = tmp_path / "checkpoint-1"
    publish(stage(tmp_path, 1), final, run=run)
    check_same_run(verify(final), run, folder=final)
    check_same_run(None, run, folder=final)
    check_same_run(verify(final), {**run, "setting of a later version": 1}, folder=final)


def test_other_settings_are_refused_and_each_difference_is_listed(good):
    changed = {"objective": "1 * KD(temperature=2)", "columns": [1, 0], "teacher": "abc"}
    with pytest.raises(CheckpointError) as caught:
        check_same_run(verify(good), changed, folder=good)
    text = str(caught.value)
    assert "objective: '1 * KD(temperature=4)' → '1 * KD(temperature=2)'; teacher: None → 'abc'" in text
    assert "columns" not in text
    assert "Choose a new output_dir" in text
    assert "allow_changed=True" in text


def test_a_link_to_a_checkpoint_is_deleted_and_what_it_leads_to_is_not(tmp_path):
    elsewhere = tmp_path / "elsewhere" / "checkpoint-1"
    elsewhere.mkdir(parents=True)
    (elsewhere / "model.safetensors").write_bytes(b"weights")
    run = tmp_path / "run"
    for number in (2, 3):
        (run / f"checkpoint-{number}").mkdir(parents=True)
    (run / "checkpoint-1").symlink_to(elsewhere)
    checkpoint.rotate(run, limit=1, protected=())
    assert [folder.name for folder in run.glob("checkpoint-*")] == ["checkpoint-3"]
    assert (elsewhere / "model.safetensors").read_bytes() == b"weights"
