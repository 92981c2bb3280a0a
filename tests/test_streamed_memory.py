"""Memory does not grow with the rows that are recorded and learned from. Slow (2 CPU minutes): `-m slow`."""

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
    """Thirty times the rows, with keys of 24 bytes and logits of 8: held in memory, they would take 20 MB."""
    command = [sys.executable, "-m", "tests.benchmarks.rows", "--out", str(tmp_path), "--steps", "200"]
    command += ["--sizes", "20000", "600000", "--simulated", "3000000"]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    small, large, simulated = (
        json.loads((tmp_path / f"{name}.json").read_text())
        for name in ("measured-20000", "measured-600000", "simulated-3000000")
    )
    assert large["stored"] > 20 * small["stored"]
    assert large["train"]["peak_mb"] < small["train"]["peak_mb"] + 30
    assert simulated["open"]["peak_mb"] < 60  # 24 bytes a row alone are 72
    assert max(large["lookup_ms"]["median"], simulated["lookup_ms"]["median"]) < 1
