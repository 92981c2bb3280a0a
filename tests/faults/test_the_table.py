"""Every row of the table of faults has a test that is named after it, or a reason in tests/README.md."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROWS = [f"{section}{n}" for section, count in zip("abcde", (30, 11, 22, 19, 15)) for n in range(1, count + 1)]  # noqa: B905


def rows_with_a_test():
    """Return the rows in the names of tests: test_e4_e5_… is of two."""
    names = re.compile(r"def test_((?:[a-e]\d+_)+)")
    found = (name for path in TESTS.rglob("test_*.py") for name in names.findall(path.read_text("utf-8")))
    return {row for name in found for row in name.strip("_").split("_")}


def without_a_test():
    """Return the rows of the list in tests/README.md, each with its reason."""
    text = (TESTS / "README.md").read_text("utf-8")
    section = text.partition("## Rows without a test\n")[2].partition("\n## ")[0]
    return {row.lower(): reason for row, reason in re.findall(r"^- ([A-E]\d+): (.+)$", section, re.MULTILINE)}


def test_every_row_has_a_test_or_a_reason():
    reasons = without_a_test()
    assert sorted(rows_with_a_test() - set(ROWS)) == []
    assert sorted(set(ROWS) - rows_with_a_test() - reasons.keys()) == []
    assert sorted(rows_with_a_test() & reasons.keys()) == []
    assert all(len(reason) > 20 for reason in reasons.values())


def test_every_message_of_section_a_says_what_to_type():
    """The fixture `refused` looks for an argument or a command in it, and for no step of an optimizer."""
    text = (TESTS / "faults" / "test_a_user_mistakes.py").read_text("utf-8")
    assert "pytest.raises" not in text
    assert text.count("with refused(") >= 25
