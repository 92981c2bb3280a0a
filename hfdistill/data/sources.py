"""`read` finds rows on the Hub, in local files or in memory, and gives them as raw splits."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import load_dataset

from hfdistill.data.encodings import suffix_of
from hfdistill.data.file_streams import stream_files
from hfdistill.data.in_memory import splits_in_memory, streams_in_memory
from hfdistill.data.table_files import KINDS, SPLIT_NAMES, FileOptions, read_files
from hfdistill.files.hub import HubUnreachable, reaching

_NOT_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_SHARD = re.compile(r"-(\d+)-of-\d+$")
_UNPACK = "Unpack it first. Type the path of the folder in its place."
_TEXTS = (
    "A file of texts alone, one a line, is read by hfdistill.load_texts (in Python), data: unlabelled: (on a "
    "page) and --unlabelled (of hfdistill fit). To have labels, write a csv: the line text,label, then a "
    "text and its label a line."
)
_INSTEAD = {
    ".txt": _TEXTS,
    ".xls": "Save the sheet as .xlsx or .csv.",
    ".ods": "Save the sheet as .xlsx or .csv.",
    ".zip": _UNPACK,
    ".gz": _UNPACK,
    ".py": "Code is never run: pass the data that it makes.",
    ".arrow": "Pass datasets.Dataset.from_file(path).",
    ".feather": "Pass pandas.read_feather(path).",
    ".pkl": "Pickles are never read: pass the DataFrame itself.",
}


def read(
    source: Any, config: str | None, options: FileOptions, *, streaming: bool = False
) -> tuple[dict[str, Any], bool]:
    """Return the raw splits, and whether every value in them is a string because of the kind of file.

    They are `Dataset`s, or `IterableDataset`s where they are streamed.
    """
    splits: Mapping[str, list[Path]]
    if (files := _files_of(source)) is not None:
        splits = files
    elif not isinstance(source, (str, os.PathLike)):
        return (streams_in_memory if streaming else splits_in_memory)(source), False
    else:
        path = _local_path(source)
        if path is None:
            return _read_hub(str(source), config, streaming=streaming), False
        splits = _split_files(path)
    of_strings = KINDS[suffix_of(next(iter(splits.values()))[0])] in ("csv", "excel")
    reader: Any = stream_files if streaming else read_files
    return {name: reader(name, paths, options) for name, paths in splits.items()}, of_strings


def _files_of(source: Any) -> dict[str, list[Path]] | None:
    """Return the files of a dict of paths by split; None for anything else."""
    if not isinstance(source, Mapping) or not source:
        return None
    paths = [path for path in source.values() if isinstance(path, (str, os.PathLike))]
    named = all(str(name).lower() in SPLIT_NAMES for name in source)
    if len(paths) < len(source) or not (named or any(suffix_of(Path(path)) in KINDS for path in paths)):
        return None
    splits = {}
    for name, path in source.items():
        if (local := _local_path(path)) is None or not local.is_file():
            raise FileNotFoundError(
                f"There is no file {str(path)!r}, the path of split {str(name)!r}. Pass files by split, as "
                "in {'train': 'a.csv', 'test': 'b.csv'}."
            )
        splits[str(name)] = _data_files(local)
    if len({KINDS[suffix_of(files[0])] for files in splits.values()}) > 1:
        raise ValueError(f"The files of the splits are of several kinds: {source}. Make them one kind.")
    return splits


def _local_path(source: str | os.PathLike[str]) -> Path | None:
    """Return the existing local path, or None for a Hub id; anything else is refused."""
    path = Path(source).expanduser()
    if path.exists():
        return path
    name = str(source)
    hub_like = isinstance(source, str) and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is not None
    hub_like = hub_like and name[0] not in ".~" and suffix_of(path) not in {*KINDS, *_INSTEAD}
    if hub_like and not (len(path.parts) == 2 and path.parent.is_dir()):
        return None
    beside = next((parent for parent in path.parents if parent.is_dir()), Path())
    entries = sorted(entry.name for entry in beside.iterdir())
    shown = ", ".join(entries[:8]) + (f" and {len(entries) - 8} more" if len(entries) > 8 else "")
    near = _near(path.relative_to(beside).parts[0] if path.parts else name, beside)
    way = (
        f"Did you mean {near!r}?"
        if near
        else "Pass the path of one of these, or a Hub id such as 'stanfordnlp/sst2'."
    )
    raise FileNotFoundError(
        f"There is no file or folder {name!r}; {beside.absolute()} holds {shown or 'nothing'}. {way}"
    )


def _near(name: str, folder: Path) -> str | None:
    """Return the path of an entry of the folder with nearly this name; None without one."""
    close = difflib.get_close_matches(name, [entry.name for entry in folder.iterdir()], n=1, cutoff=0.75)
    return str(folder / close[0]) if close else None


def _read_hub(name: str, config: str | None, *, streaming: bool) -> dict[str, Any]:
    try:
        with reaching(name):
            return dict(load_dataset(name, config, **({"streaming": True} if streaming else {})))
    except (HubUnreachable, FileNotFoundError) as error:
        near = _near(Path(name).parts[0], Path())
        if near is None:
            raise
        # HubUnreachable and FileNotFoundError both take one message.
        raise type(error)(f"{error} If a local path was meant: did you mean './{near}'?") from None
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
    """Return the data files under a path, never empty."""
    held = ""
    way = "Name the file, or the folder that holds it; of a Dataset, dataset.to_parquet(path) writes one."
    if path.is_file():
        if suffix_of(path) in KINDS:
            return [path]
        way = _INSTEAD.get(suffix_of(path), way)
    else:
        for folder in (path, path / "data"):
            if folder.is_dir() and (files := [file for file in sorted(folder.iterdir()) if _is_data(file)]):
                return files
        entries = sorted(entry.name for entry in path.iterdir())
        held = f" (it holds {entries[:8]})"
        if "dataset_dict.json" in entries or "state.json" in entries:
            way = f"save_to_disk wrote it: pass datasets.load_from_disk({str(path)!r})."
        elif any(path.glob("*.txt")) or any(path.glob("*/*.txt")):
            way = _TEXTS
    raise ValueError(
        f"{str(path)!r} is neither a data file nor a folder of data files{held}: only {', '.join(KINDS)} are "
        f"read. {way}"
    )


def _is_data(file: Path) -> bool:
    hidden = file.name.startswith((".", "_", "~$")) or file.name in _NOT_DATA
    return file.is_file() and suffix_of(file) in KINDS and not hidden


def _split_files(path: Path) -> Mapping[str, list[Path]]:
    """Return the files of each split, by the names of the files."""
    files = _data_files(path)
    splits: dict[str, list[Path]] = {}
    for file in files:
        stem = _stem(file)
        last = re.split(r"[\W_]+", stem.lower())[-1]
        name = SPLIT_NAMES.get(last) or ("train" if len(files) == 1 else re.sub(r"\W+", "_", stem))
        splits.setdefault(name, []).append(file)
    for name, shards in splits.items():
        same = len({(_stem(file), suffix_of(file)) for file in shards}) == 1
        if not same or len({KINDS[suffix_of(file)] for file in files}) > 1:
            raise ValueError(
                f"{str(path)!r} holds several files that could be the split {name!r}, or files of several "
                f"kinds: {[file.name for file in files]}. "
                "Leave one file (or its numbered shards) per split, all of one kind."
            )
    order = sorted(splits, key=lambda name: (["train", "validation", "test", name].index(name), name))
    return {name: splits[name] for name in order}


def _stem(file: Path) -> str:
    """Return a file's name without its suffix and the number of its shard."""
    stem = Path(file.stem).stem if file.suffix.lower() == ".gz" else file.stem
    return _SHARD.sub("", stem)
