"""Section C of the table of faults: processes that die, disks that are full, files that rot."""

import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import get_worker_info
from transformers import TrainerCallback

from hfdistill import CheckpointError, NonFiniteError
from hfdistill.files import checkpoint, run_lock
from hfdistill.files.run_lock import LOCK, FolderInUse, only_run
from hfdistill.trainer import loss_window
from tests.files.test_checkpoint import save
from tests.files.test_checkpoint_crashes import Crash, Faults, crash
from tests.forked import in_child, needs_fork

EVERY_STEP = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2, "learning_rate": 0.1}


class At(TrainerCallback):
    """Does something at the beginning of a step, counted from 1."""

    def __init__(self, step, work):
        self.step, self.work = step, work

    def on_step_begin(self, args, state, control, **others):
        if state.global_step + 1 == self.step:
            self.work()


def flat(trainer):
    return torch.cat([p.detach().reshape(-1) for p in trainer.model.parameters()])


@pytest.fixture
def straight(build):
    """The weights of a run that nothing happened to."""
    trainer = build(args={**EVERY_STEP, "save_strategy": "no"})
    trainer.train()
    return flat(trainer)


def test_c2_killed_at_any_call_of_a_rotation(tmp_path, monkeypatch):
    """The checkpoints that stay are whole, and none that is half deleted looks like one."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)

    def prepared(name):
        for step in (4, 8, 12):
            save(tmp_path / name, step)
        return tmp_path / name

    def rotate(folder):
        checkpoint.rotate(folder, limit=2, protected=(str(folder / "checkpoint-12"),))

    counted, folder = Faults(None), prepared("count")
    with counted:
        rotate(folder)
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-12", "checkpoint-8"]
    assert counted.calls >= 5
    for n in range(counted.calls):
        folder = prepared(str(n))
        with Faults(crash, n), pytest.raises(Crash):
            rotate(folder)
        for path in folder.glob("checkpoint-*"):
            checkpoint.verify(path)
        assert checkpoint.newest_complete(folder) == folder / "checkpoint-12"
        checkpoint.clear_staging(folder)
        rotate(folder)
        assert len(list(folder.iterdir())) in (2, 3)


def number(name):
    return getattr(signal, name)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGUSR1", 75)])
def test_c3_a_scheduler_ends_a_run_with_a_checkpoint_and_a_code_of_its_own(build, straight, name, code):
    stopped = build(args=EVERY_STEP, callbacks=[At(1, lambda: os.kill(os.getpid(), number(name)))])
    with pytest.raises(SystemExit) as left:
        stopped.train()
    assert left.value.code == code
    assert signal.getsignal(number(name)) == signal.SIG_DFL
    resumed = build(args=EVERY_STEP)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(flat(resumed), straight)


def test_c3_a_handler_of_somebody_elses_is_left_alone(build):
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda *signalled: heard.append(signalled))
    try:
        run = build(args=EVERY_STEP, callbacks=[At(1, lambda: os.kill(os.getpid(), signal.SIGUSR1))])
        assert run.train().global_step == 2
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(heard) == 1


ENDED = """
import os, signal, sys
import hfdistill.cli as cli
from pathlib import Path

class Command:
    HELP = "is ended"
    def add_flags(self, parser):
        pass
    def run(self, args):
        try:
            pid = os.fork()  # a worker, which the signal ends as it always has
            if pid == 0:
                os.kill(os.getpid(), signal.SIGTERM)
                os._exit(0)
            assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGTERM
            os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        finally:
            Path(sys.argv[2]).write_text("tidied up")

