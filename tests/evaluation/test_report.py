import dataclasses
import json

import pytest

from hfdistill.evaluation.report import SCHEMA, Report, Speed, guess_sentences
from hfdistill.files.plain_data import public_name, scrub
from tests.conftest import make_report


@pytest.fixture(scope="module")
def report():
    return make_report({"objective": "KD()", "seeds": (0, 1)})


def test_a_report_loads_as_it_was_saved(report, tmp_path):
    path = report.save(tmp_path / "new" / "report.json")
    assert Report.load(path) == report
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]
    assert json.loads(path.read_text())["schema"] == SCHEMA
    strange = dataclasses.replace(
        report, notes={"name": "\ud800\u202e\x00</script>", "big": 2**70, "none": None}
    )
    assert Report.load(strange.save(path)) == strange


def test_a_failed_save_keeps_the_old_report(report, tmp_path, monkeypatch):
    path = report.save(tmp_path / "report.json")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="Out of range float"):
        dataclasses.replace(report, notes={"loss": float("inf")}).save(path)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        dataclasses.replace(report, notes={}).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:100], "not strict JSON"),
        (lambda text: text.replace('"schema": 3', '"schema": 4'), "has schema 4, this hfdistill reads 3"),
        (lambda text: text.replace('"schema": 3', '"schema": true'), "has schema True"),
        (lambda text: "[" * 100_000, "not strict JSON"),
        (lambda text: "[]", "has schema None"),
        (lambda text: text.replace('"rows": 32', '"rows": "32"'), "rows should be int, found str"),
        (lambda text: text.replace('"rows": 32', '"lines": 32'), r"lacks \['rows'\] and has unknown"),
        (lambda text: text.replace('"share": 0.5', '"share": NaN'), "it holds NaN"),
        (lambda text: text.replace('"share": 0.5', '"share": 1e999'), "it holds 1e999"),
    ],
)  # fmt: skip
def test_a_damaged_report_is_refused(report, change, message, tmp_path):
    path = report.save(tmp_path / "report.json")
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=message):
        Report.load(path)


def test_d17_a_huge_report_is_refused_both_ways(report, tmp_path):
    with pytest.raises(ValueError, match="more than 16000000"):
        dataclasses.replace(report, notes={"x": "y" * 16_000_000}).save(tmp_path / "report.json")
    (tmp_path / "report.json").write_text(" " * 16_000_001)
    with pytest.raises(ValueError, match="more than 16000000 bytes"):
        Report.load(tmp_path / "report.json")


def test_scrub_and_public_name():
    assert scrub({"data": "/home/ada/sst2", "hub_token": "x", "rate": 0.1}) == {"data": "sst2", "rate": 0.1}
    assert public_name("owner/name") == "owner/name"
    assert public_name("runs/a/student/") == "student"
    assert public_name("C:\\Users\\ada\\student") == "student"


def test_the_table_reads_well(report):
    fast = dataclasses.replace(
        report,
        teacher=dataclasses.replace(report.teacher, size_mb=4.0, speed=Speed(20.0, 30.0, 3, 10.0, 4, 8, 2)),
        student=dataclasses.replace(report.student, size_mb=3.0, speed=Speed(10.0, 15.0, 3, 21.0, 4, 8, 2)),
    )
    lines = fast.table().splitlines()
    assert lines[0].split("  ")[0] == ""
    assert [line.split()[0] for line in lines[2:5]] == ["teacher", "student", "baseline"]
    assert lines[3].endswith("10.0  15.0      21")
    assert "student: small (float32), 2.0x faster, 0.75x the size" in lines
    assert max(map(len, lines)) <= 100
    assert f"{100 * report.student.metrics['accuracy']:.1f} %" in lines[3]
    assert any(line.startswith("student minus baseline: accuracy ") for line in lines)


def test_d18_names_cannot_steer_the_terminal(report):
    evil = dataclasses.replace(report.student, name="a\x1b]0;owned\x07\u202eb\nc" + "x" * 10**6)
    text = dataclasses.replace(report, student=evil).table()
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "a\\x1b]0;owned\\x07\\u202eb\\nc" in text
    assert len(text) < 3000


def test_a_notebook_shows_the_table(report):
    shown = report._repr_html_()
    assert shown.startswith("<table><tr>")
    assert shown.count("<tr>") == 1 + len(report.models())
    for role, model in report.models().items():
        assert f">{role}</td>" in shown
        assert f"{100 * model.metrics['accuracy']:.1f} %" in shown
    hostile = dataclasses.replace(report.student, name="<script>alert(1)</script>")
    assert "<script>" not in dataclasses.replace(report, student=hostile)._repr_html_()


def test_a_model_that_is_no_better_than_always_the_same_answer_is_told_so(report):
    def with_accuracy(student, teacher):
        def scored(model, accuracy):
            return dataclasses.replace(model, metrics={**model.metrics, "accuracy": accuracy})

        classes = tuple(
            dataclasses.replace(one, rows=rows, share=rows / 8)
            for one, rows in zip(report.classes, (5, 3), strict=True)
        )
        return dataclasses.replace(
            report,
            baseline=None,
            student=scored(report.student, student),
            teacher=scored(report.teacher, teacher),
            classes=classes,
        )

    label = report.classes[0].label
    assert guess_sentences(with_accuracy(0.625, 0.75)) == [
        f"always answering {label} is right on 62.5 %, which the student does not exceed"
    ]
    assert guess_sentences(with_accuracy(0.5, 0.25))[0].endswith("the teacher and the student do not exceed")
    assert guess_sentences(with_accuracy(0.626, 0.75)) == []
    assert "62.5 %, which the student does not exceed" in with_accuracy(0.5, 0.7).table()
