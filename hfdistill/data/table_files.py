"""`read_files` reads the files of one split into a data set: csv, Excel, JSON, or Parquet."""

from __future__ import annotations

import glob
import itertools
import json
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import (
    ArrowBasedBuilder,
    BuilderConfig,
    ClassLabel,
    Dataset,
    DatasetInfo,
    Features,
    Json,
    LargeList,
    List,
    SplitGenerator,
    Value,
    concatenate_datasets,
    load_dataset,
)
from datasets.exceptions import DatasetGenerationError

import hfdistill
from hfdistill.data.csv_files import REPEATED, BadLine, CsvLayout, CsvRows, column_names, csv_layout
from hfdistill.data.encodings import check_utf8, suffix_of, text_encoding
from hfdistill.data.json_files import is_array, json_rows
from hfdistill.files.plain_data import as_python

logger = logging.getLogger(__name__)

KINDS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "json",
    ".json": "json",
    ".xlsx": "excel",
}
"""The kinds of files by their suffix; csv, tsv and JSON may be packed, as in `train.csv.gz`."""

SPLIT_NAMES = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLIT_NAMES |= dict.fromkeys(("validation", "dev", "val", "valid", "eval"), "validation")
"""What files of a split may be called."""

_BATCH, _TABLES = 500, 20  # rows of a csv that are held as Python objects, and such tables in one of Arrow


@dataclass(frozen=True)
class FileOptions:
    """How files are to be read where they do not tell by themselves; see `load`."""

    encoding: str | None = None
    delimiter: str | None = None
    quotes: bool | None = None
    on_bad_row: Literal["raise", "drop"] = "raise"

    def layout(self, file: Path, errors: str = "strict", *, warns: bool = True) -> CsvLayout:
        """Return how a csv file is written; a guess is logged where it `warns`."""
        layout = csv_layout(
            file, encoding=self.encoding, delimiter=self.delimiter, quotes=self.quotes, errors=errors
        )
        if warns and layout.guessed:
            logger.warning(
                "%s: cells are separated by %r (pass delimiter= for another)", file.name, layout.delimiter
            )
        if warns and layout.trailing:
            logger.warning(
                "%s: every line ends with %r, which the header lacks; it is left out",
                file.name,
                layout.delimiter,
            )
        return layout


_JSON_BLOCK = 1 << 27  # bytes of a JSON file that are read at once: later ones are made like the first
_SHEET_ERRORS = (ValueError, OSError, KeyError, BadZipFile, zlib.error, SyntaxError, ImportError)
_ROWS = "Check that it is the file you mean, and that it was written to its end."


def read_files(split: str, files: Sequence[Path], options: FileOptions) -> Dataset:
    """Return the rows of a split's files, one file after the other, with all their columns.

    Every cell of a csv and of an Excel sheet is a string as it is written: "null", "NA" and "007" are texts,
    and so is an empty cell.

    Raises:
        ValueError: for files without rows, and for what cannot be read; it names file and line.
    """
    kind = KINDS[suffix_of(files[0])]
    if kind == "csv":
        rows = _read_csv(split, files, options)
    elif kind == "excel":
        rows = _read_excel(files)
    elif kind == "json" and (
        options.encoding or any(text_encoding(file, None) != "utf-8-sig" or is_array(file) for file in files)
    ):
        rows = _read_json(files, options.encoding)
    else:
        if kind == "json" and options.on_bad_row == "raise":
            for file in files:
                check_utf8(file)
        unlike = unlike_column(kind, files) is not None
        rows = _read_values(kind, files) if unlike else _read_typed(kind, split, files)
        if kind == "json" and not unlike and _is_changed(rows):
            rows = _read_json(files, options.encoding)
    if not len(rows):
        raise ValueError(f"{files[0].name} (split {split!r}) holds no rows. {_ROWS}")
    return rows


def _read_json(files: Sequence[Path], encoding: str | None) -> Dataset:
    """Return the rows of JSON files, held in memory."""
    rows = [row for file in files for row in json_rows(file, encoding)]
    names = dict.fromkeys(name for row in rows for name in row)
    return table_of({name: [row.get(name) for row in rows] for name in names})


def _read_values(kind: str, files: Sequence[Path]) -> Dataset:
    """Return the rows of files whose columns differ in kind: `datasets` makes later ones as the first is."""
    if kind == "json":
        return _read_json(files, None)
    tables = []
    for file in files:  # pq.read_table is another one, which leaves files open, where datasets has streamed
        with open_parquet(file) as source:
            tables.append(source.read())
    names = dict.fromkeys(name for table in tables for name in table.column_names)
    return concatenate_datasets([_joined(name, tables) for name in names], axis=1)


