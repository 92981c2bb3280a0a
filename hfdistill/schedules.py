"""Numbers that change while a student trains: weights and temperatures as functions of progress."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any


class Schedule:
    """A number that depends on nothing but progress, the share of optimizer steps already taken.

    Progress is 0 at the first step and (N - 1)/N at the last of N; 1 is the end, where no step is taken.
    There is no state to save: a resumed run asks for the same progress and gets the same numbers. A
    schedule stands where a weight or a temperature may stand, and schedules multiply with numbers and with
    each other. One of your own is a subclass with `at`; give it a `repr` that can be read back, since
    formulas print it.

    Example:
        >>> from hfdistill import KD, CrossEntropy, Linear
        >>> print(CrossEntropy() + Linear(1, 0) * KD(temperature=Linear(8, 1)))
        1 * CrossEntropy() + Linear(1, 0) * KD(temperature=Linear(8, 1))
        >>> Linear(8, 1)(0.5)
        4.5
    """

    def at(self, progress: float) -> float:
        """Return the value at a progress that lies in [0, 1]."""
        raise NotImplementedError(f"{type(self).__name__} needs an `at(progress)` that returns a number.")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"

    @property
    def knots(self) -> tuple[float, ...]:
        """Where the value jumps or bends, so that what holds between two knots need be asked only once."""
        return ()

    def __call__(self, progress: float) -> float:
        """Return the value at `progress`.

        Raises:
            ValueError: where progress is not a number in [0, 1], or `at` gives no finite number.
        """
        return _checked(self, self.at(checked_progress(progress)), progress)

    def __mul__(self, other: float | Schedule) -> Schedule:
        if isinstance(other, Schedule):
            return _product(1.0, (self, other))
        if isinstance(other, (int, float)):
            return _product(_number(other, "The factor of a schedule"), (self,))
        return NotImplemented

    __rmul__ = __mul__


class _AsTyped(Schedule):
    """A dataclass whose repr is the call that makes it, without options that are left at their default."""

    def __repr__(self) -> str:
        written = []
        for argument in fields(self):  # type: ignore[arg-type]
            value = getattr(self, argument.name)
            if not argument.kw_only:
                written.append(_shown(value))
            elif value != argument.default:
                written.append(f"{argument.name}={_shown(value)}")
        return f"{type(self).__name__}({', '.join(written)})"


@dataclass(frozen=True, repr=False)
class Constant(_AsTyped):
    """The same value throughout.

    Args:
        value: a finite number.
    """

    value: float

    def __post_init__(self) -> None:
        _number(self.value, "The value of Constant")

    def at(self, progress: float) -> float:
        """Return the value."""
        return self.value


@dataclass(frozen=True, repr=False)
class Linear(_AsTyped):
    """A straight line from `start` to `end`; with `since` and `until`, a ramp between two levels.

    Args:
        start: the value up to `since`.
        end: the value from `until` on.
        since: where the line begins, in [0, 1).
        until: where it ends, in (since, 1]. `Linear(0, 1, until=0.1)` is a warm-up over the first tenth.

    Raises:
        ValueError: for values that are not finite numbers, or no 0 ≤ since < until ≤ 1.
    """

    start: float
    end: float
    since: float = field(default=0.0, kw_only=True)
    until: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        name = type(self).__name__
        for value in (self.start, self.end):
            _number(value, f"A value of {name}")
        if not (is_number(self.since) and is_number(self.until) and 0 <= self.since < self.until <= 1):
            raise ValueError(
                f"{name} runs from since to until, 0 ≤ since < until ≤ 1 of the training; found "
                f"since={self.since!r}, until={self.until!r}. Usual: {name}(0, 1, until=0.1)."
            )

    def at(self, progress: float) -> float:
        """Return the line's value, exact at both ends."""
        if progress <= self.since:
            return self.start
        if progress >= self.until:
            return self.end
        share = self._share((progress - self.since) / (self.until - self.since))
        rise = self.end - self.start
        return self.start + rise * share if share < 0.5 else self.end - rise * (1 - share)

    @property
    def knots(self) -> tuple[float, ...]:
        """Both ends of the ramp."""
        return (self.since, self.until)

    def _share(self, way: float) -> float:
        return way


