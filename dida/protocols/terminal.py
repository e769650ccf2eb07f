"""The console on a terminal in raw mode: a prompt, a line that is edited, and what is said above it.

Keys are parsed by Twisted's insults; what they do to the line is `dida.console.editing`'s, what Tab does to it is
`dida.console.completion`'s. The line is drawn anew after whatever changed it, always in one row of the terminal: a
longer one is scrolled sideways. So it can be cleared and drawn again around what is said while it is being typed.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable
from typing import Any

from twisted.conch.insults.insults import ServerProtocol, TerminalProtocol

from dida.console.completion import complete
from dida.console.editing import MAX_TYPED, EditedLine
from dida.console.style import STRONG, Page, columns
from dida.console.tables import WIDTH, in_columns
from dida.protocols.stdio import CLEAR_LINE, PROMPT, Console

BELL = "\x07"
PASTES_MARKED, PASTES_PLAIN = "\x1b[?2004h", "\x1b[?2004l"
"""Whether the terminal says where a paste begins and ends."""
PASTE, PASTED = b"\x1b[200~", b"\x1b[201~"
MAX_SEQUENCE = 32
"""Bytes of what one key may send."""

_Key = tuple[bytes, bytes | None]
_keys: Any = ServerProtocol
_ALT = _keys.ALT

KEYS: dict[_Key, str] = {
    (b"\x01", None): "home",
    (b"\x02", None): "left",
    (b"\x05", None): "end",
    (b"\x06", None): "right",
    (b"\x08", None): "backspace",
    (b"\x7f", None): "backspace",
    (b"\x0b", None): "kill_to_end",
    (b"\x0e", None): "newer",
    (b"\x10", None): "older",
    (b"\x14", None): "transpose",
    (b"\x15", None): "kill_to_start",
    (b"\x17", None): "kill_word_left",
    (b"\x19", None): "yank",
    (b"b", _ALT): "word_left",
    (b"f", _ALT): "word_right",
    (b"d", _ALT): "kill_word_right",
    (b"\x7f", _ALT): "kill_word_left",
    (b"\x1b[1;5D", None): "word_left",
    (b"\x1b[1;5C", None): "word_right",
    (b"\x1b[OH", None): "home",
    (b"\x1b[OF", None): "end",
    (_keys.LEFT_ARROW, None): "left",
    (_keys.RIGHT_ARROW, None): "right",
    (_keys.UP_ARROW, None): "older",
    (_keys.DOWN_ARROW, None): "newer",
    (_keys.HOME, None): "home",
    (_keys.END, None): "end",
    (_keys.DELETE, None): "delete",
}
"""What each key does to the line: a method of `EditedLine`. The others are methods of the console."""


class _Keys(TerminalProtocol):
    """Passes keys on, the unknown ones too."""

    def __init__(self, on_key: Callable[[bytes, bytes | None], None]) -> None:
        self._on_key = on_key

    def keystrokeReceived(self, keyID: bytes, modifier: bytes | None) -> None:
        self._on_key(keyID, modifier)

    def unhandledControlSequence(self, seq: bytes) -> None:
        self._on_key(seq, None)


class EditedConsole(Console):
    """Standard input and output are a terminal in raw mode."""

    def __init__(
        self, page: Page, line: EditedLine, on_line: Callable[[str], None], on_end: Callable[[], None]
    ) -> None:
        super().__init__()
        self.page = page
        self.line = line
        self.known: Callable[[str, str, str], Iterable[str]] = lambda command, place, last: ()
        """The words that a command takes at a place of its usage line; the last word as far as it is typed."""
        self.on_interrupt: Callable[[], None] = lambda: None
        """Ctrl-C, when no line is being typed."""
        self.on_suspend: Callable[[], None] = lambda: None
        """Ctrl-Z"""
        self._on_line = on_line
        self._on_end = on_end
        self._keys = ServerProtocol(_Keys, self._on_key)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._prompting = False
        self._progress = ""
        self._marked = False
        self._pasting = False
        self._last: bytes = b""
        self._bound: dict[_Key, Callable[[], None]] = {
            (b"\r", None): self._enter,
            (b"\n", None): self._enter,
            (b"\t", None): self._complete,
            (b"\x03", None): self._interrupt,
            (b"\x04", None): self._delete_or_end,
            (b"\x07", None): self._stop_search,
            (b"\x0c", None): self._clear_screen,
            (b"\x12", None): self._search,
            (b"\x1a", None): lambda: self.on_suspend(),
        }

    def connectionMade(self) -> None:
        self._keys.makeConnection(self.transport)

    # --- what is shown --------------------------------------------------------------------------

    def prompt(self) -> None:
        """From now on there is a line to type, until `rest`."""
        self._prompting = self._marked = True
        self._write(PASTES_MARKED)
        self.draw()

    def rest(self) -> None:
        """Take the line off the terminal; nothing is typed any more."""
        if self._prompting:
            self._prompting = False
            self._write(CLEAR_LINE)
        if self._marked:
            self._marked = False
            self._write(PASTES_PLAIN)

    def say(self, text: str) -> None:
        if self._prompting:
            self._write(f"{CLEAR_LINE}{text}\n")
            self.draw()
        else:
            self._write(text + "\n")

    def progress(self, text: str) -> None:
        """It stands where the prompt does, as long as nothing is typed."""
        self._progress = text
        self.draw()

    def draw(self) -> None:
        """The prompt and the line, as they are now, over what stood there."""
        if not self._prompting:
            return
        if self._progress and not self.line.text and self.line.sought is None:
            self._write(CLEAR_LINE + self._progress)
            return
        prompt = PROMPT if self.line.sought is None else f"search '{self.line.sought[-20:]}': "
        room = (self.page.width or WIDTH) - columns(prompt) - 1
        shown, at = self.line.window(room)
        back = columns(shown) - at
        self._write(f"\r{self.page.paint(STRONG, prompt)}{shown}\x1b[K" + (f"\x1b[{back}D" if back else ""))

    def _finish(self, behind: str = "") -> None:
        """Leave the line on the terminal as it is, whole, and go below it."""
        self._write(f"{CLEAR_LINE}{self.page.paint(STRONG, PROMPT)}{self.line.text}{behind}\n")

    def _write(self, text: str) -> None:
        super()._write(text.replace("\n", "\r\n"))

    # --- keys -----------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        self._keys.dataReceived(data)
        if self._keys.state == b"bracket-escaped" and len(self._keys.escBuf) > MAX_SEQUENCE:
            self._keys.state = b"data"
        self.draw()

    def readConnectionLost(self) -> None:
        self._end()

    def _on_key(self, key: bytes, modifier: bytes | None) -> None:
        if not self._prompting:
            return
        last, self._last = self._last, key
        if last == b"\r" and key == b"\n":
            return
        if key in (PASTE, PASTED):
            self._pasting = key == PASTE
        elif key == b"\t" and self._pasting:
            self.line.put(" ")
        elif (key, modifier) in self._bound:
            self._bound[key, modifier]()
        elif (key, modifier) in KEYS:
            name = KEYS[key, modifier]
            if name != "backspace":
                self.line.found()
            getattr(self.line, name)()
        elif modifier is None and len(key) == 1 and key >= b" ":
            self.line.put(self._decoder.decode(key))

    def _enter(self) -> None:
        self.line.found()
        overlong = self.line.overlong
        self._finish()
        text = self.line.take()
        self._prompting = False
        if overlong:
            self.say(f"that line was longer than {MAX_TYPED} characters: it was dropped")
        else:
            self._on_line(text)
        self._prompting = True

    def _interrupt(self) -> None:
        typed = bool(self.line.text) or self.line.sought is not None
        self._finish("^C")
        self.line.drop()
        if not typed:
            self._prompting = False
            self.on_interrupt()
            self._prompting = True

    def _delete_or_end(self) -> None:
        if self.line.text:
            self.line.delete()
        else:
            self._finish("quit")
            self._end()

    def _end(self) -> None:
        self._prompting = False
        self._on_end()

    def _search(self) -> None:
        self.line.search()

    def _stop_search(self) -> None:
        if self.line.sought is not None:
            self.line.drop()

    def _clear_screen(self) -> None:
        self._write("\x1b[H\x1b[2J")

    def _complete(self) -> None:
        line = self.line
        line.found()
        before = line.text[: line.cursor]
        found = complete(before, self.known)
        common = found.common()
        if len(found.words) == 1:
            whole = not common.endswith("/") and line.text[line.cursor : line.cursor + 1] != " "
            line.replace(found.start, common + " " * whole)
        elif len(common) > len(before) - found.start:
            line.replace(found.start, common)
        elif found.words:
            self._finish()
            self._prompting = False
            for row in in_columns(found.words, self.page.width):
                self.say(row)
            self._prompting = True
        else:
            self._write(BELL)
