"""Tables over several runs, and the page that keeps them."""

import dataclasses

import pytest

from hfdistill import compare_runs, compare_students, write_section
from hfdistill.evaluation.report import Speed
from hfdistill.evaluation.side_by_side import side_by_side
from tests.conftest import make_report


@pytest.fixture(scope="module")
def report():
    return make_report({})


def with_values(report, accuracy, agreement=0.9):
    student = dataclasses.replace(
        report.student,
        metrics={**report.student.metrics, "accuracy": accuracy},
        fidelity={**report.student.fidelity, "agreement": agreement},
    )
    return dataclasses.replace(report, student=student)


def test_each_line_has_the_mean_the_seeds_and_the_difference_seed_by_seed(report):
    runs = {
        "plain": [with_values(report, 0.80), with_values(report, 0.90)],
        "taught": [with_values(report, 0.85, 0.8), with_values(report, 0.93, 0.9)],
    }
    header, _, plain, taught = compare_runs(runs, baseline="plain").splitlines()
    assert header == "|  | accuracy | each seed | minus plain | agreement |"
    assert plain == "| plain | 85.0 % | 80.0 % / 90.0 % |  | 90.0 % |"
    assert taught == "| taught | **89.0 %** | 85.0 % / 93.0 % | +4.0 (+3.0 to +5.0) | 85.0 % |"


def of_seed(report, seed, accuracy):
    return dataclasses.replace(with_values(report, accuracy), notes={"seed": seed})


def test_runs_are_paired_by_their_seeds(report):
    plain = [of_seed(report, 1, 0.80), of_seed(report, 2, 0.90)]
    taught = [of_seed(report, 2, 0.93), of_seed(report, 1, 0.85)]
    table = compare_runs({"plain": plain, "taught": taught}, baseline="plain")
    assert "| +4.0 (+3.0 to +5.0) |" in table
    assert "| +3.0 |" in compare_runs({"plain": plain, "taught": taught[:1]}, baseline="plain")
    assert "| +4.0 (+3.0 to +5.0) |" in compare_students({"a": taught}, {"a": plain})
    with pytest.raises(ValueError, match=r"'taught' has the seeds 7 .* with 1, 2: nothing"):
        compare_runs({"plain": plain, "taught": [of_seed(report, 7, 0.9)]}, baseline="plain")
    with pytest.raises(ValueError, match=r"'taught' has 1 reports .* with 2, and they do not say"):
        compare_runs({"plain": plain, "taught": [with_values(report, 0.9)]}, baseline="plain")


def test_without_a_baseline_there_is_no_difference(report):
    table = compare_runs({"a|b": [with_values(report, 0.5)]})
    assert table.splitlines()[-1] == "| a&#124;b | **50.0 %** | 50.0 % | 90.0 % |"


def test_reports_may_be_named_by_their_files(report, tmp_path):
    path = report.save(tmp_path / "report.json")
    wanted = compare_runs({"a": [report, report]})
    assert compare_runs({"a": [path, str(path)]}) == wanted
    assert compare_runs({"a": path}) == compare_runs({"a": report}) == compare_runs({"a": [report]})
    assert compare_students({"a": [path]}, {"a": [path]}) == compare_students(
        {"a": [report]}, {"a": [report]}
    )
    with pytest.raises(TypeError, match=r"compare_runs needs reports by name, found a list\. Give \{"):
        compare_runs([report])
    with pytest.raises(TypeError, match=r"Found a dict in the place of a report\. Give what measure"):
        compare_runs({"a": [{}]})
    with pytest.raises(TypeError, match=r"Found a int in the place of a report\. Give what measure"):
        compare_runs({"a": 5})


def test_runs_that_cannot_be_compared_are_refused(report):
    other = dataclasses.replace(report, data=dataclasses.replace(report.data, rows=31))
    with pytest.raises(ValueError, match="different tasks or rows"):
        compare_runs({"a": [report], "b": [other]})
    moved = [dataclasses.replace(each, rows=each.rows + 1) for each in report.classes]
    with pytest.raises(ValueError, match="different tasks or rows"):
        compare_runs({"a": [report], "b": [dataclasses.replace(report, classes=tuple(moved))]})
    with pytest.raises(ValueError, match="at least one report"):
        compare_runs({"a": [report], "b": []})
    with pytest.raises(ValueError, match=r"baseline='c'.*'a'"):
        compare_runs({"a": [report]}, baseline="c")
    unlabelled = dataclasses.replace(report, student=dataclasses.replace(report.student, metrics=None))
    with pytest.raises(ValueError, match="no accuracy"):
        compare_runs({"a": [unlabelled]})


