import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from datasets import Dataset
from torch.utils.data import DataLoader

from hfdistill.data import LengthGroupedSampler, row_lengths


def make_lengths(rows: int, *, seed: int = 0) -> list[int]:
    """Many short rows, few long ones."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(rows, generator=generator) ** 3 * 60 + 3).long().tolist()


def order_of(sampler: LengthGroupedSampler, epoch: int) -> list[int]:
    sampler.set_epoch(epoch)
    return list(sampler)


def padding(order: list[int], lengths: list[int], batch: int) -> float:
    batches = [[lengths[i] for i in order[at : at + batch]] for at in range(0, len(order), batch)]
    return sum(max(found) * len(found) for found in batches) / sum(lengths)


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 100, 5003])
@pytest.mark.parametrize("group_size", [1, 8])
def test_every_row_comes_exactly_once(rows, group_size):
    sampler = LengthGroupedSampler(make_lengths(rows), group_size=group_size, seed=3)
    for epoch in range(3):
        assert sorted(order_of(sampler, epoch)) == list(range(rows))
    assert len(sampler) == rows


@pytest.mark.parametrize("options", [{"lengths": make_lengths(300)}, {"lengths": None, "size": 300}])
def test_order_is_a_function_of_seed_and_epoch_alone(options):
    fresh = [order_of(LengthGroupedSampler(**options, group_size=8, seed=1), epoch) for epoch in range(4)]
    walked = LengthGroupedSampler(**options, group_size=8, seed=1)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert [order_of(walked, epoch) for epoch in (3, 1, 0, 2)] == [fresh[i] for i in (3, 1, 0, 2)]
    assert list(walked) == list(walked) == fresh[2]
    assert torch.equal(torch.get_rng_state(), before)
    others = [order_of(LengthGroupedSampler(**options, group_size=8, seed=seed), 0) for seed in (0, 2, 3)]
    assert len({tuple(order) for order in fresh + others}) == 7


def test_the_order_is_fixed_across_versions():
    sampler = LengthGroupedSampler([3, 9, 4, 8, 2, 7, 5], group_size=2, seed=0)
    assert [order_of(sampler, epoch) for epoch in (0, 1)] == [[1, 2, 0, 4, 3, 5, 6], [1, 5, 2, 0, 3, 4, 6]]


def test_an_iterator_keeps_its_epoch_when_the_next_one_is_set():
    sampler = LengthGroupedSampler(make_lengths(64), group_size=8, seed=0)
    expected = list(sampler)
    running = iter(sampler)
    first = next(running)
    sampler.set_epoch(1)
    assert [first, *running] == expected


def test_a_window_does_not_depend_on_how_it_is_split():
    lengths = make_lengths(200)
    order = LengthGroupedSampler(lengths, group_size=16, seed=0)

    def windows(batch):
        batches = list(DataLoader(range(200), batch_size=batch, sampler=order))
        step = 16 // batch
        return [torch.cat(batches[at : at + step]).tolist() for at in range(0, len(batches), step)]

    assert windows(16) == windows(8) == windows(4)


def test_groups_are_tight_and_shuffled():
    lengths = make_lengths(6400)
    order = list(LengthGroupedSampler(lengths, group_size=32, seed=0))
    assert padding(list(LengthGroupedSampler(None, size=6400, group_size=32, seed=0)), lengths, 32) > 2.5
    assert padding(order, lengths, 32) < 1.1
    assert padding(order, lengths, 8) < padding(order, lengths, 32)
    means = torch.tensor([lengths[i] for i in order], dtype=torch.float64).view(-1, 32).mean(1)[1:]
    assert abs(torch.corrcoef(torch.stack([means[:-1], means[1:]]))[0, 1].item()) < 0.2
    first = {frozenset(order[at : at + 32]) for at in range(0, 6400, 32)}
    sampler = LengthGroupedSampler(lengths, group_size=32, seed=0)
    second = order_of(sampler, 1)
    assert not first & {frozenset(second[at : at + 32]) for at in range(0, 6400, 32)}


def test_small_data_is_not_sorted_as_a_whole():
    lengths = list(range(80))
    spreads = []
    order = list(LengthGroupedSampler(lengths, group_size=10, seed=0))
    for at in range(0, 80, 10):
        found = [lengths[i] for i in order[at : at + 10]]
        spreads.append(max(found) - min(found))
    assert min(spreads) > 9


@pytest.mark.parametrize("epoch", range(5))
@pytest.mark.parametrize("longest", [0, 500, 1002])
def test_the_longest_row_opens_the_epoch(epoch, longest):
    lengths = make_lengths(1003)
    lengths[longest] = 500
    sampler = LengthGroupedSampler(lengths, group_size=8, seed=0)
    assert order_of(sampler, epoch)[0] == longest


def test_the_tail_is_neither_the_longest_nor_the_shortest_rows():
    lengths = make_lengths(1003)
    sampler = LengthGroupedSampler(lengths, group_size=16, seed=0)
    tails = [order_of(sampler, epoch)[-(1003 % 16) :] for epoch in range(60)]
    assert len({row for tail in tails for row in tail}) > 300
    mean = sum(lengths) / len(lengths)
    tail_mean = sum(lengths[row] for tail in tails for row in tail) / sum(map(len, tails))
    assert tail_mean == pytest.approx(mean, rel=0.1)


def test_rows_of_equal_length_are_mixed():
    order = list(LengthGroupedSampler([5] * 100, group_size=10, seed=0))
    assert sorted(order) == list(range(100))
    assert not any(order[at : at + 10] == sorted(order[at : at + 10]) for at in range(0, 100, 10))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lengths": None, "group_size": 2, "seed": 0}, "found neither"),
        ({"lengths": [1], "size": 1, "group_size": 2, "seed": 0}, "found both"),
        ({"lengths": [1], "group_size": 0, "seed": 0}, "found 0 and 0"),
        ({"lengths": [1], "group_size": 1, "seed": -1}, "found 1 and -1"),
        ({"lengths": [4, -2], "group_size": 1, "seed": 0}, "Row 1 has length -2"),
    ],
)
def test_misuse_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        LengthGroupedSampler(**options)


class Streamed:
    """Counts its reads, of which there must be none."""

    reads = 0

    def __len__(self):
        return 3

    def __getitem__(self, i):
        self.reads += 1
        return {"input_ids": [1] * i}


def test_row_lengths_reads_what_can_be_read_without_running_the_dataset():
    rows = [{"input_ids": [1] * n, "tokens": n + 100} for n in (3, 1, 2)]
    data = Dataset.from_list(rows)
    assert row_lengths(data) == row_lengths(rows) == row_lengths(data.with_format("torch")) == [3, 1, 2]
    assert row_lengths(data, column="tokens") == row_lengths(rows, column="tokens") == [103, 101, 102]
    assert row_lengths(data.remove_columns("input_ids")) is None
    assert row_lengths([]) is None
    assert row_lengths([{"text": "a"}]) is None
    assert row_lengths(iter(rows)) is None
    assert row_lengths(data.to_iterable_dataset()) is None
    assert row_lengths(data.with_transform(lambda batch: batch)) is None
    streamed = Streamed()
    assert row_lengths(streamed) is None
    assert streamed.reads == 0


def test_row_lengths_follow_select_shuffle_and_filter():
    data = Dataset.from_dict({"input_ids": [[1] * n for n in range(50)]})
    for view in (
        data.select([7, 3, 3]),
        data.shuffle(seed=1),
        data.filter(lambda row: len(row["input_ids"]) % 2),
    ):
        assert row_lengths(view) == [len(ids) for ids in view["input_ids"]]


def test_row_lengths_names_rows_without_ids():
    data = Dataset.from_dict({"input_ids": [[1], None, [2]]})
    with pytest.raises(ValueError, match=r"1 of 3 rows have no 'input_ids' \(first rows \[1\]\)"):
        row_lengths(data)


def make_loader(sampler, *, processes):
    loader = DataLoader(range(len(sampler)), batch_size=4, sampler=sampler)
    if processes == 1:
        return Accelerator(cpu=True).prepare(loader)
    return prepare_data_loader(loader, num_processes=processes, process_index=1, put_on_device=False)


@pytest.mark.parametrize("processes", [1, 2])
def test_accelerate_set_epoch_reaches_the_sampler(processes):
    sampler = LengthGroupedSampler(make_lengths(64), group_size=16, seed=0)
    loader = make_loader(sampler, processes=processes)
    loader.set_epoch(3)
    assert sampler.epoch == 3
    rows = torch.cat(list(loader)).tolist()
    windows = [order_of(sampler, 3)[at : at + 4] for at in range(0, 64, 4)]
    mine = windows if processes == 1 else windows[1::2]
    assert rows == [row for window in mine for row in window]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_skipping_loader_goes_on_where_the_unbroken_one_was(processes):
    """On two processes accelerate's `set_epoch` stops short of a sampler under a skipping loader: set it."""
    unbroken = LengthGroupedSampler(make_lengths(64), group_size=16, seed=0)
    loader = make_loader(unbroken, processes=processes)
    loader.set_epoch(2)
    expected = torch.cat(list(loader)[3:]).tolist()
    resumed = LengthGroupedSampler(make_lengths(64), group_size=16, seed=0)
    skipping = skip_first_batches(make_loader(resumed, processes=processes), 3)
    skipping.set_epoch(2)
    assert resumed.epoch == (2 if processes == 1 else 0)
    resumed.set_epoch(2)
    assert torch.cat(list(skipping)).tolist() == expected
