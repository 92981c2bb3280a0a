"""Labels that are read as they are written, and are probably not meant so."""

import pytest

from hfdistill.data import load
from tests.data.conftest import messages, write_codes


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["1,000", "2,500"], "a mark between thousands, .* such as '1,000'.*Write them as in '-1234.5'"),
        (["1,234,567", "7"], "a mark between thousands, .* such as '1,234,567'"),
        (["1.234,5", "2,5", "7"], "such as '1.234,5'"),
        (["1 234", "2\u00a0500"], "such as '1 234'"),
        (["1'234", "7"], 'such as "1\'234"'),
        (["\u22121.5", "2.5"], "or a long minus, such as '\u22121.5'"),
        (["1,5", "2,125"], "numbers with a decimal comma, such as '1,5'.*Write '1.5'"),
    ],
)
def test_numbers_with_other_marks_than_a_point_are_refused(tmp_path, labels, words):
    path = tmp_path / "train.tsv"
    path.write_text("text\tlabel\n" + "".join(f"film\t{label}\n" for label in labels), encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        load(path)
    assert load(path, label_names=labels)["train"].features["label"].names == labels


@pytest.mark.parametrize("labels", [["1.1.1", "1.1.2"], ["1.2.3.4", "7"], ["1-2", "3"], ["12,", "3"]])
def test_codes_with_points_are_names(tmp_path, labels):
    path = tmp_path / "train.tsv"
    path.write_text("text\tlabel\n" + "".join(f"film\t{label}\n" for label in labels))
    assert load(path)["train"].features["label"].names == sorted(labels)


@pytest.mark.parametrize("odd", ["NA", "?", "inf", "unsure", "-"])
def test_other_values_among_numbers_are_said(tmp_path, caplog, odd):
    rows = load(write_codes(tmp_path / "train.csv", ["1", "0", odd, "1"]))["train"]
    assert rows.features["label"].names == sorted({"0", "1", odd})
    words = (
        f"'label' holds numbers in 3 of 4 rows, and also '{odd}' (1 row): all are read as names of classes"
    )
    assert words in messages(caplog)[0]


def test_dates_and_letters_that_nobody_sees_are_said(tmp_path, caplog):
    load(write_codes(tmp_path / "dates.csv", ["2020-01-02 00:00:00", "3-4", "3-4"]))
    assert "classes of 'label' are dates, such as '2020-01-02 00:00:00' (1 row)" in messages(caplog)[0]
    caplog.clear()
    load(write_codes(tmp_path / "unseen.csv", ["pos", "pos\u200b", "\ufeffpos", "neg"]))
    assert (
        "counts as a class of its own: 'pos' (1 row) and 'pos\\u200b' (1 row) and '\\ufeffpos'"
        in (messages(caplog)[0])
    )
