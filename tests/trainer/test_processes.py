"""What happens when a process of several ends."""

import json
import os
from pathlib import Path

import pytest

from hfdistill.trainer import process_end
from tests.distributed.launched import GLOO_THREADS, ROOT

GROUP = "distributed.init_process_group('gloo', store=distributed.HashStore(), rank=0, world_size=1)"
ENDS = {
    "a group": f"{GROUP}; end_in_order(Trained()); end_in_order(Trained())",
    "a group that is ended before": f"{GROUP}; end_in_order(Trained()); distributed.destroy_process_group()",
    "no group": "end_in_order(Trained()); end_in_order(Trained())",
    "a trainer that lives to the end": f"{GROUP}; trainer = Trained(); trainer.wrap(); end_in_order(trainer)",
    "a trainer in a cycle": f"{GROUP}; trainer = Trained(); trainer.wrap(); end_in_order(trainer); "
    "trainer.itself = trainer; del trainer",
    "without ours": f"{GROUP}; trainer = Trained(); trainer.wrap(); end_in_order(trainer); "
    "atexit.unregister(process_end.end_gloo)",
}
LEAVING = """
import atexit, gc, importlib.util, json, os, sys
import torch
from torch import distributed, nn

spec = importlib.util.spec_from_file_location("process_end", sys.argv[2])  # without the rest of the package
process_end = importlib.util.module_from_spec(spec)
spec.loader.exec_module(process_end)
end_in_order = process_end.end_in_order


class Trained:  # what a Trainer and its Accelerator hold of a model on several processes
    def __init__(self):
        self.model, self.accelerator = nn.Linear(2, 2), self

    def wrap(self):
        self.model_wrapped = nn.parallel.DistributedDataParallel(self.model)
        self.models = [self.model_wrapped]
        self.model_wrapped(torch.ones(1, 2)).sum().backward()

    def free_memory(self):
        self.models = []


gc.freeze()  # what the imports made, for which every child would look for garbage twice as it ends
for name, code in json.loads(sys.argv[1]).items():
    child = os.fork()
    if not child:  # what is registered first runs last
        atexit.register(lambda: print(name, "leaves a group:", distributed.is_initialized(), flush=True))
        atexit.register(lambda: print(name, "leaves threads:", threads(), flush=True))
        exec(code, globals())
        sys.exit()
    print(name, "ended with", os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def printed(fresh):
    words, environment = (json.dumps(ENDS), process_end.__file__), {**os.environ, "WORLD_SIZE": "2"}
    done = fresh(GLOO_THREADS + LEAVING, *words, cwd=ROOT, environment=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", [name for name in ENDS if name != "without ours"])
def test_a_process_group_of_gloo_is_ended_before_python_is(printed, name):
    assert f"{name} leaves a group: False" in printed
    assert f"{name} ended with 0" in printed


def test_without_it_the_group_and_its_threads_last_to_the_end(printed):
    assert "without ours leaves a group: True" in printed
    if Path("/proc/self/task").is_dir():
        assert "without ours leaves threads: 0" not in printed


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
@pytest.mark.parametrize("name", [name for name in ENDS if name != "without ours"])
def test_its_threads_are_joined(printed, name):
    assert f"{name} leaves threads: 0" in printed
