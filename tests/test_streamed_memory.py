"""Memory does not grow with the rows of a recording. Slow (half a CPU minute): `-m slow`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_memory_does_not_grow_with_the_rows(tmp_path):
    """Keys and logits of four million rows more are 100 MB, and took 230 as tensors and a sorted table."""
    command = [sys.executable, "-m", "tests.benchmarks.rows", "--out", str(tmp_path), "--steps", "200"]
    command += ["--sizes", "20000", "--simulated", "1000000", "5000000"]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    names = ("measured-20000", "simulated-1000000", "simulated-5000000")
    measured, small, large = (json.loads((tmp_path / f"{name}.json").read_text()) for name in names)
    assert measured["stored"] == 20_000
    assert large["open"]["more_mb"] < small["open"]["more_mb"] + 40
    assert large["open"]["peak_mb"] < small["open"]["peak_mb"] + 40
    assert max(result["lookup_ms"]["median"] for result in (measured, small, large)) < 1
