"""Training on a stream is training on its rows: the same weights, also when it is resumed."""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, IterableDataset

from hfdistill import (
    Delete,
    DistillationTrainer,
    FreshCopies,
    Refit,
    augment,
    few_shot,
    measure,
    out_of_fold,
    prune_vocabulary,
    shrink,
)
from hfdistill.data import encode
from hfdistill.files.checkpoint import CheckpointError
from hfdistill.network.label_space import LabelSpaceError
from hfdistill.trainer.streams import Passes, check_measured, settle_stream
from tests.conftest import make_bert, make_dataset, make_tokenizer
from tests.trainer.conftest import SaveAt, quiet_arguments


def texts(rows=20):
    """Rows of several lengths, no two alike."""
    data = make_dataset(rows)
    longer = [f"{row['text']} {'and it was ' * (i % 5)}".strip() for i, row in enumerate(data)]
    return Dataset.from_dict({"text": longer, "label": data["label"]})


def build(folder, data, *, dropout=0.1, **options):
    settings = {
        "max_steps": 12,
        "learning_rate": 0.01,
        "per_device_train_batch_size": 4,
        "optim": "adamw_torch",
    }
    trainer = {
        name: options.pop(name) for name in ("teacher", "eval_dataset", "objective") if name in options
    }
    args = quiet_arguments(folder, **{**settings, **options})
    return DistillationTrainer(
        make_bert(2, seed=2, hidden_dropout_prob=dropout),
        args,
        **{"teacher": make_bert(3, seed=1), **trainer},
        train_dataset=data,
        processing_class=make_tokenizer(),
    )


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.mark.parametrize("columns", ["text", "ids"])
def test_a_stream_gives_the_weights_of_its_rows(tmp_path, columns):
    rows = texts() if columns == "text" else encode(texts(), make_tokenizer())
    options = {"train_sampling_strategy": "sequential", "dropout": 0.0}
    streamed = build(tmp_path / "a", rows.to_iterable_dataset(), **options)
    in_memory = build(tmp_path / "b", rows, **options)
    streamed.train()
    in_memory.train()
    assert torch.equal(weights(streamed), weights(in_memory))
    assert not torch.equal(weights(streamed), weights(build(tmp_path / "c", rows)))


@pytest.mark.parametrize(("places", "accumulation"), [((9, 5, 2), 1), ((3,), 2)])
def test_a_run_resumes_in_the_middle_of_any_pass(tmp_path, places, accumulation):
    """Five batches a pass: it ends within a window where two are one step."""
    stream = texts().to_iterable_dataset().shuffle(seed=3, buffer_size=7)
    options = {"gradient_accumulation_steps": accumulation}
    straight = build(tmp_path, stream, **options)
    straight.add_callback(SaveAt(*places))
    straight.train()
    for at in places:
        resumed = build(tmp_path, stream, **options)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
        assert torch.equal(weights(resumed), weights(straight)), at
        assert resumed.state.global_step == 12


def test_each_pass_has_an_order_of_its_own(tmp_path):
    trainer = build(tmp_path, texts().to_iterable_dataset().shuffle(seed=3, buffer_size=9), max_steps=10)
    take, seen = trainer.get_batch_samples, []

    def spy(*arguments):
        batches, total = take(*arguments)
        for batch in batches:
            pairs = zip(batch["input_ids"], batch["attention_mask"], strict=True)
            seen.extend(ids[mask.bool()].tolist() for ids, mask in pairs)
        return batches, total

    trainer.get_batch_samples = spy
    trainer.train()
    assert seen[:20] != seen[20:]
    assert sorted(seen[:20]) == sorted(seen[20:])


def test_a_later_pass_may_begin_anew(tmp_path):
    stream = texts().to_iterable_dataset()
    straight = build(tmp_path, stream)
    straight.add_callback(SaveAt(7))
    straight.train()
    resumed = build(tmp_path, stream, ignore_data_skip=True)
    assert resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-7")).global_step == 12


