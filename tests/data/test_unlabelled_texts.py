"""Unlabelled texts of any folder: each once, none of the evaluation's, whatever the files hold."""

import gzip
import json
import os
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, concatenate_datasets

from hfdistill import DistillationArguments, DistillationTrainer
from hfdistill.data import load_texts
from hfdistill.data.text_files import read_texts
from hfdistill.data.unlabelled_texts import normalised
from tests.conftest import make_bert, make_dataset, make_tokenizer
from tests.data.conftest import messages, write, write_rows


def texts_of(folder, **options):
    return load_texts(folder, **options)["text"][:]


def test_every_kind_of_file_in_every_folder_is_read_in_the_order_of_names(tmp_path):
    write(
        tmp_path,
        {
            "a.txt": "\ufeffone line\r\n\r\n  two   lines\n",
            "b/c.jsonl": '{"text": "of json", "id": 1}\n\n{"text": null}\n{"text": "last of json"}\n',
            "b/d.csv": 'id,review\n1,"a cell, quoted"\n2,other cell\n3\n',
            "b/e.tsv": "review\tid\ntab cell\t1\n",
            ".hidden/x.txt": "no",
            "b/.x.txt": "no",
            "b/readme.md": "no",
        },
    )
    write_rows(tmp_path / "z.parquet", sentence=["in parquet", None, "in parquet too"])
    assert texts_of(tmp_path) == [
        "one line", "two lines", "of json", "last of json", "a cell, quoted", "other cell", "tab cell",
        "in parquet", "in parquet too",
    ]  # fmt: skip
    assert texts_of(tmp_path / "a.txt") == ["one line", "two lines"]


def test_lines_sentences_and_paragraphs_of_bounded_length(tmp_path):
    write(tmp_path, {"a.txt": 'One two. "Three four!" Five\nsix? Seven\n\n\neight nine\n'})
    assert texts_of(tmp_path) == ['One two. "Three four!" Five', "six? Seven", "eight nine"]
    paragraph = 'One two. "Three four!" Five six? Seven'
    assert texts_of(tmp_path, unit="paragraph") == [paragraph, "eight nine"]
    assert texts_of(tmp_path, unit="paragraph", max_words=3, min_words=2) == [
        'One two. "Three',
        'four!" Five six?',
        "eight nine",
    ]
    assert texts_of(tmp_path, unit="sentence")[0] == "One two."
    assert texts_of(tmp_path, unit="sentence")[2:] == ["Five six?", "Seven", "eight nine"]
    assert texts_of(tmp_path, limit=2) == ['One two. "Three four!" Five', "six? Seven"]


def test_texts_are_told_apart_without_case_spaces_punctuation_and_form(tmp_path, caplog):
    composed, taken_apart = (unicodedata.normalize(form, "un caf\u00e9 chaud") for form in ("NFC", "NFD"))
    lines = [
        "A warm film.",
        " a  WARM film",
        f"{composed}!",
        taken_apart,
        "STRASSE",
        "stra\u00dfe",
        "\U0001f600",
    ]
    write(tmp_path, {"a.txt": "\n".join([*lines, "\U0001f600"])})
    assert texts_of(tmp_path) == ["A warm film.", f"{composed}!", "STRASSE", "\U0001f600"]
    assert [said for said in messages(caplog) if "4 seen before" in said]


LONG = "it was by far the warmest film that i have seen this year"


