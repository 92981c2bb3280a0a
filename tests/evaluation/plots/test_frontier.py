"""Quality over latency: which are on the frontier, and labels that never overlap."""

import dataclasses
from itertools import combinations

import pytest
from matplotlib.text import Text

from hfdistill.evaluation.plots import draw_frontier, write_frontier
from hfdistill.evaluation.plots.frontier import frontier_of, points_of
from tests.evaluation.plots.conftest import timed

WHERE = {"small": (1.0, 0.80, 10.0), "middle": (5.0, 0.85, 40.0), "slow": (6.0, 0.84, 80.0)}


def students(report, where):
    return {name: [timed(report, *values)] for name, values in where.items()}


def test_points_are_means_and_the_frontier_is_what_none_beats(report):
    runs = students(report, WHERE)
    runs["small"].append(timed(report, 3.0, 0.82, 10.0))
    points = {p.name: p for p in points_of(runs)}
    assert list(points) == ["teacher", "small", "middle", "slow"]
    assert points["small"].quality == pytest.approx(81.0)
    assert points["small"].latency_ms == 1.0
    assert points["teacher"].latency_ms == 10.0
    without = [p for p in points.values() if p.kind != "teacher"]
    assert [p.name for p in frontier_of(without)] == ["small", "middle"]


CROWDED = {f"a student named {i}": (5 + 0.01 * i, 0.85 + 0.001 * (i % 3), 70.0) for i in range(16)}
CROWDED["far"] = (0.1, 0.7, 1.0)


@pytest.mark.parametrize("where", [WHERE, CROWDED], ids=["few", "crowded"])
def test_labels_are_there_inside_and_never_overlap(report, where):
    made = draw_frontier(
        students(report, where), students(report, {n: (v[0], v[1] - 0.02, v[2]) for n, v in where.items()})
    )
    made.draw_without_rendering()
    axes = made.axes[0]
    labels = [t for t in axes.texts if t.get_text()]
    assert {t.get_text() for t in labels} == {"teacher", *where}
    boxes = [Text.get_window_extent(t) for t in labels]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    outer = axes.get_window_extent()
    assert all(outer.contains(*box.min) and outer.contains(*box.max) for box in boxes)


def test_labels_keep_off_bubbles_where_there_is_room(report):
    made = draw_frontier(students(report, WHERE))
    made.draw_without_rendering()
    axes = made.axes[0]
    boxes = [Text.get_window_extent(t) for t in axes.texts]
    for bubble in (c for c in axes.collections if len(c.get_offsets())):
        x, y = axes.transData.transform(bubble.get_offsets()[0])
        assert not any(box.contains(x, y) for box in boxes)


def test_kinds_differ_without_colour(report):
    made = draw_frontier(students(report, WHERE), students(report, WHERE))
    legend = {
        t.get_text(): h
        for t, h in zip(made.legends[0].get_texts(), made.legends[0].legend_handles, strict=True)
    }
    looks = [
        (
            legend[kind].get_hatch(),
            legend[kind].get_linestyle()[0][1] is None,
            sum(legend[kind].get_facecolor()[0][:3]) > 2.9,
        )
        for kind in ("teacher", "distilled", "undistilled")
    ]
    assert len(set(looks)) == 3
    assert "(ms, median)" in made.axes[0].get_xlabel()
    assert made.axes[0].get_ylabel().startswith("accuracy (%)")
    assert any(label.endswith(" MB") for label in legend)


def test_what_was_not_timed_is_refused(report, tmp_path):
    bare = dataclasses.replace(report, student=dataclasses.replace(report.student, speed=None))
    with pytest.raises(ValueError, match="time_together"):
        draw_frontier({"a": [bare]})
    with pytest.raises(ValueError, match=r"png or svg.*'pdf'"):
        write_frontier(tmp_path / "a.pdf", {"a": [report]})
    assert write_frontier(tmp_path / "a.svg", {"a": [report]}).read_text().startswith("<?xml")


def test_reports_may_be_named_by_their_files(report, tmp_path):
    path = timed(report, *WHERE["small"]).save(tmp_path / "report.json")
    for runs in ({"a": [path]}, {"a": str(path)}):
        made = draw_frontier(runs, runs)
        assert {t.get_text() for t in made.axes[0].texts} - {""} == {"teacher", "a"}
    with pytest.raises(TypeError, match="write_frontier needs reports by name, found a list"):
        write_frontier(tmp_path / "a.svg", [path])


def test_the_largest_picture_is_the_last_that_is_tried(report, monkeypatch):
    heights = []

    def nowhere(axes, spots, labels):
        heights.append(axes.figure.get_size_inches()[1])
        return False

    monkeypatch.setattr("hfdistill.evaluation.plots.frontier.place_labels", nowhere)
    made = draw_frontier(students(report, WHERE))
    assert heights == [6.0, 9.0, 13.0, 18.0]
    assert made.get_size_inches()[1] == 18.0
