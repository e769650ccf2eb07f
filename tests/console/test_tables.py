"""What the console prints: aligned, cut to the width, never able to move the cursor."""

from __future__ import annotations

import pytest
from attrs import evolve

from dida.chains.records import Step
from dida.console.style import Style, columns
from dida.console.tables import (
    NodeState,
    global_rows,
    held_versions,
    in_columns,
    newest_rows,
    numbered,
    printable,
    progress_bar,
    progress_line,
    record_rows,
    run_line,
    runs_table,
    status_lines,
    table,
)
from dida.versions import Version


def test_table() -> None:
    """Columns are aligned, long cells cut, and no line is longer than the width."""
    rows = [["key", "value"], ["1", "x" * 100], ["k" * 50, "a\nb\x1b[2J"]]
    assert table(rows, 50) == [
        "  key                             value",
        "  1                               " + "x" * 15 + "…",
        "  " + "k" * 29 + "…  a\\nb\\x1b[2J",
    ]
    assert table([["a", "b"], ["k" * 50, "x" * 100]], None)[1] == "  " + "k" * 50 + "  " + "x" * 100


@pytest.mark.parametrize(("text", "shown"), [("é ✓", "é ✓"), ("a\tb\r\n", "a\\tb\\r\\n"), ("\x9b", "\\x9b")])
def test_printable(text: str, shown: str) -> None:
    """Text stays as it is, but for what a terminal would act on."""
    assert printable(text) == shown


def test_table_of_wide_characters() -> None:
    """Columns are aligned by what a text takes on the terminal; numbers stand at the right; colours take nothing."""
    rows = [["key", "ms", "value"], ["日本", "7", "x"], ["a", "123", "日" * 20]]
    assert table(rows, 20, right=(1,)) == ["  key    ms  value", "  日本    7  x", "  a     123  日日日…"]
    painted = table(rows, 20, Style(True), {1: "31"}, (1,))
    assert painted[1] == "  \x1b[31m日本    7  x\x1b[0m"
    assert all(columns(line) <= 20 for line in table(rows, 20))


def test_in_columns() -> None:
    """Words side by side; what is too much is counted."""
    assert in_columns(["a", "bb", "ccc"], 10) == ["a    bb", "ccc"]
    assert in_columns(["a", "b", "c"], 3, rows=2) == ["a", "b", "… 1 more"]


def test_records() -> None:
    """Keys in their order, numbers first; a key is named once, its newest version first and marked; who has what."""
    old, new = Version(1, 1), Version(2, 3)
    one = {"x": [(old, "a")], "10": [(new, "b"), (old, "a")], "9": [(old, "c")]}
    rows = record_rows(one)
    assert [row[0] for row in rows] == ["key", "9", "10", "", "x"]
    assert [row[1] for row in rows[1:]] == ["1.1 *", "2.3 *", "1.1", "1.1 *"]
    assert list(newest_rows(rows)) == [1, 2, 4]
    assert global_rows(held_versions({"s1": one, "s2": {"10": [(old, "a")]}}, {}))[1:] == [
        ["9", "1.1 *", "s1", "c"],
        ["10", "2.3 *", "s1", "b"],
        ["", "1.1", "all", "a"],
        ["x", "1.1 *", "s1", "a"],
    ]


def test_global_rows_of_groups() -> None:
    """With several groups each record is there once, with its group; `all` are all of that group."""
    version = Version(1, 1)
    nodes = {"s1": {"a": [(version, "x")]}, "s2": {"a": [(version, "x")]}, "s3": {"b": [(version, "y")]}, "s4": {}}
    assert global_rows(held_versions(nodes, {"s1": 1, "s2": 1, "s3": 2, "s4": 2}), groups=True) == [
        ["key", "version", "group", "on", "value"],
        ["a", "1.1 *", "1", "all", "x"],
        ["b", "1.1 *", "2", "s3", "y"],
    ]


def test_run_line() -> None:
    """A run's line fits 80 columns and has the worker of each step; on a terminal a long output is cut."""
    steps = [Step("AddOperator", worker, "", 1.0) for worker in ("w1", "w2", "w1")]
    line = run_line("r1-k8Qzab", "23", "apps/add_update_add", "int_conversion_failed", steps, 309.1, 80)
    assert line == "run      r1-k8Qzab 23 add_update_add -> int_conversion_failed  w1 w2 w1   309 ms"
    assert len(run_line("r1-k8Qzab", "23", "app", "x" * 100, steps, 1.25, 80)) == 80
    assert "x" * 100 in run_line("r1-k8Qzab", "23", "app", "x" * 100, steps, 1.25, None)


def test_progress_bar() -> None:
    """A bar as long as there is room for, the numbers behind it; never as wide as the terminal."""
    assert progress_bar("map", 5, 1, 12, 60) == "map      [" + "━" * 16 + "╸" + " " * 16 + "] 6/12, 1 failed"
    assert progress_bar("map", 12, 0, 12, 200) == f"map      [{'━' * 40}] 12/12"
    assert all(len(progress_bar("map", 500, 7, 1000, width)) < width for width in range(2, 100))


