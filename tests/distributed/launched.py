"""`accelerate launch`, as a shell starts it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
GLOO_THREADS = """
def threads():
    from pathlib import Path
    return sum("gloo" in one.read_text() for one in Path("/proc/self/task").glob("*/comm"))
"""
"""Code for a process that is started: how many of its threads are gloo's; 0 where there is no /proc."""


def launch(*arguments: str, kind="--multi_gpu", options=None, **environment) -> subprocess.CompletedProcess:
    """`accelerate launch` of two processes on CPU; its --cpu option would start one, whatever it is told."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "PYTEST_"))},
        "ACCELERATE_USE_CPU": "true",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    options = {"num_machines": 1, "num_processes": 2, "main_process_port": port, **(options or {})}
    options |= {"mixed_precision": "no", "dynamo_backend": "no"}
    command = [sys.executable, "-m", "accelerate.commands.launch", kind]
    command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return subprocess.run(
        [*command, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=800
    )
