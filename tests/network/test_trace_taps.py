"""Taps: what is read inside a network is what the network itself says, and nothing is left behind."""

import copy
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import BertConfig

from hfdistill import Tap
from hfdistill.network import architectures
from hfdistill.network.architectures import Layout, layout_of, register_anatomy
from hfdistill.network.inputs import accepted_inputs
from hfdistill.network.trace import check_taps, run, tapped
from tests.network.test_architectures import TINY, batch, tiny

DEPTH = 5
PROJECTIONS = ("query", "key", "value")
HIDDEN = {Tap("hidden", layer) for layer in range(DEPTH + 1)}
INNER = {Tap(kind, layer) for kind in PROJECTIONS for layer in range(1, DEPTH + 1)}
READABLE = sorted(set(TINY) - {"deberta"})
PEFT_ASKS = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # asked by peft 0.21
each_side = pytest.mark.parametrize("left", [False, True], ids=["right", "left"])


def taps_of(model):
    return HIDDEN if layout_of(model).projections_reason else HIDDEN | INNER


def sided(left):
    return {name: tensor.flip(1) if left else tensor for name, tensor in batch().items()}


def read(model, inputs, taps):
    return run(model, inputs, accepts=accepted_inputs(model), taps=taps)


def hooks(model):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


@each_side
@pytest.mark.parametrize("model_type", sorted(TINY))
def test_hidden_readings_are_the_hidden_states(model_type, left):
    model = tiny(model_type)
    states = model(**sided(left), output_hidden_states=True).hidden_states
    readings = read(model, sided(left), HIDDEN).readings
    assert len(states) == len(readings) == DEPTH + 1
    for layer, state in enumerate(states):
        assert torch.equal(readings[Tap("hidden", layer)], state)


@pytest.mark.parametrize("options", [{"conv_kernel_size": 0}, {"num_hidden_layers": 1}], ids=str)
def test_hidden_readings_of_deberta_v2_come_after_its_convolution(options):
    model = tiny("deberta-v2", **options)
    states = model(**batch(), output_hidden_states=True).hidden_states
    readings = read(model, batch(), {Tap("hidden", layer) for layer in range(len(states))}).readings
    assert all(torch.equal(readings[Tap("hidden", layer)], state) for layer, state in enumerate(states))


@each_side
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model_type", READABLE)
def test_query_and_key_give_the_attention(model_type, attention, left):
    model = tiny(model_type, attn_implementation="eager")
    expected = model(**sided(left), output_attentions=True).attentions
    if attention == "sdpa" and not model._supports_sdpa:
        pytest.skip(f"{model_type} has no SDPA")
    reader = tiny(model_type, attn_implementation=attention)
    readings = read(reader, sided(left), INNER).readings
    padding = sided(left)["attention_mask"][:, None, None, :] == 0
    for layer in range(1, DEPTH + 1):
        q, k = readings[Tap("query", layer)], readings[Tap("key", layer)]  # (B, H, T, D/H)
        scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(padding, -math.inf)
        same = torch.allclose(scores.softmax(-1), expected[layer - 1], atol=1e-5)
        assert same == (not layout_of(model).attention_reason)


