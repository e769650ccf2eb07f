"""The puppetmaster's console on standard input and output.

A console prints lines, and passes input to its listener: `ScriptConsole` a whole script, `TypedConsole` lines typed at
a prompt, which the terminal itself edits. `KeyReader` reports presses of Enter. `dida.protocols.terminal` serves
terminals that can move their cursor. All output goes through `say` and `progress`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from dida.console.data_files import MAX_SIZE
from dida.wire import grammar

PROMPT = "dida> "
CLEAR_LINE = "\r\x1b[K"
MAX_TYPED = 10_000
"""Longest typed line, in bytes."""


class ConsoleListener:
    """Receives what comes in from a console. Each method does nothing unless it is overridden."""

    def script_read(self, data: bytes) -> None:
        """Standard input was a script, and has ended."""

    def line_typed(self, text: str) -> None:
        """A line was typed."""

    def input_ended(self) -> None:
        """No further line will be typed."""

    def output_closed(self) -> None:
        """Nobody can read the output any more."""

    def interrupted(self) -> None:
        """Ctrl-C was typed on an empty line."""

    def suspended(self) -> None:
        """Ctrl-Z was typed."""

    def words_at(self, command: str, place: str, last: str) -> Iterable[str]:
        """Return the words that a command takes at a place of its usage line; the last word is typed up to `last`."""
        return ()


@implementer(IHalfCloseableProtocol)
class Console(Protocol):
    """The base of all consoles: `say`, and what happens when the streams close. Not all have a prompt."""

    def __init__(self, listener: ConsoleListener) -> None:
        self.listener = listener
        self.gone: Deferred[None] = Deferred()
        """Fires when the console is closed."""

    def say(self, text: str) -> None:
        """Print a line."""
        self._write(text + "\n")

    def progress(self, text: str) -> None:
        """Keep this text in the last line of the terminal; an empty text removes it."""

    def prompt(self) -> None:
        """Show the prompt for the next line."""

    def draw(self) -> None:
        """Show the prompt and the typed text again."""

    def rest(self) -> None:
        """Remove the prompt and the progress; show no more of them."""

    def _write(self, text: str) -> None:
        if self.transport is not None:
            self.transport.write(text.encode(errors="replace"))

    def readConnectionLost(self) -> None:
        """Standard input has ended."""

    def writeConnectionLost(self) -> None:
        """Standard output is closed, as by `| head`."""
        self.listener.output_closed()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.transport = None
        self.listener.output_closed()
        if not self.gone.called:
            self.gone.callback(None)


class ScriptConsole(Console):
    """Reads a script from standard input, whole, up to one byte more than a script may have."""

    def __init__(self, listener: ConsoleListener) -> None:
        super().__init__(listener)
        self._data = bytearray()
        self._progress = ""

    def say(self, text: str) -> None:
        self._write(f"{CLEAR_LINE}{text}\n{self._progress}" if self._progress else text + "\n")

    def progress(self, text: str) -> None:
        if text or self._progress:
            self._write(CLEAR_LINE + text)
        self._progress = text

    def rest(self) -> None:
        self.progress("")

    def dataReceived(self, data: bytes) -> None:
        self._data += data[: MAX_SIZE + 1 - len(self._data)]

    def readConnectionLost(self) -> None:
        self.listener.script_read(bytes(self._data))


class TypedConsole(Console):
    """Reads lines from a terminal, at a prompt. Output that comes meanwhile stands after the prompt."""

    def __init__(self, listener: ConsoleListener) -> None:
        super().__init__(listener)
        self._buffer = grammar.LineBuffer(MAX_TYPED)
        self._prompting = False

    def prompt(self) -> None:
        self._prompting = True
        self._write(PROMPT)

    def rest(self) -> None:
        if self._prompting:
            self._prompting = False
            self._write("\n")

    def say(self, text: str) -> None:
        self._write(f"\n{text}\n{PROMPT}" if self._prompting else text + "\n")

    def dataReceived(self, data: bytes) -> None:
        lines = self._buffer.take(data)
        if lines:
            self._prompting = False
        for line in lines:
            self.listener.line_typed(line.decode(errors="replace"))
        if lines:
            self.prompt()
        if self._buffer.overlong:
            self._buffer = grammar.LineBuffer(MAX_TYPED)
            self.say(f"that line was longer than {MAX_TYPED} bytes: it was dropped")

    def readConnectionLost(self) -> None:
        self.rest()
        self.listener.input_ended()


class KeyReader(Protocol):
    """Calls `on_key` at each press of Enter, on a terminal beside a script on standard input."""

    def __init__(self, on_key: Callable[[], None]) -> None:
        self._on_key = on_key

    def dataReceived(self, data: bytes) -> None:
        for _ in range(data.count(b"\n")):
            self._on_key()
