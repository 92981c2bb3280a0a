"""Two nodes that save on disks of their own: both go on from one checkpoint, or neither does."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from hfdistill import CheckpointError
from hfdistill.files import checkpoint
from hfdistill.trainer.checkpointing import CheckpointingTrainer
from tests.faults import trained
from tests.forked import needs_fork, on_two_processes, two_started

LAST = f"checkpoint-{trained.STEPS}"
OPTIONS = {"save_on_each_node": True, "save_total_limit": 1}


def disk(folder):
    """The disk of the node that this process is on."""
    return folder / os.environ["RANK"]


def train(own, *, resume=None):
    trained.build(own, **OPTIONS).train(resume_from_checkpoint=resume)


def train_and_die(folder):
    """Node 1 stops before it publishes checkpoint-3, which node 0 does at that moment."""
    publish = checkpoint.publish

    def dying(staged, final, **others):
        if os.environ["RANK"] == "1" and final.name == "checkpoint-3":
            os.kill(os.getpid(), signal.SIGKILL)
        publish(staged, final, **others)

    checkpoint.publish = dying
    train(disk(folder))


def refuse_and_go_on(folder):
    """Each process writes what it is told where node 1 has nothing, starts anew, or has a damaged file."""
    rank, own = os.environ["RANK"], disk(folder)
    newest, file = str(own / "checkpoint-2"), own / "checkpoint-2" / "optimizer.pt"

    def tell(name, own, resume):
        with pytest.raises((CheckpointError, ValueError)) as caught:
            train(own, resume=resume)
        (folder / f"{name}-{rank}.txt").write_text(str(caught.value))

    tell("empty", own if rank == "0" else folder / "empty", True)
    tell("apart", own, newest if rank == "0" else None)
    content = file.read_bytes()
    file.write_bytes(content if rank == "0" else content[:-1])
    tell("damaged", own, newest)
    file.write_bytes(content)
    train(own, resume=True)


@needs_fork
@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_node_that_stops_between_two_publications(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        folder.mkdir()
    on_two_processes(lambda: train(disk(whole)), tmp_path, nodes=2)
    ends = [os.waitpid(pid, 0)[1] for pid in two_started(lambda: train_and_die(stopped), tmp_path, nodes=2)]
    assert all(ends)
    assert sorted(path.name for path in (stopped / "0").glob("checkpoint-*")) == [
        "checkpoint-2",
        "checkpoint-3",
    ]
    assert [path.name for path in (stopped / "1").glob("checkpoint-*")] == ["checkpoint-2"]
    on_two_processes(lambda: refuse_and_go_on(stopped), tmp_path, nodes=2)
    for rank in range(2):
        names = {p.name for p in (whole / str(rank) / LAST).iterdir()} - {
            "hfdistill.json",
            "trainer_state.json",
        }
        assert {"model.safetensors", "optimizer.pt", f"rng_state_{rank}.pth"} <= names
        for name in names:
            straight, again = (folder / str(rank) / LAST / name for folder in (whole, stopped))
            assert straight.read_bytes() == again.read_bytes(), name
    told = {path.stem: path.read_text() for path in stopped.glob("*-?.txt")}
    for rank in range(2):
        assert told[f"empty-{rank}"].startswith("No valid checkpoint found")
        assert "need save_on_each_node=True" in told[f"empty-{rank}"]
        assert "(process 0: checkpoint-2; process 1: none)" in told[f"apart-{rank}"]
        assert "optimizer.pt' has" in told[f"damaged-{rank}"]
    assert told["damaged-0"] == f"Process 1 cannot go on: {told['damaged-1']}"


def chosen_by_two(folders):
    """Which checkpoint two processes with folders of their own go on from; here they are threads."""
    told, together = [None, None], threading.Barrier(2, timeout=60)

    def choose(rank):
        def of_all(value):
            told[rank] = value
            together.wait()
            everybodys = list(told)
            together.wait()
            return everybodys

        return CheckpointingTrainer._newest_of_all(SimpleNamespace(of_all=of_all), folders[rank])

    with ThreadPoolExecutor(2) as pool:
        return [path and path.name for path in pool.map(choose, range(2))]


@pytest.mark.parametrize(
    ("disks", "damaged", "name"),
    [
        (((1, 2, 10), (1, 2, 10)), (), "checkpoint-10"),
        (((1, 2, 10), (1, 2)), (), "checkpoint-2"),
        (((1, 2), (1, 2, 10)), (), "checkpoint-2"),
        (((1, 2, 10), (1, 2, 10)), ("1/checkpoint-10",), "checkpoint-2"),
        (((1, 2, 10), (1, 2, 10)), ("0/checkpoint-2", "1/checkpoint-10"), "checkpoint-1"),
        (((2,), (2,)), ("1/checkpoint-2",), None),
        (((2, 3), (1, 4)), (), None),
        (((2,), ()), (), None),
    ],
)
def test_the_newest_that_each_process_finds_whole(tmp_path, disks, damaged, name):
    folders = [tmp_path / "0", tmp_path / "1"]
    for folder, steps in zip(folders, disks, strict=True):
        folder.mkdir()
        for step in steps:
            staged = folder / checkpoint.STAGING / f"checkpoint-{step}"
            staged.mkdir(parents=True)
            (staged / "model.safetensors").write_bytes(b"weights")
            checkpoint.publish(staged, folder / staged.name, run={"began": 1.0})
    for path in damaged:
        (tmp_path / path / "model.safetensors").write_bytes(b"wEights")
    assert chosen_by_two(folders) == [name, name]
