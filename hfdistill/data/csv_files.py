"""`CsvRows` reads the rows of csv and tsv files as they are written, and names lines that are not rows."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from hfdistill.data.encodings import LONGEST, open_text, suffix_of, text_encoding

_EXCEL = re.compile(r'"?sep=([^"])"?')  # a first line by which Excel knows the delimiter
_SAMPLE = 1 << 16  # bytes from which delimiter and line ends are judged
_DELIMITERS = {",": "a comma", "\t": "a tab", ";": "a semicolon", "|": "a bar"}
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
_FEW = 100  # distinct values up to which a column counts as one of labels


class BadLine(NamedTuple):
    """A line that cannot be read as a row: its number from 1, what is wrong, and what it holds.

    `late` says that the row was given out before the lines after it showed what is wrong.
    """

    line: int
    reason: str
    content: str
    late: bool = False

    def __str__(self) -> str:
        shown = self.content.rstrip("\r\n")
        return f"line {self.line} {self.reason}: {shown[:80]!r}{'…' if len(shown) > 80 else ''}"


@dataclass(frozen=True)
class CsvLayout:
    """How a csv file is written.

    Args:
        encoding: the name of a codec of Python.
        delimiter: what stands between two cells.
        newline: what ends a line, "\\n" (also behind a carriage return) or "\\r".
        quotes: True where quotation marks enclose cells, False where they are letters; None where they
            enclose cells unless the lines within a cell look like rows.
        names: the columns.
        header_lines: lines up to the first row.
        trailing: whether each row ends with a delimiter that the header lacks.
        guessed: whether the delimiter is another than that of the file's kind.
    """

    encoding: str
    delimiter: str
    newline: str
    quotes: bool | None
    names: tuple[str, ...]
    header_lines: int
    trailing: bool = False
    guessed: bool = False


def csv_layout(
    file: Path,
    *,
    encoding: str | None = None,
    delimiter: str | None = None,
    quotes: bool | None = None,
    errors: str = "strict",
) -> CsvLayout:
    """Find out how a csv file is written, from its first lines; arguments are as in `load`.

    Raises:
        ValueError: for an empty file, bytes that are not of the encoding, columns of the same name, and lines
            that fit several delimiters.
    """
    if delimiter is not None and len(delimiter) != 1:
        raise ValueError(f"delimiter is {delimiter!r}, and one letter is needed. Type delimiter=';'.")
    codec = text_encoding(file, encoding)
    sample = _sample(file, codec, errors)
    newline = "\r" if "\r" in sample and "\n" not in sample else "\n"
    lines = sample.split(newline)
    lines = [line + newline for line in (lines[:-1] if len(sample) == _SAMPLE else lines) if line.strip()]
    if not lines:
        raise ValueError(f"{file.name} is empty. Save it with a header, the names of its columns, and rows.")
    usual = "\t" if suffix_of(file) == ".tsv" else ","
    separator_line = _EXCEL.fullmatch(lines[0].rstrip("\r\n"))
    if separator_line and len(lines) > 1:
        lines, delimiter = lines[1:], delimiter or separator_line[1]
    chosen = delimiter or _delimiter(file, lines, usual, quotes)
    rows = _split(lines, chosen, quotes)
    names = column_names(file, rows[0])
    trailing = len(rows) > 2 and all(len(row) == len(names) + 1 and not row[-1] for row in rows[1:])
    before = sample[: sample.index(lines[0].rstrip("\r\n"))].count(newline)
    header_lines = before + 1 + sum(cell.count(newline) for cell in rows[0])
    return CsvLayout(
        codec, chosen, newline, quotes, names, header_lines, trailing, chosen != usual and delimiter is None
    )


def _sample(file: Path, encoding: str, errors: str) -> str:
    """Return the first letters of a file."""
    with open_text(file, encoding, newline="", errors=errors) as stream:
        start = bytes(stream.buffer.read(_SAMPLE))
        if start.count(0) > len(start) // 4 and not encoding.startswith(("utf-16", "utf-32")):
            order = "le" if start[1::2].count(0) > start[::2].count(0) else "be"
            raise ValueError(
                f"{file.name} has a zero byte beside most letters, as UTF-16 without a byte order mark has. "
                f"Pass encoding='utf-16-{order}', or save it as UTF-8."
            )
        stream.seek(0)
        return stream.read(_SAMPLE)


def _quoting(quotes: bool | None) -> Literal[0, 3]:
    return csv.QUOTE_NONE if quotes is False else csv.QUOTE_MINIMAL


def _split(lines: Sequence[str], delimiter: str, quotes: bool | None) -> list[list[str]]:
    """Return the cells of the first rows, without judging them; the last row may be cut."""
    style = _quoting(quotes)
    try:
        return [row for row in islice(csv.reader(lines, delimiter=delimiter, quoting=style), 50) if row]
    except csv.Error:  # a bare carriage return, which is told with its line when rows are read
        return [line.rstrip("\r\n").split(delimiter) for line in lines[:50]]


def _delimiter(file: Path, lines: Sequence[str], usual: str, quotes: bool | None) -> str:
    """Return the delimiter that the first lines fit: the usual one, else the only other one."""
    widths, fitting = {}, []
    for delimiter in _DELIMITERS:
        rows = _split(lines, delimiter, quotes)
        widths[delimiter] = len(rows[0])
        cells = {len(row) - (len(row) == len(rows[0]) + 1 and not row[-1]) for row in rows}
        if cells == {len(rows[0])}:
            fitting.append(delimiter)
    several = [delimiter for delimiter in fitting if widths[delimiter] > 1]
    if usual in several:
        return usual
    if len(several) > 1:
        raise ValueError(
            f"The lines of {file.name} could be separated by {' or '.join(_DELIMITERS[d] for d in several)}: "
            f"{lines[0].strip()!r}. Say which: delimiter={several[0]!r}."
        )
    if several or usual in fitting or widths[usual] > 1:
        return several[0] if several else usual
    in_header = [delimiter for delimiter, width in widths.items() if width > 1]
    return in_header[0] if len(in_header) == 1 else usual


def column_names(file: Path, header: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the columns that a header has, "Unnamed: 2" for an empty one; refuse one twice."""
    named = [name for name in header if name]
    if len(set(named)) < len(named):
        raise ValueError(
            f"{file.name} has columns of the same name: {list(header)}. Rename them so that each differs."
        )
    if any("\0" in name for name in named):
        raise ValueError(
            f"{file.name} has a zero byte in the name of a column: {list(header)}. Rename it; or is the file "
            "of another encoding? Pass encoding=."
        )
    names: list[str] = []
    for place, name in enumerate(header):
        new = name or f"Unnamed: {place}"
        while not name and new in named:
            new += "_"
        names.append(new)
    return tuple(names)


