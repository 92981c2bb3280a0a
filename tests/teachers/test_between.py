"""Teachers within teachers: recorded members, folds with tokenizers, labels of tokens."""

import os

import pytest
import torch
from transformers import DataCollatorWithPadding

from hfdistill import (
    KD,
    CachedTeacher,
    CacheError,
    Contents,
    DistillationTrainer,
    EMATeacher,
    Ensemble,
    FoldTeacher,
    HiddenMSE,
    LogitMSE,
    ModelTeacher,
    Peer,
    Tap,
    record,
)
from hfdistill.data import encode
from hfdistill.teachers.out_of_fold import out_of_fold
from tests.conftest import make_bert, make_byte_tokenizer, make_dataset, make_roberta, make_tokenizer
from tests.teachers.cache.cached import batch_of, encoded, live, recorded
from tests.trainer.conftest import quiet_arguments
from tests.word_material import TAGS, make_tagger, make_words

HIDDEN = Contents(taps={Tap("hidden", 2)})


@pytest.fixture
def build(tmp_path):
    def made(teacher, *, model=None, data=None, args=None, **options):
        settings = {"per_device_train_batch_size": 4, "learning_rate": 0.1, "max_steps": 2, **(args or {})}
        return DistillationTrainer(
            model or make_bert(2, seed=2),
            quiet_arguments(tmp_path / "run", **settings),
            teacher=teacher,
            train_dataset=make_dataset(8) if data is None else data,
            processing_class=make_tokenizer(),
            **{"objective": KD(), **options},
        )

    return made


def bytes_teacher(seed=1):
    return ModelTeacher(make_roberta(seed=seed), tokenizer=make_byte_tokenizer())


def bytes_folder(folder, seed=1):
    make_roberta(seed=seed).save_pretrained(folder)
    make_byte_tokenizer().save_pretrained(folder)
    return str(folder)


def by_hand(seed=1, rows=8):
    """What a byte-level model says of the texts."""
    texts = make_dataset(rows)["text"][:]
    with torch.no_grad():
        return make_roberta(seed=seed)(
            **make_byte_tokenizer()(texts, padding=True, return_tensors="pt")
        ).logits


def all_rows(trainer):
    """The training rows as one batch, without labels."""
    batch = trainer.data_collator(list(trainer._remove_unused_columns(trainer.train_dataset, "test")))
    return {name: value for name, value in dict(batch).items() if name != "labels"}


# Recorded members


@pytest.mark.parametrize("many", [Ensemble, lambda members: FoldTeacher(members, {})])
def test_what_recorded_members_were_asked_is_published(many, build, tmp_path):
    members = [make_bert(3, seed=seed) for seed in (1, 4)]
    trainer = build(many([CachedTeacher(tmp_path / "answers", teacher=member) for member in members]))
    trainer.train()
    batch = all_rows(trainer)
    for member in members:
        found = CachedTeacher(tmp_path / "answers", teacher=member)
        assert not found.missing(found.rows(batch).keys).any()


def test_a_member_that_changes_with_the_student_is_refused():
    for moving in (EMATeacher(), Peer(make_bert(2, seed=3))):
        with pytest.raises(ValueError, match=rf"{type(moving).__name__} changes with the student"):
            Ensemble([make_bert(3, seed=1), moving])
        with pytest.raises(ValueError, match=rf"{type(moving).__name__} changes with the student"):
            FoldTeacher([make_bert(2, seed=1), moving], {})


def test_values_are_named_before_a_teacher_copies_the_student(build):
    data = make_dataset(8).remove_columns("label").add_column("label", [0.1 * i for i in range(8)])
    for teacher in (EMATeacher(decay=0.9), Peer(make_bert(3, seed=9, labels={0: "score"}))):
        model = make_bert(2, seed=2, labels={0: "score"})
        trainer = build(teacher, model=model, data=data, objective=LogitMSE())
        assert trainer.model.config.problem_type == "regression"
        assert trainer.teacher.model.config.problem_type == "regression"


# Folds


def test_teachers_of_folds_read_with_their_own_tokenizer(build):
    teacher = out_of_fold(
        make_dataset(8), fit=lambda rows, fold: bytes_teacher(fold), tokenizer=make_tokenizer(), folds=2
    )
    trainer = build(teacher)
    logits = trainer._ask_teacher(all_rows(trainer)).logits
    distances = torch.stack([(logits - by_hand(seed)).abs().amax(1) for seed in (0, 1)])
    assert distances.amin(0).max() < 1e-5
    assert set(distances.argmin(0).tolist()) == {0, 1}
    with pytest.raises(ValueError, match="Record each on its own, and make a FoldTeacher of the recorded"):
        teacher.select_inputs({})


def test_teachers_of_folds_are_given_the_labels_that_they_want(build):
    pair = [make_bert(2, seed=5), make_bert(3, seed=6)]
    ensemble = Ensemble(pair, weights="confidence")
    trainer = build(FoldTeacher([ensemble, Ensemble(pair, weights="confidence")], {}))
    batch, labels = all_rows(trainer), torch.tensor(make_dataset(8)["label"][:])
    found = trainer._ask_teacher(batch, labels=labels).logits
    torch.testing.assert_close(found, ensemble.trace({**batch, "labels": labels}).logits)
    assert (found - ensemble.trace(batch).logits).abs().max() > 1e-3


