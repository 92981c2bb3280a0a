"""Two processes record what one records, and share the work."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import make_dataset
from tests.teachers.cache.cached import digests, shards


@pytest.fixture(scope="module")
def outcomes(folders):
    recorded = {processes: folder / "recording" for processes, folder in folders.items()}
    return {n: (folder, json.loads((folder / "facts.json").read_text())) for n, folder in recorded.items()}


@pytest.mark.distributed
def test_two_processes_record_the_same_bytes_and_share_the_work(outcomes):
    (one, alone), (two, together) = outcomes[1], outcomes[2]
    for kind in ("answers", "alone"):
        assert digests(one / kind) == digests(two / kind)
    assert len(shards(one / "answers")) >= 2
    distinct = len(set(make_dataset(21)["text"]))
    assert alone["asked"] == [distinct]
    assert sum(together["asked"]) == distinct
    assert alone["rows"] == together["rows"] == len(set(make_dataset(32)["text"]))


@pytest.mark.distributed
def test_a_cached_run_on_two_processes_is_that_of_one(outcomes):
    one, two = (load_file(outcomes[n][0] / "tensors.safetensors")["weights"].double() for n in (1, 2))
    assert ((one - two).norm() / one.norm()).item() <= 1e-6


@pytest.mark.distributed
def test_processes_that_see_no_common_folder_are_told_to_copy_one(outcomes):
    one, two = outcomes[1][0], outcomes[2][0]
    assert (one / "apart-0.txt").read_text() == ""  # one process has no other to share with
    for rank in range(2):
        message = (two / f"apart-{rank}.txt").read_text()
        assert "is not one folder for all 2 processes (1 of them see" in message
        assert "copy the folder to the others" in message
    copied, shared = (load_file(two / f"{name}.safetensors")["weights"] for name in ("apart", "tensors"))
    assert torch.equal(copied, shared)
