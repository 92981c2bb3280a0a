"""Where rows come from: the Hub, or files that are read as they are written."""

from __future__ import annotations

import csv
import glob
import os
import re
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset, Features, Value, load_dataset
from datasets.exceptions import DatasetGenerationError

from hfdistill.files.hub import reaching

_SUFFIXES = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json"}
_NOT_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_SPLITS = {
    "training": "train",
    "dev": "validation",
    "val": "validation",
    "valid": "validation",
    "eval": "validation",
}
_SPLITS |= {name: name for name in ("train", "validation", "test")} | {"testing": "test"}
_SHARD = re.compile(r"-(\d+)-of-\d+$")


def read(source: str | os.PathLike[str], config: str | None) -> tuple[dict[str, Dataset], bool]:
    """The raw splits, and whether every value in them is a string because it was read from csv."""
    path = _local_path(source)
    if path is None:
        return _read_hub(str(source), config), False
    return _read_local(path), _SUFFIXES[_data_files(path)[0].suffix.lower()] == "csv"


def _local_path(source: str | os.PathLike[str]) -> Path | None:
    """The existing local path, or None for a Hub id; what is neither is refused."""
    path = Path(source).expanduser()
    if path.exists():
        return path
    name = str(source)
    hub_like = isinstance(source, str) and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is not None
    hub_like = hub_like and name[0] not in ".~" and path.suffix.lower() not in _SUFFIXES
    if hub_like and not (len(path.parts) == 2 and path.parent.is_dir()):
        return None
    beside = next((parent for parent in path.parents if parent.is_dir()), Path())
    entries = sorted(entry.name for entry in beside.iterdir())
    shown = ", ".join(entries[:8]) + (f" and {len(entries) - 8} more" if len(entries) > 8 else "")
    raise FileNotFoundError(
        f"There is no file or folder {name!r}; {beside.absolute()} holds {shown or 'nothing'}. "
        "Pass the path of one of these, or a Hub id such as 'stanfordnlp/sst2'."
    )


def _read_hub(name: str, config: str | None) -> dict[str, Dataset]:
    try:
        with reaching(name):
            return dict(load_dataset(name, config))
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        raise ValueError(
            f"{name!r} is a Python script, and code from the Hub is never run. "
            "Download its Parquet copy (branch refs/convert/parquet) and pass the folder."
        ) from None
    except ValueError as error:
        if "Config name is missing" not in str(error) and "BuilderConfig" not in str(error):
            raise
        raise ValueError(
            f"{name!r} needs one of its configurations, found {config!r}. {error} Pass config=."
        ) from None


def _data_files(path: Path) -> list[Path]:
    """The data files under a path, never empty."""
    if path.is_file():
        files = [path] if path.suffix.lower() in _SUFFIXES else []
    else:
        inside = [path, path / "data"] if (path / "data").is_dir() else [path]
        listed = [[file for file in sorted(folder.iterdir()) if _is_data(file)] for folder in inside]
        files = next((some for some in listed if some), [])
    if files:
        return files
    held = "" if path.is_file() else f" (it holds {sorted(entry.name for entry in path.iterdir())[:8]})"
    raise ValueError(
        f"{str(path)!r} is no data file and no folder of data files{held}: "
        f"only {', '.join(_SUFFIXES)} are read. Save the rows with dataset.to_parquet('train.parquet'); "
        "read a folder that save_to_disk wrote with datasets.load_from_disk."
    )


def _is_data(file: Path) -> bool:
    hidden = file.name.startswith((".", "_")) or file.name in _NOT_DATA
    return file.is_file() and file.suffix.lower() in _SUFFIXES and not hidden


def _read_local(path: Path) -> dict[str, Dataset]:
    files = _data_files(path)
    splits: dict[str, list[Path]] = {}
    for file in files:
        stem = _SHARD.sub("", file.stem)
        last = re.split(r"[\W_]+", stem.lower())[-1]
        name = _SPLITS.get(last) or ("train" if len(files) == 1 else re.sub(r"\W+", "_", stem))
        splits.setdefault(name, []).append(file)
    for name, shards in splits.items():
        same = len({(_SHARD.sub("", file.stem), file.suffix) for file in shards}) == 1
        if not same or len({_SUFFIXES[file.suffix.lower()] for file in files}) > 1:
            raise ValueError(
                f"{str(path)!r} holds several files that could be the split {name!r}, or files of several "
                f"kinds: {[file.name for file in files]}. "
                "Leave one file (or its numbered shards) per split, all of one kind."
            )
    order = sorted(splits, key=lambda name: (["train", "validation", "test", name].index(name), name))
    return {name: _read_files(name, splits[name]) for name in order}


def _read_files(split: str, files: list[Path]) -> Dataset:
    kind = _SUFFIXES[files[0].suffix.lower()]
    options: dict[str, Any] = {}
    if kind == "csv":
        # Everything is read as it is written: "null", "NA" and "007" are texts, and so is an empty cell.
        options = {"sep": "\t" if files[0].suffix.lower() == ".tsv" else ",", "keep_default_na": False}
        options["features"] = Features({name: Value("string") for name in _header(files[0], options["sep"])})
    names = [glob.escape(str(file.absolute())) for file in files]
    try:
        rows = load_dataset(kind, data_files={split: names}, split=split, **options)
    except (DatasetGenerationError, ValueError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ValueError(
            f"{files[0].name} (split {split!r}) holds no rows or cannot be read as {kind}: {reason}. "
            "Check the file; text must be UTF-8, and every row must have the columns of the first."
        ) from error
    if options.get("sep") == "\t":
        _check_quotes(rows, files[0].name)
    return rows


def _check_quotes(rows: Dataset, name: str) -> None:
    """Refuse a tsv whose quotation marks are letters: one that opens a cell takes in whole lines."""
    for values in rows.with_format("arrow")[:].columns:
        swallowed = pc.match_substring_regex(values, r"\t[^\n]*\n")
        first = pc.index(swallowed, True).as_py()
        if first >= 0:
            raise ValueError(
                f"A quotation mark in row {first} of {name} swallowed the lines after it: "
                f"{values[first].as_py()[:60]!r}. Save the file as .jsonl or .parquet, which need no quotes."
            )


def _header(file: Path, separator: str) -> list[str]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            names = next(csv.reader(lines, delimiter=separator), [])
    except UnicodeDecodeError as error:
        raise ValueError(f"{file.name} is not UTF-8 ({error}). Save it as UTF-8.") from None
    if len(set(names)) < len(names):
        raise ValueError(
            f"{file.name} has columns of the same name: {names}. Rename them so that each is told apart."
        )
    return [name or f"Unnamed: {i}" for i, name in enumerate(names)]
