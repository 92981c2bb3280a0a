"""What happens when a process of several ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LEAVING = """
import atexit
from torch import distributed
from hfdistill.trainer.batches import end_in_order

atexit.register(lambda: print("initialized at the end:", distributed.is_initialized()))  # runs after ours
{group}
end_in_order()
end_in_order()
{early}
"""
GROUP = "distributed.init_process_group('gloo', store=distributed.HashStore(), rank=0, world_size=1)"


@pytest.mark.parametrize(
    ("group", "early"), [(GROUP, ""), (GROUP, "distributed.destroy_process_group()"), ("", "")]
)
def test_a_process_group_of_gloo_is_ended_before_python_is(group, early):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", LEAVING.format(group=group, early=early)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "initialized at the end: False"), done.stderr


def test_without_it_the_group_lasts_to_the_end():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    script = LEAVING.format(
        group=GROUP,
        early="from hfdistill.trainer.batches import _end_gloo; atexit.unregister(_end_gloo)",
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "initialized at the end: True"
