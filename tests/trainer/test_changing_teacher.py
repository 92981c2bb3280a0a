"""Runs whose teacher changes: two students that teach each other, and the student's own average."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, pipeline

from hfdistill import (
    KD,
    CheckpointError,
    CrossEntropy,
    DistillationTrainer,
    EMATeacher,
    HiddenMSE,
    Linear,
    NonFiniteError,
    Peer,
)
from hfdistill.trainer.checks import check_changing
from hfdistill.trainer.sharding import Sharding
from tests.conftest import make_bert, make_sentences, make_tokenizer
from tests.trainer.conftest import SaveAt

TEXTS, CLASSES = zip(*make_sentences(21), strict=True)
SWAPPED = {0: "positive", 1: "negative"}
DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}


def flat(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def relative_error(found, expected):
    return ((found - expected).double().norm() / expected.double().norm()).item()


@pytest.fixture
def build(arguments):
    """A trainer of a 2-layer student over 21 rows, 3 steps of 8, 8 and 5 rows."""

    def make(teacher, *, model=None, rows=21, **options):
        settings = {"per_device_train_batch_size": 8, "learning_rate": 0.1}
        extra = {
            name: options.pop(name)
            for name in ("objective", "compute_metrics", "model_init", "label_map")
            if name in options
        }
        if "model_init" not in extra:
            extra["model"] = model or make_bert(2, seed=2)
        data = Dataset.from_dict({"text": list(TEXTS[:rows]), "label": list(CLASSES[:rows])})
        return DistillationTrainer(
            args=arguments(**{**settings, **options}),
            teacher=teacher,
            train_dataset=data,
            eval_dataset=data,
            processing_class=make_tokenizer(),
            **extra,
        )

    return make


def mutual_by_hand(student, peer, order, *, size=8, rate=0.1, flip=False):
    """Zhang et al. 2018 with K = 2, T = 1, both updated from one forward pass of each."""
    tokenizer = make_tokenizer()
    optimizer = torch.optim.SGD([*student.parameters(), *peer.parameters()], lr=rate)
    student.train(), peer.train()
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        batch = tokenizer([TEXTS[i] for i in rows], padding=True, return_tensors="pt")
        labels = torch.tensor([CLASSES[i] for i in rows])
        own, other = student(**batch).logits, peer(**batch).logits
        other = other.flip(-1) if flip else other
        p_s, p_p = own.softmax(-1), other.softmax(-1)
        to_student = (p_p.detach() * (p_p.detach().log() - p_s.log())).sum(-1).mean()
        to_peer = (p_s.detach() * (p_s.detach().log() - p_p.log())).sum(-1).mean()
        optimizer.zero_grad()
        (F.cross_entropy(own, labels) + to_student).backward()
        (F.cross_entropy(other, labels) + to_peer).backward()
        optimizer.step()


@pytest.mark.parametrize("labels", [None, SWAPPED], ids=["same order", "other order"])
def test_three_steps_are_those_of_mutual_learning_by_hand(build, labels):
    peer = Peer(make_bert(3, seed=5, labels=labels))
    trainer = build(peer)
    order = list(trainer._get_train_sampler())
    trainer.train()
    student, other = make_bert(2, seed=2), make_bert(3, seed=5, labels=labels)
    mutual_by_hand(student, other, order, flip=labels is not None)
    for found, expected, start in (
        (trainer.model, student, make_bert(2, seed=2)),
        (peer.model, other, make_bert(3, seed=5)),
    ):
        assert relative_error(flat(found), flat(expected)) <= 1e-6
        assert relative_error(flat(found), flat(start)) > 1e-3


def test_every_split_moves_both_alike(build):
    def trained(size, accumulated):
        peer = Peer(make_bert(3, seed=5))
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated}
        trainer = build(peer, **settings)
        trainer.train()
        return flat(trainer.model), flat(peer.model)

    whole = trained(8, 1)
    for split in [(4, 2), (2, 4), (1, 8)]:
        for found, expected in zip(trained(*split), whole, strict=True):
            assert relative_error(found, expected) <= 1e-6, split


ADAM = {"optim": "adamw_torch", "learning_rate": 1e-3, "weight_decay": 0.1, "max_grad_norm": 1.0}
TWICE = {"num_train_epochs": 2, **ADAM}
TEACHERS = {
    "peer": lambda: Peer(make_bert(3, seed=5, **DROPOUT)),
    "ema": lambda: EMATeacher(decay=0.9, warmup=True),
}


@pytest.mark.parametrize("kind", TEACHERS)
def test_a_resumed_run_is_the_straight_one_bit_for_bit(build, kind, tmp_path):
    def make():
        return build(TEACHERS[kind](), model=make_bert(2, seed=2, **DROPOUT), **TWICE)

    straight = make()
    straight.add_callback(SaveAt(2, 3, 5))
    straight.train()
    for step in (2, 3, 5):
        resumed = make()
        resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
        assert torch.equal(flat(resumed.model), flat(straight.model))
        assert torch.equal(flat(resumed.teacher.model), flat(straight.teacher.model))
    assert not torch.equal(flat(straight.teacher.model)[-99:], flat(straight.model)[-99:])


@pytest.mark.parametrize("kind", TEACHERS)
def test_a_checkpoint_without_the_teacher_is_refused(build, kind, tmp_path):
    build(TEACHERS[kind](), save_strategy="epoch").train()
    folder = tmp_path / "run" / "checkpoint-3"
    shutil.rmtree(folder / kind)
    with pytest.raises(CheckpointError, match="is missing"):
        build(TEACHERS[kind]()).train(resume_from_checkpoint=str(folder))
    (folder / "hfdistill.json").unlink()  # as a plain Trainer's, whose files nobody lists
    (folder / "training_args.bin").touch()
    with pytest.raises(CheckpointError, match=rf"{kind} is missing: the \w+ of this run changes as it goes"):
        build(TEACHERS[kind]()).train(resume_from_checkpoint=str(folder))


@pytest.mark.parametrize("kind", TEACHERS)
def test_weights_alone_are_not_gone_on_from(build, kind, tmp_path):
    build(TEACHERS[kind](), save_strategy="epoch", save_only_model=True).train()
    with pytest.raises(CheckpointError, match="holds no optimizer state"):
        build(TEACHERS[kind]()).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))


@pytest.mark.parametrize("kind", TEACHERS)
def test_the_teacher_is_saved_as_a_model_of_its_own(build, kind, tmp_path):
    trainer = build(TEACHERS[kind]())
    trainer.train()
    trainer.save_model(str(tmp_path / "out"))
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / kind)
    assert torch.equal(flat(again), flat(trainer.teacher.model))
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert torch.equal(flat(student), flat(trainer.model))
    answer = pipeline("text-classification", model=str(tmp_path / "out" / kind), device="cpu")("a good film")
    assert answer[0]["label"] in ("negative", "positive")


@pytest.mark.parametrize("kind", TEACHERS)
def test_the_best_step_brings_its_own_teacher(build, kind, tmp_path):
    scores = iter([0.5, 0.9, 0.1])
    best = {"eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 3}
    trainer = build(
        TEACHERS[kind](),
        **best,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        greater_is_better=True,
        compute_metrics=lambda prediction: {"score": next(scores)},
    )
    trainer.train()
    assert trainer.state.best_global_step == 6
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "checkpoint-6" / kind)
    last = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "checkpoint-9" / kind)
    assert torch.equal(flat(trainer.teacher.model), flat(saved))
    assert not torch.equal(flat(saved), flat(last))


def test_parts_of_both_are_logged_and_add_up(build):
    trainer = build(Peer(make_bert(3, seed=5)), per_device_train_batch_size=4, gradient_accumulation_steps=2)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    names = {"loss_cross_entropy", "loss_kd", "loss_peer_cross_entropy", "loss_peer_kd"}
    assert len(logs) == 3
    for entry in logs:
        assert {name for name in entry if name.startswith("loss_")} == names
        assert entry["loss"] == pytest.approx(sum(entry[name] for name in names), rel=1e-6)
        assert all(entry[name] > 0 for name in names)


def test_a_peer_may_learn_by_another_objective(build, capsys):
    peer = Peer(make_bert(3, seed=5), objective=CrossEntropy() + Linear(0, 1) * KD(temperature=2))
    trainer = build(peer, objective=0.5 * KD(temperature=2), disable_tqdm=False)
    trainer.train()
    assert "peer: Linear(0.0, 1.0) * KD(temperature=2)" in capsys.readouterr().out.replace("0, 1", "0.0, 1.0")
    first = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert {n for n in first if n[:5] == "loss_"} == {"loss_kd", "loss_peer_cross_entropy", "loss_peer_kd"}
    assert first["loss_peer_kd"] == 0


def test_the_average_follows_the_student(build):
    """SGD at a known rate: θ' after each step, from the weights that the run passed through."""
    seen = []

    class Watched(EMATeacher):
        def after_step(self, student, *, step):
            seen.append((step, flat(student)))
            super().after_step(student, step=step)

    trainer = build(Watched(decay=0.6), objective=CrossEntropy() + KD(temperature=1))
    trainer.train()
    assert [step for step, _ in seen] == [1, 2, 3]
    expected = flat(make_bert(2, seed=2)).double()
    for (_, weights), decay in zip(seen, (0.5, 0.6, 0.6), strict=True):  # min(0.6, 1 - 1 / (t + 1))
        expected = decay * expected + (1 - decay) * weights.double()
    assert torch.equal(seen[-1][1], flat(trainer.model))
    assert relative_error(flat(trainer.teacher.model), expected) <= 1e-6
    logs = [entry for entry in trainer.state.log_history if "loss_kd" in entry]
    assert logs[0]["loss_kd"] == pytest.approx(0, abs=1e-6)  # it begins as the student itself
    assert logs[2]["loss_kd"] > 1e-6
    assert not any("teacher_accuracy" in entry for entry in trainer.state.log_history)


