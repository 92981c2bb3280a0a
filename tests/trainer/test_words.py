"""Runs whose student labels every word: what counts, and what is refused."""

import logging

import numpy as np
import pytest
import torch
from transformers import DataCollatorForTokenClassification, Trainer

from hfdistill import (
    DIST,
    DKD,
    KD,
    RKD,
    WSL,
    CrossEntropy,
    DistillationTrainer,
    HiddenMSE,
    InfoNCE,
    LabelSpaceError,
    LogitMSE,
    MiniLMv2,
    shrink,
)
from hfdistill.data import encode
from hfdistill.network.task import UNKNOWN
from tests.conftest import make_bert, make_dataset, make_tokenizer
from tests.trainer.conftest import GradientRecorder
from tests.word_material import TAGS, make_tagger, make_words

SPLITS = [(16, 1), (8, 2), (4, 4), (1, 16)]
OBJECTIVES = {
    "default": None,
    "weights and smoothing": CrossEntropy(class_weights=[1, 2, 3, 4, 5], label_smoothing=0.1) + LogitMSE(),
    "labelled words alone": 1.0 * WSL() + DKD(),
    "shifted and weighted": 1.0 * KD(probability_shift=True, weight_by="confidence"),
    "inside": 0.5 * KD() + HiddenMSE() + MiniLMv2(),
}


def make_trainer(arguments, *, objective=None, rows=21, **options):
    settings = {
        name: options.pop(name)
        for name in list(options)
        if name.startswith("per_device") or name == "gradient_accumulation_steps"
    }
    recorder = GradientRecorder()
    defaults = {
        "model": make_tagger(2, seed=2),
        "teacher": make_tagger(3, seed=1),
        "train_dataset": make_words(rows),
        "processing_class": make_tokenizer(),
    }
    given = defaults | options
    trainer = DistillationTrainer(
        given.pop("model"), arguments(**settings), objective=objective, callbacks=[recorder], **given
    )
    return trainer, recorder


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_split_gives_the_same_gradient(name, arguments):
    def gradients(size, accumulated):
        sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated}
        trainer, recorder = make_trainer(arguments, objective=OBJECTIVES[name], **sizes)
        trainer.train()
        return recorder.steps

    whole = gradients(*SPLITS[0])
    assert len(whole) == 2  # 16 rows and an uneven window of 5
    for split in SPLITS[1:]:
        for expected, found in zip(whole, gradients(*split), strict=True):
            assert expected.norm() > 1e-4
            assert ((found - expected).norm() / expected.norm()).item() <= 1e-6, split


def test_gradient_is_that_of_the_formula_over_words(arguments):
    """CE over labelled words, T² · KL over all words, by autograd on one batch."""
    sizes = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
    trainer, recorder = make_trainer(arguments, **sizes)
    trainer.train()
    rows = encode(make_words(21), make_tokenizer()).select(list(trainer._get_train_sampler())[:16])
    batch = DataCollatorForTokenClassification(make_tokenizer())([dict(row) for row in rows])
    labels = batch.pop("labels")
    student = make_tagger(2, seed=2)
    z_s, z_t = student(**batch).logits, make_tagger(3, seed=1)(**batch).logits.detach()
    known, words = labels >= 0, labels != -100
    assert 0 < known.sum() < words.sum() < batch["attention_mask"].sum()
    cross_entropy = -z_s.log_softmax(-1)[known].gather(-1, labels[known][:, None]).mean()
    p_t = (z_t[words] / 4).softmax(-1)
    kl = (p_t * (p_t.log() - (z_s[words] / 4).log_softmax(-1))).sum(-1).mean()
    (0.5 * cross_entropy + 0.5 * 16 * kl).backward()
    expected = torch.cat([p.grad.double().view(-1) for p in student.parameters() if p.grad is not None])
    assert ((recorder.steps[0] - expected).norm() / expected.norm()).item() <= 1e-6


def test_tokens_without_labels_teach_by_the_attention_mask(arguments):
    """Data tokenised elsewhere, whose rows say of no token that it is a word."""
    bare = encode(make_words(8), make_tokenizer()).remove_columns("labels")
    masked = bare.add_column("labels", [[-100] * len(ids) for ids in bare["input_ids"]])
    spelled = bare.add_column("labels", [[UNKNOWN] * len(ids) for ids in bare["input_ids"]])
    found = []
    for data in (bare, masked, spelled):
        trainer, recorder = make_trainer(
            arguments, objective=KD(), train_dataset=data, per_device_train_batch_size=8
        )
        trainer.train()
        found.append(recorder.steps[0])
    assert found[0].norm() > 1e-4
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=0)


@pytest.mark.parametrize("size", [1, 3, 9])
def test_evaluation_loss_is_the_mean_over_words(size, arguments):
    trainer, _ = make_trainer(
        arguments,
        eval_dataset=make_words(9),
        per_device_eval_batch_size=size,
        compute_metrics=lambda p: {"words": int((p.label_ids != -100).sum()), "low": p.label_ids.min()},
    )
    metrics = trainer.evaluate()
    total, words = 0.0, 0
    for row in encode(make_words(9), make_tokenizer()):
        labels = torch.tensor(row.pop("labels")).clamp(min=-100)
        logits = trainer.model(**{name: torch.tensor([ids]) for name, ids in row.items()}).logits[0]
        loss = torch.nn.functional.cross_entropy(logits.double(), labels, ignore_index=-100, reduction="sum")
        total, words = total + loss.item(), words + int((labels >= 0).sum())
    assert metrics["eval_loss"] == pytest.approx(total / words, rel=1e-6)
    assert (metrics["eval_words"], metrics["eval_low"]) == (words, -100)