# Tokenizers and the cache


def test_a_recording_is_read_with_the_teacher_s_own_tokenizer(tmp_path):
    bytes_ = make_byte_tokenizer()
    cached = record(bytes_teacher(), make_dataset(8), folder=tmp_path / "answers", tokenizer=bytes_)
    batch = dict(bytes_(make_dataset(8)["text"][:], padding=True, return_tensors="pt"))
    torch.testing.assert_close(cached.trace(batch).logits, by_hand(), atol=1e-5, rtol=0)
    for teacher in (bytes_teacher(), bytes_folder(tmp_path / "teacher")):
        with pytest.raises(ValueError, match="other token ids than the teacher reads"):
            record(teacher, make_dataset(8), folder=tmp_path / "other", tokenizer=make_tokenizer())


def test_a_teacher_is_one_whatever_its_student_s_tokenizer(build, tmp_path):
    answers, path, bytes_ = tmp_path / "answers", bytes_folder(tmp_path / "teacher"), make_byte_tokenizer()
    record(path, make_dataset(8), folder=answers, tokenizer=bytes_)
    trainers = [
        build(path, teacher_cache=answers),
        build(CachedTeacher(answers, teacher=path)),
        build(CachedTeacher(answers, tokenizer=bytes_)),
        build(path),
    ]
    facts = [trainer.run_facts() for trainer in trainers]
    assert all(fact == facts[0] for fact in facts)
    for trainer in trainers[:3]:
        trainer.train()
        found = trainer.teacher.trace(all_rows(trainer)).logits
        torch.testing.assert_close(found, by_hand(), atol=1e-5, rtol=0)
        assert trainer.teacher.teacher is None
    assert len([*answers.iterdir()]) == 1
    assert len([*answers.glob("*/shard-*")]) == 1  # nobody was asked again


def test_which_tokens_a_recorded_teacher_reads_is_asked_of_the_live_one(build, tmp_path):
    objective, answers = HiddenMSE(layers="2:2"), tmp_path / "answers"
    paths = bytes_folder(tmp_path / "bytes"), tmp_path / "words"
    make_bert(3, seed=1).save_pretrained(paths[1])
    make_tokenizer().save_pretrained(paths[1])

    def alone(teacher, contents=HIDDEN):
        return CachedTeacher(answers, teacher=teacher, contents=contents)

    def member(teacher):
        return Ensemble([alone(teacher), make_bert(2, seed=3)], features=0)

    for made in (alone, member):
        with pytest.raises(ValueError, match="the two read different tokens"):
            build(made(paths[0]), objective=objective)
        for teacher in (paths[1], ModelTeacher(make_bert(3, seed=1), tokenizer=make_tokenizer())):
            build(made(teacher), objective=objective).train()
    pooled = Contents(taps=HIDDEN.taps, pooled="mean")
    with pytest.raises(ValueError, match="tokens"):
        build(alone(paths[1], pooled), objective=objective)
    recorded(tmp_path / "pooled", contents=pooled)
    for options in ({}, {"tokenizer": make_tokenizer()}):
        with pytest.raises(ValueError, match="tokens"):
            build(CachedTeacher(tmp_path / "pooled", **options), objective=objective)


def test_columns_of_a_recorded_teacher_go_by_the_plain_prefix(build, tmp_path):
    data = encode(
        encode(make_dataset(8), make_byte_tokenizer(), prefix="teacher_"), make_tokenizer()
    )  # before the trainer: teacher0_ would not be found
    trainer = build(CachedTeacher(tmp_path / "answers", teacher=bytes_teacher()), data=data)
    trainer.train()
    assert trainer.teacher.prefix == "teacher_"
    found = trainer.teacher.trace(all_rows(trainer)).logits  # the live teacher is gone
    torch.testing.assert_close(found, by_hand(), atol=1e-5, rtol=0)


# Folders, columns and shards


def test_the_folder_of_one_teacher_may_be_named_beside_it(tmp_path):
    model = make_bert(3, seed=1)
    cached = recorded(tmp_path, model=model)
    again = CachedTeacher(cached.folder, teacher=model)
    assert again.folder == cached.folder
    assert not again.missing(again.rows(batch_of(encoded())).keys).any()


def test_labels_of_any_name_are_no_part_of_a_row(build, tmp_path):
    data = encode(make_dataset(8).rename_column("label", "target"), make_tokenizer())
    pair = Ensemble([make_bert(3, seed=1), make_bert(3, seed=4)])
    trainer = build(pair, data=data, args={"label_names": ["target"]}, teacher_cache=tmp_path / "answers")
    trainer.train()
    assert trainer.state.global_step == 2


