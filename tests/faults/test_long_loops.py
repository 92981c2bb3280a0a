"""The loops of the table of faults at full length: `pytest -m slow tests/faults/test_long_loops.py`."""

import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

from hfdistill import CheckpointError
from hfdistill.cli import main
from hfdistill.files.checkpoint import newest_complete, verify
from tests.distributed.launched import launch
from tests.faults import trained
from tests.files.hub_server import HubServer, connected
from tests.forked import in_child, needs_fork, on_two_processes, two_started
from tests.recipe import material

pytestmark = pytest.mark.slow
KILLS, KILLS_OF_TWO = 150, 50
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing happened to, and its `pace`."""
    folder, began = tmp_path_factory.mktemp("whole"), time.time()
    assert in_child(lambda: trained.run(folder)) == 0
    return folder, pace(folder, began)


def pace(folder, began):
    """The seconds to each checkpoint from the one before, or from the start."""
    saved = [
        (folder / f"checkpoint-{n + 1}" / "hfdistill.json").stat().st_mtime for n in range(trained.STEPS)
    ]
    return [after - before for before, after in itertools.pairwise([began, *saved])]


def last_state(folder):
    """The files of the last checkpoint: weights, optimizer, schedule, random states."""
    folder = folder / f"checkpoint-{trained.STEPS}"
    named = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt"} <= named.keys()
    return {name: content for name, content in named.items() if not name.endswith(".json")}


def newest_step(folder):
    newest = newest_complete(folder)
    return 0 if newest is None else int(newest.name.rpartition("-")[2])


def killed(pids, run, dice, pace):
    """Kill the processes of a run after one of its checkpoints, or the start, and before the next."""
    saved = dice.randrange(trained.STEPS)
    end = time.monotonic() + 60
    while saved and not (run / f"checkpoint-{saved}").exists() and time.monotonic() < end:
        time.sleep(0.001)
    time.sleep(dice.uniform(0, pace[saved]))
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        os.waitpid(pid, 0)
    step = newest_step(run)
    assert step >= saved, "more than one save interval is lost"
    return step


@needs_fork
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_c1_killed_at_random_moments(whole, tmp_path):
    """Each run is killed, and ends at the same bytes when it is started again."""
    dice, (folder, seconds), steps = random.Random(16), whole, []
    for trial in range(KILLS):
        run = tmp_path / str(trial)
        pid = os.fork()
        if pid == 0:
            torch.set_num_threads(1)
            try:
                trained.run(run)
            finally:
                os._exit(0)
        steps.append(killed([pid], run, dice, seconds))
        assert in_child(lambda: trained.run(run)) == 0  # noqa: B023
        assert last_state(run) == last_state(folder), trial
        shutil.rmtree(run)
    print(f"{KILLS} of {KILLS} resumed; went on from step: {sorted(steps)}")
    assert len(set(steps)) > trained.STEPS - 2, "the moments are not spread over the run"


@needs_fork
@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_c1_two_processes_killed_at_random_moments(tmp_path):
    """Both processes are killed at one moment, as a machine that stops does it."""
    dice, whole, began = random.Random(17), tmp_path / "whole", time.time()
    on_two_processes(lambda: trained.run(whole), tmp_path)
    seconds, steps = pace(whole, began), []
    for trial in range(KILLS_OF_TWO):
        run = tmp_path / str(trial)
        pids = two_started(lambda: trained.run(run), tmp_path)  # noqa: B023
        steps.append(killed(pids, run, dice, seconds))
        on_two_processes(lambda: trained.run(run), tmp_path)  # noqa: B023
        assert last_state(run) == last_state(whole), trial
        print(f"kill {trial + 1} of {KILLS_OF_TWO}: resumed from step {steps[-1]}", flush=True)
        shutil.rmtree(run)
    assert len(set(steps)) > trained.STEPS - 2, "the moments are not spread over the run"


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
PUSH = "  push_to_hub: true\n  hub_model_id: me/small\n"
STAGES = ("teacher", "answers", "student", "baseline", "student/report.json")


def made_in(folder):
    """What `hfdistill train` has left in a folder: weights, states, answers, exports, the report."""
    out, kinds = folder / "out", (".safetensors", ".pt", ".pth", ".onnx", ".yaml")
    made = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.suffix in kinds}
    return {**made, "report": undated((out / "student" / "report.json").read_bytes())}


def undated(report):
    """A report without the one thing that differs."""
    report = json.loads(report)
    report["environment"].pop("date")
    return report


def published(hub):
    """What a Hub has of the student, but for dates."""
    with hub.lock:
        files = dict(hub.repositories.get("me/small", {}))
    if files:
        files["report.json"] = undated(files["report.json"])
        files["README.md"] = re.sub(rb"\d{4}-\d\d-\d\d", b"", files["README.md"])
    return files


def run_page(folder):
    os.chdir(folder)
    with (folder / "log.txt").open("a") as log, redirect_stdout(log), redirect_stderr(log):
        assert main(["train", "page.yaml"]) == 0


@contextmanager
def running(folder, *, dies=False):
    """`hfdistill train` in a child, which may be killed, or has to be."""
    pid = os.fork()
    if pid == 0:
        torch.set_num_threads(1)
        try:
            run_page(folder)
        finally:
            os._exit(0)
    yield pid
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or not dies


@pytest.fixture
def started(tmp_path, monkeypatch, dots):
    """Make folders with a page, and the things that it names."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    things = material.make(tmp_path / "things")

    def start(name, page):
        (folder := tmp_path / name).mkdir()
        for path in things.iterdir():
            (folder / path.name).symlink_to(path)
        (folder / "page.yaml").write_text(page)
        return folder

    return start


