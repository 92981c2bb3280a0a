"""Objectives on attention and relations against values by hand and against a float64 reference."""

import math

import numpy as np
import pytest
import torch

from hfdistill import AttentionKL, MiniLM, MiniLMv2, Tap, TinyBERTAttention
from hfdistill.objectives import attention
from tests.objectives.inside import EACH, bound, case, every_third_case, log_softmax, value

ONE = "1:1"
TERMS = [TinyBERTAttention, AttentionKL, MiniLM, MiniLMv2]
# (B, H, T, d) = (1, 1, 2, 4): one head of width 4, so √d = 2
QUERY = [[[[2.0, 0, 0, 0], [0, 2, 0, 0]]]]
KEY = [[[[1.0, 0, 0, 0], [0, 3, 0, 0]]]]
OTHER = [[[[0.0, 1, 0, 0], [1, 0, 0, 0]]]]
SIZES = {"depth": 1, "width": 4, "heads": 1}


def kl(p, q):
    """KL of two softmaxes of scores."""
    p, q = ([math.exp(x) / sum(map(math.exp, row)) for x in row] for row in (p, q))
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def readings(query=QUERY, key=KEY, some=OTHER):
    return {("query", 1): query, ("key", 1): key, ("value", 1): some}


# By hand. Student's scores: [[1, 0], [0, 3]]; teacher's, whose key is OTHER: [[0, 1], [1, 0]].


def test_tinybert_attention_by_hand():
    objective = bound(TinyBERTAttention(layers=ONE), SIZES, SIZES)
    assert value(objective, readings(), readings(key=OTHER)).item() == (1 + 1 + 1 + 9) / 4
    masked = value(objective, readings(), readings(key=OTHER), [[1, 0]])
    assert masked.item() == 1.0


def test_attention_kl_by_hand():
    objective = bound(AttentionKL(layers=ONE), SIZES, SIZES)
    expected = (kl([0, 1], [1, 0]) + kl([1, 0], [0, 3])) / 2
    assert value(objective, readings(), readings(key=OTHER)).item() == pytest.approx(expected, rel=1e-6)
    assert value(objective, readings(), readings(key=OTHER), [[1, 0]]).item() == 0  # one key has all of it


def test_minilm_by_hand():
    # Value relations: student's v = KEY gives [[1/2, 0], [0, 9/2]], teacher's v = OTHER [[1/2, 0], [0, 1/2]].
    objective = bound(MiniLM(), SIZES, SIZES)
    expected = (kl([0, 1], [1, 0]) + kl([1, 0], [0, 3])) / 2 + (0 + kl([0, 0.5], [0, 4.5])) / 2
    got = value(objective, readings(some=KEY), readings(key=OTHER, some=OTHER))
    assert got.item() == pytest.approx(expected, rel=1e-6)


def test_minilmv2_by_hand():
    # Two relation heads of width 2: √d = √2, and the second head is all zeros.
    objective = bound(MiniLMv2(relation_heads=2), SIZES, SIZES)
    root = 2**0.5
    student = kl([1 / root, 0], [1 / root, 0]) + kl([0, 1 / root], [0, 9 / root])  # key: KEY and OTHER
    got = value(objective, readings(), readings(key=OTHER))
    assert got.item() == pytest.approx(student / (2 * 2), rel=1e-6)


def test_relation_heads_are_split_after_the_heads_are_joined():
    generator = torch.Generator().manual_seed(0)
    tensors = {(kind, 1): torch.randn(2, 2, 3, 4, generator=generator) for kind in EACH}
    other = {(kind, 1): torch.randn(2, 4, 3, 6, generator=generator) for kind in EACH}
    joined = [{k: v.transpose(1, 2).flatten(2)[:, None] for k, v in x.items()} for x in (tensors, other)]
    sizes = {"depth": 1, "width": 8, "heads": 2}, {"depth": 1, "width": 24, "heads": 4}
    flat = {"depth": 1, "width": 8, "heads": 1}, {"depth": 1, "width": 24, "heads": 1}
    split = value(bound(MiniLMv2(relation_heads=4), *sizes), tensors, other)
    assert split.item() == value(bound(MiniLMv2(relation_heads=4), *flat), *joined).item()


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ((768, 12), (768, 12), 48),
        ((384, 12), (768, 12), 48),
        ((312, 12), (768, 12), 24),
        ((1024, 16), (1024, 16), 64),
        ((256, 4), (768, 12), 32),
        ((384, 12), (384, 12), 24),
        ((8, 2), (8, 2), 2),
    ],
)
def test_relation_heads_follow_from_the_teacher(student, teacher, expected):
    sizes = [{"width": width, "heads": heads} for width, heads in (student, teacher)]
    objective = bound(MiniLMv2(), *sizes)
    assert objective._heads(student[0], teacher[0]) == expected


