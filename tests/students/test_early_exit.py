"""Models whose rows may leave early: what leaves, what stays, and that nothing else changes."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    MobileBertConfig,
    MobileBertForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    pipeline,
)

from hfdistill import Tap, measure, prune_vocabulary, shrink, with_exits
from hfdistill.evaluation.measure import Contender
from hfdistill.evaluation.speed import SpeedPlan
from hfdistill.network.architectures import ModelSpec, longest_input
from hfdistill.network.trace import tapped
from hfdistill.students.early_exit import EarlyExitForSequenceClassification
from hfdistill.students.early_exit_forward import uncertainty
from tests.conftest import make_bert, make_dataset, make_tokenizer
from tests.word_material import make_tagger

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,
    "num_labels": 3,
    "pad_token_id": 0,
}
DISTIL = {"vocab_size": 40, "dim": 16, "n_layers": 4, "n_heads": 4, "hidden_dim": 32, "num_labels": 3}
MODERN = {
    **SIZES,
    "global_attn_every_n_layers": 2,
    "local_attention": 4,
    "cls_token_id": 2,
    "sep_token_id": 3,
}
MODERN |= {"classifier_pooling": "mean"}
MOBILE = {**SIZES, "embedding_size": 16, "intra_bottleneck_size": 16, "num_feedforward_networks": 1}
MODELS = {
    "bert": lambda: BertForSequenceClassification(BertConfig(**SIZES)),
    "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**SIZES)),
    "distilbert": lambda: DistilBertForSequenceClassification(
        DistilBertConfig(**DISTIL, initializer_range=0.3)
    ),
    "electra": lambda: ElectraForSequenceClassification(ElectraConfig(**SIZES, embedding_size=8)),
    "mpnet": lambda: MPNetForSequenceClassification(MPNetConfig(**SIZES)),
    "mobilebert": lambda: MobileBertForSequenceClassification(MobileBertConfig(**MOBILE)),
    "modernbert": lambda: ModernBertForSequenceClassification(ModernBertConfig(**MODERN)),
}
ROWS = 8


def build(kind="bert", *, spread=3.0, **options):
    """A model whose exits differ in how sure they are, row by row."""
    torch.manual_seed(0)
    plain = MODELS[kind]().eval()
    model = with_exits(plain, **options)
    with torch.no_grad():
        for head in model.exits.values():
            for layer in (head.narrow, head.value, head.dense, head.classifier):
                layer.weight.mul_(spread)
    return plain, model


def batch(rows=ROWS):
    """Rows of 3 to 9 tokens, padded on the right."""
    torch.manual_seed(1)
    lengths = torch.tensor([3 + (5 * i) % 7 for i in range(rows)])
    mask = (torch.arange(9) < lengths[:, None]).long()
    return {"input_ids": torch.randint(5, 40, (rows, 9)) * mask, "attention_mask": mask}


def middle_threshold(model, inputs):
    """One at which some rows leave at the first exit, some later, and some stay."""
    with torch.no_grad():
        first, *_, last = (uncertainty(z) for z in model(**inputs).exit_logits)
    return float(torch.cat([first, last]).quantile(0.43))


@pytest.mark.parametrize("kind", MODELS)
def test_the_last_head_is_the_plain_model(kind):
    plain, model = build(kind)
    inputs = batch()
    found, expected = model(**inputs), plain(**inputs).logits
    assert torch.equal(found.logits, expected)
    assert [z.shape for z in found.exit_logits] == [(ROWS, 3)] * 3
    assert found.exit_layers is None
    model.exit_threshold = 1e-9  # none is as sure as that
    watched = model(**inputs)
    torch.testing.assert_close(watched.logits, expected, rtol=1e-5, atol=1e-6)
    assert watched.exit_layers.tolist() == [4] * ROWS


@pytest.mark.parametrize("kind", MODELS)
def test_each_row_leaves_where_its_exit_is_sure_with_that_exits_logits(kind):
    _, model = build(kind)
    inputs = batch()
    threshold = middle_threshold(model, inputs)
    with torch.no_grad():
        full = model(**inputs)
    model.exit_threshold = threshold
    with torch.no_grad():
        found = model(**inputs)
    heads = [*full.exit_logits, full.logits]
    expected = [
        next((n for n in (1, 2, 3) if uncertainty(heads[n - 1][row]) < threshold), 4) for row in range(ROWS)
    ]
    assert found.exit_layers.tolist() == expected
    assert len(set(expected)) > 1
    chosen = torch.stack([heads[layer - 1][row] for row, layer in enumerate(expected)])
    torch.testing.assert_close(found.logits, chosen, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_a_batch_is_its_rows_one_by_one(kind):
    _, model = build(kind)
    inputs = batch()
    model.exit_threshold = middle_threshold(model, inputs)
    with torch.no_grad():
        together = model(**inputs)
        for row in range(ROWS):
            length = int(inputs["attention_mask"][row].sum())
            alone = model(**{name: value[row : row + 1, :length] for name, value in inputs.items()})
            torch.testing.assert_close(alone.logits[0], together.logits[row], rtol=1e-3, atol=1e-5)
            assert alone.exit_layers[0] == together.exit_layers[row]


def test_blocks_compute_the_remaining_rows_alone():
    _, model = build()
    inputs = batch()
    model.exit_threshold = middle_threshold(model, inputs)
    seen = []
    for block in model.base_model.encoder.layer:
        block.register_forward_hook(lambda _b, args, _o: seen.append(len(args[0])))
    with torch.no_grad():
        layers = model(**inputs).exit_layers
    assert seen == [ROWS, *(int((layers > n).sum()) for n in (1, 2, 3) if (layers > n).any())]
    assert seen[-1] < ROWS
    seen.clear()
    model.exit_threshold = 1.0
    with torch.no_grad():
        assert model(**inputs).exit_layers.tolist() == [1] * ROWS
    assert seen == [ROWS]  # the other blocks were not called


def test_after_rows_have_left_nothing_is_left_behind():
    plain, model = build()
    for threshold in (1.0, None):
        model.exit_threshold = threshold
        model(**batch())
        assert not any(part._forward_pre_hooks or part._forward_hooks for part in model.modules())
    assert torch.equal(model(**batch()).logits, plain(**batch()).logits)


def test_in_training_no_row_leaves():
    _, model = build()
    model.exit_threshold = 1.0
    output = model.train()(**batch())
    assert output.exit_layers is None
    assert len(output.exit_logits) == 3


def test_no_padding_and_no_mask_give_the_same():
    _, model = build()
    ids = batch()["input_ids"][:, :3]
    model.exit_threshold = middle_threshold(model, {"input_ids": ids})
    with torch.no_grad():
        bare, masked = model(input_ids=ids), model(input_ids=ids, attention_mask=torch.ones_like(ids))
    torch.testing.assert_close(bare.logits, masked.logits)
    assert torch.equal(bare.exit_layers, masked.exit_layers)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rows_leave_under_every_attention(attention):
    _, model = build()
    model.set_attn_implementation(attention)
    model.backbone.set_attn_implementation(attention)
    inputs = batch()
    model.exit_threshold = middle_threshold(model, inputs)
    with torch.no_grad():
        found = model(**inputs)
    assert model.backbone.config._attn_implementation == attention
    assert len(found.exit_layers.unique()) > 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_exits_are_of_the_models_type(dtype):
    model, inputs = with_exits(make_bert(3).to(dtype)), {"input_ids": torch.tensor([[2, 9, 3]])}
    assert {logits.dtype for logits in model(**inputs).exit_logits} == {dtype}
    model.exit_threshold = 1.0
    assert model(**inputs).logits.dtype == dtype


@pytest.mark.parametrize("kind", MODELS)
def test_saved_and_loaded_it_answers_the_same(kind, tmp_path):
    _, model = build(kind, layers=[1, 3])
    inputs = batch()
    model.exit_threshold = middle_threshold(model, inputs)
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(again) is EarlyExitForSequenceClassification
    assert (again.exit_threshold, list(again.config.exits)) == (model.exit_threshold, [1, 3])
    with torch.no_grad():
        found, expected = again(**inputs), model(**inputs)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.exit_layers, expected.exit_layers)
    assert not (tmp_path / "modeling_exits.py").exists()


def test_a_pipeline_of_a_folder(tmp_path):
    model = with_exits(make_bert(4, seed=1))
    model.exit_threshold = 1.0
    model.save_pretrained(tmp_path), make_tokenizer().save_pretrained(tmp_path)
    answers = pipeline("text-classification", model=str(tmp_path), device="cpu")(["a good film", "dull"])
    assert [answer["label"] in ("negative", "positive") for answer in answers] == [True, True]


def test_it_is_measured_as_any_model():
    plain = make_bert(4, seed=1)
    model = with_exits(plain)
    plan = SpeedPlan(latency_rows=2, batch_size=4, throughput_rows=4, repeats=1)
    report = measure(
        Contender(model), make_dataset(), teacher=Contender(plain), tokenizer=make_tokenizer(), speed=plan
    )
    assert report.student.fidelity["agreement"] == 1
    assert report.student.parameters == sum(p.numel() for p in model.parameters())


def test_one_layer_has_no_room_for_an_exit():
    with pytest.raises(ValueError, match=r"1 layer has no block before its last.*Leave the exits out"):
        with_exits(make_bert(1))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21
def test_an_adapter_is_merged_into_the_copy():
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["query"], init_lora_weights=False)
    model, inputs = get_peft_model(make_bert(3), config).eval(), {"input_ids": torch.tensor([[2, 9, 7, 3]])}
    torch.testing.assert_close(with_exits(model)(**inputs).logits, model(**inputs).logits)
    assert any("lora" in name for name in model.state_dict())


def test_with_more_words_it_is_loaded_as_it_was_saved(tmp_path):
    model = with_exits(make_bert(3))
    model.resize_token_embeddings(40, mean_resizing=False)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.config.vocab_size == 40
    inputs = {"input_ids": torch.tensor([[2, 39, 3]])}
    torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits)


def test_the_original_stays_as_it_was():
    plain, model = build()
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    assert not hasattr(plain.config, "exits")


def test_its_anatomy_is_that_of_the_model_inside():
    plain, model = build(layers=[2])
    assert ModelSpec.of(model) == ModelSpec(**{**vars(ModelSpec.of(plain)), "exits": (2,)})
    assert longest_input(model.config) == longest_input(plain.config) == 32
    assert (model.config.vocab_size, model.config.num_hidden_layers) == (40, 4)
    with tapped(model, {Tap("hidden", 2), Tap("exit", 2), Tap("query", 1)}) as readings:
        output = model(**batch())
    assert torch.equal(readings[Tap("exit", 2)], output.exit_logits[0])
    assert readings[Tap("hidden", 2)].shape == (ROWS, 9, 16)
    for wrong in (model, plain):
        with (
            pytest.raises(ValueError, match=r"cannot be read.*with_exits\(model, layers=\[3\]\)"),
            tapped(wrong, {Tap("exit", 3)}),
        ):
            pass


def test_a_frozen_backbone_answers_without_dropout():
    model = with_exits(make_bert(3, hidden_dropout_prob=0.5)).train()
    assert model.backbone.training
    model.backbone.requires_grad_(False)
    model.train()
    assert model.training
    assert not model.backbone.training
    inputs = {"input_ids": torch.tensor([[2, 5, 3]])}
    assert torch.equal(model(**inputs).logits, model(**inputs).logits)


def test_detached_exits_teach_their_own_heads_alone():
    for detach in (True, False):
        _, model = build(detach=detach)
        torch.stack(model(**batch()).exit_logits).square().sum().backward()
        word = model.get_input_embeddings().weight.grad
        assert (word is None) == detach
        assert all(p.grad is not None for p in model.exits.parameters())


@pytest.mark.parametrize(
    ("layers", "error", "words"),
    [
        ([0], ValueError, r"layers=\[0\] does not fit a model of 4 layers"),
        ([4], ValueError, "block 1 to 3"),
        ([2, 1], ValueError, "in this order"),
        ([], ValueError, "Write layers='all'"),
        ("most", TypeError, "neither 'all' nor a list"),
        ([1.0], TypeError, "neither 'all' nor a list"),
        (2, TypeError, "layers=2 is neither 'all' nor a list of blocks"),
    ],
)
def test_layers_that_do_not_fit(layers, error, words):
    with pytest.raises(error, match=words):
        with_exits(make_bert(4), layers=layers)


def test_layers_are_read_once_of_what_can_be_read_once():
    assert with_exits(make_bert(4), layers=iter([1, 3])).config.exits == [1, 3]


def test_models_that_cannot_have_exits():
    from transformers import (
        AlbertConfig,
        AlbertForSequenceClassification,
        DebertaV2Config,
        DebertaV2ForSequenceClassification,
    )

    with pytest.raises(TypeError, match="found Linear"):
        with_exits(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="1 outputs gives none: regression"):
        with_exits(make_bert(3, labels={0: "score"}))
    with pytest.raises(ValueError, match="tokens have one each"):
        with_exits(make_tagger(3))
    with pytest.raises(ValueError, match=r"albert cannot go on .* one group of weights"):
        with_exits(AlbertForSequenceClassification(AlbertConfig(**SIZES)))
    with pytest.raises(ValueError, match=r"deberta-v2 cannot go on .* relative positions"):
        with_exits(DebertaV2ForSequenceClassification(DebertaV2Config(**SIZES)))


@pytest.mark.parametrize("value", [0, -1, 1.1, True])
def test_thresholds_out_of_range(value):
    model = with_exits(make_bert(3))
    with pytest.raises(ValueError, match="above 0 and up to 1"):
        model.exit_threshold = value


def test_a_model_with_exits_is_not_cut_from_outside(tmp_path):
    """Its config is edited from outside and built from inside: the weights would not be the ones named."""
    model = with_exits(make_bert(3))
    with pytest.raises(ValueError, match=r"Pass model\.backbone"):
        shrink(model, layers=2)
    with pytest.raises(ValueError, match=r"Pass model\.backbone"):
        prune_vocabulary(model, make_tokenizer(), ["a film"])
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"Pass model\.backbone"):
        shrink(tmp_path, layers=2)
    with pytest.raises(ValueError, match=r"Pass model\.backbone"):
        with_exits(model)
    assert with_exits(shrink(model.backbone, layers=2)).config.exits == [1]
