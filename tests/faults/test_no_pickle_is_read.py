"""An audit hook sees every class that a pickle names: over the main paths there is none."""

import os
import pickle
import sys
import traceback
from pathlib import Path

import pytest

from hfdistill.cli import main
from tests.files.hub_server import HubServer, connected
from tests.forked import in_child, needs_fork
from tests.no_pickle import ALLOWED, READ
from tests.recipe.conftest import here, things  # noqa: F401 - fixtures

PAGE = """teacher: teacher
student: {shrink: {layers: 2}}
data: two
objective: [cross_entropy: {weight: 0.5}, kd: {weight: 0.5}]
teacher_cache: recorded
training: {output_dir: out, max_steps: 2, save_strategy: steps, save_steps: 1, use_cpu: true}
measure: {speed: false}
"""


def pickles_of(work):
    """Run `work` in a child of ours; the classes that pickles named, with the line that read them."""
    read, write = os.pipe()

    def watched():
        seen = []

        def hook(event, arguments):
            if event == "pickle.find_class":
                lines = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_stack()[:-1]]
                if not any(part in line for line in lines for part in ALLOWED):
                    seen.append(f"{'.'.join(map(str, arguments[:2]))} at {' < '.join(lines[:-6:-1])}")

        sys.addaudithook(hook)
        try:
            work()
        finally:
            os.write(write, "\n".join(sorted(set(seen))).encode()[:60_000])

    status = in_child(watched)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        text = stream.read().decode()
    assert status == 0, text
    return text.splitlines()


@needs_fork
@pytest.mark.parametrize("exports", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings(
    "ignore:This process:DeprecationWarning", "ignore:Use 'content=:DeprecationWarning"
)
def test_training_recording_resuming_measuring_exporting_and_publishing_read_none(here, monkeypatch, exports):  # noqa: F811
    with HubServer(token="hf_sentinel") as hub:
        connected(monkeypatch, hub)

        def work():
            assert main(["train", "page.yaml"]) == 0
            assert main(["train", "page.yaml", "training.max_steps=4"]) == 0  # goes on from a checkpoint
            measured = ["--teacher", "teacher", "--data", "two", "--no-speed"]
            assert main(["measure", "out/student", *measured]) == 0
            assert main(["predict", "out/student", "reviews.csv", "--text", "review", "--out", "a.csv"]) == 0
            if exports:
                assert main(["export", "out/student", "out/onnx", "--data", "two"]) == 0
            assert main(["push", "out/student", "me/student"]) == 0

        assert pickles_of(work) == []
        assert "model.safetensors" in hub.repositories["me/student"]


@pytest.mark.parametrize("name", ["hfdistill/here.py", "tests/here.py"])
def test_the_hook_of_all_tests_sees_what_we_read_and_not_what_a_test_reads(name):
    code = compile("pickle.loads(content)", str(Path(__file__).parents[2] / name), "exec")
    exec(code, {"pickle": pickle, "content": pickle.dumps(os.getcwd)})  # noqa: S102 - a line of that file
    assert len(READ) == (name == "hfdistill/here.py")
    READ.clear()


@needs_fork
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_the_hook_sees_a_pickle():
    (line,) = pickles_of(lambda: pickle.loads(pickle.dumps(os.getcwd)))
    assert line.startswith("posix.getcwd at ")
