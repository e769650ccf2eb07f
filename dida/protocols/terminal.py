"""The console on a terminal in raw mode: a prompt, a line editor, and output above it.

Twisted's insults parses the keys, `dida.console.editing` edits the line, `dida.console.completion` completes it. The
line is drawn again after each change, always in one row of the terminal: a longer one is scrolled sideways. So it can
be cleared and drawn again around output that comes while it is typed.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Any

from twisted.conch.insults.insults import ServerProtocol, TerminalProtocol

from dida.console.completion import complete
from dida.console.editing import MAX_TYPED, EditedLine
from dida.console.style import STRONG, Page, columns
from dida.console.tables import WIDTH, in_columns
from dida.protocols.stdio import CLEAR_LINE, PROMPT, Console, ConsoleListener

BELL = "\x07"
PASTES_MARKED, PASTES_PLAIN = "\x1b[?2004h", "\x1b[?2004l"
"""Have the terminal mark where a paste begins and ends, or not."""
PASTE, PASTED = b"\x1b[200~", b"\x1b[201~"
MAX_SEQUENCE = 32
"""Longest sequence that one key sends, in bytes."""

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
"""The method of `EditedLine` that each key calls. Other keys call methods of the console."""


class _Keys(TerminalProtocol):
    """Passes on all keys, also unknown ones."""

    def __init__(self, on_key: Callable[[bytes, bytes | None], None]) -> None:
        self._on_key = on_key

    def keystrokeReceived(self, keyID: bytes, modifier: bytes | None) -> None:
        self._on_key(keyID, modifier)

    def unhandledControlSequence(self, seq: bytes) -> None:
        self._on_key(seq, None)


class EditedConsole(Console):
    """Reads lines from a terminal in raw mode, with a line editor."""

    def __init__(self, page: Page, line: EditedLine, listener: ConsoleListener) -> None:
        super().__init__(listener)
        self.page = page
        self.line = line
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
            (b"\x1a", None): listener.suspended,
        }

    def connectionMade(self) -> None:
        self._keys.makeConnection(self.transport)

    # --- output -------------------------------------------------------------------------------

    def prompt(self) -> None:
        """Show the prompt, until `rest`."""
        self._prompting = self._marked = True
        self._write(PASTES_MARKED)
        self.draw()

    def rest(self) -> None:
        """Remove the line from the terminal; keys have no effect any more."""
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
        """Show it in place of the prompt, while nothing is typed."""
        self._progress = text
        self.draw()

    def draw(self) -> None:
        """Show the prompt and the line in place of what stood there."""
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
        """Leave the whole line on the terminal, and go below it."""
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
            self.listener.line_typed(text)
        self._prompting = True

    def _interrupt(self) -> None:
        typed = bool(self.line.text) or self.line.sought is not None
        self._finish("^C")
        self.line.drop()
        if not typed:
            self._prompting = False
            self.listener.interrupted()
            self._prompting = True

    def _delete_or_end(self) -> None:
        if self.line.text:
            self.line.delete()
        else:
            self._finish("quit")
            self._end()

    def _end(self) -> None:
        self._prompting = False
        self.listener.input_ended()

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
        found = complete(before, self.listener.words_at)
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
