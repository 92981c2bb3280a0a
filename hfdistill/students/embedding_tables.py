"""Embedding tables for a student without attention, made from its teacher's."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hfdistill.files.plain_data import as_python
from hfdistill.network.architectures import unwrapped
from hfdistill.network.block_calls import evaluating
from hfdistill.network.inputs import accepted_inputs
from hfdistill.students.corpus import Corpus, token_counts

_BATCH = 512


def principal_components(table: Tensor, width: int) -> Tensor:
    """Project a table (V, D) on its `width` directions of largest variance, at a mean square of 1.

    X = (E - mean E)·U, with U the leading eigenvectors of the covariance, each with its largest entry
    positive; then X / √mean(X²), one number for the whole table.

    Returns:
        (V, width) float32.
    """
    rows, largest = table.shape[0], min(table.shape)
    if isinstance(width, bool) or not isinstance(width, int) or not 1 <= width <= largest:
        raise ValueError(
            f"A table of {rows} rows and width {table.shape[1]} has {largest} principal components, found a "
            f"width of {width!r}. Choose one from 1 to {largest}."
        )
    centred = table.float() - table.float().mean(0)
    _, directions = torch.linalg.eigh((centred.T @ centred).double())  # ascending
    directions = directions.flip(1)[:, :width]  # (D, width)
    strongest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    projected = centred @ (directions * strongest.sign()).float()
    return projected / projected.square().mean().sqrt()


def word_vectors(model: Any, width: int | None) -> Tensor:
    """Return the principal components of a model's word embeddings: (V, width), 300 wide or less for None."""
    table = model.get_input_embeddings().weight.detach().cpu()
    return principal_components(table, min(300, *table.shape) if width is None else as_python(width))


def token_outputs(teacher: Any, tokenizer: Any) -> Tensor:
    """Run the teacher on each token of its vocabulary alone, and return its states: (V, D) float32.

    The mean of the last hidden states over the special tokens and the token between them, as Model2Vec does.
    """
    network = unwrapped(teacher)
    before, after = _frame(tokenizer)
    accepts = accepted_inputs(network.base_model)
    made = []
    with evaluating(network), torch.inference_mode():
        for ids in torch.arange(len(network.get_input_embeddings().weight)).split(_BATCH):
            columns = [torch.full_like(ids, token) for token in before]
            columns += [ids, *(torch.full_like(ids, token) for token in after)]
            rows = torch.stack(columns, dim=1).to(network.device)  # (B, T)
            inputs = {"input_ids": rows, "attention_mask": torch.ones_like(rows)}
            output = network.base_model(**{k: v for k, v in inputs.items() if k in accepts})[0]
            made.append(output.float().mean(1).cpu())
    return torch.cat(made).clone()


def _frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the special tokens before and after a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]


def importance_of_tokens(tokenizer: Any, corpus: Corpus | None, *, size: int, a: float = 1e-3) -> Tensor:
    """Return a / (a + p) of every token, its smooth inverse frequency (Arora et al. 2017, ICLR).

    Args:
        tokenizer: whose special tokens say nothing of a text; they get e^-14.
        corpus: where p is counted, each token once more than it occurs; None for p ∝ 1 / (1 + id). That is
            a guess and not Zipf's law: WordPiece sorts words by frequency roughly, but unused ids and single
            characters stand first. Model2Vec drops unused ids before it ranks, and has a = 1e-4.
        size: number of ids V.
        a: the probability at which a token weighs half; the paper's range is 1e-4 to 1e-3.

    Returns:
        (V,) float32.
    """
    if corpus is None:
        frequency = 1 / torch.arange(1, size + 1, dtype=torch.float64)
    else:
        frequency = token_counts(tokenizer, corpus, size=size).double() + 1
    weights = a / (a + frequency / frequency.sum())
    weights[[token for token in tokenizer.all_special_ids if token < size]] = math.exp(-14)
    return weights.float()
