"""A file of rows with a student's predictions beside them: streamed, in flat memory."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from torch import Tensor

from hfdistill.data.encode import is_readable
from hfdistill.data.encodings import has_mark, suffix_of
from hfdistill.data.row_files import RowFile, Rows, check_written, names_of, texts_of, values_of, writing
from hfdistill.data.table_files import FileOptions
from hfdistill.files.plain_data import as_path
from hfdistill.files.progress import Progress
from hfdistill.network.task import TaskKind
from hfdistill.prediction.predictor import Predictor, Texts, load_predictor

MANY = 20
"""Classes up to which each gets a column of its own."""


@dataclass
class Labelled:
    """The outcome of labelling a file.

    Args:
        rows: that were written.
        without_text: of these, those that hold no text and got no prediction.
        dropped: lines that were no rows; only with `on_bad_row="drop"`.
        classes: rows, or words, of each predicted class.
    """

    rows: int = 0
    without_text: int = 0
    dropped: int = 0
    classes: Counter[str] = field(default_factory=Counter)


_FILE = "The second argument of predict"
_IN_MEMORY = "For texts in memory: transformers.pipeline('text-classification', model=student)(texts)."


def predict(
    student: str | os.PathLike[str],
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    text: str | None = None,
    text_pair: str | None = None,
    label_names: Sequence[str] | None = None,
    max_length: int | None = None,
    batch_size: int = 32,
    prefix: str = "",
    encoding: str | None = None,
    delimiter: str | None = None,
    quotes: bool | None = None,
    on_bad_row: Literal["raise", "drop"] = "raise",
) -> Labelled:
    """Write the rows of a file, in their order and with all their columns, with a student's predictions.

    Columns behind those of the file, each name with `prefix` before it:

    - a class a text: `prediction`, the name; `probability`, its softmax; and of up to 20 classes each one's,
      `probability_NAME`;
    - several classes a text: `prediction`, the names whose sigmoid is above 0.5, and `probability_NAME`;
    - numbers: `prediction`, or `prediction_NAME` where the student gives several;
    - a class a word: `prediction` and `probability`, lists with an entry a word; None for words behind what
      the student reads.

    Some thousand rows are held at once, and of these, rows of similar length are answered together. `out`
    appears when all rows are in it. A csv is written in UTF-8, with the delimiter of a csv that was read, and
    with a byte order mark where that one has one (Excel's "CSV UTF-8"), so that Excel reads it, too.

    Args:
        student: Hub id, or folder of a model or of an export; see `load_predictor`.
        source: a .csv, .tsv, .jsonl, .json, .xlsx or .parquet file; csv, tsv and JSON may be packed (.gz).
        out: the file to write: .csv, .tsv, .jsonl or .parquet. A file of that name is replaced.
        text: the column of texts; found as by `load` where not named. For students of words, a column
            `tokens` of lists, or of texts whose words stand between spaces.
        text_pair: the column of second texts.
        label_names: names of the classes 0, 1, … of a student that has none.
        max_length: tokens per row, at most.
        batch_size: rows that are answered at once.
        prefix: of the new columns' names, where the file has some of these names.
        encoding: of text files, as in `load`.
        delimiter: of csv files, as in `load`.
        quotes: of csv files, as in `load`.
        on_bad_row: "drop" leaves out lines of csv files that are not rows, instead of refusing the file.

    Returns:
        Counts.

    Raises:
        HubUnreachable: where the Hub gives no answer.
        OSError: where there is no such file or model.
        ValueError: for columns that are not found or would be overwritten, rows that cannot be read, and a
            file that is both read and written; all before anything is predicted.

    Example:
        >>> predict("out/student", "reviews.csv", "labelled.csv")  # doctest: +SKIP
    """
    source, out = as_path(source, _FILE, instead=_IN_MEMORY).expanduser(), Path(out).expanduser()
    check_written(out)
    if out.exists() and source.exists() and out.samefile(source):
        raise ValueError(f"{out.name} is what is read. Write to another file.")
    file = RowFile(source, FileOptions(encoding, delimiter, quotes, on_bad_row))
    first, total = file.first(), file.count()
    predictor = load_predictor(
        os.fspath(student), max_length=max_length, batch_size=batch_size, label_names=label_names
    )
    reader, columns = _reader(predictor.task, first, text, text_pair), names_of(first)
    new = _Columns(predictor, prefix)
    if taken := [name for name in new.names() if name in columns]:
        raise ValueError(f"{source.name} has the columns {taken} already. Type a prefix for the new ones.")
    counts = Labelled()
    same = file.layout.delimiter if file.layout and suffix_of(source) == suffix_of(out) else None
    with (
        writing(out, delimiter=same, mark=file.layout is not None and has_mark(source)) as writer,
        Progress("predicting", total=total) as progress,
    ):
        for rows in file:
            writer.write(rows, new.of(_predicted(predictor, reader, rows, counts), counts))
            progress.update(len(rows))
    counts.dropped = len(file.dropped)
    return counts


def _reader(task: TaskKind, first: Rows, text: str | None, text_pair: str | None) -> dict[str, str]:
    """Return the columns of the file by the student's names for them."""
    if task == "token":
        if text_pair is not None:
            raise ValueError("A student of words reads one text. Leave the second one out.")
        lists = (name for name in ("tokens", "words") if name in names_of(first))
        return {"tokens": texts_of(first, text or next(lists, None), None)[0]}
    return dict(zip(("text", "text_pair"), texts_of(first, text, text_pair), strict=False))


def _predicted(
    predictor: Predictor, reader: Mapping[str, str], rows: Rows, counts: Labelled
) -> list[Tensor | None]:
    """Return the logits of each row; None for one without text."""
    columns = {role: values_of(rows, name) for role, name in reader.items()}
    if "tokens" in columns:
        columns["tokens"] = [
            _words(value) if isinstance(value, str) else value for value in columns["tokens"]
        ]
    whole = [all(map(_is_text, row)) for row in zip(*columns.values(), strict=True)]
    texts: Texts = {role: list(compress(values, whole)) for role, values in columns.items()}
    logits = iter(predictor.predict(texts) if any(whole) else ())
    counts.rows += len(whole)
    counts.without_text += whole.count(False)
    return [next(logits) if here else None for here in whole]


def _words(text: str) -> list[str]:
    """Return the words of a text: a list in JSON, as `predict` writes it in a csv, or parted by spaces."""
    with suppress(ValueError, RecursionError):
        words = json.loads(text)
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            return words
    return text.split()


def _is_text(value: Any) -> bool:
    """Whether a value is a text, or a list of words, that can be read."""
    parts = value if isinstance(value, list) else [value]
    return all(map(is_readable, parts)) and any(part.strip() for part in parts)


class _Columns:
    """The new columns, made of logits."""

    def __init__(self, predictor: Predictor, prefix: str) -> None:
        self.task, self.classes, self.prefix = predictor.task, predictor.classes, prefix

    def names(self) -> list[str]:
        return list(self.of([], Labelled()))

    def of(self, logits: Sequence[Tensor | None], counts: Labelled) -> dict[str, pa.Array]:
        """Return the columns of some rows; what is predicted is counted."""
        make = {
            "single_label": self._single,
            "multi_label": self._several,
            "regression": self._numbers,
            "token": self._words,
        }[self.task]
        return {self.prefix + name: values for name, values in make(logits, counts).items()}

    def _single(self, logits: Sequence[Tensor | None], counts: Labelled) -> dict[str, pa.Array]:
        shares = [None if row is None else row.softmax(-1).tolist() for row in logits]
        names = [None if row is None else self.classes[row.index(max(row))] for row in shares]
        counts.classes.update(name for name in names if name is not None)
        columns = {
            "prediction": pa.array(names, pa.string()),
            "probability": _rounded([None if row is None else max(row) for row in shares]),
        }
        return columns | (self._each(shares, "probability") if len(self.classes) <= MANY else {})

    def _several(self, logits: Sequence[Tensor | None], counts: Labelled) -> dict[str, pa.Array]:
        shares = [None if row is None else row.sigmoid().tolist() for row in logits]
        names = [
            None if row is None else [name for name, p in zip(self.classes, row, strict=True) if p > 0.5]
            for row in shares
        ]
        counts.classes.update(name for row in names for name in row or ())
        prediction = pa.array(names, pa.list_(pa.string()))
        return {"prediction": prediction, **self._each(shares, "probability")}

    def _numbers(self, logits: Sequence[Tensor | None], _: Labelled) -> dict[str, pa.Array]:
        rows = [None if row is None else row.tolist() for row in logits]
        if len(self.classes) > 1:
            return self._each(rows, "prediction")
        return {"prediction": _rounded([None if row is None else row[0] for row in rows])}

    def _each(self, rows: Sequence[list[float] | None], title: str) -> dict[str, pa.Array]:
        """Return a column for each class."""
        return {
            f"{title}_{name}": _rounded([None if row is None else row[place] for row in rows])
            for place, name in enumerate(self.classes)
        }

    def _words(self, logits: Sequence[Tensor | None], counts: Labelled) -> dict[str, pa.Array]:
        names: list[list[str | None] | None] = []
        shares: list[list[float | None] | None] = []
        for row in logits:
            pairs = [] if row is None else [_best(word) for word in row]
            names.append(None if row is None else [p and self.classes[p[0]] for p in pairs])
            shares.append(None if row is None else [p and p[1] for p in pairs])
        counts.classes.update(name for row in names for name in row or () if name is not None)
        return {
            "prediction": pa.array(names, pa.list_(pa.string())),
            "probability": pa.array(shares, pa.list_(pa.float64())),
        }


def _best(logits: Tensor) -> tuple[int, float] | None:
    """Return the class of a word and its softmax; None where the student did not read it."""
    if bool(logits.isnan().any()):
        return None
    place = int(logits.argmax())
    return place, round(float(logits.softmax(-1)[place]), 6)


def _rounded(values: Sequence[float | None]) -> pa.Array:
    return pa.array([None if value is None else round(value, 6) for value in values], pa.float64())
