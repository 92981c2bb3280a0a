"""The loops of the table of faults at full length: `pytest -m slow tests/faults/test_long_loops.py`."""

import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hfdistill import CheckpointError
from hfdistill.cli import main
from hfdistill.files.checkpoint import newest_complete, verify
from tests.distributed.launched import launch
from tests.faults import trained
from tests.forked import in_child, needs_fork
from tests.recipe import material

pytestmark = pytest.mark.slow
KILLS, KILLS_OF_TWO = 150, 50


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing happened to, and the seconds that it took."""
    folder, began = tmp_path_factory.mktemp("whole"), time.monotonic()
    assert in_child(lambda: trained.run(folder)) == 0
    return folder, time.monotonic() - began


def last_weights(folder):
    return load_file(folder / f"checkpoint-{trained.STEPS}" / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def newest_step(folder):
    newest = newest_complete(folder)
    return 0 if newest is None else int(newest.name.rpartition("-")[2])


@needs_fork
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_c1_killed_at_random_moments(whole, tmp_path):
    """Each run is killed, and ends at the same bytes when it is started again."""
    dice, (folder, seconds) = random.Random(16), whole
    steps = []
    for trial in range(KILLS):
        run = tmp_path / str(trial)
        pid = os.fork()
        if pid == 0:
            torch.set_num_threads(1)
            try:
                trained.run(run)
            finally:
                os._exit(0)
        begun = run / f"checkpoint-{dice.randrange(trained.STEPS)}"  # of 0 there is none: from the start on
        waited = 0
        while not begun.exists() and begun.name != "checkpoint-0" and waited < 60_000:
            time.sleep(0.001)
            waited += 1
        time.sleep(dice.uniform(0, seconds / trained.STEPS))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        steps.append(newest_step(run))
        assert in_child(lambda: trained.run(run)) == 0  # noqa: B023
        assert same(last_weights(run), last_weights(folder)), trial
        shutil.rmtree(run)
    print(f"{KILLS} of {KILLS} resumed; went on from step: {sorted(steps)}")
    assert len(set(steps)) > trained.STEPS - 2, "the moments are not spread over the run"


@pytest.mark.distributed
@pytest.mark.timeout(7200)  # each trial starts two launches
def test_c1_two_processes_killed_at_random_moments(tmp_path):
    """The launcher and its two processes are killed at one moment, as a machine that stops does it."""
    dice = random.Random(17)
    assert launch("-m", "tests.faults.trained", str(tmp_path / "whole")).returncode == 0
    words = "from tests.distributed.launched import launch; import sys; launch(*sys.argv[1:])"
    steps = []
    for trial in range(KILLS_OF_TWO):
        run = tmp_path / str(trial)
        command = [sys.executable, "-c", words, "-m", "tests.faults.trained", str(run)]
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
        begun, end = run / f"checkpoint-{dice.randrange(1, trained.STEPS)}", time.monotonic() + 120
        while not begun.exists() and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(dice.uniform(0, 0.2))
        for pid in processes_of(run):
            os.kill(pid, signal.SIGKILL)
        process.wait()
        steps.append(newest_step(run))
        done = launch("-m", "tests.faults.trained", str(run))
        assert done.returncode == 0, done.stderr[-3000:]
        assert same(last_weights(run), last_weights(tmp_path / "whole")), trial
        shutil.rmtree(run)
    print(f"{KILLS_OF_TWO} of {KILLS_OF_TWO} resumed; went on from step: {sorted(steps)}")


CHAIN = """teacher: {finetune: {encoder: encoder, epochs: 2}}
student:
  shrink: {layers: 2}
data: two
objective: [{cross_entropy: {weight: 0.5}}, {kd: {weight: 0.5, temperature: 4}}]
teacher_cache: out/answers
training:
  output_dir: out
  num_train_epochs: 2
  per_device_train_batch_size: 16
  save_strategy: steps
  save_steps: 2
  seed: 3
  use_cpu: true
  disable_tqdm: true
