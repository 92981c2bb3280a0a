"""Mixtures of rows, judged by the teacher."""

import numpy as np
import pytest
import torch

from hfdistill import (
    KD,
    CachedTeacher,
    CheckpointError,
    CrossEntropy,
    DistillationArguments,
    DistillationTrainer,
    EMATeacher,
    Ensemble,
    HiddenMSE,
    LogitMSE,
    ModelTeacher,
    Peer,
    record,
)
from hfdistill.trainer.mixup import FIRST, SECOND, SHARE, embeddings_mixed, with_mixtures
from tests.conftest import make_bert, make_byte_tokenizer, make_dataset, make_roberta, make_tokenizer
from tests.trainer.conftest import SaveAt

SWAPS = 3  # a seed whose permutation of two rows is not the identity


def build(folder, **options):
    settings = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
    settings |= {"report_to": "none", "disable_tqdm": True, "logging_steps": 1, "seed": 3, "mixup": 0.4}
    settings |= {"gradient_accumulation_steps": 2, "save_strategy": "no"}
    extra = {name: options.pop(name) for name in ("objective", "teacher_cache") if name in options}
    return DistillationTrainer(
        options.pop("student", None) or make_bert(2, seed=2),
        teacher=options.pop("teacher", "bert") if "teacher" in options else make_bert(3, seed=1),
        args=DistillationArguments(str(folder), **{**settings, **options}),
        train_dataset=make_dataset(21),
        processing_class=make_tokenizer(),
        **extra,
    )


def flat(trainer):
    return torch.cat([p.detach().reshape(-1) for p in trainer.model.parameters()])


def make_batch():
    rows = make_tokenizer()(["a good film", "dull"], padding=True, return_tensors="pt")
    return dict(rows)


def test_a_mixture_by_hand():
    batch, random = make_batch(), np.random.default_rng(SWAPS)
    partner = torch.from_numpy(np.random.default_rng(SWAPS).permutation(2))
    mixed = with_mixtures(batch, alpha=0.4, random=random)
    assert mixed["input_ids"].shape == (4, 5)
    assert torch.equal(mixed["input_ids"][:2], batch["input_ids"])
    assert (mixed[SHARE][:2] == 1).all()
    assert ((mixed[SHARE][2:] >= 0.5) & (mixed[SHARE][2:] <= 1)).all()
    assert torch.equal(mixed[SECOND][2:], batch["input_ids"][partner])
    longer = batch["attention_mask"] | batch["attention_mask"][partner]
    assert torch.equal(mixed["attention_mask"][2:], longer)
    assert not ((mixed["input_ids"][2:] == 0) & longer.bool()).any()  # no padding where a token counts

    model = make_bert(2).double()
    table = model.get_input_embeddings().weight
    share = mixed[SHARE].double()[:, None, None]
    vectors = share * table[mixed[FIRST]] + (1 - share) * table[mixed[SECOND]]
    rest = {name: mixed[name] for name in ("attention_mask", "token_type_ids")}
    by_hand = model(inputs_embeds=vectors, **rest).logits
    with embeddings_mixed(model, mixed):
        read = model(input_ids=mixed["input_ids"], **rest).logits
    assert torch.allclose(read, by_hand, atol=1e-12)
    plain = model(**batch).logits
    assert torch.allclose(read[:2], plain, atol=1e-12)
    assert not torch.allclose(read[2:], plain, atol=1e-3)
    assert torch.equal(model(**batch).logits, plain)  # the hook is gone


def test_both_models_read_the_same_mixture_and_labels_count_real_rows_alone(tmp_path):
    """A teacher that is the student teaches nothing: the loss is the cross-entropy of the rows."""
    student = make_bert(2, seed=2)
    trainer = build(
        tmp_path, student=student, teacher=make_bert(2, seed=2), learning_rate=0.0, num_train_epochs=1
    )
    trainer.train()
    plain = build(
        tmp_path, student=make_bert(2, seed=2), teacher=make_bert(2, seed=2), learning_rate=0.0,
        num_train_epochs=1, mixup=None,
    )  # fmt: skip
    plain.train()
    for one, other in zip(trainer.state.log_history, plain.state.log_history, strict=True):
        if "loss_kd" in one:
            assert one["loss_kd"] == pytest.approx(0, abs=1e-6)
            assert one["loss_cross_entropy"] == pytest.approx(other["loss_cross_entropy"], abs=1e-6)


@pytest.mark.parametrize(
    ("teacher", "objective"),
    [
        (lambda: make_bert(3, seed=1), 0.5 * CrossEntropy() + LogitMSE() + HiddenMSE()),
        (lambda: Ensemble([make_bert(3, seed=1), make_bert(2, seed=5)]), 1.0 * KD()),
        (EMATeacher, CrossEntropy() + KD()),
        (lambda: Peer(make_bert(2, seed=9)), CrossEntropy() + KD(temperature=1)),
    ],
    ids=["layers", "ensemble", "EMA", "peer"],
)
def test_every_live_teacher_judges_mixtures(tmp_path, teacher, objective):
    trainer = build(tmp_path, teacher=teacher(), objective=objective, max_steps=2)
    before = flat(trainer).clone()
    trainer.train()
    assert not torch.equal(flat(trainer), before)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_every_checkpoint_resumes_bit_for_bit(tmp_path):
    whole = build(tmp_path)
    whole.add_callback(SaveAt(4))
    whole.train()
    assert whole.state.global_step == 6
    resumed = build(tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert torch.equal(flat(resumed), flat(whole))
    with pytest.raises(CheckpointError, match="mixup"):
        build(tmp_path, mixup=0.2).train(resume_from_checkpoint=True)


def test_what_cannot_be_mixed_is_refused(tmp_path):
    record(make_bert(3, seed=1), make_dataset(21), folder=tmp_path / "a", tokenizer=make_tokenizer())
    other = ModelTeacher(make_roberta(2), tokenizer=make_byte_tokenizer())
    cases = [
        ({"mixup": 0.0}, "above 0"),
        ({"mixup": True}, "above 0, found True"),
        ({"mixup": float("inf")}, "above 0, found inf"),
        ({"teacher": None}, "a teacher has to judge"),
        ({"teacher_cache": tmp_path / "b"}, "needs a live teacher"),
        ({"teacher": CachedTeacher(tmp_path / "a")}, "needs a live teacher"),
        ({"teacher": Ensemble([CachedTeacher(tmp_path / "a"), make_bert(2)])}, "needs a live teacher"),
        ({"teacher": other}, "other tokens"),
    ]
    for options, said in cases:
        with pytest.raises(ValueError, match=said):
            build(tmp_path / "run", **options)


def test_what_is_of_each_token_of_each_row_or_of_the_batch_is_mixed_so():
    batch = {
        "input_ids": torch.tensor([[2, 5, 3], [2, 6, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
        "labels": torch.tensor([0, 1, -100, -100]), "weight": torch.tensor([0.5, 2.0]),
        "scale": torch.tensor(2.0), "name": "a batch",
    }  # fmt: skip
    mixed = with_mixtures(batch, alpha=0.4, random=np.random.default_rng(0))
    assert mixed["labels"] is batch["labels"]
    assert mixed["weight"].tolist() == [0.5, 2.0, 0.5, 2.0]
    assert mixed["scale"] is batch["scale"]
    assert mixed["name"] == "a batch"