@contextmanager
def open_parquet(file: Path) -> Iterator[pq.ParquetFile]:
    """Open a parquet file for the time of a block; say so if what is read of it there is broken."""
    try:
        with pq.ParquetFile(file) as source:
            yield source
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file.name} cannot be read as parquet ({error}). {_ROWS}") from None


def _joined(name: str, tables: Sequence[pa.Table]) -> Dataset:
    """Return a column of one table after the other; by its values where their types differ."""
    parts = [
        table.select([name]) if name in table.column_names else pa.table({name: pa.nulls(len(table))})
        for table in tables
    ]
    rows = [Dataset(part) for part in parts]
    known = [part.features for part in rows if part.features[name] != Value("null")]
    if all(features == known[0] for features in known):
        return concatenate_datasets(rows)
    column = table_of({name: [value for part in parts for value in part[name].to_pylist()]})
    named = next((features for features in known if isinstance(features[name], ClassLabel)), None)
    if named is not None and column.features[name] == Value("int64"):
        return Dataset(column.data.table.cast(named.arrow_schema))  # numbers without names beside them
    return column


def unlike_column(kind: str, files: Sequence[Path], *, streaming: bool = False) -> str | None:
    """Return a column that holds texts in one file and numbers in another, or the like; None without one.

    In a stream whole and real numbers are alike.
    """
    seen: dict[str, str] = {}
    for file in files if len(files) > 1 else ():
        for name, own in _kinds(kind, file):
            own = own.removeprefix("real ") if streaming else own
            if seen.setdefault(name, own) != own:
                return name
    return None


def _kinds(kind: str, file: Path) -> Iterator[tuple[str, str]]:
    """Yield columns of one file and what they hold: text, truth or numbers; of JSON by its first rows."""
    try:
        if kind == "json":
            first = islice(json_rows(file), 1000)
            pairs = [(name, type(value)) for row in first for name, value in row.items()]
            yield from ((name, _KINDS_OF_VALUES[of]) for name, of in set(pairs) if of in _KINDS_OF_VALUES)
            return
        for field in pq.read_schema(file):
            value_type = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
            own = str(value_type).rstrip("0123456789").removeprefix("large_").removesuffix("_view")
            if own in _KINDS_OF_TYPES:
                yield field.name, _KINDS_OF_TYPES[own]
    except (pa.ArrowException, OSError, ValueError):
        return  # told when the file is read


_KINDS_OF_VALUES = {str: "text", bool: "truth", int: "number", float: "number"}
_KINDS_OF_TYPES = {"string": "text", "bool": "truth", "int": "number", "uint": "number"}
_KINDS_OF_TYPES |= dict.fromkeys(("halffloat", "float", "double"), "real number")


def _is_changed(rows: Dataset) -> bool:
    """Whether `datasets` read values otherwise than they are written: dates, and strings among numbers.

    A column of several types is stored as JSON, and its strings "01" and "true" come out as 1 and True.
    """
    return "timestamp" in str(rows.features) or not all(
        (value or "{")[0] in "{[" for name in rows.column_names for value in _stored_json(rows, name)
    )


def _stored_json(rows: Dataset, column: str) -> list[str | None]:
    """Return what a column of several types, or of lists of such, stores; nothing of any other."""
    feature = rows.features[column]
    while isinstance(feature, (List, LargeList)):
        feature = feature.feature
    if not isinstance(feature, Json):
        return []
    stored = rows.select_columns([column]).with_format("arrow")[:].column(column).combine_chunks()
    while pa.types.is_list(stored.type) or pa.types.is_large_list(stored.type):
        stored = stored.flatten()
    return list(stored.cast(pa.string()).to_pylist())