@pytest.mark.parametrize("model_type", READABLE)
def test_a_reading_has_heads_and_is_the_blocks_own(model_type):
    model = tiny(model_type)
    readings = read(model, batch(), INNER).readings
    width = getattr(model.config, "true_hidden_size", 16)
    assert readings.keys() == INNER
    assert {tuple(reading.shape) for reading in readings.values()} == {(3, 2, 12, width // 2)}
    for kind in PROJECTIONS:  # every layer and every kind is its own
        assert not torch.equal(readings[Tap(kind, 1)], readings[Tap(kind, 2)])
    assert not torch.equal(readings[Tap("query", 1)], readings[Tap("key", 1)])


def test_reading_changes_nothing_and_only_what_was_asked_for_is_kept():
    model = tiny("bert")
    trace = read(model, batch(), {Tap("hidden", 3), Tap("value", 5)})
    assert trace.readings.keys() == {Tap("hidden", 3), Tap("value", 5)}
    assert torch.equal(trace.logits, model(**batch()).logits)
    assert torch.equal(trace.attention_mask, batch()["attention_mask"])
    assert read(model, batch(), set()).readings == {}


@pytest.mark.parametrize("model_type", sorted(TINY))
def test_hooks_are_gone_when_the_with_ends_also_by_an_error(model_type):
    model = tiny(model_type)
    before = hooks(model)
    with tapped(model, taps_of(model)):
        assert hooks(model) > before
        model(**batch())
    assert hooks(model) == before
    with pytest.raises(KeyError), tapped(model, taps_of(model)):
        raise KeyError
    assert hooks(model) == before
    with pytest.raises(ValueError, match="out of range"):
        check_taps(model, {Tap("hidden", 1), Tap("hidden", 9)})
    assert hooks(model) == before


def test_one_forward_is_read():
    for model_type in ("bert", "albert"):
        model = tiny(model_type)
        expected = read(model, batch(), HIDDEN | INNER).readings
        with tapped(model, HIDDEN | INNER) as readings:
            model(**batch())
            model(batch()["input_ids"].flip(0))
        assert all(torch.equal(readings[tap], expected[tap]) for tap in HIDDEN | INNER)


def gradients(model, taps):
    """Of a loss on every reading."""
    model.zero_grad()
    readings = read(model, batch(), taps).readings
    sum(
        reading.square().mean() * (i + 1) for i, (_, reading) in enumerate(sorted(readings.items()))
    ).backward()
    return [p.grad for p in model.parameters() if p.grad is not None], sorted(readings.items())


@pytest.mark.parametrize("model_type", sorted(set(TINY) - {"albert", "mpnet"}))  # these two have none
def test_gradient_checkpointing_changes_neither_readings_nor_gradients(model_type):
    model = tiny(model_type).train()
    taps = taps_of(model)
    expected, plain = gradients(model, taps)
    model.activation_checkpointing_enable({"use_reentrant": False})
    actual, checkpointed = gradients(model, taps)
    assert len(expected) == len(actual) > 10
    for left, right in zip(plain, checkpointed, strict=True):
        assert torch.equal(left[1], right[1])
    for left, right in zip(expected, actual, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
def test_reentrant_checkpointing_is_refused_where_it_would_teach_nothing():
    model = tiny("bert").train()
    model.activation_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    with pytest.raises(
        ValueError, match=r"Tap\(kind='query', layer=1\) would teach nothing.*'use_reentrant': False"
    ):
        read(model, batch(), {Tap("query", 1)})
    assert read(model, batch(), HIDDEN).readings[Tap("hidden", 5)].requires_grad
    with torch.no_grad():
        assert not read(model, batch(), {Tap("query", 1)}).readings[Tap("query", 1)].requires_grad


def test_autocast_gives_readings_of_its_type():
    model = tiny("bert")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        readings = read(model, batch(), {Tap("query", 2), Tap("hidden", 2)}).readings
    assert readings[Tap("query", 2)].dtype == torch.bfloat16
    torch.testing.assert_close(
        readings[Tap("query", 2)].float(),
        read(model, batch(), {Tap("query", 2)}).readings[Tap("query", 2)],
        rtol=0.1,
        atol=0.1,
    )


@PEFT_ASKS
def test_an_adapter_is_read_with_what_it_adds():
    model = tiny("bert")
    expected = read(model, batch(), HIDDEN | INNER).readings
    adapted = get_peft_model(
        copy.deepcopy(model),
        LoraConfig(task_type="SEQ_CLS", target_modules=["query"], init_lora_weights=False),
    ).eval()
    readings = read(adapted, batch(), HIDDEN | INNER).readings
    states = adapted(**batch(), output_hidden_states=True).hidden_states
    assert all(torch.equal(readings[Tap("hidden", layer)], state) for layer, state in enumerate(states))
    assert torch.equal(readings[Tap("key", 1)], expected[Tap("key", 1)])
    assert not torch.equal(readings[Tap("query", 1)], expected[Tap("query", 1)])


class Wrapper(nn.Module):
    """Stands for DistributedDataParallel: the model is its `module`."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, **inputs):
        return self.module(**inputs)


def test_a_wrapped_model_is_read_inside():
    model = tiny("bert")
    expected = read(model, batch(), HIDDEN | INNER).readings
    readings = read(Wrapper(model), batch(), HIDDEN | INNER).readings
    assert all(torch.equal(readings[tap], expected[tap]) for tap in HIDDEN | INNER)


@pytest.mark.parametrize("how", ["whole", "in place", "a block", "wrapped"])
def test_a_compiled_model_is_refused_with_the_way_out(how):
    model = tiny("bert")
    if how == "in place":
        model.compile(backend="eager")
    elif how == "a block":
        model.bert.encoder.layer[2].compile(backend="eager")
    else:
        compiled = torch.compile(model, backend="eager")
        model = Wrapper(compiled) if how == "wrapped" else compiled
    with pytest.raises(ValueError, match=r"compiled code keeps the hooks.*torch_compile at False.*logits"):
        check_taps(model, {Tap("hidden", 1)})


@pytest.mark.parametrize(
    ("model_type", "taps", "message"),
    [
        ("bert", {Tap("hidden", 6)}, r"Tap\(kind='hidden', layer=6\) is out of range.*5 layers.*from 0 to 5"),
        ("bert", {Tap("key", 6)}, "from 1 to 5"),
        ("albert", {Tap("hidden", 6)}, "from 0 to 5"),
        ("deberta", {Tap("query", 1)}, r"deberta: one projection interleaves.*HiddenMSE\(\)"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(model_type, taps, message):
    with pytest.raises(ValueError, match=message):
        check_taps(tiny(model_type), taps)


def test_several_groups_of_shared_blocks_are_refused():
    with pytest.raises(ValueError, match=r"5 layers in 2 groups of shared modules: ALBERT repeats"):
        check_taps(tiny("albert", num_hidden_groups=2), {Tap("hidden", 1)})


def test_a_layout_that_does_not_fit_is_told(monkeypatch):
    monkeypatch.setattr(architectures, "_LAYOUTS", dict(architectures._LAYOUTS))
    model = tiny("bert")
    register_anatomy("bert", Layout(blocks="encoder.layer"), replace=True)
    with pytest.raises(ValueError, match="names no such projection"):
        check_taps(model, {Tap("query", 1)})
    model.bert.encoder.layer = model.bert.encoder.layer[:3]
    with pytest.raises(ValueError, match="Found 3 blocks for 5 layers"):
        check_taps(model, {Tap("hidden", 1)})


def test_blocks_that_are_not_called_are_told(monkeypatch):
    model = tiny("bert")
    monkeypatch.setattr(type(model.bert.encoder), "forward", lambda self, hidden, *_, **__: (hidden,))
    monkeypatch.setattr(type(model), "forward", lambda self, **_: (torch.zeros(1, 2),))
    with pytest.raises(ValueError, match=r"passed by Tap\(kind='hidden', layer=0\)"):
        run(model, batch(), accepts=frozenset(batch()), taps=HIDDEN)


def test_an_unknown_architecture_is_refused():
    model = nn.Module()
    model.config = BertConfig()
    model.config.model_type = "abacus"
    with pytest.raises(ValueError, match="Unknown architecture 'abacus'"):
        check_taps(model, {Tap("hidden", 1)})


@pytest.mark.parametrize(
    ("kind", "layer", "message"),
    [
        ("attention", 1, "Nothing to read is called 'attention'. Choose from hidden, query, key, value"),
        ("hidden", -1, "names no layer"),
        ("query", 0, "names no layer: .* 0 for the embeddings"),
        ("hidden", 1.0, "names no layer"),
        ("hidden", True, "names no layer"),
        ("hidden", "last", "names no layer"),
    ],
)
def test_a_tap_names_a_place(kind, layer, message):
    with pytest.raises(ValueError, match=message):
        Tap(kind, layer)


def test_taps_are_frozen_ordered_and_hashable():
    assert sorted({Tap("query", 1), Tap("hidden", 2), Tap("hidden", 0), Tap("hidden", 2)}) == [
        Tap("hidden", 0),
        Tap("hidden", 2),
        Tap("query", 1),
    ]
    with pytest.raises(AttributeError):
        Tap("hidden", 0).layer = 1
