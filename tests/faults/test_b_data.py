"""Section B of the table of faults: rows that are broken, odd, or not what they seem to be."""

import math

import pytest
import torch
from datasets import Dataset

import hfdistill
from hfdistill import KD, HiddenMSE, MiniLMv2
from tests.conftest import make_bert, make_dataset, make_tokenizer
from tests.faults.conftest import rows

ODD = {"nothing": None, "a number": 3.5, "half a pair": "a \ud800 film"}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_b1_what_is_no_text_is_named_by_its_row(build, refused, odd):
    listed = [{"text": "a film", "label": 1}, {"text": odd, "label": 0}]
    with refused(r"Rows \[1\] of column 'text' hold None, a number .*load\(\.\.\., on_bad_row="):
        build(train=listed)
    if odd is None:
        with refused(r"Rows \[1\] of column 'text'"):
            build(train=Dataset.from_list(listed))


def test_b1_a_list_of_rows_is_read_as_a_dataset_of_them(build):
    data = make_dataset(16)
    runs = [build(train=train, args={"learning_rate": 0.1}) for train in (data, list(data))]
    losses = [run.train().training_loss for run in runs]
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match=r"Rows \[0\] of column 'text'"):
        runs[0].evaluate([{"text": 5, "label": 0}])


def test_b2_odd_texts_survive_and_no_row_is_empty(build, refused):
    texts = ["", "   ", "\n", "a\0film", "film " * 2000, "é\u202e\U0001f600", "good"]
    trainer = build(train=Dataset.from_dict({"text": texts, "label": [0, 1, 0, 1, 0, 1, 0]}))
    assert min(map(len, trainer.train_dataset["input_ids"])) > 0
    assert math.isfinite(trainer.train().training_loss)
    for data in (
        Dataset.from_dict({"input_ids": [[5], []], "label": [0, 1]}),
        [{"input_ids": [5], "label": 0}, {"input_ids": [], "label": 1}],
    ):
        with refused(r"train_dataset, row 1: 'input_ids' holds no token.*dataset\.filter\("):
            build(train=data)


def test_b3_a_row_of_padding_alone_gives_a_finite_loss(build):
    masks = [[0, 0, 0], [1, 1, 1]]
    data = Dataset.from_dict({"input_ids": [[5, 6, 7]] * 2, "attention_mask": masks, "label": [0, 1]})
    trainer = build(train=data, objective=KD() + HiddenMSE() + MiniLMv2(), args={"learning_rate": 0.1})
    assert math.isfinite(trainer.train().training_loss)
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_b4_one_text_with_several_labels_is_told(build, caplog):
    data = Dataset.from_dict({"text": ["a film", "the cast", "a film", "a film"], "label": [0, 1, 0, 1]})
    build(train=data)
    assert "1 rows of train_dataset repeat the text of an earlier row under another label" in caplog.text
    assert "rows 0 and 3" in caplog.text


def test_b5_rows_that_are_learnt_from_and_measured_on_are_told(build, caplog):
    data = make_dataset(16)
    build(train=data, evaluation={"own": data.select([3, 4]), "other": rows([0, 1])})
    assert "2 of the 2 rows of eval_dataset['own'] are also in train_dataset (first: row 0)" in caplog.text
    assert "other" not in caplog.text


def test_b6_recorded_answers_are_found_by_their_text(build, tmp_path):
    """After shuffling and with rows more, each row is answered as the live teacher answers it."""
    data, teacher = make_dataset(12), make_bert(3, seed=1)
    hfdistill.record(teacher, data.select(range(8)), folder=tmp_path / "answers", tokenizer=make_tokenizer())
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0)).tolist()
    trainer = build(teacher=teacher, train=data.select(order), teacher_cache=tmp_path / "answers")
    trainer.train()
    batch = make_tokenizer()(data.select(order)["text"][:], padding=True, return_tensors="pt")
    answers = trainer.teacher.trace(dict(batch)).logits
    torch.testing.assert_close(answers, teacher(**batch).logits.detach(), atol=1e-5, rtol=0)


def test_b9_data_without_a_length(build, tmp_path):
    stream = make_dataset(16).to_iterable_dataset()
    with pytest.raises(ValueError, match=r"is a stream.*Type max_steps=rows \* epochs / 8"):
        build(train=stream, args={"max_steps": -1})
    recorded = build(train=stream, teacher_cache=tmp_path / "answers", args={"max_steps": 2})
    assert recorded.train().global_step == 2


def test_b10_a_tail_weighs_by_its_rows(build):
    """The last step's loss is the mean over its rows, however they were split."""
    losses = []
    for size, windows in ((8, 1), (4, 2), (2, 4)):
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": windows}
        settings |= {"max_steps": -1, "train_sampling_strategy": "sequential"}
        trainer = build(train=make_dataset(21), args=settings)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], rel=1e-6)


def test_b11_a_class_without_a_row_is_told(build, caplog):
    build(train=rows([0] * 8))
    assert "train_dataset has no row of 'positive' (there are: 'negative' 8)" in caplog.text
    report = hfdistill.measure(
        make_bert(), make_dataset(8).filter(lambda row: row["label"] == 0), tokenizer=make_tokenizer()
    )
    assert all(math.isfinite(value) for value in report.student.scores.values())
