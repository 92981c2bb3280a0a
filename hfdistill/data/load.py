"""`load` gives labelled text or words the same few columns, wherever they come from."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from datasets import Dataset, DatasetDict, IterableDatasetDict, List

from hfdistill.data.label_columns import (
    Labels,
    as_split,
    indicator_columns,
    joined_labels,
    read_labels,
    with_class_names,
)
from hfdistill.data.sources import read
from hfdistill.data.streams import Reading, first_rows, streamed
from hfdistill.data.table_files import SPLIT_NAMES, FileOptions
from hfdistill.data.text_columns import SAMPLE, likely_texts, with_inner_columns
from hfdistill.data.text_rows import build_split
from hfdistill.data.word_labels import read_words, word_columns
from hfdistill.files.plain_data import as_python

if TYPE_CHECKING:
    from pandas import DataFrame  # type: ignore[import-untyped, unused-ignore]


logger = logging.getLogger(__name__)

_TEXT = {"text", "sentence", "sentence1", "premise", "question", "question1", "review", "content", "tweet"}
_TEXT |= {"query", "utterance", "headline", "comment", "text1", "text_a", "sentence_a", "sentence_1"}
_PAIRS = {
    "text": ("text_pair",),
    "sentence1": ("sentence2",),
    "premise": ("hypothesis",),
    "question1": ("question2",),
    "question": ("passage", "sentence", "context"),
    "query": ("passage", "document"),
    "text1": ("text2",),
    "text_a": ("text_b",),
    "sentence_a": ("sentence_b",),
    "sentence_1": ("sentence_2",),
}
LABEL_NAMES = (
    *("label", "labels", "label_ids", "intent", "class", "category", "target", "sentiment", "emotion"),
    "score",
)
"""What a column of labels is usually called, the likeliest first."""


def load(
    source: str | os.PathLike[str] | Dataset | DataFrame | Mapping[str, Any] | Sequence[Any],
    *,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | Sequence[str] | None = None,
    config: str | None = None,
    split: str | None = None,
    label_names: Sequence[str] | None = None,
    on_bad_row: Literal["raise", "drop"] = "raise",
    encoding: str | None = None,
    delimiter: str | None = None,
    quotes: bool | None = None,
    streaming: bool = False,
) -> DatasetDict:
    """Return splits with the columns `text`, `text_pair` (for pairs), `label` (where there are any) alone.

    Lists of words with lists of labels (`tokens`, `ner_tags`) become the columns `tokens` and `label`: a
    label a word, numbered from the names that the data brings, from its sorted strings, or from
    `label_names`.

    Labels: strings become a `ClassLabel` of their sorted names, the same over all splits, and so do true and
    false; integers that come with names keep them, and stay `int64` without; floats are a regression target
    (`float32`); lists, and several columns of 0 and 1, become the multi-hot `float32` rows of a multi-label
    task. A split whose labels are all hidden (-1, -100 or empty) loses the column, with a warning; among
    names and class numbers -100, or a list of it, marks rows that nobody labelled, which learn from the
    teacher alone. Classes that differ in case or spaces alone, and whatever else in a label column is
    probably not meant, are warned of. No code from the Hub is ever run.

    Strings stay apart as they are written: "01", "1" and "+1" are three classes, and warned of. Only a csv or
    a sheet has no other way to write numbers: there labels are whole numbers where all are written so ("1",
    not "01"), else real values where all are numbers, one of them with a point or an exponent, else names.

    Rows of csv and tsv files are read exactly as they are written. A line with more or fewer cells than the
    header is refused with its number, and so is one whose quotation marks do not enclose a cell.

    Args:
        source: A Hub id (`"stanfordnlp/sst2"`); a local .parquet, .csv, .tsv, .jsonl, .json or .xlsx file
            (csv, tsv and JSON also packed, as `.csv.gz`); a folder of them named after the splits
            (`train.csv`, `dev.csv`, `test-00000-of-00002.parquet`); a dict of files by split; or rows in
            memory: a `Dataset` or `DatasetDict`, a DataFrame, a dict of columns, a list of dicts, of pairs
            (text, label), or of texts.
        text: The text column; of JSON also a value within objects, such as `"message.body"`. Where not given
            it is found by its usual names, else it is the only column of sentences, with a warning.
        text_pair: The second text. Found only where `text` is not given either.
        label: The label column, or the columns of 0 and 1 of a multi-label task. Found by its usual names
            where not given; within objects as `text`.
        config: The Hub data set's configuration (`"mrpc"` of `"nyu-mll/glue"`).
        split: Return this split only. All are read, so that label names do not depend on it.
        label_names: Names of the classes 0, 1, ….
        on_bad_row: `"drop"` logs and drops rows without text or label, and lines of a csv that are not rows,
            instead of refusing them. Rows with an empty text, as a blank cell is, are dropped, too; by
            default they stay, with a warning.
        encoding: Of csv, tsv and JSON files that are neither UTF-8 nor UTF-16 with a byte order mark, such as
            `"cp1252"`.
        delimiter: Between the cells of a csv or tsv. By default a comma (csv) or a tab (tsv), or else the one
            of these, the semicolon and the bar that the first lines fit; a guess is logged.
        quotes: False where quotation marks are letters of a csv or tsv; True where they enclose cells even if
            the lines within a cell look like rows themselves, which is refused by default.
        streaming: Read rows when they are needed, in memory that does not grow with them; nothing is written
            to disk. What the columns hold is settled on the first 1,000 rows of each split, and later rows
            that do not fit are refused with their numbers. Names of classes have to come with the data or in
            `label_names`. An Excel sheet or a JSON array is read whole and refused.

    Returns:
        The splits by name: `train`, `validation`, `test`, or whatever else the files are called; of
        `IterableDataset`s where they are streamed.

    Raises:
        HubUnreachable: The Hub gave no answer.
        FileNotFoundError: There is no such local file, or no such data set on the Hub.
        ValueError: Columns not found or ambiguous, bad rows, labels that do not fit together, unreadable
            files.

    Example:
        >>> from pathlib import Path
        >>> from hfdistill import load
        >>> Path("reviews.csv").write_text("body,verdict\\na warm film,good\\ndull,bad\\n")
        39
        >>> load("reviews.csv", text="body", label="verdict")["train"].features["label"].names
        ['bad', 'good']
        >>> load([("a warm film", "good"), ("dull", "bad")])["train"]["label"][:]
        [1, 0]
    """
    if on_bad_row not in ("raise", "drop"):
        raise ValueError(
            f"on_bad_row is {on_bad_row!r}, which is unknown. Pass on_bad_row='raise' or 'drop'."
        )
    how = FileOptions(encoding, delimiter, quotes, on_bad_row)
    raw, from_text = read(source, config, how, streaming=streaming)
    rows = {name: first_rows(name, part) for name, part in raw.items()} if streaming else raw
    label_names, label = _class_names(label_names), _label_asked(label)
    options: dict[str, Any] = {"names": label_names, "from_text": from_text, "on_bad_row": on_bad_row}
    splits, texts, target, by_name = _read(rows, text=text, text_pair=text_pair, label=label, **options)
    if not streaming:
        if len(splits) > 1 or isinstance(source, (str, os.PathLike)):
            splits = {name: _named(part, name) for name, part in splits.items()}
        return _chosen(source, DatasetDict(splits), split)
    streams: Any = IterableDatasetDict()
    for name, part in raw.items():
        like = splits[name]
        feature, of_words = like.features.get("label"), "tokens" in like.column_names
        reading = Reading(name, part.features, texts, target, feature, of_words, by_name=by_name, **options)
        streams[name] = streamed(part, rows[name], like, reading)
    return _chosen(source, streams, split)


def _class_names(names: Any) -> list[str] | None:
    """Return the names of classes that are asked for; refuse what is no list, and a name given twice."""
    names = as_python(names)
    if names is None:
        return None
    if not isinstance(names, (list, tuple)) or len(set(map(str, names))) < len(names):
        raise ValueError(
            f"label_names is {names!r}, and a list of names is needed, each once, in the order of their "
            "numbers. Type label_names=['no', 'yes']."
        )
    return [str(name) for name in names]


def _label_asked(label: Any) -> str | list[str] | None:
    """Return the label column that is asked for, or several; refuse a set, which has no order."""
    label = as_python(label)
    if isinstance(label, (set, frozenset)):
        raise ValueError(
            f"label is a set, whose order is another in each process, and several columns are the classes in "
            f"their order. Type label={sorted(map(str, label))!r}."
        )
    return label if label is None or isinstance(label, str) else list(label)


def _read(
    rows: dict[str, Dataset],
    *,
    text: str | None,
    text_pair: str | None,
    label: str | list[str] | None,
    names: Sequence[str] | None,
    from_text: bool,
    on_bad_row: str,
) -> tuple[dict[str, Dataset], list[str], str | list[str] | None, bool | None]:
    """Return splits with their final columns, which those of texts and labels were, and `Labels.by_name`."""
    if label is None or isinstance(label, str):
        of_words = word_columns(rows, text=text, text_pair=text_pair, label=label)
        if of_words is not None:
            words, tags = of_words
            return read_words(rows, words, tags, names=names, on_bad_row=on_bad_row), [words], tags, None
    asked = [label] if isinstance(label, str) else label or []
    whole = {name: with_inner_columns(part) for name, part in rows.items()}
    texts, others = _texts_of(whole, text, text_pair, without=asked)
    asked = [_existing(others, name, "label") for name in asked]
    label = asked[0] if isinstance(label, str) else None if label is None else asked
    inner = {name for name in [*texts, *asked] if "." in name}
    rows = {name: _with_columns(part, whole[name], inner) if inner else part for name, part in rows.items()}
    columns = list(dict.fromkeys(name for part in rows.values() for name in part.column_names))
    target = _label_column([name for name in columns if name not in texts], label, rows)
    labels = Labels({})
    if isinstance(target, list):
        labels = joined_labels(rows, target, names=names)
    elif target is not None:
        labels = read_labels(rows, column=target, names=names, from_text=from_text)
    splits = {
        name: build_split(name, part, texts, labels.values.get(name), labels.feature, on_bad_row)
        for name, part in rows.items()
    }
    if isinstance(labels.feature, List) and labels.names:
        splits = {name: with_class_names(part, labels.names) for name, part in splits.items()}
    return splits, texts, target, labels.by_name


def _texts_of(
    whole: Mapping[str, Dataset], text: str | None, text_pair: str | None, *, without: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return the columns of texts, which may stand within objects, and all others; see `found_texts`."""
    columns = list(dict.fromkeys(name for part in whole.values() for name in part.column_names))

    def sample() -> dict[str, list[Any]]:
        first = next(iter(whole.values()))
        return {name: first[name][:SAMPLE] for name in first.column_names}

    texts = found_texts(columns, sample, text, text_pair, without=without)
    return texts, [name for name in columns if name not in texts]


