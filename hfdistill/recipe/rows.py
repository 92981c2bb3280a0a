"""The rows of a run: which to learn from, with and without labels, and which to measure on."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from datasets import Dataset, List, concatenate_datasets

from hfdistill.data import Chain, augment, load
from hfdistill.data.unlabelled_texts import apart_from
from hfdistill.network.label_space import some
from hfdistill.recipe import schema
from hfdistill.recipe.binding import built
from hfdistill.recipe.schema import Splits

logger = logging.getLogger(__name__)

SMOKE_ROWS = 16

Task = Literal["single_label", "multi_label", "regression", "token"]


@dataclass(frozen=True)
class Rows:
    """What a run reads.

    Args:
        train: what the student learns from.
        labelled: those of them whose labels are used; all but for unlabelled rows.
        evaluation: what is measured on.
    """

    train: Dataset
    labelled: Dataset
    evaluation: Dataset

    @property
    def task(self) -> Task:
        """What the labels are: classes, several labels a row, real values, or a class a word."""
        if "tokens" in self.labelled.column_names:
            return "token"
        feature = self.labelled.features.get("label")
        if isinstance(feature, List):
            return "multi_label"
        return "regression" if str(getattr(feature, "dtype", "")).startswith("float") else "single_label"

    def class_names(self) -> list[str]:
        """Names for a new classifier; one for real values.

        Raises:
            ValueError: where the data has neither classes nor real values.
        """
        feature = self.labelled.features.get("label")
        if feature is None or self.task == "multi_label":
            raise ValueError(
                "A new classifier is made for classes or real values, and the data has neither. Fine-tune a "
                "model elsewhere, and name it: `teacher: {pretrained: {source: …}}`."
            )
        values = self.labelled["label"][:]
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

    def fingerprint(self) -> str:
        """sha256 over the training rows."""
        digest = hashlib.sha256()
        for batch in self.train.iter(batch_size=1000):
            digest.update(repr(batch).encode())
        return digest.hexdigest()

    def texts(self) -> Dataset:
        """The training rows without labels, as a corpus."""
        names = [name for name in ("text", "text_pair") if name in self.train.column_names]
        return self.train.select_columns(names) if names else self.train


def read_rows(
    loading: Mapping[str, Any], splits: Splits, *, seed: int, smoke: bool = False, searching: bool = False
) -> Rows:
    """Load what a page names.

    Args:
        loading: arguments of `load`.
        splits: which rows.
        seed: what is drawn by.
        smoke: a few rows of each.
        searching: leave the test split alone: without a validation split, measure on a share of the training
            rows.

    Raises:
        ValueError: for a split that is not there, or text that does not go with the labelled rows.
    """
    data = load(**loading)
    for name in [n for n in (splits.train, splits.evaluation) if n is not None and n not in data]:
        raise ValueError(f"The data has no split {name!r}, found {list(data)}. Name one under `data:`.")
    train = data[splits.train]
    if splits.evaluation == splits.train:
        raise ValueError(
            f"The split {splits.train!r} would be both learned from and measured on. Leave `evaluation:` "
            "out: a share of the rows is kept back where there is no other split."
        )
    usual = (n for n in ("validation", "test") if n in data and n != splits.train)
    other = splits.evaluation or next(usual, None)
    if searching and other == "test":
        other = "validation" if "validation" in data and splits.train != "validation" else None
    if other is None:
        parts = train.train_test_split(test_size=splits.holdout, seed=seed)
        train, evaluation = parts["train"], parts["test"]
        why = "nothing is tuned on test rows" if "test" in data else "the data has one split"
        logger.warning("%d training rows are kept back to measure on: %s.", len(evaluation), why)
    else:
        evaluation = data[other]
    limits = (SMOKE_ROWS, SMOKE_ROWS) if smoke else (splits.train_rows, splits.evaluation_rows)
    train, evaluation = drawn(train, limits[0], seed), drawn(evaluation, limits[1], seed)
    labelled = drawn(train, splits.labelled_rows, seed)
    if len(labelled) < len(train):
        text_only = train.shuffle(seed=seed).select(range(len(labelled), len(train))).remove_columns("label")
        train = concatenate_datasets([labelled, text_only])
    if splits.augment:
        steps = [built(schema.AUGMENTATIONS[name], told, {}) for name, told in splits.augment]
        train = augment(train, Chain(*steps), copies=splits.copies, seed=seed)
    joined = _with_text(train, splits.unlabelled, evaluation=evaluation, seed=seed, smoke=smoke)
    return Rows(joined, labelled, evaluation)


def _with_text(train: Dataset, told: Any, *, evaluation: Dataset, seed: int, smoke: bool) -> Dataset:
    """Training rows, and behind them those of text without labels, but for what is measured on."""
    if told is None:
        return train
    told = dict(schema.given("unlabelled", told))
    split, wanted = told.pop("split", None), told.pop("rows", None)
    data = load(**told)
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
    """As many rows, drawn by the seed; all of them in their order where that is no fewer."""
    if wanted is None or wanted >= len(rows):
        return rows
    return rows.shuffle(seed=seed).select(range(wanted))
