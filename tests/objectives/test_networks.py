"""Terms that look inside, on whole networks: identity, and padding."""

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from hfdistill.network.architectures import ModelSpec
from hfdistill.network.trace import run
from hfdistill.objectives import Setting, registered

MATCHING = ["embedding_mse", "hidden_mse", "hidden_cosine", "tinybert_attention", "attention_kl"]
MATCHING += ["minilm", "minilmv2", "pkd", "rkd"]
SHIFTED = {"embedding_mse", "pkd"}
"""Their layers are part of the method: no map can be given, or not this one."""
LENGTHS = [9, 1, 4, 7, 9, 3]


def network(seed):
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32
    )
    return BertForSequenceClassification(config).eval()


def inputs(before=0, after=0):
    """The same rows between columns of padding, at the same positions."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(1, 60, (len(LENGTHS), max(LENGTHS)), generator=generator)
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    wide = {"input_ids": ids * mask, "attention_mask": mask, "position_ids": torch.arange(9) * mask}
    return {name: torch.nn.functional.pad(x, (before, after)) for name, x in wide.items()}


def loss(objective, student, teacher, batch):
    accepts = frozenset(batch)
    own, other = objective.taps()
    with torch.no_grad():
        traces = (
            run(student, batch, accepts=accepts, taps=own),
            run(teacher, batch, accepts=accepts, taps=other),
        )
        return objective(*traces, torch.zeros(len(LENGTHS), dtype=torch.long)).item()


def bound(name, student, teacher, **options):
    objective = registered()[name](**options)
    objective.bind(Setting("single_label", 2, student=ModelSpec.of(student), teacher=ModelSpec.of(teacher)))
    return objective


@pytest.mark.parametrize("name", MATCHING)
def test_a_network_has_nothing_to_learn_from_itself(name):
    same = network(1)
    if name in SHIFTED:
        assert loss(bound(name, same, same), same, same, inputs()) == 0.0
        return
    assert loss(bound(name, same, same, layers="1:1, 3:3"), same, same, inputs()) == 0.0
    assert loss(bound(name, same, same, layers="1:2, 3:3"), same, same, inputs()) > 1e-6


@pytest.mark.parametrize("name", [*MATCHING, "info_nce"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_moves_no_loss(name, side):
    student, teacher = network(1), network(2)
    objective = bound(name, student, teacher)
    expected = loss(objective, student, teacher, inputs())
    assert expected > 0
    for columns in [*range(1, 20), 33, 64, 99, 100]:
        padded = inputs(before=columns) if side == "left" else inputs(after=columns)
        assert loss(objective, student, teacher, padded) == pytest.approx(expected, abs=1e-6)
