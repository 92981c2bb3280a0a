"""Objectives on hidden states against values worked out by hand and against a float64 reference."""

import logging

import numpy as np
import pytest
import torch

from hfdistill import PKD, EmbeddingMSE, HiddenCosine, HiddenMSE, Tap
from tests.objectives.inside import bound, case, every_third_case, value

S = [[[1.0, 2.0], [3.0, 0.0], [0.0, 4.0]], [[3.0, 4.0], [9.0, 9.0], [9.0, 9.0]]]  # (2, 3, 2)
T = [[[0.0, 2.0], [1.0, 0.0], [2.0, 0.0]], [[4.0, 3.0], [7.0, 7.0], [7.0, 7.0]]]
MASK = [[1, 1, 1], [1, 0, 0]]
LEFT = [[1, 1, 1], [0, 0, 1]]
SMALL = {"width": 2, "depth": 1}
ONE = "1:1"


def small(objective):
    return bound(objective, SMALL, SMALL)


def hidden(values, layer=1):
    return {("hidden", layer): values}


# By hand


def test_hidden_mse_by_hand():
    # Row 1: tokens (1 + 0)/2, (4 + 0)/2, (4 + 16)/2, their mean 12.5/3. Row 2: one real token, (1 + 1)/2.
    loss = value(small(HiddenMSE(layers=ONE)), hidden(S), hidden(T), MASK)
    assert loss.item() == pytest.approx((12.5 / 3 + 1.0) / 2, rel=1e-6)


def test_without_a_mask_every_token_counts():
    loss = value(small(HiddenMSE(layers=ONE)), hidden(S), hidden(T))
    assert loss.item() == pytest.approx((12.5 / 3 + (1 + 4 + 4) / 3) / 2, rel=1e-6)


def test_pooling_takes_the_mean_over_real_tokens_or_the_first_real_one():
    mean = value(small(HiddenMSE(layers=ONE, pooling="mean")), hidden(S), hidden(T), MASK)
    assert mean.item() == pytest.approx((((4 / 3 - 1) ** 2 + (2 - 2 / 3) ** 2) / 2 + 1.0) / 2, rel=1e-6)
    first = value(small(HiddenMSE(layers=ONE, pooling="cls")), hidden(S), hidden(T), MASK)
    assert first.item() == pytest.approx((0.5 + 1.0) / 2, rel=1e-6)
    left = value(small(HiddenMSE(layers=ONE, pooling="cls")), hidden(S), hidden(T), LEFT)
    assert left.item() == pytest.approx((0.5 + 4.0) / 2, rel=1e-6)


def test_pooled_rows_may_have_other_tokens():
    other = [[[0.0, 2.0]], [[4.0, 3.0]]]
    objective = bound(HiddenMSE(layers=ONE, pooling="cls"), SMALL, SMALL, same_tokens=False)
    loss = value(objective, hidden(S), hidden(other), MASK, teacher_mask=[[1], [1]])
    assert loss.item() == pytest.approx((0.5 + 1.0) / 2, rel=1e-6)


