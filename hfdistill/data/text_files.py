"""Texts out of files of any size, a bounded piece at a time, whatever bytes the files hold."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hfdistill.data.load import text_column

logger = logging.getLogger(__name__)

SUFFIXES = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
_BLOCK = 1 << 20  # bytes of a line that are held at once


def text_files(source: str | os.PathLike[str]) -> list[Path]:
    """The files of texts in a folder and in those below, in the order of their names; never empty.

    Hidden files are passed over, and so are links that lead out of the folder, which is said.

    Raises:
        FileNotFoundError: where there is nothing of this name.
        ValueError: for a folder without such files, or a file of another kind.
    """
    root = Path(source).expanduser()
    if not root.exists():
        raise FileNotFoundError(
            f"There is no file or folder {str(root)!r}. Pass the path of a folder of texts."
        )
    found = [root] if root.is_file() else _walk(root)
    files = [file for file in found if file.suffix.lower() in SUFFIXES]
    if not files:
        raise ValueError(
            f"{str(root)!r} holds no texts: only {', '.join(SUFFIXES)} are read. Unpack archives first, and "
            "save other rows with dataset.to_parquet('texts.parquet')."
        )
    return files


def _walk(root: Path) -> list[Path]:
    inside, outside = [], []
    home = root.resolve()
    for folder, below, names in os.walk(root, followlinks=False):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            file = Path(folder, name)
            if name.startswith(".") or file.suffix.lower() not in SUFFIXES:
                continue
            if not file.resolve().is_relative_to(home):
                outside.append(file.name)
            elif file.is_file():  # no pipe, which would never end
                inside.append(file)
    if outside:
        logger.warning("%d links lead out of %s and were not read: %s", len(outside), root, outside[:5])
    return sorted(inside)


def read_texts(file: Path, column: str | None) -> Iterator[str]:
    """The texts of a file in their order; bytes that are no UTF-8 become U+FFFD.

    The lines of a .txt file, with empty ones, else the values of a column.

    Args:
        file: of a kind in `SUFFIXES`.
        column: of texts; None where its name is usual.

    Raises:
        ValueError: for a file without such a column, or one that is not of its kind.
    """
    kind = file.suffix.lower()
    if kind == ".txt":
        yield from _lines(file)
    elif kind == ".jsonl":
        yield from _objects(file, column)
    elif kind == ".parquet":
        yield from _batches(file, column)
    else:
        yield from _cells(file, column, separator="\t" if kind == ".tsv" else ",")


def _lines(file: Path) -> Iterator[str]:
    """Lines; one that is longer than a block comes in several, cut at a space where there is one."""
    with file.open("rb") as stream:
        first = True
        while block := stream.readline(_BLOCK):
            cut = block.rfind(b" ") if len(block) == _BLOCK and not block.endswith(b"\n") else -1
            if cut > 0:
                stream.seek(cut - len(block), os.SEEK_CUR)
                block = block[:cut]
            yield block.decode("utf-8-sig" if first else "utf-8", errors="replace").rstrip("\r\n")
            first = False


def _objects(file: Path, column: str | None) -> Iterator[str]:
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        while line := lines.readline(16 * _BLOCK):
            try:
                row = json.loads(line) if line.strip() else {}
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                yield "\ufffd"  # counted among what cannot be read
                continue
            column = column or (text_column(list(row), None) if row else None)
            value = row.get(column) if column else None
            if isinstance(value, str):
                yield value


def _cells(file: Path, column: str | None, *, separator: str) -> Iterator[str]:
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        bounded = iter(lambda: lines.readline(16 * _BLOCK).replace("\0", "\ufffd"), "")
        rows = csv.reader(bounded, delimiter=separator)
        names = next(rows, [])
        place = names.index(text_column(names, column))
        while True:
            read = rows.line_num
            try:
                row = next(rows, None)
            except csv.Error:  # a cell of more than 131,072 letters, as behind a quote that nothing closes
                yield from ["\ufffd"] * (rows.line_num - read)
                continue
            if row is None:
                return
            if len(row) > place:
                yield row[place]


def _batches(file: Path, column: str | None) -> Iterator[str]:
    try:
        parquet = pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{file.name} cannot be read as parquet ({error}). Write it again.") from None
    with parquet:
        name = text_column(parquet.schema_arrow.names, column)
        for batch in parquet.iter_batches(1000, columns=[name]):
            values: Any = batch.column(0)
            if pa.types.is_dictionary(values.type):  # how pandas writes categories
                values = values.dictionary_decode()
            if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
                raise ValueError(
                    f"The column {name!r} of {file.name} holds {values.type} and no texts. Name another: "
                    f"load_texts(source, text='...')."
                )
            for raw in values.cast(pa.large_binary()).to_pylist():
                if raw is not None:
                    yield raw.decode("utf-8", errors="replace")
