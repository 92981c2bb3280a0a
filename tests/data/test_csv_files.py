import csv
import gzip
import io
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import Value
from hypothesis import strategies as st

from hfdistill.data import load
from hfdistill.data.csv_files import BadLine, CsvRows, csv_layout
from hfdistill.data.encodings import undecodable
from hfdistill.data.table_files import bad_lines_message
from tests.any_input import holds_for
from tests.data.conftest import messages, write


def read(folder, content, name="train.csv", **options):
    """The layout, rows and bad lines of a csv of this content."""
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    layout, bad = csv_layout(file, **options), []
    return layout, list(CsvRows(file, layout, bad.append)), bad


def test_cells_are_read_as_they_are_written(tmp_path):
    write(tmp_path, {"train.csv": '\ufefftext,label\nnull,1\n2020,0\n007,1\n"",0\n"  ",1\n"two\nlines",0\n'})
    rows = load(tmp_path)["train"]
    assert list(rows["text"]) == ["null", "2020", "007", "", "  ", "two\nlines"]
    assert list(rows["label"]) == [1, 0, 1, 0, 1, 0]
    assert rows.features["label"] == Value("int64")


PARTS = ["a", "b ", '"', '""', ",", ";", "\t", "|", "\n", "\r\n", "\r", "é", "\U0001f600", "\0", " ", "1"]
WORDS = ["warm", "tale,", 'so "good"', "1", "\n", "dull;", "end.", '"', "l'été"]


@st.composite
def written_with_quotes(draw):
    """A table of any cells, how it is written, and its bytes."""
    columns = draw(st.integers(1, 4))
    cell = st.lists(st.sampled_from(PARTS), max_size=6).map("".join)
    table = draw(st.lists(st.lists(cell, min_size=columns, max_size=columns), min_size=1, max_size=8))
    delimiter, text = draw(st.sampled_from(",;\t|")), io.StringIO(newline="")
    quoting = draw(st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
    ends = draw(st.sampled_from(["\n", "\r\n"]))
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=ends)
    writer.writerows([[f"column {i}" for i in range(columns)], *table])
    return table, delimiter, text.getvalue().encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])))


def test_whatever_a_writer_of_csv_writes_is_read_back(tmp_path):
    """Tables of any cells, delimiters, line ends and quoting are read as they were written."""

    def check(written):
        table, delimiter, content = written
        _, rows, bad = read(tmp_path, content, delimiter=delimiter, quotes=True)
        assert (rows, bad) == (table, [])

    holds_for(written_with_quotes(), check, examples=100)


def test_whatever_a_writer_quotes_at_need_is_read_without_an_option(tmp_path):
    """Words with quotation marks, commas and line breaks, quoted where needed only, as pandas does."""
    texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join)
    row = st.tuples(texts, st.sampled_from(["pos", "neg"])).map(list)

    def check(table):
        text = io.StringIO(newline="")
        csv.writer(text).writerows([["text", "label"], *table])
        layout, rows, bad = read(tmp_path, text.getvalue())
        assert (layout.delimiter, rows, bad) == (",", table, [])

    holds_for(st.lists(row, min_size=2, max_size=12), check, examples=100)


TOO_MANY = "has 3 cells where the header has 2 (label, text)"
TOO_FEW = "has 1 cell where the header has 2 (label, text)"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("up,warm tale,", TOO_MANY),
        ("up,warm, tale", TOO_MANY),
        ("up", TOO_FEW),
        ("up,warm\rtale", "has a carriage return within a cell, outside quotation marks"),
        ('up,"warm" tale', "has a quotation mark in the middle of a cell that quotation marks enclose"),
        ('up,"a \\"warm\\" tale"', "has a quotation mark behind a backslash"),
        ('up,"warm tale', "opens a quotation mark that nothing closes"),
    ],
)
def test_a_line_that_is_no_row_is_refused_by_its_number(tmp_path, line, reason):
    content = f"label,text\nup,bright\ndown,dull\n{line}\nup,fine\n"
    _, rows, bad = read(tmp_path, content)
    assert rows == [["up", "bright"], ["down", "dull"], ["up", "fine"]]
    assert [(where.line, where.content) for where in bad] == [(4, f"{line}\n")]
    assert bad[0].reason.startswith(reason)
    with pytest.raises(ValueError, match=r"train.csv, line 4 ") as caught:
        load(tmp_path / "train.csv")
    assert reason in str(caught.value)
    assert repr(line[:10])[1:-1] in str(caught.value)
    assert 'on_bad_row="drop" leaves such lines out' in str(caught.value)


