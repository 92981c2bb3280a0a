"""Tables over several runs, and the page that keeps them."""

import dataclasses

import pytest

from hfdistill import compare_runs, write_section
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


def test_without_a_baseline_there_is_no_difference(report):
    table = compare_runs({"a|b": [with_values(report, 0.5)]})
    assert table.splitlines()[-1] == "| a&#124;b | **50.0 %** | 50.0 % | 90.0 % |"


def test_runs_that_cannot_be_compared_are_refused(report):
    other = dataclasses.replace(report, data=dataclasses.replace(report.data, rows=31))
    with pytest.raises(ValueError, match="different tasks or rows"):
        compare_runs({"a": [report], "b": [other]})
    with pytest.raises(ValueError, match="at least one report"):
        compare_runs({"a": [report], "b": []})
    with pytest.raises(ValueError, match=r"baseline='c'.*'a'"):
        compare_runs({"a": [report]}, baseline="c")
    unlabelled = dataclasses.replace(report, student=dataclasses.replace(report.student, metrics=None))
    with pytest.raises(ValueError, match="no accuracy"):
        compare_runs({"a": [unlabelled]})


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
