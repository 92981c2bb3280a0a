"""Runs that train exits: by hand, in any split, with a teacher, in two phases."""

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import AutoModelForSequenceClassification

from hfdistill import (
    KD,
    After,
    CrossEntropy,
    DistillationTrainer,
    EMATeacher,
    ExitCrossEntropy,
    ExitKD,
    HiddenMSE,
    with_exits,
)
from tests.conftest import make_bert, make_sentences, make_tokenizer

TEXTS, CLASSES = zip(*make_sentences(21), strict=True)
BYOT = CrossEntropy() + 0.7 * ExitCrossEntropy() + 0.3 * ExitKD(temperature=3)


def flat(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def relative_error(found, expected):
    return ((found - expected).double().norm() / expected.double().norm()).item()


def student(**options):
    torch.manual_seed(4)
    return with_exits(make_bert(3, seed=2), **options)


@pytest.fixture
def build(arguments):
    def make(model=None, *, objective=BYOT, teacher=None, compute_metrics=None, **options):
        settings = {"per_device_train_batch_size": 8, "learning_rate": 0.1}
        data = Dataset.from_dict({"text": list(TEXTS), "label": list(CLASSES)})
        return DistillationTrainer(
            model or student(),
            arguments(**{**settings, **options}),
            teacher=teacher,
            objective=objective,
            train_dataset=data,
            eval_dataset=data,
            processing_class=make_tokenizer(),
            compute_metrics=compute_metrics,
        )

    return make


def by_hand(model, order, *, size=8, rate=0.1):
    """Zhang et al. 2019: the last head by labels, each exit by labels and by the last head at T = 3."""
    tokenizer = make_tokenizer()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    model.train()
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        batch = tokenizer([TEXTS[i] for i in rows], padding=True, return_tensors="pt")
        labels = torch.tensor([CLASSES[i] for i in rows])
        output = model(**batch)
        loss = F.cross_entropy(output.logits, labels)
        p = (output.logits.detach() / 3).log_softmax(-1)
        for z in output.exit_logits:
            kl = (p.exp() * (p - (z / 3).log_softmax(-1))).sum(-1).mean()
            loss = loss + 0.7 * F.cross_entropy(z, labels) + 0.3 * 9 * kl
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_three_steps_are_those_by_hand(build):
    trainer = build()
    order = list(trainer._get_train_sampler())
    trainer.train()
    expected = student()
    by_hand(expected, order)
    assert relative_error(flat(trainer.model), flat(expected)) <= 1e-6
    assert relative_error(flat(expected), flat(student())) > 1e-3


def test_every_split_moves_all_heads_alike_and_so_do_options_of_the_loop(build):
    whole = build()
    whole.train()
    sizes = "per_device_train_batch_size", "gradient_accumulation_steps"
    splits = [dict(zip(sizes, split, strict=True)) for split in [(4, 2), (1, 8)]]
    for options in [*splits, {"activation_checkpointing": True}, {"bf16": True}]:
        trainer = build(**options)
        trainer.train()
        error = relative_error(flat(trainer.model), flat(whole.model))
        assert error <= (0.02 if "bf16" in options else 1e-6), options


def test_detached_exits_leave_the_rest_as_it_learns_without_them(build):
    alone, detached = build(make_bert(3, seed=2), objective=CrossEntropy()), build(student(detach=True))
    alone.train(), detached.train()
    assert torch.equal(flat(detached.model.backbone), flat(alone.model))
    assert not torch.equal(flat(detached.model.exits), flat(student().exits))


def test_fastbert_in_two_phases(build, tmp_path):
    """The backbone first; then its exits by the frozen last head, without labels."""
    model = student()
    model.backbone.requires_grad_(False)
    before, heads = flat(model.backbone).clone(), flat(model.exits).clone()
    trainer = build(model, objective=ExitKD(), optim="adamw_torch", weight_decay=0.1, learning_rate=1e-2)
    trainer.train()
    assert torch.equal(flat(model.backbone), before)
    assert not torch.equal(flat(model.exits), heads)
    losses = [entry["loss_exit_kd"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]


def test_exits_join_later(build):
    trainer = build(objective=CrossEntropy() + After(0.5) * ExitKD())
    trainer.train()
    logs = [entry["loss_exit_kd"] for entry in trainer.state.log_history if "loss" in entry]
    assert logs[0] == logs[1] == 0 < logs[2]


def test_a_teacher_teaches_beside_them(build):
    objective = 0.5 * CrossEntropy() + 0.5 * KD() + HiddenMSE() + ExitCrossEntropy() + ExitKD()
    trainer = build(teacher=make_bert(4, seed=1), objective=objective)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(
        entry[f"loss_{name}"] > 0
        for entry in logs
        for name in ("kd", "hidden_mse", "exit_kd", "cross_entropy")
    )


def test_evaluation_sees_the_answers_alone_and_saving_is_exact(build, tmp_path):
    shapes = []

    def score(prediction):
        shapes.append(prediction.predictions.shape)
        return {}

    trainer = build(compute_metrics=score, save_strategy="epoch", num_train_epochs=2)
    trainer.train()
    plain = trainer.evaluate()["eval_loss"]
    trainer.model.exit_threshold = 1.0
    assert trainer.evaluate()["eval_loss"] != plain
    assert shapes == [(21, 2)] * 2
    trainer.model.exit_threshold = None
    resumed = build(num_train_epochs=2)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert torch.equal(flat(resumed.model), flat(trainer.model))
    trainer.save_model(str(tmp_path / "out"))
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert torch.equal(flat(again), flat(trainer.model))


def test_its_average_has_exits_too(build):
    trainer = build(teacher=EMATeacher(decay=0.5), objective=BYOT + KD(temperature=1))
    trainer.train()
    assert trainer.teacher.model.config.exits == trainer.model.config.exits
    assert not torch.equal(flat(trainer.teacher.model.exits), flat(student().exits))


def test_a_plain_student_has_no_exits(build):
    with pytest.raises(ValueError, match="the student has no exits"):
        build(make_bert(3, seed=2))
