"""Fresh processes: nothing of the package or of Transformers is imported in them, and hashes are others."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

KEEPER = """
import atexit, gc, json, os, sys
gc.set_threshold(50_000, 20, 20)
# What Transformers and datasets import in any case
import jinja2, pandas, psutil, regex, requests, scipy.optimize, sklearn.metrics, torch._dynamo
import torch.distributed.fsdp, torch.nn.parallel, yaml

assert not {"hfdistill", "transformers", "datasets", "accelerate", "huggingface_hub"} & sys.modules.keys()
gc.freeze()
atexit.register(gc.freeze)  # runs last: a process that ends would look for garbage among all its modules
for line in sys.stdin:
    code, words, folder, environment, outputs = json.loads(line)
    child = os.fork()
    if not child:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        for number, path in enumerate(outputs, start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
        sys.argv = ["-c", *words]
        exec(code, {"__name__": "__main__"})
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Starts once, and forks a process for each piece of code: to import PyTorch takes as long as the rest."""


@pytest.fixture(scope="session")
def fresh():
    """Run code as `python -c CODE WORDS` does, in a folder, and give what a `subprocess.run` gives."""
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    everything = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}

    def run(code, *words, cwd, environment=everything):
        with TemporaryDirectory() as folder:
            outputs = [Path(folder, name) for name in ("out", "err")]
            task = code, words, str(cwd), environment, [str(path) for path in outputs]
            print(json.dumps(task), file=keeper.stdin, flush=True)
            status = int(keeper.stdout.readline())
            return subprocess.CompletedProcess(words, status, *(path.read_text() for path in outputs))

    with subprocess.Popen(
        [sys.executable, "-c", KEEPER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**everything, "PYTHONHASHSEED": "5"},
    ) as keeper:
        yield run
