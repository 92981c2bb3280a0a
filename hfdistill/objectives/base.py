"""One term of a loss, sums of terms, and the register of terms by name."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from hfdistill.files.plain_data import as_python
from hfdistill.network.architectures import ModelSpec
from hfdistill.network.task import TaskKind, words
from hfdistill.network.trace import Tap, Trace
from hfdistill.schedules import Schedule, checked_progress, is_number, moments, value_at


@dataclass(frozen=True)
class Setting:
    """Facts of the run that every objective is bound to.

    Args:
        task: single_label, multi_label, regression or token.
        classes: C, the number of outputs of the student and of the teacher.
        label_smoothing: the run's `label_smoothing_factor`, for terms that read hard labels.
        student: sizes of the student, for terms that look inside it; None where they are not known.
        teacher: sizes of the teacher, likewise.
        same_tokens: False where the two read different tokens, so that token i of one is not token i of the
            other: terms that compare tokens refuse, terms that pool first go on.
        class_names: of the student's outputs, LABEL_0 … where its config has none; empty where that is not
            known.
    """

    task: TaskKind
    classes: int
    label_smoothing: float = 0.0
    student: ModelSpec | None = None
    teacher: ModelSpec | None = None
    same_tokens: bool = True
    class_names: tuple[str, ...] = ()


Taps = tuple[frozenset[Tap], frozenset[Tap]]
"""What to read in the student, and what in the teacher."""


class Objective(nn.Module):
    """One term of a distillation loss.

    Life: construct (hyper-parameters only) → `bind` (sizes known, misuse refused) → `forward`, once a batch.
    A subclass needs `forward` alone; it returns the mean over what `count` counts. Where tokens are labelled,
    a term without taps is given each word as a row, (n, C) logits and (n,) labels, n words in the batch; one
    with taps is given the batch as it is, (B, T, C) and (B, T).

    A term that looks inside names the places in `taps`, chosen in `bind` by the sizes of both networks.
    Parameters of its own are trained with the student (no weight decay, clipped apart from it); they and its
    buffers stand in checkpoints and are no part of the saved student. A trainer works on a copy of the term,
    `trainer.objective.terms`. Objectives add and scale:

    Example:
        >>> from hfdistill import KD, CrossEntropy
        >>> print(0.1 * CrossEntropy() + 0.9 * KD(temperature=2))
        0.1 * CrossEntropy() + 0.9 * KD(temperature=2)

        >>> class FirstToken(Objective):
        ...     '''Its last hidden state in the student, mapped, should be the teacher's.'''
        ...     def bind(self, setting):
        ...         self.places = [Tap("hidden", side.depth) for side in (setting.student, setting.teacher)]
        ...         self.map = nn.Linear(setting.student.width, setting.teacher.width)
        ...     def taps(self):
        ...         return frozenset(self.places[:1]), frozenset(self.places[1:])
        ...     def forward(self, student, teacher, labels):
        ...         own, its = (t.readings[p][:, 0] for t, p in zip((student, teacher), self.places))
        ...         return (self.map(own) - its).square().mean()
        >>> print(KD() + 0.5 * FirstToken())
        1 * KD(temperature=4.0) + 0.5 * FirstToken()
    """

    name: ClassVar[str] = ""
    needs_labels: ClassVar[bool] = False
    """True where rows without a label say nothing to this term."""
    needs_teacher: ClassVar[bool] = True
    """False where the term reads the student and the labels alone."""
    additive: ClassVar[bool] = True
    """False where the value is not a mean of per-example terms, so that it depends on the batches."""
    progress: float = 0.0
    """Where training stands, in [0, 1]; `Blend.set_progress` sets it before each optimizer step."""

    def bind(self, setting: Setting) -> None:
        """Learn the run's task and sizes; raise ValueError where this term makes no sense for them.

        Args:
            setting: the task, `classes`, `class_names`, and of `student` and `teacher`, where they are known,
                `depth`, `width`, `heads` and `model_type`; see `hfdistill.objectives.Setting`.
        """

    def taps(self) -> Taps:
        """Return what `forward` reads inside the student, and inside the teacher; valid once bound."""
        return frozenset(), frozenset()

    def count(self, labels: Tensor) -> Tensor:
        """Count what `forward`'s mean is a mean over, a scalar: rows, unless a subclass says otherwise.

        Gradient accumulation and several processes are exact because every term is weighted by its own count.

        Args:
            labels: (B,) or (B, C); missing ones are -100 (NaN for regression).
        """
        return torch.full((), float(labels.shape[0]), device=labels.device)

    def forward(self, student: Trace, teacher: Trace, labels: Tensor) -> Tensor:
        """Return the mean of this term over the batch, a float32 scalar; 0 where `count` is 0.

        Args:
            student: logits (B, C), and readings for `taps`, with a graph.
            teacher: the same without one, columns of the logits in the student's order.
            labels: (B,) or (B, C); missing ones are -100 (NaN for regression).
        """
        raise NotImplementedError(f"{type(self).__name__} needs a `forward(student, teacher, labels)`.")

    def summary(self) -> str:
        """Return what a run prints of this term once, when it starts."""
        return repr(self)

    def set_progress(self, progress: float) -> None:
        """Take note of where training stands, in [0, 1]; a term made of terms passes it on."""
        self.progress = progress

    def now(self, value: float | Schedule) -> float:
        """Return the value at this moment of the training of a hyper-parameter that may be a schedule."""
        try:
            return value_at(value, self.progress)
        except ValueError as error:
            raise ValueError(f"{type(self).__name__}: {error}") from error

    def _reading(self, trace: Trace, tap: Tap, *, whose: str) -> Tensor:
        if tap not in trace.readings:
            raise ValueError(
                f"{self!r} needs {tap} of the {whose}, which its trace does not hold. Ask for `taps()` "
                f"when the trace is made; a teacher of your own fills Trace(readings=...). Or use a term on "
                f"logits, such as KD()."
            )
        return trace.readings[tap]

    def __add__(self, other: Objective | Blend) -> Blend:
        return as_blend(self) + other

    def __radd__(self, other: object) -> Blend:
        return as_blend(self).__radd__(other)

    def __mul__(self, weight: float | Schedule) -> Blend:
        return Blend([(weight, self)])

    __rmul__ = __mul__

    def __repr__(self) -> str:
        """Return the constructor call: every argument by name, but for None and options that are off."""
        arguments = inspect.signature(type(self)).parameters.values()
        values = {a.name: getattr(self, a.name, None) for a in arguments}
        off = {a.name for a in arguments if a.default is False and values[a.name] is False}
        plain = {
            name: v.tolist() if isinstance(v, Tensor) else v
            for name, v in values.items()
            if v is not None and name not in off
        }
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in plain.items())})"


class Blend(nn.Module):
    """A weighted sum of objectives, written `0.5 * CrossEntropy() + 0.5 * KD(temperature=4)`.

    A weight may be a schedule, as in `Linear(1, 0) * HiddenMSE() + 0.5 * KD()`: what it is at the moment
    follows from `set_progress`.

    Args:
        terms: pairs (weight, objective); weights are finite and never negative.
    """

    def __init__(self, terms: list[tuple[float | Schedule, Objective]]) -> None:
        super().__init__()
        self._written = [_weight(weight) for weight, _ in terms]
        self.terms = nn.ModuleList([term for _, term in terms])
        self._progress = 0.0
        self._by_word = [False] * len(terms)
        self._ever = [any(value_at(w, p) > 0 for p in moments([w]) if p < 1) for w in self._written]

    @property
    def weights(self) -> list[float]:
        """The weight of each term at the progress that was set last."""
        return [value_at(weight, self._progress) for weight in self._written]

    def set_progress(self, progress: float) -> None:
        """Tell weights and terms where training stands; the trainer does so before each optimizer step.

        Args:
            progress: the share of optimizer steps already taken, in [0, 1].

        Raises:
            ValueError: where progress lies outside, a weight is not a number from 0 up, or no term has weight
                before the end.
        """
        self._progress = checked_progress(progress)
        for name, (weight, term) in zip(self.names, self._pairs(), strict=True):
            term.set_progress(progress)
            _check_weight(weight, name, progress)
        self._refuse_idle(progress)

    @property
    def names(self) -> list[str]:
        """One name per term, numbered from the second use of the same objective: kd, kd_2."""
        seen: dict[str, int] = {}
        names = []
        for _, term in self._pairs():
            base = term.name or type(term).__name__.lower()
            seen[base] = seen.get(base, 0) + 1
            names.append(base if seen[base] == 1 else f"{base}_{seen[base]}")
        return names

    @property
    def needs_labels(self) -> bool:
        """True where some term that has weight at any moment reads hard labels."""
        return any(term.needs_labels for term in self._active())

    @property
    def needs_teacher(self) -> bool:
        """True where some term that has weight at any moment reads the teacher."""
        return any(term.needs_teacher for term in self._active())

    @property
    def needs_teacher_now(self) -> bool:
        """True where some term that has weight at this moment reads the teacher."""
        return any(term.needs_teacher for term in self._active(now=True))

    def bind(self, setting: Setting) -> None:
        """Bind every term.

        Raises:
            ValueError: where no term has weight, over the whole run or at a moment of it, or where a term
                does not fit the task.
        """
        if not any(self._ever):
            raise ValueError(
                f"The objective {self} has no term with weight, so nothing would be learnt. "
                "Give a term a weight above 0, as in 0.5 * CrossEntropy() + 0.5 * KD()."
            )
        if setting.task == "token" and not setting.same_tokens:
            raise ValueError(
                "The student labels tokens, and the teacher reads other tokens than the student. Give both "
                "one tokenizer: student = shrink(teacher, layers=...), or a teacher with the student's "
                "vocabulary."
            )
        for progress in moments(self._written):
            self._refuse_idle(progress)
        for _, term in self._pairs():
            if term not in self._active():
                warnings.warn(
                    f"{term!r} has weight 0 throughout and teaches nothing. Drop it from the objective.",
                    UserWarning,
                    stacklevel=2,
                )
            term.bind(setting)
        self._by_word = [setting.task == "token" and not any(term.taps()) for _, term in self._pairs()]

    def taps(self, *, ever: bool = False) -> Taps:
        """Return what the terms with weight read now inside the student, and inside the teacher.

        Valid once bound; it changes with `set_progress`, so that a stage captures nothing for the next one.

        Args:
            ever: also what terms read that have weight at another moment of the run.
        """
        asked = [term.taps() for term in self._active(now=not ever)]
        return frozenset().union(*(own for own, _ in asked)), frozenset().union(*(its for _, its in asked))

    def summary(self) -> list[str]:
        """Return a line per term: its weight, what it is, and what it found out when it was bound."""
        return [f"{_shown(weight)} * {term.summary()}" for weight, term in self._pairs()]

    def counts(self, labels: Tensor) -> Tensor:
        """Return what each term's mean is a mean over: (terms,), float32."""
        flat = words(labels)[1] if any(self._by_word) else labels
        sides = zip(self._by_word, self._pairs(), strict=True)
        return torch.stack([term.count(flat if by_word else labels).float() for by_word, (_, term) in sides])

    def forward(self, student: Trace, teacher: Trace, labels: Tensor) -> Tensor:
        """Return each term's unweighted mean: (terms,), float32. A term without weight is not computed."""
        zero = student.logits.new_zeros((), dtype=torch.float32)
        whole = flat = (student, teacher, labels)
        if any(self._by_word):
            where, known = words(labels)
            flat = (Trace(student.logits[where]), Trace(teacher.logits[where]), known)
        values = []
        for weight, by_word, term in zip(self.weights, self._by_word, self.terms, strict=True):
            read = flat if by_word else whole
            values.append(term(*read).float() if weight and len(read[2]) else zero)
        return torch.stack(values)

    def __add__(self, other: Objective | Blend) -> Blend:
        return Blend([*self._pairs(), *as_blend(other)._pairs()])

    def __radd__(self, other: object) -> Blend:
        """Return the blend itself for the 0 that `sum(terms)` begins with."""
        return self if is_number(other) and other == 0 else NotImplemented

    def __mul__(self, weight: float | Schedule) -> Blend:
        return Blend([(_weight(weight) * own, term) for own, term in self._pairs()])

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return " + ".join(f"{_shown(weight)} * {term!r}" for weight, term in self._pairs())

    __str__ = __repr__

    def _pairs(self) -> list[tuple[float | Schedule, Objective]]:
        """Return the terms, with their weights as they were written."""
        return list(zip(self._written, self.terms, strict=True))  # type: ignore[arg-type]

    def _active(self, *, now: bool = False) -> list[Objective]:
        """Return the terms that have weight now, or at any moment of the run."""
        weights = self.weights if now else self._ever
        return [term for weight, (_, term) in zip(weights, self._pairs(), strict=True) if weight]

    def _refuse_idle(self, progress: float) -> None:
        """Refuse a moment before the end at which no term has weight."""
        if progress < 1 and not any(value_at(weight, progress) > 0 for weight in self._written):
            raise ValueError(
                f"No term of {self} has weight at progress {progress:g} (0 is the first step, 1 the end), so "
                "nothing would be learnt there. Let a term keep a weight above 0 at every moment, as in "
                "0.5 * CrossEntropy() + Linear(0, 1) * KD() or Until(0.5) * LogitMSE() + After(0.5) * KD()."
            )


