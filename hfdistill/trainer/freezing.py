"""Weights of the student that a run leaves as they are."""

from __future__ import annotations

from torch import nn
from transformers import TrainingArguments

from hfdistill.network.architectures import word_embeddings
from hfdistill.trainer.arguments import option


def freeze(student: nn.Module, args: TrainingArguments) -> None:
    """Leave the table of word embeddings as it is, where `freeze_embeddings` says so.

    Positions, token types and the norm behind them learn, so that every block still gets gradients.
    """
    if not option(args, "freeze_embeddings"):
        return
    table = word_embeddings(student)
    if table is None:
        raise ValueError(
            "freeze_embeddings leaves the table of word embeddings as it is, and "
            f"{type(student).__name__} has none. Leave it out."
        )
    table.requires_grad_(False)
