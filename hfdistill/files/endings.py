"""How a process ends where a scheduler asks it to: with a code of its own, and nothing half done."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

EXIT_CODES: dict[signal.Signals, int] = {signal.SIGTERM: 128 + signal.SIGTERM}
"""What a process leaves with: 143 after SIGTERM, and 75 (EX_TEMPFAIL: try again) after SIGUSR1."""
if hasattr(signal, "SIGUSR1"):
    EXIT_CODES[signal.SIGUSR1] = 75


class Ended(SystemExit):
    """A signal ended the process outside of any training; `number` says which."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(EXIT_CODES[number])
        self.number = number


class EndInOrder:
    """A handler that ends this process by an exception, and processes forked from it as without it."""

    def __init__(self) -> None:
        self._process = os.getpid()

    def __call__(self, number: int, frame: Any) -> None:
        """End as the signal asks."""
        if os.getpid() == self._process:
            raise Ended(signal.Signals(number))
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def is_free(number: signal.Signals) -> bool:
    """Whether nobody but this library handles a signal, so that a training may for as long as it lasts."""
    handler = signal.getsignal(number)
    return handler == signal.SIG_DFL or isinstance(handler, EndInOrder)


@contextmanager
def handled(numbers: Iterable[signal.Signals], handler: Any) -> Iterator[None]:
    """While open, a handler takes these signals; afterwards the one before does, unless another was set."""
    before = {each: signal.getsignal(each) for each in numbers}
    for each in before:
        signal.signal(each, handler)
    try:
        yield
    finally:
        for each, usual in before.items():
            if signal.getsignal(each) == handler:
                signal.signal(each, usual)


@contextmanager
def ending_in_order() -> Iterator[None]:
    """While open, the signals of EXIT_CODES end this process as an exception does.

    Only where nobody else has set a handler for them, in the main thread and on one process alone: a launcher
    of several sends SIGTERM where one of them has died, and the others would wait for it without end.
    """
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    main = threading.current_thread() is threading.main_thread()
    with handled([each for each in EXIT_CODES if alone and main and is_free(each)], EndInOrder()):
        yield


def silence_unread() -> bool:
    """Send standard output and errors nowhere where they are pipes that nobody reads; return whether any is.

    What is left in their buffers would fail again when the process ends.
    """
    unread = [stream for stream in (1, 2) if _is_unread(stream)]
    for stream in unread:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream)
        os.close(nowhere)
    return bool(unread)


def _is_unread(stream: int) -> bool:
    if not hasattr(select, "poll"):
        return False
    look = select.poll()
    look.register(stream, select.POLLOUT)
    return any(event & select.POLLERR for _, event in look.poll(0))
