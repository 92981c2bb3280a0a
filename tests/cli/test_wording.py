"""Messages name arguments as the command that is running takes them."""

import argparse
import json
import logging
import os
import subprocess
import sys

import pytest

from hfdistill.cli import main
from hfdistill.cli.wording import as_typed
from hfdistill.files.wording import worded, wording
from hfdistill.recipe.terminal import quiet_libraries


@pytest.mark.parametrize(
    ("message", "flags", "keys"),
    [
        ("(pass delimiter= for another)", "(pass --delimiter for another)", "(pass delimiter: for another)"),
        ("another folder: output_dir=...", "another folder: --out ...", "another folder: output_dir: ..."),
        ("Pass max_ms=5.", "Pass --max-ms 5.", "Pass max_ms=5."),
        ("label_names=['no', 'not yet']", "--label-names no 'not yet'", "label_names: ['no', 'not yet']"),
        ("label=['a', 'b'], or", "--label a --label b, or", "label: ['a', 'b'], or"),
        ("Type max_ms: 5 or max_mb: 30.", "Type --max-ms 5 or max_mb: 30.", "Type max_ms: 5 or max_mb: 30."),
        ("Usual: steps: 3.", "Usual: --epochs 3.", "Usual: steps: 3."),
        ("(`text:` under `data:`)", "(--text)", "(`text:` under `data:`)"),
        ("found text: a film", "found text: a film", "found text: a film"),
        ("https://a.b/c?text=5&label=3", "https://a.b/c?text=5&label=3", "https://a.b/c?text=5&label=3"),
        ("training.text=a and text=abc", "training.text=a and text=abc", "training.text=a and text=abc"),
        ('Leave out: on_bad_row="drop".', "Leave out: --on-bad-row drop.", "Leave out: on_bad_row: drop."),
        ("Pass encoding='cp1252'; else", "Pass --encoding cp1252; else", "Pass encoding: cp1252; else"),
        ("Choose text= or label=, or", "Choose --text or --label, or", "Choose text: or label:, or"),
        ("Say quotes=False, and", "Say --no-quotes, and", "Say quotes: false, and"),
        ("Say delimiter=';'", "Say --delimiter ';'", "Say delimiter: ';'"),
        ("Say text='true'.", "Say --text true.", "Say text: 'true'."),
    ],
)
def test_arguments_are_flags_of_the_shell_and_keys_of_a_page(message, flags, keys):
    flagged = ("text", "label", "label_names", "encoding", "quotes", "delimiter", "on_bad_row")
    options = argparse.Namespace(**dict.fromkeys((*flagged, "max_ms", "epochs", "out"), 0))
    options.renamed = {"steps": "epochs", "output_dir": "out"}
    assert as_typed(message, options) == flags
    assert as_typed(message, argparse.Namespace(overrides=[])) == keys


def test_an_argument_that_the_command_lacks_stays_as_it_is():
    args = argparse.Namespace(text="body")
    assert as_typed("Pass text='what they wrote' and quotes=False.", args) == (
        "Pass --text 'what they wrote' and quotes=False."
    )


def test_words_hold_within_their_block_alone():
    with wording(str.upper), wording(str.title):
        assert worded("a word") == "A Word"
    assert worded("a word") == "a word"


def test_a_notice_is_printed_in_the_words_of_the_command(capsys):
    args = argparse.Namespace(delimiter=None)
    with wording(lambda text: as_typed(text, args)), quiet_libraries():
        logging.getLogger("hfdistill.data.table_files").warning("cells (pass delimiter= for another)")
    assert capsys.readouterr().err == "! cells (pass --delimiter for another)\n"


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ([], ["there is no limit, and the teacher itself keeps everything. Type --max-ms 5 or --max-mb 30."]),
        (
            ["--max-ms", "-3", "--epochs", "-1"],
            [
                "--max-ms is -3.0, and a student takes some milliseconds. Type --max-ms 10.",
                "--epochs: found -1.0, and it starts from 0. Usual: --epochs 3.",
            ],
        ),
        (
            ["--max-mb", "5", "--rows", "0"],
            ["--rows is 0, and learning needs rows. Type a number from 1 up."],
        ),
    ],
)
def test_what_fit_refuses_is_named_as_it_was_typed(capsys, words, lines):
    assert main(["fit", "rows.csv", "--teacher", "t", *words]) == 2
    assert capsys.readouterr().err.splitlines() == [f"error: {line}" for line in lines]


def test_a_guess_is_told_in_the_words_of_the_shell(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"text {number} was fine;{'yes' if number % 2 else 'no'}" for number in range(40)]
    (tmp_path / "rows.csv").write_text("\n".join(["text;label", *rows, ""]))
    assert main(["init", "rows.csv"]) == 0
    assert "cells are separated by ';' (pass --delimiter for another)" in capsys.readouterr().err
    lines = [json.dumps({"text": "a", "label": "b"})]
    (tmp_path / "rows.jsonl").write_text("\n".join([*lines, ""]))
    assert main(["init", "rows.jsonl", "--text", "txt", "--page", "b.yaml"]) == 1
    assert "Did you mean --text text?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "splits", "said"),
    [
        (80, ["train"], "8 rows to measure on: a score can be off by 35 points (95 %)"),
        (1994, ["train"], "199 rows to measure on: a score can be off by 7 points (95 %)"),
        (1996, ["train"], None),
        (40, ["train", "test"], "40 rows to measure on: a score can be off by 15 points (95 %)"),
    ],
)
def test_init_says_how_little_few_rows_tell(tmp_path, capsys, rows, splits, said):
    for split in splits:
        lines = [f"text {number} was {split},{'yes' if number % 2 else 'no'}" for number in range(rows)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,label", *lines, ""]))
    page = tmp_path / "page.yaml"
    assert main(["init", str(tmp_path), "--page", str(page)]) == 0
    told = capsys.readouterr().out
    if said is None:
        assert "to measure on: a score" not in page.read_text() + told
        return
    way = ", or a larger holdout on the page" if len(splits) == 1 else ""
    assert f"\n{said}. Better: more rows with labels{way}\n" in told
    assert f"\n  # {said}\n" in page.read_text()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_pipe_that_nobody_reads_ends_a_command_without_a_word(stream):
    """The other end is closed before a word is written, as `| head -0` does."""
    read, write = os.pipe()
    os.close(read)
    other = {"stdout": "stderr", "stderr": "stdout"}[stream]
    words = ["list"] if stream == "stdout" else ["fit", "rows.csv", "--teacher", "t"]
    done = subprocess.run(
        [sys.executable, "-m", "hfdistill", *words],
        **{stream: write, other: subprocess.PIPE},
        check=False,
    )
    os.close(write)
    assert (done.returncode, getattr(done, other)) == (141, b"")


def test_a_command_runs_with_standard_output_closed():
    """Python has no `sys.stdout` then."""
    words = ["sh", "-c", '"$0" -m hfdistill list students >&-', sys.executable]
    done = subprocess.run(words, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