@pytest.mark.parametrize("term", TERMS)
def test_pairs_of_layers_are_summed(term):
    generator = torch.Generator().manual_seed(0)
    student = {(kind, n): torch.randn(2, 2, 3, 4, generator=generator) for kind in EACH for n in (1, 2)}
    teacher = {(kind, n): torch.randn(2, 2, 3, 4, generator=generator) for kind in EACH for n in (1, 2)}
    one, two, both = (
        value(bound(term(layers=x)), student, teacher).item() for x in ("1:2", "2:1", "1:2, 2:1")
    )
    assert both == pytest.approx(one + two, rel=1e-6)


@pytest.mark.parametrize("term", TERMS)
def test_what_is_read(term):
    objective = bound(term())
    kinds = EACH[: len(term.kinds)]
    layers = (4,) if term in (MiniLM, MiniLMv2) else (1, 2, 3, 4)
    assert objective.taps() == (frozenset(Tap(kind, layer) for kind in kinds for layer in layers),) * 2


# Against a float64 reference


def scores(left, right):
    return left @ right.swapaxes(-1, -2) / math.sqrt(left.shape[-1])


def divergence(s, t):
    s, t = log_softmax(s), log_softmax(t)
    return (np.exp(t) * (t - s)).sum(-1).mean()


def resplit(x, heads):
    joined = np.concatenate(list(x), axis=-1)  # (T, D)
    return np.stack(np.split(joined, heads, axis=-1))


def one_row(term, s, t, relation_heads):
    """The loss of one row without padding; s and t map kinds to (H, T, d)."""
    if term is MiniLMv2:
        s, t = ({kind: resplit(x, relation_heads) for kind, x in side.items()} for side in (s, t))
        return sum(divergence(scores(s[kind], s[kind]), scores(t[kind], t[kind])) for kind in EACH)
    own, other = scores(s["query"], s["key"]), scores(t["query"], t["key"])
    if term is TinyBERTAttention:
        return ((own - other) ** 2).mean()
    values = (
        divergence(scores(s["value"], s["value"]), scores(t["value"], t["value"])) if term is MiniLM else 0
    )
    return divergence(own, other) + values


@every_third_case
@pytest.mark.parametrize("term", TERMS)
def test_1000_random_cases_are_within_1e_6_of_a_float64_reference(term, every):
    """Scores of size 20, at scale 3, have lost 1e-6 to float32 before anything is compared."""
    for number in range(0, 1000, every):
        scale, within = (1.0, 1e-6) if number < 500 else (3.0, 5e-6)
        random, draw, rows, tokens, mask = case(number, scale=scale)
        heads, widths = int(random.integers(1, 4)), 2 * random.integers(1, 5, size=2)
        s, t = ({(kind, 1): draw(rows, heads, tokens, int(w)) for kind in EACH} for w in widths)
        options = {"relation_heads": 2 * heads} if term is MiniLMv2 else {}
        sizes = [{"depth": 1, "width": heads * int(w), "heads": heads} for w in widths]
        got = value(bound(term(layers=ONE, **options), *sizes), s, t, mask).item()
        expected = 0.0
        for row in range(rows):
            sides = (
                {kind: x[kind, 1][row][:, mask[row]].astype(np.float64) for kind in EACH} for x in (s, t)
            )
            expected += one_row(term, *sides, 2 * heads) / rows
        assert got == pytest.approx(expected, rel=within, abs=1e-9)


# Gradients


