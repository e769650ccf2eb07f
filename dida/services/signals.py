"""What signals do to a node's process: TERM and INT end it in order, HUP begins a new log, USR1 never kills."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

ENDING = (signal.SIGTERM, signal.SIGINT)


def outlive_signals() -> None:
    """Survive HUP and USR1 from now on, and end on INT without a traceback, until `Signals` says what they do.

    Handlers, not SIG_IGN: a program that is started from here begins with the default.
    """
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: None)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


class Signals:
    """The signals of a process that runs `reactor`.

    `reopen` and `rotate` are called in the reactor; `last_words` right before a second TERM or INT ends the process.
    """

    def __init__(
        self, reactor: Any, reopen: Callable[[], None], rotate: Callable[[], None], last_words: Callable[[], None]
    ) -> None:
        self._reactor = reactor
        self._asked = False
        self._last_words = last_words
        signal.signal(signal.SIGHUP, lambda number, frame: reactor.callFromThread(reopen))
        signal.signal(signal.SIGUSR1, lambda number, frame: reactor.callFromThread(rotate))
        reactor.callWhenRunning(self._take_over)

    def _take_over(self) -> None:
        """Twisted's own handlers are there by now: they stop the reactor, and keep the signal for the exit status."""
        for number in ENDING:
            first = signal.getsignal(number)
            if first is signal.SIG_DFL and number is signal.SIGINT:
                first = self._reactor.sigInt
            if callable(first):  # a job in the background of a script ignores INT
                signal.signal(number, self._handler(first))

    def _handler(self, first: Any) -> Callable[[int, object], None]:
        def end(number: int, frame: object) -> None:
            if self._asked:
                self._last_words()
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            self._asked = True
            first(number, frame)

        return end
