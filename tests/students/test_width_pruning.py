"""Narrower students: what does nothing goes first, and what stays is the teacher's."""

import logging

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from hfdistill.network.architectures import layout_of
from hfdistill.students.bilstm import bilstm_from_teacher
from hfdistill.students.importance import taylor_importance
from hfdistill.students.shrink import shrink
from hfdistill.students.width_pruning import named_size
from tests.conftest import make_bert, make_tokenizer
from tests.network.test_architectures import TINY, batch, tiny

DATA = [batch(), batch(rows=2, tokens=9)]
CUTTABLE = sorted(set(TINY) - {"deberta", "mobilebert"})
each = pytest.mark.parametrize("model_type", CUTTABLE)


def logits(model):
    with torch.no_grad():
        return model(**batch()).logits


def parts(model):
    return list(model.base_model.get_submodule(layout_of(model).blocks))


@each
def test_all_of_it_is_the_teacher(model_type):
    teacher = tiny(model_type)
    assert torch.equal(logits(teacher), logits(shrink(teacher, ffn=32, width=16, data=DATA)))


@each
def test_neurons_that_nothing_reads_go_first(model_type):
    teacher = tiny(model_type)
    for i, block in enumerate(parts(teacher)):
        block.get_submodule(layout_of(teacher).down).weight.data[:, i % 3 :: 3] = 0
    student = shrink(teacher, ffn=22, data=DATA)
    torch.testing.assert_close(logits(student), logits(teacher), rtol=0, atol=1e-5)
    assert student.num_parameters() < teacher.num_parameters()


@each
def test_every_direction_at_once(model_type, tmp_path):
    teacher = tiny(model_type, **({"embedding_size": 12} if model_type == "electra" else {}))
    before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    student = shrink(teacher, layers=2, width=8, ffn=12, data=DATA)
    assert student.num_parameters() < 0.6 * teacher.num_parameters()
    assert all(torch.equal(before[name], weight) for name, weight in teacher.state_dict().items())
    assert {"width": 8, "heads": 1, "ffn": 12}.items() <= student.config.shrunk_from.items()
    student.save_pretrained(tmp_path)
    loaded, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(logits(student), logits(loaded))
    student(**batch(), labels=torch.tensor([0, 1, 2])).loss.backward()
    assert [name for name, parameter in student.named_parameters() if parameter.grad is None] == []
    assert logits(student).std(0).min() > 1e-4


def test_what_stays_is_the_most_important():
    teacher = tiny("bert")
    worth = taylor_importance(teacher, DATA)
    student = shrink(teacher, heads=1, ffn=10, data=DATA)
    assert student.config.hidden_size == 8
    dimensions = worth.width.topk(8).indices.sort().values
    words = teacher.bert.embeddings.word_embeddings.weight[:, dimensions]
    assert torch.equal(student.bert.embeddings.word_embeddings.weight, words)
    for i, (mine, theirs) in enumerate(zip(parts(student), parts(teacher), strict=True)):
        head = worth.heads[i].argmax() * 8 + torch.arange(8)
        neurons = worth.neurons[i].topk(10).indices.sort().values
        for name, (rows, columns) in {
            "attention.self.key": (head, dimensions),
            "attention.output.dense": (dimensions, head),
            "intermediate.dense": (neurons, dimensions),
            "output.dense": (dimensions, neurons),
        }.items():
            new, old = mine.get_submodule(name), theirs.get_submodule(name)
            assert torch.equal(new.weight, old.weight[rows][:, columns])
            assert torch.equal(new.bias, old.bias[rows])
        assert torch.equal(mine.output.LayerNorm.weight, theirs.output.LayerNorm.weight[dimensions])
    assert torch.equal(student.classifier.weight, teacher.classifier.weight[:, dimensions])


def test_query_key_value_and_gate_of_one_projection_are_cut_alike():
    teacher = tiny("modernbert")
    worth = taylor_importance(teacher, DATA)
    student = shrink(teacher, width=8, ffn=10, data=DATA)
    dimensions = worth.width.topk(8).indices.sort().values
    for i, (mine, theirs) in enumerate(zip(parts(student), parts(teacher), strict=True)):
        head = worth.heads[i].argmax() * 8 + torch.arange(8)
        neurons = worth.neurons[i].topk(10).indices.sort().values
        rows = torch.cat([head, head + 16, head + 32])
        assert torch.equal(mine.attn.Wqkv.weight, theirs.attn.Wqkv.weight[rows][:, dimensions])
        rows = torch.cat([neurons, neurons + 32])
        assert torch.equal(mine.mlp.Wi.weight, theirs.mlp.Wi.weight[rows][:, dimensions])