def test_a_stream_of_another_length_each_time_is_not_gone_on_with(tmp_path):
    lengths = iter([20, 20, 20, 20, 16, 20, 20, 20])

    def rows():
        yield from list(texts())[: next(lengths, 20)]

    options = {"save_strategy": "steps", "save_steps": 11}
    build(tmp_path, IterableDataset.from_generator(rows), **options).train()
    resumed = build(tmp_path, IterableDataset.from_generator(rows), **options)
    with pytest.raises(CheckpointError, match="another number of batches in one pass"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-11"))


def test_a_stream_is_not_gone_on_with_in_steps_of_other_rows(tmp_path):
    """Its place was counted in steps; `allow_changed=True` lets a run take others."""
    passes = Passes(rows=4)
    passes.end(number=0, step=5)
    passes.save(tmp_path)
    again = Passes(rows=4)
    again.load(tmp_path)
    assert again.steps == 5
    with pytest.raises(CheckpointError, match=r"took 4 rows a step .* takes 8.*ignore_data_skip=True"):
        Passes(rows=8).load(tmp_path)


def test_a_stream_too_short_for_a_step_is_no_run(tmp_path):
    trainer = build(tmp_path, texts(8).to_iterable_dataset(), gradient_accumulation_steps=4)
    with pytest.raises(ValueError, match="ended before the first step, which takes 4 batches of 4 rows"):
        trainer.train()


def test_evaluation_rows_may_be_a_stream(tmp_path):
    rows = texts()
    data = {"in memory": rows, "streamed": rows.to_iterable_dataset()}
    metrics = build(tmp_path, rows.to_iterable_dataset(), eval_dataset=data).evaluate()
    assert metrics["eval_streamed_loss"] == pytest.approx(metrics["eval_in memory_loss"], rel=1e-6)


# Refused before the first step


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": -1}, "is a stream .* Type max_steps=rows . epochs / 4, as in max_steps=75000"),
        ({"train_sampling_strategy": "group_by_length"}, "needs the lengths of all rows.*shuffle"),
    ],
    ids=["no last step", "length grouping"],
)
def test_what_a_stream_cannot_do(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, texts().to_iterable_dataset(), **options)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda rows: rows.filter(lambda row: False), ValueError, "is a stream that has no row"),
        (lambda rows: rows.rename_column("text", "body"), ValueError, "neither 'text' nor 'input_ids'"),
        (lambda rows: rows.map(lambda row: {"label": 7}), LabelSpaceError, "7"),
        (lambda rows: rows.remove_columns("label"), ValueError, "has no labelled row"),
        (lambda rows: rows.map(lambda row: {"input_ids": [9999]}), ValueError, "holds 9999"),
        (lambda rows: rows.map(lambda row: {"input_ids": [5] * 99}), ValueError, "positions"),
    ],
    ids=["empty", "columns", "classes", "labels", "ids", "lengths"],
)
@pytest.mark.parametrize("split", ["train_dataset", "eval_dataset"])
def test_the_first_rows_are_checked(tmp_path, change, error, message, split):
    stream = change(texts().to_iterable_dataset())
    data = {"data": texts(), "eval_dataset": stream} if split == "eval_dataset" else {"data": stream}
    if split == "eval_dataset" and "labelled" in message:
        build(tmp_path, **data)  # it is measured without
        return
    with pytest.raises(error, match=message):
        build(tmp_path, **data)


def test_several_processes_read_it_each_and_do_not_measure_on_it(tmp_path, caplog):
    args = quiet_arguments(tmp_path, max_steps=2, per_device_train_batch_size=4)
    two = SimpleNamespace(**{**vars(args), "world_size": 2, "train_batch_size": 4, "process_index": 0})
    stream = texts().to_iterable_dataset()
    for data in (stream, {"a": texts(), "b": stream}):
        with pytest.raises(ValueError, match="eval_dataset is a stream, and 2 processes"):
            check_measured(data, two)
        check_measured(data, args)
    check_measured({"a": texts()}, two)
    settle_stream(texts(), two)
    assert two.accelerator_config.dispatch_batches is None
    settle_stream(stream, two)
    assert two.accelerator_config.dispatch_batches is False
    assert "no multiple of 8, each pass ends with some of its first rows once more" in caplog.text


def test_labels_that_come_late_are_enough(tmp_path):
    late = [
        {"text": row["text"], "label": -100 if i < 70 else row["label"]} for i, row in enumerate(texts(80))
    ]
    build(tmp_path, Dataset.from_list(late).to_iterable_dataset())


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda rows: FreshCopies(rows, Delete(p=0.1)), "writes rows anew by their numbers"),
        (lambda rows: augment(rows, Delete(p=0.1)), "writes rows anew by their numbers"),
        (
            lambda rows: shrink(make_bert(3), layers=2, fit=Refit(rows), tokenizer=make_tokenizer()),
            "fit= draws",
        ),
        (lambda rows: out_of_fold(rows, tokenizer=make_tokenizer(), fit=print), "deals all rows into folds"),
        (lambda rows: few_shot("encoder", examples=rows), "fits its classifier to all examples"),
        (lambda rows: measure(make_bert(2), rows, tokenizer=make_tokenizer()), "needs a datasets.Dataset"),
    ],
    ids=["fresh copies", "augment", "fit", "folds", "few shot", "measure"],
)
def test_what_needs_rows_in_memory_says_so(use, message):
    with pytest.raises(TypeError, match=message):
        use(texts().to_iterable_dataset())


def test_a_vocabulary_is_counted_over_a_stream():
    corpus = texts().select_columns(["text"])
    cut = [
        prune_vocabulary(make_bert(2), make_tokenizer(), rows)[1].get_vocab()
        for rows in (corpus, corpus.to_iterable_dataset())
    ]
    assert cut[0] == cut[1]
