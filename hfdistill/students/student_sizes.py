"""Computes how large the students of a teacher are, from its config alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoConfig

from hfdistill.network.architectures import ModelSpec, layout_of
from hfdistill.network.divided import whole_models
from hfdistill.network.loading import auto_class
from hfdistill.network.model_folder import reading_model
from hfdistill.students.shrink import _config, _kept
from hfdistill.students.weight_copy import refuse_exits


@dataclass(frozen=True)
class Size:
    """A student of `shrink(teacher, layers=layers)`.

    Args:
        layers: its blocks.
        parameters: its weights, tied ones once.
        share: of the teacher's weights, from 0 to 1.
    """

    layers: int
    parameters: int
    share: float

    def line(self) -> str:
        """Return the size as people read it; MB (1e6 bytes) in float32 and, a quarter of it, in int8."""
        mb = self.parameters * 4 / 1e6
        size = f"{mb:.1f} MB, {mb / 4:.1f} MB in int8"
        return f"{self.parameters / 1e6:.2f} M parameters ({self.share:.0%} of the teacher's), {size}"


def sizes(teacher: str) -> list[Size]:
    """List the sizes that `shrink` can make of a teacher, one a number of layers; no weights are loaded.

    Raises:
        HubUnreachable: where the Hub gives no answer.
        ValueError: where the architecture is unknown or cannot be cut, or the model has exits.
    """
    with reading_model(teacher):
        config, kind = AutoConfig.from_pretrained(teacher, trust_remote_code=False), auto_class(teacher)
    with whole_models(), torch.device("meta"):
        model = kind.from_config(config, trust_remote_code=False)
        refuse_exits(model)
        anatomy, layout = ModelSpec.of(model), layout_of(model)
        counts = []
        for layers in range(1, anatomy.depth + 1):
            chosen = _kept(layers, anatomy=anatomy, layout=layout, config=config)
            student = type(model)._from_config(_config(config, layout=layout, chosen=chosen))
            counts.append(student.num_parameters())
    return [Size(n, count, count / counts[-1]) for n, count in enumerate(counts, start=1)]