@dataclass
class CsvRows:
    """The rows of a csv file, one at a time, and the lines that are not rows.

    A row has as many cells as the header. What has not is told to `on_bad_line`, and reading goes on with
    the next line; so is a line whose quotation mark nothing closes, or closes in the middle of a cell, and a
    cell of several lines that look like rows themselves. Blank lines are passed over.
    """

    file: Path
    layout: CsvLayout
    on_bad_line: Callable[[BadLine], None]
    errors: str = "strict"
    line: int = field(default=0, init=False)
    """The line that was read last, from 1."""
    _values: dict[int, set[str]] = field(default_factory=dict, init=False)
    """Those of each column that has few different ones so far."""
    _numeric: list[bool] = field(default_factory=list, init=False)
    _doubted: list[tuple[int, list[str], int]] = field(default_factory=list, init=False)

    def __iter__(self) -> Iterator[list[str]]:
        columns = len(self.layout.names)
        self.line, self._doubted = self.layout.header_lines, []
        self._values, self._numeric = {place: set() for place in range(columns)}, [True] * columns
        limit = csv.field_size_limit(LONGEST - 1)
        try:
            layout = self.layout
            with open_text(self.file, layout.encoding, newline=layout.newline, errors=self.errors) as stream:
                for _ in range(layout.header_lines):
                    stream.readline()
                yield from self._rows(stream)
        finally:
            csv.field_size_limit(limit)
        for line, lines, place in self._doubted:
            if self._are_rows(lines, place):
                self.on_bad_line(BadLine(line, _SWALLOWED, lines[0], late=True))

    def _rows(self, stream: io.TextIOWrapper) -> Iterator[list[str]]:
        held: list[str] = []  # the lines of the row that is being read
        again: list[str] = []  # lines to read once more, the next one last
        columns = len(self.layout.names)
        width = columns + self.layout.trailing
        header = list(self.layout.names) if columns > 1 else None

        def feed() -> Iterator[str]:
            while line := again.pop() if again else stream.readline(LONGEST):
                held.append(line)
                yield line

        while True:
            style = _quoting(self.layout.quotes)
            reader = csv.reader(feed(), delimiter=self.layout.delimiter, quoting=style, strict=True)
            try:
                for cells in reader:
                    whole = len(cells) == width and not (self.layout.trailing and cells[-1])
                    if cells == header:  # files were written one behind the other
                        raise _NoRowError(REPEATED)
                    if whole and (len(held) == 1 or not self._swallows(cells, held)):
                        self.line += len(held)
                        held.clear()
                        self._learn(cells)
                        yield cells[:columns] if self.layout.trailing else cells
                    elif not any(line.strip() for line in held):
                        self.line += len(held)
                        held.clear()
                    else:
                        reason = _SWALLOWED if whole else self._misfit(cells)
                        raise _NoRowError(reason)
                return
            except (csv.Error, _NoRowError) as error:
                reason = str(error) if isinstance(error, _NoRowError) else self._broken(str(error), held)
                self.line += 1
                self.on_bad_line(BadLine(self.line, reason, held[0]))
                again.extend(reversed(held[1:]))
                held.clear()

    def _misfit(self, cells: Sequence[str]) -> str:
        names = self.layout.names
        if len(cells) == len(names) and self.layout.trailing:
            return "does not end with a delimiter, as the lines before it do"
        shown = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
        return f"has {len(cells)} cell{'s' * (len(cells) != 1)} where the header has {len(names)} ({shown})"

    def _broken(self, error: str, held: Sequence[str]) -> str:
        if "new-line" in error:
            return "has a carriage return within a cell, outside quotation marks"
        if "field limit" in error or "end of data" in error:
            return "opens a quotation mark that nothing closes"
        if '\\"' in held[-1]:
            return "has a quotation mark behind a backslash (in csv two quotation marks stand for one)"
        return "has a quotation mark in the middle of a cell that quotation marks enclose"

    def _learn(self, cells: Sequence[str]) -> None:
        """Remember the values of columns with few different ones."""
        many = []
        for place, values in self._values.items():
            cell = cells[place]
            if cell not in values:
                values.add(cell)
                self._numeric[place] = self._numeric[place] and _NUMBER.fullmatch(cell) is not None
                if len(values) > _FEW:
                    many.append(place)
        for place in many:
            del self._values[place]

    def _swallows(self, cells: Sequence[str], lines: Sequence[str]) -> bool:
        """Whether a cell took in lines that are rows: its quotation marks are letters, not enclosing."""
        if self.layout.quotes:
            return False
        place = next((i for i, cell in enumerate(cells) if self.layout.newline in cell), 0)
        if self.layout.delimiter == "\t":  # texts have no tabs
            return any("\t" in line for line in cells[place].split(self.layout.newline)[:-1])
        if self._are_rows(lines, place):
            return True
        if len(self._doubted) < 1000 and self._have_cells(lines):
            self._doubted.append((self.line + 1, list(lines), place))
        return False

    def _have_cells(self, lines: Sequence[str]) -> bool:
        """Whether every line has as many delimiters as a row."""
        wanted = len(self.layout.names) - 1 + self.layout.trailing
        counts = {line.count(self.layout.delimiter) for line in lines if line.strip()}
        return wanted > 0 and counts <= {wanted}

    def _are_rows(self, lines: Sequence[str], place: int) -> bool:
        """Whether every line has the cells of a row, and those beside the text look as in other rows."""
        if not self._have_cells(lines):
            return False
        columns = range(len(self.layout.names))
        judged = [i for i in columns if i != place and (self._numeric[i] or self._values.get(i))]
        rows = [line.rstrip("\r\n").split(self.layout.delimiter) for line in lines if line.strip()]
        return bool(judged) and all(self._looks_usual(i, row[i]) for row in rows for i in judged)

    def _looks_usual(self, place: int, cell: str) -> bool:
        if place in self._values:
            return cell in self._values[place]
        return self._numeric[place] and _NUMBER.fullmatch(cell) is not None


class _NoRowError(Exception):
    """Stands for a line that is not a row, with the reason."""


REPEATED = "repeats the header"
_SWALLOWED = "opens a quotation mark that takes in the lines after it, which look like rows themselves"
