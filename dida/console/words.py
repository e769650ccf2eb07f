"""The words of a console's line: separated by blanks, or JSON strings, as on the line protocol.

A word that begins with a double quote is a JSON string, so that it may have blanks in it, or be empty. All other
words are taken as they stand. A word that begins with `#` begins a comment.
"""

from __future__ import annotations

import re

import msgspec
from attrs import frozen

_STRING = r'"(?:[^"\\]|\\.)*"(?!\S)'
_WORD = re.compile(rf'{_STRING}|".*|\S+', re.DOTALL)
_NEEDS_QUOTES = re.compile(r'["#]|.*\s|\Z', re.DOTALL)


@frozen
class Word:
    """A word of a line."""

    start: int
    """Its place in the line."""
    written: str
    """The word as written."""
    text: str
    """Its value; the content of a JSON string."""
    problem: str = ""
    """What is wrong with it."""


def words_of(line: str) -> list[Word]:
    """Return the words of a line, up to a comment. Only the last one can have a problem."""
    words: list[Word] = []
    for found in _WORD.finditer(line):
        written = found[0]
        if written[0] == "#":
            break
        word = _string(found.start(), written) if written[0] == '"' else Word(found.start(), written, written)
        words.append(word)
        if word.problem:
            break
    return words


def _string(start: int, written: str) -> Word:
    where = f"the string that begins at column {start + 1}"
    if not re.fullmatch(_STRING, written, re.DOTALL):
        problem = f"missing double quote: {where} does not end with one"
        return Word(start, written.rstrip(), written[1:], problem)
    try:
        return Word(start, written, msgspec.json.decode(written, type=str))
    except (msgspec.DecodeError, UnicodeError) as refused:
        what = str(refused).removeprefix("JSON is malformed: ").partition(" (byte")[0]
        hint = r": write \\ for a backslash" if "escape" in what else ""
        return Word(start, written, written[1:-1], f"{where} is not a JSON string: {what}{hint}")


def quoted(word: str) -> str:
    """Return the word as written on a line: bare if possible, else as a JSON string."""
    return as_string(word) if _NEEDS_QUOTES.match(word) else word


def as_string(word: str) -> str:
    """Return the word as a JSON string."""
    return msgspec.json.encode(word).decode()
