"""What the console prints on: its width, its colours, the columns of a text, and its lines.

rich measures and wraps. It is imported when it is first needed, as only consoles need it, and it takes longer to import
than all of them.
"""

from __future__ import annotations

from attrs import define, frozen

GOOD, BAD, ODD = "32", "31", "33"
"""Success; failure; something to look at."""
STRONG, FAINT = "1", "2"


@frozen
class Style:
    """Colours a text, on a terminal with colours."""

    colours: bool = False

    def __call__(self, tone: str, text: str) -> str:
        return f"\x1b[{tone}m{text}\x1b[0m" if self.colours and tone and text else text

    def word(self, tone: str, line: str) -> str:
        """Return the line with its first word coloured."""
        word, blank, rest = line.partition(" ")
        return self(tone, word) + blank + rest


PLAIN = Style()
"""No colours."""


@define
class Page:
    """A terminal, whose width may change; or another output, with no width and no colours."""

    width: int | None = None
    paint: Style = PLAIN


def columns(text: str) -> int:
    """Return how many columns of a terminal the text takes; an emoji of several characters takes two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def graphemes(text: str) -> list[tuple[str, int]]:
    """Return the characters as a terminal shows them, an emoji of several as one, each with its columns."""
    if text.isascii():
        return [(char, 1) for char in text]
    from rich.cells import split_graphemes

    return [(text[start:end], width) for start, end, width in split_graphemes(text)[0]]


def padded(text: str, width: int, right: bool = False) -> str:
    """Return the text with blanks up to `width` columns: before it if it stands at the right."""
    blanks = " " * (width - columns(text))
    return blanks + text if right else text + blanks


def cut(text: str, width: int | None) -> str:
    """Return the text, cut to at most `width` columns; None: all of it."""
    if width is None or columns(text) <= width:
        return text
    room = max(0, width - 1)
    if text.isascii():
        return text[:room] + "…"
    from rich.cells import set_cell_size

    return set_cell_size(text, room).rstrip() + "…"


def wrapped(text: str, width: int, first: str = "", other: str = "") -> list[str]:
    """Return the text in lines of at most `width` columns, the first one after `first`, the others after `other`."""
    from rich.console import Console
    from rich.text import Text

    words = " ".join(text.split())
    if not words:
        return []
    lines = Text(words).wrap(Console(color_system=None), max(1, width - columns(other)))
    return [(other if place else first) + line.plain.rstrip() for place, line in enumerate(lines)]


def bar(done: int, size: int, width: int) -> str:
    """Return a progress bar of at most `width` columns."""
    from rich.console import Console
    from rich.progress_bar import ProgressBar

    console = Console(color_system=None, width=width)
    return "".join(part.text for part in console.render(ProgressBar(max(1, size), done, width)) if part.text != "\n")
