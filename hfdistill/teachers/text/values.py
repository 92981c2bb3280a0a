"""`AnswerReader` checks answers as people and programs write them, and makes logits of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hfdistill.network.label_space import short, some
from hfdistill.teachers.text.class_names import check_names, column_of, folded_name

Kind: TypeAlias = Literal["probabilities", "logits", "log_probabilities", "labels"]
FLOOR = 1e-9
"""A probability of 0 is taken for this one, so that its logarithm is a number."""
SUM_TOLERANCE = 0.01
Where: TypeAlias = Callable[[int], str]
Array: TypeAlias = NDArray[np.float64]


class AnswerError(ValueError):
    """An answer that no student can learn from: it names the row, the value and what to type."""


class AnswerReader:
    """Turns the answers to some rows into logits: (N, C) float32, columns in the order of the classes.

    Answers are an array (N, C), or one value a row:

    - probabilities: C numbers in the order of the classes (columns of a DataFrame go by name), or a mapping
      from class to probability. Classes that a mapping leaves out share what is missing to 1. Logits are
      log p; multi-label log p/(1-p).
    - log_probabilities: likewise, of their natural logarithms, such as the top-k of an API.
    - logits: C finite numbers, taken as they are.
    - labels: a class (name or number), or a pair of class and confidence p; the other classes share 1 - p.
      A list of classes is votes, counted into probabilities. Multi-label: a list of the classes that hold.

    An entry `{"label": class, "score": p}` of Transformers' pipelines is such a pair, and a list of them a
    mapping.

    Args:
        classes: their names, in the order of the columns.
        kind: which of these; None is decided by the first answers.
        multi_label: whether classes are decided one by one.
        columns: the classes in the order in which arrays have them, where that is another one.

    Raises:
        ValueError: at construction, for fewer than two classes, repeated names or an unknown kind.

    Example:
        >>> reader = AnswerReader(["no", "yes"])
        >>> reader([("yes", 0.8), ("no", 0.9)]).softmax(-1)
        tensor([[0.2000, 0.8000],
                [0.9000, 0.1000]])
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        kind: Kind | None = None,
        multi_label: bool = False,
        columns: Sequence[Any] = (),
    ) -> None:
        self.classes = [str(name) for name in classes]
        if len(self.classes) < (1 if multi_label else 2) or isinstance(classes, str):
            raise ValueError(f"classes names the classes, two or more; found {short(classes)}.")
        check_names(classes)
        if kind is not None and kind not in get_args(Kind):
            raise ValueError(
                f"kind is {kind!r}, which is unknown. Choose one of {', '.join(get_args(Kind))}."
            )
        self.kind, self.multi_label = kind, multi_label
        self._columns = {name: column for column, name in enumerate(map(folded_name, self.classes))}
        self.order = self._order_of(columns)

    def __call__(self, answers: Any, *, where: Where | None = None) -> Tensor:
        """Return the logits of an array, tensor or sequence of answers; `where` names a row in messages."""
        where = where or (lambda row: f"Row {row}")
        order = self._order_of(getattr(answers, "columns", ())) or self.order
        answers = self._scored(_paired(answers))
        numbers = None if self.kind == "labels" else _as_array(answers)
        if numbers is None or (numbers.ndim == 1 and self.kind is None and self._are_classes(numbers)):
            return self._read_rows(list(_listed(answers)), where)
        if numbers.ndim != 2 or numbers.shape[1] != len(self.classes):
            raise AnswerError(
                f"The answers have shape {numbers.shape}, and ({len(numbers)}, {len(self.classes)}) was "
                f"expected: a number for each of the classes {some(self.classes)}. "
                + (_TWO_COLUMNS if numbers.shape[1:] in ((), (1,)) else _SHAPE)
            )
        numbers = numbers if order is None else numbers[:, order]
        self.kind = self.kind or self._guessed(numbers)
        return self._logits(numbers, where)

    def _are_classes(self, numbers: Array) -> bool:
        """Whether one number a row is a class; of two classes 0.8 is the probability of one of them."""
        finite = numbers[np.isfinite(numbers)]
        return len(self.classes) != 2 or bool((finite == np.round(finite)).all())

    def _order_of(self, names: Any) -> list[int] | None:
        """Return where each class stands among the names of an array's columns; None where they name none."""
        listed = list(names)
        own = [folded_name(name) for name in listed]
        known = [name for name in own if name in self._columns]
        if not known or not all(isinstance(name, str) for name in listed):
            return None
        if sorted(own) != sorted(self._columns):
            raise AnswerError(
                f"The columns of the answers are {some(list(map(str, listed)))}, and the classes are "
                f"{some(self.classes)}. Return a column for each of these classes and no other, or type the "
                "columns as classes=[...]."
            )
        order = [own.index(name) for name in self._columns]
        return None if order == list(range(len(order))) else order

    def _scored(self, answers: Any) -> Any:
        """Return entries of Transformers' pipelines, as a class and its confidence, or as a mapping."""
        if not isinstance(answers, (list, tuple)) or self._columns.keys() & {"label", "score"}:
            return answers
        return [_pair(row) if _is_scored(row) else _mapping(row) for row in answers]

    def column(self, name: Any, where: str) -> int:
        """Return the column of a class that is named, or numbered."""
        column = column_of(name, self._columns)
        if column is None:
            raise AnswerError(
                f"{where} names the class {short(name)}, and the classes are {some(self.classes)}. Correct "
                "the name, add it to classes=, or leave the row out."
            )
        return column

    # ---- numbers ----

    def _guessed(self, numbers: Array) -> Kind:
        """Return probabilities where all lie in [0, 1]; percentages are caught later; else logits."""
        finite = numbers[np.isfinite(numbers)]
        inside = bool(((finite >= 0) & (finite <= 1)).all())
        if inside or (len(finite) and not self.multi_label and _percent(numbers).all()):
            return "probabilities"
        return "logits"

    def _logits(self, numbers: Array, where: Where) -> Tensor:
        wrong = ~self._is_number(numbers)
        if wrong.any():
            row, column = (int(place) for place in np.argwhere(wrong)[0])
            raise AnswerError(
                f"{where(row)}: the answer for class {short(self.classes[column])} is "
                f"{numbers[row, column]!s}, which is not a number ({int(wrong.any(1).sum())} of "
                f"{len(numbers)} rows). Leave such rows out, or repair what made them."
            )
        if self.kind == "logits":
            return torch.from_numpy(numbers.astype(np.float32))
        if self.kind == "log_probabilities":
            if (numbers > 1e-6).any():
                row, column = (int(place) for place in np.argwhere(numbers > 1e-6)[0])
                raise AnswerError(
                    f"{where(row)}: the log-probability of {short(self.classes[column])} is "
                    f"{numbers[row, column]:.6g}, above 0, which no probability has. Type "
                    "kind='probabilities' or kind='logits' for what these numbers are."
                )
            numbers = np.exp(numbers)
        self._check_probabilities(numbers, where)
        numbers = numbers.clip(FLOOR, 1 - FLOOR if self.multi_label else 1)
        logits = np.log(numbers) - np.log1p(-numbers) if self.multi_label else np.log(numbers)
        return torch.from_numpy(logits.astype(np.float32))

    def _is_number(self, numbers: Array) -> NDArray[np.bool_]:
        """Tell which entries are numbers: finite ones, and -inf as the logarithm of a probability of 0."""
        finite: NDArray[np.bool_] = np.isfinite(numbers)
        return finite | np.isneginf(numbers) if self.kind == "log_probabilities" else finite

    def _check_probabilities(self, numbers: Array, where: Where) -> None:
        if not self.multi_label:
            percent = _percent(numbers)
            if percent.any():
                row = int(np.flatnonzero(percent)[0])
                raise AnswerError(
                    f"{where(row)}: the probabilities sum to {numbers[row].sum():.4g}: these are percentages "
                    f"({int(percent.sum())} of {len(numbers)} rows). Divide them by 100."
                )
        outside = (numbers < -1e-6) | (numbers > 1 + 1e-6)
        if outside.any():
            row, column = (int(place) for place in np.argwhere(outside)[0])
            raise AnswerError(
                f"{where(row)}: the probability of {short(self.classes[column])} is "
                f"{numbers[row, column]:.6g}, which does not lie in [0, 1]. Type kind='logits' where these "
                "are scores before softmax, or divide percentages by 100."
            )
        sums = numbers.sum(1)
        off = np.abs(sums - 1) > SUM_TOLERANCE
        if off.any() and not self.multi_label:
            row = int(np.flatnonzero(off)[0])
            raise AnswerError(
                f"{where(row)}: the probabilities of the {len(self.classes)} classes sum to {sums[row]:.4g}, "
                f"not to 1 ({int(off.sum())} of {len(numbers)} rows). Divide each row by its sum; type "
                "multi_label=True where classes are decided one by one, kind='logits' for scores."
            )

    # ---- one value a row ----

    def _read_rows(self, rows: list[Any], where: Where) -> Tensor:
        if self.kind is None:
            self.kind = _kind_of(rows)
        read = self._vote if self.kind == "labels" else self._row
        numbers = np.array([read(row, where(i)) for i, row in enumerate(rows)], np.float64)
        reader = self
        if self.kind == "labels":
            reader = AnswerReader(self.classes, kind="probabilities", multi_label=self.multi_label)
        return reader._logits(numbers.reshape(len(rows), len(self.classes)), where)

    def _row(self, row: Any, where: str) -> list[float]:
        """Return the numbers of one row, in the order of the classes."""
        if row is None:
            raise AnswerError(f"{where} has no answer. Leave such rows out, or answer them.")
        if isinstance(row, Mapping):
            return self._from_mapping(row, where)
        try:
            numbers = [float(value) for value in row]
        except (TypeError, ValueError) as error:
            raise AnswerError(
                f"{where}: the answer is {short(row)}, and {len(self.classes)} numbers or a mapping from "
                f"class to number were expected. Type kind='labels' where it names a class."
            ) from error
        if len(numbers) != len(self.classes):
            raise AnswerError(
                f"{where}: the answer has {len(numbers)} numbers ({short(numbers)}) for "
                f"{len(self.classes)} classes ({some(self.classes)}). Give one for each, in this order."
            )
        return numbers

    def _from_mapping(self, row: Mapping[Any, Any], where: str) -> list[float]:
        known: dict[int, float] = {}
        for name, value in row.items():
            column = self.column(name, where)
            if column in known:
                raise AnswerError(f"{where} answers for the class {short(name)} twice. Keep one of them.")
            try:
                known[column] = math.nan if value is None else float(value)
            except (TypeError, ValueError) as error:
                raise AnswerError(
                    f"{where}: the answer for class {short(name)} is {short(value)}, which is not a number. "
                    "Write a number."
                ) from error
        lacking = len(self.classes) - len(known)
        if not lacking:
            return [known[column] for column in range(len(self.classes))]
        if self.kind == "logits" or self.multi_label or not known:
            absent = [name for i, name in enumerate(self.classes) if i not in known]
            raise AnswerError(f"{where} has no answer for {some(absent)}. Give a number for each class.")
        log = self.kind == "log_probabilities"
        mass = sum(math.exp(value) if log and value <= 0 else value for value in known.values())
        if mass > 1 + SUM_TOLERANCE:
            raise AnswerError(
                f"{where}: the {len(known)} classes that it names have probabilities that sum to {mass:.4g}, "
                "above 1. Divide them by their sum, or percentages by 100."
            )
        rest = max(1 - mass, FLOOR) / lacking
        rest = math.log(rest) if log else rest
        return [known.get(column, rest) for column in range(len(self.classes))]

    def _vote(self, row: Any, where: str) -> list[float]:
        """Return probabilities out of a class, a class with a confidence, or several votes."""
        count = len(self.classes)
        if _is_pair(row) and not self.multi_label:
            share, column = _confidence(row[1], where), self.column(_whole(row[0]), where)
            return [share if i == column else (1 - share) / (count - 1) for i in range(count)]
        votes = row if isinstance(row, (list, tuple, set, frozenset, np.ndarray)) else [row]
        columns = [self.column(_whole(vote), where) for vote in votes if not _is_blank(vote)]
        if self.multi_label and row is not None:
            return [float(column in columns) for column in range(count)]
        if not columns:
            raise AnswerError(f"{where} has no answer. Leave such rows out, or answer them.")
        return [columns.count(column) / len(columns) for column in range(count)]


