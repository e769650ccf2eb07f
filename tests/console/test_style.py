"""Colours, and the columns that a text takes."""

from __future__ import annotations

import pytest

from dida.console.style import BAD, PLAIN, Style, columns, cut, padded


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