def test_lines_that_are_dropped_are_said_each_time(tmp_path, caplog):
    write(tmp_path, {"train.csv": "label,text\nup,a\nup\ndown,b\nup,c,d\n"})
    for _ in range(2):  # the second time out of the cache
        caplog.clear()
        assert list(load(tmp_path, on_bad_row="drop")["train"]["text"]) == ["a", "b"]
        (said,) = messages(caplog)
        assert said == (
            "2 lines of train.csv are not rows; the first: line 3 has 1 cell where the header has 2 "
            "(label, text): 'up': dropped"
        )
    with pytest.raises(ValueError, match=r"2 lines of train.csv are not rows; the first: line 3"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "row"),
    [
        ('text,label\n"opened,1\nx,0\nend",1\nz,0\n', ["opened,1\nx,0\nend", "1"]),
        ('text,label\nz,0\n"opened,1\nend",1\n', ["opened,1\nend", "1"]),
        ('label,text\n0,b\n1,"Hi\n0, me"\n', ["1", "Hi\n0, me"]),
        ('score,text\n0.5,b\n1.7,"Hi\n0.5, me"\n', ["1.7", "Hi\n0.5, me"]),
        ('text\tlabel\nz\t0\n"opened\t1\nend"\t1\n', ["opened\t1\nend", "1"]),
    ],
)
def test_quotation_marks_that_swallow_rows_are_refused_unless_they_are_said_to_enclose(
    tmp_path, content, row
):
    name = "train.tsv" if "\t" in content else "train.csv"
    line = next(i for i, text in enumerate(content.split("\n"), 1) if '"' in text)
    _, _, bad = read(tmp_path, content, name)
    assert bad[0].line == line
    with pytest.raises(
        ValueError, match=f"{name}, line {line} opens a quotation mark that takes in"
    ) as caught:
        load(tmp_path)
    assert "quotes=False" in str(caught.value)
    assert "quotes=True" in str(caught.value)
    assert row in read(tmp_path, content, name, quotes=True)[1]
    rows = read(tmp_path, content, name, quotes=False)[1]
    separator = "\t" if "\t" in content else ","
    assert rows == [text.split(separator) for text in content.strip().split("\n")[1:]]


@pytest.mark.parametrize(
    "content",
    [
        'label,text\n0,b\n1,"Hi\nyou, me"\n',
        'text,label\n"Dear all,\nwe, the people,\nare, well, here",pos\nb,neg\n',
        'text\n"a\nb"\n',
        'text,text_pair\n"Hi, you\nthere","Hi, you\nthere"\n',
    ],
)
def test_texts_of_several_lines_are_no_reason_for_doubt(tmp_path, content):
    _, rows, bad = read(tmp_path, content)
    assert bad == []
    assert rows == list(csv.reader(io.StringIO(content, newline="")))[1:]


@pytest.mark.parametrize(
    ("content", "name", "delimiter"),
    [
        ("text;label\na, b;1\nc;0\n", "train.csv", ";"),
        ("text|label\na, b|1\nc|0\n", "train.csv", "|"),
        ("text\tlabel\na, b\t1\nc\t0\n", "train.csv", "\t"),
        ('text,label\n"a, b",1\nc,0\n', "train.tsv", ","),
    ],
)
def test_the_delimiter_is_guessed_and_said(tmp_path, caplog, content, name, delimiter):
    write(tmp_path, {name: content})
    assert load(tmp_path)["train"].to_list() == [{"text": "a, b", "label": 1}, {"text": "c", "label": 0}]
    assert messages(caplog) == [f"{name}: cells are separated by {delimiter!r} (pass delimiter= for another)"]
    caplog.clear()
    assert len(load(tmp_path, delimiter=delimiter)["train"]) == 2
    assert messages(caplog) == []


@pytest.mark.parametrize(
    ("first", "delimiter"), [("sep=;", ";"), ('"sep=|"', "|"), ("sep=\t", "\t"), ("sep=,", ",")]
)
def test_a_first_line_that_names_the_delimiter_is_no_header(tmp_path, caplog, first, delimiter):
    rows = [["text", "label"], ["a", "1"], ["c", "0"]]
    write(tmp_path, {"train.csv": "\r\n".join([first, *(delimiter.join(row) for row in rows), ""])})
    assert load(tmp_path)["train"].to_list() == [{"text": "a", "label": 1}, {"text": "c", "label": 0}]
    assert messages(caplog) == []