def _shown(weight: float | Schedule) -> str:
    """Return a weight to its last digit, since formulas tell runs apart; 1.0 is written as 1."""
    return repr(weight) if isinstance(weight, Schedule) else repr(weight).removesuffix(".0")


def as_blend(objective: Objective | Blend) -> Blend:
    """Return a `Blend` of one term, or the blend itself."""
    if isinstance(objective, Blend):
        return objective
    if isinstance(objective, Objective):
        return Blend([(1.0, objective)])
    raise TypeError(
        f"An objective is built from terms such as 0.5 * CrossEntropy() + 0.5 * KD(temperature=4); "
        f"found {type(objective).__name__}. A loss of your own is a subclass of hfdistill.Objective."
    )


def positive(value: float | Schedule, what: str, *, usual: str) -> float | Schedule:
    """Return a hyper-parameter that lies above 0 from the first step to the end, or refuse it."""
    return _throughout(value, lambda number: number > 0, f"{what} above 0", f"Usual: {usual}.")


def _weight(value: float | Schedule) -> float | Schedule:
    write = "Write Linear(1, 0) * KD()." if isinstance(value, Schedule) else "Write 0.5 * KD()."
    what = "The weight of an objective is a number from 0 up"
    weight = _throughout(value, lambda number: number >= 0, what, write)
    return weight if isinstance(weight, Schedule) else float(weight)


