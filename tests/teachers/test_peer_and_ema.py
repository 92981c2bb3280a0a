"""Teachers that change while they teach, without a trainer."""

import logging
import math

import pytest
import torch
from torch import nn

from hfdistill import KD, CrossEntropy, EMATeacher, Peer, Tap
from hfdistill.objectives import default_objective
from tests.conftest import make_bert

BATCH = {
    "input_ids": torch.tensor([[2, 5, 3], [2, 9, 3]]),
    "attention_mask": torch.ones(2, 3, dtype=torch.long),
}


def weights(model):
    return torch.cat([p.detach().view(-1) for p in model.parameters()])


def test_the_average_after_three_steps_is_that_by_hand():
    student = make_bert(2, seed=2)
    teacher = EMATeacher(decay=0.75, warmup=False)
    teacher.bind_student(student)
    expected = weights(student).double()
    for step in (1, 2, 3):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(step)
        teacher.after_step(student, step=step)
        expected = 0.75 * expected + 0.25 * weights(student).double()
    torch.testing.assert_close(weights(teacher.model).double(), expected, rtol=1e-6, atol=1e-6)
    assert not torch.equal(weights(teacher.model), weights(student))


@pytest.mark.parametrize(("step", "decay"), [(1, 0.5), (2, 2 / 3), (3, 0.75), (9, 0.9), (10_000, 0.9)])
def test_the_decay_warms_up(step, decay):
    """As in the authors' code: min(1 - 1 / (global_step + 1), d)."""
    assert EMATeacher(decay=0.9).decay_at(step) == pytest.approx(decay)
    assert EMATeacher(decay=0.9, warmup=False).decay_at(step) == 0.9


def test_at_first_it_is_the_mean_of_all_weights_so_far():
    student = make_bert(2, seed=2)
    teacher = EMATeacher()
    teacher.bind_student(student)
    seen = [weights(student).double()]
    for step in range(1, 6):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.mul_(0.5).add_(step)
        teacher.after_step(student, step=step)
        seen.append(weights(student).double())
    torch.testing.assert_close(
        weights(teacher.model).double(), torch.stack(seen).mean(0), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(("decay", "warmup"), [(0.999, False), (0.9, True), (0.5, True), (0.0, True)])
@pytest.mark.parametrize("steps", [1, 8, 9, 10, 40])
def test_what_is_left_of_the_start(decay, warmup, steps):
    teacher = EMATeacher(decay=decay, warmup=warmup)
    share = math.prod(teacher.decay_at(step) for step in range(1, steps + 1))
    assert teacher.share_of_start(steps) == pytest.approx(share)


@pytest.mark.parametrize(
    ("options", "steps", "warned"),
    [
        ({"warmup": False}, 282, True),
        ({"warmup": False}, 3000, False),
        ({}, 282, False),
        ({}, 12, False),
        ({"decay": 0.99, "warmup": False}, 20, True),
    ],
)
def test_a_run_too_short_for_the_decay_is_warned(options, steps, warned, caplog):
    with caplog.at_level(logging.WARNING, logger="hfdistill.teachers.peer_and_ema"):
        EMATeacher(**options).before_training(steps=steps)
    assert bool(caplog.messages) == warned
    if warned and steps == 282:
        assert "run of 282 steps 75 % of EMATeacher's average" in caplog.text
        assert "type EMATeacher(decay=0.982)" in caplog.text


def test_without_an_objective_its_weight_rises():
    assert str(default_objective("single_label", ripening=EMATeacher.ripens)) == (
        "1 * CrossEntropy() + Linear(0, 1) * KD(temperature=1)"
    )
    assert "Linear(0, 1) * LogitMSE" in str(default_objective("regression", ripening=True))


def test_the_average_answers_without_dropout_and_without_a_graph():
    student = make_bert(2, seed=2, hidden_dropout_prob=0.5).train()
    teacher = EMATeacher()
    teacher.bind_student(student)
    teacher.train()
    first, second = teacher.trace(BATCH), teacher.trace(BATCH, taps={Tap("hidden", 1)})
    assert torch.equal(first.logits, second.logits)
    assert not first.logits.requires_grad
    assert second.readings[Tap("hidden", 1)].shape == (2, 3, 16)
    assert student.training
    assert all(p.requires_grad for p in student.parameters())
    assert not {id(p) for p in student.parameters()} & {id(p) for p in teacher.parameters()}


def test_its_fingerprint_stays_as_it_moves():
    student = make_bert(2, seed=2)
    teacher = EMATeacher(decay=0.5)
    before = teacher.fingerprint()
    teacher.bind_student(student)
    teacher.after_step(make_bert(2, seed=3), step=1)
    assert teacher.fingerprint() == before != EMATeacher(decay=0.6).fingerprint()


@pytest.mark.parametrize("decay", [1, -0.1, "0.9", True, float("nan")])
def test_a_decay_out_of_range(decay):
    with pytest.raises(ValueError, match=r"decay from 0 to below 1.*Usual: 0\.999"):
        EMATeacher(decay=decay)


def test_an_average_of_nothing():
    with pytest.raises(RuntimeError, match=r"no student yet.*bind_student\(student\)"):
        EMATeacher().trace(BATCH)
    with pytest.raises(TypeError, match="averages and saves a Transformers model, found Linear"):
        EMATeacher().bind_student(nn.Linear(2, 2))


def test_a_peer_answers_with_dropout_while_it_learns_and_without_it_else():
    peer = Peer(make_bert(2, seed=3, hidden_dropout_prob=0.5))
    first, second = peer.trace(BATCH), peer.trace(BATCH)
    assert first.logits.requires_grad
    assert not torch.equal(first.logits, second.logits)
    with torch.no_grad():
        assert torch.equal(peer.trace(BATCH).logits, peer.trace(BATCH).logits)


def test_a_peers_fingerprint_stays_as_it_moves():
    peer = Peer(make_bert(2, seed=3))
    before = peer.fingerprint()
    with torch.no_grad():
        peer.model.classifier.bias.add_(1)
    assert peer.fingerprint() == before
    assert before != Peer(make_bert(3, seed=3)).fingerprint()
    assert before != Peer(make_bert(2, seed=3), objective=CrossEntropy() + KD()).fingerprint()


def test_a_peer_is_a_transformers_model(tmp_path):
    with pytest.raises(TypeError, match="saved as a Transformers model, found Linear"):
        Peer(nn.Linear(2, 2))
    make_bert(2, seed=3).save_pretrained(tmp_path)
    assert torch.equal(weights(Peer(tmp_path).model), weights(make_bert(2, seed=3)))