measure: {speed: false, baseline: true}
"""
EXPORT = "export: {int8: dynamic}\n"


def made_by(command, folder):
    """What `hfdistill train` leaves in a folder: weights, states, answers, exports, the report."""
    work = functools.partial(run_command, command, folder)
    assert in_child(work) == 0
    out, kinds = folder / "out", (".safetensors", ".pt", ".pth", ".onnx", ".yaml")
    made = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.suffix in kinds}
    report = json.loads((out / "student" / "report.json").read_text())
    report["environment"].pop("date")
    return {**made, "report": report}


def run_command(command, folder):
    os.chdir(folder)
    with (folder / "log.txt").open("a") as log, redirect_stdout(log), redirect_stderr(log):
        assert main(command) == 0


@needs_fork
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("page", "kills"), [(CHAIN, 25), (CHAIN + EXPORT, 5)], ids=["", "exported"])
def test_c1_a_whole_chain_killed_at_random_moments(tmp_path, monkeypatch, dots, page, kills):
    """Teacher, recording, student, baseline, report (and export): the same command ends at the same bytes."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    things = material.make(tmp_path / "things")

    def here(name):
        (folder := tmp_path / name).mkdir()
        for path in things.iterdir():
            (folder / path.name).symlink_to(path)
        (folder / "page.yaml").write_text(page)
        return folder

    command, began = ["train", "page.yaml"], time.monotonic()
    whole = made_by(command, here("whole"))
    seconds, dice, stages = time.monotonic() - began, random.Random(18), []
    for trial in range(kills):
        folder = here(str(trial))
        pid = os.fork()
        if pid == 0:
            torch.set_num_threads(1)
            try:
                run_command(command, folder)
            finally:
                os._exit(0)
        time.sleep(dice.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        done = ("teacher", "answers", "student", "baseline", "student/report.json")
        stages.append(sum((folder / "out" / name).exists() for name in done))
        made = made_by(command, folder)
        assert made.keys() == whole.keys(), trial
        assert [name for name in whole if made[name] != whole[name]] == [], trial
        shutil.rmtree(folder)
    print(f"{kills} of {kills} ended at the same bytes; killed in stage: {sorted(stages)}")
    assert len(set(stages)) > min(3, kills // 4), "the moments are not spread over the chain"


def processes_of(folder):
    """The processes that this test has started for a folder: its name is among their words."""
    own, found = str(folder).encode(), []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if own in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return [pid for pid in found if pid != os.getpid()]


@pytest.mark.distributed
def test_c14_a_process_of_two_that_dies_ends_the_launch(tmp_path):
    began = time.monotonic()
    done = launch("-m", "tests.faults.trained", str(tmp_path), "dies")
    assert done.returncode != 0
    assert time.monotonic() - began < 60
    before = newest_step(tmp_path)
    assert before == 2
    assert launch("-m", "tests.faults.trained", str(tmp_path)).returncode == 0
    assert newest_step(tmp_path) == trained.STEPS


def changed(content, kind, dice):
    """Content with one bit flipped, cut short, or with a block of zeros."""
    content = bytearray(content)
    at = dice.randrange(len(content))
    if kind == "cut":
        return bytes(content[:at])
    if kind == "bit":
        content[at] ^= 1 << dice.randrange(8)
    else:
        content[at : at + 512] = bytes(len(content[at : at + 512]))
    return bytes(content)


@pytest.mark.parametrize(("kind", "count"), [("bit", 10_000), ("cut", 1_000), ("block", 1_000)])
def test_c7_c8_no_damage_of_a_checkpoint_is_read(whole, tmp_path, kind, count):
    dice, folder = random.Random(kind), tmp_path / "checkpoint-6"
    shutil.copytree(whole[0] / "checkpoint-6", folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    contents, tried = {path: path.read_bytes() for path in files}, 0
    while tried < count:
        path = dice.choice(files)
        bad = changed(contents[path], kind, dice)
        if bad == contents[path]:
            continue
        path.write_bytes(bad)
        began = time.monotonic()
        with pytest.raises(CheckpointError):
            verify(folder)
        assert time.monotonic() - began < 5
        path.write_bytes(contents[path])
        tried += 1
    verify(folder)


def test_twenty_fresh_processes_write_the_same_bytes(tmp_path):
    """One seed, one thread: weights, recorded answers and states of the optimizer are the same."""
    command = [sys.executable, "-m", "tests.faults.trained"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    seen = []
    for number in range(20):
        folder = tmp_path / str(number)
        subprocess.run(
            [*command, str(folder), "records"], check=True, env=environment, cwd=Path(__file__).parents[2]
        )
        files = [p for p in folder.rglob("*") if p.suffix in (".safetensors", ".pt") and p.is_file()]
        seen.append({str(path.relative_to(folder)): path.read_bytes() for path in files})
        shutil.rmtree(folder)
    assert any("shard" in name for name in seen[0])
    assert all(other == seen[0] for other in seen[1:])
