"""`TextTeacher` makes a teacher of any function of texts: asked once a text, checked, recorded."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import constants
from numpy.typing import NDArray
from torch import Tensor
from transformers import PretrainedConfig

from hfdistill.data.align import align_labels
from hfdistill.data.in_memory import as_rows
from hfdistill.files.plain_data import sha256_of
from hfdistill.network.label_space import short
from hfdistill.network.trace import Batch, Tap, Trace
from hfdistill.teachers.base import PREFIX, Teacher
from hfdistill.teachers.cache.contents import FACTS, CacheError, write_facts
from hfdistill.teachers.cache.keys import chosen, rows_of
from hfdistill.teachers.cache.recording import record_missing
from hfdistill.teachers.cache.shard import joined
from hfdistill.teachers.cache.teacher import CHECKED_ROWS, CachedTeacher
from hfdistill.teachers.text.calibration import Calibration, fit_calibration, label_ids
from hfdistill.teachers.text.codec import TextCodec, Texts, columns_of, decode_rows, need_column, texts_of
from hfdistill.teachers.text.identity import identity_of_function
from hfdistill.teachers.text.labelled_rows import as_names, read_labelled
from hfdistill.teachers.text.values import AnswerError, AnswerReader, Kind

BATCH_SIZE = 32
_PATIENCE = 600.0  # seconds that a process waits for the first call of another
UNSTEADY = 0.05
"""Answers do not repeat where a probability moves by more than this between two calls."""
Answer = Callable[[list[Any]], Any]


def default_cache() -> Path:
    """Return where answers are recorded if no folder is named: `hfdistill/answers` under HF_HOME."""
    return Path(constants.HF_HOME, "hfdistill", "answers")


def class_config(classes: Sequence[str], *, multi_label: bool = False) -> PretrainedConfig:
    """Return a config that names the classes and the task, for a teacher without a model of its own."""
    kind = "multi_label_classification" if multi_label else "single_label_classification"
    names = dict(enumerate(classes))
    return PretrainedConfig(id2label=names, label2id={n: i for i, n in names.items()}, problem_type=kind)


class AskedFunction(Teacher):
    """The function itself, live: decodes the texts of a batch, asks, and checks what comes back."""

    same_tokens = False

    def __init__(self, answer: Answer, reader: AnswerReader, *, identity: str) -> None:
        super().__init__()
        self.answer, self.reader, self.identity = answer, reader, identity
        self.tokenizer, self.prefix = TextCodec(), PREFIX
        self.config = class_config(reader.classes, multi_label=reader.multi_label)

    def trace(self, batch: Batch, *, taps: Collection[Tap] = frozenset()) -> Trace:
        """Return the answers to a batch, asked in one call."""
        own = self.select_inputs(batch)
        texts = decode_rows(own["input_ids"], own.get("attention_mask"))
        with torch.no_grad():
            answers = self.answer(texts)
        answers = list(answers) if isinstance(answers, Iterator) else answers
        if not hasattr(answers, "__len__"):
            raise AnswerError(
                f"The function was given {len(texts)} texts and returned {short(answers)}. Return one answer "
                "for each, in a list or an array."
            )
        size = answers.shape[0] if hasattr(answers, "shape") else None
        if isinstance(answers, tuple) and len(answers) == 2 and len(texts) != 2:
            size = len(answers[0])
        size = len(answers) if size is None else size
        if size != len(texts):
            raise AnswerError(
                f"The function was given {len(texts)} texts and returned {size} answers. Return one for "
                "each, in their order."
            )
        logits = self.reader(answers, where=lambda row: f"The text {texts[row]!r:.80}")
        return Trace(logits.to(own["input_ids"].device), own.get("attention_mask"))

    def inputs(self) -> frozenset[str]:
        """Return its columns in a batch."""
        return frozenset(self.prefix + name for name in ("input_ids", "attention_mask"))

    def fingerprint(self) -> str:
        """Return the sha256 over the function's identity, the classes and how its answers are read."""
        order = [] if self.reader.order is None else [self.reader.order]
        return sha256_of([self.identity, self.reader.classes, self.reader.multi_label, *order])


