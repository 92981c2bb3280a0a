"""Names for messages and cards, and JSON that is built into dataclasses."""

from dataclasses import dataclass
from typing import Any

import pytest

from hfdistill.files.plain_data import build, printable, public_name, read_json, telling_name


@dataclass(frozen=True)
class Part:
    sizes: tuple[float, ...]
    note: str | None = None


@dataclass(frozen=True)
class Whole:
    parts: dict[str, Part]
    anything: Any
    count: int


GOOD = {"parts": {"a": {"sizes": [1, 2.5]}}, "anything": [None, {"x": 1}], "count": 3}


def test_json_is_built_into_dataclasses():
    assert build(Whole, GOOD, "it") == Whole({"a": Part((1.0, 2.5))}, [None, {"x": 1}], 3)
    assert build(Whole, {**GOOD, "parts": {"a": {"sizes": [], "note": "n"}}}, "it").parts["a"].note == "n"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": True}, "it.count should be int, found bool"),
        ({"count": 3.0}, "it.count should be int, found float"),
        ({"parts": []}, r"it.parts should be dict"),
        ({"parts": {"a\n": 5}}, r"it.parts.a\\n should be an object, found int"),
        ({"parts": {"a": {"sizes": [1, "2"]}}}, r"it.parts.a.sizes\[1\] should be float, found str"),
        ({"parts": {"a": {"sizes": [1], "note": 2}}}, "it.parts.a.note should be str, found int"),
        ({"parts": {"a": {"note": "n"}}}, r"it.parts.a lacks \['sizes'\]"),
        ({"more": 1}, r"it lacks \[\] and has unknown \['more'\]"),
    ],
    ids=str,
)
def test_json_that_does_not_fit_is_refused_by_its_place(change, words):
    with pytest.raises(ValueError, match=words):
        build(Whole, {**GOOD, **change}, "it")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[NaN]", "holds NaN"),
        ("[1e999]", "holds 1e999"),
        ("[-Infinity]", "-Infinity"),
        ("[" * 9, "strict JSON"),
    ],
)
def test_json_is_strict(tmp_path, content, words):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=words):
        read_json(path, limit=11)
    path.write_text("[1234567]")
    assert read_json(path, limit=9) == [1234567]
    with pytest.raises(ValueError, match="more than 8 bytes"):
        read_json(path, limit=8)


@pytest.mark.parametrize(
    ("name", "public", "telling"),
    [
        ("ada/bert", "ada/bert", "ada/bert"),
        ("/srv/out/csv/student/checkpoint-120", "checkpoint-120", "csv"),
        ("/hub/models--ada--bert/snapshots/" + "0a" * 20, "0a" * 20, "ada/bert"),
        ("/hub/models--bert/snapshots/x", "x", "bert"),
        (r"C:\runs\mine\model", "model", "mine"),
        ("./student/", "student", "student"),
        ("a/../b/final", "final", "b"),
        ("", "", ""),
    ],
)
def test_a_path_is_shown_by_its_last_part_or_the_last_that_tells_something(name, public, telling):
    assert (public_name(name), telling_name(name)) == (public, telling)


def test_what_is_printed_is_one_line_of_a_length():
    assert printable("a\x1b]0;b\nc", limit=20) == r"a\x1b]0;b\nc"
    assert printable("x" * 81) == "x" * 80 + "…"
    assert printable("x" * 80) == "x" * 80
    assert printable(" é ") == "é"