def table_of(columns: Mapping[str, Any]) -> Dataset:
    """Return a data set of columns; None, NaN and pandas' NA are missing, categories are their names."""
    arrays: dict[str, Any] = {}
    mixed: dict[str, list[Any]] = {}
    for name, values in columns.items():
        try:
            array = pa.array(values, from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            mixed[name] = [None if value != value else value for value in values]
            continue
        arrays[name] = array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
    rows = Dataset(pa.table(arrays)) if arrays else None
    for name, values in mixed.items():  # strings among numbers: told with the row, where the column is used
        try:
            # datasets takes the string "01" for JSON, and gives 1
            written = [None if value is None else json.dumps(as_python(value)) for value in values]
            column = Dataset.from_dict({name: written}, features=Features({name: Json()}))
        except (TypeError, ValueError, pa.ArrowException):
            logger.warning("the column %r holds objects that cannot be read, and is left out", name)
            continue
        rows = column if rows is None else concatenate_datasets([rows, column], axis=1)
    return Dataset.from_dict({}) if rows is None else rows


def _read_typed(kind: str, split: str, files: Sequence[Path]) -> Dataset:
    names = [glob.escape(str(file.absolute())) for file in files]
    options = {"chunksize": _JSON_BLOCK} if kind == "json" else {}
    if kind == "parquet":
        check_same_classes(files)
    try:
        return load_dataset(kind, data_files={split: names}, split=split, **options)
    except (DatasetGenerationError, ValueError, StopIteration) as error:
        if kind == "json":
            try:
                for _ in itertools.chain.from_iterable(map(json_rows, files)):
                    pass
            except ValueError as named:  # the line that is wrong
                raise named from None
        if len(files) > 1 and isinstance(error, DatasetGenerationError):
            return _read_values(kind, files)
        cause = error.__cause__ or error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        if isinstance(error, StopIteration) or "corresponds to no data" in reason:
            raise ValueError(f"{files[0].name} (split {split!r}) holds no rows. {_ROWS}") from None
        raise ValueError(
            f"{files[0].name} (split {split!r}) cannot be read as {kind}: {reason}. Check the file; text "
            "must be UTF-8, and every row must have the columns of the first."
        ) from error


def check_same_classes(files: Sequence[Path]) -> None:
    """Refuse Parquet files of one split that number their classes in different orders."""
    seen: dict[str, tuple[Path, Any]] = {}
    for file in files if len(files) > 1 else ():
        try:
            features = Features.from_arrow_schema(pq.read_schema(file))
        except (pa.ArrowException, OSError, ValueError):
            return  # told when the file is read
        for column, feature in features.items():
            names: Any = getattr(getattr(feature, "feature", feature), "names", None)
            if not names:
                continue
            first, before = seen.setdefault(column, (file, names))
            if names != before:
                order = ", ".join(f"{name!r}: {number}" for number, name in enumerate(before[:2]))
                raise ValueError(
                    f"{file.name} numbers the classes of {column!r} {names}, and {first.name} of the same "
                    f"split {before}: one number is two classes. Write all files with one order, as by "
                    f"Dataset.from_parquet(file).align_labels_with_mapping({{{order}, …}}, {column!r})."
                )


def _read_excel(files: Sequence[Path]) -> Dataset:
    try:
        import openpyxl  # type: ignore[import-untyped, unused-ignore]  # noqa: F401
        import pandas as pd  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise ValueError(
            f"{files[0].name} is read by openpyxl, which is not installed. Type pip install openpyxl, or "
            "save the sheet as csv."
        ) from None
    columns: dict[str, list[str]] = {}
    for file in files:
        try:
            sheets = pd.read_excel(file, sheet_name=None, header=None, dtype=str, keep_default_na=False)
        except _SHEET_ERRORS as error:
            raise ValueError(f"{file.name} cannot be read as an Excel sheet ({error}). {_ROWS}") from None
        filled = {name: rows for name, sheet in sheets.items() if len(rows := _rows_of_sheet(sheet)) > 1}
        if len(filled) > 1:
            raise ValueError(
                f"{file.name} has several sheets with rows: {list(filled)}. Save the one you mean as a file "
                "of its own, or pass it as a DataFrame: load(pandas.read_excel(path, sheet_name=...))."
            )
        no_rows: list[list[str]] = [[]]
        header, *rows = next(iter(filled.values()), no_rows)
        again = next((number for number, row in enumerate(rows, 1) if row == header and len(row) > 1), None)
        if again is not None:
            raise ValueError(f"{file.name}, row {again}, repeats the header, {header}. Take it out.")
        for name, cells in zip(column_names(file, header), zip(*rows, strict=True), strict=False):
            columns.setdefault(name, []).extend(cells)
    return Dataset.from_dict(columns, features=Features(dict.fromkeys(columns, Value("string"))))


def _rows_of_sheet(sheet: Any) -> list[list[str]]:
    """Return the cells of a sheet, from its header on: empty rows above it are passed over."""
    rows = [[str(cell) for cell in row] for row in sheet.itertuples(index=False)]
    return list(itertools.dropwhile(lambda row: not any(cell.strip() for cell in row), rows))


def _read_csv(split: str, files: Sequence[Path], options: FileOptions) -> Dataset:
    layouts = [options.layout(file) for file in files]
    check_same_columns(files, layouts)
    builder = _CsvBuilder(
        data_files={split: [glob.escape(str(file.absolute())) for file in files]},
        layouts=tuple(layouts),
        sizes=tuple(file.stat().st_size for file in files),
        on_bad_row=options.on_bad_row,
        reader=hfdistill.__version__,
    )
    with telling_causes():
        builder.download_and_prepare(verification_mode="no_checks")
    for message in json.loads(builder.info.description or "[]"):
        logger.warning("%s", message)
    if not builder.info.splits[split].num_examples:
        return Dataset.from_dict({})
    return builder.as_dataset(split=split)


@contextmanager
def telling_causes() -> Iterator[None]:
    """While open, what is refused as `datasets` writes rows is raised as it is, and not as a cause."""
    try:
        yield
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise


def check_same_columns(files: Sequence[Path], layouts: Sequence[CsvLayout]) -> None:
    """Refuse csv files of one split whose columns have different names."""
    for file, layout in zip(files, layouts, strict=True):
        if set(layout.names) != set(layouts[0].names):
            raise ValueError(
                f"{file.name} has the columns {list(layout.names)}, and {files[0].name} of the same split "
                f"{list(layouts[0].names)}. Give the columns one name in all files."
            )


@dataclass
class _CsvConfig(BuilderConfig):
    """The files, and all that decides how they are read: the cache of `datasets` goes by it."""

    layouts: tuple[CsvLayout, ...] = ()
    sizes: tuple[int, ...] = ()
    on_bad_row: str = "raise"
    reader: str = ""


class _CsvBuilder(ArrowBasedBuilder):
    """Writes the rows of csv files to the cache of `datasets`, a batch at a time."""

    BUILDER_CONFIG_CLASS = _CsvConfig

    def _info(self) -> DatasetInfo:
        return DatasetInfo(features=Features(dict.fromkeys(self.config.layouts[0].names, Value("string"))))

    def _split_generators(self, dl_manager: Any) -> list[SplitGenerator]:
        ((split, files),) = self.config.data_files.items()
        return [SplitGenerator(name=split, gen_kwargs={"files": [Path(file) for file in files]})]

    def _generate_shards(self, files: Sequence[Path]) -> Iterator[str]:
        yield from map(str, files)

    def _generate_tables(self, files: Sequence[Path]) -> Iterator[tuple[tuple[int, int], pa.Table]]:
        schema, messages = self.info.features.arrow_schema, []
        for number, (file, layout) in enumerate(zip(files, self.config.layouts, strict=True)):
            bad: list[BadLine] = []
            rows = 0
            for batch, table in enumerate(csv_tables(file, layout, bad.append)):
                rows += len(table)
                yield (number, batch), table.select(schema.names)
            if bad and (self.config.on_bad_row == "raise" or any(line.late for line in bad)):
                raise ValueError(bad_lines_message(file, layout, bad, rows=rows))
            if bad:
                messages.append(f"{bad_lines_summary(file, bad)}: dropped")
        self.info.description = json.dumps(messages) if messages else ""


def csv_tables(file: Path, layout: CsvLayout, on_bad_line: Any) -> Iterator[pa.Table]:
    """Yield the rows of a csv file as tables of strings of some thousand rows each; see `CsvRows`."""
    rows = iter(CsvRows(file, layout, on_bad_line))
    names = list(layout.names)
    while tables := list(islice(_small_tables(rows, names), _TABLES)):
        yield pa.concat_tables(tables).combine_chunks()


def _small_tables(rows: Iterator[list[str]], names: list[str]) -> Iterator[pa.Table]:
    """Take few rows at once: thousands of lists make Python's garbage collector the slowest part."""
    while batch := list(islice(rows, _BATCH)):
        yield pa.table([pa.array(cells, pa.string()) for cells in zip(*batch, strict=True)], names=names)


def bad_lines_summary(file: Path, bad: Sequence[BadLine]) -> str:
    """Return how many lines are not rows, and the first of them."""
    several = (
        f"{len(bad):,} lines of {file.name} are not rows; the first:" if len(bad) > 1 else f"{file.name},"
    )
    return f"{several} {bad[0]}"


def bad_lines_message(
    file: Path, layout: CsvLayout, bad: Sequence[BadLine], *, rows: int = 0, drops: bool = True
) -> str:
    """Return a sentence on lines that are not rows, with what to do.

    `rows` is how many lines are rows, where `bad` are several; `drops` tells whether the reader can leave
    lines out.
    """
    way = (
        f"Enclose cells that hold {layout.delimiter!r} or line breaks in quotation marks, and write a "
        'quotation mark within them twice ("")'
    )
    if layout.quotes is False:
        way = f"Take {layout.delimiter!r} and line breaks out of the cells, or save the file as .jsonl"
    elif any("quotation" in line.reason for line in bad):
        way += "; if quotation marks are letters in this file, pass quotes=False"
        if any("takes in" in line.reason for line in bad):
            way += ", and if they do enclose those lines, quotes=True"
    if not rows and len(bad) > 1 and len({line.reason for line in bad}) == 1 and "cell" in bad[0].reason:
        way = "All lines are so: give the header a name for each cell, or pass another delimiter="
        return f"{bad_lines_summary(file, bad)}. {way}."
    if all(line.reason == REPEATED for line in bad):
        way = "Take such lines out"
    drop = "" if not drops or any(line.late for line in bad) else '; on_bad_row="drop" leaves such lines out'
    return f"{bad_lines_summary(file, bad)}. {way}{drop}."
