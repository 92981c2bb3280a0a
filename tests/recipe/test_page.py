"""Pages as they are read: what YAML says, and what nobody should have sent."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from hfdistill.recipe.page import MAX_BYTES, RecipeError, hint, read_page
from hfdistill.recipe.page_facts import by_name, task_scores


def page(tmp_path, text, *overrides):
    (tmp_path / "page.yaml").write_text(text, encoding="utf-8")
    return read_page(tmp_path / "page.yaml", overrides)


def refused(tmp_path, text):
    started = time.process_time()
    with pytest.raises(RecipeError) as caught:
        page(tmp_path, text)
    assert time.process_time() - started < 1
    (mistake,) = caught.value.mistakes
    assert "\n" not in str(mistake)
    return mistake


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ('a: 1\nb: "message\nc: 2\n', 2, "quotation mark that opens here is not closed before the page ends"),
        ('a: 1\nb: "message\nc: 2\nd: "label"\n', 2, "not closed where line 4 goes on"),
        ("b: 'message\nc: 2  # the student's\n", 1, "not closed where line 2 goes on"),
        ("a: 1\nb: {layers: 3\nc:\n  d: 2\n", 3, "the bracket that opens in line 2 is not closed"),
        ("a: [1, 2\nc: 2\n", 2, "the bracket that opens in line 1 is not closed"),
        ('a: "one\n  two"\nb: 1\n c: 2\n', 4, "is no YAML"),
        ("a: {b: 1, c: 2}}\n", 1, "is no YAML"),
    ],
)
def test_what_is_not_closed_is_reported_where_it_opens(tmp_path, text, line, what):
    mistake = refused(tmp_path, text)
    assert mistake.line == line
    assert what in mistake.text
    assert ("not closed" in mistake.text) == ("not closed" in what)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-5", 5e-5),
        ("1e-4", 1e-4),
        ("-3", -3),
        (".5", 0.5),
        ("0.00010329291894316216", 0.00010329291894316216),
        ("010", 10),
        ("no", "no"),
        ("off", "off"),
        ("1:3", "1:3"),
        ("1:3, 2:6", "1:3, 2:6"),
        ("2026-01-01", "2026-01-01"),
        ("0x1F", "0x1F"),
        ("true", True),
        ("~", None),
        ("", None),
        ("'5'", "5"),
        (".nan", ".nan"),
        ("9" * 40, "9" * 40),
        ("!!str 5", "5"),
        ("<<", "<<"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(tmp_path, text, value):
    found = page(tmp_path, f"key: {text}\n").values["key"]
    assert found == value
    assert type(found) is type(value)


def test_places_know_their_lines(tmp_path):
    found = page(tmp_path, "a:\n  b: 1\n  c:\n    - x\n    - {d: 2}\n")
    assert found.values == {"a": {"b": 1, "c": ["x", {"d": 2}]}}
    assert found.lines["a", "c"] == 3
    assert found.lines["a", "c", 1, "d"] == 5
    found.refuse(("a", "c", 1, "e"), "is wrong")
    assert str(found.mistakes[0]) == "page.yaml, line 5: a.c[1].e: is wrong"


@pytest.mark.parametrize(
    ("text", "match", "line"),
    [
        ("a: 1\nb: !!python/object/apply:os.system ['touch canary']\n", "!!python/object/apply:os.system", 2),
        ("!!python/name:os.system x\n", "plain text, numbers", 1),
        ("a: !!binary aGk=\n", "!!binary", 1),
        ("a: !custom {b: 1}\n", "!custom", 1),
        ("a: !!int x\n", "where a tag says !!int", 1),
        ("a: &x [1]\nb: *x\n", "an alias", 2),
        ("a: 1\nb: 2\na: 3\n", "the key a twice", 3),
        ("a: [1\nb: 2\n", "no YAML", 2),
        ("a: 1\n---\nb: 2\n", "no YAML", 2),
        ("{{a: 1}: 2}\n", "plain text, numbers", 1),
        ("a: \0\n", "no YAML", None),
        ("[" * 5000, "more than 16 levels", 1),
        ("\n".join("  " * i + "a:" for i in range(200)), "more than 16 levels", 16),
        ("a: " + "x" * MAX_BYTES, "a recipe is a page", None),
        ("- " * (MAX_BYTES // 2 - 1), "more than 16 levels", 1),
    ],
    ids=range(15),
)
def test_d5_hostile_pages_are_refused_in_one_line(tmp_path, monkeypatch, text, match, line):
    monkeypatch.chdir(tmp_path)
    mistake = refused(tmp_path, text)
    assert match in mistake.text
    assert mistake.line == line
    assert not (tmp_path / "canary").exists()


def test_d5_a_bomb_of_aliases_is_refused(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    assert "an alias" in refused(tmp_path, "\n".join(lines)).text


def test_a_large_file_is_not_read_whole(tmp_path):
    with (tmp_path / "page.yaml").open("wb") as stream:
        stream.truncate(2_000_000_000)
    with pytest.raises(RecipeError, match="more than 100,000 bytes"):
        read_page(tmp_path / "page.yaml")


def test_other_files_are_told_apart(tmp_path):
    with pytest.raises(RecipeError, match=r"none\.yaml: cannot be read \(No such file"):
        read_page(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="cannot be read"):
        read_page(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    with pytest.raises(RecipeError, match="not UTF-8"):
        read_page(tmp_path / "latin.yaml")


def test_overrides_change_one_place(tmp_path):
    text = "training: {seed: 1}\nobjective:\n  - kd: {weight: 1}\n"
    overrides = [
        "training.seed=7",
        "training.bf16=true",
        "objective.0.kd.weight={linear: [1, 0]}",
        "data=a b",
    ]
    found = page(tmp_path, text, *overrides, "measure.speed=false", "training.run_name=x=y")
    assert found.mistakes == []
    assert found.values == {
        "training": {"seed": 7, "bf16": True, "run_name": "x=y"},
        "objective": [{"kd": {"weight": {"linear": [1, 0]}}}],
        "data": "a b",
        "measure": {"speed": False},
    }
    assert ("training", "seed") not in found.lines, "the line is not where the value comes from"


def test_overrides_reach_terms_by_name_and_what_stands_in_a_short_form(tmp_path):
    text = "data: folder\nteacher: model\nobjective:\n  - kd: {weight: 1}\n  - pkd\n"
    overrides = ["objective.kd.temperature=2", "objective.pkd.weight=3", "data.train_rows=9"]
    found = page(tmp_path, text, *overrides, "teacher.pretrained.source=other")
    assert found.mistakes == []
    assert found.values == {
        "data": {"source": "folder", "train_rows": 9},
        "teacher": {"pretrained": {"source": "other"}},
        "objective": [{"kd": {"weight": 1, "temperature": 2}}, {"pkd": {"weight": 3}}],
    }


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("seed", "not of the form path=value"),
        ("a..b=1", "not of the form path=value"),
        ("=1", "not of the form path=value"),
        ("a.b=[1", "holds no YAML"),
        ("a.b=!!python/name:os.system", "holds no YAML"),
        ("objective.5.kd=1", "finds no such place"),
        ("objective.pkd=1", "finds no such place"),
        ("data.source.x=1", "finds no such place"),
    ],
)
def test_overrides_that_lead_nowhere(tmp_path, override, match):
    found = page(tmp_path, "objective: [kd]\ndata: folder\n", override)
    assert [match in mistake.text for mistake in found.mistakes] == [True]


def test_hints_name_the_nearest_or_all():
    assert hint("temprature", ["temperature", "weight"]) == "Did you mean temperature?"
    assert hint("KD", ["kd", "dkd"]) == "Did you mean kd?"
    assert hint("zzz", ["kd", "dkd"]) == "Choose from: kd, dkd."


def test_members_of_an_ensemble_have_names_or_numbers():
    assert by_name({"one": 1, "two": 2}) == (["one", "two"], [1, 2])
    assert by_name([5, 6]) == ([0, 1], [5, 6])
    assert by_name(None) == ([], [])


def test_rows_without_labels_have_no_score():
    def scored(labels):
        logits = np.array([[0.0, 1.0], [2.0, 0.0]])
        return task_scores("single_label")(SimpleNamespace(predictions=logits, label_ids=np.array(labels)))

    assert scored([-100, -100]) == {}
    assert scored([1, -100]) == {"accuracy": 1.0}
    assert scored([1, 1]) == {"accuracy": 0.5}
