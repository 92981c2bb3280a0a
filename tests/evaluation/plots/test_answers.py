"""Reliability, confusion, classes: what is drawn is what the report says, and can be told apart in grey."""

import dataclasses
from itertools import pairwise

import pytest

from hfdistill.evaluation.plots import draw_classes, draw_confusion, draw_reliability
from hfdistill.evaluation.report import Bin, Cell, Confusion
from tests.evaluation.plots.conftest import with_classes


def test_reliability_shows_each_model_by_line_mark_and_hatch(report):
    bins = (Bin(20, 0.55, 0.5), Bin(3, 0.75, 0.0), Bin(90, 0.95, 0.9))
    made = draw_reliability(
        dataclasses.replace(
            report,
            student=dataclasses.replace(report.student, reliability=bins),
            baseline=dataclasses.replace(report.baseline, reliability=bins[1:2]),
        )
    )
    top, below = made.axes
    lines = {line.get_label().partition(",")[0]: line for line in top.lines}
    assert list(lines) == ["as sure as right", "teacher", "student", "undistilled"]
    assert lines["student"].get_xydata().round(9).tolist() == [
        [55.0, 50.0],
        [95.0, 90.0],
    ]  # 3 rows say little
    assert lines["undistilled"].get_xydata().tolist() == [[75.0, 0.0]]  # but for a model that has no more
    marks = [(line.get_marker(), line.get_linestyle()) for name, line in lines.items() if name[0] != "a"]
    assert len(set(marks)) == 3
    assert len({bars[0].get_hatch() for bars in below.containers}) == 3
    heights = [bar.get_height() for bar in below.containers[1]]
    assert heights == [20, 3, 90]
    assert [round(bar.get_x() * 15 // 100) for bar in below.containers[1]] == [8, 11, 14]
    assert "(%)" in top.get_ylabel()
    assert "(%)" in below.get_xlabel()


def test_few_classes_are_a_matrix_with_its_counts(report):
    cells = (Cell(0, 0, 30), Cell(0, 1, 10), Cell(1, 1, 5))
    made = draw_confusion(dataclasses.replace(report, confusions=(Confusion("labels", True, cells),)))
    axes = made.axes[0]
    assert axes.images[0].get_array().tolist() == [[75.0, 25.0], [0.0, 100.0]]
    assert {t.get_text() for t in axes.texts} == {"30", "10", "5"}
    assert axes.images[0].get_cmap().name == "Greys"
    for cell in axes.texts:  # ink and ground differ, in grey too
        column, row = (int(x) for x in cell.get_position())
        ground = axes.images[0].cmap(axes.images[0].norm(axes.images[0].get_array()[row, column]))[0]
        assert abs((cell.get_color() == "white") - ground) > 0.3


def test_many_classes_are_their_most_frequent_confusions(report):
    made = draw_confusion(with_classes(report, [f"class {i}" for i in range(77)]))
    assert len(made.axes) == 2
    names = [t.get_text() for t in made.axes[0].get_yticklabels()]
    assert names[:2] == ["class 0 → class 1", "class 1 → class 2"]
    assert len(names) == 12
    assert [bar.get_width() for bar in made.axes[0].patches][:2] == [77, 76]


def test_classes_are_sorted_by_what_they_lost(report):
    made = draw_classes(with_classes(report, [f"class {i}" for i in range(30)]))
    made.draw_without_rendering()
    axes = made.axes[0]
    changes = [float(t.get_text()) for t in axes.texts]
    assert changes == sorted(changes)
    assert len(changes) == 20
    assert {line.get_marker() for line in axes.lines} >= {"s", "o"}
    boxes = [t.get_window_extent() for t in axes.get_yticklabels()]
    assert not any(one.overlaps(other) for one, other in pairwise(boxes))
    assert "20 of 30 classes" in made.get_suptitle()


@pytest.mark.parametrize("draw", [draw_reliability, draw_confusion, draw_classes])
def test_what_is_not_there_is_refused(report, draw):
    bare = {role: dataclasses.replace(model, reliability=None) for role, model in report.models().items()}
    with pytest.raises(ValueError, match="Measure"):
        draw(dataclasses.replace(report, confusions=None, classes=(), **bare))
