"""`teacher_cache=`: one pass of the teacher, then a run that is the live one's, without the teacher."""

import copy
import gc
import os
import weakref

import pytest
import torch
from datasets import Dataset

from hfdistill import (
    KD,
    RKD,
    After,
    CachedTeacher,
    CacheError,
    Contents,
    CrossEntropy,
    DistillationArguments,
    DistillationTrainer,
    HiddenMSE,
    MiniLMv2,
    ModelTeacher,
    Tap,
    Until,
    newest_checkpoint,
    record,
)
from tests.conftest import BAD, GOOD, make_bert, make_dataset, make_tokenizer
from tests.teachers.cache.cached import shards
from tests.trainer.conftest import SaveAt

DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
INSIDE = Until(0.5) * (HiddenMSE() + MiniLMv2()) + After(0.5) * (0.5 * CrossEntropy() + 0.5 * KD())


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Exactness is promised for one number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(folder, **options):
    settings = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.05,
        "optim": "sgd",  # Adam would make 1e-7 in a gradient a step of full size
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "seed": 3,
    }
    names = (
        "objective",
        "teacher",
        "teacher_cache",
        "train_dataset",
        "eval_dataset",
        "label_map",
        "model_init",
    )
    extra = {name: options.pop(name) for name in names if name in options}
    student = None if "model_init" in extra else make_bert(2, seed=2, **options.pop("student", DROPOUT))
    return DistillationTrainer(
        student,
        DistillationArguments(str(folder), **{**settings, **options}),
        **{"teacher": make_bert(3, seed=1), "train_dataset": make_dataset(21), **extra},
        processing_class=make_tokenizer(),
    )


def flat(trainer):
    return torch.cat(
        [p.detach().reshape(-1) for p in [*trainer.model.parameters(), *trainer.blend.parameters()]]
    )


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def trained(folder, **options):
    trainer = build(folder, **options)
    trainer.train()
    return trainer


def asked(model):
    """The number of rows in each forward of a model, as it goes."""
    calls = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    return calls


@pytest.mark.parametrize("objective", [None, INSIDE], ids=["logits", "inside"])
def test_a_cached_run_is_the_live_one(tmp_path, objective):
    live = trained(tmp_path / "live", objective=objective)
    cached = trained(tmp_path / "cached", objective=objective, teacher_cache=tmp_path / "answers")
    assert losses(cached) == pytest.approx(losses(live), rel=1e-4)
    torch.testing.assert_close(flat(cached), flat(live), atol=1e-4, rtol=1e-3)
    again = trained(tmp_path / "again", objective=objective, teacher_cache=tmp_path / "answers")
    assert torch.equal(flat(again), flat(cached))  # the first epoch reads what is stored too


def test_with_the_same_batches_it_is_the_live_one_bit_for_bit(tmp_path):
    """One batch of rows of one length, which recording makes too."""
    texts = [f"the film was {word} and so was the cast" for word in GOOD + BAD]
    data = Dataset.from_dict({"text": texts, "label": [1] * 8 + [0] * 8})
    options = {
        "train_dataset": data,
        "per_device_train_batch_size": 16,
        "objective": KD(),
        "num_train_epochs": 4,
    }
    live, cached = (
        trained(tmp_path, **options),
        trained(tmp_path, **options, teacher_cache=tmp_path / "answers"),
    )
    assert losses(cached) == losses(live)
    assert torch.equal(flat(cached), flat(live))


def test_the_teacher_is_asked_once_about_each_text_and_then_gone(tmp_path):
    model = make_bert(3, seed=1)
    calls, before = asked(model), copy.deepcopy(model.state_dict())
    trainer = build(tmp_path, teacher=model, teacher_cache=tmp_path / "answers")
    assert not calls  # nothing at construction
    trainer.train()
    distinct = len(set(make_dataset(21)["text"]))
    assert sum(calls) == 2 * 8 + 1 + distinct  # one of the eight without padding
    assert isinstance(trainer.teacher, CachedTeacher)
    assert trainer.teacher.teacher is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    held = weakref.ref(model)
    del model
    gc.collect()
    assert held() is None
    trainer.train()
    other = trained(
        tmp_path, objective=KD(temperature=2), teacher_cache=tmp_path / "answers", num_train_epochs=1
    )
    assert isinstance(other.teacher, CachedTeacher)
    assert len(shards(tmp_path / "answers")) == 1


