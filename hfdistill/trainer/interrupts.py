"""`Interrupts` ends a run after Ctrl-C, SIGTERM or SIGUSR1 at its next step, with a checkpoint."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from transformers import TrainerCallback

from hfdistill.files.endings import EXIT_CODES, handled, is_free

logger = logging.getLogger(__name__)

_AGAIN = 1.0
"""Seconds in which a second signal is the launcher's copy of the first: it passes on what all have had."""


class Interrupts(TrainerCallback):
    """Turns the first signal of a run into a checkpoint at the end of the step, and then ends the run.

    The second signal ends it at once. After Ctrl-C that is a KeyboardInterrupt, after SIGTERM and SIGUSR1,
    which schedulers send, the exit codes of `EXIT_CODES`. SIGTERM is left alone on several processes: there a
    launcher sends it when another process has died, for which a checkpoint would wait.
    """

    def __init__(self, newest: Callable[[], Path | None]) -> None:
        self.newest = newest
        self.requested: signal.Signals | None = None
        self.agreed = False
        """Whether a process of several is to stop; the trainer sets it on all of them in the same step."""
        self._first, self._process = 0.0, os.getpid()
        self._at: tuple[int, int] | None = None

    @contextlib.contextmanager
    def watching(self, *, processes: int) -> Iterator[None]:
        """While open, signals that would kill the run ask it to end instead.

        Only where nobody else has set a handler for them, and in the main thread.

        Raises:
            KeyboardInterrupt: with one line that says what is saved and how the run goes on.
            SystemExit: after SIGTERM or SIGUSR1, with 143 or 75.
        """
        self.requested, self.agreed, self._at, self._process = None, False, None, os.getpid()
        heard: list[signal.Signals] = []
        if threading.current_thread() is threading.main_thread():
            heard = [each for each in EXIT_CODES if is_free(each)]
            heard = heard if processes == 1 else [each for each in heard if each != signal.SIGTERM]
            if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
                heard.append(signal.SIGINT)
        try:
            with handled(heard, self._on_signal):
                yield
        except KeyboardInterrupt as error:
            if error.args:
                raise
            raise KeyboardInterrupt(self.message()) from None

    def _on_signal(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:  # a worker of the data loader, which inherits the handler
            return
        now = time.monotonic()
        if self.requested is None:
            self.requested, self._first = signal.Signals(number), now
            logger.warning("Stopping after this step, with a checkpoint. Once more stops at once.")
        elif now - self._first > _AGAIN:
            self._end()

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Ask for a checkpoint; at the end of an epoch a step later, when its evaluation has been."""
        self._at = state.global_step, state.max_steps
        if not self._asked(args):
            return
        if args.save_strategy == "no":
            self._end()
        if state.epoch is None or not float(state.epoch).is_integer():
            control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """End the run, now that it can be resumed."""
        if self._asked(args):
            self._end()

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """End here where the run had no step left, before anything that follows it."""
        if self._asked(args):
            self._end()

    def _asked(self, args: Any) -> bool:
        return self.agreed if args.world_size > 1 else self.requested is not None

    def _end(self) -> NoReturn:
        """Leave as the signal asks."""
        if self.requested in EXIT_CODES:
            logger.warning("%s", self.message())
            raise SystemExit(EXIT_CODES[self.requested])
        raise KeyboardInterrupt(self.message())

    def message(self) -> str:
        """Return one line that says where the run stood, what is saved, and how it goes on."""
        newest = self.newest()
        stood = "before the first step" if self._at is None else f"at step {self._at[0]} of {self._at[1]}"
        if newest is None:
            return f"Interrupted {stood}. No checkpoint is saved: the same command begins anew."
        return (
            f"Interrupted {stood}; {newest} is saved. The same command goes on from step "
            f"{newest.name.removeprefix('checkpoint-')} where it calls train(resume_from_checkpoint=True) or "
            "is `hfdistill train`."
        )
