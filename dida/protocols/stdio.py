"""The puppetmaster's console on standard input and output, and its debug port.

A console says lines, and tells what comes in: `ScriptConsole` a whole script, `TypedConsole` typed lines at
a prompt, where the terminal itself edits them; `KeyReader` that Enter was pressed. On a terminal that can do more
there is `dida.protocols.terminal`. What is printed goes through `say` and `progress` alone.
"""

from __future__ import annotations

from collections.abc import Callable

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
"""Bytes of a typed line."""


@implementer(IHalfCloseableProtocol)
class Console(Protocol):
    """What every console has: `say`, and `on_gone`, called when nobody can read any more. Not all have a prompt."""

    def __init__(self) -> None:
        self.on_gone: Callable[[], None] = lambda: None
        self.gone: Deferred[None] = Deferred()
        """Fires when the console is closed."""

    def say(self, text: str) -> None:
        """Print a line."""
        self._write(text + "\n")

    def progress(self, text: str) -> None:
        """Keep this text in the last line of the terminal; an empty one: no more."""

    def prompt(self) -> None:
        """Ask for the next line."""

    def draw(self) -> None:
        """Show the prompt and what was typed again."""

    def rest(self) -> None:
        """Ask, and show, no more."""

    def _write(self, text: str) -> None:
        if self.transport is not None:
            self.transport.write(text.encode(errors="replace"))

    def readConnectionLost(self) -> None:
        """Standard input has ended."""

    def writeConnectionLost(self) -> None:
        """Standard output is closed, as by `| head`."""
        self.on_gone()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.transport = None
        self.on_gone()
        if not self.gone.called:
            self.gone.callback(None)


class ScriptConsole(Console):
    """Standard input is a script: it is read whole, up to one byte more than a script may have."""

    def __init__(self, on_script: Callable[[bytes], None]) -> None:
        super().__init__()
        self._on_script = on_script
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
        self._on_script(bytes(self._data))


class TypedConsole(Console):
    """Standard input is a terminal: typed lines at a prompt. What is said meanwhile stands behind it."""

    def __init__(self, on_line: Callable[[str], None], on_end: Callable[[], None]) -> None:
        super().__init__()
        self._on_line = on_line
        self._on_end = on_end
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
            self._on_line(line.decode(errors="replace"))
        if lines:
            self.prompt()
        if self._buffer.overlong:
            self._buffer = grammar.LineBuffer(MAX_TYPED)
            self.say(f"that line was longer than {MAX_TYPED} bytes: it was dropped")

    def readConnectionLost(self) -> None:
        self.rest()
        self._on_end()


class KeyReader(Protocol):
    """A terminal beside a script on standard input: tells when Enter is pressed, or that it is gone."""

    def __init__(self, on_key: Callable[[], None]) -> None:
        self._on_key = on_key

    def dataReceived(self, data: bytes) -> None:
        for _ in range(data.count(b"\n")):
            self._on_key()
