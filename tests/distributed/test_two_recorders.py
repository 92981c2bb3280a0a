"""Two processes record what one records, and share the work."""

import json

import pytest
from safetensors.torch import load_file

from tests.conftest import make_dataset
from tests.distributed.test_two_processes import launch
from tests.teachers.cache.cached import digests, shards


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    found = {}
    for processes in (1, 2):
        folder = tmp_path_factory.mktemp(f"processes-{processes}")
        done = launch(processes, "-m", "tests.distributed.recorder", str(folder), str(processes))
        assert done.returncode == 0, done.stderr[-3000:]
        found[processes] = (folder, json.loads((folder / "facts.json").read_text()))
    return found


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