def test_without_a_teacher_it_is_trainers_own_loss(arguments):
    """Where every row is labelled and one batch is one step."""
    data = encode(make_words(8, bare=0), make_tokenizer())
    data = data.map(lambda row: {"labels": [max(label, -100) for label in row["labels"]]})
    sequential = {"train_sampling_strategy": "sequential", "per_device_train_batch_size": 8}
    plain = GradientRecorder()
    Trainer(
        make_tagger(2, seed=2),
        arguments(**sequential),
        train_dataset=data,
        data_collator=DataCollatorForTokenClassification(make_tokenizer()),
        callbacks=[plain],
    ).train()
    own, recorder = make_trainer(
        lambda **o: arguments(**{**sequential, **o}), teacher=None, train_dataset=data
    )
    own.train()
    assert str(own.blend) == "1 * CrossEntropy()"
    torch.testing.assert_close(recorder.steps[0], plain.steps[0], rtol=1e-5, atol=1e-8)


def test_a_users_own_loss_is_given_words(arguments):
    seen = []

    def own_loss(outputs, labels, num_items_in_batch=None):
        seen.append((outputs.logits.shape[0], labels.shape[0], int((labels == -100).sum())))
        loss = torch.nn.functional.cross_entropy(outputs.logits, labels, ignore_index=-100, reduction="sum")
        return loss / num_items_in_batch

    trainer, _ = make_trainer(arguments, compute_loss_func=own_loss, eval_dataset=make_words(9))
    expected = make_trainer(arguments, eval_dataset=make_words(9))[0].evaluate()["eval_loss"]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-6)
    trainer.train()
    assert all(logits == labels > missing > 0 for logits, labels, missing in seen)


def test_the_teachers_accuracy_is_that_of_words(arguments, caplog):
    trainer, _ = make_trainer(arguments, eval_dataset=make_words(9))
    with caplog.at_level(logging.WARNING, logger="hfdistill"):
        trainer.train()
    seen = next(entry for entry in trainer.state.log_history if "teacher_words" in entry)
    known = sum(label >= 0 for row in make_words(9)["label"] for label in row or [])
    assert seen["teacher_words"] == known
    assert f"{known} evaluation words" in caplog.text


def test_the_teachers_columns_follow_the_students_names(arguments):
    def gradient(names):
        torch.manual_seed(0)
        teacher = make_tagger(3, seed=1, labels=dict(enumerate(names)))
        order = [TAGS.index(name) for name in names]
        reference = make_tagger(3, seed=1)
        with torch.no_grad():
            teacher.classifier.weight.copy_(reference.classifier.weight[order])
            teacher.classifier.bias.copy_(reference.classifier.bias[order])
        trainer, recorder = make_trainer(arguments, teacher=teacher)
        trainer.train()
        return recorder.steps[0]

    torch.testing.assert_close(gradient(TAGS[::-1]), gradient(TAGS), rtol=1e-6, atol=1e-9)


def test_a_shrunk_tagger_is_saved_and_loaded_as_one(arguments, tmp_path):
    teacher = make_tagger(4, seed=1)
    teacher.save_pretrained(tmp_path / "teacher")
    make_tokenizer().save_pretrained(tmp_path / "teacher")
    student = shrink(str(tmp_path / "teacher"), layers=2)
    trainer, _ = make_trainer(arguments, model=student, teacher=str(tmp_path / "teacher"))
    trainer.train()
    trainer.save_model(tmp_path / "student")
    again, _ = make_trainer(arguments, model=str(tmp_path / "student"), teacher=teacher)
    assert type(again.model).__name__ == "BertForTokenClassification"
    assert again.task == "token"
    weights = zip(again.model.parameters(), trainer.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (DIST(), r"DIST.*words.*Use KD\(\)"),
        (RKD(), r"RKD.*words.*HiddenMSE\(\)"),
        (InfoNCE(), r"InfoNCE.*words.*HiddenMSE\(\)"),
    ],
)
def test_terms_that_compare_rows_are_refused(objective, message, arguments):
    with pytest.raises(ValueError, match=message):
        make_trainer(arguments, objective=objective)


def test_misuse_is_refused_before_the_first_step(arguments):
    with pytest.raises(LabelSpaceError, match="The teacher's task is single_label, the student's token"):
        make_trainer(arguments, teacher=make_bert(3, labels=dict(enumerate(TAGS))))
    with pytest.raises(ValueError, match=r"lists of words.*task='token'"):
        make_trainer(arguments, model=make_bert(2), teacher=None)
    with pytest.raises(LabelSpaceError, match="is one label, but the student labels every token"):
        make_trainer(arguments, train_dataset=make_dataset(8))
    wrong = make_words(4, bare=0).map(lambda row: {"label": [7] * len(row["tokens"])})
    with pytest.raises(LabelSpaceError, match="label 7 is out of range, the student has 5 classes"):
        make_trainer(arguments, train_dataset=wrong)
    short = make_words(4, bare=0).map(lambda row: {"label": row["label"][:-1]})
    with pytest.raises(ValueError, match=r"Row 0 has \d+ words and \d+ labels"):
        make_trainer(arguments, train_dataset=short)


def test_predictions_come_back_as_long_as_the_longest_row(arguments):
    trainer, _ = make_trainer(arguments, eval_dataset=make_words(9), per_device_eval_batch_size=2)
    output = trainer.predict(make_words(9))
    longest = max(map(len, encode(make_words(9), make_tokenizer())["input_ids"]))
    assert output.predictions.shape == (9, longest, len(TAGS))
    assert np.isin(output.label_ids, [-100, *range(len(TAGS))]).all()
