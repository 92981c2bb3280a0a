"""Two processes on a stream learn what one does. Slow: `-m slow`."""

import pytest
import torch

from tests.distributed import streamed
from tests.distributed.launched import launch


@pytest.mark.slow
def test_two_processes_read_a_stream_as_one_does(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    streamed.main(str(tmp_path / "one"), 4)
    result = launch("-m", "tests.distributed.streamed", str(tmp_path / "two"), "2")
    assert result.returncode == 0, result.stderr[-3000:]
    one, two = (torch.load(tmp_path / name / "weights.pt") for name in ("one", "two"))
    torch.testing.assert_close(one, two, atol=1e-6, rtol=0)