_SHAPE = "Return one row for each text and one column for each class."
_TWO_COLUMNS = "For two classes return both probabilities, [1 - p, p]; for labels type kind='labels'."


def _percent(numbers: Array) -> NDArray[np.bool_]:
    """Return rows of values in [0, 100] that sum to about 100."""
    inside = ((numbers >= 0) & (numbers <= 100.01)).all(1)
    return inside & (np.abs(numbers.sum(1) - 100) < 1.01)


def _as_array(answers: Any) -> Array | None:
    """Return numbers (N,) or (N, C); None where the entries are not numbers, or rows differ in length."""
    if isinstance(answers, Tensor):
        return answers.detach().float().cpu().numpy().astype(np.float64)
    if isinstance(answers, (list, tuple)) and any(_is_plain(row) for row in answers):
        return None
    try:
        numbers = np.asarray(answers)
    except ValueError:
        return None
    return numbers.astype(np.float64) if numbers.dtype.kind in "fiub" and numbers.ndim else None


def _is_plain(row: Any) -> bool:
    """Whether it is a class, a pair of class and confidence, a mapping or a set, not a row of numbers."""
    if isinstance(row, (str, Mapping, set, frozenset)) or row is None:
        return True
    return isinstance(row, (list, tuple)) and any(isinstance(value, str) or value is None for value in row)