@pytest.mark.parametrize(
    ("line", "judged", "kept"),
    [
        ("Thin.", "thin", False),
        ("the plot was not thin", "thin", True),
        ("he said: 'The plot -- was THIN', and left", "the plot was thin", False),
        ("the plot was really thin", "the plot was thin", True),
        (f"well , {LONG} .", LONG, False),
        ("for me the warmest film that i have seen this decade", LONG, False),
        ("the warmest film that i have heard of", LONG, True),
        ("the plot", "the plot was thin", True),
    ],
)
@pytest.mark.parametrize("shape", ["list", "pairs", "splits"])
def test_evaluation_texts_are_found_also_inside_longer_ones(tmp_path, line, judged, kept, shape, caplog):
    write(tmp_path, {"a.txt": f"{line}\nanother line\n"})
    against = {
        "list": [judged],
        "pairs": Dataset.from_dict({"text": ["x y z"], "text_pair": [judged]}),
        "splits": {"validation": Dataset.from_dict({"text": [judged, None]})},
    }[shape]
    assert texts_of(tmp_path, against=against) == ([line] if kept else []) + ["another line"]
    said = [text for text in messages(caplog) if "1 overlapping with evaluation texts" in text]
    assert len(said) == (not kept)


def test_evaluation_texts_of_every_form_are_left_out(tmp_path):
    """The names of a frame's columns, and of a file, are no evaluation texts."""
    write(tmp_path, {"a.txt": "a warm film\nthe plot was thin\n"})
    rows = Dataset.from_dict({"text": ["The plot was thin"], "label": [0]})
    for against in (rows, rows.to_pandas(), rows.data.table, {"dev": rows.to_pandas()}, rows["text"][:]):
        assert texts_of(tmp_path / "a.txt", against=against) == ["a warm film"]
    rows.to_csv(tmp_path / "dev.csv")
    for path in (tmp_path / "dev.csv", str(tmp_path / "dev.csv")):
        with pytest.raises(TypeError, match=r"against= is a path.*Type against=load\("):
            texts_of(tmp_path / "a.txt", against=path)
    with pytest.raises(TypeError, match=r"its source is the path of a file, found a list\. Texts that"):
        load_texts(["a warm film"])


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"max_words": 5}, ["it was so far away", "and nobody ever went there"]),
        ({"unit": "sentence"}, ["And nobody ever went there."]),
        ({"unit": "paragraph"}, []),
    ],
    ids=["pieces", "sentences", "paragraphs"],
)
def test_evaluation_texts_are_found_across_cuts(tmp_path, options, kept):
    """No piece of five words and no sentence holds "said this the plot was thin" by itself."""
    text = "and then he said this the plot was thin and it was so far away and nobody ever went there"
    if "unit" in options:
        text = "And then he said this. The plot was\nthin and it was so far away. And nobody ever went there."
    write(tmp_path, {"a.txt": f"{text}\n\nthe end"})
    left = texts_of(tmp_path, against=["said this the plot was thin"], **options)
    assert left == [*kept, "the end"]


