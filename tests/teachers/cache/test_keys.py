"""A row's key is what the teacher reads of it: the ids, and nothing of the batch around them."""

import warnings

import numpy as np
import pytest
import torch

from hfdistill import CacheError, EMATeacher, ModelTeacher
from hfdistill.teachers.cache.keys import chosen, other_reading, pushed, rows_of
from hfdistill.teachers.cache.manifest import print_of
from tests.conftest import make_bert

IDS = [[2, 5, 3], [2, 6, 7, 8, 3], [2, 3]]


def padded(rows=IDS, *, side="right", to=5, fill=0, dtype=torch.int64):
    def pad(row, value):
        rest = [value] * (to - len(row))
        return row + rest if side == "right" else rest + row

    columns = {
        "input_ids": [pad(row, fill) for row in rows],
        "attention_mask": [pad([1] * len(row), 0) for row in rows],
        "token_type_ids": [pad([i % 2 for i in range(len(row))], 0) for row in rows],
    }
    return {name: torch.tensor(value, dtype=dtype) for name, value in columns.items()}


def keys(batch):
    return [key.tobytes() for key in rows_of(batch).keys]


@pytest.mark.parametrize(
    "change",
    [
        {"side": "left"},
        {"to": 9},
        {"side": "left", "to": 30},
        {"fill": 7},
        {"dtype": torch.int32},
    ],
    ids=str,
)
def test_padding_and_the_width_of_integers_have_no_part(change):
    assert keys(padded(**change)) == keys(padded())
    assert len(set(keys(padded()))) == 3


@pytest.mark.gpu
def test_a_batch_on_a_gpu_has_the_same_keys_and_is_waited_for_once():
    batch = padded()
    remote = {name: value.cuda() for name, value in batch.items()}
    torch.cuda.synchronize()
    with warnings.catch_warnings(action="ignore"):  # it calls itself a prototype
        torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchroniz") as waits:
            keys = rows_of(remote).keys
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([one for one in waits if "synchroniz" in str(one.message)]) == 1
    assert (keys == rows_of(batch).keys).all()


def test_neither_has_the_order_of_rows_or_columns():
    batch = padded()
    assert keys(chosen(batch, [2, 0])) == [keys(batch)[2], keys(batch)[0]]
    assert keys(dict(reversed(batch.items()))) == keys(batch)


@pytest.mark.parametrize("name", ["input_ids", "token_type_ids"])
def test_one_other_id_is_another_row(name):
    batch = padded()
    batch[name][1, 2] += 1
    assert [a == b for a, b in zip(keys(batch), keys(padded()), strict=True)] == [True, False, True]


def test_a_column_more_or_less_is_another_row():
    batch = padded()
    positions = torch.arange(5).expand(3, 5)
    seen = [
        keys(batch),
        keys({**batch, "position_ids": positions}),
        keys({**batch, "position_ids": positions + 1}),
        keys({"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}),
        keys({**batch, "speaker": torch.tensor([0, 1, 2])}),
        keys({**batch, "speaker": torch.tensor([3, 4, 5])}),
        keys({**batch, "weight": torch.tensor([0.5, 0.5, 0.5])}),
    ]
    assert len({key for row in seen for key in row}) == 3 * len(seen)


def test_ids_and_types_cannot_change_places():
    batch = padded()
    swapped = {**batch, "input_ids": batch["token_type_ids"], "token_type_ids": batch["input_ids"]}
    assert not set(keys(swapped)) & set(keys(batch))


def test_a_hole_in_the_mask_is_another_row():
    batch = padded([[2, 5, 9, 3]])
    holed = {**batch, "attention_mask": torch.tensor([[1, 1, 0, 1, 0]])}
    assert keys(holed) != keys(batch)
    assert keys(holed) != keys(padded([[2, 5, 3]]))
    other = {**holed, "input_ids": torch.tensor([[2, 5, 8, 3, 0]])}
    assert keys(other) != keys(holed)


def test_rows_of_zeros_are_told_apart_by_their_length():
    batch = {"input_ids": torch.zeros(3, 4, dtype=torch.int64)}
    mask = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    assert len(set(keys({**batch, "attention_mask": mask}))) == 3


def test_without_a_mask_a_row_is_what_it_is():
    short, long = torch.tensor([[2, 5, 3]]), torch.tensor([[2, 5, 3, 0]])
    assert keys({"input_ids": short}) != keys({"input_ids": long})
    assert rows_of({"input_ids": long}).ends.tolist() == [4]


def test_spans():
    rows = rows_of(padded(side="left"))
    assert rows.starts.tolist() == [2, 0, 3]
    assert rows.ends.tolist() == [5, 5, 5]
    assert rows.width == 5


def test_a_batch_is_pushed_to_the_left():
    batch, label = padded(side="left"), torch.tensor([1, 0, 1])
    moved = pushed({**batch, "labels": label}, batch, rows_of(batch), padding="right")
    assert moved["labels"] is label
    for name, value in padded().items():
        assert torch.equal(moved[name], value)


def test_nothing_to_read():
    with pytest.raises(ValueError, match="input_ids"):
        rows_of({"attention_mask": torch.ones(2, 3), "flag": torch.tensor(True)})


def test_many_rows_have_as_many_keys():
    ids = torch.from_numpy(np.arange(100_000).reshape(-1, 1).repeat(2, axis=1))
    assert len(set(keys({"input_ids": ids}))) == 100_000


def test_rows_without_a_column_of_tokens_have_empty_spans():
    rows = rows_of({"input_ids": torch.zeros(2, 0, dtype=torch.long)})
    assert (rows.starts.tolist(), rows.ends.tolist(), rows.width) == ([0, 0], [0, 0], 0)


def test_a_batch_of_embeddings_has_no_other_reading():
    inputs = {"inputs_embeds": torch.zeros(3, 2, 4)}
    same, alike = other_reading(inputs)
    assert same.keys() == inputs.keys()
    assert alike.tolist() == [False] * 3


def test_a_teacher_that_changes_or_reads_labels_has_no_answers_to_record():
    with pytest.raises(CacheError, match="EMATeacher changes as it goes: there is nothing to record"):
        print_of(EMATeacher())
    trusted = ModelTeacher(make_bert(1))
    assert print_of(trusted) == trusted.fingerprint()
    trusted.wants_labels = True
    with pytest.raises(CacheError, match="answers of this ModelTeacher depend on the gold labels"):
        print_of(trusted)
