"""The sums of a ridge regression against dense solutions."""

import math

import numpy as np
import pytest
import torch

from hfdistill.students.least_squares import NormalEquations, best_ridge, exact_device


def rows(count=60, features=7, outputs=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(count, features, generator=generator, dtype=torch.float64)
    right = left @ torch.randn(features, outputs, generator=generator, dtype=torch.float64)
    weights = torch.rand(count, generator=generator, dtype=torch.float64) + 0.1
    return left, right + 0.1 * torch.randn(count, outputs, generator=generator, dtype=torch.float64), weights


def summed(left, right, weights, *, pieces=4):
    sums = NormalEquations(left.shape[1], right.shape[1])
    for part in zip(left.chunk(pieces), right.chunk(pieces), weights.chunk(pieces), strict=True):
        sums.add(*part)
    return sums


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 1.0])
def test_the_solution_is_that_of_the_stacked_rows(ridge):
    """lstsq on [√w F; √λ 1] and [√w R; 0]."""
    left, right, weights = rows()
    scaled = (left * weights.sqrt()[:, None]).numpy()
    penalty = ridge * np.square(scaled).sum(0).mean()
    stacked = np.vstack([scaled, np.sqrt(penalty) * np.eye(7)])
    targets = np.vstack([(right * weights.sqrt()[:, None]).numpy(), np.zeros((7, 3))])
    expected = np.linalg.lstsq(stacked, targets, rcond=None)[0]
    sums = summed(left, right, weights)
    np.testing.assert_allclose(sums.solve(ridge).numpy(), expected, rtol=0, atol=1e-10)
    left_over = np.square(targets[:60] - scaled @ expected).sum()
    assert sums.remaining(sums.solve(ridge)) == pytest.approx(left_over, rel=1e-10)


def test_fewer_rows_than_features_give_the_smallest_solution():
    left, right, weights = rows(count=4)
    expected = np.linalg.lstsq(left.numpy(), right.numpy(), rcond=None)[0]
    sums = summed(left, right, torch.ones_like(weights), pieces=2)
    np.testing.assert_allclose(sums.solve(0.0).numpy(), expected, atol=1e-8)


def test_an_infinite_ridge_changes_nothing():
    sums = summed(*rows())
    assert not sums.solve(math.inf).any()
    assert sums.remaining(sums.solve(math.inf)) == pytest.approx(sums.residual)


def test_sums_add_up():
    left, right, weights = rows()
    both = summed(left[:20], right[:20], weights[:20]) + summed(left[20:], right[20:], weights[20:])
    whole = summed(left, right, weights, pieces=1)
    torch.testing.assert_close(both.gram, whole.gram, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(both.solve(1e-3), whole.solve(1e-3), rtol=1e-10, atol=1e-12)
    assert (both.weight, both.residual) == pytest.approx((whole.weight, whole.residual))


def test_the_best_ridge_is_that_of_the_held_out_rows():
    left, right, weights = rows(count=12)
    noise = right + 3 * torch.randn(right.shape, generator=torch.Generator().manual_seed(5))
    fit, held_out = summed(left, noise, weights), summed(*rows(seed=1))
    chosen, remaining = best_ridge(fit, held_out)
    assert (
        remaining
        == held_out.remaining(fit.solve(chosen))
        == min(
            held_out.remaining(fit.solve(ridge)) for ridge in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, math.inf)
        )
    )
    unrelated = summed(left, -right, weights)
    same = summed(*rows(count=12))
    assert best_ridge(unrelated, same) == (math.inf, same.residual)


@pytest.mark.parametrize("ridge", [-1.0, math.nan])
def test_a_ridge_that_makes_no_sense(ridge):
    with pytest.raises(ValueError, match="Write 0 or more"):
        summed(*rows()).solve(ridge)


def test_activations_that_are_not_finite_are_refused():
    sums = NormalEquations(1, 1)
    sums.add(torch.tensor([[math.inf]]), torch.tensor([[1.0]]))
    with pytest.raises(ValueError, match="Load the teacher in float32"):
        sums.solve(1e-3)


def test_sums_are_where_there_is_float64():
    assert exact_device(torch.device("cpu")) == torch.device("cpu")
    assert exact_device(torch.device("meta")) == torch.device("cpu"), "which holds no values of any kind"
