"""The loss of an evaluation is the mean over its rows, whatever the batches."""

import pytest
import torch
from torch.nn import functional as F

from hfdistill.trainer.exact_evaluation import EvalLosses


def test_the_mean_over_rows_is_kept_within_an_evaluation_alone():
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 0, -100])
    exact = EvalLosses("single_label")
    wanted = F.cross_entropy(logits[:2], labels[:2]).item()
    assert exact.add(logits, labels, gather=lambda rows: rows).item() == pytest.approx(wanted)
    assert exact.mean(prefix="eval", step=1) is None  # none was begun
    exact.start()
    for rows in (slice(0, 1), slice(1, 3)):
        exact.add(logits[rows], labels[rows], gather=lambda rows: rows)
    assert exact.mean(prefix="eval", step=1) == pytest.approx(wanted)
