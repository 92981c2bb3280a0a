"""A page to begin with, written from what a file of rows holds."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict

from hfdistill.data.load import LABEL_NAMES, load, text_columns
from hfdistill.data.sources import read
from hfdistill.data.table_files import FileOptions
from hfdistill.data.text_columns import SAMPLE, likely_texts, with_inner_columns
from hfdistill.evaluation.report import counted
from hfdistill.files.plain_data import printable

_ENGLISH, _OTHER, _CASED = (
    "google-bert/bert-base-uncased",
    "FacebookAI/xlm-roberta-base",
    "google-bert/bert-base-cased",
)
HOLDOUT = 0.1
FEW_ROWS = 200
"""Rows to measure on up to which a page says how little they tell: 200 tell a score to 7 points."""
_PLAIN = re.compile(r"[A-Za-z_./][\w./ -]*")


@dataclass(frozen=True)
class Draft:
    """A page, and what it was written from."""

    page: str
    summary: list[str]


@dataclass(frozen=True)
class _Columns:
    """Which columns hold what: by their usual names, else by what is in them."""

    text: str | None
    text_pair: str | None
    label: str | list[str] | None
    others: list[str]


def draft_page(
    source: str,
    *,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | list[str] | None = None,
    teacher: str | None = None,
    options: FileOptions | None = None,
) -> Draft:
    """Look at the rows of a file or folder, and write the page that distils a student on them.

    Columns are found by their usual names; else the text is the column of strings that are longest and
    differ most, and the label one that has few different values. The page names them, and the classes and
    their rows stand in comments.

    Args:
        source: a file or folder as in `load`.
        text: the text column, where it is not the one that is found.
        text_pair: the column of second texts.
        label: the label column, or the columns of 0 and 1 of a multi-label task.
        teacher: Hub id or folder of a classifier of these classes, or of an encoder to be fine-tuned on the
            labels first; default a usual encoder.
        options: how text files are read.

    Raises:
        FileNotFoundError: where there is no such file or folder.
        ValueError: for rows without a text column or a label column, and as `load`.
    """
    options = options or FileOptions()
    raw = {name: with_inner_columns(rows) for name, rows in read(source, None, options)[0].items()}
    columns = _columns(raw, text, text_pair, label)
    named: dict[str, Any] = {"text": columns.text, "text_pair": columns.text_pair, "label": columns.label}
    data = load(source, **named, **vars(options))
    train = data.get("train") or next(iter(data.values()))
    if "label" not in train.column_names:
        raise ValueError(
            f"None of the columns {list(_names(raw))} holds labels, and a page needs them to learn from and "
            "to measure on. Name the column with --label; texts alone belong under data: unlabelled:."
        )
    facts = _Facts.of(data, train)
    page = _page(source, columns, options, facts, teacher)
    return Draft(page, _summary(data, columns, facts))


def _names(raw: Mapping[str, Dataset]) -> dict[str, None]:
    return dict.fromkeys(name for rows in raw.values() for name in rows.column_names)


def _columns(
    raw: Mapping[str, Dataset], text: str | None, text_pair: str | None, label: str | list[str] | None
) -> _Columns:
    asked = [label] if isinstance(label, str) else label or []
    names = list(_names(raw))
    if {"tokens", "words"} & set(names):
        return _Columns(text, text_pair, label, [])
    first = raw.get("train") or next(iter(raw.values()))
    sample = {name: first[name][:SAMPLE] for name in first.column_names}
    try:
        texts = text_columns(names, text, text_pair)
    except ValueError:
        likely = [] if text is not None else likely_texts(sample, without=asked)
        if not likely:
            raise
        texts = likely[:1]
    left = [name for name in names if name not in texts]
    chosen = label or _likely_label(sample, left)
    pair = texts[1] if len(texts) > 1 else None
    return _Columns(texts[0], pair, chosen, [name for name in left if name not in (chosen, *asked)])


def _likely_label(sample: Mapping[str, Sequence[Any]], names: Sequence[str]) -> str | None:
    """Return the column with a usual name for labels, else the only one with few values, else None."""
    usual = [name for word in LABEL_NAMES for name in names if name.strip().casefold() == word]
    if usual:
        return usual[0]
    few = []
    for name in names:
        values = [value for value in sample.get(name, ()) if value not in (None, "")]
        kinds = len({str(value) for value in values})
        whole = any(isinstance(value, dict) for value in values)
        if not whole and 2 <= kinds <= min(50, len(values) // 5):
            few.append(name)
    flags = all({str(v) for v in sample[name]} <= {"0", "1"} for name in few)
    several = len(few) > 1 and flags  # columns of 0 and 1 are a multi-label task, which load finds
    return None if several or not few else few[0]


@dataclass(frozen=True)
class _Facts:
    """What the arguments of a run depend on."""

    rows: int
    tokens: int
    foreign: bool
    words: bool
    measured: bool
    classes: dict[str, int] | None
    evaluated: int = FEW_ROWS

    @classmethod
    def of(cls, data: DatasetDict, train: Dataset) -> _Facts:
        words = "tokens" in train.column_names
        column = "tokens" if words else "text"
        sample = train[column][:SAMPLE]
        lengths = [len(row) if words else len(row.split()) for row in sample]
        if "text_pair" in train.column_names:
            pairs = train["text_pair"][:SAMPLE]
            lengths = [n + len(row.split()) for n, row in zip(lengths, pairs, strict=True)]
        letters = "".join("".join(row) if words else row for row in sample)
        foreign = sum(letter.isalpha() and ord(letter) > 0x24F for letter in letters)
        accents = sum(letter.isalpha() and 127 < ord(letter) <= 0x24F for letter in letters)
        alphabetic = max(1, sum(map(str.isalpha, letters)))
        longest = float(np.quantile(lengths, 0.95)) * 1.5 + 4
        tokens = next((size for size in (32, 64, 128, 256) if longest <= size), 512)
        strange = foreign > 0.05 * alphabetic or accents > 0.01 * alphabetic
        other = next((data[name] for name in ("validation", "test") if name in data), None)
        evaluated = round(HOLDOUT * len(train)) if other is None else len(other)
        return cls(len(train), tokens, strange, words, other is not None, _counts(train), evaluated)


def _counts(train: Dataset) -> dict[str, int] | None:
    """Return the number of rows of each class; None for numbers, several classes a row, and words."""
    feature = train.features["label"]
    if isinstance(feature, ClassLabel):
        numbers = Counter(train["label"][:])
        return {name: numbers.get(place, 0) for place, name in enumerate(feature.names)}
    if getattr(feature, "dtype", "") == "int64":
        counts = sorted(Counter(train["label"][:]).items())
        return {str(number): rows for number, rows in counts if number >= 0}
    return None


def _page(source: str, columns: _Columns, options: FileOptions, facts: _Facts, teacher: str | None) -> str:
    epochs = 10 if facts.rows < 5000 else 5 if facts.rows < 20000 else 3
    return "\n".join(
        [
            "# Written by `hfdistill init`. Change any line; `hfdistill train PAGE --check` finds mistakes.",
            "# recipes/README.md lists what a page can say.",
            *_teacher_lines(facts, teacher),
            "",
            "# The student: half of the layers of a 12-layer teacher, started from its weights. Smaller and",
            "# faster ones are bilstm: {}, cnn: {} and static: {}.",
            "student:",
            "  shrink: {layers: 6}",
            "",
            *_data_lines(source, columns, options, facts),
            "",
            "# Labels, logits and, where both networks allow, hidden states and attention; the student",
            "# starts fitted to its teacher. A list of terms (`hfdistill list objectives`) replaces it all.",
            "objective: recommended",
            "",
            "training:",
            f"  output_dir: out/{_file_name(source)}",
            f"  num_train_epochs: {epochs}  # of {facts.rows:,} rows",
            f"  max_length: {facts.tokens}  # tokens of a text; longer ones are cut",
            "  per_device_train_batch_size: 32",
            "  per_device_eval_batch_size: 64",
            "  eval_strategy: epoch",
            "  save_strategy: epoch",
            "  save_total_limit: 1",
            "",
            "# Also trains the same student without the teacher, to tell what distillation gains.",
            "measure:",
            "  baseline: true",
            "",
        ]
    )


def _teacher_lines(facts: _Facts, teacher: str | None) -> list[str]:
    encoder = teacher or (_OTHER if facts.foreign else _CASED if facts.words else _ENGLISH)
    lines = [
        "",
        "# The teacher: an encoder that is fine-tuned on the labels first. If you have a classifier of these",
        "# classes already, write `teacher: ID_OR_FOLDER` instead.",
        "teacher:",
        f"  finetune: {{encoder: {_scalar(encoder)}}}",
    ]
    if facts.foreign and teacher is None:
        lines.insert(3, "# The texts are not in English alone: this encoder reads 100 languages.")
    return lines


def _data_lines(source: str, columns: _Columns, options: FileOptions, facts: _Facts) -> list[str]:
    named = {"source": source, "text": columns.text, "text_pair": columns.text_pair, "label": columns.label}
    named |= {name: getattr(options, name) for name in ("encoding", "delimiter", "quotes")}
    if options.on_bad_row != "raise":
        named["on_bad_row"] = options.on_bad_row
    lines = ["data:", *(f"  {name}: {_scalar(value)}" for name, value in named.items() if value is not None)]
    if facts.classes is not None and len(facts.classes) <= 30:
        shown = ", ".join(f"{printable(name, limit=40)} {rows:,}" for name, rows in facts.classes.items())
        lines.append(f"  # classes and their rows: {shown}")
        numbers = sorted(int(name) for name in facts.classes if name.isdecimal() and str(int(name)) == name)
        if numbers == list(range(len(facts.classes))):
            lines.append("  # label_names: [name of 0, name of 1]  # the classes have no names yet")
        elif len(numbers) == len(facts.classes):
            lines.append(
                f"  # label_names: {list(map(str, numbers))}  # for a student of these classes alone"
            )
    if not facts.measured:
        lines.append(f"  holdout: {HOLDOUT}  # share of the rows that is kept back to measure on")
    if facts.evaluated < FEW_ROWS:
        lines.append(f"  # {_chance(facts)}")
    if columns.others:
        lines.append(f"  # not read: {', '.join(printable(name, limit=40) for name in columns.others[:20])}")
    return lines


def _chance(facts: _Facts) -> str:
    """Return how far a score on so few rows can be off: at most 1.96 standard errors of a share of a half."""
    points = min(100.0, 98 / math.sqrt(max(1, facts.evaluated)))
    return (
        f"{counted(facts.evaluated, 'row')} to measure on: a score can be off by {points:.0f} points (95 %)"
    )


def _file_name(source: str) -> str:
    return re.sub(r"\W+", "_", Path(source).name.partition(".")[0]).strip("_") or "student"


def _scalar(value: Any) -> str:
    """Return a value as YAML on one line."""
    words = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.casefold() not in words:
        return value if value == value.strip() else json.dumps(value)
    return json.dumps(value, ensure_ascii=False)


def _summary(data: DatasetDict, columns: _Columns, facts: _Facts) -> list[str]:
    splits = ", ".join(f"{name} {len(rows):,}" for name, rows in data.items())
    lines = [f"rows: {splits}"]
    if columns.text is not None:
        pair = f" and {columns.text_pair!r}" if columns.text_pair else ""
        lines.append(f"text: column {columns.text!r}{pair}")
    if columns.label is not None:
        several = isinstance(columns.label, list)
        lines.append(f"label: column{'s' if several else ''} {columns.label!r}")
    if facts.classes is not None:
        ordered = sorted(facts.classes.items(), key=lambda item: -item[1])
        shown = ", ".join(f"{printable(name, limit=40)} {rows:,}" for name, rows in ordered[:10])
        more = f" and {len(ordered) - 10} more" if len(ordered) > 10 else ""
        lines.append(f"{len(ordered)} classes: {shown}{more}")
        rare = [name for name, rows in ordered if rows < 10]
        if rare:
            more = f" and {len(rare) - 5:,} more" if len(rare) > 5 else ""
            lines.append(
                f"under 10 rows: {', '.join(printable(name, limit=40) for name in rare[:5])}{more}. No "
                "student learns a class from so few"
            )
    if facts.evaluated < FEW_ROWS:
        way = "" if facts.measured else ", or a larger holdout on the page"
        lines.append(f"{_chance(facts)}. Better: more rows with labels{way}")
    return lines
