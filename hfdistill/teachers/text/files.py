"""Answers in a file: probabilities, log-probabilities of an API, votes, labels with a confidence."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hfdistill.data.in_memory import as_rows
from hfdistill.data.table_files import FileOptions
from hfdistill.files.plain_data import as_path, printable, write_atomically
from hfdistill.network.label_space import short
from hfdistill.network.trace import Batch
from hfdistill.teachers.base import PREFIX, Teacher
from hfdistill.teachers.cache.contents import Contents
from hfdistill.teachers.cache.keys import Ints, Rows, rows_of
from hfdistill.teachers.cache.teacher import OWN_COLUMNS
from hfdistill.teachers.text.codec import TextCodec, Texts, decode_rows, texts_of
from hfdistill.teachers.text.file_rows import AnswerFile, read_answer_file
from hfdistill.teachers.text.teacher import TextAnswers, class_config, keys_of
from hfdistill.teachers.text.values import AnswerError, AnswerReader, Kind

logger = logging.getLogger(__name__)


class FileTeacher(TextAnswers):
    """A teacher whose answers stand in a file, found by their texts; see `answers_from`."""

    def __init__(self, file: AnswerFile, reader: AnswerReader, logits: Tensor) -> None:
        Teacher.__init__(self)
        self.teacher, self._is_checked, self.contents = None, True, Contents()
        self.tokenizer, self.prefix, self.same_tokens = TextCodec(), PREFIX, False
        self.reader, self.folder, self._lacking = reader, file.path, ""
        self.label = file.path.name
        self.config = class_config(reader.classes, multi_label=reader.multi_label)
        keys = keys_of(file.texts)
        self.store: Any = _Memory(keys, logits)
        digest = hashlib.sha256(json.dumps([reader.classes, reader.multi_label]).encode())
        for row in np.argsort(keys.view("V16").ravel()):
            digest.update(keys[row].tobytes() + logits[row].numpy().tobytes())
        self._print = digest.hexdigest()
        self._calibrated_by(1.0, None, None)

    def _calibrated_by(self, temperature: float, prior: Any, calibrate: Any) -> None:
        """Calibrate like other teachers of texts, but only on rows that have an answer."""
        calibrate = as_rows(calibrate)
        if hasattr(calibrate, "column_names"):
            calibrate = self.answered(calibrate)
        super()._calibrated_by(temperature, prior, calibrate)

    def rows(self, batch: Batch) -> Rows:
        """Return the rows of a batch; the first text without an answer is remembered for the message."""
        rows = super().rows(batch)
        missing = np.flatnonzero(self.store.find(rows.keys) < 0)
        if len(missing) and not self._lacking:
            own = self.select_inputs(batch)
            self._lacking = short(decode_rows(own["input_ids"], own.get("attention_mask"))[missing[0]])
        return rows

    def missing_message(self, rows: int, *, of: int) -> str:
        """Return which text has no answer, and what to type."""
        text, self._lacking = self._lacking, ""
        return (
            f"{rows:,} of {of:,} rows have no answer in {self.folder.name}, such as {text}. Add answers, "
            "or learn from the others alone: dataset = teacher.answered(dataset)."
        )

    def answerable(self, rows: Any) -> Any:
        """Return the rows of tokenised data that have an answer."""
        names = ("input_ids", "attention_mask")
        columns = {name: rows[self.prefix + name][:] for name in names}
        keys = rows_of(self.tokenizer.pad(columns, return_tensors="pt")).keys
        return rows.select(np.flatnonzero(self.store.find(keys) >= 0))

    def answers_all(self, dataset: Any) -> bool:
        """Whether every row of a dataset with `text` has an answer."""
        return not self._unanswered(texts_of(dataset)).any()

    def _unanswered(self, texts: Sequence[Any]) -> NDArray[np.bool_]:
        """Return which texts have no answer, (N,)."""
        return self.store.find(keys_of(texts)) < 0 if len(texts) else np.zeros(0, bool)

    def answered(self, dataset: Any) -> Any:
        """Return the rows of a dataset that have an answer; how many have none is logged."""
        dataset = as_rows(dataset)
        texts = texts_of(dataset)
        missing = self._unanswered(texts)
        if not missing.any():
            return dataset
        first = short(texts[int(np.flatnonzero(missing)[0])])
        if missing.all():
            raise AnswerError(
                f"None of the {len(texts):,} rows has an answer in {self.folder.name}; the first is {first}. "
                "Texts are found as they stand, to the last space: are these the same ones?"
            )
        logger.warning(
            "%d of %d rows have no answer in %s and are left out; the first is %s",
            *(int(missing.sum()), len(texts), self.folder.name, first),
        )
        return dataset.select(np.flatnonzero(~missing))


class _Memory:
    """Answers held in memory, asked as a `Store` is."""

    facts: dict[str, Any]

    def __init__(self, keys: NDArray[np.uint8], logits: Tensor) -> None:
        self._rows = {key.tobytes(): row for row, key in enumerate(keys)}
        self._logits = logits
        self.facts = {"accepts": list(OWN_COLUMNS[:2])}

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, keys: NDArray[np.uint8]) -> Ints:
        return np.array([self._rows.get(key.tobytes(), -1) for key in keys], np.int64)

    def logits(self, places: Ints) -> Tensor:
        return self._logits[torch.from_numpy(places)]

    def refresh(self) -> None:
        """Do nothing: a file that was read does not grow."""

    def flush(self) -> None:
        """Do nothing: no answer waits to be written."""


def answers_from(
    file: str | Path,
    classes: Sequence[str] | None = None,
    *,
    text: str | None = None,
    text_pair: str | None = None,
    answer: str | Sequence[str] | None = None,
    confidence: str | None = None,
    kind: Kind | None = None,
    multi_label: bool = False,
    temperature: float = 1.0,
    prior: Mapping[str, float] | Sequence[float] | None = None,
    calibrate: Any = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    quotes: bool | None = None,
) -> FileTeacher:
    """A teacher out of a file of answers, of any kind that `load` reads, one row a text.

    The answers are read from the column, or columns, whose names say what they are:

    - `probabilities` (`probs`, `scores`), `logits`, `log_probabilities` (`logprobs`, `top_logprobs`): a list
      in the order of `classes`, a mapping from class to number, or, as APIs give them, a list of
      {"token": …, "logprob": …}, in which tokens that are not classes are passed over;
    - one column of numbers for each class, under its name, or as `predict` writes them (`probability_joy`);
    - `votes` (`annotations`): a list of classes, counted into probabilities; several columns of votes are
      named by `answer=["annotator_1", "annotator_2"]`;
    - `label` (`answer`, `prediction`) with `confidence`; without one the label is taken for certain.

    Texts are found as they stand, to the last space; class names whatever their case.

    Args:
        file: of the answers.
        classes: their names; None takes those that the answers name, sorted.
        text: the column of the text; found by its usual names.
        text_pair: the column of the second text of a pair.
        answer: the column of the answers, or columns: of votes, or one for each class.
        confidence: the column of the confidence of a label.
        kind: what the numbers are, where the name of the column does not say it.
        multi_label: whether classes are decided one by one.
        temperature: divides the logits; see `Calibration`.
        prior: share of each class; see `Calibration.of_prior`.
        calibrate: a few labelled rows on which both are fitted; see `fit_calibration`.
        encoding: of text files, as in `load`.
        delimiter: of csv files, as in `load`.
        quotes: of csv files, as in `load`.

    Returns:
        The teacher. `teacher.answered(dataset)` are the rows that it can teach.

    Raises:
        AnswerError: for a file in which an answer, a text or a class does not fit; it names the row, the
            value and what to change.
        FileNotFoundError: where there is no such file.

    Example:
        >>> teacher = answers_from("answers.jsonl", ["refund", "card lost"])  # doctest: +SKIP
        >>> DistillationTrainer(student, args, teacher=teacher, objective=KD(),
        ...                     train_dataset=teacher.answered(data))  # doctest: +SKIP
    """
    columns = {"text": text, "text_pair": text_pair, "confidence": confidence}
    path = as_path(
        file,
        "answers_from reads a file: its first argument",
        instead="Write one: frame.to_json('answers.jsonl', orient='records', lines=True).",
    )
    options = FileOptions(encoding, delimiter, quotes)
    read = read_answer_file(path, columns, options, answer=answer, kind=kind, classes=classes)
    reader = AnswerReader(read.classes, kind=read.kind, multi_label=multi_label)
    logits = reader(read.answers, where=read.where)
    distinct = _once(read, logits)
    teacher = FileTeacher(read.select(distinct), reader, logits[distinct])
    teacher._calibrated_by(temperature, prior, calibrate)
    return teacher


def _once(read: AnswerFile, logits: Tensor) -> list[int]:
    """Return one row for each text; equal answers may stand twice."""
    rows: dict[Any, int] = {}
    for row, text in enumerate(read.texts):
        first = rows.setdefault(text, row)
        if first != row and not torch.equal(logits[first], logits[row]):
            raise AnswerError(
                f"{read.where(row)} was answered otherwise on {read.places[first]}: "
                f"{short(read.answers[first])}, and now {short(read.answers[row])}. Keep one of the two, or "
                "their mean."
            )
    return list(rows.values())


def write_answers(teacher: TextAnswers, texts: Texts, file: str | Path) -> Path:
    """Write a teacher's answers to some texts, as logits by class; `answers_from` reads them bit for bit.

    Args:
        teacher: answers the texts that are not recorded.
        texts: strings or pairs, or rows with a column `text` (and `text_pair`).
        file: a .jsonl file.

    Raises:
        ValueError: for a file of another kind.
    """
    path = Path(file)
    if path.suffix != ".jsonl":
        raise ValueError(f"{printable(path.name)}: answers are written as JSON lines. Type a name in .jsonl.")
    lines, texts = [], texts_of(texts)
    for text, logits in zip(texts, teacher.logits(texts), strict=True):
        columns = {"text": text} if isinstance(text, str) else {"text": text[0], "text_pair": text[1]}
        answer = dict(zip(teacher.classes, logits.tolist(), strict=True))
        lines.append(json.dumps({**columns, "logits": answer}, ensure_ascii=False))
    return write_atomically(path, "\n".join([*lines, ""]))
