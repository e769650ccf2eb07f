"""The words of a console's line: bare ones, and JSON strings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dida.console.words import quoted, words_of

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('client "hello world" app', ["client", "hello world", "app"]),
        ('\tclient  ""\t"a\\nb" # "a comment', ["client", "", "a\nb"]),
        ('client "# 1" "a \\"b\\" c"', ["client", "# 1", 'a "b" c']),
        ('client {"user":"x"} it"s', ["client", '{"user":"x"}', 'it"s']),
        ("client C:\\new\\app [1]", ["client", "C:\\new\\app", "[1]"]),
        ('"client" "a"', ["client", "a"]),
        ("   # nothing", []),
    ],
)
def test_words(line: str, words: list[str]) -> None:
    """A word that begins with a double quote is a JSON string; all others are taken as they stand."""
    found = words_of(line)
    assert [word.text for word in found] == words
    assert all(line[word.start :].startswith(word.written) for word in found)
    assert not any(word.problem for word in found)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            'client "hello world app',
            "missing double quote: the string that begins at column 8 does not end with one",
        ),
        ('client "a"b app', "missing double quote: the string that begins at column 8 does not end with one"),
        ('client 1 "', "missing double quote: the string that begins at column 10 does not end with one"),
        (r'x "C:\Users"', r"invalid escape character in string: write \\ for a backslash"),
        ('x "a\tb"', "the string that begins at column 3 is not a JSON string: invalid character"),
        (r'x "\ud800"', "the string that begins at column 3 is not a JSON string"),
    ],
)
def test_bad_strings(line: str, problem: str) -> None:
    """What is wrong with a string is told with its place, and nothing behind it is read."""
    *before, last = words_of(line)
    assert problem in last.problem
    assert not any(word.problem for word in before)


@given(st.lists(TEXT, min_size=1))
def test_quoted_words_are_read_as_they_were(words: list[str]) -> None:
    """Whatever a word is, written as `quoted` writes it it is read as the same word."""
    assert [word.text for word in words_of(" ".join(map(quoted, words)))] == words


@given(TEXT)
def test_any_line(line: str) -> None:
    """Every line has words, or one that is wrong; no other end."""
    assert all(word.written for word in words_of(line))
