"""What is told of a write that the disk did not take."""

import pytest
from safetensors import SafetensorError

from hfdistill import CheckpointError
from hfdistill.files.checkpoint import publish, telling_failed_writes

OF_A_WRITE = [
    OSError(28, "No space left on device"),
    RuntimeError("[enforce fail at inline_container.cc:778] . could not be written"),
    RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
    RuntimeError("unexpected pos 48192 vs 48084"),
    SafetensorError("Error while serializing: I/O error: File too large (os error 27)"),
    SafetensorError("Error while serializing: I/O error"),
    SafetensorError("File too large (os error 27)"),
]


def fail(folder, error, *, newest=None):
    with telling_failed_writes(folder, newest=lambda: newest):
        raise error


@pytest.mark.parametrize("error", OF_A_WRITE, ids=str)
def test_a_write_that_failed_is_told_with_its_cause_and_the_room(tmp_path, error):
    with pytest.raises(
        CheckpointError, match=r"did not take .*, where [\d,.]+ MB are free\. No check"
    ) as caught:
        fail(tmp_path, error)
    assert caught.value.__cause__ is error
    assert str(error) in str(caught.value)
    assert str(caught.value).endswith("make room or choose another output_dir, and begin anew.")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        SafetensorError("Error while deserializing header: invalid header"),
        ValueError("unexpected pos 1"),
        CheckpointError("os error: it is told already"),
    ],
    ids=repr,
)
def test_another_error_passes_as_it_is(tmp_path, error):
    with pytest.raises(type(error)) as caught:
        fail(tmp_path, error)
    assert caught.value is error


def test_the_checkpoint_that_is_whole_is_named_with_its_size(tmp_path):
    staged, newest = tmp_path / "_unfinished" / "checkpoint-1", tmp_path / "checkpoint-1"
    staged.mkdir(parents=True)
    (staged / "model.safetensors").write_bytes(bytes(2_300_000))
    publish(staged, newest, run={})
    with pytest.raises(CheckpointError) as caught:
        fail(tmp_path, OSError("disk full"), newest=newest)
    assert "Make room (a checkpoint takes 2.3 MB), by save_total_limit=1" in str(caught.value)
    assert str(caught.value).endswith(f"or the same command: {newest} is whole.")
    (newest / "hfdistill.json").write_text("damaged since")
    with pytest.raises(CheckpointError, match=r"Make room, by .*is whole\."):
        fail(tmp_path / "no such folder", OSError("disk full"), newest=newest)
