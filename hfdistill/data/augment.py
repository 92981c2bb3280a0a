"""`augment` adds rows of rewritten text to a data set, for the teacher to label."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from datasets import Dataset, List, concatenate_datasets
from datasets.fingerprint import generate_random_fingerprint

from hfdistill.data.augmentations import Augmentation, as_augmentation
from hfdistill.data.data_kinds import refuse_stream
from hfdistill.network.task import LABELS

logger = logging.getLogger(__name__)

Method = Augmentation | Callable[[str], list[str]]

TEXTS = ("text", "text_pair")
_TRIES = 5
_PROBED = 32


def augment(
    dataset: Dataset,
    method: Method,
    *,
    copies: int = 1,
    seed: int = 0,
    columns: Sequence[str] | None = None,
    keep_labels: bool = False,
    num_proc: int | None = None,
) -> Dataset:
    """Add up to `copies` new rows of each row: a fixed transfer set, whose answers can be recorded.

    The new rows have no label (-100; NaN for a number; -100 for each of several labels), so that the teacher
    alone speaks there. Each is drawn from (seed, copy, row), whatever the batches and processes; copy k is
    what `FreshCopies` of the same seed shows in epoch k. New rows that are blank, a row of the data, or an
    earlier new one are left out, and their number is logged.

    When to use it: labels are scarce, or the teacher knows its training rows by heart and says little more on
    them than the labels. Keep the number of steps in mind: 20 copies at as many epochs are 21 times the time.
    Not for `tokens` with a label each, which would no longer stand beside their words.

    Args:
        dataset: with a `text` (and `text_pair`) column, not tokenised.
        method: `Mask`, `NGramSample`, `Delete`, `Swap`, `Synonyms`, `MaskedLM`, a `Chain` of them, an
            `Augmentation` of your own, or a function `str -> list[str]`, whose k-th answer is copy k.
        copies: new rows of each row at most.
        seed: of what is drawn.
        columns: which texts of a pair may change; each new row changes one of them or both, as likely as not.
            A text is written anew by itself: no word moves to the other. None is every text.
        keep_labels: the new rows take the label of their row. For gentle methods alone.
        num_proc: processes that write the new rows.

    Returns:
        The rows of `dataset`, then the new ones, with the same columns.

    Raises:
        TypeError: for data or a method of another kind.
        ValueError: for tokenised data, data without text, labels of a kind that cannot be missing, fewer
            than one copy, a function that draws at random, and a method that changes no row.

    Example:
        >>> from datasets import Dataset
        >>> from hfdistill import Delete, augment
        >>> rows = Dataset.from_dict({"text": ["a warm and funny film"], "label": [1]})
        >>> augment(rows, Delete(p=0.3), copies=2, seed=1)["label"][:]
        [1, -100, -100]
    """
    writer = Writer.of(dataset, method, seed=seed, columns=columns, keep_labels=keep_labels)
    if copies < 1:
        raise ValueError(f"augment makes 1 copy or more of each row, found copies={copies}.")
    own = writer.method.fingerprint()
    settings = f"{dataset._fingerprint} {own} {copies} {seed} {writer.changing} {keep_labels}"
    new = dataset.map(
        writer.copies,
        with_indices=True,
        batched=True,
        batch_size=256,
        fn_kwargs={"copies": range(copies)},
        features=dataset.features,
        num_proc=num_proc,
        load_from_cache_file=None if own is not None else False,
        new_fingerprint=generate_random_fingerprint() if own is None else _digest([settings]).hex()[:16],
        desc="augmentation",
    )
    indices = _first_ones(dataset, new, writer.texts)
    logger.info(
        "%s new rows of %s, %s of them kept", f"{len(new):,}", f"{len(dataset):,}", f"{len(indices):,}"
    )
    if not indices:
        raise ValueError(
            f"{method!r:.80} changed none of the {len(dataset):,} rows. Are they single words, or without a "
            "word that it replaces? Take another method, or a larger share of words."
        )
    return concatenate_datasets([dataset, new.select(indices)])


@dataclass(frozen=True)
class Writer:
    """Writes the rows of one data set anew; `blanks` says what stands for no label in each label column."""

    method: Augmentation
    seed: int
    texts: tuple[str, ...]
    changing: tuple[str, ...]
    blanks: dict[str, Any]
    keep_labels: bool

    @classmethod
    def of(
        cls, dataset: Any, method: Method, *, seed: int, columns: Sequence[str] | None, keep_labels: bool
    ) -> Writer:
        """Return a writer for this data; see `augment` for arguments and errors."""
        refuse_stream(dataset, "augment, or FreshCopies,", why="writes rows anew by their numbers")
        if not isinstance(dataset, Dataset):
            raise TypeError(
                f"Text is written anew row by row of a datasets.Dataset, found {type(dataset).__name__}. "
                "Give one split: load(...)['train']."
            )
        texts = tuple(name for name in TEXTS if name in dataset.column_names)
        if not texts or any(name.endswith("input_ids") for name in dataset.column_names):
            raise ValueError(
                f"Text is written anew before it is tokenised, found the columns {dataset.column_names}. "
                "Give data with the column text (and text_pair), as load(...) does."
            )
        changing = texts if columns is None else tuple(columns)
        if not changing or not set(changing) <= set(texts):
            raise ValueError(f"columns={columns!r} may name {', '.join(texts)}, the columns of text, alone.")
        made = as_augmentation(method)
        _check_repeats(made, dataset[0][changing[0]] if len(dataset) else "")
        return cls(made, seed, texts, changing, _blanks(dataset, needed=not keep_labels), keep_labels)

    def copies(self, batch: dict[str, list[Any]], rows: list[int], copies: range) -> dict[str, list[Any]]:
        """Return new rows for a batch whose rows have these numbers; none for one that would not change."""
        prepared = self._prepare(batch)
        made: dict[str, list[Any]] = {name: [] for name in batch}
        for i, row in enumerate(rows):
            for copy in copies:
                new = self._draw({name: batch[name][i] for name in self.texts}, prepared, i, row, copy)
                if new is None:
                    continue
                for name in batch:
                    made[name].append(self._value(name, batch[name][i], new))
        return made

    def one(self, batch: dict[str, list[Any]], rows: list[int], copy: int) -> dict[str, list[Any]]:
        """Return one new row of each; where it cannot be changed, the old one without its label."""
        prepared = self._prepare(batch)
        made = {name: list(values) for name, values in batch.items()}
        for i, row in enumerate(rows):
            texts = {name: batch[name][i] for name in self.texts}
            new = self._draw(texts, prepared, i, row, copy) or texts
            for name in batch:
                made[name][i] = self._value(name, batch[name][i], new)
        return made

    def sample(self, dataset: Dataset) -> str:
        """Return a digest of what is written for the first rows; it tells a method without a fingerprint."""
        rows = range(min(_PROBED, len(dataset)))
        made = self.one(dataset[rows], list(rows), 0)
        return _digest([text for name in self.texts for text in made[name]]).hex()[:16]

    def _value(self, name: str, old: Any, new: dict[str, str]) -> Any:
        """Return the value of a column in a new row."""
        blank = name in self.blanks and (old is None or not self.keep_labels)
        return self.blanks[name] if blank else new.get(name, old)

    def _prepare(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for name in self.changing:
            bad = next((i for i, text in enumerate(batch[name]) if not isinstance(text, str)), None)
            if bad is not None:
                raise ValueError(
                    f"Column {name!r} holds {batch[name][bad]!r:.60}, which is not a text. Remove such rows: "
                    'load(..., on_bad_row="drop"), or dataset.filter(...).'
                )
        return {name: self.method.prepare(batch[name]) for name in self.changing}

    def _draw(
        self, texts: dict[str, str], prepared: dict[str, list[Any]], i: int, row: int, copy: int
    ) -> dict[str, str] | None:
        """Return the texts of one new row, drawn from (seed, copy, row); None where they stay as they are."""
        random = Random(f"{self.seed} {copy} {row}")  # noqa: S311 - a draw, no secret
        for _ in range(_TRIES):
            chosen = self.changing
            if len(chosen) == 2:  # one, the other or both: Tang et al. 2019
                chosen = random.choice([chosen[:1], chosen[1:], chosen])
            new = dict(texts)
            for name in chosen:
                written = self.method.draw(prepared[name][i], random=random, copy=copy)
                new[name] = written if written.strip() else texts[name]
            if new != texts:
                return new
        return None


def _check_repeats(method: Augmentation, text: str) -> None:
    """Refuse a function that answers the same text in two ways: a resumed run would read other rows."""
    for step in getattr(method, "steps", ()):
        _check_repeats(step, text)
    function = getattr(method, "function", None)
    if function is not None and text and list(function(text)) != list(function(text)):
        raise ValueError(
            f"{function!r:.80} answers the same text in two ways, so rows could not be made again. Draw from "
            "a generator that is seeded by the text, or subclass hfdistill.data.Augmentation, whose draw is "
            "given one."
        )


def _blanks(dataset: Dataset, *, needed: bool) -> dict[str, Any]:
    """Return what stands for no label in each label column."""
    blanks: dict[str, Any] = {}
    for name in LABELS:
        feature = dataset.features.get(name)
        if feature is None:
            continue
        inner = feature.feature if isinstance(feature, List) else feature
        dtype = getattr(inner, "dtype", "")
        if needed and not dtype.startswith(("int", "float")):
            raise ValueError(
                f"Column {name!r} holds {dtype or inner}, in which nothing can stand for no "
                f"label. Type dataset.cast_column({name!r}, Value('int64')), class_encode_column({name!r}) "
                "for names, or keep_labels=True."
            )
        if isinstance(feature, List):
            first = next((row for row in dataset[name] if row is not None), ())
            blanks[name] = [-100.0 if dtype.startswith("float") else -100] * len(first)
        else:
            blanks[name] = math.nan if dtype.startswith("float") else -100
    return blanks


def _digest(texts: Sequence[str]) -> bytes:
    return hashlib.blake2b("\0".join(texts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _first_ones(old: Dataset, new: Dataset, texts: Sequence[str]) -> list[int]:
    """Return the numbers of new rows that equal neither an old row nor an earlier new one."""

    def digests(rows: Dataset) -> Iterator[bytes]:
        for batch in rows.select_columns(list(texts)).iter(1000):
            for row in zip(*(batch[name] for name in texts), strict=True):
                yield _digest([str(text) for text in row])

    known = set(digests(old))
    first: dict[bytes, int] = {}
    for number, digest in enumerate(digests(new)):
        if digest not in known:
            first.setdefault(digest, number)
    return list(first.values())
