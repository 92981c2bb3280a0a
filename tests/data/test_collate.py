"""Two sides of one batch, each padded with its own tokenizer."""

import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorWithPadding

from hfdistill.data import DistillationCollator, encode
from tests.conftest import make_byte_tokenizer, make_dataset, make_tokenizer
from tests.data.conftest import messages

ROWS = [{"text": "good film", "label": 1}, {"text": "a dull story and a cold end", "label": 0}]
PAIRS = [
    {"text": "good film", "text_pair": "it is warm", "label": 1},
    {"text": "dull", "text_pair": "the end", "label": 0},
]


def by_hand(tokenizer, *columns):
    return tokenizer(*columns, padding=True, return_tensors="pt")


@pytest.mark.parametrize("rows", [ROWS, PAIRS], ids=["texts", "pairs"])
def test_text_becomes_what_each_tokenizer_makes_of_it(rows):
    batch = DistillationCollator(make_tokenizer(), make_byte_tokenizer())(rows)
    columns = [[row[name] for row in rows] for name in ("text", "text_pair") if name in rows[0]]
    own, theirs = by_hand(make_tokenizer(), *columns), by_hand(make_byte_tokenizer(), *columns)
    expected = {**own, **{f"teacher_{name}": value for name, value in theirs.items()}}
    assert batch.pop("labels").tolist() == [1, 0]
    assert batch.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(batch[name], value), name
    assert batch["input_ids"].shape[1] < batch["teacher_input_ids"].shape[1]
    assert (batch["teacher_input_ids"] == 1).any()  # padded with the teacher's own padding


def test_columns_made_before_give_the_same_batch_as_text():
    data = Dataset.from_list(PAIRS)
    data = encode(encode(data, make_byte_tokenizer(), prefix="teacher_"), make_tokenizer())
    assert "text" not in data.column_names
    collator = DistillationCollator(make_tokenizer(), make_byte_tokenizer())
    before, now = collator(list(data)), collator(PAIRS)
    assert before.keys() == now.keys()
    assert all(torch.equal(before[name], now[name]) for name in now)


def test_several_teachers_and_a_padder_of_ones_own():
    padder = DataCollatorWithPadding(make_tokenizer(), pad_to_multiple_of=16)
    teachers = {"teacher0_": make_byte_tokenizer(), "teacher1_": make_tokenizer()}
    batch = DistillationCollator(make_tokenizer(), teachers, padder=padder)(ROWS)
    assert batch["input_ids"].shape == (2, 16)
    assert batch["teacher1_input_ids"].shape == (2, 9)
    assert torch.equal(batch["input_ids"][:, :9], batch["teacher1_input_ids"])
    assert batch["teacher0_input_ids"].shape[1] > 16


def test_rows_for_the_student_alone_make_a_batch_for_it_alone():
    rows = list(encode(make_dataset(4), make_tokenizer()))
    batch = DistillationCollator(make_tokenizer(), make_byte_tokenizer())(rows)
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels"}


def test_each_side_is_cut_to_its_own_limit_and_says_so_once(caplog):
    collator = DistillationCollator(
        make_tokenizer(), make_byte_tokenizer(), max_length=6, teacher_max_length=20
    )
    for _ in range(2):
        batch = collator(ROWS)
    assert batch["input_ids"].shape == (2, 6)
    assert batch["teacher_input_ids"].shape == (2, 20)
    said = messages(caplog)
    assert len(said) == 2
    assert said[0].startswith(
        "1 of 2 rows of a batch are longer than 6 tokens and were cut (columns input_ids"
    )
    assert said[1].startswith(
        "1 of 2 rows of a batch are longer than 20 tokens and were cut (columns teacher_"
    )


def test_a_tokenizer_that_cannot_pad_and_a_limit_without_room_are_refused():
    tokenizer = make_byte_tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match=r"tokenizer of the columns teacher_… has no padding token"):
        DistillationCollator(make_tokenizer(), tokenizer)
    with pytest.raises(ValueError, match=r"A row may have 4 tokens, of which the tokenizer needs 4"):
        DistillationCollator(make_tokenizer(), make_byte_tokenizer(), teacher_max_length=4)


def test_rows_without_ids_or_text_are_refused():
    with pytest.raises(
        ValueError, match=r"neither input_ids nor text, but label\..*remove_unused_columns=False"
    ):
        DistillationCollator(make_tokenizer(), make_byte_tokenizer())([{"label": 1}])


def test_text_that_is_none_is_refused_by_row():
    with pytest.raises(ValueError, match=r"Rows \[1\] of column 'text' hold None"):
        DistillationCollator(make_tokenizer(), make_byte_tokenizer())([ROWS[0], {"text": None, "label": 1}])


def test_encode_with_a_prefix_keeps_the_text_and_counts_what_it_cuts(caplog):
    data = encode(make_dataset(8), make_byte_tokenizer(), max_length=24, prefix="teacher_")
    assert set(data.column_names) == {"text", "label", "teacher_input_ids", "teacher_attention_mask"}
    lengths = [len(ids) for ids in make_byte_tokenizer()(make_dataset(8)["text"][:])["input_ids"]]
    cut = sum(length > 24 for length in lengths)
    assert 0 < cut < 8
    assert messages(caplog) == [f"{cut} of 8 rows are longer than 24 tokens and were cut (columns teacher_…)"]
    assert [len(ids) for ids in data["teacher_input_ids"]] == [min(length, 24) for length in lengths]
