"""The parts of the loss over the steps."""

import pytest

from hfdistill.evaluation.plots import draw_losses

HISTORY = [
    {"step": 10, "loss": 1.0, "loss_cross_entropy": 0.4, "loss_kd": 0.6, "learning_rate": 1e-4},
    {"step": 20, "loss": 0.5, "loss_cross_entropy": 0.2, "loss_kd": 0.3},
    {"step": 20, "eval_loss": 0.7, "eval_accuracy": 0.5},
    {"step": 20, "train_loss": 0.75},
]


def lines(history):
    return {line.get_label(): line for line in draw_losses(history).axes[0].lines}


def test_each_part_has_its_values_and_a_look_of_its_own():
    found = lines(HISTORY)
    assert list(found) == ["whole loss", "cross entropy", "kd", "evaluation"]
    assert found["kd"].get_xydata().tolist() == [[10.0, 0.6], [20.0, 0.3]]
    assert found["evaluation"].get_xydata().tolist() == [[20.0, 0.7]]
    assert len({line.get_marker() for line in found.values()}) == 4
    assert len({str(line._unscaled_dash_pattern) for line in found.values()}) == 4


def test_a_single_part_is_the_loss_itself_and_scales_far_apart_are_logarithmic():
    assert list(lines([{"step": 1, "loss": 1.0, "loss_kd": 1.0}])) == ["whole loss"]
    assert draw_losses(HISTORY).axes[0].get_yscale() == "linear"
    wide = [{"step": 1, "loss": 100.0, "loss_a": 99.0, "loss_b": 1.0}]
    assert draw_losses(wide).axes[0].get_yscale() == "log"


def test_more_parts_than_can_be_told_apart_are_left_out():
    history = [{"step": 1, "loss": 9.0, "eval_loss": 1.0} | {f"loss_{i}": 1.0 for i in range(9)}]
    assert list(lines(history)) == ["whole loss", "evaluation", *map(str, range(5))]


def test_no_loss_is_refused():
    with pytest.raises(ValueError, match=r"trainer\.state\.log_history"):
        draw_losses([{"step": 1, "eval_accuracy": 1.0}])