@pytest.mark.parametrize("term", TERMS)
def test_the_gradient_is_the_numerical_one(term):
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(2, 2, 3, 2, generator=generator, dtype=torch.float64) for _ in range(6)]
    tensors = [2 * tensor for tensor in tensors]
    objective = bound(term(layers=ONE), {"width": 4}, {"width": 4})
    teacher = {(kind, 1): x for kind, x in zip(EACH, tensors[3:], strict=True)}
    mask = [[1, 1, 0], [1, 1, 1]]
    student = [x.requires_grad_() for x in tensors[:3]]

    def loss():
        return value(objective, {(kind, 1): x for kind, x in zip(EACH, student, strict=True)}, teacher, mask)

    loss().backward()
    for tensor in student[: len(term.kinds)]:
        for index in [(0, 0, 0, 0), (0, 1, 2, 1), (1, 0, 2, 0), (1, 1, 1, 1)]:
            values = []
            for h in (0.02, -0.02):
                with torch.no_grad():
                    tensor[index] += h
                    values.append(loss().item())
                    tensor[index] -= h
            slope = (values[0] - values[1]) / 0.04
            assert slope == pytest.approx(tensor.grad[index].item(), rel=0.02, abs=2e-5)
    assert all(not tensor.grad[0, :, 2].any() for tensor in student[: len(term.kinds)])  # padding


@pytest.mark.parametrize("term", TERMS)
def test_the_size_of_the_blocks_does_not_matter(term, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        {(k, 1): torch.randn(3, 2, 5, 4, generator=generator) for k in EACH} for _ in range(2)
    )
    results = []
    for size in (1, 60, 1 << 20):
        monkeypatch.setattr(attention, "SCORES_AT_ONCE", {"cpu": size})
        for tensor in student.values():
            tensor.requires_grad_().grad = None
        loss = value(bound(term(layers=ONE)), student, teacher)
        loss.backward()
        results.append([loss.detach(), *(x.grad for x in student.values() if x.grad is not None)])
    for other in results[1:]:
        for left, right in zip(results[0], other, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("term", TERMS)
def test_no_gradient_is_worked_out_where_none_is_wanted(term):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        {(k, 1): torch.randn(3, 2, 5, 4, generator=generator) for k in EACH} for _ in range(2)
    )
    loss = value(bound(term(layers=ONE)), student, teacher)
    assert not loss.requires_grad
    student["query", 1].requires_grad_()
    again = value(bound(term(layers=ONE)), student, teacher)
    assert again.item() == loss.item()
    again.backward()
    assert student["query", 1].grad.abs().sum() > 0


@pytest.mark.parametrize("term", [AttentionKL, MiniLM, MiniLMv2])
@pytest.mark.parametrize("scale", [10.0, 100.0, 1000.0])
def test_distributions_that_are_far_apart_are_still_compared(term, scale):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        {(k, 1): scale * torch.randn(2, 2, 4, 4, generator=generator) for k in EACH} for _ in range(2)
    )
    sides = [{k: x[k, 1].double().numpy() for k in EACH} for x in (student, teacher)]
    expected = np.mean([one_row(term, *({k: x[k][row] for k in EACH} for x in sides), 2) for row in range(2)])
    for tensor in student.values():
        tensor.requires_grad_()
    loss = value(bound(term(layers=ONE)), student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert all(x.grad is None or x.grad.isfinite().all() for x in student.values())


def test_what_waits_for_no_device_computes_the_same(monkeypatch):
    """On a GPU the choice between the two forms of the divergence is made row by row, on the device."""
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool()
    padding = torch.zeros(2, 1, 4).masked_fill(~mask[:, None], attention.MASKED)
    for factor, within in ((1.0, 1e-6), (200.0, 1e-4)):  # exp overflows in some rows
        own, other = (factor * torch.randn(2, 4, 4) + padding for _ in range(2))
        exact_p, exact_q = (x.double().softmax(-1) for x in (other, own))
        logs = [x.double().log_softmax(-1) for x in (other, own)]
        each = (exact_p * (logs[0] - logs[1])).where(exact_p > 0, 0.0).sum(-1)
        expected = (each * mask).sum(-1) / mask.sum(-1)
        for free in (True, False):
            monkeypatch.setattr(attention, "reads_back_for_free", lambda device, free=free: free)
            found, slope = attention._divergence(own.clone(), other.clone(), mask)
            torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=within)
            share = (mask / mask.sum(-1, keepdim=True))[:, :, None]
            torch.testing.assert_close(slope.double(), (exact_q - exact_p) * share, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("term", TERMS)
def test_autocast_around_a_term_does_not_reach_it(term, dtype):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        {(k, 1): torch.randn(3, 2, 5, 4, generator=generator) for k in EACH} for _ in range(2)
    )
    expected = value(bound(term(layers=ONE)), student, teacher)
    with torch.autocast("cpu", dtype=dtype):
        assert value(bound(term(layers=ONE)), student, teacher) == expected


