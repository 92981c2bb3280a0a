"""The gradient of an optimizer step does not depend on how its rows are split."""

import functools

import pytest
import torch
from datasets import Dataset
from transformers import Trainer

from hfdistill import KD, CrossEntropy, DistillationTrainer, LabelMSE, LogitMSE
from tests.conftest import make_bert, make_sentences, make_tokenizer
from tests.trainer.conftest import GradientRecorder, quiet_arguments

SPLITS = [(16, 1), (8, 2), (4, 4), (1, 16)]
TEXTS, CLASSES = zip(*make_sentences(21), strict=True)
BINARY = {"problem_type": "multi_label_classification", "labels": {0: "a", 1: "b", 2: "c"}}
ONE = {"num_labels": 1, "labels": {0: "score"}}


def some_missing(values, blank):
    return [blank if i % 3 == 1 else value for i, value in enumerate(values)]


MULTI = [[float(i % 2), float(i % 3 == 0), float(i % 5 == 0)] for i in range(21)]
CASES = {
    "single label": (list(CLASSES), {}, None),
    "single label, weights and smoothing": (
        list(CLASSES),
        {},
        0.4 * CrossEntropy(label_smoothing=0.1, class_weights=[3.0, 1.0]) + 0.6 * KD(temperature=2),
    ),
    "unlabelled rows": (some_missing(CLASSES, -100), {}, None),
    "no labels": (None, {}, 1.0 * KD()),
    "multi-label": (MULTI, BINARY, None),
    "multi-label, missing": (
        [[-100.0] * 3 if i % 4 == 0 else row for i, row in enumerate(MULTI)],
        BINARY,
        None,
    ),
    "regression": ([i / 7 for i in range(21)], ONE, None),
    "regression, missing": (
        some_missing([i / 7 for i in range(21)], float("nan")),
        ONE,
        LabelMSE() + LogitMSE(),
    ),
}


def gradients(case, split, arguments, trainer_class=DistillationTrainer):
    labels, options, objective = CASES[case]
    columns = {"text": list(TEXTS)} | ({} if labels is None else {"label": labels})
    recorder = GradientRecorder()
    extra = (
        {}
        if trainer_class is Trainer
        else {"teacher": make_bert(3, seed=1, **options), "objective": objective}
    )
    data = Dataset.from_dict(columns)
    if trainer_class is Trainer:
        tokenizer = make_tokenizer()
        data = data.map(lambda row: tokenizer(row["text"]))
    trainer = trainer_class(
        make_bert(2, seed=2, **options),
        arguments(per_device_train_batch_size=split[0], gradient_accumulation_steps=split[1]),
        train_dataset=data,
        processing_class=make_tokenizer(),
        callbacks=[recorder],
        **extra,
    )
    trainer.train()
    return recorder.steps, trainer


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The gradients of a case in one of its splits, trained once for all tests of this file."""

    def make(case, split):
        return gradients(case, split, lambda **o: quiet_arguments(tmp_path_factory.mktemp("run"), **o))

    return functools.cache(make)


def relative_error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("case", CASES)
def test_a20_every_split_gives_the_same_gradient(case, plain):
    whole, _ = plain(case, SPLITS[0])
    assert len(whole) == 2  # 16 rows and an uneven window of 5
    for split in SPLITS[1:]:
        parts, _ = plain(case, split)
        assert len(parts) == 2, split
        for part, expected in zip(parts, whole, strict=True):
            assert expected.norm() > 1e-4
            assert relative_error(part, expected) <= 1e-6, split


def test_gradient_is_that_of_the_formula(plain):
    """0.5 * CE + 0.5 * T² * KL over the first window, by autograd on one batch."""
    found, trainer = plain("single label", (4, 4))
    rows = list(trainer._get_train_sampler())[:16]
    tokenizer, student, teacher = make_tokenizer(), make_bert(2, seed=2), make_bert(3, seed=1)
    batch = tokenizer([TEXTS[i] for i in rows], padding=True, return_tensors="pt")
    z_s = student(**batch).logits
    z_t = teacher(**batch).logits.detach()
    p_t = (z_t / 4).softmax(-1)
    kl = (p_t * (p_t.log() - (z_s / 4).log_softmax(-1))).sum(-1).mean()
    cross_entropy = -z_s.log_softmax(-1)[range(16), [CLASSES[i] for i in rows]].mean()
    (0.5 * cross_entropy + 0.5 * 16 * kl).backward()
    expected = torch.cat([p.grad.double().view(-1) for p in student.parameters() if p.grad is not None])
    assert relative_error(found[0], expected) <= 1e-6


def test_plain_trainer_is_four_times_off(arguments):
    """The claim in the README: transformers issue 47688."""

    def in_order(**options):
        return arguments(train_sampling_strategy="sequential", **options)

    whole, _ = gradients("single label", (16, 1), in_order, Trainer)
    parts, _ = gradients("single label", (4, 4), in_order, Trainer)
    assert relative_error(parts[0], 4 * whole[0]) <= 1e-5


def test_parts_add_up_to_the_loss(plain):
    _, trainer = plain("unlabelled rows", (4, 4))
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 2
    for entry in logs:
        assert entry["loss"] == pytest.approx(entry["loss_cross_entropy"] + entry["loss_kd"], rel=1e-6)
        assert entry["loss_kd"] > 0
        assert entry["loss_cross_entropy"] > 0


@pytest.mark.parametrize(
    "option", [{"bf16": True}, {"activation_checkpointing": True}, {"dataloader_drop_last": True}]
)
def test_options_of_the_loop_are_honoured(option, arguments, plain):
    steps, _ = gradients("single label", (8, 2), lambda **o: arguments(**o, **option))
    expected, _ = plain("single label", (8, 2))
    assert len(steps) == (1 if "dataloader_drop_last" in option else 2)
    assert relative_error(steps[0], expected[0]) <= (0.05 if "bf16" in option else 1e-6)
