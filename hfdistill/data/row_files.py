"""`RowFile` reads rows of files of any size, some thousand at a time; `writing` writes them to a new file."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from hfdistill.data.csv_files import BadLine, CsvLayout
from hfdistill.data.encodings import suffix_of
from hfdistill.data.json_files import json_rows
from hfdistill.data.load import found_texts
from hfdistill.data.table_files import (
    KINDS,
    FileOptions,
    bad_lines_message,
    csv_tables,
    open_parquet,
    read_files,
)
from hfdistill.data.text_columns import SAMPLE, inner_names, inner_value
from hfdistill.files.plain_data import whole_file

Rows: TypeAlias = pa.Table | list[dict[str, Any]]
"""Some rows: of JSON as its objects, of anything else as a table."""

WRITTEN = (".csv", ".tsv", ".jsonl", ".parquet")
_ROWS = 4096  # that are held at once


class RowFile:
    """A file of rows that is read from its first row to its last, as often as asked."""

    def __init__(self, path: str | os.PathLike[str], options: FileOptions) -> None:
        self.path, self.options = Path(path).expanduser(), options
        if not self.path.is_file():
            what = "is a folder" if self.path.is_dir() else "does not exist"
            raise FileNotFoundError(
                f"{self.path.name!r} {what}, and rows of one file are read. Type the path of a file: "
                f"{', '.join(KINDS)}."
            )
        if suffix_of(self.path) not in KINDS:
            raise ValueError(f"{self.path.name} is not a file of rows: only {', '.join(KINDS)} are read.")
        self.kind = KINDS[suffix_of(self.path)]
        self.layout: CsvLayout | None = options.layout(self.path) if self.kind == "csv" else None
        self.dropped: list[BadLine] = []
        """Lines that were no rows, in the last pass; only where `options.on_bad_row` is "drop"."""

    def __iter__(self) -> Iterator[Rows]:
        self.dropped = []
        if self.layout is not None:
            for table in csv_tables(self.path, self.layout, self._refuse):
                yield from (table.slice(start, _ROWS) for start in range(0, len(table), _ROWS))
        elif self.kind == "json":
            rows = json_rows(self.path, self.options.encoding)
            while batch := list(islice(rows, _ROWS)):
                yield batch
        elif self.kind == "parquet":
            with open_parquet(self.path) as file:
                for part in file.iter_batches(_ROWS):
                    yield pa.Table.from_batches([part])
        else:
            table = read_files("train", [self.path], self.options).with_format("arrow")[:]
            yield from (table.slice(start, _ROWS) for start in range(0, len(table), _ROWS))

    def _refuse(self, line: BadLine) -> None:
        assert self.layout is not None  # noqa: S101
        if self.options.on_bad_row == "drop" and not line.late:
            self.dropped.append(line)
            return
        raise ValueError(bad_lines_message(self.path, self.layout, [line]))

    def count(self) -> int:
        """Return the number of rows, never 0; all are read, except in Parquet, which stores the number."""
        if self.kind == "parquet":
            with open_parquet(self.path) as file:
                rows = int(file.metadata.num_rows)
        else:
            rows = sum(map(len, self))
        if not rows:
            raise ValueError(f"{self.path.name} holds no rows. Check that it was written to its end.")
        return rows

    def first(self) -> Rows:
        """Return the first rows."""
        first = next(iter(self), None)
        if first is None:
            raise ValueError(f"{self.path.name} holds no rows. Check that it was written to its end.")
        return first


def texts_of(rows: Rows, text: str | None, text_pair: str | None) -> list[str]:
    """Return the columns of texts of a file by its first rows; see `found_texts`."""
    columns = list(names_within(rows.schema)) if isinstance(rows, pa.Table) else inner_names(rows)

    def sample() -> dict[str, list[Any]]:
        return {name: values_of(rows, name)[:SAMPLE] for name in columns}

    return found_texts(columns, sample, text, text_pair)


def names_within(fields: Iterable[pa.Field], outer: str = "") -> Iterator[str]:
    """Yield the columns of a schema and what is within their objects, also where the first rows have none."""
    for field in fields:
        name = f"{outer}{field.name}"
        yield name
        if pa.types.is_struct(field.type):
            yield from names_within(field.type, f"{name}.")


def names_of(rows: Rows) -> list[str]:
    """Return the columns of some rows."""
    if isinstance(rows, pa.Table):
        return list(rows.column_names)
    return list(dict.fromkeys(name for row in rows for name in row))


def values_of(rows: Rows, name: str) -> list[Any]:
    """Return the values of a column, or within objects (message.body), None where a row has none."""
    if not isinstance(rows, pa.Table):
        return [inner_value(row, name) for row in rows]
    if name in rows.column_names:
        return list(rows.column(name).to_pylist())
    outer = [
        field.name
        for field in rows.schema
        if pa.types.is_struct(field.type) and name.startswith(f"{field.name}.")
    ]
    objects = rows.select(outer).to_pylist() if outer else [{}] * len(rows)
    return [inner_value(row, name) for row in objects]


class RowWriter(Protocol):
    """Writes rows to an open file, with new columns behind their own."""

    def write(self, rows: Rows, new: Mapping[str, pa.Array]) -> None:
        """Write some rows; the first ones decide the columns of the file."""

    def close(self) -> None:
        """Write what belongs at the end."""


@contextmanager
def writing(
    path: str | os.PathLike[str], *, delimiter: str | None = None, mark: bool = False
) -> Iterator[RowWriter]:
    """Yield a writer of a file that appears, whole, at the end of the block; not after an error.

    Lists become JSON in a cell of csv, and None an empty cell. A file of the same name stays until the new
    one is complete.

    Args:
        path: its suffix, one of `WRITTEN`, decides the kind.
        delimiter: of a .csv; default a comma.
        mark: whether a .csv or .tsv begins with a byte order mark, without which Excel takes UTF-8 for the
            letters of its own country.

    Raises:
        ValueError: for another suffix, and for rows whose columns are not those of the first ones.
    """
    path = Path(path).expanduser()
    check_written(path)
    encoding = "utf-8-sig" if mark else "utf-8"
    with whole_file(path) as stream, closing(_writer(path, stream, delimiter, encoding)) as writer:
        yield writer


def check_written(path: Path) -> None:
    """Refuse a file of a kind that is not written."""
    if path.suffix.lower() not in WRITTEN:
        raise ValueError(f"{path.name}: only {', '.join(WRITTEN)} are written. Name the file so.")


def _writer(path: Path, stream: IO[bytes], delimiter: str | None, encoding: str) -> RowWriter:
    kind = path.suffix.lower()
    if kind == ".parquet":
        return _ParquetWriter(stream)
    if kind == ".jsonl":
        return _JsonWriter(stream)
    return _CsvWriter(stream, "\t" if kind == ".tsv" else delimiter or ",", encoding)


def _joined(rows: Rows, new: Mapping[str, pa.Array]) -> Iterator[dict[str, Any]]:
    """Yield rows with their new values; refuse one that has a value of such a name itself."""
    own = rows.to_pylist() if isinstance(rows, pa.Table) else rows
    for row, values in zip(own, pa.table(dict(new)).to_pylist(), strict=True):
        if taken := row.keys() & values.keys():
            raise ValueError(
                f"A row has the columns {sorted(taken)} already, and the first {_ROWS:,} rows have not. Type "
                "a prefix for the new ones."
            )
        yield row | values


class _JsonWriter:
    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def write(self, rows: Rows, new: Mapping[str, pa.Array]) -> None:
        for row in _joined(rows, new):
            self._stream.write((_json(row) + "\n").encode())

    def close(self) -> None:
        pass


class _CsvWriter:
    def __init__(self, stream: IO[bytes], delimiter: str, encoding: str) -> None:
        self._text = io.TextIOWrapper(stream, encoding, newline="")
        self._writer = csv.writer(self._text, delimiter=delimiter, lineterminator="\n")
        self._names: list[str] = []

    def write(self, rows: Rows, new: Mapping[str, pa.Array]) -> None:
        if not self._names:
            self._names = [*names_of(rows), *new]
            self._writer.writerow(self._names)
        for row in _joined(rows, new):
            if unknown := row.keys() - set(self._names):
                raise ValueError(
                    f"A row has {sorted(unknown)}, which the first {_ROWS:,} rows have not: a csv has one "
                    "header. Write a .jsonl file."
                )
            self._writer.writerow([_cell(row.get(name)) for name in self._names])

    def close(self) -> None:
        self._text.detach()  # writes what is due, and leaves the file open


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    plain = isinstance(value, (bool, list, dict))
    return _json(value) if plain else str(value)


def _json(value: Any) -> str:
    """Return a value as JSON, which has no NaN: null stands for it."""
    try:
        return json.dumps(value, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    try:
        return pa.Table.from_pylist(rows)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise ValueError(
            f"A column holds values of several types ({error}), and a parquet column has one. Write a .jsonl "
            "file."
        ) from None


class _ParquetWriter:
    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._file: pq.ParquetWriter | None = None

    def write(self, rows: Rows, new: Mapping[str, pa.Array]) -> None:
        table = rows if isinstance(rows, pa.Table) else _table(rows)
        for name, values in new.items():
            table = table.append_column(name, values)
        if self._file is None:
            self._file = pq.ParquetWriter(self._stream, table.schema)
        try:
            self._file.write_table(table.cast(self._file.schema))
        except (pa.ArrowInvalid, ValueError) as error:
            raise ValueError(
                f"Rows have other columns or types than the first {_ROWS:,} ({error}), and a parquet column "
                "has one type. Write a .jsonl file."
            ) from None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
