"""What the console prints: aligned, cut to the width, never able to move the cursor."""

from __future__ import annotations

import pytest

from dida.chain import Step
from dida.tables import NodeState, cut, global_rows, printable, progress_bar, record_rows, run_line, status_lines, table
from dida.versions import Version


def test_table() -> None:
    """Columns are aligned, long cells cut, and no line is longer than the width."""
    rows = [["key", "value"], ["1", "x" * 100], ["k" * 50, "a\nb\x1b[2J"]]
    assert table(rows, 50) == [
        "  key                             value",
        "  1                               " + "x" * 15 + "…",
        "  " + "k" * 29 + "…  a\\nb\\x1b[2J",
    ]
    assert table([["a", "b"], ["1", "x" * 100]], None)[1] == "  1  " + "x" * 100


@pytest.mark.parametrize(("text", "shown"), [("é ✓", "é ✓"), ("a\tb\r\n", "a\\tb\\r\\n"), ("\x9b", "\\x9b")])
def test_printable(text: str, shown: str) -> None:
    """Text stays as it is, but for what a terminal would act on."""
    assert printable(text) == shown


def test_cut() -> None:
    """What is cut says so."""
    assert [cut("abcd", width) for width in (4, 3, None)] == ["abcd", "ab…", "abcd"]


def test_records() -> None:
    """Keys in their order, numbers first; a key is named once, its newest version first; who has what."""
    old, new = Version(1, 1), Version(2, 3)
    one = {"x": [(old, "a")], "10": [(new, "b"), (old, "a")], "9": [(old, "c")]}
    assert [row[0] for row in record_rows(one)] == ["key", "9", "10", "", "x"]
    assert global_rows({"s1": one, "s2": {"10": [(old, "a")]}})[1:] == [
        ["9", "1.1", "s1", "c"],
        ["10", "2.3", "s1", "b"],
        ["", "1.1", "all", "a"],
        ["x", "1.1", "s1", "a"],
    ]


def test_global_rows_of_groups() -> None:
    """With several groups each record is there once, with its group; `all` are all of that group."""
    version = Version(1, 1)
    nodes = {"s1": {"a": [(version, "x")]}, "s2": {"a": [(version, "x")]}, "s3": {"b": [(version, "y")]}, "s4": {}}
    assert global_rows(nodes, {"s1": 1, "s2": 1, "s3": 2, "s4": 2}) == [
        ["key", "version", "group", "on", "value"],
        ["a", "1.1", "1", "all", "x"],
        ["b", "1.1", "2", "s3", "y"],
    ]


def test_run_line() -> None:
    """A run's line fits 80 columns and has the worker of each step; on a terminal a long output is cut."""
    steps = [Step("AddOperator", worker, "", 1.0) for worker in ("w1", "w2", "w1")]
    line = run_line("r1-k8Qzab", "23", "apps/add_update_add", "int_conversion_failed", steps, 309.1, 80)
    assert line == "run      r1-k8Qzab 23 add_update_add -> int_conversion_failed  w1 w2 w1   309 ms"
    assert len(run_line("r1-k8Qzab", "23", "app", "x" * 100, steps, 1.25, 80)) == 80
    assert "x" * 100 in run_line("r1-k8Qzab", "23", "app", "x" * 100, steps, 1.25, None)


def test_progress() -> None:
    """A bar as long as there is room for, the numbers behind it; never as wide as the terminal."""
    assert progress_bar("map", 5, 1, 12, 60) == "map      [" + "#" * 16 + " " * 17 + "] 6/12, 1 failed"
    assert progress_bar("map", 12, 0, 12, 200) == f"map      [{'#' * 40}] 12/12"
    assert all(len(progress_bar("map", 500, 7, 1000, width)) < width for width in range(2, 100))


def test_status() -> None:
    """A node that says something gets lines below its row, wrapped; zeros and what the row has are left out."""
    says = {"id": "s1", "ready": False, "alive": ["s1", "s2"], "dead": [], "reads": 0, "writes": 7, "lag": {"s2": 3}}
    assert status_lines([NodeState("s1", "storage", "localhost:5001", "ready", says)], 60)[1:] == [
        "  s1    storage  localhost:5001  ready",
        "      alive: s1 s2; serves not yet, writes 7, lag s2:3",
    ]