class TextAnswers(CachedTeacher):
    """Answers to texts, found by the text: what `TextTeacher` and answers in a file have in common.

    A subclass sets `reader`, `_calibration` and `_calibrate`, and everything that a `CachedTeacher` has.
    """

    reader: AnswerReader
    label: str
    """What tables and cards call it."""
    _calibration: Calibration
    _calibrate: Any

    def _calibrated_by(self, temperature: float, prior: Any, calibrate: Any) -> None:
        """Set how logits are calibrated, once the arguments are known to fit together."""
        if calibrate is not None and (prior is not None or temperature != 1):
            raise ValueError("calibrate= fits temperature and prior. Leave temperature= and prior= out.")
        self._calibrate, self._calibration = calibrate, Calibration(temperature)
        if prior is not None:
            self._calibration = Calibration.of_prior(prior, self.classes, temperature=temperature)

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the columns."""
        return list(self.reader.classes)

    @property
    def calibration(self) -> Calibration:
        """The calibration of the recorded logits; fitted when first read, where `calibrate` was given."""
        if self._calibrate is not None:
            rows, self._calibrate = self._calibrate, None  # it is fitted on the logits as they are recorded
            try:
                self._calibration = self._fitted(rows)
            except BaseException:
                self._calibrate = rows
                raise
        return self._calibration

    def _fitted(self, rows: Any) -> Calibration:
        texts, labels = _labelled(rows, self.classes)
        multi_label = self.reader.multi_label
        known = label_ids(labels, self.classes, multi_label=multi_label)
        return fit_calibration(self.logits(texts), known, multi_label=multi_label)

    # ---- asked directly ----

    def logits(self, texts: Texts) -> Tensor:
        """Return calibrated logits (N, C) of texts or pairs, asked about where they are not recorded."""
        rows = texts_of(texts)
        if not rows:
            return torch.zeros(0, len(self.classes))
        record_missing(self, rows, self._collate, progress="log")
        parts = [rows[start : start + 1000] for start in range(0, len(rows), 1000)]
        return torch.cat([self.trace(self._collate(part)).logits for part in parts])

    def probabilities(self, texts: Texts) -> Tensor:
        """Return the calibrated answers as probabilities (N, C)."""
        logits = self.logits(texts)
        return logits.sigmoid() if self.reader.multi_label else logits.softmax(-1)

    def _collate(self, rows: Sequence[Any]) -> dict[str, Any]:
        batch = self.tokenizer(*columns_of(rows), padding=True, return_tensors="pt")
        return {self.parts()[0].prefix + name: value for name, value in batch.items()}

    # ---- as a teacher ----

    def trace(self, batch: Batch, *, taps: Collection[Tap] = frozenset()) -> Trace:
        """Return the calibrated answers; see `Teacher.trace`."""
        trace = super().trace(batch, taps=taps)
        return replace(trace, logits=self.calibration(trace.logits))

    def check_taps(self, taps: Collection[Tap]) -> None:
        """Refuse all taps."""
        if taps:
            raise ValueError(
                f"{type(self).__name__} answers texts, and has no layers to look into. Use terms on logits "
                "alone, such as KD()."
            )

    def fingerprint(self) -> str:
        """Return the sha256 over the function, the classes and the calibration."""
        return sha256_of([str(self._print), self.calibration.temperature, self.calibration.shift])


class TextTeacher(TextAnswers):
    """A teacher made of any function of texts: an API, a pipeline, a model of another library, a rule.

    The function is given a list of texts (or of pairs of texts) and returns an answer for each:
    probabilities or logits (N, C), a mapping from class to probability, or a label with a confidence; see
    `AnswerReader`. All answers are checked for shape, range, sums and NaN, and a few are asked for a second
    time to see whether they repeat. Every answer is recorded under its text as soon as it is there: a run
    that is killed, or a function that fails, loses nothing that was answered, and no text is asked about
    twice. How many calls it will take is told before the first.

    Usable wherever a teacher is: `DistillationTrainer(teacher=...)`, `Ensemble`, `measure`, a page. Data
    needs its text (column `text`, and `text_pair` for pairs). It has no layers to learn from: use terms on
    logits.

    Args:
        answer: from a list of texts to their answers. An object may say of itself `classes`, `batch_size` and
            `fingerprint()`.
        classes: their names, in the order of the columns; None where `answer.classes` says it, or the
            scikit-learn classifier whose method it is. The columns of the latter, and those of a DataFrame,
            go by name.
        kind: "probabilities", "logits", "log_probabilities" or "labels"; None guesses from the first answers.
        multi_label: whether classes are decided one by one.
        batch_size: texts of a call; None for `answer.batch_size`, else 32.
        cache: folder of the recorded answers; None for `default_cache()`.
        name: tells this function from others, in place of a hash of its code and what it reads. Change it
            when the function changes.
        limit: texts that may be asked about at most; more is an error before the first call.
        repeatable: False accepts a function that answers differently each time, such as one that samples:
            its first answer stands.
        temperature: divides the logits; see `Calibration`.
        prior: share of each class, by name or in their order, for a teacher that takes all for equally
            frequent.
        calibrate: a few labelled rows, in any form that the examples of `few_shot` have, on which a
            temperature and a class prior are fitted when the teacher is first asked. See `fit_calibration`.

    Raises:
        ValueError: at construction, for unfit arguments or a function that cannot be told from another one
            (give `name=`).
        AnswerError: at the first answer that no student could learn from, naming the text.
        CacheError: where answers do not repeat, or more than `limit` texts would be asked about.

    Example:
        >>> def answer(texts):
        ...     return [("long" if len(text) > 8 else "short", 0.9) for text in texts]
        >>> teacher = TextTeacher(answer, ["short", "long"], cache=folder)  # doctest: +SKIP
        >>> teacher.probabilities(["a text", "a longer text"])  # doctest: +SKIP
        tensor([[0.9000, 0.1000],
                [0.1000, 0.9000]])
    """

    def __init__(
        self,
        answer: Answer,
        classes: Sequence[str] | None = None,
        *,
        kind: Kind | None = None,
        multi_label: bool = False,
        batch_size: int | None = None,
        cache: str | Path | None = None,
        name: str | None = None,
        limit: int | None = None,
        repeatable: bool = True,
        temperature: float = 1.0,
        prior: Mapping[str, float] | Sequence[float] | None = None,
        calibrate: Any = None,
    ) -> None:
        columns = _columns_of(answer)
        classes = getattr(answer, "classes", columns or None) if classes is None else classes
        classes = _named_classes(answer, classes)
        reader = AnswerReader(classes, kind=kind, multi_label=multi_label, columns=columns)
        identity = identity_of_function(answer) if name is None else f"named {name}"
        asked = AskedFunction(answer, reader, identity=identity)
        super().__init__(Path(cache) if cache is not None else default_cache(), teacher=asked)
        self.asked, self.named, self.tokenizer, self.reader = asked, name, asked.tokenizer, reader
        self.label = name or str(
            getattr(answer, "label", None) or getattr(answer, "__name__", type(answer).__name__)
        )
        own_size = getattr(answer, "batch_size", None) or BATCH_SIZE
        self.batch_size = own_size if batch_size is None else batch_size
        self.batch_rows = self.batch_size
        self.limit, self.repeatable, self._calls = limit, repeatable, 0
        for label, number in (("batch_size", self.batch_size), ("limit", limit)):
            if number is not None and (not isinstance(number, int) or number < 1):
                raise ValueError(f"{label} is a number of texts from 1 up, found {number!r}.")
        self._calibrated_by(temperature, prior, calibrate)

    # ---- being asked and recorded ----

    def missing(self, keys: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return which texts no teacher like this one has recorded; (B, 16) → (B,)."""
        if self.store is None and (self.folder / FACTS).exists():
            self._open()
        return super().missing(keys)

    def drop_live_teacher(self) -> None:
        """Write the answers to disk; the function stays at hand for new texts."""
        if self.store is not None:
            self.store.flush()

    def before_asking(self, rows: int, *, of: int) -> str:
        """Return what it will cost, and refuse more texts than `limit`."""
        calls, new = math.ceil(rows / self.batch_size), self.store is None and self.repeatable
        twice = f", {min(rows, CHECKED_ROWS)} of them twice to see whether answers repeat" if new else ""
        cost = (
            f"{rows:,} of {of:,} texts are to be asked about, in {calls:,} calls of up to "
            f"{self.batch_size}{twice}; answers are kept in {self.folder}"
        )
        if self.limit is not None and self._calls + rows > self.limit:
            raise CacheError(
                f"{cost}. limit={self.limit:,} allows {max(0, self.limit - self._calls):,} more: raise it, "
                "or give fewer rows: dataset.select(range(...))."
            )
        return cost

    def answers(self, batch: Batch, *, names: Any = None) -> dict[str, Tensor]:
        """Return the answers to a batch, in calls of `batch_size` texts. A failing call loses no other."""
        size = len(self.rows(batch).keys)
        if size <= self.batch_size:
            self._count(size)
            return super().answers(batch, names=names)
        parts: list[dict[str, Tensor]] = []
        try:
            for start in range(0, size, self.batch_size):
                places = np.arange(start, min(start + self.batch_size, size))
                own = None if names is None else np.asarray(names)[places]
                parts.append(self.answers(chosen(batch, places), names=own))
        except BaseException:
            if parts and self.store is not None:
                self.store.hold(joined(parts))
                self.store.flush()
            raise
        return joined(parts)

    def _count(self, rows: int) -> None:
        self._calls += rows
        if self.limit is not None and self._calls > self.limit + (CHECKED_ROWS if self.repeatable else 0):
            raise CacheError(
                f"limit={self.limit:,} texts were asked about, and there are more. Raise limit=, or record "
                "the rows first: teacher.logits(texts)."
            )

    def check_deterministic(self, batch: Batch) -> None:
        """Ask about a few texts twice, once per recording, and write the function's facts.

        One that answers differently the second time, or changes as it is asked, is refused.
        """
        if self._is_checked:
            return
        self._wait_for_first()
        if self.store is not None and len(self.store):
            self._is_checked = True
            return
        first = chosen(batch, range(min(CHECKED_ROWS, self.batch_size, len(self.rows(batch).keys))))
        one = self.answers(first)
        if self.repeatable:
            self._calls -= len(one["keys"])  # they are not new texts
            self._compare(one["logits"], self.answers(first)["logits"])
        if self.named is None and identity_of_function(self.asked.answer) != self.asked.identity:
            raise CacheError(
                "The function's own state changed while it was asked (a counter, a cache, a growing list), "
                "so its answers would not be found the next time. Give the teacher a name, and change it "
                "when the function changes: name='intents, prompt 3'."
            )
        self._is_checked = True
        if self.store is None:
            write_facts(self.folder, self._new_facts(first, one))
            self._open()
        assert self.store is not None  # noqa: S101 - just opened
        self.store.hold(one)
        self.store.flush()

    def _wait_for_first(self) -> None:
        """Let the first of several processes ask first: the others then find what is recorded and where."""
        if not int(os.environ.get("RANK", 0)):
            return
        until = time.monotonic() + _PATIENCE
        while not len(self.store or ()) and time.monotonic() < until:
            time.sleep(0.1)
            if self.store is not None:
                self.store.refresh()
            elif (self.folder / FACTS).exists():
                self._open()

    def _compare(self, one: Tensor, two: Tensor) -> None:
        multi_label = self.reader.multi_label
        first, second = (z.sigmoid() if multi_label else z.softmax(-1) for z in (one, two))
        moved = float((first - second).abs().max())
        other = int((first.argmax(-1) != second.argmax(-1)).sum())
        if moved > UNSTEADY or (other and moved > 1e-3):
            raise CacheError(
                f"Asked twice about the same {len(one)} texts, the function moved a probability by "
                f"{moved:.3f}, and chose another class for {other}. Turn off what is random (dropout: "
                "model.eval(); sampling: temperature 0), or type repeatable=False to take its first answer."
            )