def test_what_is_not_recorded_is_refused_before_the_first_step(build, tmp_path):
    recorded(tmp_path)
    with pytest.raises(CacheError, match=r"is not recorded in .*Contents\(taps="):
        build(CachedTeacher(tmp_path), objective=HiddenMSE(layers="2:3"))
    with pytest.raises(ValueError, match="logits of exits cannot be recorded"):
        Contents(taps={Tap("hidden", 1), Tap("exit", 1)})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="claims are the processes' own")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_another_process_leaves_what_is_being_written(tmp_path, monkeypatch):
    data, model = encoded(), make_bert(3, seed=1)
    recorded(tmp_path, data.select(range(8)), model=model)
    cached = CachedTeacher(tmp_path, teacher=model)
    cached.trace(batch_of(data, range(8, 16)))
    sync, swept = os.fsync, []

    def slow(descriptor):
        if not swept:
            swept.append(os.fork())
            if swept[0] == 0:
                cached.store.sweep()
                os._exit(0)
            os.waitpid(swept[0], 0)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    cached.store.flush()
    assert swept
    found = CachedTeacher(tmp_path).trace(batch_of(data, range(8, 16))).logits
    torch.testing.assert_close(found, live(batch_of(data, range(8, 16)), model).logits, atol=1e-5, rtol=0)


# Tokens with a label each


def test_answers_of_tokens_are_not_recorded(build, tmp_path):
    with pytest.raises(ValueError, match="this teacher answers each token"):
        build(
            make_tagger(3, seed=1), model=make_tagger(2), data=make_words(8), teacher_cache=tmp_path / "cache"
        )
    data = encode(make_words(4, bare=0), make_tokenizer())
    rows = [{name: row[name] for name in make_tokenizer().model_input_names} for row in data]
    batch = dict(DataCollatorWithPadding(make_tokenizer())(rows))
    with pytest.raises(CacheError, match="token classifiers teach live"):
        CachedTeacher(tmp_path / "cache", teacher=make_tagger(3, seed=1)).trace(batch)


def test_taggers_that_read_other_tokens_are_refused_wherever_they_are(build):
    bytes_ = ModelTeacher(make_tagger(3, seed=1, vocab_size=263), tokenizer=make_byte_tokenizer())
    for teacher in (bytes_, Ensemble([make_tagger(2), bytes_]), FoldTeacher([make_tagger(2), bytes_], {})):
        with pytest.raises(ValueError, match="the teacher reads other tokens than the student"):
            build(teacher, model=make_tagger(2, seed=2), data=make_words(8))


def turned_taggers():
    """A tagger, and the same one with its classes in another order."""
    order = [3, 1, 4, 0, 2]
    one = make_tagger(3, seed=1)
    two = make_tagger(3, seed=1, labels={i: TAGS[place] for i, place in enumerate(order)})
    with torch.no_grad():
        two.classifier.weight.copy_(one.classifier.weight[order])
        two.classifier.bias.copy_(one.classifier.bias[order])
    return one, two


@pytest.mark.parametrize("weights", [None, [1, 2], "entropy", "confidence"])
def test_taggers_of_other_orders_agree_with_themselves(weights, build):
    one, two = turned_taggers()
    ids, labels = torch.randint(5, 30, (4, 7)), torch.randint(0, 5, (4, 7))
    labels[0, 0], labels[1, 1] = -100, -101
    found = Ensemble([one, two], weights=weights).trace({"input_ids": ids, "labels": labels}).logits
    torch.testing.assert_close(found, one(ids).logits, atol=1e-5, rtol=0)
    data = make_words(8)
    trainer = build(Ensemble([two, one], weights=weights), model=make_tagger(2, seed=2), data=data)
    trainer.train()
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_each_word_weighs_its_taggers_by_their_error():
    ensemble = Ensemble([make_tagger(3, seed=1), make_tagger(2, seed=7)], weights="confidence")
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    labels = torch.tensor([[0, 4, -100, 2], [-101, 1, 1, 3], [0, 0, 2, -100]])
    weights = ensemble.weigh(logits, labels)
    by_entropy = ensemble.weigh(logits)
    for i, j in torch.cartesian_prod(torch.arange(3), torch.arange(4)).tolist():
        expected = by_entropy[:, i, j]
        if labels[i, j] >= 0:
            errors = -logits[:, i, j].log_softmax(-1)[:, labels[i, j]]
            expected = 1 - errors.exp() / errors.exp().sum()
        torch.testing.assert_close(weights[:, i, j], expected)


def test_labels_of_words_reach_taggers_in_the_order_of_their_classes(build):
    one, two = turned_taggers()
    answers = []
    for first in (one, two):
        ensemble = Ensemble([first, make_tagger(2, seed=7)], weights="confidence")
        trainer = build(ensemble, model=make_tagger(2, seed=2), data=make_words(8))
        batch = dict(next(iter(trainer.get_train_dataloader())))
        labels = batch.pop("labels")
        answers.append(trainer._ask_teacher(batch, labels=labels).logits.softmax(-1))
    torch.testing.assert_close(*answers)
    assert (answers[0] - trainer._ask_teacher(batch).logits.softmax(-1)).abs().max() > 1e-3