def test_run_line_on_a_narrow_terminal() -> None:
    """The application's name is cut before the output is."""
    steps = [Step("AddOperator", "w1", "", 1.0)] * 3
    line = run_line("r1-cyx6", "13", "three_increments", "4", steps, 38.6, 60)
    assert line == "run      r1-cyx6   13 three_increme… -> 4  w1 w1 w1  38.6 ms"


def test_runs() -> None:
    """A row per run; one that goes on has no time yet, one that failed stands out."""
    runs = [
        {"run": "r2", "state": "going on", "ms": 0.0, "input": "1", "operators": ["A", "B"]},
        {"run": "r1", "state": "failed", "ms": 123.4, "input": "x" * 50, "operators": ["A"]},
    ]
    lines = runs_table(runs, 60)
    assert lines[0] == "  run  state      ms  input                           opera…"
    assert lines[1] == "  r2   going on       1                               A B"
    assert lines[2].split()[:3] == ["r1", "failed", "123"]
    assert max(map(len, lines)) <= 60
    assert "\x1b[31m" in runs_table(runs, 60, Style(True))[2]


ONE = {
    "ready": True,
    "view": 2,
    "group": 1,
    "alive": ["s1"],
    "dead": ["s2"],
    "reads": 12,
    "writes": 1,
    "lag": {"s2": 3},
}


def test_status() -> None:
    """A row per node: view, how many it sees, lag, what it did (zeros left out); then who presumes whom dead."""
    worker = {"ready": True, "alive": ["s1"], "dead": ["s2"], "executed": 5, "failed": 0}
    nodes = [
        NodeState("s1", "storage", "localhost:5001", "ready", ONE),
        NodeState("s2", "storage", "localhost:5002", "ended", {}, "crashed by command"),
        NodeState("w1", "worker", "localhost:4001", "ready", worker),
        NodeState("sc", "scheduler", "localhost:2000", "ready", {"ready": False}),
    ]
    assert status_lines(nodes, 80) == [
        "  node  role       port  state  view  sees  lag  did",
        "  s1    storage    5001  ready  2     1/2     3  12 reads, 1 write",
        "  s2    storage    5002  ended                   crashed by command",
        "  w1    worker     4001  ready        1/2        5 operators",
        "  sc    scheduler  2000  ready        0/0        serves not yet",
        "  s2 is presumed dead by s1 w1",
    ]


def test_status_on_a_narrow_terminal() -> None:
    """What a node did is wrapped; where there is no room beside the rest, it stands below. Nothing is wider."""
    node = NodeState("s1", "storage", "localhost:5001", "ready", {**ONE, "held": 7, "some_lists": {"a": [1, 2]}})
    wide, narrow, tiny = (status_lines([node], width) for width in (77, 60, 40))
    assert wide[1:] == [
        "  s1    storage  5001  ready  2     1/2     3  12 reads, 1 write, 7 held,",
        " " * 47 + "some lists a:1 2",
        "  s2 is presumed dead by s1",
    ]
    assert narrow[1:3] == [
        "  s1    storage  5001  ready  2     1/2     3",
        "      12 reads, 1 write, 7 held, some lists a:1 2",
    ]
    assert all(len(line) <= 40 for line in tiny)
    piped = status_lines([evolve(node, members={**node.members, "some_lists": {"a": list(range(99))}})], None)
    assert [line.split()[0] for line in piped] == ["node", "s1", "s2"], "on a pipe each node is one line"
    assert piped[1].endswith("98")


def test_status_of_a_node_that_failed() -> None:
    """What was told in full when it failed is told in short."""
    problem = "ended before it was ready (exit status 1): cannot listen on localhost:5001: address already in use"
    failed = NodeState("s1", "storage", "localhost:5001", "failed", {}, problem)
    assert status_lines([failed], 90)[1:] == [
        "  s1    storage  5001  failed                   ended before it was ready (exit status 1)"
    ]


def test_numbered() -> None:
    """Three and more in a row are told as their first and last."""
    assert numbered("line", [12, 1, 3, 2, 7, 8]) == "lines 1-3, 7, 8, 12"
    assert numbered("line", [5]) == "line 5"


def test_status_of_several_hosts_and_groups() -> None:
    """Where nodes are on several hosts, the address is whole; where there are several groups, the view has its own."""
    one = NodeState("s1", "storage", "a:5001", "ready", ONE)
    other = NodeState("s2", "storage", "b:5001", "ready", {**ONE, "group": 2})
    lines = status_lines([one, other], 80, groups=True)
    assert [lines[1].split()[2], " ".join(lines[1].split()[4:6])] == ["a:5001", "2 g1"]
    assert "b:5001" in lines[2] and "2 g2" in lines[2]
    assert status_lines([one], 80)[0] == "  on a:"


def test_progress() -> None:
    """What is being waited for, in one line that is never wider than the terminal; nothing when there is nothing."""
    assert progress_line([], 0, None, 0.0, 80) == ""
    assert (
        progress_line(["s1", "w1"], 1, 0.25, 0.0, 80) == "|        waiting for s1 w1, 1 run going on, wait, 0.2 s left"
    )
    assert len(progress_line([f"s{number}" for number in range(99)], 0, None, 0.3, 60)) == 59
