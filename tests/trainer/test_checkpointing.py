"""A run that is killed goes on as if it had not been."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from hfdistill import (
    KD,
    CheckpointError,
    CrossEntropy,
    DistillationArguments,
    DistillationTrainer,
    newest_checkpoint,
)
from hfdistill.files import checkpoint as checkpoints
from tests.conftest import make_bert, make_dataset, make_tokenizer
from tests.forked import in_child, needs_fork
from tests.trainer.conftest import SaveAt

DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}


def build(folder, **options):
    settings = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "save_steps": 1,
        "learning_rate": 1e-2,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "seed": 3,
    }
    extra = {n: options.pop(n) for n in ("objective", "teacher", "eval_dataset") if n in options}
    return DistillationTrainer(
        make_bert(2, seed=2, **DROPOUT),
        DistillationArguments(str(folder), **{**settings, **options}),
        **{"teacher": make_bert(3, seed=1), **extra},
        train_dataset=make_dataset(21),
        processing_class=make_tokenizer(),
    )


def flat(trainer):
    return torch.cat([p.detach().reshape(-1) for p in trainer.model.parameters()])


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Exactness is promised for one number of threads; and a forked child has one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def straight(one_thread, tmp_path_factory):
    """The unbroken run: 3 steps an epoch, 6 in all."""
    trainer = build(tmp_path_factory.mktemp("straight"))
    trainer.train()
    assert trainer.state.global_step == 6
    return trainer


@needs_fork
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("call", [1, 14, 27, 40])  # there are 10 in each of 6 saves
def test_c1_killed_at_a_flush_of_a_save(straight, tmp_path, monkeypatch, call):
    calls = []
    flush = os.fsync

    def dying(descriptor):
        calls.append(descriptor)
        if len(calls) == call:
            os._exit(9)
        flush(descriptor)

    def work():
        monkeypatch.setattr(os, "fsync", dying)
        build(tmp_path).train()

    status = in_child(work)
    assert os.WEXITSTATUS(status) == 9, "the run has fewer flushes than this test counts on"
    resumed = build(tmp_path)
    resumed.train(resume_from_checkpoint=newest_checkpoint(tmp_path))
    assert resumed.state.global_step == 6
    assert torch.equal(flat(resumed), flat(straight))
    assert not (tmp_path / checkpoints.STAGING).exists()


@needs_fork
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("call", range(1, 60))
def test_c1_killed_at_any_flush_of_a_save(straight, tmp_path, monkeypatch, call):
    test_c1_killed_at_a_flush_of_a_save(straight, tmp_path, monkeypatch, call)


@needs_fork
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize(
    "seconds", [0.1, 0.3, *(pytest.param(t, marks=pytest.mark.slow) for t in (0.05, 0.2))]
)
def test_c1_killed_at_any_time(straight, tmp_path, seconds):
    pid = os.fork()
    if pid == 0:
        try:
            build(tmp_path).train()
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    resumed = build(tmp_path)
    resumed.train(resume_from_checkpoint=newest_checkpoint(tmp_path))
    assert torch.equal(flat(resumed), flat(straight))


@pytest.mark.parametrize(
    "option", [{"length_grouping": False}, {"dataloader_num_workers": 1}], ids=lambda o: next(iter(o))
)
@pytest.mark.parametrize("steps", [(2, 3, 4), pytest.param((1, 5), marks=pytest.mark.slow)], ids=str)
def test_a_checkpoint_within_an_epoch_or_at_its_end_resumes_bit_for_bit(tmp_path, option, steps):
    whole = build(tmp_path, **option, save_strategy="no")
    whole.add_callback(SaveAt(*steps))
    whole.train()
    for step in steps:
        resumed = build(tmp_path, **option, save_strategy="no")
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert torch.equal(flat(resumed), flat(whole)), step
        losses = [
            {e["step"]: e["loss"] for e in t.state.log_history if "loss" in e} for t in (whole, resumed)
        ]
        assert losses[0] == losses[1]


def test_what_is_evaluated_does_not_move_what_is_trained(straight, tmp_path):
    """A checkpoint of the last step of an epoch lies before its evaluation: a resumed run leaves that out."""
    evaluated = build(tmp_path, eval_strategy="epoch", eval_dataset=make_dataset(9))
    evaluated.train()
    assert sum("eval_loss" in entry for entry in evaluated.state.log_history) == 2
    assert torch.equal(flat(evaluated), flat(straight))
    resumed = build(tmp_path, eval_strategy="epoch", eval_dataset=make_dataset(9), save_strategy="no")
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert torch.equal(flat(resumed), flat(straight))


def test_c7_a_damaged_checkpoint_is_passed_over(straight, tmp_path, caplog):
    shutil.copytree(straight.args.output_dir, tmp_path, dirs_exist_ok=True)
    optimizer = tmp_path / "checkpoint-6" / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-1])
    resumed = build(tmp_path)
    resumed.train(resume_from_checkpoint=True)
    assert "checkpoint-6 is passed over" in caplog.text
    assert torch.equal(flat(resumed), flat(straight))
    (tmp_path / "checkpoint-5" / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError, match=r"optimizer.pt"):
        build(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


def test_nothing_to_resume(tmp_path):
    with pytest.raises(ValueError, match="No valid checkpoint found"):
        build(tmp_path).train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"objective": 0.1 * CrossEntropy() + 0.9 * KD(temperature=2)}, "objective"),
        ({"teacher": make_bert(3, seed=9)}, "teacher"),
    ],
    ids=["objective", "teacher"],
)
def test_a21_other_settings_are_not_the_same_run(straight, change, words):
    folder = Path(straight.args.output_dir)
    with pytest.raises(CheckpointError, match=rf"other settings \({words}: .*allow_changed=True"):
        build(folder, **change).train(resume_from_checkpoint=True)
    changed = build(folder, **change, allow_changed=True, save_strategy="no")
    assert changed.train(resume_from_checkpoint=True).global_step == 6


def test_old_checkpoints_go_by_their_number(tmp_path):
    trainer = build(tmp_path, save_total_limit=2)
    trainer.train()
    assert sorted(p.name for p in tmp_path.glob("checkpoint-*")) == ["checkpoint-5", "checkpoint-6"]