def _with_columns(rows: Dataset, whole: Dataset, inner: Collection[str]) -> Dataset:
    """Return rows with those columns alone, out of all that are within objects, that are wanted."""
    return whole.select_columns([n for n in whole.column_names if n in inner or n in rows.column_names])


def found_texts(
    columns: list[str],
    sample: Callable[[], Mapping[str, Sequence[Any]]],
    text: str | None,
    text_pair: str | None,
    *,
    without: Sequence[str] = (),
) -> list[str]:
    """Return the text columns by their names, else the only one that holds sentences, which is said.

    Args:
        columns: their names.
        sample: gives values of some rows by column, where the names do not tell.
        text: the name that is asked for.
        text_pair: that of the second text.
        without: columns that hold something else.
    """
    if text is None and text_pair is None and not any(_folded(name) in _TEXT for name in columns):
        names = {*LABEL_NAMES, *map(_folded, without)}
        other = [name for name in columns if _folded(name) in names]
        values = sample()
        likely = likely_texts(values, without=other)
        if len(likely) == 1 and len(likely_texts(values, without=other, differ=0.1)) == 1:
            logger.warning(
                "the text is column %r, the only one of sentences (pass text= for another)", *likely
            )
            return likely
    return text_columns(columns, text, text_pair)


def _named(rows: Dataset, split: str) -> Dataset:
    """Return rows with the name of their split, whatever read them; reports and commands use it."""
    return rows if rows.split is not None else as_split(rows, split)