@dataclass(frozen=True, repr=False)
class Cosine(Linear):
    """Half a cosine wave from `start` to `end`, level at both: end + (start - end)·(1 + cos πp)/2.

    Args:
        start: the value up to `since`.
        end: the value from `until` on.
        since: where the wave begins, in [0, 1).
        until: where it ends, in (since, 1].

    Raises:
        ValueError: as `Linear`.
    """

    def _share(self, way: float) -> float:
        return (1 - math.cos(math.pi * way)) / 2


@dataclass(frozen=True, repr=False)
class Step(Schedule):
    """A staircase: each value holds from its progress on, until the next. `Step({0: 8, 0.5: 1})`.

    Args:
        stages: progress → value; one of them starts at 0, and all start before 1.

    Raises:
        ValueError: for no stage at 0, a stage that starts outside [0, 1), or a value that is not a finite
            number.
    """

    stages: Mapping[float, float] = field(hash=False)

    def __post_init__(self) -> None:
        try:
            stages = dict(self.stages)
        except (TypeError, ValueError):  # neither a mapping nor pairs
            stages = {}
        if not all(is_number(start) and 0 <= start < 1 for start in stages) or 0 not in stages:
            raise ValueError(
                f"The stages of Step start in [0, 1), the first at 0; found {list(stages) or self.stages!r}. "
                "Write Step({0: 8, 0.5: 1}) for 8 in the first half and 1 in the second."
            )
        for value in stages.values():
            _number(value, "A value of Step")
        object.__setattr__(self, "stages", dict(sorted(stages.items())))

    def at(self, progress: float) -> float:
        """Return the value of the last stage that has started."""
        return self.stages[max(start for start in self.stages if start <= progress)]

    @property
    def knots(self) -> tuple[float, ...]:
        """Where the stages start."""
        return tuple(self.stages)

    def __repr__(self) -> str:
        stages = ", ".join(f"{_shown(start)}: {_shown(value)}" for start, value in self.stages.items())
        return f"Step({{{stages}}})"


@dataclass(frozen=True, repr=False)
class Until(_AsTyped):
    """1 before `end`, 0 from there on: `Until(0.5) * HiddenMSE() + After(0.5) * KD()` is two stages.

    Args:
        end: in (0, 1].

    Raises:
        ValueError: for an end outside (0, 1].
    """

    end: float

    def __post_init__(self) -> None:
        if not (is_number(self.end) and 0 < self.end <= 1):
            raise ValueError(f"Until(end) ends at 0 < end ≤ 1 of the training, found {self.end!r}.")

    def at(self, progress: float) -> float:
        """Return 1 or 0."""
        return float(progress < self.end)

    @property
    def knots(self) -> tuple[float, ...]:
        """The end."""
        return (self.end,)


@dataclass(frozen=True, repr=False)
class After(_AsTyped):
    """0 before `start`, 1 from there on: the second stage to `Until(start)`.

    Args:
        start: in [0, 1).

    Raises:
        ValueError: for a start outside [0, 1).
    """

    start: float

    def __post_init__(self) -> None:
        if not (is_number(self.start) and 0 <= self.start < 1):
            raise ValueError(f"After(start) starts at 0 ≤ start < 1 of the training, found {self.start!r}.")

    def at(self, progress: float) -> float:
        """Return 0 or 1."""
        return float(progress >= self.start)

    @property
    def knots(self) -> tuple[float, ...]:
        """The start."""
        return (self.start,)


