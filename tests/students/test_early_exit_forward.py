"""When rows are sure enough to leave, and that each leaves its own pass."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from hfdistill import with_exits
from hfdistill.students.early_exit_forward import uncertainty
from tests.conftest import make_bert


def test_uncertainty_by_hand():
    p = torch.tensor([[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3], [1.0, 0.0, 0.0]])
    expected = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1)) / math.log(3)
    found = uncertainty((p + 1e-30).log())
    assert found.tolist() == pytest.approx([expected, 1, 0], abs=1e-6)
    several = torch.tensor([[3.0, -3.0], [0.0, 9.0]])
    q = 1 / (1 + math.exp(-3))
    entropy = -(q * math.log(q) + (1 - q) * math.log(1 - q)) / math.log(2)
    assert uncertainty(several, multi_label=True).tolist() == pytest.approx([entropy, 1])


def test_multi_label_rows_leave_where_every_class_is_sure():
    labels = {0: "a", 1: "b", 2: "c"}
    model = with_exits(make_bert(3, labels=labels, problem_type="multi_label_classification"))
    inputs = {"input_ids": torch.tensor([[2, 5, 3]])}
    sure = uncertainty(model(**inputs).exit_logits[0], multi_label=True).item()
    for threshold, layer in ((min(1, sure * 1.001), 1), (sure * 0.999 * 1e-3, 3)):
        model.exit_threshold = threshold
        assert model(**inputs).exit_layers.item() == layer


def test_threads_that_share_a_model_do_not_read_each_others_rows():
    torch.manual_seed(0)
    model = with_exits(make_bert(4))
    for head in model.exits.values():
        nn.init.normal_(head.classifier.weight, std=3)
    model.exit_threshold = 0.5
    rows = [torch.randint(5, 36, (1, tokens)) for tokens in range(3, 11)]

    def answers(_thread):
        with torch.no_grad():
            return torch.cat([model(input_ids=row).logits for _ in range(10) for row in rows])

    expected = answers(0)
    with ThreadPoolExecutor(3) as threads:
        for found in threads.map(answers, range(3)):
            torch.testing.assert_close(found, expected)