def keys_of(texts: Texts) -> NDArray[np.uint8]:
    """Return the key under which each text, or pair, is recorded: (N, 16)."""
    return rows_of(TextCodec()(*columns_of(texts), padding=True, return_tensors="pt")).keys


def _named_classes(answer: Any, classes: Sequence[str] | None) -> Sequence[str]:
    """Return the classes, or refuse what is no function, and one whose classes nobody names."""
    if not callable(answer) or classes is None:
        is_classifier = not callable(answer) and hasattr(answer, "predict_proba")
        raise ValueError(
            f"TextTeacher needs a function from a list of texts to answers, and classes=; found "
            f"{type(answer).__name__} and classes={classes!r}. Type "
            + ("TextTeacher(it.predict_proba)." if is_classifier else "TextTeacher(answer, ['no', 'yes']).")
        )
    return classes


def _columns_of(answer: Any) -> list[str]:
    """Return the classes in the order of an array's columns, where a scikit-learn classifier is asked.

    Those that are numbers name nothing.
    """
    columns = getattr(getattr(answer, "__self__", None), "classes_", ())
    listed = list(columns.tolist() if hasattr(columns, "tolist") else columns)
    return listed if all(isinstance(name, str) for name in listed) else []


def _labelled(rows: Any, classes: Sequence[str]) -> tuple[list[Any], list[Any]]:
    """Return texts and labels of rows of any form, whose classes go by name; see `read_labelled`."""
    rows = as_rows(rows)
    if hasattr(rows, "column_names"):
        need_column(rows, "label", "calibrate=")
        rows = align_labels(rows, classes, split="calibrate=")
    texts, labels, names = read_labelled(rows, "calibrate=")
    return texts, as_names(labels, names)