@dataclass(frozen=True, repr=False)
class Stairs(_AsTyped):
    """Annealing KD's φ: 1/n, 2/n, …, 1 in n equal steps up to `until`, 1 from there on.

    Jafari, Rezagholizadeh, Sharma, Ghodsi 2021, arXiv 2104.07163: φ(T) = 1 - (T - 1)/n while the
    temperature T falls from n to 1. The student first fits the teacher's logits scaled by φ, then the gold
    labels alone: `Until(0.67) * LogitMSE(scale=Stairs(10, until=0.67)) + After(0.67) * CrossEntropy()`. The
    paper starts its second stage from the best checkpoint of the first and with a new learning rate; a
    schedule does neither.

    Args:
        steps: n ≥ 1; 10 on CIFAR, 7 to 10 on GLUE.
        until: in (0, 1].

    Raises:
        ValueError: for a number of steps that is not a whole one from 1 up, or an end outside (0, 1].
    """

    steps: int
    until: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or isinstance(self.steps, bool) or self.steps < 1:
            raise ValueError(
                f"Stairs has a whole number of steps from 1 up, found {self.steps!r}. Usual: 10."
            )
        if not (is_number(self.until) and 0 < self.until <= 1):
            raise ValueError(f"Stairs ends at 0 < until ≤ 1 of the training, found until={self.until!r}.")

    def at(self, progress: float) -> float:
        """Return the height of the step that progress stands on."""
        climbed = int(progress / self.until * self.steps + 1e-9)  # 0.29 · 100 is 28.999… in floats
        return min(climbed + 1, self.steps) / self.steps

    @property
    def knots(self) -> tuple[float, ...]:
        """Where each step begins."""
        return tuple(self.until * step / self.steps for step in range(self.steps))


@dataclass(frozen=True, repr=False)
class Product(Schedule):
    """A number times schedules, as `0.5 * Linear(1, 0) * Until(0.5)` makes it."""

    factor: float
    schedules: tuple[Schedule, ...]

    def at(self, progress: float) -> float:
        """Return the product of all values."""
        return self.factor * math.prod(value_at(schedule, progress) for schedule in self.schedules)

    @property
    def knots(self) -> tuple[float, ...]:
        """Those of every schedule."""
        return tuple(knot for schedule in self.schedules for knot in schedule.knots)

    def __repr__(self) -> str:
        factor = [_shown(self.factor)] if self.factor != 1 else []
        return " * ".join([*factor, *map(repr, self.schedules)])


def value_at(value: float | Schedule, progress: float) -> float:
    """Return what a number or a schedule is at `progress`, checked also where a class has its own call."""
    return _checked(value, value(progress), progress) if isinstance(value, Schedule) else value


def _checked(schedule: Schedule, value: Any, progress: float) -> float:
    """Return what a schedule gave as a float, also of numpy or torch; refuse what is not a finite number."""
    if hasattr(value, "tolist") and not getattr(value, "requires_grad", False):
        value = value.tolist()
    if not is_number(value):
        hint = " (nothing, where it does not reach a return)" if value is None else ""
        raise ValueError(
            f"{schedule!r} is {value!r}{hint} at progress {progress:g} (0 is the first step, 1 the end); it "
            f"has to be a finite number. Return one at every progress from {type(schedule).__name__}.at."
        )
    return float(value)


def moments(schedules: Iterable[float | Schedule]) -> list[float]:
    """Return where to look in order to know schedules everywhere in [0, 1], ascending.

    Every knot, the middle between two, and every hundredth for schedules that name no knots. The schedules of
    this file, where they are nowhere negative, are 0 at a knot, between two knots or not at all.
    """
    knots = {knot for schedule in schedules if isinstance(schedule, Schedule) for knot in schedule.knots}
    ends = sorted({0.0, 1.0, *knots})
    middles = {(left + right) / 2 for left, right in itertools.pairwise(ends)}
    return sorted({*ends, *middles, *(step / 100 for step in range(101))})


def checked_progress(progress: float) -> float:
    """Return progress itself; refuse what is not a number in [0, 1]."""
    if not is_number(progress) or not 0 <= progress <= 1:
        raise ValueError(
            f"Progress is the share of optimizer steps already taken, a number in [0, 1]; found "
            f"{progress!r}. Give state.global_step / state.max_steps."
        )
    return progress


def _product(factor: float, schedules: tuple[Schedule, ...]) -> Schedule:
    """Return numbers first and multiplied out; a lone schedule is itself."""
    flat: list[Schedule] = []
    for schedule in schedules:
        if isinstance(schedule, Product):
            factor *= schedule.factor
            flat += schedule.schedules
        else:
            flat.append(schedule)
    return flat[0] if factor == 1 and len(flat) == 1 else Product(factor, tuple(flat))


def is_number(value: object) -> bool:
    """Whether a hyper-parameter is a finite number; text from a file and True are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: float, what: str) -> float:
    if not is_number(value):
        raise ValueError(f"{what} is a finite number, found {value!r}. Write Linear(8, 1).")
    return value


def _shown(value: float) -> str:
    """Return the shortest text that reads back as the same number."""
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value))