def _check_weight(weight: float | Schedule, name: str, progress: float) -> None:
    """Refuse a schedule that is no weight at a moment that construction did not look at."""
    try:
        value = value_at(weight, progress)
    except ValueError as error:
        raise ValueError(f"The weight of {name}: {error}") from error
    if value < 0:
        raise ValueError(
            f"The weight of {name} is a number from 0 up, and {weight!r} is {value:g} at progress "
            f"{progress:g} (0 is the first step, 1 the end). Keep it at 0 or above."
        )


def _throughout(
    value: float | Schedule, fits: Callable[[float], bool], what: str, advice: str
) -> float | Schedule:
    """Return a number that fits, or a schedule that fits at every moment; refuse any other, saying when."""
    if isinstance(value, Schedule):
        where = next((p for p in moments([value]) if not fits(value_at(value, p))), None)
        if where is None:
            return value
        when = f", which is {value_at(value, where):g} at progress {where:g}"
        raise ValueError(f"{what}, found {value!r}{when}. {advice}")
    number = as_python(value)
    if not is_number(number) or not fits(number):
        raise ValueError(f"{what}, found {value!r}. {advice}")
    return number


Kind = TypeVar("Kind", bound=type[Objective])
_REGISTER: dict[str, type[Objective]] = {}


def register(name: str) -> Callable[[Kind], Kind]:
    """Class decorator: name an objective, so that logs, recipes and the shared property tests find it.

    Raises:
        ValueError: where the name is taken or is not an identifier.
    """
    if not name.isidentifier():
        raise ValueError(
            f"The name of an objective stands in logs as loss_<name>; {name!r} is not an identifier."
        )

    def keep(cls: Kind) -> Kind:
        taken = _REGISTER.get(name)
        if taken is not None and _origin(taken) != _origin(cls):
            raise ValueError(f"The name {name!r} is taken by {_origin(taken)}. Choose another.")
        cls.name = name
        _REGISTER[name] = cls
        return cls

    return keep


def _origin(cls: type) -> str:
    """Return where a class was written: the same when its file or notebook cell is run again."""
    return f"{cls.__module__}.{cls.__qualname__}"


def registered() -> dict[str, type[Objective]]:
    """Return every registered objective by name."""
    return dict(_REGISTER)
