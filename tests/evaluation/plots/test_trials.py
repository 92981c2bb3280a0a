"""The picture of a search: every candidate is drawn and named, also where nothing was looked at."""

from hfdistill.evaluation.plots.label_placement import place_labels
from hfdistill.evaluation.plots.style import figure, save
from hfdistill.evaluation.plots.trials import Trial, draw_trials, write_trials

TRIALS = [
    Trial("1 layer", 1.2, 20.0, True, ((80.0, 76.0, 84.0, 0.0), (91.0, 88.0, 94.0, 1.0))),
    Trial("3 layers", 3.1, 40.0, True, ((97.0, 94.0, 100.0, 0.0), (99.5, 98.1, 100.9, 3.0)), chosen=1),
    Trial("static", 0.1, 10.0, True, ((60.0, 55.0, 65.0, 3.0),)),
    Trial("6 layers", 7.5, 90.0, False),
]


def texts_of(made):
    return {child.get_text() for child in made.axes[0].texts}


def test_every_candidate_is_named_and_the_limits_are_drawn():
    made = draw_trials(TRIALS, goal=98.0, max_ms=5.0, metric="accuracy")
    axes = made.axes[0]
    assert texts_of(made) >= {"1 layer", "3 layers", "static", "6 layers"}
    assert axes.get_ylabel() == "kept of the teacher's accuracy (%)"
    low, high = axes.get_ylim()
    assert low < 55 < 98 < high
    assert axes.get_xlim()[0] < 0.1 < 7.5 < axes.get_xlim()[1]
    legend = [text.get_text() for text in made.legends[0].get_texts()]
    assert legend == ["not trained", "trained", "chosen", "misses the limits", "goal: 98 %"]


def test_every_interval_is_whole_and_the_star_is_at_the_look_that_won():
    looks = ((99.0, 96.0, 102.0, 0.0), (97.5, 95.0, 100.0, 1.0))
    made = draw_trials([Trial("6 layers", 6.3, 23.0, True, looks, chosen=0)], goal=98.0)
    axes = made.axes[0]
    assert axes.get_ylim()[0] < 96.0 < 102.0 < axes.get_ylim()[1]
    marks = {line.get_marker(): line for line in axes.lines if line.get_marker() in ("*", "o")}
    assert (marks["*"].get_ydata()[0], marks["*"].get_markerfacecolor()) == (99.0, "white")
    assert marks["o"].get_ydata()[0] == 97.5
    assert axes.collections[-1].get_segments()[0][:, 1].tolist() == [96.0, 102.0]


def test_what_was_not_reached_does_not_miss_the_limits():
    made = draw_trials([*TRIALS, Trial("2 layers", 2.2, 30.0, True)], goal=98.0, max_ms=5.0)
    marks = {
        line.get_xdata()[0]: line.get_marker() for line in made.axes[0].lines if len(line.get_xdata()) == 1
    }
    assert (marks[2.2], marks[7.5]) == ("+", "x")
    assert "not reached" in [text.get_text() for text in made.legends[0].get_texts()]


def test_it_is_written_beside_the_card(tmp_path):
    path = write_trials(tmp_path, TRIALS, goal=98.0, max_ms=5.0)
    assert path == tmp_path / "plots" / "trials.png"
    assert path.read_bytes()[:4] == b"\x89PNG"
    again = save(draw_trials(TRIALS, goal=98.0, max_ms=5.0), tmp_path / "again.png")
    assert path.read_bytes() == again.read_bytes()
    assert write_trials(tmp_path / "none", TRIALS[3:], goal=98.0) is not None


def test_a_name_without_a_place_takes_none_from_the_others():
    axes = figure(4, 4).add_subplot()
    axes.set(xlim=(0, 10), ylim=(0, 10))
    assert not place_labels(axes, [(9, 5, 3), (2, 5, 3)], {0: "x" * 400, 1: "static"})
    assert [child.get_text() for child in axes.texts] == ["static"]


def test_the_largest_picture_is_the_last_that_is_tried(monkeypatch):
    heights = []

    def nowhere(axes, spots, labels):
        heights.append(axes.figure.get_size_inches()[1])
        return False

    monkeypatch.setattr("hfdistill.evaluation.plots.trials.place_labels", nowhere)
    made = draw_trials(TRIALS[3:], goal=98.0)
    assert heights == [5.6, 8.0, 11.0, 15.0]
    assert made.get_size_inches()[1] == 15.0