def test_bytes_lines_and_cells_that_are_no_text_are_counted_and_left_out(tmp_path, caplog):
    huge = b"word " * 300_000
    (tmp_path / "a.txt").write_bytes(b"good\ncaf\xe9\nnul\0byte\n" + b"x" * 5000 + b"\n" + huge + b"\nlast\n")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "json"}\n{"text": \n[1]\n' + b"[" * 100_000 + b"\n")
    (tmp_path / "c.csv").write_bytes(b"text\nc\xff\n" + b"y" * 200_000 + b"\ncell\n")
    bad = pa.array([b"par\xff", b"quet"], pa.binary()).cast(pa.binary())
    raw = pa.Array.from_buffers(pa.string(), 2, bad.buffers())
    pq.write_table(pa.table({"text": raw}), tmp_path / "d.parquet")
    kept = texts_of(tmp_path, max_words=16)
    assert kept == ["good", "word " * 15 + "word", *[t for t in kept if t.startswith("word") and len(t) < 79],
                    "last", "json", "cell", "quet"]  # fmt: skip
    (said,) = [text for text in messages(caplog) if "texts kept" in text]
    assert "4 not UTF-8" in said
    assert "3 in a line that is not a JSON object" in said
    assert "2 with a word of more than 1000 letters" in said


def test_lines_of_a_csv_that_are_no_rows_are_counted_and_the_others_read(tmp_path, caplog):
    (tmp_path / "a.tsv").write_text('text\tlabel\none\t1\n"two\t1\n' + "a line\t0\n" * 20_000)
    (tmp_path / "b.csv").write_text("label,text\nup,warm tale,\ndown,dull\nup\n")
    (tmp_path / "c.csv").write_text('text,label\n"opened here,1\nand closed"" here,0\nlast,1\n')
    assert texts_of(tmp_path) == ["one", "a line", "dull", 'and closed"" here', "last"]
    (said,) = [text for text in messages(caplog) if "texts kept" in text]
    assert "4 in a line that is not a row of its csv" in said


def test_other_encodings_delimiters_and_packed_files_are_read(tmp_path, caplog):
    (tmp_path / "a.txt").write_bytes("caf\u00e9\nna\u00efve\n".encode("utf-16"))
    (tmp_path / "b.csv").write_bytes("text;label\nd\u00e9j\u00e0, vu;1\n".encode("utf-16"))
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress("r\u00e9sum\u00e9\n".encode()))
    assert texts_of(tmp_path) == ["caf\u00e9", "na\u00efve", "d\u00e9j\u00e0, vu", "r\u00e9sum\u00e9"]
    assert messages(caplog) == ["b.csv: cells are separated by ';' (pass delimiter= for another)"]
    other = tmp_path / "latin"
    other.mkdir()
    for name, content in {"a.txt": "caf\u00e9\n", "b.jsonl": '{"text": "na\u00efve"}\n'}.items():
        (other / name).write_bytes(content.encode("latin-1"))
    (other / "c.csv").write_bytes("text|label\n\u00e0 la carte|1\n".encode("latin-1"))
    assert texts_of(other, encoding="latin-1", delimiter="|") == [
        "caf\u00e9",
        "na\u00efve",
        "\u00e0 la carte",
    ]
    with pytest.raises(ValueError, match=r"No text of .* is left"):
        texts_of(other)


def test_categories_of_parquet_are_texts(tmp_path):
    column = pa.array(["one", "two", "one"]).dictionary_encode()
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert texts_of(tmp_path) == ["one", "two"]


def test_a_column_of_numbers_is_refused(tmp_path):
    write_rows(tmp_path / "a.parquet", text=[1, 2])
    with pytest.raises(ValueError, match=r"'text' of a\.parquet holds int64 and no texts"):
        load_texts(tmp_path)


def test_a_huge_line_is_read_in_pieces_without_losing_a_word(tmp_path):
    words = [f"w{i}" for i in range(400_000)]
    (tmp_path / "a.txt").write_text(" ".join(words), encoding="utf-8")
    pieces = list(read_texts(tmp_path / "a.txt", None))
    assert len(pieces) == 3
    assert max(map(len, pieces)) <= 1 << 20
    assert " ".join(pieces).split() == words


def test_links_that_lead_out_and_pipes_are_not_read(tmp_path, caplog):
    write(tmp_path, {"in/a.txt": "inside", "out/b.txt": "secret"})
    (tmp_path / "in" / "c.txt").symlink_to(tmp_path / "out" / "b.txt")
    (tmp_path / "in" / "d").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "e.txt").symlink_to(tmp_path / "in" / "a.txt")
    os.mkfifo(tmp_path / "in" / "f.txt")
    assert texts_of(tmp_path / "in") == ["inside"]
    assert [text for text in messages(caplog) if "1 links lead out of" in text]


