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


def traced(network, taps, batch):
    with torch.no_grad():
        return run(network, batch, accepts=frozenset(batch), taps=taps)


def loss(objective, student, teacher):
    """The objective's value on two traces."""
    with torch.no_grad():
        return objective(student, teacher, torch.zeros(len(LENGTHS), dtype=torch.long)).item()


def bound(name, student, teacher, **options):
    objective = registered()[name](**options)
    objective.bind(Setting("single_label", 2, student=ModelSpec.of(student), teacher=ModelSpec.of(teacher)))
    return objective


def loss_from_itself(name, **options):
    same = network(1)
    objective = bound(name, same, same, **options)
    return loss(objective, *(traced(same, taps, inputs()) for taps in objective.taps()))


@pytest.mark.parametrize("name", MATCHING)
def test_a_network_has_nothing_to_learn_from_itself(name):
    if name in SHIFTED:
        assert loss_from_itself(name) == 0.0
        return
    assert loss_from_itself(name, layers="1:1, 3:3") == 0.0
    assert loss_from_itself(name, layers="1:2, 3:3") > 1e-6


@pytest.fixture(scope="module")
def padded():
    """Objectives, and what they read of two networks: without padding first, then with more and more."""
    networks = network(1), network(2)
    objectives = {name: bound(name, *networks) for name in [*MATCHING, "info_nce"]}
    taps = [frozenset().union(*each) for each in zip(*(o.taps() for o in objectives.values()), strict=True)]
    columns = [0, *range(1, 20), 33, 64, 99, 100]

    def read(side):
        batches = [inputs(**{side: number}) for number in columns]
        return [[traced(*each, batch) for each in zip(networks, taps, strict=True)] for batch in batches]

    return objectives, {side: read(side) for side in ("before", "after")}


@pytest.mark.parametrize("name", [*MATCHING, "info_nce"])
@pytest.mark.parametrize("side", ["before", "after"])
def test_padding_moves_no_loss(padded, name, side):
    objectives, traces = padded
    expected, *others = (loss(objectives[name], *pair) for pair in traces[side])
    assert expected > 0
    assert others == pytest.approx([expected] * 23, abs=1e-6)
