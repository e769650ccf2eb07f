"""What the console prints: aligned tables and lines, cut to a width. Pure text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from textwrap import wrap
from typing import Any

from attrs import field, frozen

from dida.chain import Step
from dida.versions import Version

WIDTH = 80
"""Columns of a terminal whose width is not known."""
MAX_CELL = 30
"""Columns of a cell that is not its row's last."""

Records = Mapping[str, Sequence[tuple[Version, str]]]
"""Key to its versions with their values, newest first."""


def printable(text: str) -> str:
    """The text on one line: what would move the cursor is written as an escape."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def cut(text: str, width: int | None) -> str:
    """At most `width` characters; None: all."""
    return text if width is None or len(text) <= width else text[: max(0, width - 1)] + "…"


def counted(number: int, noun: str) -> str:
    """`1 run`, `2 runs`"""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def table(rows: Iterable[Sequence[str]], width: int | None = WIDTH, indent: str = "  ") -> list[str]:
    """Lines of aligned columns, the first row being the head; the last column takes what is left of `width`."""
    cells = [[printable(cell) for cell in row] for row in rows]
    cells = [[*(cut(cell, MAX_CELL) for cell in row[:-1]), row[-1]] for row in cells]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]) - 1)]
    lines = []
    for row in cells:
        aligned = [f"{cell:<{space}}" for cell, space in zip(row, widths, strict=False)]
        lines.append(cut(indent + "  ".join([*aligned, row[-1]]), width).rstrip())
    return lines


def _natural(key: str) -> tuple[int, int, str]:
    """Numbers in their order, before words in theirs."""
    plain = key.isascii() and key.isdigit() and len(key) < 20
    return (0, int(key), "") if plain else (1, 0, key)


def record_rows(records: Records) -> list[list[str]]:
    """A row per version: key, version, value."""
    rows = [["key", "version", "value"]]
    for key in sorted(records, key=_natural):
        for place, (version, value) in enumerate(records[key]):
            rows.append([key if place == 0 else "", str(version), value])
    return rows


def global_rows(nodes: Mapping[str, Records], groups: Mapping[str, int] | None = None) -> list[list[str]]:
    """A row per version that any of the nodes has, and on which of them it is; with the group that holds the
    key, where there are several (`groups` says in which each node is)."""
    sizes = Counter((groups or {}).values())
    holders: dict[str, dict[tuple[Version, str], list[str]]] = {}
    for id, records in nodes.items():
        for key, versions in records.items():
            for pair in versions:
                holders.setdefault(key, {}).setdefault(pair, []).append(id)
    rows = [["key", "version", *(["group"] if len(sizes) > 1 else []), "on", "value"]]
    for key in sorted(holders, key=_natural):
        for place, (version, value) in enumerate(sorted(holders[key], key=lambda pair: pair[0], reverse=True)):
            on = holders[key][version, value]
            group = groups[on[0]] if groups and len(sizes) > 1 else None
            all_of_them = len(on) == (len(nodes) if group is None else sizes[group])
            shown = [str(group)] if group is not None else []
            name = key if place == 0 else ""
            rows.append([name, str(version), *shown, "all" if all_of_them else " ".join(on), value])
    return rows


def run_line(
    run: str, input: str, application: str, output: str, steps: Iterable[Step], ms: float, width: int | None
) -> str:
    """A run that is done: id, input, application, output, the worker of each step, milliseconds."""
    what = printable(f"{input} {application.rpartition('/')[2]} -> {output}")
    end = f"  {' '.join(step.worker for step in steps):<8} {ms:5.{0 if ms >= 100 else 1}f} ms"
    start = f"run      {run:<9} "
    room = (width or WIDTH) - len(start) - len(end)
    return start + (cut(what, max(10, room)) if width is not None else what).ljust(room) + end


def progress_bar(name: str, done: int, failed: int, size: int, width: int) -> str:
    """How far something is that consists of `size` parts."""
    ended = done + failed
    start, end = f"{name:<8} [", f"] {ended}/{size}" + (f", {failed} failed" if failed else "")
    room = max(1, min(40, width - len(start) - len(end) - 1))
    full = room * ended // max(1, size)
    return cut(f"{start}{'#' * full}{' ' * (room - full)}{end}", width - 1)


@frozen
class NodeState:
    """What is known of a node: where, and what it says of itself (nothing when it is not there)."""

    id: str
    role: str
    address: str
    state: str
    members: Mapping[str, Any] = field(factory=dict)


def status_lines(nodes: Sequence[NodeState], width: int | None = WIDTH) -> list[str]:
    """For each node a row, who of the others it takes for alive and dead, and what it did (zeros left out)."""
    rows = table(
        [["node", "role", "at", "state"], *([node.id, node.role, node.address, node.state] for node in nodes)], width
    )
    lines = rows[:1]
    for node, row in zip(nodes, rows[1:], strict=True):
        lines.append(row)
        if node.members:
            seen = [f"{name}: {_brief(node.members[name])}" for name in ("alive", "dead") if node.members.get(name)]
            did = ["serves not yet"] if node.members.get("ready") is False else []
            did += [
                f"{name} {_brief(value)}"
                for name, value in node.members.items()
                if name not in _SHOWN_ELSEWHERE and value not in (0, "", False, [], {}, None)
            ]
            text = printable("; ".join([*seen, ", ".join(did)]))
            lines += wrap(text, width or WIDTH, initial_indent="      ", subsequent_indent="      ")
    return lines


_SHOWN_ELSEWHERE = ("id", "role", "url", "ready", "alive", "dead")


def _brief(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(_brief, value))
    if isinstance(value, Mapping):
        return " ".join(f"{name}:{_brief(inner)}" for name, inner in value.items())
    return str(value)