cli._COMMANDS["ended"] = Command()
sys.exit(cli.main(["ended"]))
"""


@needs_fork
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGUSR1", 75)])
def test_c3_a_command_outside_of_training_ends_in_order(tmp_path, name, code):
    words = [sys.executable, "-c", ENDED, name, str(tmp_path / "note")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert done.stderr == f"Ended by {name}. What is done stays; the same command goes on from there.\n"
    assert (tmp_path / "note").read_text() == "tidied up"


@needs_fork
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_c5_a_full_disk_is_told_and_the_checkpoint_before_it_resumes(build, straight, tmp_path):
    """No file grows beyond so many bytes: in the weights, in the optimizer's state and in the scheduler's."""

    def fill(size):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def work():
        for size in (2_000, 15_000, 27_000):
            run = build(args=EVERY_STEP, callbacks=[At(2, lambda: fill(size))])  # noqa: B023
            with pytest.raises(CheckpointError) as caught:
                run.train()
            fill(resource.RLIM_INFINITY)
            assert "did not take what was to be saved" in str(caught.value)
            assert "MB are free. Make room (a checkpoint takes" in str(caught.value)
            assert f"{tmp_path / 'run' / 'checkpoint-1'} is whole" in str(caught.value)
            assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint-1"]

    assert in_child(work) == 0
    resumed = build(args=EVERY_STEP)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(flat(resumed), straight)


def test_c5_other_errors_of_a_save_pass_as_they_are(build, monkeypatch):
    class Broken(TrainerCallback):
        def on_save(self, args, state, control, **others):
            raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$"):
        build(args=EVERY_STEP, callbacks=[Broken()]).train()


def test_c9_weights_under_other_names_are_refused(build):
    build(args=EVERY_STEP).train()
    trainer = build(args=EVERY_STEP)
    newest = checkpoint.newest_complete(Path(trainer.args.output_dir))
    weights = load_file(newest / "model.safetensors")
    weights["renamed.weight"] = weights.pop("classifier.weight")
    save_file(weights, newest / "model.safetensors", metadata={"format": "pt"})
    manifest = checkpoint.read_manifest(newest)
    staged = newest.parent / checkpoint.STAGING / newest.name
    staged.parent.mkdir()
    newest.rename(staged)
    checkpoint.publish(staged, newest, run=manifest["run"])
    with pytest.raises(CheckpointError, match=r"classifier\.weight, renamed\.weight stand on one side only"):
        trainer.train(resume_from_checkpoint=True)


def test_c12_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with only_run(tmp_path):
        assert "cannot be locked" in caplog.text


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_c13_an_output_folder_that_cannot_be_written_to(build, refused, monkeypatch, code):
    opened = os.open

    def refusing(path, *rest, **options):
        if str(path).endswith(LOCK):
            raise OSError(code, os.strerror(code), str(path))
        return opened(path, *rest, **options)

    trainer = build(args=EVERY_STEP)
    monkeypatch.setattr(run_lock.os, "open", refusing)
    with refused(
        rf"No checkpoint can be written to .*{os.strerror(code)}.*save_strategy='no'", CheckpointError
    ):
        trainer.train()
    assert build(args={**EVERY_STEP, "save_strategy": "no"}).train().global_step == 2


@needs_fork
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_c14_a_process_that_dies_leaves_what_resumes(build, straight):
    """What a launcher kills the others by is SIGTERM; the last checkpoint is whole whoever died when."""
    status = in_child(
        lambda: build(
            args=EVERY_STEP, callbacks=[At(2, lambda: os.kill(os.getpid(), signal.SIGKILL))]
        ).train()
    )
    assert os.WTERMSIG(status) == signal.SIGKILL
    resumed = build(args=EVERY_STEP)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(flat(resumed), straight)


def test_c19_a_worker_that_is_killed_ends_the_run_and_no_checkpoint(build, straight, tmp_path):
    def kill(index):
        if get_worker_info() is not None and index == 15:
            os.kill(os.getpid(), signal.SIGKILL)

    class Rows(TorchDataset):
        rows = build().train_dataset

        def __len__(self):
            return 16

        def __getitem__(self, index):
            kill(index)
            return self.rows[index]

    settings = {**EVERY_STEP, "dataloader_num_workers": 1, "dataloader_prefetch_factor": 1}
    settings["train_sampling_strategy"] = "sequential"
    with pytest.raises(RuntimeError, match=r"DataLoader worker .* exited unexpectedly|killed by signal"):
        build(train=Rows(), args=settings).train()
    for folder in (tmp_path / "run").glob("checkpoint-*"):
        checkpoint.verify(folder)


def test_c21_a_scaler_that_skips_every_step_ends_the_run(build, monkeypatch):
    """Of fp16, which CPUs do not compute with: here the accelerator is said to have skipped them."""
    monkeypatch.setattr(loss_window, "MOST_SKIPPED", 3)
    trainer, accelerator = build(args={"max_steps": 6}), SimpleNamespace(optimizer_step_was_skipped=True)
    trainer.remove_callback(loss_window.SkippedSteps)
    trainer.add_callback(loss_window.SkippedSteps(accelerator))
    trainer.add_callback(At(3, lambda: setattr(accelerator, "optimizer_step_was_skipped", False)))
    trainer.add_callback(At(4, lambda: setattr(accelerator, "optimizer_step_was_skipped", True)))
    with pytest.raises(NonFiniteError, match=r"last 3 steps, to step 6, were skipped.*bf16=True"):
        trainer.train()


# One run in a folder at a time


def test_a_second_run_in_one_folder_is_refused(build, refused, tmp_path):
    trainer = build(args=EVERY_STEP)
    words = rf"writes to .*run now \(process {os.getpid()} on .*another folder: output_dir="
    with only_run(tmp_path / "run"), refused(words, FolderInUse):
        trainer.train()
    assert trainer.train().global_step == 2
    assert not (tmp_path / "run" / LOCK).exists()


@needs_fork
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_the_death_of_its_holder_frees_a_folder(tmp_path):
    ready, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        with only_run(tmp_path):
            os.write(write, b"!")
            signal.pause()
    os.read(ready, 1)
    with pytest.raises(FolderInUse, match=f"process {pid}"), only_run(tmp_path):
        pass
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert (tmp_path / LOCK).read_text().startswith(f"process {pid}")  # it is there, and holds nobody up
    with only_run(tmp_path):
        assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()}")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_a_run_made_in_vain_is_not_left(tmp_path):
    with only_run(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / ".hfdistill.lock").is_file()  # by this name other versions know it
    assert not (tmp_path / "a" / "b").exists()