def _paired(answers: Any) -> Any:
    """Return two sequences (labels, confidences) as one pair per row."""
    if not (isinstance(answers, tuple) and len(answers) == 2):
        return answers
    labels, confidences = (_listed(part) for part in answers)
    sized = all(isinstance(part, (list, tuple)) and len(part) for part in (labels, confidences))
    if (
        sized
        and len(labels) == len(confidences)
        and all(map(_is_pair, zip(labels, confidences, strict=True)))
    ):
        return list(zip(labels, confidences, strict=True))
    return answers


def _is_scored(row: Any) -> bool:
    """Whether an entry is one of a pipeline, {"label": "joy", "score": 0.9}."""
    return isinstance(row, Mapping) and row.keys() == {"label", "score"}


def _pair(row: Mapping[str, Any]) -> tuple[Any, Any]:
    return row["label"], row["score"]


def _mapping(row: Any) -> Any:
    """Return a list of such entries, or lists of labels and scores, as a mapping from class to score.

    Anything else stays as it is."""
    if isinstance(row, Mapping) and {"labels", "scores"} <= row.keys() <= {"labels", "scores", "sequence"}:
        return dict(zip(row["labels"], row["scores"], strict=True))  # of a pipeline without labels
    scored = isinstance(row, (list, tuple)) and len(row) > 0 and all(map(_is_scored, row))
    return dict(map(_pair, row)) if scored else row


