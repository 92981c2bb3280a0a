"""The rows of a file of answers: which column is the text, which the answer, and what it means."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hfdistill.data.csv_files import BadLine, CsvRows
from hfdistill.data.encodings import suffix_of
from hfdistill.data.json_files import numbered_json_rows
from hfdistill.data.load import text_column
from hfdistill.data.row_files import RowFile
from hfdistill.data.table_files import KINDS as FILE_KINDS
from hfdistill.data.table_files import FileOptions, bad_lines_message
from hfdistill.files.plain_data import printable
from hfdistill.network.label_space import short, some
from hfdistill.teachers.text.class_names import folded_name
from hfdistill.teachers.text.values import AnswerError, Kind

KINDS: dict[str, Kind] = {
    **dict.fromkeys(("probabilities", "probs", "scores"), "probabilities"),
    "logits": "logits",
    **dict.fromkeys(("log_probabilities", "logprobs", "log_probs", "top_logprobs"), "log_probabilities"),
    **dict.fromkeys(("votes", "annotations", "annotators"), "labels"),
}
LABELS = ("answer", "prediction", "label")
PREDICTED = "probability_"
"""What `predict` writes before the name of a class."""
CONFIDENCES = ("confidence", "score", "probability")


@dataclass(frozen=True, eq=False)
class AnswerFile:
    """Texts and their answers as a file has them.

    `places` say where each stands, as "line 3"; `kind` is None where the numbers tell what they are.
    """

    path: Path
    texts: list[Any]
    answers: list[Any]
    places: list[str]
    classes: list[str]
    kind: Kind | None

    def where(self, row: int) -> str:
        """Return a row for a message."""
        return f"{printable(self.path.name)}, {self.places[row]} ({short(self.texts[row])})"

    def select(self, rows: Sequence[int]) -> AnswerFile:
        """Return some of the rows."""
        texts, answers, places = (
            [part[row] for row in rows] for part in (self.texts, self.answers, self.places)
        )
        return replace(self, texts=texts, answers=answers, places=places)


def read_answer_file(
    path: Path,
    columns: Mapping[str, str | None],
    options: FileOptions,
    *,
    answer: str | Sequence[str] | None,
    kind: Kind | None,
    classes: Sequence[str] | None,
) -> AnswerFile:
    """Read texts and answers; see `answers_from`."""
    rows, places = _read(path, options)
    names = list(dict.fromkeys(name for row in rows for name in row))
    for role, name in [*columns.items(), *(("answer", n) for n in _listed(answer))]:
        if name is not None and name not in names:
            raise AnswerError(f"{path.name} has no column {name!r}, found {names}. Name another as {role}=.")
    text = _text(names, columns["text"], path)
    pair = columns["text_pair"] or ("text_pair" if "text_pair" in names and text == "text" else None)
    texts = [row.get(text) if pair is None else (row.get(text), row.get(pair)) for row in rows]
    read = AnswerFile(path, texts, [], places, [], kind)
    _check_texts(read)
    others = [name for name in names if name not in (text, pair)]

    def answered() -> tuple[_Columns, Kind | None, list[Any]]:
        held, known = _answer_columns(others, answer, columns["confidence"], classes, path)
        known = kind or known
        return held, known, [_answer(row, held, read.where(i), known) for i, row in enumerate(rows)]

    held, known, answers = answered()
    if classes is None:
        classes = held.classes or _named(answers, known, path)
        if answer is None and kind is None and _has_columns_of(classes, others):  # known by the labels alone
            _, known, answers = answered()
    if known == "log_probabilities":
        answers = [_tokens(value, classes, read.where(i)) for i, value in enumerate(answers)]
    return replace(read, answers=answers, classes=list(classes), kind=known)


@dataclass(frozen=True)
class _Columns:
    """Where the answer of a row stands."""

    names: list[str]
    classes: list[str] | None = None
    confidence: str | None = None


def _answer_columns(
    names: list[str],
    answer: str | Sequence[str] | None,
    confidence: str | None,
    classes: Sequence[str] | None,
    path: Path,
) -> tuple[_Columns, Kind | None]:
    """Return the columns of the answer, and the kind of answer that their names tell."""
    folded = {folded_name(name): name for name in names}
    listed = _listed(answer)
    if len(listed) > 1:
        of_classes = classes is not None and set(map(folded_name, listed)) == set(map(folded_name, classes))
        return (_Columns(listed, listed), None) if of_classes else (_Columns(listed), "labels")
    confidence = confidence or next((folded[name] for name in CONFIDENCES if name in folded), None)
    if listed:
        kind = KINDS.get(folded_name(listed[0]))
        if kind:
            return _Columns(listed), kind
        named = folded_name(listed[0]) in LABELS or confidence is not None
        return _Columns(listed, confidence=confidence), "labels" if named else None
    usual = [folded[name] for name in KINDS if name in folded]
    if len(usual) > 1:
        raise AnswerError(f"{path.name} has the answers {usual}. Say which to take: answer={usual[0]!r}.")
    if usual:
        return _Columns(usual), KINDS[folded_name(usual[0])]
    predicted = [name for name in names if name.casefold().startswith(PREDICTED)]
    if len(predicted) > 1:
        return _Columns(predicted, [name[len(PREDICTED) :] for name in predicted]), "probabilities"
    if classes is not None and _has_columns_of(classes, names):
        own = [folded[folded_name(name)] for name in classes]
        return _Columns(own, list(classes)), None
    labels = [folded[name] for name in LABELS if name in folded]
    if labels:
        return _Columns(labels[:1], confidence=confidence), "labels"
    raise AnswerError(
        f"{path.name} has the columns {names}, none of which is known to hold answers: "
        f"{', '.join([*KINDS, *LABELS])}, or one for each class. Say which: answer='...', and classes=[...]."
    )


def _has_columns_of(classes: Sequence[str], names: Sequence[str]) -> bool:
    """Whether each class has a column of its name."""
    return set(map(folded_name, classes)) <= set(map(folded_name, names))


def _answer(row: Mapping[str, Any], columns: _Columns, where: str, kind: Kind | None) -> Any:
    values = [_value(row.get(name), where, name, text=kind == "labels") for name in columns.names]
    if columns.classes is not None:
        return dict(zip(columns.classes, map(_truth, values), strict=True))
    if len(values) > 1:
        return values
    if columns.confidence is None:
        return values[0]
    share = _value(row.get(columns.confidence), where, columns.confidence)
    if not isinstance(share, (int, float)) or math.isnan(share):
        raise AnswerError(f"{where}: the confidence is {short(share)}, no number. Write one in [0, 1].")
    return (values[0], float(share))


def _value(value: Any, where: str, column: str, *, text: bool = False) -> Any:
    """Return a cell; what is written as a list, a mapping or (unless `text`) a number is read as such."""
    if isinstance(value, Mapping):  # parquet fills in what a row leaves out
        return {name: number for name, number in value.items() if number is not None}
    if not isinstance(value, str):
        return value
    plain = value.strip()
    if plain[:1] in ("[", "{", "("):
        for parse in (json.loads, ast.literal_eval):
            try:
                return parse(plain)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
        raise AnswerError(
            f"{where}: the column {column!r} holds {short(value)}, which is not a list or mapping that can "
            'be read. Write JSON, as in {"yes": 0.8, "no": 0.2}.'
        )
    try:
        return plain or None if text else float(plain)
    except ValueError:
        return plain or None


def _truth(value: Any) -> Any:
    """Return true and false of a csv as those of Parquet and JSON."""
    return {"true": True, "false": False}.get(value.casefold(), value) if isinstance(value, str) else value


def _tokens(value: Any, classes: Sequence[str], where: str) -> Any:
    """Return the log-probabilities of the classes among the tokens that an API names."""
    if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        value = [{str(key): entry for key, entry in part.items()} for part in value]
        if not all({"token", "logprob"} <= set(part) for part in value):
            raise AnswerError(f'{where}: each entry needs "token" and "logprob", found {short(value[0])}.')
        value = {part["token"]: part["logprob"] for part in reversed(value)}  # the likeliest wins
    if not isinstance(value, Mapping):
        return value
    names = set(map(folded_name, classes))
    known: dict[str, Any] = {}
    for token, number in value.items():
        folded = folded_name(token)
        if folded in names and not (folded in known and known[folded] >= number):
            known[folded] = number
    if not known:
        raise AnswerError(
            f"{where}: none of the tokens {some(list(map(str, value)))} is one of the classes "
            f"{some(list(classes))}. Ask for more of them (top_logprobs), or leave the row out."
        )
    return known


def _named(answers: list[Any], kind: Kind | None, path: Path) -> list[str]:
    """Return the classes that the answers name."""
    names: set[str] = set()
    for value in answers:
        if isinstance(value, Mapping):
            names |= set(map(str, value))
        elif kind == "labels":
            votes = value if isinstance(value, list) else value[:1] if isinstance(value, tuple) else [value]
            names |= {str(vote) for vote in votes if isinstance(vote, (str, bool))}  # as `load` names true
    if len(names) < 2:
        raise AnswerError(
            f"{path.name} does not name its classes (found {some(sorted(names)) or 'none'}). Type "
            "classes=[...], in the order of the numbers."
        )
    return sorted({folded_name(name): name for name in sorted(names, reverse=True)}.values())


def _text(names: list[str], text: str | None, path: Path) -> str:
    if text is not None:
        return text
    if "text" in names:
        return "text"
    try:
        return text_column(names, None)
    except ValueError as error:
        raise AnswerError(f"{path.name}: {error}") from error


def _check_texts(read: AnswerFile) -> None:
    for row, text in enumerate(read.texts):
        parts = (text,) if not isinstance(text, tuple) else text
        if not all(isinstance(part, str) for part in parts):
            raise AnswerError(
                f"{read.path.name}, {read.places[row]} has no text, found {short(text)}. Give it "
                "one, or leave it out."
            )


def _listed(answer: str | Sequence[str] | None) -> list[str]:
    return [] if answer is None else [answer] if isinstance(answer, str) else list(answer)


# ---- the kinds of files ----


def _read(path: Path, options: FileOptions) -> tuple[list[dict[str, Any]], list[str]]:
    """Return rows, and where each stands."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}. Pass the path of a file of answers.")
    if suffix_of(path) not in FILE_KINDS:
        raise AnswerError(f"{path.name}: answers are read from {', '.join(FILE_KINDS)}. Save them so.")
    try:
        if (kind := FILE_KINDS[suffix_of(path)]) == "csv":
            numbered: list[tuple[str, Any]] = list(_csv_rows(path, options))
        elif kind == "json":
            numbered = list(numbered_json_rows(path, options.encoding))
        else:
            tables: Iterator[Any] = iter(RowFile(path, options))
            rows = (row for table in tables for row in table.to_pylist())  # a struct becomes a mapping
            numbered = [(f"row {number}", row) for number, row in enumerate(rows, 1)]
    except ValueError as error:
        raise AnswerError(str(error)) from error
    if not numbered:
        raise AnswerError(f"{path.name} holds no answer. Give a file with a row for each text.")
    return [row for _, row in numbered], [place for place, _ in numbered]


def _csv_rows(path: Path, options: FileOptions) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of a csv with the line that each ends on; the first line that is none is an error."""
    layout = options.layout(path)

    def refuse(line: BadLine) -> None:
        raise AnswerError(bad_lines_message(path, layout, [line], drops=False))

    rows = CsvRows(path, layout, refuse)
    for cells in rows:
        yield f"line {rows.line}", dict(zip(layout.names, cells, strict=True))