def test_a_warm_cache_asks_nothing_whatever_student_and_objective(tmp_path):
    trained(tmp_path, teacher_cache=tmp_path / "answers")
    model = make_bert(3, seed=1)
    calls = asked(model)
    changes = [
        {"objective": 0.1 * CrossEntropy() + 0.9 * KD(temperature=2)},
        {"student": {"num_hidden_layers": 1, "hidden_size": 8}},
        {"per_device_train_batch_size": 2, "seed": 8},
        {"train_dataset": make_dataset(21).shuffle(seed=5).select(range(17))},
        {"label_map": {"negative": "positive", "positive": "negative"}},  # E11: applied after the cache
    ]
    for change in changes:
        trained(tmp_path, teacher=model, teacher_cache=tmp_path / "answers", **change)
    assert not calls
    other = {"train_dataset": make_dataset(32), "num_train_epochs": 1}
    trained(tmp_path, teacher=model, teacher_cache=tmp_path / "answers", **other)
    new = [text for text in make_dataset(32)["text"] if text not in set(make_dataset(21)["text"])]
    assert sum(calls) == 2 * min(8, len(new)) + 1 + len(set(new)) > 1


def test_e11_classes_in_another_order_are_matched_after_the_cache(tmp_path):
    swapped = make_bert(3, seed=1, labels={0: "positive", 1: "negative"})
    live = trained(tmp_path, teacher=swapped)
    cached = trained(tmp_path, teacher=swapped, teacher_cache=tmp_path / "answers")
    torch.testing.assert_close(flat(cached), flat(live), atol=1e-4, rtol=1e-3)
    alone = trained(tmp_path, teacher=CachedTeacher(tmp_path / "answers"))
    assert torch.equal(flat(alone), flat(cached))


def test_a_recorded_teacher_is_a_teacher(tmp_path):
    teacher = record(make_bert(3, seed=1), make_dataset(21), folder=tmp_path, tokenizer=make_tokenizer())
    one = trained(tmp_path, teacher=teacher)
    two = trained(tmp_path, teacher_cache=tmp_path)
    assert torch.equal(flat(one), flat(two))
    with pytest.raises(CacheError, match=r"rows are not recorded.*hfdistill\.record"):
        trained(tmp_path, teacher=CachedTeacher(tmp_path), train_dataset=make_dataset(32))
    with pytest.raises(CacheError, match="is not recorded"):
        trained(tmp_path, teacher=CachedTeacher(tmp_path), objective=HiddenMSE())


def test_the_evaluation_rows_are_looked_at_from_disk(tmp_path):
    live = trained(tmp_path, eval_dataset=make_dataset(32))
    cached = trained(tmp_path, eval_dataset=make_dataset(32), teacher_cache=tmp_path / "answers")
    (seen,) = [entry for entry in cached.state.log_history if "teacher_accuracy" in entry]
    (expected,) = [entry for entry in live.state.log_history if "teacher_accuracy" in entry]
    assert seen["teacher_accuracy"] == expected["teacher_accuracy"]
    assert seen["teacher_rows"] == 32
    assert cached.evaluate()["eval_loss"] == pytest.approx(live.evaluate()["eval_loss"], rel=1e-4)


def test_pooled_vectors_teach_terms_that_pool_alike(tmp_path):
    objective = RKD() + 0.5 * CrossEntropy()
    taps = build(tmp_path, objective=objective).blend.taps(ever=True)[1]
    data, tokenizer = make_dataset(21), make_tokenizer()
    contents = Contents(taps=taps, pooled="mean")
    teacher = record(make_bert(3, seed=1), data, folder=tmp_path, tokenizer=tokenizer, contents=contents)
    live, pooled = (
        trained(tmp_path, objective=objective),
        trained(tmp_path, objective=objective, teacher=teacher),
    )
    torch.testing.assert_close(flat(pooled), flat(live), atol=1e-4, rtol=1e-3)
    with pytest.raises(ValueError, match="tokens"):
        build(tmp_path, objective=HiddenMSE(layers="1:1, 2:3"), teacher=teacher)
    with pytest.raises(ValueError, match=r"pooled by 'mean'.*record again"):
        trained(tmp_path, objective=RKD(pooling="cls"), teacher=teacher)
    assert Tap("hidden", 3) in taps


