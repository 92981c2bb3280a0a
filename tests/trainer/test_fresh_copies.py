"""Training on text that is written anew in every epoch."""

from math import isnan

import pytest
import torch
from datasets import Dataset, Value, concatenate_datasets

from hfdistill import (
    CachedTeacher,
    CacheError,
    CheckpointError,
    Delete,
    DistillationArguments,
    DistillationTrainer,
    FreshCopies,
    LabelSpaceError,
    ModelTeacher,
    Swap,
    augment,
    record,
)
from hfdistill.data import LengthGroupedSampler
from tests.conftest import make_bert, make_byte_tokenizer, make_dataset, make_roberta, make_tokenizer
from tests.trainer.conftest import SaveAt

DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}


def build(folder, *, data=None, teacher=None, cache=None, **options):
    settings = {
        "num_train_epochs": 3,
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
    return DistillationTrainer(
        make_bert(2, seed=2, **DROPOUT),
        DistillationArguments(str(folder), **{**settings, **options}),
        teacher=teacher or make_bert(3, seed=1),
        teacher_cache=cache,
        train_dataset=data or FreshCopies(make_dataset(9), Delete(p=0.5), seed=5),
        processing_class=make_tokenizer(),
    )


def flat(trainer):
    return torch.cat([p.detach().reshape(-1) for p in trainer.model.parameters()])


def seen(trainer):
    """The ids that every step of a run trains on."""
    rows, real = [], trainer.compute_loss
    trainer.compute_loss = lambda model, inputs, *a, **o: (
        rows.append(inputs["input_ids"].clone()) or real(model, inputs, *a, **o)
    )
    trainer.train()
    return rows


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_checkpoint_resumes_bit_for_bit(tmp_path):
    whole = build(tmp_path, save_strategy="no")
    whole.add_callback(SaveAt(3, 4))
    whole.train()
    assert whole.state.global_step == 9
    for step in (3, 4):
        resumed = build(tmp_path, save_strategy="no")
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert torch.equal(flat(resumed), flat(whole)), step


def test_epochs_show_other_copies_and_workers_change_nothing(tmp_path):
    alone = seen(build(tmp_path / "0", save_strategy="no"))
    options = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}
    shared = seen(build(tmp_path / "1", save_strategy="no", **options))
    assert len(alone) == len(shared) == 15
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))
    epochs = [{tuple(row) for batch in alone[i : i + 5] for row in batch.tolist()} for i in (0, 5, 10)]
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_trainer_reads_what_was_written(tmp_path):
    data = FreshCopies(make_dataset(9), Delete(p=0.5), seed=5)
    trainer = build(tmp_path, data=data)
    trainer.train_dataset.set_epoch(2)
    data.set_epoch(2)
    texts = [make_tokenizer()(data[i]["text"])["input_ids"] for i in range(18)]
    assert [trainer.train_dataset[i]["input_ids"] for i in range(18)] == texts
    sampler = trainer._get_train_sampler()
    assert isinstance(sampler, LengthGroupedSampler)
    assert sampler.lengths.tolist() == [len(ids) for ids in texts[:9]] * 2


def test_a_teacher_of_other_tokens_reads_the_same_new_texts(tmp_path):
    tokenizer = make_byte_tokenizer()
    teacher = ModelTeacher(make_roberta(2), tokenizer=tokenizer)
    data = FreshCopies(make_dataset(9), Swap(share=0.5), seed=5)
    trainer = build(tmp_path, data=data, teacher=teacher, save_strategy="no", max_steps=4)
    for i in (0, 9, 17):
        row, text = trainer.train_dataset[i], data[i]["text"]
        assert row["teacher_input_ids"] == tokenizer(text)["input_ids"]
        assert row["input_ids"] == make_tokenizer()(text)["input_ids"]
    trainer.train()


