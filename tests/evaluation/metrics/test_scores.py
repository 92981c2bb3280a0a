import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from hfdistill.evaluation.metrics.compare import errors
from hfdistill.evaluation.metrics.scores import fidelity, paired_interval, pearson, scores


def test_single_label_scores_by_hand():
    logits = np.log(np.array([[0.8, 0.2], [0.4, 0.6], [0.9, 0.1], [0.3, 0.7]]))
    found = scores("single_label", logits, np.array([0, 1, 1, 1]))
    assert found["accuracy"] == 0.75
    assert found["accuracy_se"] == pytest.approx(math.sqrt(0.75 * 0.25 / 4), abs=1e-15)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2, abs=1e-15)
    assert found["nll"] == pytest.approx(-sum(map(math.log, (0.8, 0.6, 0.1, 0.7))) / 4, abs=1e-12)
    assert found["ece"] == pytest.approx((0.2 + 0.4 + 0.9 + 0.3) / 4 - 0.0, abs=1e-12)


def test_macro_f1_leaves_out_classes_that_occur_neither_in_labels_nor_in_predictions():
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    right = labels - 0.5
    assert scores("multi_label", right, labels)["macro_f1"] == 1.0
    one = scores("single_label", np.eye(3)[[0, 1, 0]], np.array([0, 1, 0]))
    assert one["macro_f1"] == 1.0
    right[0, 2] = 1.0  # said where it is not: it counts
    assert scores("multi_label", right, labels)["macro_f1"] == pytest.approx(2 / 3)
    assert scores("multi_label", -np.ones((2, 3)), np.zeros((2, 3)))["macro_f1"] == 0.0


@pytest.mark.parametrize("columns", [1, 2])
def test_f1_of_one_label_that_occurs_is_that_of_the_label_alone(columns):
    """Not the mean with the F1 of its absence, by which scikit-learn scores a single column."""
    logits = np.array([[1, -1], [1, -1], [-1, -1], [-1, -1], [-1, -1]])[:, :columns]
    truth = np.array([[1, 0], [0, 0], [1, 0], [0, 0], [0, 0]])[:, :columns]
    found = scores("multi_label", logits, truth)  # one hit, one false alarm and one miss
    assert (found["micro_f1"], found["macro_f1"], found["subset_accuracy"]) == (0.5, 0.5, 0.6)


@pytest.mark.parametrize("constant", [0.1, 0.3, 1.7])
def test_a_constant_whose_mean_is_rounded_has_no_correlation(constant):
    answers, labels = np.full((7, 1), constant), np.arange(7.0)
    assert scores("regression", answers, labels)["pearson"] is None
    assert fidelity("regression", answers, labels[:, None])["pearson_teacher"] is None


def test_multi_label_scores_by_hand():
    logits = np.array([[1.0, -1.0], [2.0, 3.0]])
    found = scores("multi_label", logits, np.array([[1, 0], [1, 0]]))
    assert found["subset_accuracy"] == 0.5
    assert found["micro_f1"] == pytest.approx(4 / 5, abs=1e-15)
    assert found["macro_f1"] == 0.5
    expected = np.mean(
        [
            math.log1p(math.exp(-1)),
            math.log1p(math.exp(-1)),
            math.log1p(math.exp(-2)),
            math.log1p(math.exp(3)),
        ]
    )
    assert found["nll"] == pytest.approx(expected, abs=1e-12)


def test_regression_scores_equal_scipy():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 1)), rng.integers(0, 5, size=40).astype(float)
    found = scores("regression", x, y)
    assert found["mse"] == pytest.approx(np.mean((x[:, 0] - y) ** 2), abs=1e-12)
    assert found["pearson"] == pytest.approx(stats.pearsonr(x[:, 0], y).statistic, abs=1e-12)
    assert found["spearman"] == pytest.approx(stats.spearmanr(x[:, 0], y).statistic, abs=1e-12)


