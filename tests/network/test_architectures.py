"""Every registered architecture: sizes, blocks, embeddings and projections are where the layout says."""

import math
import runpy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    GPT2Config,
)

from hfdistill.network import architectures
from hfdistill.network.architectures import (
    Layout,
    ModelSpec,
    blocks,
    embeddings,
    known_anatomies,
    layout_of,
    register_anatomy,
)

BERT_LIKE = {
    "hidden_size": 16,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}
BUCKETS = {"position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True}
TINY: dict[str, dict[str, Any]] = {
    "albert": {**BERT_LIKE, "embedding_size": 8, "classifier_dropout_prob": 0.0},
    "bert": BERT_LIKE,
    "camembert": BERT_LIKE,
    "deberta": {**BERT_LIKE, **DEBERTA, "type_vocab_size": 2},
    "deberta-v2": {**BERT_LIKE, **DEBERTA, **BUCKETS, "conv_kernel_size": 3, "conv_act": "gelu"},
    "distilbert": {
        "dim": 16,
        "n_layers": 5,
        "n_heads": 2,
        "hidden_dim": 32,
        "max_position_embeddings": 40,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "seq_classif_dropout": 0.0,
    },
    "electra": {**BERT_LIKE, "embedding_size": 8},
    "mobilebert": {**BERT_LIKE, "embedding_size": 8, "true_hidden_size": 8, "intra_bottleneck_size": 8},
    "modernbert": {
        "hidden_size": 16,
        "num_hidden_layers": 5,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 40,
        "local_attention": 4,
        "global_attn_every_n_layers": 3,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
    },
    "mpnet": BERT_LIKE,
    "roberta": BERT_LIKE,
    "xlm-roberta": BERT_LIKE,
}
LABELS = {0: "no", 1: "maybe", 2: "yes"}


def tiny(model_type: str, *, auto: Any = AutoModelForSequenceClassification, **options: Any) -> Any:
    """A 5-layer, width-16 model with three classes, no dropout and logits far from 0."""
    labels = {"id2label": LABELS, "label2id": {name: i for i, name in LABELS.items()}}
    settings = {**TINY[model_type], "vocab_size": 40, "pad_token_id": 0, "initializer_range": 0.2, **labels}
    torch.manual_seed(0)
    model = auto.from_config(AutoConfig.for_model(model_type, **{**settings, **options})).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name.lower() or parameter.dim() == 1:
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    return model


def batch(rows: int = 3, tokens: int = 12) -> dict[str, torch.Tensor]:
    """Three rows, padded by 0, 3 and 6 tokens."""
    ids = torch.randint(4, 40, (rows, tokens), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    for row in range(rows):
        mask[row, tokens - 3 * row :] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def readings(
    model: Any, block: Any, names: list[str], *, inputs: dict[str, torch.Tensor]
) -> list[torch.Tensor]:
    """What the named sub-modules of a block give in one pass; of a block run many times, the first."""
    read: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: Any, _args: Any, output: torch.Tensor) -> None:
            read.setdefault(name, output)

        return hook

    hooks = [block.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    with torch.no_grad():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    return [read[name] for name in names]


def test_every_architecture_is_tested():
    fresh = runpy.run_path(architectures.__file__)
    assert set(fresh["known_anatomies"]()) == set(TINY)


@pytest.mark.parametrize("model_type", sorted(TINY))
def test_sizes(model_type):
    model = tiny(model_type)
    expected = ModelSpec(model_type=model_type, depth=5, width=16, heads=2, classes=3)
    assert ModelSpec.of(model) == expected
    assert ModelSpec.of(model.config) == expected
    assert model(**batch(), output_hidden_states=True).hidden_states[1].shape == (3, 12, 16)


@pytest.mark.parametrize("model_type", sorted(set(TINY) - {"albert"}))
def test_blocks_give_the_hidden_states(model_type):
    model = tiny(model_type, conv_kernel_size=0)
    seen = []
    hooks = [
        block.register_forward_hook(lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out))
        for block in blocks(model)
    ]
    states = model(**batch(), output_hidden_states=True).hidden_states
    for hook in hooks:
        hook.remove()
    assert len(seen) == ModelSpec.of(model).depth
    # ModernBERT's last entry is the normed output, not the block's.
    for expected, actual in list(zip(states[1:], seen, strict=True))[:-1]:
        assert torch.equal(expected, actual)


@pytest.mark.parametrize("model_type", sorted(TINY))
def test_embeddings_hold_the_input_embeddings(model_type):
    model = tiny(model_type)
    assert any(part is model.get_input_embeddings() for part in embeddings(model).modules())


@pytest.mark.parametrize("model_type", sorted(set(TINY) - {"albert"}))
def test_projections_have_the_promised_shape(model_type):
    model = tiny(model_type)
    layout = layout_of(model)
    if layout.projections_reason:
        assert layout.query + layout.key + layout.value + layout.fused == ""
        return
    names = [layout.fused] if layout.fused else [layout.query, layout.key, layout.value]
    read = readings(model, blocks(model)[1], names, inputs=batch())
    width = getattr(model.config, "true_hidden_size", 16)
    assert torch.cat(read, dim=-1).shape == (3, 12, 3 * width)


@pytest.mark.parametrize("model_type", sorted(TINY))
def test_attention_follows_from_query_and_key_where_no_reason_speaks_against_it(model_type):
    model = tiny(model_type, attn_implementation="eager")
    layout = layout_of(model)
    if layout.projections_reason:
        assert layout.attention_reason
        return
    block = model.base_model.get_submodule(layout.blocks)[0]
    inputs = {name: tensor[:1] for name, tensor in batch().items()}
    names = [layout.fused] if layout.fused else [layout.query, layout.key]
    read = readings(model, block, names, inputs=inputs)
    query, key = read[0].chunk(3, dim=-1)[:2] if layout.fused else read[:2]
    query, key = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in (query, key))  # (B, H, T, D/H)
    rebuilt = (query @ key.mT / math.sqrt(query.shape[-1])).softmax(-1)
    attention = model(**inputs, output_attentions=True).attentions[0]
    assert torch.allclose(rebuilt, attention, atol=1e-5) == (not layout.attention_reason)


