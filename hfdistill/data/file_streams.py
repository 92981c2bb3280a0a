"""`stream_files` reads the files of one split row by row, as they are needed."""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Features, IterableDataset, NamedSplit, Value, load_dataset

from hfdistill.data.csv_files import BadLine, CsvLayout
from hfdistill.data.encodings import suffix_of
from hfdistill.data.json_files import is_array, json_rows
from hfdistill.data.table_files import (
    KINDS,
    FileOptions,
    bad_lines_message,
    bad_lines_summary,
    check_same_classes,
    check_same_columns,
    csv_tables,
    unlike_column,
)

logger = logging.getLogger(__name__)

_SCANNED = 1000
"""Rows of a JSON file that show which keys its objects have."""


def stream_files(split: str, files: Sequence[Path], options: FileOptions) -> IterableDataset:
    """Return the rows of a split's files, one file after the other, with all their columns.

    Every cell of a csv file is a string as it is written. Files are shards: several workers read them side by
    side, and a shuffled stream takes them in another order in each pass. Excel sheets and JSON arrays, which
    can only be read whole, are refused.
    """
    kind = KINDS[suffix_of(files[0])]
    for file in files:
        if kind == "excel" or (kind == "json" and is_array(file)):
            what = "an Excel sheet" if kind == "excel" else "one JSON array"
            raise ValueError(
                f"{file.name} is {what}, which can only be read whole. Save it as .jsonl (an object a line), "
                ".csv or .parquet, or load it without streaming=True."
            )
    if kind == "parquet":
        check_same_classes(files)
        if (unlike := unlike_column(kind, files, streaming=True)) is not None:
            raise ValueError(
                f"The files of split {split!r} differ in what {unlike!r} holds, texts or numbers, and a "
                "stream makes later ones like the first. Write the column alike, or leave streaming=True out."
            )
        names = [glob.escape(str(file.absolute())) for file in files]
        return load_dataset("parquet", data_files={split: names}, split=split, streaming=True)
    if kind == "csv":
        layouts = [options.layout(file) for file in files]
        check_same_columns(files, layouts)
        features = Features({name: Value("string") for name in layouts[0].names})
        pairs = list(zip(map(str, files), layouts, strict=True))
        arguments: dict[str, Any] = {"files": pairs, "on_bad_row": options.on_bad_row}
        return _generated(_csv_rows, split, arguments, features)
    first = (row for file in files for row in islice(json_rows(file, options.encoding), _SCANNED))
    keys = tuple(dict.fromkeys(key for row in first for key in row))
    arguments = {"files": list(map(str, files)), "keys": keys, "encoding": options.encoding}
    return _generated(_json_rows, split, arguments, None)


def _generated(generator: Any, split: str, arguments: dict[str, Any], features: Any) -> IterableDataset:
    options = {"features": features, "gen_kwargs": arguments, "split": NamedSplit(split)}
    return IterableDataset.from_generator(generator, **options)


def _csv_rows(files: list[tuple[str, CsvLayout]], on_bad_row: str) -> Iterator[dict[str, str]]:
    for name, layout in files:
        yield from _rows_of_csv(Path(name), layout, on_bad_row)


def _rows_of_csv(file: Path, layout: CsvLayout, on_bad_row: str) -> Iterator[dict[str, str]]:
    """Yield the rows of a csv file, up to the first line that is none, unless such lines are left out."""
    is_first = True

    def refuse(line: BadLine) -> None:
        nonlocal is_first
        if on_bad_row == "raise" or line.late:
            raise ValueError(bad_lines_message(file, layout, [line]))
        if is_first:  # there may be many, in each pass
            logger.warning("%s: dropped, as such lines after it are", bad_lines_summary(file, [line]))
        is_first = False

    for table in csv_tables(file, layout, refuse):
        yield from table.to_pylist()


def _json_rows(files: list[str], keys: tuple[str, ...], encoding: str | None) -> Iterator[dict[str, Any]]:
    for name in files:
        for row in json_rows(Path(name), encoding):
            yield {key: row.get(key) for key in keys}
