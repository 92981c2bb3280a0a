"""What parts are worth, against removing them."""

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForTokenClassification

from hfdistill.network.architectures import blocks, layout_of
from hfdistill.students.calibration import _batches
from hfdistill.students.importance import _loss, block_importance, most_important, taylor_importance
from hfdistill.students.shrink import shrink
from tests.network.test_architectures import TINY, batch, tiny

BATCHES = [batch(), batch(rows=2, tokens=9)]


def answers(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits.double()


@pytest.mark.parametrize("model_type", ["albert", "bert", "deberta", "distilbert", "mobilebert", "roberta"])
def test_a_blocks_worth_is_what_its_loss_changes(model_type):
    teacher = tiny(model_type)
    worth = block_importance(teacher, BATCHES)
    for number in (1, 4):
        others = [m for m in range(1, 6) if m != number]
        total = 0.0
        for inputs in BATCHES:
            whole, cut = (
                F.log_softmax(answers(m, inputs), -1) for m in (teacher, shrink(teacher, layers=others))
            )
            total += (whole.exp() * (whole - cut)).sum().item()
        assert worth[number - 1] == pytest.approx(total / 5, rel=1e-4)


def test_of_real_values_the_squared_change_counts():
    teacher = tiny("bert", id2label={0: "score"}, label2id={"score": 0}, problem_type="regression")
    worth = block_importance(teacher, BATCHES[:1])
    cut = answers(shrink(teacher, layers=[1, 2, 3, 4]), BATCHES[0])
    assert worth[4] == pytest.approx((answers(teacher, BATCHES[0]) - cut).square().mean().item(), rel=1e-4)


def test_where_tokens_are_labelled_padding_counts_nothing():
    teacher = tiny("bert", auto=AutoModelForTokenClassification)
    teacher.config.architectures = ["BertForTokenClassification"]
    longer = {name: F.pad(value, (0, 5)) for name, value in BATCHES[0].items()}
    labels = torch.randint(3, (3, 12), generator=torch.Generator().manual_seed(0))
    assert block_importance(teacher, [BATCHES[0]]) == pytest.approx(
        block_importance(teacher, [longer]), rel=1e-4
    )
    short, long = (
        taylor_importance(
            teacher, [{**inputs, "labels": F.pad(labels, (0, inputs["input_ids"].shape[1] - 12), value=-100)}]
        )
        for inputs in (BATCHES[0], longer)
    )
    torch.testing.assert_close(short.width, long.width, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.stack(short.heads), torch.stack(long.heads), rtol=1e-4, atol=1e-6)


def test_a_block_that_does_nothing_is_worth_nothing():
    teacher = tiny("modernbert")
    block = blocks(teacher)[2]
    for name in ("attn.Wo", "mlp.Wo"):
        block.get_submodule(name).weight.data.zero_()
    worth = block_importance(teacher, BATCHES)
    assert worth[2] == pytest.approx(0, abs=1e-9)
    kept = most_important(worth, 4)
    assert kept == [1, 2, 4, 5]
    assert torch.allclose(
        answers(teacher, BATCHES[0]), answers(shrink(teacher, layers=kept), BATCHES[0]), atol=1e-5
    )


def test_most_important():
    assert most_important([0.1, 0.5, 0.1, 0.7], 2) == [2, 4]
    assert most_important([0.1, 0.5, 0.1, 0.7], 3) == [1, 2, 4]
    with pytest.raises(ValueError, match=r"Found 2 blocks, asked for 3\. Choose 1 to 2"):
        most_important([1, 2], 3)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_head_is_worth_the_gradient_of_its_gate(labelled):
    """Michel et al.: the head's output times a gate of 1, and the gate's gradient, row by row."""
    teacher, inputs = tiny("bert"), batch()
    labels = torch.tensor([2, 0, 1])
    found = taylor_importance(teacher, [{**inputs, "labels": labels} if labelled else inputs])
    module = blocks(teacher)[1].attention.output.dense
    expected = torch.zeros(2, dtype=torch.float64)
    for row in range(3):
        gate = torch.ones(2, requires_grad=True)
        hook = module.register_forward_pre_hook(
            lambda _m, args, gate=gate: ((args[0].unflatten(-1, (2, -1)) * gate[:, None]).flatten(-2),)
        )
        logits = teacher(**{name: value[row : row + 1] for name, value in inputs.items()}).logits
        hook.remove()
        target = labels[row : row + 1] if labelled else logits.argmax(-1)
        expected += torch.autograd.grad(F.cross_entropy(logits, target), gate)[0].abs().double()
    torch.testing.assert_close(found.heads[1], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("model_type", sorted(set(TINY) - {"deberta", "mobilebert"}))
def test_sizes_and_what_is_left_behind(model_type):
    teacher = tiny(model_type).requires_grad_(False)
    teacher.classifier.train()
    found = taylor_importance(teacher, BATCHES)
    count = len(teacher.base_model.get_submodule(layout_of(teacher).blocks))
    assert found.width.shape == (16,)
    assert [scores.shape for scores in found.heads] == [(2,)] * count
    assert [scores.shape for scores in found.neurons] == [(32,)] * count
    assert all((scores > 0).any() for scores in (found.width, *found.heads, *found.neurons))
    assert all(not p.requires_grad and p.grad is None for p in teacher.parameters())
    assert teacher.classifier.training
    assert not teacher.training
    assert not any(module._forward_pre_hooks for module in teacher.modules())


def test_rows_without_a_label_are_judged_by_the_model():
    teacher, inputs = tiny("bert"), BATCHES[0]
    answers = teacher(**inputs).logits.argmax(-1)
    labels = torch.stack([1 - answers[0], answers[1], answers[2]])
    partly = torch.tensor([labels[0], -100, -100])
    one, other, bare, none = (
        taylor_importance(teacher, [{**inputs, **given}]).width
        for given in ({"labels": labels}, {"labels": partly}, {}, {"labels": torch.full((3,), -100)})
    )
    assert torch.equal(one, other)
    assert torch.equal(bare, none)


@pytest.mark.parametrize("data", [[], [torch.ones(2)], [{"text": "a"}]], ids=str)
def test_data_that_is_none(data):
    for measured in (block_importance, taylor_importance):
        with pytest.raises(ValueError, match=r"data holds none.*return_tensors='pt'"):
            measured(tiny("bert"), data)


def test_the_loss_of_real_values_is_their_size():
    values = tiny("bert", id2label={0: "score"}, label2id={"score": 0}, problem_type="regression")
    assert _loss(values, BATCHES[0]).item() == pytest.approx(float(answers(values, BATCHES[0]).abs().sum()))


def test_batches_are_told_from_texts():
    inputs = {**batch(), "labels": torch.tensor([0])}
    assert [set(one) for one in _batches(inputs)] == [set(batch())]
    assert [set(one) for one in _batches([inputs, batch()])] == [set(batch())] * 2
    for texts in ("a text", ["a text"], {"text": ["a"]}, 3, [], [{"input_ids": [1, 2]}]):
        assert _batches(texts) is None


def test_batches_of_a_data_loader_are_drawn_once():
    rows = [{"input_ids": torch.tensor([2, number, 3]), "labels": number} for number in range(5, 9)]
    drawn = _batches(torch.utils.data.DataLoader(rows, batch_size=3, shuffle=True))
    assert [one["input_ids"].shape for one in drawn] == [(3, 3), (1, 3)]
    assert sorted(int(row[1]) for one in drawn for row in one["input_ids"]) == [5, 6, 7, 8]
    assert not any("labels" in one for one in drawn)