def test_students_are_compared_in_quality_size_and_speed(report):
    def timed(found, ms, rate):
        speed = Speed(ms, ms, 100, rate, 32, 256, 5)
        teacher = dataclasses.replace(
            found.teacher, speed=Speed(10.0, 12.0, 100, 200.0, 32, 256, 5), size_mb=90.0
        )
        student = dataclasses.replace(found.student, speed=speed, size_mb=45.0, parameters=2_000_000)
        return dataclasses.replace(found, student=student, teacher=teacher)

    taught = [timed(with_values(report, 0.85, 0.8), 4.0, 500.0), with_values(report, 0.93, 0.9)]
    plain = [timed(with_values(report, 0.80), 4.0, 500.0), with_values(report, 0.90)]
    lines = compare_students({"a|b": taught}, {"a|b": plain}).splitlines()
    teacher = f"{100 * report.teacher.metrics['accuracy']:.1f} %"
    assert lines[2].endswith(f"| 90.0 | {teacher} |  |  |  | 10.00 | 1.0x | 200 | 1.0x |")
    quality = "**89.0 %** | 85.0 % | +4.0 (+3.0 to +5.0) | 85.0 %"
    assert lines[3] == f"| a&#124;b | 2.0 M | 45.0 | {quality} | 4.00 | 2.5x | 500 | 2.5x |"
    assert "median of 100 real rows" in lines[-1]
    assert "| **85.0 %** |  |  | 80.0 % |" in compare_students({"a": taught[:1]})


def test_students_of_no_teacher_are_refused(report):
    with pytest.raises(ValueError, match="Measure with teacher="):
        compare_students({"a": [dataclasses.replace(report, teacher=None)]})


def test_a_section_is_replaced_and_the_rest_of_the_page_stays(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n<!-- one -->\nold\n<!-- /one -->\nend <!-- two -->x<!-- /two -->\n")
    write_section(page, "one", "| a |\n")
    write_section(page, "one", "| b |")
    assert page.read_text() == (
        "# Title\n<!-- one -->\n\n| b |\n\n<!-- /one -->\nend <!-- two -->x<!-- /two -->\n"
    )


@pytest.mark.parametrize(
    "content",
    [
        "no lines",
        "<!-- one -->",
        "<!-- /one --> <!-- one -->",
        "<!-- one --> <!-- /one --> <!-- one -->",
        "<!-- one --> <!-- /one --> <!-- /one -->",
    ],
)
def test_a_page_without_its_two_lines_is_left_alone(tmp_path, content):
    page = tmp_path / "page.md"
    page.write_text(content)
    with pytest.raises(ValueError, match="once each, in this order"):
        write_section(page, "one", "text")
    assert page.read_text() == content


def test_what_was_not_timed_has_no_pace(report):
    def untimed(found):
        return dataclasses.replace(
            found,
            student=dataclasses.replace(found.student, speed=None),
            teacher=dataclasses.replace(found.teacher, speed=None),
        )

    lines = compare_students({"a": [untimed(report)]}).splitlines()
    assert lines[3].endswith("|  |  |  |  |")
    assert lines[-1].endswith("MB: 1e6 bytes of float32 weights.")


def test_a_correlation_differs_by_no_points(report):
    runs = {}
    for name, values in (("plain", (0.5, 0.5)), ("taught", (0.75, 0.5))):
        students = [
            dataclasses.replace(report.student, metrics={"pearson": x}, fidelity={"pearson_teacher": 0.9})
            for x in values
        ]
        runs[name] = [dataclasses.replace(report, task="regression", student=each) for each in students]
    assert "| +0.125 (+0.000 to +0.250) |" in compare_runs(runs, baseline="plain").splitlines()[-1]
    single = {name: reports[:1] for name, reports in runs.items()}
    assert "| +0.250 |" in compare_runs(single, baseline="plain").splitlines()[-1]


def test_two_models_side_by_side(report):
    """The verdict follows the interval; a table is there where there is something to list."""
    timed = side_by_side(report, "one", "other").splitlines()
    assert timed[0].split()[-2:] == ["ms", "rows/s"]
    (row,) = (line for line in timed if line.startswith("A  "))
    assert row.split()[-2] == f"{report.student.speed.latency_ms_p50:.1f}"
    first = report.differences[0]
    for low, high, verdict in (
        (-0.1, 0.3, "do not tell which one is better"),
        (0.1, 0.3, "A is better"),
        (-0.3, -0.1, "B is better"),
    ):
        clear = dataclasses.replace(first, mean=(low + high) / 2, low=low, high=high)
        text = side_by_side(dataclasses.replace(report, differences=(clear,)), "one", "other")
        assert text.count("is better") == 1
        assert verdict in text
    bare = dataclasses.replace(report, classes=())
    assert "A alone right" not in side_by_side(bare, "one", "other")
    unlabelled = dataclasses.replace(report.data, labelled_rows=0)
    same = dataclasses.replace(report, data=unlabelled, confusions=())
    assert "Where they differ" not in side_by_side(same, "one", "other")
    near = dataclasses.replace(report.student, fidelity={"pearson_teacher": 0.875})
    values = dataclasses.replace(bare, task="regression", student=near)
    assert "their numbers correlate by 0.875 (Pearson)" in side_by_side(values, "one", "other")
    with pytest.raises(ValueError, match="needs a report of two models"):
        side_by_side(dataclasses.replace(report, teacher=None), "one", "other")
