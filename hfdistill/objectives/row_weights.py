"""Weighs rows by how sure the teacher is, and shifts its logits where it is wrong."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from hfdistill.network.task import missing

Trust = Literal["confidence", "entropy", "label"]


def check_trust(name: str, by: str) -> Trust:
    """Return the way to weigh rows, or raise ValueError."""
    if by not in get_args(Trust):
        raise ValueError(
            f"{name} weighs rows by the teacher's 'confidence', its 'entropy' or its answer to the 'label', "
            f"found {by!r}."
        )
    return by  # type: ignore[return-value]


def trust(teacher: Tensor, labels: Tensor, *, by: Trust) -> Tensor:
    """Return the weight of each row, in [0, 1]: (B,); `KD` has the formulas and their sources.

    Args:
        teacher: logits (B, C).
        labels: (B,), -100 where one is missing.
    """
    if by == "entropy":
        logs = teacher.log_softmax(-1)
        return 1 + (logs.exp() * logs).sum(-1) / math.log(teacher.shape[-1])
    if by == "confidence":
        return teacher.softmax(-1).amax(-1)
    return 1 / (1 + F.cross_entropy(teacher, labels, ignore_index=-100, reduction="none"))


def shifted(teacher: Tensor, labels: Tensor) -> Tensor:
    """Copy the logits (B, C), and swap each row's largest with that of its label.

    Args:
        teacher: logits (B, C).
        labels: (B,); a row labelled -100 stays as it is.
    """
    top = teacher.argmax(-1, keepdim=True)  # (B, 1)
    gold = labels[:, None].where(~missing(labels)[:, None], top)
    return teacher.scatter(-1, torch.cat([top, gold], -1), teacher.gather(-1, torch.cat([gold, top], -1)))