def test_hidden_cosine_by_hand():
    cosines = [4 / (5**0.5 * 2), 1.0, 0.0]
    loss = value(small(HiddenCosine(layers=ONE)), hidden(S), hidden(T), MASK)
    expected = ((3 - sum(cosines)) / 3 + (1 - 24 / 25)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_pkd_by_hand():
    # ‖u - v‖² = 2 - 2 cos of the first real token.
    loss = value(small(PKD(layers=ONE)), hidden(S), hidden(T), MASK)
    assert loss.item() == pytest.approx((2 - 2 * 4 / (5**0.5 * 2) + 2 - 2 * 24 / 25) / 2, rel=1e-6)


def test_embedding_mse_is_hidden_mse_at_layer_0():
    objective = small(EmbeddingMSE())
    assert objective.taps() == (frozenset({Tap("hidden", 0)}),) * 2
    loss = value(objective, hidden(S, 0), hidden(T, 0), MASK)
    assert loss.item() == value(small(HiddenMSE(layers=ONE)), hidden(S), hidden(T), MASK).item()


@pytest.mark.parametrize("term", [HiddenMSE, HiddenCosine, PKD])
def test_pairs_of_layers_are_summed(term):
    pairs = [("1:3", 1, 3), ("2:2", 2, 2)]
    values = {1: S, 2: T}, {3: T, 2: np.flip(S, 0).copy().tolist()}
    own, other = ({("hidden", layer): v for layer, v in side.items()} for side in values)
    sizes = {"width": 2, "depth": 2}, {"width": 2, "depth": 3}
    alone = [value(bound(term(layers=text), *sizes), own, other, MASK).item() for text, _, _ in pairs]
    both = value(bound(term(layers="1:3, 2:2"), *sizes), own, other, MASK).item()
    assert both == pytest.approx(sum(alone), rel=1e-6)


# Against a float64 reference


def reference(s, t, mask, *, pooling, distance):
    """Mean over rows, each by itself, of the mean over its real tokens."""
    rows = []
    for own, other, real in zip(s.astype(np.float64), t.astype(np.float64), mask, strict=True):
        own, other = own[real], other[real]
        if pooling == "cls":
            own, other = own[:1], other[:1]
        elif pooling == "mean":
            own, other = own.mean(0, keepdims=True), other.mean(0, keepdims=True)
        rows.append(np.mean([distance(a, b) for a, b in zip(own, other, strict=True)]))
    return np.mean(rows)


def unit(x):
    return x / np.linalg.norm(x)


DISTANCES = {
    HiddenMSE: lambda a, b: ((a - b) ** 2).mean(),
    EmbeddingMSE: lambda a, b: ((a - b) ** 2).mean(),
    HiddenCosine: lambda a, b: 1 - unit(a) @ unit(b),
    PKD: lambda a, b: ((unit(a) - unit(b)) ** 2).sum(),
}
POOLINGS = {
    HiddenMSE: [({}, "token"), ({"pooling": "mean"}, "mean"), ({"pooling": "cls"}, "cls")],
    HiddenCosine: [({}, "token"), ({"pooling": "mean"}, "mean")],
    PKD: [({}, "cls")],
    EmbeddingMSE: [({}, "token")],
}


@every_third_case
@pytest.mark.parametrize("term", POOLINGS)
def test_1000_random_cases_are_within_1e_6_of_a_float64_reference(term, every):
    layer, map_ = (0, {}) if term is EmbeddingMSE else (1, {"layers": ONE})
    for number in range(0, 1000, every):
        options, pooling = POOLINGS[term][number * len(POOLINGS[term]) // 1000]
        random, draw, rows, tokens, mask = case(number)
        width = int(random.integers(2, 9))
        s, t = draw(rows, tokens, width), draw(rows, tokens, width)
        sizes = {"width": width, "depth": 1}
        got = value(
            bound(term(**map_, **options), sizes, sizes), hidden(s, layer), hidden(t, layer), mask
        ).item()
        expected = reference(s, t, mask, pooling=pooling, distance=DISTANCES[term])
        assert got == pytest.approx(expected, rel=1e-6)


# Identity


@pytest.mark.parametrize(
    "objective",
    [
        HiddenMSE(layers="first"),
        HiddenMSE(layers="first", projection="linear"),
        HiddenMSE(layers="first", pooling="mean"),
        HiddenCosine(layers="first"),
        PKD(layers="first"),
        EmbeddingMSE(),
    ],
    ids=repr,
)
def test_a_student_that_is_the_teacher_has_nothing_to_learn(objective):
    generator = torch.Generator().manual_seed(0)
    states = {("hidden", layer): torch.randn(3, 5, 8, generator=generator) for layer in range(5)}
    mask = [[1] * 5, [1] * 3 + [0] * 2, [1] * 4 + [0]]
    assert value(bound(objective), states, states, mask).item() == 0
    shifted = {("hidden", layer): states["hidden", (layer + 1) % 5] for layer in range(5)}
    assert value(bound(objective), shifted, states, mask) > 0.1


# Projections


@pytest.mark.parametrize("objective", [HiddenMSE(), HiddenCosine(), EmbeddingMSE()], ids=repr)
def test_other_widths_get_a_projection_that_learns(objective, caplog):
    before = torch.random.get_rng_state()
    with caplog.at_level(logging.INFO):
        bound(objective, {"width": 6, "heads": 2}, {"width": 8})
    assert torch.equal(torch.random.get_rng_state(), before)
    assert "from width 6 to 8 (48 parameters), trained with the student and not exported" in caplog.text
    (weight,) = objective.parameters()
    assert weight.shape == (8, 6)
    assert weight.dtype == torch.float32
    assert 0.3 < weight.abs().max() <= 6**-0.5
    own, other = objective.taps()
    student = {(tap.kind, tap.layer): torch.randn(2, 3, 6) for tap in own}
    teacher = {(tap.kind, tap.layer): torch.randn(2, 3, 8) for tap in other}
    value(objective, student, teacher).backward()
    assert weight.grad.abs().sum() > 0


def test_a_projection_is_the_same_at_every_construction_and_again_after_bind():
    first, second = (bound(HiddenMSE(), {"width": 6}).project.weight for _ in range(2))
    assert torch.equal(first, second)


def test_a_projection_is_what_it_says():
    objective = bound(HiddenMSE(layers=ONE), {"width": 1, "depth": 1}, SMALL)
    with torch.no_grad():
        objective.project.weight.copy_(torch.tensor([[2.0], [-1.0]]))
    loss = value(objective, hidden([[[1.0]]]), hidden([[[0.0, 3.0]]]))
    assert loss.item() == (2.0**2 + 4.0**2) / 2


def test_equal_widths_get_none_unless_it_is_asked_for():
    assert list(bound(HiddenMSE()).parameters()) == []
    (weight,) = bound(HiddenMSE(projection="linear")).parameters()
    assert torch.equal(weight, torch.eye(8))


# What is refused


@pytest.mark.parametrize(
    ("objective", "sizes", "message"),
    [
        (
            HiddenMSE(projection="identity"),
            {"width": 6},
            "6 wide in the student and 8.*Leave projection at None",
        ),
        (PKD(), {"width": 6}, r"without a projection.*HiddenCosine\(layers='pkd-skip', pooling='cls'\)"),
        (PKD(), {"depth": 1}, r"pkd-skip pairs no layers.*nothing would be learnt.*'1:4'"),
        (HiddenMSE(layers="5:1"), {}, r"pair 5:1.*student's layers are 0 to 4.*'1:1, 2:2, 3:3, 4:4'"),
        (HiddenMSE(layers="1:5"), {}, "teacher's 0 to 4"),
    ],
    ids=repr,
)
def test_what_does_not_fit_is_refused_when_bound(objective, sizes, message):
    with pytest.raises(ValueError, match=message):
        bound(objective, sizes)


@pytest.mark.parametrize("objective", [HiddenMSE(), HiddenCosine(), EmbeddingMSE()], ids=repr)
def test_different_tokens_are_refused_without_pooling(objective):
    with pytest.raises(ValueError, match=r"different tokens. Use a term that pools.*pooling='mean'"):
        bound(objective, same_tokens=False)


@pytest.mark.parametrize(
    "objective", [HiddenMSE(pooling="mean"), HiddenCosine(pooling="cls"), PKD()], ids=repr
)
def test_different_tokens_pass_with_pooling(objective):
    bound(objective, same_tokens=False)


def test_wrong_names_are_refused_at_construction():
    with pytest.raises(ValueError, match="pooling is one of 'token', 'cls', 'mean', found 'max'"):
        HiddenMSE(pooling="max")
    with pytest.raises(ValueError, match="projection is None, 'linear' or 'identity', found 'mlp'"):
        HiddenCosine(projection="mlp")
    with pytest.raises(ValueError, match="cannot be read"):
        PKD(layers="every")


def test_readings_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 1\).*pooling='mean'"):
        value(small(HiddenMSE(layers=ONE)), hidden(S), hidden([[[0.0, 2.0]], [[4.0, 3.0]]]))
    with pytest.raises(ValueError, match=r"\(2, 3\), the attention mask \(2, 2\).*prompt tuning"):
        value(small(HiddenMSE(layers=ONE)), hidden(S), hidden(T), [[1, 1], [1, 1]])


def test_a_row_of_padding_alone_weighs_nothing():
    loss = value(small(HiddenMSE(layers=ONE)), hidden(S), hidden(T), [[1, 1, 1], [0, 0, 0]])
    assert loss.item() == pytest.approx(12.5 / 3 / 2, rel=1e-6)