def test_a_bad_line_is_counted_from_the_line_that_names_the_delimiter(tmp_path):
    write(tmp_path, {"train.csv": "sep=;\ntext;label\na;1\nb;0;\n"})
    with pytest.raises(ValueError, match="line 4 has 3 cells where the header has 2"):
        load(tmp_path)


def test_delimiters_that_fit_equally_well_are_asked_for(tmp_path):
    write(tmp_path, {"train.csv": "text;x|label\na;b|1\n"})
    with pytest.raises(ValueError, match=r"a semicolon or a bar.*Say which: delimiter=';'"):
        load(tmp_path)
    with pytest.raises(ValueError, match="delimiter is ';;', and one letter is needed"):
        load(tmp_path, delimiter=";;")
    assert read(tmp_path, "text; cleaned\nfoo\nbar\n")[1] == [["foo"], ["bar"]]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json"])
def test_utf_16_without_the_mark_that_it_begins_with_is_refused(tmp_path, suffix):
    file = tmp_path / f"rows.{suffix}"
    file.write_text("text,label\na,1\n" if suffix == "csv" else '{"text": "a", "label": 1}\n')
    with pytest.raises(ValueError, match=f"rows.{suffix} cannot be read as utf-16. Leave encoding= out"):
        load(file, encoding="utf-16")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_packed_file_that_breaks_in_its_first_bytes_says_so(tmp_path, suffix, streaming):
    packed = bytearray(gzip.compress(b'{"text": "a warm film", "label": 1}\n' * 50))
    packed[20] ^= 255
    (tmp_path / f"rows.{suffix}.gz").write_bytes(packed)
    with pytest.raises(ValueError, match=rf"rows.{suffix}.gz cannot be unpacked \(.*\). Pack it again"):
        load(tmp_path / f"rows.{suffix}.gz", streaming=streaming)


def test_other_encodings_are_asked_for_or_told_by_their_mark(tmp_path):
    content = "text,label\ncaf\u00e9,1\n\u20ac,0\n"
    texts = [["caf\u00e9", "1"], ["\u20ac", "0"]]
    (tmp_path / "train.csv").write_bytes(content.encode("cp1252"))
    with pytest.raises(ValueError, match=r"line 2, is not UTF-8. If 'café,1' .*pass encoding='cp1252'"):
        load(tmp_path)
    with pytest.raises(ValueError, match="cannot be read as ascii"):
        load(tmp_path, encoding="ascii")
    for encoding in ("klingon", "base64", "rot13", "undefined"):
        with pytest.raises(
            ValueError, match=f"encoding is '{encoding}', which Python does not know for text"
        ):
            load(tmp_path, encoding=encoding)
    assert list(load(tmp_path, encoding="cp1252")["train"]["text"]) == ["caf\u00e9", "\u20ac"]
    assert read(tmp_path, content.encode("utf-16"))[1] == texts
    assert read(tmp_path, content.encode("utf-32"))[1] == texts
    for order in ("le", "be"):
        with pytest.raises(ValueError, match=f"UTF-16 without a byte order mark.*encoding='utf-16-{order}'"):
            read(tmp_path, content.encode(f"utf-16-{order}"))
        assert read(tmp_path, content.encode(f"utf-16-{order}"), encoding=f"utf-16-{order}")[1] == texts


def test_an_undecodable_byte_far_down_is_named(tmp_path):
    content = b"text,label\n" + b"a,1\n" * 50_000 + b"caf\xe9,1\n"
    (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"train.csv, line 50002, is not UTF-8"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ('text,label\r\n"a\r\nb",1\r\nc,0\r\n', [["a\r\nb", "1"], ["c", "0"]]),
        ("text,label\ra,1\rc,0\r", [["a", "1"], ["c", "0"]]),
        ('text,label\n"a\rb",1\n', [["a\rb", "1"]]),
        ("\n\ntext,label\n\na,1\n  \nb,0\n\n", [["a", "1"], ["b", "0"]]),
        ("text,label\na\0b,1\n", [["a\0b", "1"]]),
        ("text,label\na,1", [["a", "1"]]),
        ('text\n"hello, you"\n\n""\n', [["hello, you"], [""]]),
        ('text,label\n"a ""b"" c",1\n\U0001f600,0\n', [['a "b" c', "1"], ["\U0001f600", "0"]]),
        ('text,label\nsaid "no" to,1\n', [['said "no" to', "1"]]),
        (",text,\n0,a,\n1,b,\n", [["0", "a", ""], ["1", "b", ""]]),
    ],
)
def test_line_ends_blank_lines_and_odd_letters(tmp_path, content, rows):
    assert read(tmp_path, content)[1:] == (rows, [])