def _chosen(source: Any, splits: DatasetDict, split: str | None) -> DatasetDict:
    """Return only the split that is asked for; all of them for None."""
    if split is None:
        return splits
    if split in splits:
        return type(splits)({split: splits[split]})
    names = list(splits)
    near = [SPLIT_NAMES.get(split.lower(), ""), *difflib.get_close_matches(split, names, n=1)]
    near = [name for name in near if name in names]
    hint = f"Did you mean split={near[0]!r}?" if near else "Pass one of them as split=."
    where = repr(str(source)) if isinstance(source, (str, os.PathLike)) else "The data"
    raise ValueError(f"{where} has no split {split!r}, found {names}. {hint}")


def _existing(columns: list[str], name: str, argument: str) -> str:
    """Return the column of a name, or the one whose name differs in case or spaces alone."""
    if name in columns:
        return name
    alike = [column for column in columns if _folded(column) == _folded(name)]
    if len(alike) == 1:
        return alike[0]
    within = [column for column in columns if column.endswith(f".{name}")]
    close = within or difflib.get_close_matches(name, columns, n=1)
    hint = f"Did you mean {argument}={close[0]!r}?" if close else f"Pass one of them as {argument}=."
    raise ValueError(f"There is no column {name!r}, found {columns}. {hint}")