def test_a_correlation_with_a_constant_is_undefined():
    assert pearson(np.ones(3), np.arange(3.0)) is None


def test_fidelity_by_hand():
    student, teacher = np.log([[0.5, 0.5], [0.9, 0.1]]), np.log([[0.25, 0.75], [0.9, 0.1]])
    found = fidelity("single_label", student, teacher)
    kl = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert found == {"agreement": 0.5, "kl": pytest.approx(kl / 2, abs=1e-12)}
    binary = np.log([[1.0], [3.0]]), np.log([[3.0], [3.0]])  # probabilities 0.5 and 0.75
    found = fidelity("multi_label", *binary)
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert found == {"agreement": 0.5, "label_agreement": 0.5, "kl": pytest.approx(kl / 2, abs=1e-12)}


def test_kl_stays_finite_with_huge_logits():
    found = fidelity("single_label", np.array([[1e4, 0.0]]), np.array([[0.0, 1e4]]))
    assert found["kl"] == pytest.approx(1e4)
    assert fidelity("multi_label", np.array([[1e4]]), np.array([[-1e4]]))["kl"] == pytest.approx(1e4)


def test_paired_interval_by_hand():
    first, second = np.array([True] * 7 + [False] * 3), np.array([True] * 5 + [False] * 4 + [True])
    mean, low, high = paired_interval(first, second)  # 2 rows only the first, 1 only the second
    p, q = 3 / 12, 2 / 12
    half = 1.959963984540054 * math.sqrt((p + q - (p - q) ** 2) / 12)
    assert mean == pytest.approx(0.1)
    assert (low, high) == (pytest.approx(p - q - half), pytest.approx(p - q + half))


def test_words_of_a_text_are_drawn_together():
    """By hand: texts of 3 and 1 words, and one without; two words added, one for each model."""
    first, second = np.array([True, True, True, False]), np.array([True, False, False, True])
    mean, low, high = paired_interval(first, second, lengths=[3, 0, 1])
    centre = 1 / 6  # (2 - 1) / (4 + 2)
    squares = (2 - 3 * centre) ** 2 + (-1 - centre) ** 2 + (1 - centre) ** 2 + (-1 - centre) ** 2
    assert mean == 0.25
    assert high - low == pytest.approx(2 * 1.959964 * math.sqrt(squares) / 6, rel=1e-6)
    assert (low + high) / 2 == pytest.approx(centre)


def test_the_interval_of_words_covers_the_truth_where_they_succeed_or_fail_together():
    draw, covered, naive = np.random.default_rng(0), 0, 0
    for _ in range(400):
        lengths = draw.integers(5, 20, 80)
        sides = [np.repeat(draw.beta(4, 1, 80), lengths) for _ in range(2)]
        first, second = (draw.random(lengths.sum()) < side for side in sides)
        _, low, high = paired_interval(first, second, lengths=lengths)
        covered += low <= 0 <= high
        _, low, high = paired_interval(first, second)
        naive += low <= 0 <= high
    assert covered >= 0.92 * 400
    assert naive < 0.8 * 400


def test_paired_interval_covers_the_truth():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        first = rng.random(100) < 0.85
        second = np.where(rng.random(100) < 0.9, first, rng.random(100) < 0.5)
        _, low, high = paired_interval(first, second)
        hits += low <= 0.85 - (0.9 * 0.85 + 0.1 * 0.5) <= high
    assert 930 <= hits <= 980


def test_errors_by_hand():
    def answers(*ids):
        return np.eye(3)[list(ids)]

    labels = np.array([0, 0, 0, 0, 1])
    logits = {
        "teacher": answers(1, 1, 1, 0, 1),
        "student": answers(1, 0, 2, 2, 1),
        "baseline": answers(1, 1, 0, 0, 1),
    }
    found = errors(logits, labels)
    assert dataclasses.astuple(found) == (3, 1, 1, 1, 2)