def test_a_delimiter_behind_every_line_is_left_out_and_said(tmp_path, caplog):
    write(tmp_path, {"train.csv": "label,text\nup,warm tale,\ndown,cold,\n"})
    assert list(load(tmp_path)["train"]["text"]) == ["warm tale", "cold"]
    assert messages(caplog) == ["train.csv: every line ends with ',', which the header lacks; it is left out"]
    write(tmp_path, {"train.csv": "label,text\nup,warm tale,\ndown,cold,\n" + "up,a,\n" * 60 + "down,b\n"})
    with pytest.raises(ValueError, match="line 64 does not end with a delimiter, as the lines before it do"):
        load(tmp_path)


def test_names_of_columns(tmp_path):
    assert read(tmp_path, "Unnamed: 1,,text\n1,2,a\n")[0].names == ("Unnamed: 1", "Unnamed: 1_", "text")
    taken = read(tmp_path, ",Unnamed: 0,Unnamed: 0_\n1,2,3\n")[0].names
    assert taken == ("Unnamed: 0__", "Unnamed: 0", "Unnamed: 0_")
    layout, rows, bad = read(tmp_path, '"te\nxt",label\na,1\nb\n')
    assert (layout.names, rows) == (("te\nxt", "label"), [["a", "1"]])
    assert bad == [BadLine(4, "has 1 cell where the header has 2 (te\nxt, label)", "b\n")]
    write(tmp_path, {"spaced.csv": "Text , label\na,x\nb,y\n"})
    assert load(tmp_path / "spaced.csv")["train"].to_list()[1] == {"text": "b", "label": 1}
    with pytest.raises(ValueError, match="a zero byte in the name of a column"):
        read(tmp_path, "text,la\0b\na,b\n")
    write(tmp_path, {"headless.csv": "a warm film with heart,1\ndull,0\n"})
    with pytest.raises(ValueError, match="If the first line is a row, put a header above it"):
        load(tmp_path / "headless.csv")


def test_cells_longer_than_the_limit_of_the_csv_module(tmp_path):
    limit = csv.field_size_limit()
    long = "word, " * 100_000
    write(tmp_path, {"train.csv": f'text,label\n"{long}",1\nb,0\n'})
    assert list(load(tmp_path)["train"]["text"]) == [long, "b"]
    assert csv.field_size_limit() == limit


def test_shards_of_one_split_may_order_their_columns_differently(tmp_path):
    write(tmp_path, {"train-0-of-2.csv": "text,label\na,x\n", "train-1-of-2.csv": "label,text\ny,b\n"})
    assert list(load(tmp_path)["train"]["text"]) == ["a", "b"]
    write(tmp_path, {"train-1-of-2.csv": "kind,text\ny,b\n"})
    with pytest.raises(ValueError, match=r"train-1-of-2.csv has the columns \['kind', 'text'\]"):
        load(tmp_path)


def test_options_are_part_of_what_is_cached(tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    write(tmp_path, {"train.csv": 'text,label\n"a",x\nb,y\n'})
    assert list(load(tmp_path)["train"]["text"]) == ["a", "b"]
    assert list(load(tmp_path, quotes=False)["train"]["text"]) == ['"a"', "b"]
    assert load(tmp_path)["train"]._fingerprint == load(tmp_path)["train"]._fingerprint


@pytest.mark.parametrize(
    "content",
    ['"text","label"\n"1","a","x"\n"2","b","y"\n', "# by me\ntext,label\na,x\n", "text,label\na;x\nb;y\n"],
)
def test_a_header_that_no_line_fits_is_said_to_be_so(tmp_path, content):
    write(tmp_path, {"train.csv": content})
    with pytest.raises(ValueError, match="All lines are so: give the header a name for each cell"):
        load(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32-le"])
def test_encodings_without_lines_name_another_encoding(tmp_path, encoding):
    (tmp_path / "a.csv").write_bytes(b"text\xff\n")
    message = undecodable(tmp_path / "a.csv", encoding)
    assert message == (f"a.csv cannot be read as {encoding}. Leave encoding= out, or name the file's own.")


def test_where_quotation_marks_are_letters_none_are_asked_for():
    layout = SimpleNamespace(quotes=False, delimiter=";")
    bad = [BadLine(3, "has 4 cells, not 2", "a;b;c;d\n")]
    assert bad_lines_message(Path("a.csv"), layout, bad, rows=5) == (
        "a.csv, line 3 has 4 cells, not 2: 'a;b;c;d'. Take ';' and line breaks out of the cells, or save the "
        'file as .jsonl; on_bad_row="drop" leaves such lines out.'
    )
