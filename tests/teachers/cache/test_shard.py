"""The rows of one shard are read as they were written, from memory and from a file."""

import pytest
import torch
from safetensors.torch import save

from hfdistill import Tap
from hfdistill.teachers.cache.shard import Shard

HIDDEN = Tap("hidden", 1)
LENGTHS = [2, 0, 3, 0]


@pytest.fixture(params=["in memory", "in a file", "in a file, logits held"])
def shard(request, tmp_path):
    """Four rows, two of them of no token: of padding alone."""
    tokens = torch.arange(20, dtype=torch.float16).view(5, 4)
    tensors = {
        "keys": torch.zeros(4, 16, dtype=torch.uint8),
        "lengths": torch.tensor(LENGTHS, dtype=torch.int32),
        "logits": torch.arange(8.0).view(4, 2),
        "hidden.1": tokens,
    }
    path, content = tmp_path / "shard.safetensors", save(tensors)
    path.write_bytes(content)
    options = (
        {} if request.param == "in memory" else {"file": (path, content), "held": "held" in request.param}
    )
    return Shard(tensors, pooled=False, **options)


def test_a_row_has_its_own_tokens_and_logits(shard):
    parts = torch.arange(20, dtype=torch.float16).view(5, 4).split(LENGTHS)
    for row, part in enumerate(parts):
        reading = shard.reading(HIDDEN, row)
        assert torch.equal(reading, part)
        assert (reading.dtype, reading.shape) == (torch.float16, (LENGTHS[row], 4))
        assert torch.frombuffer(bytearray(shard.logits(row)), dtype=torch.float32).tolist() == [
            2 * row,
            2 * row + 1,
        ]
