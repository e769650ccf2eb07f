"""Colours, and the columns that a text takes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dida.console.style import BAD, PLAIN, Style, columns, cut, graphemes, padded, wrapped


def test_colours() -> None:
    """A colour ends where the text ends; without colours, or a tone, nothing is added."""
    paint = Style(True)
    assert paint(BAD, "no") == "\x1b[31mno\x1b[0m"
    assert paint.word(BAD, "run r1 failed") == "\x1b[31mrun\x1b[0m r1 failed"
    assert [paint("", "no"), paint(BAD, ""), PLAIN(BAD, "no")] == ["no", "", "no"]


@pytest.mark.parametrize(("text", "width"), [("abc", 3), ("é✓", 2), ("日本", 4), ("e\u0301", 1), ("", 0)])
def test_columns(text: str, width: int) -> None:
    """Wide characters take two columns, combining ones none."""
    assert columns(text) == width
    assert columns(padded(text, 6)) == columns(padded(text, 6, right=True)) == 6


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [("abcd", 4, "abcd"), ("abcd", 3, "ab…"), ("abcd", None, "abcd"), ("日本語", 6, "日本語"), ("日本語", 4, "日…")],
)
def test_cut(text: str, width: int | None, shown: str) -> None:
    """What is cut says so, and is not wider."""
    assert cut(text, width) == shown


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("abc", 3),
        ("日本", 4),
        ("e\u0301", 1),
        ("👩\u200d👩\u200d👧", 2),
        ("❤\ufe0f", 2),
        ("🇩🇪", 2),
        ("👍🏽", 2),
        ("\u200b", 0),
    ],
)
def test_columns_of_odd_characters(text: str, width: int) -> None:
    """A text takes as many columns as a terminal gives it: an emoji of several characters takes two."""
    assert columns(text) == width
    assert sum(taken for _, taken in graphemes(text)) == width
    assert columns(cut(text * 3, 2 * max(1, width))) <= 2 * max(1, width)


def test_wrapped() -> None:
    """Lines are wrapped by the columns they take, not by their characters."""
    assert wrapped("日本語 日本語 one two", 10, "- ", "  ") == ["- 日本語", "  日本語", "  one two"]
    assert wrapped("", 10) == []


def test_rich_is_not_imported_early() -> None:
    """The start of a console, and of every node, does not wait for rich."""
    services = ["puppetmaster", "storage", "worker", "scheduler", "pcs"]
    code = (
        "; ".join(f"import dida.services.{name}" for name in services) + "; import sys; sys.exit('rich' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
