"""`read_texts` gives the texts of files of any size, a bounded piece at a time, whatever bytes they hold."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import pyarrow as pa

from hfdistill.data.csv_files import BadLine, CsvRows
from hfdistill.data.encodings import LONGEST, open_text, suffix_of, text_encoding
from hfdistill.data.load import text_column
from hfdistill.data.row_files import names_within
from hfdistill.data.table_files import FileOptions, open_parquet
from hfdistill.data.text_columns import inner_names, inner_value
from hfdistill.files.plain_data import as_path

logger = logging.getLogger(__name__)

SUFFIXES = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
_BLOCK = 1 << 20  # letters of a line that are held at once


_USUAL = FileOptions()


def text_files(source: str | os.PathLike[str]) -> list[Path]:
    """Return the files of texts in a folder and below, sorted by name; at least one.

    Hidden files are passed over, and so are links that lead out of the folder, which is said.

    Raises:
        FileNotFoundError: where there is nothing of this name.
        ValueError: for a folder without such files, or a file of another kind.
    """
    root = as_path(
        source,
        "load_texts reads files: its source",
        instead="Texts that you hold already are rows: datasets.Dataset.from_dict({'text': texts}).",
    ).expanduser()
    if not root.exists():
        raise FileNotFoundError(
            f"There is no file or folder {str(root)!r}. Pass the path of a folder of texts."
        )
    candidates = [root] if root.is_file() else _walk(root)
    files = [file for file in candidates if suffix_of(file) in SUFFIXES]
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
            if name.startswith(".") or suffix_of(file) not in SUFFIXES:
                continue
            if not file.resolve().is_relative_to(home):
                outside.append(file.name)
            elif file.is_file():  # no pipe, which would never end
                inside.append(file)
    if outside:
        logger.warning("%d links lead out of %s and were not read: %s", len(outside), root, outside[:5])
    return sorted(inside)


def read_texts(
    file: Path,
    column: str | None,
    options: FileOptions = _USUAL,
    dropped: Counter[str] | None = None,
) -> Iterator[str]:
    """Yield the texts of a file in their order; bytes that are not of its encoding become U+FFFD.

    The lines of a .txt file, with empty ones, else the values of a column.

    Lines that are not rows are counted in `dropped`, by what is wrong with them.
    """
    dropped = Counter() if dropped is None else dropped
    kind = suffix_of(file)
    if kind == ".txt":
        yield from _lines(file, options.encoding)
    elif kind == ".jsonl":
        yield from _objects(file, column, options.encoding, dropped)
    elif kind == ".parquet":
        yield from _batches(file, column)
    else:
        yield from _cells(file, column, options, dropped)


def _lines(file: Path, encoding: str | None) -> Iterator[str]:
    """Yield lines; one that is longer than a block comes in several, cut at a space where there is one."""
    with _opened(file, encoding) as stream:
        rest = ""
        while block := rest + stream.readline(_BLOCK - len(rest)):
            cut = block.rfind(" ") if len(block) >= _BLOCK and not block.endswith("\n") else -1
            block, rest = (block[:cut], block[cut:]) if cut > 0 else (block, "")
            yield block.rstrip("\r\n")


def _opened(file: Path, encoding: str | None) -> AbstractContextManager[TextIOWrapper]:
    return open_text(file, text_encoding(file, encoding), newline="\n", errors="replace")


def _objects(file: Path, column: str | None, encoding: str | None, dropped: Counter[str]) -> Iterator[str]:
    with _opened(file, encoding) as lines:
        while line := lines.readline(LONGEST):
            try:
                row = json.loads(line) if line.strip() else {}
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                dropped["in a line that is not a JSON object"] += 1
                continue
            column = column or (text_column(inner_names([row]), None) if row else None)
            value = inner_value(row, column) if column else None
            if isinstance(value, str):
                yield value


def _cells(file: Path, column: str | None, options: FileOptions, dropped: Counter[str]) -> Iterator[str]:
    def count(_: BadLine) -> None:
        dropped["in a line that is not a row of its csv"] += 1

    layout = options.layout(file, errors="replace", warns=False)
    place = layout.names.index(text_column(list(layout.names), column))
    for cells in CsvRows(file, layout, count, errors="replace"):
        yield cells[place]


def _batches(file: Path, column: str | None) -> Iterator[str]:
    with open_parquet(file) as parquet:
        name = text_column(list(names_within(parquet.schema_arrow)), column)
        for batch in parquet.iter_batches(1000, columns=[name]):
            values: Any = batch.column(0)
            place = batch.schema.names[0]
            while place != name:  # objects that hold what is on the way to the column alone
                place, values = f"{place}.{values.type[0].name}", values.flatten()[0]
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
