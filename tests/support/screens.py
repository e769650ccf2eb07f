"""What a person sees on a terminal: bytes in, a screen of lines out."""

from __future__ import annotations

import re
from typing import Any

from twisted.conch.insults.helper import TerminalBuffer
from twisted.conch.insults.insults import ClientProtocol

_UNKNOWN = re.compile(rb"\x1b\[(\?2004[hl]|\d*m)")
"""What changes no character on the screen, and Twisted does not know all of."""
_BEGUN = re.compile(rb"\x1b(\[[?\d]*)?$")


class Screen:
    """A terminal of so many columns and rows, as Twisted emulates it (for ASCII)."""

    def __init__(self, columns: int = 80, rows: int = 40) -> None:
        self._buffer: Any = TerminalBuffer()
        self._buffer.width, self._buffer.height = columns, rows
        self._client = ClientProtocol(lambda: self._buffer)
        self._rest = b""
        self._client.factory = None
        self._client.connectionMade()

    def put(self, data: bytes) -> None:
        """What was written to the terminal, in whatever pieces."""
        whole = _UNKNOWN.sub(b"", self._rest + data)
        cut = _BEGUN.search(whole)
        end = cut.start() if cut else len(whole)
        self._rest = whole[end:]
        self._client.dataReceived(whole[:end])

    @property
    def lines(self) -> list[str]:
        """The lines down to that of the cursor, without the blanks at their ends."""
        return [line.rstrip() for line in bytes(self._buffer).decode().split("\n")[: self._buffer.y + 1]]

    @property
    def last(self) -> str:
        """The line of the cursor."""
        return self.lines[-1]

    @property
    def column(self) -> int:
        """Where in it the cursor is."""
        return int(self._buffer.x)