def test_each_training_of_a_model_init_has_an_average_of_its_own(build):
    trainer = build(EMATeacher(), model_init=lambda: make_bert(2, seed=2))
    trainer.train()
    first = trainer.teacher.model
    trainer.train()
    assert trainer.teacher.model is not first
    assert torch.equal(flat(trainer.teacher.model), flat(first))


def test_decay_and_clipping_of_a_peer_are_the_students(build):
    peer = Peer(make_bert(3, seed=5))
    trainer = build(peer, optim="adamw_torch", weight_decay=0.1, max_grad_norm=1e-3, learning_rate=0.0)
    trainer.create_optimizer()
    decay = {
        id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]
    }
    names = trainer.get_decay_parameter_names(peer.model)
    assert 0 < len(names) < len(list(peer.model.parameters()))
    assert all(decay[id(p)] == (0.1 if n in names else 0) for n, p in peer.model.named_parameters())
    assert len(decay) == sum(len(list(m.parameters())) for m in (trainer.model, peer.model))


def test_a_peer_is_clipped_apart_from_the_student(build):
    peer = Peer(make_bert(3, seed=5))
    before = flat(peer.model).clone()
    trainer = build(peer, max_grad_norm=1e-3, learning_rate=1.0, rows=8)
    trainer.train()
    assert (flat(peer.model) - before).norm().item() == pytest.approx(1e-3, rel=1e-2)
    assert (flat(trainer.model) - flat(make_bert(2, seed=2))).norm().item() == pytest.approx(1e-3, rel=1e-2)