def test_a_token_classifier_has_the_same_anatomy():
    model = tiny("roberta", auto=AutoModelForTokenClassification)
    assert ModelSpec.of(model).depth == 5
    assert len(blocks(model)) == 5


def test_a_bare_encoder_is_its_own_base_model():
    model = tiny("bert").bert
    assert blocks(model) is model.encoder.layer
    assert embeddings(model) is model.embeddings


@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # asked by peft 0.21
def test_sees_through_peft():
    model = tiny("bert")
    wrapped = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
    assert ModelSpec.of(wrapped) == ModelSpec.of(model)
    assert blocks(wrapped) is model.bert.encoder.layer
    assert embeddings(wrapped) is model.bert.embeddings


def test_unknown_architecture_lists_the_known_ones_and_how_to_register():
    with pytest.raises(ValueError, match=r"(?s)'gpt2'.*albert, bert,.*register_anatomy\('gpt2', Layout\("):
        ModelSpec.of(GPT2Config())
    with pytest.raises(ValueError, match="Unknown architecture None"):
        layout_of(object())


def test_albert_has_no_module_per_layer():
    with pytest.raises(ValueError, match=r"5 layers.*repeats one group.*output_hidden_states"):
        blocks(tiny("albert"))


def test_a_third_party_registers_its_own(monkeypatch):
    monkeypatch.setattr(architectures, "_LAYOUTS", dict(architectures._LAYOUTS))

    class ToyConfig(BertConfig):
        model_type = "toy"

    register_anatomy("toy", Layout(blocks="rnn", depth="stories", width="hidden_size", heads=""))
    config = ToyConfig(stories=2, hidden_size=48)
    assert ModelSpec.of(config) == ModelSpec(model_type="toy", depth=2, width=48, heads=0, classes=2)
    assert "toy" in known_anatomies()


def test_a_second_layout_must_be_meant(monkeypatch):
    monkeypatch.setattr(architectures, "_LAYOUTS", dict(architectures._LAYOUTS))
    register_anatomy("bert", layout_of(BertConfig()))
    with pytest.raises(ValueError, match=r"already registered for 'bert'.*replace=True"):
        register_anatomy("bert", Layout(blocks="layers"))
    register_anatomy("bert", Layout(blocks="layers"), replace=True)
    assert layout_of(BertConfig()).blocks == "layers"
