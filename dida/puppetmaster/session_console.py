"""The console of a session: standard input and output, the terminal's modes and width, the progress line."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.stdio import StandardIO
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from dida.console.editing import EditedLine
from dida.console.style import FAINT
from dida.protocols.stdio import Console, ConsoleListener, ScriptConsole, TypedConsole
from dida.protocols.terminal import EditedConsole
from dida.puppetmaster.tty import HistoryFile, TerminalMode, is_dumb, page_of, width_of

OUTPUT_DEADLINE = 2.0
"""Time-out for a slow reader of the last lines, in seconds."""
PROGRESS_INTERVAL = 0.2
"""Time between two updates of the progress line, in seconds."""


class SessionConsole:
    """The console that fits standard input and output. Commands print here (`dida.puppetmaster.line_work.Output`).

    `listener` receives the input; `history` is the file of typed lines.
    """

    def __init__(self, reactor: Any, listener: ConsoleListener, history: str) -> None:
        self.reactor = reactor
        self.page = page_of(1, os.environ)
        self.protocol = self._protocol(listener)
        self._terminal = TerminalMode(0) if isinstance(self.protocol, EditedConsole) else None
        self._history = HistoryFile(history, self.say)
        self._bar = ""
        self._streams: list[tuple[int, bool]] = []
        self._waiting: LoopingCall | None = None

    def _protocol(self, listener: ConsoleListener) -> Console:
        if not os.isatty(0):
            return ScriptConsole(listener)
        if not os.isatty(1) or is_dumb(os.environ):
            return TypedConsole(listener)
        return EditedConsole(self.page, EditedLine(), listener)

    @property
    def plays_script(self) -> bool:
        """Whether standard input is a script."""
        return isinstance(self.protocol, ScriptConsole)

    def open(self) -> None:
        """Take over standard input and output."""
        self._streams = [(os.dup(stream), os.get_blocking(stream)) for stream in (0, 1)]
        if self._terminal is not None:
            self._terminal.raw()
        StandardIO(self.protocol, reactor=self.reactor)
        if self.page.width is not None:
            signal.signal(signal.SIGWINCH, self._resized)

    def _resized(self, number: int, frame: object) -> None:
        self.page.width = width_of(1)
        self.reactor.callFromThread(self.protocol.draw)

    def load_history(self) -> None:
        """Read the lines of earlier sessions."""
        if isinstance(self.protocol, EditedConsole):
            self.protocol.line = EditedLine(self._history.lines())

    def keep(self, text: str) -> None:
        """Add a typed line to the history file."""
        if isinstance(self.protocol, EditedConsole):
            self._history.append(text.strip())

    # --- output ---------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Print a line."""
        if self.protocol.transport is not None:
            self.protocol.say(text)

    def say_aside(self, text: str) -> None:
        """Print a line of minor importance."""
        self.say(self.page.paint.word(FAINT, text))

    def progress(self, text: str) -> None:
        """Show the progress of one command in the last line; an empty text removes it."""
        self._bar = text
        if self.protocol.transport is not None:
            self.protocol.progress(text)

    def show_waiting(self, line: Callable[[], str], on_bug: Callable[[Failure], None]) -> None:
        """Keep a progress line up to date while a script is played on a terminal; `line` returns it."""
        if self.page.width is not None and not is_dumb(os.environ):
            self._waiting = LoopingCall(lambda: self.protocol.progress(self.page.paint(FAINT, self._bar or line())))
            self._waiting.clock = self.reactor
            self._waiting.start(PROGRESS_INTERVAL).addErrback(on_bug)

    def suspend(self) -> None:
        """Stop the process, as Ctrl-Z does; return when it is continued."""
        assert self._terminal is not None
        self.protocol.rest()
        self._terminal.suspend()
        self.page.width = width_of(1)
        self.protocol.prompt()

    # --- the end --------------------------------------------------------------------------------

    def rest(self) -> None:
        """Show no prompt and no progress any more, and restore the terminal's modes."""
        if self._waiting is not None and self._waiting.running:
            self._waiting.stop()
        self.protocol.rest()
        if self._terminal is not None:
            self._terminal.restore()

    async def close(self) -> None:
        """Flush the output, and restore standard input and output."""
        if self.protocol.transport is not None:
            cast(Any, self.protocol.transport).loseConnection()
            gone: Deferred[None] = self.protocol.gone
            await gone.addTimeout(OUTPUT_DEADLINE, self.reactor, lambda result, seconds: None)
        for stream, blocking in self._streams:
            os.set_blocking(stream, blocking)
            os.close(stream)