def test_precision_is_the_run_s(tmp_path):
    cached = trained(tmp_path, teacher_cache=tmp_path / "answers", bf16=True, objective=KD())
    assert cached.teacher.contents.precision == "bf16"
    live = trained(tmp_path, bf16=True, objective=KD())
    assert losses(cached) == pytest.approx(losses(live), rel=0.05)


SAVING = {"save_strategy": "steps", "save_steps": 1, "gradient_accumulation_steps": 2}


def test_a_cached_run_resumes_bit_for_bit(tmp_path):
    """With its teacher, without it, and without the cache, as the live one has the same fingerprint."""
    folder, answers = tmp_path / "straight", tmp_path / "answers"
    options = {"objective": INSIDE, "teacher_cache": answers, "folder": folder}
    options |= {"gradient_accumulation_steps": 2}
    straight = build(**options)
    straight.add_callback(SaveAt(1, 4))
    straight.train()

    def resumed(step, **changes):
        trainer = build(**{**options, **changes})
        trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{step}"))
        return flat(trainer)

    for step in (1, 4):
        assert torch.equal(resumed(step), flat(straight))
        alone = CachedTeacher(answers)
        assert torch.equal(resumed(step, teacher=alone, teacher_cache=None), flat(straight))
    torch.testing.assert_close(resumed(4, teacher_cache=None), flat(straight), atol=1e-4, rtol=1e-3)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_run_killed_while_it_records_goes_on(tmp_path):
    options = {**SAVING, "teacher_cache": tmp_path / "answers", "folder": tmp_path / "run"}
    straight = trained(**{**options, "teacher_cache": tmp_path / "other", "folder": tmp_path / "straight"})
    for calls in range(2, 12, 3):  # killed at a forward of the teacher, of the student, ...
        child = os.fork()
        if child == 0:
            model, seen = make_bert(3, seed=1), []
            model.register_forward_hook(
                lambda *_, seen=seen, n=calls: seen.append(1) or (len(seen) > n and os._exit(9))
            )
            try:
                build(**{**options, "teacher": model}).train()
                os._exit(0)
            finally:
                os._exit(1)
        os.waitpid(child, 0)
    trainer = build(**options)
    trainer.train(resume_from_checkpoint=newest_checkpoint(tmp_path / "run"))
    assert torch.equal(flat(trainer), flat(straight))


# Data without a length is recorded as it comes


def streamed(folder, **options):
    data = make_dataset(21).to_iterable_dataset()
    return build(folder, train_dataset=data, max_steps=12, num_train_epochs=3, **options)


def test_data_without_a_length_is_recorded_as_it_comes(tmp_path):
    live = streamed(tmp_path)
    live.train()
    model = make_bert(3, seed=1)
    calls = asked(model)
    cached = streamed(tmp_path, teacher=model, teacher_cache=tmp_path / "answers")
    cached.train()
    assert sum(calls) <= 2 * 4 + 1 + 21
    torch.testing.assert_close(flat(cached), flat(live), atol=1e-4, rtol=1e-3)
    assert len(CachedTeacher(tmp_path / "answers").store) == len(set(make_dataset(21)["text"]))


def test_what_was_recorded_as_it_came_resumes_bit_for_bit(tmp_path):
    straight = streamed(tmp_path / "run", teacher_cache=tmp_path / "answers")
    straight.add_callback(SaveAt(4))
    straight.train()
    resumed = streamed(tmp_path / "run", teacher_cache=tmp_path / "answers")
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert torch.equal(flat(resumed), flat(straight))


def test_model_init_and_a_second_run(tmp_path):
    trainer = build(
        tmp_path,
        model_init=lambda: make_bert(2, seed=2),
        objective=HiddenMSE() + KD(),
        teacher_cache=tmp_path / "answers",
    )
    trainer.train()
    first = flat(trainer)
    trainer.train()
    assert torch.equal(flat(trainer)[: len(first) // 2], first[: len(first) // 2])
    assert trainer.teacher.fingerprint() == ModelTeacher(make_bert(3, seed=1)).fingerprint()
    trainer.train_dataset = trainer.get_eval_dataloader(make_dataset(24)).dataset
    with pytest.raises(CacheError, match=r"^3 of 24 rows are not .*make a new trainer with the live"):
        trainer.train()
