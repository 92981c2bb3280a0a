"""Labelled text or words from the Hub or local files, with the same few columns wherever it came from."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, List, Value

from hfdistill.data.label_columns import read_labels
from hfdistill.data.sources import read
from hfdistill.data.word_labels import read_words, word_columns

__all__ = ["load"]

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
_LABEL = {
    "label",
    "labels",
    "label_ids",
    "intent",
    "class",
    "category",
    "target",
    "score",
    "sentiment",
    "emotion",
}


def load(
    source: str | os.PathLike[str],
    *,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    config: str | None = None,
    split: str | None = None,
    label_names: Sequence[str] | None = None,
    on_bad_row: Literal["raise", "drop"] = "raise",
) -> DatasetDict:
    """Splits with the columns `text`, `text_pair` (for pairs), `label` (where there are any), no other.

    Lists of words with lists of labels (`tokens`, `ner_tags`) become the columns `tokens` and `label`: a
    label a word, numbered from the names that the data brings, from its sorted strings, or from
    `label_names`.

    Labels: strings become a `ClassLabel` of their sorted names, the same over all splits; integers that come
    with names keep them, and stay `int64` without; floats are a regression target (`float32`); lists become
    the multi-hot `float32` rows of a multi-label task. A split whose labels are all hidden (-1 or empty)
    loses the column, with a warning. No code from the Hub is ever run.

    Args:
        source: A Hub id (`"stanfordnlp/sst2"`), a local .parquet, .csv, .tsv, .jsonl or .json file, or a
            folder of them named after the splits (`train.csv`, `dev.csv`, `test-00000-of-00002.parquet`).
        text: The text column. Found by its usual names where not given.
        text_pair: The second text. Found only where `text` is not given either.
        label: The label column. Found by its usual names where not given.
        config: The Hub data set's configuration (`"mrpc"` of `"nyu-mll/glue"`).
        split: Return this split only. All are read, so that label names do not depend on it.
        label_names: Names of the classes 0, 1, ….
        on_bad_row: `"drop"` logs and drops rows without text or label instead of refusing them.

    Returns:
        The splits by name: `train`, `validation`, `test`, or whatever else the files are called.

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
    """
    if on_bad_row not in ("raise", "drop"):
        raise ValueError(
            f"on_bad_row is {on_bad_row!r}, which is unknown. Pass on_bad_row='raise' or 'drop'."
        )
    raw, from_text = read(source, config)
    columns = list(dict.fromkeys(name for rows in raw.values() for name in rows.column_names))
    of_words = word_columns(raw, text=text, text_pair=text_pair, label=label)
    if of_words is not None:
        read_splits = read_words(raw, *of_words, names=label_names, on_bad_row=on_bad_row)
        return _chosen(source, read_splits, split)
    texts = text_columns(columns, text, text_pair)
    target = _label_column([name for name in columns if name not in texts], label)
    labels: dict[str, list[Any]] = {}
    feature = None
    if target is not None:
        labels, feature = read_labels(raw, column=target, names=label_names, from_text=from_text)
    found = {name: _build(name, raw[name], texts, labels.get(name), feature, on_bad_row) for name in raw}
    return _chosen(source, found, split)


def _chosen(source: Any, found: dict[str, Dataset], split: str | None) -> DatasetDict:
    if split is not None and split not in found:
        raise ValueError(
            f"{str(source)!r} has no split {split!r}, found {list(found)}. Pass one of them as split=."
        )
    return DatasetDict(found if split is None else {split: found[split]})


def _told(columns: list[str], name: str, argument: str) -> str:
    if name in columns:
        return name
    close = difflib.get_close_matches(name, columns, n=1)
    hint = f"Did you mean {argument}={close[0]!r}?" if close else f"Pass one of them as {argument}=."
    raise ValueError(f"There is no column {name!r}, found {columns}. {hint}")


def text_columns(columns: list[str], text: str | None, text_pair: str | None) -> list[str]:
    """The names of the text column and, where there is one, of the second text of a pair.

    Raises:
        ValueError: where there is none, or several could be it.
    """
    told = [_told(columns, name, arg) for name, arg in ((text, "text"), (text_pair, "text_pair")) if name]
    if text is not None:
        if len(set(told)) < len(told):
            raise ValueError(
                f"text and text_pair are both {text!r}, a pair needs two columns. Found {columns}."
            )
        return told
    candidates = [name for name in columns if name.lower() in _TEXT and name not in told]
    if not told:
        pairs = [(a, b) for a in candidates for b in columns if b.lower() in _PAIRS.get(a.lower(), ())]
        if len(pairs) == 1 and set(candidates) <= set(pairs[0]):
            return list(pairs[0])
        if pairs:
            candidates = list(
                dict.fromkeys(name for pair in pairs for name in pair) | dict.fromkeys(candidates)
            )
    if len(candidates) != 1:
        why = f"{candidates} could all be the text" if candidates else "none has a usual name for text"
        raise ValueError(
            f"Found the columns {columns}, of which {why}. Say which: text='...' (and text_pair='...')."
        )
    return candidates + told


def text_column(columns: list[str], text: str | None) -> str:
    """The name of the text column: the one told, or the only one with a usual name.

    Raises:
        ValueError: where there is none, or several.
    """
    return text_columns(columns, text, None)[0]


def _label_column(columns: list[str], label: str | None) -> str | None:
    if label is not None:
        return _told(columns, label, "label")
    candidates = [name for name in columns if name.lower() in _LABEL]
    if len(candidates) > 1:
        raise ValueError(
            f"Found the columns {columns}, of which {candidates} could all be the label. Pass label='...'."
        )
    if not candidates and columns:
        logger.warning(
            "none of the columns %s has a usual name for labels: loaded as unlabelled text", columns
        )
    return candidates[0] if candidates else None


def _build(
    split: str, rows: Dataset, texts: list[str], labels: list[Any] | None, feature: Any, on_bad_row: str
) -> Dataset:
    """One split with its final columns, without bad rows or with an error that names them."""
    missing = [name for name in texts if name not in rows.column_names]
    if missing:
        raise ValueError(
            f"Split {split!r} has no column {missing[0]!r}, found {rows.column_names}; other splits have it. "
            "Give the column one name in all files."
        )
    columns = ["text", "text_pair"][: len(texts)]
    rows = rows.select_columns(texts).rename_columns(dict(zip(texts, columns, strict=True)))
    bad: dict[str, list[int]] = {}
    for column in columns:
        rows, bad[column] = _as_strings(rows, column)
    if labels is not None:
        bad["label"] = [i for i, value in enumerate(labels) if value is None]
        blank = [0.0] * feature.length if isinstance(feature, List) else 0
        rows = rows.add_column(
            "label", [blank if value is None else value for value in labels], feature=feature
        )
        columns.append("label")
    return _without_bad_rows(split, rows.select_columns(columns), bad, on_bad_row)


def _as_strings(rows: Dataset, column: str) -> tuple[Dataset, list[int]]:
    """The split with `column` as strings, and the rows that have no readable text there."""
    dtype = getattr(rows.features[column], "dtype", None)
    if dtype not in ("string", "large_string"):
        values = rows[column][:]
        bad = [i for i, value in enumerate(values) if not isinstance(value, str)]
        texts = [value if isinstance(value, str) else "" for value in values]
        rows = rows.add_column("_readable", texts, feature=Value("string")).remove_columns(column)
        return rows.rename_column("_readable", column), bad
    stored = rows.with_format("arrow")[:].column(column)
    bad = pc.indices_nonzero(pc.is_null(stored)).to_pylist()
    try:
        stored.validate(full=True)
    except pa.ArrowInvalid:
        bad = [i for i, raw in enumerate(stored.cast(pa.large_binary()).to_pylist()) if not _is_utf8(raw)]
    return rows if dtype == "string" else rows.cast_column(column, Value("string")), bad


def _is_utf8(raw: bytes | None) -> bool:
    try:
        return raw is not None and raw.decode() is not None
    except UnicodeDecodeError:
        return False


def _without_bad_rows(split: str, rows: Dataset, bad: dict[str, list[int]], on_bad_row: str) -> Dataset:
    reasons = [
        f"{len(found):,} of {len(rows):,} rows of split {split!r} have no "
        f"{'value' if column == 'label' else 'readable string'} in {column!r} (first rows {found[:5]})"
        for column, found in bad.items()
        if found
    ]
    if not reasons:
        return rows
    reason = "; ".join(reasons)
    dropped = {i for found in bad.values() for i in found}
    if on_bad_row == "raise" or len(dropped) == len(rows):
        fix = 'Repair them, or leave them out with on_bad_row="drop"'
        if len(dropped) == len(rows):
            fix = "No other row is left: choose another column with text= or label=, or repair them"
        raise ValueError(
            f"{reason}: None, NaN, a number or bytes that are not UTF-8 cannot be learned from. {fix}."
        )
    logger.warning("%s: dropped", reason)
    return rows.select([i for i in range(len(rows)) if i not in dropped])