# Identity


@pytest.mark.parametrize("term", TERMS)
def test_a_student_that_is_the_teacher_has_nothing_to_learn(term):
    generator = torch.Generator().manual_seed(0)
    own = {(k, n): torch.randn(3, 2, 5, 4, generator=generator) for k in EACH for n in (1, 2, 3, 4)}
    mask = [[1] * 5, [1] * 3 + [0] * 2, [0] + [1] * 4]
    objective = bound(term(layers="first"))
    assert value(objective, own, own, mask).item() == 0
    shifted = {(k, n): own[k, n % 4 + 1] for k in EACH for n in (1, 2, 3, 4)}
    assert value(objective, shifted, own, mask) > 0.01


# What is refused


@pytest.mark.parametrize("term", [TinyBERTAttention, AttentionKL, MiniLM])
def test_other_numbers_of_heads_are_refused_with_the_way_out(term):
    name = term.__name__
    with pytest.raises(
        ValueError, match=rf"{name} needs as many heads.*found 4 .*2 .*with 2 heads, or use MiniLMv2"
    ):
        bound(term(), {"heads": 4})
    bound(MiniLMv2(), {"heads": 4})


@pytest.mark.parametrize(("heads", "proposal"), [(3, 2), (5, 4), (48, 8)])
def test_relation_heads_that_do_not_divide_the_widths_are_refused(heads, proposal):
    with pytest.raises(
        ValueError, match=rf"widths 8 .* 16 .*{heads} does not divide.*relation_heads={proposal}"
    ):
        bound(MiniLMv2(relation_heads=heads), {"width": 8}, {"width": 16})


@pytest.mark.parametrize("heads", [0, -1, 1.5, True, "48"])
def test_relation_heads_are_a_number(heads):
    with pytest.raises(ValueError, match=r"relation_heads is a number from 1 up, found .*Usual: 48"):
        MiniLMv2(relation_heads=heads)


@pytest.mark.parametrize("term", TERMS)
def test_networks_without_readable_attention_are_refused_with_the_reason(term):
    with pytest.raises(
        ValueError, match=r"of the teacher, a deberta: one projection interleaves.*HiddenMSE\(\)"
    ):
        bound(term(), (), {"model_type": "deberta"})
    with pytest.raises(ValueError, match="no attention whose query, key and value are known"):
        bound(term(), {"heads": 0}, {"heads": 0})


@pytest.mark.parametrize("model_type", ["deberta-v2", "mpnet", "modernbert"])
def test_attention_that_is_more_than_query_and_key_is_refused_but_relations_are_not(model_type):
    for term in (TinyBERTAttention, AttentionKL, MiniLM):
        with pytest.raises(
            ValueError, match=rf"attention of the student, a {model_type}: .*Use MiniLMv2\(\)"
        ):
            bound(term(), {"model_type": model_type})
    bound(MiniLMv2(), {"model_type": model_type})


@pytest.mark.parametrize("term", TERMS)
def test_different_tokens_are_refused(term):
    with pytest.raises(ValueError, match=r"different tokens.*RKD\(\)"):
        bound(term(), same_tokens=False)
    short, long = ({(k, 1): torch.zeros(2, 2, n, 4) for k in EACH} for n in (1, 3))
    with pytest.raises(ValueError, match=r"\(2, (2|8), 1\) in the student and \(2, (2|8), 3\)"):
        value(bound(term(layers=ONE)), short, long)


@pytest.mark.parametrize("term", TERMS)
def test_the_embeddings_have_no_attention(term):
    with pytest.raises(ValueError, match=r"pair 0:0.*layers are 1 to 4"):
        bound(term(layers="0:0"))
