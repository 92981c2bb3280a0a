"""A recipe on two processes trains one student and prints one table."""

import pytest


@pytest.mark.distributed
def test_sst2_on_two_processes(folders):
    folder = folders[2] / "recipe"
    printed = [path.read_text() for path in sorted(folder.glob("printed-*.txt"))]
    assert [text.count("accuracy  macro F1") for text in printed] == [1, 0]
    assert (folder / "out" / "student" / "model.safetensors").is_file()
