"""Two processes give what one gives, for numbers of rows that divide and that do not."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.distributed import worker

ROOT = Path(__file__).parents[2]


def launch(processes: int, *arguments: str, timeout: int = 240) -> subprocess.CompletedProcess:
    """`accelerate launch` on CPU; its --cpu option would start one process whatever it is told."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    several = ["--multi_gpu", "--num_processes", str(processes), "--main_process_port", str(port)]
    one = ["--num_processes", "1"]
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "PYTEST_"))},
        "ACCELERATE_USE_CPU": "true",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *(several if processes > 1 else one),
        "--num_machines",
        "1",
    ]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", *arguments]
    return subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    found = {}
    for processes in (1, 2):
        folder = tmp_path_factory.mktemp(f"processes-{processes}")
        done = launch(processes, "-m", "tests.distributed.worker", str(folder), str(processes))
        assert done.returncode == 0, done.stderr[-3000:]
        found[processes] = (
            load_file(folder / "tensors.safetensors"),
            json.loads((folder / "facts.json").read_text()),
        )
    return found


CASES = [f"{rows} {kind}" for rows, kind in worker.CASES]


@pytest.mark.distributed
@pytest.mark.parametrize("case", CASES)
def test_gradients_and_weights_are_those_of_one_process(outcomes, case):
    one, two = outcomes[1][0], outcomes[2][0]
    names = [name for name in one if name.startswith(case)]
    assert sorted(names) == sorted(name for name in two if name.startswith(case))
    assert len(names) == 3
    for name in names:
        error = ((one[name].double() - two[name].double()).norm() / one[name].double().norm()).item()
        assert error <= 1e-6, name


@pytest.mark.distributed
@pytest.mark.parametrize("case", CASES)
def test_evaluation_and_logged_parts_are_those_of_one_process(outcomes, case):
    one, two = outcomes[1][1][case], outcomes[2][1][case]
    assert two["eval_rows"] == one["eval_rows"] == int(case.split()[0])
    assert two["eval_loss"] == pytest.approx(one["eval_loss"], rel=1e-6)
    assert len(one["parts"]) == len(two["parts"]) == 2
    for alone, together in zip(one["parts"], two["parts"], strict=True):
        assert together == pytest.approx(alone, rel=1e-6, abs=1e-6)
        assert together["loss"] == pytest.approx(sum(v for k, v in together.items() if k != "loss"), rel=1e-6)


@pytest.mark.distributed
def test_a_resumed_run_is_the_straight_one(outcomes):
    assert outcomes[1][1]["resumed exactly"]
    assert outcomes[2][1]["resumed exactly"]


@pytest.mark.distributed
def test_processes_mix_rows_of_their_own_and_end_with_the_same_weights(outcomes):
    one, two = outcomes[1][1]["mixtures"], outcomes[2][1]["mixtures"]
    assert len(two["weights"]) == 2
    assert two["weights"][0] == two["weights"][1]
    first, second = two["shares"]
    assert len(first) == len(second) == 3  # 24 rows, 4 on each of 2 processes
    assert all(a != b for a, b in zip(first, second, strict=True))
    alone, together = one["first"], two["first"]  # other mixtures, and the same rows, which alone have labels
    assert together["loss_cross_entropy"] == pytest.approx(alone["loss_cross_entropy"], rel=1e-6)
    assert together["loss_kd"] != alone["loss_kd"]
