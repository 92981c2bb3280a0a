"""A run's terminal: a heading for each phase, its progress, and nothing of the libraries below."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import datasets
import transformers
from tqdm.auto import tqdm
from transformers import TrainerCallback

from hfdistill.evaluation.report import TITLES, WIDTH, in_columns, show
from hfdistill.files import progress
from hfdistill.files.plain_data import printable
from hfdistill.files.progress import duration
from hfdistill.files.wording import worded


class Terminal:
    """Prints headings and lines to stderr, on the main process alone."""

    def __init__(self, phases: int, *, speaks: bool = True) -> None:
        self.phases, self.speaks, self.number = phases, speaks, 0

    def heading(self, text: str) -> None:
        """Begin the next phase: "2/4 student: 3 of 6 layers, 120 steps"."""
        self.number += 1
        self.line(f"{self.number}/{max(self.phases, self.number)} {text}")

    def line(self, text: str, *, indent: int = 0) -> None:
        """Print a text, on as many lines as a terminal needs to show it whole."""
        if self.speaks:
            margin = " " * indent
            for line in in_columns([printable(text, limit=1000)], width=WIDTH - indent):
                tqdm.write(margin + line, file=sys.stderr)

    def command(self, words: str) -> None:
        """Print what to type, on one line."""
        if self.speaks:
            tqdm.write(f"  {printable(words, limit=1000)}", file=sys.stderr)


class Progress(TrainerCallback):
    """Prints a phase's heading once the number of steps is known, then losses, scores and the time left.

    `on_begin` is called with the step that training begins after, where steps are left.
    """

    def __init__(self, terminal: Terminal, title: str, *, on_begin: Any = None) -> None:
        self.terminal, self.title, self.on_begin = terminal, title, on_begin
        self.bar: Any = None
        self.began_at, self.start = 0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Print the heading."""
        self.began_at, self.start = state.global_step, time.monotonic()
        steps = f"{state.max_steps:,} step{'' if state.max_steps == 1 else 's'}"
        if state.global_step >= state.max_steps:
            self.terminal.heading(f"{self.title}: is finished, at step {state.global_step:,} of {steps}")
            return
        goes_on = f", goes on from step {state.global_step:,}" if state.global_step else ""
        self.terminal.heading(f"{self.title}, {steps}{goes_on}")
        if self.on_begin is not None and state.is_world_process_zero:
            self.on_begin(state.global_step)
        if self.terminal.speaks and state.is_world_process_zero and sys.stderr.isatty():
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, leave=False, dynamic_ncols=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
        """Print a loss with its parts, or the teacher's score."""
        logs = logs or {}
        if state.is_world_process_zero and (text := self._text(logs, state)):
            self.terminal.line(text, indent=2)

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _text(self, logs: Mapping[str, Any], state: Any) -> str:
        if "teacher_accuracy" in logs:
            rows = next(f"{logs[name]} {name.removeprefix('teacher_')}" for name in _UNITS if name in logs)
            return f"the teacher is right on {show(logs['teacher_accuracy'], 'accuracy')} of {rows}"
        if "eval_loss" in logs:
            scores = {name.removeprefix("eval_"): value for name, value in logs.items() if _is_score(name)}
            parts = [f"{TITLES.get(name, name)} {show(value, name)}" for name, value in scores.items()]
            return ", ".join([f"epoch {state.epoch:.3g}: {'; '.join(parts) or 'held-out rows'}",
                              f"loss {logs['eval_loss']:.3f}"])  # fmt: skip
        if "loss" not in logs:
            return ""
        parts = [f"{n.removeprefix('loss_')} {v:.3f}" for n, v in logs.items() if n.startswith("loss_")]
        inside = f" ({', '.join(parts)})" if len(parts) > 1 else ""
        return f"step {state.global_step:>{len(str(state.max_steps))}}: loss {logs['loss']:.3f}{inside}" + (
            f", {self._left(state)}" if state.global_step < state.max_steps else ""
        )

    def _left(self, state: Any) -> str:
        steps = max(1, state.global_step - self.began_at)
        seconds = (time.monotonic() - self.start) / steps * (state.max_steps - state.global_step)
        return f"{duration(seconds)} left"


_UNITS = ("teacher_rows", "teacher_words")


def _is_score(name: str) -> bool:
    """Return whether a logged number is a score of an evaluation, and neither its loss nor its time."""
    timing = ("runtime", "samples_per_second", "steps_per_second", "loss", "model_preparation_time")
    return name.startswith("eval_") and name.removeprefix("eval_") not in timing


class FrequentCheckpoints(TrainerCallback):
    """Saves a checkpoint at the end of each epoch and every few minutes, whatever `save_steps` says."""

    def __init__(self, seconds: float = 180.0) -> None:
        self.seconds, self.saved_at, self.saved_step = seconds, time.monotonic(), -1

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Start the clock."""
        self.saved_at, self.saved_step = time.monotonic(), state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Save where the last checkpoint is too old; on one process, since clocks differ."""
        if args.world_size == 1 and time.monotonic() - self.saved_at > self.seconds:
            control.should_save = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Save an epoch, unless it is saved."""
        if state.global_step > self.saved_step:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Start the clock anew."""
        self.saved_at, self.saved_step = time.monotonic(), state.global_step


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """While open, no load reports and no bars for reading and writing files; downloads keep theirs.

    Warnings of this library are printed once each, above a bar, and how far long work is.
    """
    log = transformers.utils.logging
    level, had_bars = log.get_verbosity(), log.is_progress_bar_enabled()
    data_bars = datasets.are_progress_bars_disabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        with _each_warning_once():
            yield
    finally:
        log.set_verbosity(level)
        (log.enable_progress_bar if had_bars else log.disable_progress_bar)()
        (datasets.disable_progress_bars if data_bars else datasets.enable_progress_bars)()


@contextmanager
def _each_warning_once() -> Iterator[None]:
    """Print what this library logs by `_Notices`, and not by the handlers that print all logs."""
    ours, root, notices = logging.getLogger("hfdistill"), logging.getLogger(), _Notices()
    printing = [handler for handler in root.handlers if type(handler) is logging.StreamHandler]
    level = progress.logger.level
    progress.logger.setLevel(logging.INFO)
    ours.addHandler(notices)
    for handler in printing:
        handler.addFilter(_is_foreign)
    try:
        yield
    finally:
        progress.logger.setLevel(level)
        ours.removeHandler(notices)
        for handler in printing:
            handler.removeFilter(_is_foreign)


class _Notices(logging.Handler):
    """Prints "! message" for each warning, once, and how far long work is."""

    def __init__(self) -> None:
        super().__init__()
        self.printed: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record that was not printed yet."""
        is_warning = record.levelno >= logging.WARNING
        text = printable(worded(record.getMessage()), limit=1000)
        if text not in self.printed and (is_warning or record.name == progress.logger.name):
            self.printed.add(text)
            for line in in_columns([f"! {text}" if is_warning else text]):
                tqdm.write(line, file=sys.stderr)


def _is_foreign(record: logging.LogRecord) -> bool:
    """Return whether another library logged it."""
    return record.name.partition(".")[0] != "hfdistill"