def _listed(values: Any) -> Any:
    return values.tolist() if hasattr(values, "tolist") else values


def _is_pair(row: Any) -> bool:
    """Whether it is a class, by name or number, with a confidence."""
    if not (isinstance(row, (tuple, list)) and len(row) == 2):
        return False
    name, share = row
    number = isinstance(share, (int, float, np.floating)) and not isinstance(share, bool)
    whole = isinstance(name, (int, np.integer))  # true, too
    return number and (isinstance(name, str) or (whole and not isinstance(share, int)))


def _is_blank(vote: Any) -> bool:
    return vote is None or vote == "" or (isinstance(vote, float) and math.isnan(vote))


def _confidence(value: Any, where: str) -> float:
    if not 0 <= value <= 1:
        hint = "Divide percentages by 100." if 1 < value <= 100 else "Give a probability."
        raise AnswerError(f"{where}: the confidence is {value!s}, which does not lie in [0, 1]. {hint}")
    return float(value)


def _whole(value: Any) -> Any:
    """Return a class number that was read as a float."""
    return int(value) if isinstance(value, (float, np.floating)) and float(value).is_integer() else value


def _kind_of(rows: list[Any]) -> Kind:
    first = next((row for row in rows if row is not None), None)
    if isinstance(first, Mapping):
        values = [v for row in rows if isinstance(row, Mapping) for v in row.values()]
        numbers = [float(v) for v in values if isinstance(v, (int, float)) and not math.isnan(v)]
        inside = all(value <= 0 for value in numbers) and any(value < 0 for value in numbers)
        outside = any(not 0 <= value <= 100 for value in numbers)
        return "log_probabilities" if inside else "logits" if outside else "probabilities"
    if isinstance(first, (list, tuple, np.ndarray)) and first and not _is_plain(first):
        flat = np.asarray(first, np.float64)
        return "probabilities" if ((flat >= 0) & (flat <= 100)).all() else "logits"
    return "labels"
