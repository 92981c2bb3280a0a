"""The index finds the rows that a dictionary of keys finds, however they are added, in little memory."""

import numpy as np
import pytest

from hfdistill.teachers.cache import index
from hfdistill.teachers.cache.index import Index
from hfdistill.teachers.cache.keys import KEY_BYTES


@pytest.fixture(autouse=True)
def short_runs(monkeypatch):
    monkeypatch.setattr(index, "ROWS_IN_MEMORY", 100)
    monkeypatch.setattr(index, "_RUNS_AT_ONCE", 4)


def drawn(rows, seed=0, high=256):
    return np.random.default_rng(seed).integers(0, high, (rows, KEY_BYTES), dtype=np.uint8)


@pytest.mark.parametrize(
    "blocks", [[1], [31, 1, 32], [3000], [40] * 60, [700, 1, 1, 300, 5, 90, 1], [0, 8, 0]]
)
def test_every_key_is_found_at_its_place_and_no_other(tmp_path, blocks):
    keys, at_once, one_by_one = drawn(sum(blocks)), Index(tmp_path), Index(tmp_path)
    parts = np.split(keys, np.cumsum(blocks)[:-1])
    at_once.add(parts)
    for part in parts:
        one_by_one.add([part])
    order = np.random.default_rng(1).permutation(len(keys))
    for made in (at_once, one_by_one):
        assert len(made) == len(keys)
        assert np.array_equal(made.find(keys[order]), order)
        assert (made.find(drawn(500, seed=2)) == -1).all()
        assert len(made._runs) <= 1 + np.log2(len(keys))
    assert not list(tmp_path.iterdir())  # the files have no name


@pytest.mark.parametrize("ends", [0, 255])
def test_keys_at_the_ends_and_with_equal_halves(tmp_path, ends):
    keys = drawn(20, high=2) * 255  # few values of each byte
    keys[:2] = ends
    keys[1, -1] = 7  # as the first in its first 8 bytes
    made = Index(tmp_path)
    made.add([keys])
    assert np.array_equal(made.find(keys), np.arange(20))


def test_an_empty_index_finds_nothing(tmp_path):
    made = Index(tmp_path)
    made.add([])
    assert made.find(drawn(3)).tolist() == [-1] * 3
    assert made.find(drawn(0)).tolist() == []


def test_a_folder_that_cannot_be_written_to_is_done_without(tmp_path):
    keys, made = drawn(1000), Index(tmp_path / "not there")
    made.add([keys])
    assert np.array_equal(made.find(keys), np.arange(1000))


def test_a_system_that_reads_at_no_offset_seeks_first(tmp_path, monkeypatch):
    keys, made = drawn(1000), Index(tmp_path)
    made.add([keys])
    monkeypatch.delattr(index.os, "pread")
    assert np.array_equal(made.find(keys[::-1]), np.arange(1000)[::-1])
