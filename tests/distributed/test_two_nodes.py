"""Two nodes, each with an `accelerate launch` of its own, record and train as two processes of one do."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.launched import launch
from tests.teachers.cache.cached import digests


@pytest.mark.slow
@pytest.mark.distributed
def test_two_nodes_share_the_recording_of_a_teacher(folders, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    nodes = {"num_machines": 2, "num_processes": 2, "main_process_ip": "127.0.0.1", "main_process_port": port}

    def start(rank):
        words = ("-m", "tests.distributed.recorder", str(tmp_path), "2")
        return launch(*words, options={**nodes, "machine_rank": rank})

    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(start, range(2)):
            assert done.returncode == 0, done.stderr[-3000:]
    two = folders[2] / "recording"
    assert digests(tmp_path / "answers") == digests(two / "answers")
    one, other = (load_file(folder / "tensors.safetensors")["weights"] for folder in (tmp_path, two))
    assert torch.equal(one, other)
    facts, before = (json.loads((folder / "facts.json").read_text()) for folder in (tmp_path, two))
    assert sum(facts["asked"]) == sum(before["asked"])
    assert min(facts["asked"]) > 0
    for rank in range(2):
        assert "is not one folder for all 2 processes" in (tmp_path / f"apart-{rank}.txt").read_text()