def test_heads_that_share_a_bias_are_the_same_in_every_block():
    teacher = tiny("mpnet")
    worth = taylor_importance(teacher, DATA)
    head = torch.stack(worth.heads).sum(0).argmax()
    student = shrink(teacher, width=8, data=DATA)
    path = "encoder.relative_attention_bias"
    mine, theirs = (model.base_model.get_submodule(path).weight for model in (student, teacher))
    assert torch.equal(mine, theirs[:, head : head + 1])


def test_electras_projection_of_embeddings():
    teacher = tiny("electra", embedding_size=16)
    assert shrink(teacher, width=8, data=DATA).config.embedding_size == 8
    with pytest.raises(ValueError, match="width 8 has no projection from its embedding_size=8"):
        shrink(tiny("electra"), width=8, data=DATA)


def test_depth_and_the_rest_are_cut_independently():
    teacher = tiny("roberta")
    both = shrink(teacher, layers=[2, 4], ffn=9, data=DATA)
    after = shrink(shrink(teacher, ffn=9, data=DATA), layers=[2, 4])
    assert torch.equal(logits(both), logits(after))
    assert both.config.shrunk_from == {"model": "", "layers": [2, 4], "ffn": 9}


def test_sizes_by_name():
    assert named_size("mini") == {"layers": 4, "width": 256, "ffn": 1024}
    teacher = make_bert(
        6,
        hidden_size=256,
        num_attention_heads=4,
        intermediate_size=1024,
        vocab_size=40,
        max_position_embeddings=40,
    )
    data = [{name: value.clamp(max=39) for name, value in batch().items()}]
    student = shrink(teacher, size="tiny", data=data)
    config = student.config
    assert (config.num_hidden_layers, config.hidden_size) == (2, 128)
    assert (config.num_attention_heads, config.intermediate_size) == (2, 512)
    given = shrink(teacher, size="tiny", layers=3, heads=3, data=data).config
    assert (given.num_hidden_layers, given.hidden_size, given.intermediate_size) == (3, 192, 512)


def test_tells_what_is_kept_and_what_it_costs(caplog):
    with caplog.at_level(logging.INFO, logger="hfdistill.students.shrink"):
        shrink(tiny("bert"), layers=3, width=8, ffn=16, data=DATA)
    assert caplog.messages[-1].startswith(
        "Kept blocks 2, 3, 5 of 5; width 8 of 16; heads 1 of 2; ffn 16 of 32: "
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"asked for nothing. Write layers=3"),
        ({"width": 9}, r"width=9 does not fit.*2 heads of 8.*Choose a width of 8, 16"),
        ({"width": 24}, r"width=24 does not fit"),
        ({"width": 8, "heads": 2}, r"width=8, heads=2 does not fit"),
        ({"heads": 0}, r"heads=0 does not fit"),
        ({"ffn": 33}, r"ffn=33 does not fit a teacher of 32 neurons"),
        ({"ffn": True}, r"ffn=True"),
        ({"size": "large"}, r"size='large' is not a size.*tiny, mini, small, medium"),
        ({"size": "tiny"}, r"width=128 does not fit"),
        ({"ffn": 8, "data": None}, r"no data to measure it on.*return_tensors='pt'"),
    ],
    ids=str,
)
def test_sizes_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        shrink(tiny("bert"), **{"data": DATA, **options})


@pytest.mark.parametrize("model_type", ["deberta", "mobilebert"])
def test_architectures_that_cannot_be_narrowed(model_type):
    with pytest.raises(ValueError, match=rf"of this {model_type} cannot be cut: .*Cut its depth"):
        shrink(tiny(model_type), ffn=8, data=DATA)


def test_a_bilstm_can_be_cut_in_depth_alone():
    torch.manual_seed(0)
    student = bilstm_from_teacher(make_bert(1), make_tokenizer(), hidden_size=20, layers=3)
    assert shrink(student, layers=2).config.shrunk_from["layers"] == [1, 3]
    with pytest.raises(ValueError, match="it has no heads"):
        shrink(student, width=10, data=DATA)
