"""The rows of a run: which to learn from, with and without labels, and which to measure on."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset, IterableDataset, List, concatenate_datasets

from hfdistill.data import Chain, augment, load
from hfdistill.data.encodings import suffix_of
from hfdistill.data.label_columns import HIDDEN, as_split, multi_hot_names, with_class_names
from hfdistill.data.streams import held
from hfdistill.data.unlabelled_texts import apart_from, load_texts
from hfdistill.network.label_space import some
from hfdistill.recipe import schema
from hfdistill.recipe.binding import build
from hfdistill.recipe.schema import Splits

logger = logging.getLogger(__name__)

SMOKE_ROWS = 16
FIRST_ROWS = 10_000
"""Rows of a stream that are held in memory: to look at before training, and to shuffle among."""

HELD_OUT = "holdout"
"""The split that rows are said to be of which no file holds: they were kept back from the training rows."""

CHOOSING = "choosing"
FEWEST = 10
"""Rows that a student learns from or is chosen on, at least."""

Task = Literal["single_label", "multi_label", "regression", "token"]


@dataclass(frozen=True)
class Rows:
    """The rows that a run learns from and those that it measures on.

    Args:
        train: what the student learns from.
        labelled: those of them whose labels are used; all but for unlabelled rows.
        evaluation: what is measured on.
        is_drawn: whether `evaluation` is a part of a split, so that nobody else can tell which rows it has.
        origin: the rows of which these are a few; None where these are all.
        choosing: rows on which students are compared, which nothing learns from and which are not reported;
            None where nothing is chosen.
        stream: what the student learns from where it is streamed; `train` and `labelled` are then its first
            rows, for what looks at rows before. None where all are held.
    """

    train: Dataset
    labelled: Dataset
    evaluation: Dataset
    is_drawn: bool = False
    origin: Rows | None = None
    choosing: Dataset | None = None
    stream: IterableDataset | None = None

    @property
    def task(self) -> Task:
        """The kind of labels: one class a row, several, a real value, or a class for each word."""
        if "tokens" in self.labelled.column_names:
            return "token"
        feature = self.labelled.features.get("label")
        if isinstance(feature, List):
            return "multi_label"
        return "regression" if str(getattr(feature, "dtype", "")).startswith("float") else "single_label"

    def class_names(self) -> list[str]:
        """Return names for a new classifier, one for real values; refuse data without either."""
        if self.origin is not None:
            return self.origin.class_names()
        feature = self.labelled.features.get("label")
        if feature is None:
            raise ValueError(
                "A new classifier is made for classes or real values, and the data has neither. Fine-tune a "
                "model elsewhere, and name it: `teacher: {pretrained: {source: …}}`."
            )
        if self.task == "multi_label":
            return multi_hot_names(self.labelled) or [f"LABEL_{i}" for i in range(feature.length)]
        values = [label for label in self.labelled["label"][:] if label != HIDDEN]
        if self.task == "token":
            feature, values = feature.feature, [label for row in values for label in row]
        names = list(getattr(feature, "names", None) or [])
        if len(names or set(values)) == 1 and self.task != "regression":
            raise ValueError(
                f"The rows to train on have one class alone, {some(names or [str(values[0])])}: where every "
                "row has one label there is nothing to learn. Check the label column and the split."
            )
        if names:
            return names
        return ["value"] if self.task == "regression" else [f"LABEL_{i}" for i in range(max(values) + 1)]

    def few(self) -> Rows:
        """Return some of these rows, labelled and unlabelled: enough to see whether models read them."""
        half = SMOKE_ROWS // 2
        ends = sorted({*range(len(self.train))[:half], *range(len(self.train))[-half:]})
        labelled, evaluation = (
            rows.select(range(min(half, len(rows)))) for rows in (self.labelled, self.evaluation)
        )
        return replace(
            self,
            train=self.train.select(ends),
            labelled=labelled,
            evaluation=evaluation,
            origin=self,
            stream=None,
        )

    def fingerprint(self) -> str:
        """Return the sha256 over the training rows."""
        digest = hashlib.sha256()
        for batch in self.train.iter(batch_size=1000):
            digest.update(repr(batch).encode())
        return digest.hexdigest()

    def texts(self) -> Dataset | IterableDataset:
        """Return all training rows without labels, as a corpus."""
        names = [name for name in ("text", "text_pair") if name in self.train.column_names]
        rows = self.train if self.stream is None else self.stream
        return rows.select_columns(names) if names else rows


def read_rows(
    loading: Mapping[str, Any],
    splits: Splits,
    *,
    seed: int,
    smoke: bool = False,
    searching: bool = False,
    choosing: float | str | None = None,
) -> Rows:
    """Load the rows that a page names; `searching` leaves the test split alone, `smoke` takes a few rows.

    `choosing` keeps rows apart to choose a student on: a share of the labelled training rows, or a split.

    Raises:
        ValueError: for a split that is not there, too few rows, or text that does not go with the labelled
            rows.
    """
    if loading.get("streaming"):
        return _read_stream(loading, splits, seed=seed, smoke=smoke, searching=searching)
    data = load(**loading)
    _check_choosing(data, splits, choosing)
    _check_splits(data, splits)
    rows, text_only = _parted(data[splits.train])
    train, evaluation = _divided({**data, splits.train: rows}, splits, seed=seed, searching=searching)
    limits = (SMOKE_ROWS, SMOKE_ROWS) if smoke else (splits.train_rows, splits.evaluation_rows)
    is_drawn = str(evaluation.split) == HELD_OUT or (limits[1] or len(evaluation)) < len(evaluation)
    train, evaluation = drawn(train, limits[0], seed), drawn(evaluation, limits[1], seed)
    if text_only is not None:
        text_only = apart_from(text_only, evaluation)
        text_only = drawn(text_only, limits[0] and max(0, limits[0] - len(train)), seed)
    labelled = drawn(train, splits.labelled_rows, seed)
    if len(labelled) < len(train):
        rest = train.shuffle(seed=seed).select(range(len(labelled), len(train))).remove_columns("label")
        text_only = rest if text_only is None else concatenate_datasets([rest, text_only])
    chosen = None
    if choosing is not None:
        split = apart_from(data[choosing], evaluation) if isinstance(choosing, str) else choosing
        labelled, chosen = _choosing(apart_from(labelled, evaluation), split, seed)
        text_only = None if text_only is None else apart_from(apart_from(text_only, evaluation), chosen)
    train = labelled if text_only is None else concatenate_datasets([labelled, text_only])
    if splits.augment:
        steps = [build(schema.AUGMENTATIONS[name], arguments, {}) for name, arguments in splits.augment]
        train = augment(train, Chain(*steps), copies=splits.copies, seed=seed)
    joined = _with_text(train, splits.unlabelled, evaluation=evaluation, seed=seed, smoke=smoke)
    if chosen is not None and splits.unlabelled is not None:
        joined = apart_from(joined, chosen)
    return Rows(joined, labelled, evaluation, is_drawn, choosing=chosen)


def _parted(rows: Dataset) -> tuple[Dataset, Dataset | None]:
    """Return the rows with a label, and the texts of rows that -100 marks as unlabelled, or None."""
    feature = rows.features.get("label")
    several = isinstance(feature, List) and getattr(feature.feature, "dtype", None) == "float32"
    classes = getattr(feature, "dtype", None) == "int64"
    labels = rows["label"][:] if several or classes else []
    mark = [HIDDEN] * feature.length if several else HIDDEN
    bare = [row for row, label in enumerate(labels) if label == mark]
    if not bare or len(bare) == len(rows):
        return rows, None
    return rows.select(sorted({*range(len(rows))} - {*bare})), rows.select(bare).remove_columns("label")


def _check_splits(data: Mapping[str, Any], splits: Splits) -> None:
    """Refuse splits that do not exist, and one that is both learned from and measured on."""
    for key in ("train", "evaluation"):
        name = getattr(splits, key)
        if name is not None and name not in data:
            raise ValueError(
                f"The data has no split {name!r}, found {list(data)}. Name one (`{key}:` under `data:`)."
            )
    if splits.evaluation == splits.train:
        raise ValueError(
            f"The split {splits.train!r} would be both learned from and measured on. Leave `evaluation:` "
            "out: a share of the rows is kept back where there is no other split."
        )


def _evaluation_split(data: Mapping[str, Any], splits: Splits, *, searching: bool) -> str | None:
    """Return the split to measure on; None where a share of the training rows is kept back."""
    usual = (n for n in ("validation", "test") if n in data and n != splits.train)
    other = splits.evaluation or next(usual, None)
    if searching and other == "test":
        other = "validation" if "validation" in data and splits.train != "validation" else None
    return other


def _read_stream(
    loading: Mapping[str, Any], splits: Splits, *, seed: int, smoke: bool, searching: bool
) -> Rows:
    """Read the rows to measure on, and the first of those to learn from, which come as they are needed.

    Each pass takes the rows in another order, drawn among 10,000 at a time.
    """
    data: Any = load(**loading)
    _check_splits(data, splits)
    other = _evaluation_split(data, splits, searching=searching)
    if other is None:
        raise ValueError(
            f"The data has one split to read, {splits.train!r}, and a stream keeps no rows back. Give a file "
            "of rows to measure on, as in source: {train: a.parquet, validation: b.parquet}."
        )
    stream, evaluation = data[splits.train], _held(data[other], other)
    first = _held(stream.take(SMOKE_ROWS if smoke else FIRST_ROWS), splits.train)
    wanted = SMOKE_ROWS if smoke else splits.evaluation_rows
    is_drawn = (wanted or len(evaluation)) < len(evaluation)
    shuffled = None if smoke else stream.shuffle(seed=seed, buffer_size=FIRST_ROWS)
    return Rows(first, first, drawn(evaluation, wanted, seed), is_drawn, stream=shuffled)


def _held(stream: IterableDataset, split: str) -> Dataset:
    """Return the rows of a stream in memory."""
    rows = as_split(held(list(stream), stream.features), split)
    names = multi_hot_names(stream)
    return rows if names is None else with_class_names(rows, names)


def _check_choosing(data: Mapping[str, Dataset], splits: Splits, choosing: float | str | None) -> None:
    """Refuse a split to choose on that does not exist, or that is also learned from or reported."""
    if not isinstance(choosing, str):
        return
    reported = _evaluation_split(data, splits, searching=False)
    others = {splits.train: "learned from", reported: "reported"}
    left = [name for name in data if name not in others]
    if choosing not in data or choosing in others:
        why = f"is {others[choosing]}" if choosing in others else "is not there"
        choices = f"Choose from {left}, or type" if left else "Type"
        raise ValueError(
            f"choose is {choosing!r}, and that split {why}. {choices} a share of the training rows, such as "
            "choose: 0.2; `data: {evaluation: test}` names the split that is reported."
        )


def _choosing(rows: Dataset, choosing: float | Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """Return the rows to learn from, and those to choose on, whose texts are none of the first."""
    if isinstance(choosing, Dataset):
        rows = apart_from(rows, choosing)
        if min(len(rows), len(choosing)) < FEWEST:
            raise ValueError(
                f"{len(rows)} rows to learn from and {len(choosing)} to choose a student on are left, of "
                f"which no text is in both or reported, and each needs {FEWEST}. Type choose: 0.2."
            )
        return rows, choosing
    size = round(choosing * len(rows))
    if size < FEWEST or len(rows) - size < FEWEST:
        raise ValueError(
            f"choose: {choosing:g} keeps {size} of {len(rows)} training rows apart to choose a student on, "
            f"and each part needs {FEWEST} rows at least. Give more rows, or another share."
        )
    return _kept_apart(rows, size, CHOOSING, seed)


def _kept_apart(rows: Dataset, size: int, name: str, seed: int) -> tuple[Dataset, Dataset]:
    """Return the rows to learn from and, under a name of their own, `size` others with none of their texts.

    A Dataset takes its split's name where it is made, and a part of "train" would be measured as "train".
    """
    parts = rows.train_test_split(test_size=size, seed=seed)
    kept = as_split(parts["test"], name)
    return apart_from(parts["train"], kept), kept


def _divided(data: Any, splits: Splits, *, seed: int, searching: bool) -> tuple[Dataset, Dataset]:
    """Return the rows to learn from and those to measure on, of two splits or of one."""
    train = data[splits.train]
    other = _evaluation_split(data, splits, searching=searching)
    if other is not None:
        if len(data[other]) == 0:
            raise ValueError(f"The split {other!r} has no row to measure on. Name another: `evaluation: …`.")
        return train, data[other]
    size = round(splits.holdout * len(train))
    if not 0 < size < len(train):
        raise ValueError(
            f"holdout: {splits.holdout:g} keeps {size} of {len(train)} training rows back to measure on, and "
            "both parts need a row. Give more rows, a larger share, or a file of rows to measure on."
        )
    why = "nothing is tuned on test rows" if "test" in data else "the data has one split"
    logger.info("%d training rows are kept back to measure on: %s.", size, why)
    rest, kept = _kept_apart(train, size, HELD_OUT, seed)
    if len(rest) == 0:
        raise ValueError(
            f"All {len(train) - size} rows to learn from have the texts of the {size} that holdout: "
            f"{splits.holdout:g} keeps back to measure on. Give rows whose texts differ."
        )
    return rest, kept


def _with_text(train: Dataset, unlabelled: Any, *, evaluation: Dataset, seed: int, smoke: bool) -> Dataset:
    """Return training rows followed by the unlabelled texts, without those that are measured on."""
    if unlabelled is None:
        return train
    arguments = dict(schema.written_out("unlabelled", unlabelled))
    split, wanted = arguments.pop("split", None), arguments.pop("rows", None)
    file = Path(arguments["source"]).expanduser()
    is_text = file.is_file() and suffix_of(file) == ".txt"
    data = {"train": load_texts(file, encoding=arguments.get("encoding"))} if is_text else load(**arguments)
    split = split or ("train" if "train" in data or len(data) > 1 else next(iter(data)))
    if split not in data:
        raise ValueError(
            f"The unlabelled text has no split {split!r}, found {list(data)}. Name one: `split:`."
        )
    columns = [name for name in train.column_names if name != "label"]
    text = data[split]
    if missing := [name for name in columns if name not in text.column_names]:
        raise ValueError(
            f"The labelled rows have {columns}, and the unlabelled text {text.column_names}: {missing[0]!r} "
            "is missing. Name its columns under `unlabelled:`, as in {source: …, text: body}."
        )
    text = apart_from(text.select_columns(columns), evaluation)
    text = drawn(text, SMOKE_ROWS if smoke else wanted, seed)
    logger.info("%d rows of text without labels join the %d training rows.", len(text), len(train))
    return concatenate_datasets([train, text])


def drawn(rows: Dataset, wanted: int | None, seed: int) -> Dataset:
    """Return `wanted` rows drawn by the seed; all of them, in their order, where there are no more."""
    if wanted is None or wanted >= len(rows):
        return rows
    return rows.shuffle(seed=seed).select(range(wanted))