def _folded(name: str) -> str:
    return name.strip().casefold()


def text_columns(columns: list[str], text: str | None, text_pair: str | None) -> list[str]:
    """Return the text column and, where there is one, that of the second text of a pair; refuse several."""
    named = [
        _existing(columns, name, arg) for name, arg in ((text, "text"), (text_pair, "text_pair")) if name
    ]
    if text is not None:
        if len(set(named)) < len(named):
            raise ValueError(
                f"text and text_pair are both {text!r}, a pair needs two columns. Found {columns}."
            )
        return named
    candidates = [name for name in columns if _folded(name) in _TEXT and name not in named]
    if not named:
        pairs = [(a, b) for a in candidates for b in columns if _folded(b) in _PAIRS.get(_folded(a), ())]
        if len(pairs) == 1 and set(candidates) <= set(pairs[0]):
            return list(pairs[0])
        if pairs:
            candidates = list(dict.fromkeys([name for pair in pairs for name in pair] + candidates))
    if len(candidates) != 1:
        why = f"{candidates} could all be the text" if candidates else "none has a usual name for text"
        inner = [name for name in columns if any(name.startswith(f"{outer}.") for outer in columns)]
        outer = [name for name in columns if name not in inner]
        within = f", within their objects {inner[:20]}" if inner else ""
        others = inner or [name for name in columns if _folded(name) not in LABEL_NAMES]
        example = others[0] if len(others) == 1 else "..."
        header = ""
        if not candidates and any(name.strip().isdigit() or len(name.split()) > 3 for name in columns):
            header = " If the first line is a row, put a header above it, such as text,label."
        elif any(name.startswith("Unnamed: ") for name in columns):
            header = " If the header stands in a later row, take the rows above it out of the file."
        raise ValueError(
            f"Found the columns {outer}{within}, of which {why}. Say which: text={example!r} (and "
            "text_pair='...')."
            f"{header}"
        )
    return candidates + named


def text_column(columns: list[str], text: str | None) -> str:
    """Return the text column: the one that is asked for, or the only one with a usual name."""
    return text_columns(columns, text, None)[0]


def _label_column(
    columns: list[str], label: str | Sequence[str] | None, raw: Mapping[str, Dataset]
) -> str | list[str] | None:
    """Return the label column; a list of columns of 0 and 1 for a multi-label task; None without labels."""
    if isinstance(label, str):
        return _existing(columns, label, "label")
    if label is not None:
        return [_existing(columns, name, "label") for name in label]
    candidates = [name for name in columns if _folded(name) in LABEL_NAMES]
    if len(candidates) > 1:
        raise ValueError(
            f"Found the columns {columns}, of which {candidates} could all be the label. Pass label='...'."
        )
    if candidates or not columns:
        return candidates[0] if candidates else None
    indicators = indicator_columns(raw, columns)
    if indicators:
        logger.warning(
            "the columns %s hold 0 and 1 alone and are read as the classes of a multi-label task; for "
            "another label pass label=",
            indicators,
        )
        return indicators
    logger.warning("none of the columns %s has a usual name for labels: loaded as unlabelled text", columns)
    return None