def test_files_that_changed_and_other_evaluation_texts_are_read_anew(tmp_path):
    write(tmp_path, {"a.txt": "one two three four\nfive\n"})
    assert texts_of(tmp_path) == texts_of(tmp_path) == ["one two three four", "five"]
    assert texts_of(tmp_path, against=["one two three four"]) == ["five"]
    assert texts_of(tmp_path, against=["five"]) == ["one two three four"]
    write(tmp_path, {"a.txt": "one two three four\nsix66\n"})
    assert texts_of(tmp_path) == ["one two three four", "six66"]


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz", "a.csv.gz", "a.parquet"])
def test_a_file_that_breaks_behind_its_first_texts_is_named(tmp_path, name):
    texts, file = [f"text {i * i} of {i * 7919 % 10_007}" for i in range(5000)], tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.table({"text": texts}), file, row_group_size=500)
        content = file.read_bytes()
        half = len(content) // 2
        file.write_bytes(content[:half] + b"\xff" * 200 + content[half + 200 :])
    else:
        lines = [json.dumps({"text": text}) for text in texts] if "jsonl" in name else ["text", *texts]
        packed = gzip.compress("\n".join(lines).encode())
        file.write_bytes(packed[: len(packed) * 2 // 3])
    how = "cannot be read as parquet" if name == "a.parquet" else "cannot be unpacked"
    with pytest.raises(ValueError, match=rf"^{name} {how} \(.*\)\."):
        load_texts(file)


def test_what_cannot_be_read_is_refused(tmp_path):
    write(
        tmp_path, {"a/x.zip": "", "b/x.csv": "one,two\n1,2\n", "c/x.jsonl": '{"one": "x"}\n', "d/x.txt": "hi"}
    )
    (tmp_path / "e.parquet").write_bytes(b"PAR1 no")
    for path, said in {
        "a": "holds no texts",
        "b": "none has a usual name",
        "c": "none has a usual name",
    }.items():
        with pytest.raises(ValueError, match=said):
            load_texts(tmp_path / path)
    assert texts_of(tmp_path / "b", text="two") == ["2"]
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        load_texts(tmp_path / "e.parquet")
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        load_texts(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"No text of"):
        load_texts(tmp_path / "d", against=["Hi!"])
    for wrong in ({"min_words": 0}, {"max_words": 0}, {"overlap": 3}, {"limit": 0}):
        with pytest.raises(ValueError, match="load_texts needs"):
            load_texts(tmp_path / "d", **wrong)
    with pytest.raises(ValueError, match="unit is"):
        load_texts(tmp_path / "d", unit="word")
    with pytest.raises(ValueError, match="no column 'text'"):
        load_texts(tmp_path / "d", against=Dataset.from_dict({"sentence": ["x"]}))


@pytest.mark.parametrize("streamed", [False, True])
def test_unlabelled_texts_train_alone_and_beside_labelled_rows(tmp_path, streamed):
    (tmp_path / "texts.jsonl").write_text(
        "\n".join(json.dumps({"text": text}) for text in make_dataset(24)["text"]), encoding="utf-8"
    )
    from hfdistill import KD

    train = load_texts(tmp_path / "texts.jsonl", against=make_dataset(4))
    assert len(train) < 24
    train = train.to_iterable_dataset() if streamed else concatenate_datasets([make_dataset(4), train])
    trainer = DistillationTrainer(
        make_bert(2, seed=2),
        DistillationArguments(str(tmp_path / "run"), max_steps=3, report_to="none", disable_tqdm=True),
        teacher=make_bert(3, seed=1),
        objective=1.0 * KD() if streamed else None,
        train_dataset=train,
        processing_class=make_tokenizer(),
    )
    assert trainer.train().global_step == 3


def test_contractions_are_found_whether_a_tokenizer_has_split_them_or_not(tmp_path):
    split = ["it does n't matter", "we 'll see", "it 's so-so", "i can \u2019 t say", "the dogs ' bowl"]
    write(
        tmp_path, {"a.txt": "It doesn't matter!\nWe\u2019ll see.\nIt's so-so\nI can't say\nThe dogs' bowl\n"}
    )
    write(tmp_path, {"b.txt": "\n".join(split) + "\nThe plot's thin\n"})
    assert len(texts_of(tmp_path)) == 6  # each once
    assert texts_of(tmp_path, against=split) == ["The plot's thin"]
    assert normalised("the 'n' of rock 'n' roll, l'amour") == [
        "the",
        "n",
        "of",
        "rock",
        "n",
        "roll",
        "l",
        "amour",
    ]
