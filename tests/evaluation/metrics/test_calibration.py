import numpy as np
import pytest
import torch

from hfdistill.evaluation.metrics import CalibrationError, expected_calibration_error


def by_loops(probabilities, labels, n_bins):
    """Guo et al. 2017, equation 3, as it is written there."""
    total = 0.0
    for b in range(n_bins):
        low, high = b / n_bins, (b + 1) / n_bins
        inside = [
            (max(p), int(np.argmax(p)) == y)
            for p, y in zip(probabilities, labels, strict=True)
            if low < max(p) <= high
        ]
        if inside:
            accuracy = sum(right for _, right in inside) / len(inside)
            confidence = sum(conf for conf, _ in inside) / len(inside)
            total += len(inside) / len(labels) * abs(accuracy - confidence)
    return total


def test_value_by_hand():
    # Bin (0.6, 0.8]: 0.7 right, 0.8 wrong, gap |0.5 - 0.75|. Bin (0.8, 1]: 0.9 right, gap 0.1.
    probabilities = [[0.7, 0.3], [0.2, 0.8], [0.9, 0.1]]
    found = expected_calibration_error(probabilities, [0, 0, 0], n_bins=5)
    assert found == pytest.approx(2 / 3 * 0.25 + 1 / 3 * 0.1, abs=1e-15)


def test_gaps_cancel_within_a_bin_and_add_between_bins():
    assert expected_calibration_error([[0.5, 0.5], [0.5, 0.5]], [0, 1]) == 0.0
    assert expected_calibration_error([[1.0, 0.0], [0.0, 1.0]], [0, 1]) == 0.0
    assert expected_calibration_error([[1.0, 0.0], [0.0, 1.0]], [1, 0]) == 1.0


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    # 0.5 falls in (0.25, 0.5] and 0.51 in (0.5, 0.75]: the gaps add instead of cancelling.
    found = expected_calibration_error([[0.5, 0.5], [0.51, 0.49]], [0, 1], n_bins=4)
    assert found == pytest.approx((0.5 + 0.51) / 2, abs=1e-15)


@pytest.mark.parametrize("n_bins", [1, 7, 15, 100])
def test_equals_the_paper_on_random_rows(n_bins):
    rng = np.random.default_rng(n_bins)
    probabilities = rng.dirichlet([0.5] * 4, size=200)
    labels = rng.integers(0, 4, size=200)
    expected = by_loops(probabilities, labels, n_bins)
    assert expected_calibration_error(probabilities, labels, n_bins=n_bins) == pytest.approx(
        expected, abs=1e-12
    )


def test_order_of_rows_and_tensors_do_not_matter():
    rng = np.random.default_rng(0)
    probabilities, labels = rng.dirichlet([1.0] * 3, size=50), rng.integers(0, 3, size=50)
    order = rng.permutation(50)
    first = expected_calibration_error(probabilities, labels)
    assert expected_calibration_error(probabilities[order], labels[order]) == pytest.approx(first, abs=1e-15)
    assert expected_calibration_error(torch.tensor(probabilities), torch.tensor(labels)) == first


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        ([], [], "probabilities"),
        ([0.5, 0.5], [0, 1], "found \\(2,\\) and \\(2,\\)"),
        ([[0.5, 0.5]], [0, 1], "found \\(1, 2\\) and \\(2,\\)"),
        ([[2.0, -1.0]], [0], "Apply a softmax"),
        ([[0.4, 0.4]], [0], "Apply a softmax"),
        ([[float("nan"), 1.0]], [0], "Apply a softmax"),
        ([[0.5, 0.5]], [2], "class ids from 0 to 1"),
        ([[0.5, 0.5]], [-100], "class ids from 0 to 1"),
        ([[0.5, 0.5]], [0.5], "class ids from 0 to 1"),
    ],
)
def test_what_is_no_probability_is_refused(probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(probabilities, labels)


def test_bins_must_be_positive():
    with pytest.raises(ValueError, match="at least 1"):
        expected_calibration_error([[1.0, 0.0]], [0], n_bins=0)


def test_metric_hands_the_bins_on(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", tmp_path / "cache")
    inputs = {"predictions": [[0.7, 0.3], [0.2, 0.8], [0.9, 0.1]], "references": [0, 0, 0]}
    metric = CalibrationError()
    assert metric.compute(**inputs)["ece"] == pytest.approx(
        by_loops(inputs["predictions"], [0, 0, 0], 15), abs=1e-12
    )
    assert metric.compute(**inputs, n_bins=1)["ece"] == pytest.approx(abs(2 / 3 - 0.8), abs=1e-12)
    assert not (tmp_path / "cache").exists()