def test_a_peers_bad_gradient_stops_the_run_and_is_named(build):
    peer = Peer(make_bert(3, seed=5))
    trainer = build(peer)
    before = flat(peer.model).clone()
    peer.model.classifier.bias.register_hook(lambda grad: grad * float("nan"))
    with pytest.raises(NonFiniteError, match=r"Step 1 .*the peer's classifier\.bias"):
        trainer.train()
    assert torch.equal(flat(peer.model), before)


def test_a_checkpoint_lists_the_peer_and_refuses_another(build, tmp_path):
    build(Peer(make_bert(3, seed=5)), save_strategy="epoch").train()
    manifest = json.loads((tmp_path / "run" / "checkpoint-3" / "hfdistill.json").read_text())
    assert {"peer/model.safetensors", "model.safetensors"} <= manifest["files"].keys()
    with pytest.raises(CheckpointError, match=r"other settings .teacher: .Peer"):
        build(Peer(make_bert(4, seed=5)), save_strategy="no").train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("teacher", "options", "words"),
    [
        (
            lambda: Peer(make_bert(3)),
            {"objective": CrossEntropy() + HiddenMSE()},
            r"looks inside.*CrossEntropy",
        ),
        (lambda: Peer(make_bert(3), objective=HiddenMSE()), {}, r"looks inside.*logits alone"),
        (lambda: Peer(make_bert(3)), {"objective": CrossEntropy()}, r"neither .* reads the other"),
        (
            lambda: Peer(make_bert(3)),
            {"model_init": lambda: make_bert(2)},
            r"would go on from where the last one left it",
        ),
    ],
    ids=["inside", "peer inside", "no lesson", "model_init"],
)
def test_what_cannot_be_is_refused_before_the_first_step(build, teacher, options, words):
    with pytest.raises(ValueError, match=words):
        build(teacher(), **options)


@pytest.mark.parametrize("kind", TEACHERS)
def test_fsdp1_which_has_no_single_weights_is_refused(kind):
    with pytest.raises(ValueError, match="which FSDP1 glues to one flat piece"):
        check_changing(TEACHERS[kind](), Sharding("FSDP1"), fresh=False)
    for name in ("", "FSDP2", "ZeRO-1", "ZeRO-3"):
        check_changing(TEACHERS[kind](), Sharding(name), fresh=False)


@pytest.mark.parametrize("lacks", ["model", "saved_as"])
def test_a_teacher_that_learns_without_a_model_or_a_name_for_it_is_refused(build, lacks):
    class Learner(Peer):
        saved_as = "" if lacks == "saved_as" else "learner"

    teacher = Learner(make_bert(3))
    if lacks == "model":
        teacher.model = None
    with pytest.raises(ValueError, match=r"Learner learns, .*Set self.model, and saved_as = 'peer'"):
        check_changing(teacher, Sharding(""), fresh=False)
    if lacks == "saved_as":
        with pytest.raises(ValueError, match="Learner learns"):
            build(teacher)


def test_a_student_is_not_its_own_peer(build):
    model = make_bert(2, seed=2)
    with pytest.raises(ValueError, match="share parameters"):
        build(Peer(model), model=model)
