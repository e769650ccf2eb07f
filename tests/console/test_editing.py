"""The line being typed: what each key does, history, search, and the part of it that is shown."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dida.console.editing import MAX_HISTORY, MAX_TYPED, EditedLine
from dida.console.style import columns


def line(text: str, history: list[str] | None = None) -> EditedLine:
    """A line with the cursor where the bar is."""
    made = EditedLine([] if history is None else history)
    before, _, behind = text.partition("|")
    made.put(before + behind)
    made.cursor = len(before)
    return made


def shown(edited: EditedLine) -> str:
    return f"{edited.text[: edited.cursor]}|{edited.text[edited.cursor :]}"


@pytest.mark.parametrize(
    ("before", "key", "after"),
    [
        ("ab|c", "left", "a|bc"),
        ("|abc", "left", "|abc"),
        ("ab|c", "right", "abc|"),
        ("abc|", "right", "abc|"),
        ("ab|c", "home", "|abc"),
        ("ab|c", "end", "abc|"),
        ("ab|c", "backspace", "a|c"),
        ("|abc", "backspace", "|abc"),
        ("ab|c", "delete", "ab|"),
        ("abc|", "delete", "abc|"),
        ("crash s1|  now", "word_left", "crash |s1  now"),
        ("crash |s1", "word_left", "|crash s1"),
        ("crash| s1 now", "word_right", "crash s1| now"),
        ("cra|sh", "word_right", "crash|"),
        ("crash s1|", "kill_word_left", "crash |"),
        ("crash| s1 now", "kill_word_right", "crash| now"),
        ("crash |s1", "kill_to_end", "crash |"),
        ("crash |s1", "kill_to_start", "|s1"),
        ("carsh|", "transpose", "carhs|"),
        ("ca|rsh", "transpose", "cra|sh"),
        ("a|", "transpose", "a|"),
    ],
)
def test_keys(before: str, key: str, after: str) -> None:
    """Each key does what readline's does."""
    edited = line(before)
    getattr(edited, key)()
    assert shown(edited) == after


def test_yank() -> None:
    """What was killed last can be put elsewhere; a kill of nothing keeps it."""
    edited = line("wait 100 |client")
    edited.kill_to_end()
    edited.kill_to_end()
    edited.home()
    edited.yank()
    assert shown(edited) == "client|wait 100 "


def test_put() -> None:
    """What can't be seen is not put; what is too much is noticed, until the line is taken or dropped."""
    edited = line("é|")
    edited.put("a\tb\x1b✓")
    assert shown(edited) == "éab✓|"
    edited.put("x" * MAX_TYPED)
    assert edited.overlong and len(edited.text) == MAX_TYPED
    edited.take()
    assert not edited.overlong and edited.history == []


def test_history() -> None:
    """Up and down go through the lines and back to the new one; what was edited on the way is there again."""
    edited = line("new|", ["one", "two"])
    edited.older()
    assert shown(edited) == "two|"
    edited.put("!")
    edited.older()
    edited.older()
    assert shown(edited) == "one|"
    edited.newer()
    assert shown(edited) == "two!|"
    edited.newer()
    edited.newer()
    assert shown(edited) == "new|"
    assert edited.take() == "new"
    assert edited.history == ["one", "two", "new"]


def test_what_the_history_keeps() -> None:
    """A line that is blank, or the same as the last one, is not kept; the oldest go first."""
    edited = EditedLine([])
    for text in ("", "  ", "status ", "status", "runs"):
        edited.put(text)
        edited.take()
    assert edited.history == ["status", "runs"]
    edited = EditedLine([str(number) for number in range(MAX_HISTORY)])
    edited.put("new")
    edited.take()
    assert (len(edited.history), edited.history[0], edited.history[-1]) == (MAX_HISTORY, "1", "new")


def test_search() -> None:
    """The newest line that has what is sought, then the ones before it; backspace takes a character of it back."""
    edited = line("|", ["populate data", "client 13 app", "client 14 app", "status"])
    edited.search()
    edited.put("cli")
    assert edited.text == "client 14 app"
    edited.search()
    assert edited.text == "client 13 app"
    edited.search()
    assert edited.text == "client 13 app"
    edited.put("ents")
    assert edited.text == "client 13 app"
    for _ in range(7):
        edited.backspace()
    edited.put("stat")
    edited.found()
    assert (edited.text, edited.sought) == ("status", None)
    edited.older()
    assert edited.text == "client 14 app"


KEYS = (
    *("left", "right", "home", "end", "backspace", "delete", "word_left", "word_right", "older", "newer"),
    *("kill_word_left", "kill_word_right", "kill_to_end", "kill_to_start", "yank", "transpose", "take", "drop"),
)


@given(st.lists(st.sampled_from([f"<{name}>" for name in KEYS]) | st.text(max_size=8)), st.integers(2, 40))
@example(["0⺀"], 2)
def test_whatever_is_typed(keys: list[str], room: int) -> None:
    """The cursor stays within the line, and what is shown of it fits the room, the cursor within it."""
    edited = EditedLine(["storage s1 localhost:5001 0", "日本 x"])
    for key in keys:
        if key[1:-1] in KEYS:
            getattr(edited, key[1:-1])()
        else:
            edited.put(key)
        assert 0 <= edited.cursor <= len(edited.text)
        assert edited.text.isprintable()
        text, at = edited.window(room)
        assert text in edited.text
        assert columns(text) <= room
        assert 0 <= at <= room


def test_window() -> None:
    """A line that fits is shown whole; of a longer one that part in which the cursor is."""
    assert line("abc|").window(10) == ("abc", 3)
    assert line("|" + "x" * 50).window(10) == ("x" * 10, 0)
    text, at = line("".join(map(str, range(10))) * 5 + "|").window(10)
    assert text.endswith("789") and at == len(text)
