"""What the console prints on: its width, its colours, and how many columns a text takes there. Pure text."""

from __future__ import annotations

from unicodedata import combining, east_asian_width

from attrs import define, frozen

GOOD, BAD, ODD = "32", "31", "33"
"""It went well; it did not; something to look at."""
STRONG, FAINT = "1", "2"


@frozen
class Style:
    """Paints a text, where there are colours."""

    colours: bool = False

    def __call__(self, tone: str, text: str) -> str:
        return f"\x1b[{tone}m{text}\x1b[0m" if self.colours and tone and text else text

    def word(self, tone: str, line: str) -> str:
        """The line with its first word painted."""
        word, blank, rest = line.partition(" ")
        return self(tone, word) + blank + rest


PLAIN = Style()
"""Every text as it is."""


@define
class Page:
    """A terminal, whose width may change; or what is no terminal: no width, no colours."""

    width: int | None = None
    paint: Style = PLAIN


def columns(text: str) -> int:
    """How many columns of a terminal the text takes: two for a wide character, none for one that is put on another."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def _columns(char: str) -> int:
    if combining(char):
        return 0
    return 2 if east_asian_width(char) in "WF" else 1


def padded(text: str, width: int, right: bool = False) -> str:
    """The text with blanks up to `width` columns, before it if it is to stand at the right."""
    blanks = " " * (width - columns(text))
    return blanks + text if right else text + blanks


def cut(text: str, width: int | None) -> str:
    """At most `width` columns of it; None: all."""
    if width is None or columns(text) <= width:
        return text
    room = max(0, width - 1)
    if text.isascii():
        return text[:room] + "…"
    taken = 0
    for place, char in enumerate(text):
        taken += _columns(char)
        if taken > room:
            return text[:place] + "…"
    return text
