"""Ctrl-C and SIGTERM end a run with a checkpoint, from which it goes on bit for bit."""

import os
import signal
import threading
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerCallback

from hfdistill import DistillationTrainer
from hfdistill.trainer.interrupts import Interrupts
from tests.conftest import make_bert, make_dataset, make_tokenizer

DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}


class Signalled(TrainerCallback):
    """The user presses Ctrl-C in a step."""

    def __init__(self, step, number=signal.SIGINT):
        self.step, self.number = step, number

    def on_pre_optimizer_step(self, args, state, control, **others):
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), self.number)


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """A suite that runs in the background of a shell ignores Ctrl-C, and so would its tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def build(arguments):
    def make(*callbacks, **options):
        settings = {
            "save_strategy": "steps",
            "save_steps": 100,
            "num_train_epochs": 2,
            "optim": "adamw_torch",
        }
        settings |= {"learning_rate": 1e-2, "per_device_train_batch_size": 8, **options}
        return DistillationTrainer(
            make_bert(2, seed=2, **DROPOUT),
            arguments(**settings),
            teacher=make_bert(3, seed=1),
            train_dataset=make_dataset(21),
            eval_dataset=make_dataset(8),
            processing_class=make_tokenizer(),
            callbacks=list(callbacks),
        )

    return make


def flat(trainer):
    return torch.cat([p.detach().reshape(-1) for p in trainer.model.parameters()])


@pytest.mark.parametrize(("pressed", "saved"), [(2, 2), (3, 4)], ids=["in an epoch", "at its end"])
def test_ctrl_c_saves_and_the_run_goes_on_bit_for_bit(build, tmp_path, pressed, saved):
    """At the end of an epoch its evaluation comes first, so a step later."""
    straight = build(output_dir=str(tmp_path / "straight"), eval_strategy="epoch")
    straight.train()
    folder = tmp_path / "run" / f"checkpoint-{saved}"
    words = rf"^Interrupted at step {saved} of 6; .*checkpoint-{saved} is saved.* goes on from step {saved} "
    with pytest.raises(KeyboardInterrupt, match=words):
        build(Signalled(pressed), eval_strategy="epoch").train()
    assert (folder / "optimizer.pt").is_file()
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    resumed = build(eval_strategy="epoch")
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(flat(resumed), flat(straight))
    losses = [
        {e["step"]: e["eval_loss"] for e in t.state.log_history if "eval_loss" in e}
        for t in (straight, resumed)
    ]
    assert losses[0] == losses[1]
    assert set(losses[0]) == {3, 6}


def test_c3_a_termination_saves_and_leaves_with_its_status(build, tmp_path, caplog):
    with pytest.raises(SystemExit) as left:
        build(Signalled(2, signal.SIGTERM)).train()
    assert left.value.code == 143
    assert "Interrupted at step 2 of 6" in caplog.text
    assert (tmp_path / "run" / "checkpoint-2").is_dir()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_run_that_saves_nothing_says_so(build, tmp_path):
    with pytest.raises(KeyboardInterrupt, match=r"at step 2 of 6\. No checkpoint is saved: .* begins anew"):
        build(Signalled(2), save_strategy="no").train()
    assert not list(tmp_path.rglob("checkpoint-*"))


def test_c4_a_second_signal_ends_at_once_and_names_the_newest_checkpoint(build, monkeypatch, tmp_path):
    monkeypatch.setattr("hfdistill.trainer.interrupts._AGAIN", -1.0)

    class Twice(Signalled):
        def on_pre_optimizer_step(self, *args, **others):
            super().on_pre_optimizer_step(*args, **others)
            super().on_pre_optimizer_step(*args, **others)

    with pytest.raises(KeyboardInterrupt, match=r"at step 4 of 6; .*checkpoint-4 is saved"):
        build(Twice(5), save_steps=2).train()


def test_a_launchers_copy_of_the_signal_is_the_same_one(build, tmp_path):
    with pytest.raises(KeyboardInterrupt, match=r"checkpoint-2 is saved"):
        build(Signalled(2), Signalled(2)).train()


def test_a_handler_of_the_users_own_is_left_alone(build):
    heard = []
    before = signal.signal(signal.SIGINT, lambda *signalled: heard.append(signalled))
    try:
        assert build(Signalled(2)).train().global_step == 6
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(heard) == 1


def test_an_interrupt_that_nobody_signalled_is_told_likewise(build):
    class Interrupted(TrainerCallback):
        def on_step_begin(self, args, state, control, **others):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="Interrupted before the first step"):
        build(Interrupted()).train()


def stop():
    stops = Interrupts(lambda: None)
    stops._process = os.getpid()
    return stops


def test_signals_are_heard_in_the_main_thread_alone():
    stops, seen = stop(), []

    def watched():
        with stops.watching(processes=1):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=watched)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
    assert seen != [stops._on_signal]


def test_a_handler_that_is_set_during_the_run_stays():
    stops, other = stop(), lambda number, frame: None
    before = signal.getsignal(signal.SIGUSR1)
    try:
        with stops.watching(processes=1):
            assert signal.getsignal(signal.SIGUSR1) == stops._on_signal
            signal.signal(signal.SIGUSR1, other)
        assert signal.getsignal(signal.SIGUSR1) is other
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_worker_of_the_data_loader_leaves_the_signal_to_its_run():
    stops = stop()
    stops._process += 1
    stops._on_signal(signal.SIGINT, None)
    assert stops.requested is None
    stops._process = os.getpid()
    stops._on_signal(signal.SIGINT, None)
    assert stops.requested is signal.SIGINT


def test_a_signal_in_the_last_step_ends_what_would_follow():
    stops, args = stop(), SimpleNamespace(world_size=1)
    stops.on_train_end(args, None, None)
    stops._on_signal(signal.SIGUSR1, None)
    with pytest.raises(SystemExit) as left:
        stops.on_train_end(args, None, None)
    assert left.value.code == 75
