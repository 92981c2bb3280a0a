"""The scripts in benchmarks/ that run on machines which the suite does not have: a dry run each."""

import json

import pytest
import torch

from tests.benchmarks import gpu


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_gpu_script_says_that_there_is_none(tmp_path):
    with pytest.raises(SystemExit, match=r"No GPU here .* Type --dry_run"):
        gpu.main(["--out", str(tmp_path / "gpu.json")])
    assert list(tmp_path.iterdir()) == []


def test_the_gpu_script_runs_dry(tmp_path, capsys):
    out = tmp_path / "gpu.json"
    gpu.main(["--dry_run", "--no_processes", "--rounds", "1", "--steps", "2", "--out", str(out)])
    found = json.loads(out.read_text())["contenders"]
    assert list(found) == list(gpu.CONTENDERS)
    assert all(len(one["seconds"]) == 1 and one["seconds"][0] > 0 for one in found.values())
    assert found[gpu.LIMIT]["reads"] > 0, "Trainer itself looks at its loss in each step"
    for name, one in found.items():
        assert one["waits"] == 0, name
        assert one["reads"] <= found["by hand"]["reads"], name
    table = out.with_suffix(".md").read_text()
    assert table in capsys.readouterr().out
    assert table.startswith("no GPU: a dry run on the CPU, torch ")
    assert "FSDP2 on one rank, live: - samples/s." in table


@pytest.mark.slow
@pytest.mark.parametrize("name", gpu.COMPILED)
def test_compiled_contenders_run_dry_in_processes_of_their_own(tmp_path, name):
    out = tmp_path / "one.json"
    words = ["--dry_run", "--one", name, "--compile", "--steps", "2", "--out", str(out)]
    gpu.main(words)
    assert json.loads(out.read_text())["seconds"][0] > 0