# the second is of huggingface_hub 2.4
FORKED = ("ignore:This process:DeprecationWarning", "ignore:Use 'content=:DeprecationWarning")
PUSHED = CHAIN.replace("measure:", PUSH + "measure:")
PAGES = {"": (CHAIN, 25), "exported": (CHAIN + EXPORT, 5), "pushed": (PUSHED, 10)}


@needs_fork
@pytest.mark.filterwarnings(*FORKED)
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("page", "kills"), PAGES.values(), ids=PAGES)
def test_c1_a_whole_chain_killed_at_random_moments(started, monkeypatch, page, kills):
    """Teacher, recording, student, baseline, report (export, push): one command ends at the same bytes."""
    whole, began = started("whole", page), time.monotonic()
    with HubServer(token="hf_sentinel") as hub:
        connected(monkeypatch, hub)
        assert in_child(lambda: run_page(whole)) == 0
        pushed = published(hub)
    assert bool(pushed) == (page == PUSHED)
    seconds, made, dice, stages = time.monotonic() - began, made_in(whole), random.Random(18), []
    for trial in range(kills):
        folder = started(str(trial), page)
        with HubServer(token="hf_sentinel") as hub:
            connected(monkeypatch, hub)
            with running(folder) as pid:
                time.sleep(dice.uniform(0, seconds))
                os.kill(pid, signal.SIGKILL)
            stages.append(sum((folder / "out" / name).exists() for name in STAGES))
            assert published(hub) in ({}, pushed), trial
            assert in_child(lambda: run_page(folder)) == 0  # noqa: B023
            assert published(hub) == pushed, trial
        again = made_in(folder)
        assert again.keys() == made.keys(), trial
        assert [name for name in made if again[name] != made[name]] == [], trial
        shutil.rmtree(folder)
    print(f"{kills} of {kills} ended at the same bytes; killed in stage: {sorted(stages)}")
    assert len(set(stages)) > min(3, kills // 4), "the moments are not spread over the chain"


@needs_fork
@pytest.mark.filterwarnings(*FORKED)
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("served", [False, True], ids=["before it is served", "before it is answered"])
def test_c1_killed_at_every_request_of_a_push(started, monkeypatch, tmp_path, served):
    """The Hub has nothing or all of it; the same command then publishes all of it."""
    whole, requests = started("whole", PUSHED), []
    with HubServer(token="hf_sentinel") as hub:
        connected(monkeypatch, hub)
        hub.watch = lambda request, answered: requests.append(request) if answered == served else None
        assert in_child(lambda: run_page(whole)) == 0
        pushed, made = published(hub), made_in(whole)
    assert any("/commit/" in request for request in requests)
    for nth in range(len(requests)):
        folder = tmp_path / str(nth)
        shutil.copytree(whole, folder, symlinks=True)
        with HubServer(token="hf_sentinel") as hub:
            connected(monkeypatch, hub)
            with running(folder, dies=True) as pid:
                hub.watch = dying(pid, nth, served)
            assert published(hub) in ({}, pushed), requests[nth]
            hub.watch = lambda request, answered: None
            assert in_child(lambda: run_page(folder)) == 0  # noqa: B023
            assert published(hub) == pushed, requests[nth]
        assert made_in(folder) == made
        shutil.rmtree(folder)
    print(f"{len(requests)} of {len(requests)} requests: nothing or all of it is published")


def dying(pid, nth, served):
    """Kill a process at its n-th request."""
    seen = itertools.count()

    def watch(request, answered):
        if answered == served and next(seen) == nth:
            os.kill(pid, signal.SIGKILL)
            raise ConnectionAbortedError("the client was killed")

    return watch


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


def test_twenty_fresh_processes_write_the_same_bytes(started):
    """One seed, one thread: weights, states, recorded answers and reports are the same."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    seen = []
    for number in range(20):
        folder = started(str(number), CHAIN)
        environment["HF_DATASETS_CACHE"] = str(folder / "cache")
        command = [sys.executable, "-m", "hfdistill", "train", "page.yaml"]
        subprocess.run(command, check=True, env=environment, cwd=folder, capture_output=True)
        seen.append(made_in(folder))
        shutil.rmtree(folder)
    assert any("shard" in name for name in seen[0])
    assert any("optimizer.pt" in name for name in seen[0])
    assert [number for number, made in enumerate(seen) if made != seen[0]] == []
