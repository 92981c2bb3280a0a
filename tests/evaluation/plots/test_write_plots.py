"""Pictures beside a card: fixed names, whole files, and labels that are only text."""

import dataclasses
import json
import logging
import sys
from xml.etree import ElementTree

import matplotlib
import pytest

from hfdistill import Report, write_card, write_plots
from hfdistill.evaluation.plots import draw_classes, draw_confusion
from hfdistill.evaluation.plots.style import save
from tests.conftest import DOT
from tests.evaluation.plots.conftest import with_classes
from tests.evaluation.plots.test_training import HISTORY

HOSTILE = [
    r"$\frac{1}{0}$",
    "$unclosed",
    "../../etc/passwd",
    "</svg><script>alert(1)</script>",
    "--><x/>",
    "a\x00b\x1b[31m\u202ec\nd",
    "",
    "標籤",
    "%s {0} \\",
    "x" * 10_000,
]


def test_all_are_drawn_without_pyplot_and_the_card_shows_them(report, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # to import it would fail
    written = write_plots(tmp_path, report, history=HISTORY)
    names = ["loss.png", "reliability.png", "confusion.png", "classes.png"]
    assert [path.relative_to(tmp_path / "plots").as_posix() for path in written] == names
    assert sorted(p.name for p in (tmp_path / "plots").iterdir()) == sorted(names)
    assert all(path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for path in written)
    card = write_card(tmp_path, report, base_model="big", dataset="d").read_text()
    assert [card.count(f"](plots/{name})") for name in names] == [1, 1, 1, 1]


def test_without_plots_the_card_names_none(report, tmp_path):
    assert "](plots/" not in write_card(tmp_path, report, base_model="big", dataset="d").read_text()


def test_what_a_new_report_does_not_hold_does_not_stay(report, tmp_path, dots):
    write_plots(tmp_path, report, history=HISTORY)
    bare = dataclasses.replace(report, confusions=None)
    written = write_plots(tmp_path, bare, kind="svg")
    assert [path.name for path in written] == ["reliability.svg", "classes.svg"]
    left = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert left == [
        "classes.svg",
        "loss.png",
        "reliability.svg",
    ]  # the loss of the run, which nobody drew anew


@pytest.mark.parametrize("count", [len(HOSTILE), 77], ids=["matrix", "pairs"])
def test_names_of_classes_are_text_and_nothing_else(report, tmp_path, count):
    labels = [*HOSTILE, *map(str, range(count - len(HOSTILE)))]
    hostile = with_classes(report, labels)
    written = write_plots(tmp_path, hostile, kind="svg")
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*")) == [
        "plots/classes.svg", "plots/confusion.svg", "plots/reliability.svg",
    ]  # fmt: skip
    for path in written:
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(path).iter()}  # noqa: S314
        assert not tags & {"script", "x"}
    drawn = (draw_confusion(hostile), draw_classes(hostile))
    shown = [t for made in drawn for axes in made.axes for t in axes.get_yticklabels()]
    dollars = [t for t in shown if "$" in t.get_text()]
    assert any(t.get_text().startswith("$\\frac{1}{0}$") for t in dollars)
    assert not any(t.get_parse_math() for t in dollars)
    assert all(t.get_text().isprintable() and len(t.get_text()) < 90 for t in shown)


def test_the_same_report_gives_the_same_bytes_whatever_its_user_has_set(report, tmp_path):
    first = [p.read_bytes() for p in write_plots(tmp_path / "a", report, kind="svg")]
    with matplotlib.rc_context({"font.size": 30, "text.parse_math": True, "axes.facecolor": "red"}):
        again = [p.read_bytes() for p in write_plots(tmp_path / "b", report, kind="svg")]
        assert matplotlib.rcParams["font.size"] == 30
    assert first == again


def test_a_failed_write_keeps_the_old_picture(report, tmp_path, monkeypatch):
    path = save(draw_classes(report), tmp_path / "classes.png")
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save(draw_classes(with_classes(report, ["a", "b", "c"])), path)
    assert path.read_bytes() == before
    assert all(not p.name.startswith(".") for p in path.parent.iterdir())


def test_a_picture_that_cannot_be_drawn_is_left_out_and_told(report, tmp_path, monkeypatch, caplog):
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "reliability.png").write_bytes(DOT)

    def draw(_report):
        raise RuntimeError("no such glyph")

    monkeypatch.setattr("hfdistill.evaluation.plots.draw_reliability", draw)
    written = [path.name for path in write_plots(tmp_path, report)]
    assert written == ["confusion.png", "classes.png"]
    assert not (tmp_path / "plots" / "reliability.png").exists()  # that of an earlier report
    assert "reliability.png was not drawn: RuntimeError: no such glyph" in caplog.text


def test_without_matplotlib_a_run_goes_on_and_is_told(report, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with caplog.at_level(logging.WARNING):
        assert write_plots(tmp_path, report) == []
    assert r"pip install 'hfdistill[plots]'" in caplog.text
    with pytest.raises(ImportError, match=r"hfdistill\[plots\]"):
        draw_classes(report)


def test_another_kind_is_refused(report, tmp_path):
    with pytest.raises(ValueError, match=r"png or svg.*'pdf'"):
        write_plots(tmp_path, report, kind="pdf")


@pytest.mark.parametrize("schema", [1, 2])
def test_an_old_report_loads_and_has_fewer_pictures(report, tmp_path, schema):
    plain = json.loads(report.save(tmp_path / "report.json").read_text())
    plain["schema"] = schema
    del plain["confusions"]
    for role in ("student", "teacher", "baseline"):
        del plain[role]["reliability"]
    (tmp_path / "old.json").write_text(json.dumps(plain))
    old = Report.load(tmp_path / "old.json")
    assert [path.name for path in write_plots(tmp_path, old)] == ["classes.png"]