def test_answers_on_new_texts_are_asked_once_and_kept(tmp_path):
    options = {"save_strategy": "no", "optim": "sgd", "num_train_epochs": 2}
    live = build(tmp_path / "live", **options)
    live.train()
    cached = build(tmp_path / "cached", **options, cache=tmp_path / "answers")
    cached.train()
    assert torch.allclose(flat(cached), flat(live), atol=1e-5)
    teacher = make_bert(3, seed=1)
    asked = []
    teacher.register_forward_pre_hook(lambda *_: asked.append(1))
    again = build(tmp_path / "again", **options, teacher=CachedTeacher(tmp_path / "answers", teacher=teacher))
    again.train()
    assert torch.equal(flat(again), flat(cached))
    assert asked == []  # everything is there


def test_a_recording_alone_cannot_answer_new_texts(tmp_path):
    record(make_bert(3, seed=1), make_dataset(9), folder=tmp_path / "a", tokenizer=make_tokenizer())
    trainer = build(tmp_path / "run", teacher=CachedTeacher(tmp_path / "a"))
    with pytest.raises(CacheError, match="rewritten in every epoch"):
        trainer.train()


def test_a_run_does_not_go_on_with_other_copies(tmp_path):
    build(tmp_path, max_steps=2).train()
    for data in (
        FreshCopies(make_dataset(9), Delete(p=0.4), seed=5),
        FreshCopies(make_dataset(9), Delete(p=0.5), seed=6),
    ):
        with pytest.raises(CheckpointError, match="drawn"):
            build(tmp_path, data=data).train(resume_from_checkpoint=True)


def test_a_function_is_told_by_what_it_writes(tmp_path):
    def reversed_words(text):
        return [" ".join(text.split()[::-1])]

    def first_word_last(text):
        first, *rest = text.split()
        return [" ".join([*rest, first])]

    def copies(function):
        return FreshCopies(make_dataset(9), function, seed=5)

    build(tmp_path, data=copies(reversed_words), max_steps=2).train()
    again = build(tmp_path, data=copies(lambda text: reversed_words(text)), max_steps=3)
    again.train(resume_from_checkpoint=True)
    with pytest.raises(CheckpointError, match="drawn"):
        build(tmp_path, data=copies(first_word_last)).train(resume_from_checkpoint=True)


def test_labels_are_checked_and_missing_ones_filled(tmp_path):
    rows = Dataset.from_dict({"text": ["a good film", "a bad film"], "label": [1, 2]})
    with pytest.raises(LabelSpaceError, match="train_dataset, row 1"):
        build(tmp_path, data=FreshCopies(rows, Swap()))
    both = concatenate_datasets([rows.select([0]), rows.select([1]).remove_columns("label")])
    trainer = build(tmp_path, data=FreshCopies(both, Swap()))
    assert [row["label"] for row in trainer.train_dataset] == [1, -100, -100, -100]
    trainer = build(tmp_path, data=FreshCopies(both, Swap(), keep_labels=True), max_steps=1)
    trainer.train()


def test_whole_numbers_as_values_have_no_missing_one(tmp_path):
    rows = Dataset.from_dict({"text": ["a good film", "a bad film"], "label": [4, 1]})
    one = {"labels": {0: "stars"}, "problem_type": "regression"}

    def trainer(data):
        return DistillationTrainer(
            make_bert(2, seed=2, **one),
            DistillationArguments(str(tmp_path), report_to="none"),
            teacher=make_bert(3, seed=1, **one),
            train_dataset=data,
            processing_class=make_tokenizer(),
        )

    with pytest.raises(LabelSpaceError, match=r"train_dataset, new copies.*label -100.*Value\('float32'\)"):
        trainer(FreshCopies(rows, Swap()))
    with pytest.raises(LabelSpaceError, match="train_dataset, row 2: label -100"):
        trainer(augment(rows, Swap()))
    real = rows.cast_column("label", Value("float32"))
    assert all(isnan(row["label"]) for row in list(trainer(FreshCopies(real, Swap())).train_dataset)[2:])
    trainer(FreshCopies(rows, Swap(), keep_labels=True))
