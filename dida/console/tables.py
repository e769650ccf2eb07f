"""What the console prints: aligned tables and lines, cut to a width. Pure text.

Tables are laid out here and not by rich.table: it takes 0.9 ms a row, and a listing of 10,000 records would stop the
console for nine seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from attrs import field, frozen

from dida.chains.records import Step, short_id
from dida.console.style import BAD, FAINT, ODD, PLAIN, STRONG, Style, bar, columns, cut, padded, wrapped
from dida.versions import Version

WIDTH = 80
"""Width of a terminal that does not report one."""
UNBOUNDED = 10**6
"""Width of an output that is not a terminal."""
MAX_CELL = 30
"""Maximum width of a cell, but for the last one of a row."""
NARROW = 24
"""Width below which the last cell of a status row moves to separate lines."""
SHORT_NAME = 6
"""Minimum width of an application's name."""
NEWEST = " *"
"""The mark behind the newest version of a record."""

Records = Mapping[str, Sequence[tuple[Version, str]]]
"""Key to its versions with their values, newest first."""


def printable(text: str) -> str:
    """Return the text on one line, with escapes for characters that would move the cursor."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _aligned(rows: Iterable[Sequence[str]], right: Collection[int], width: int | None) -> tuple[list[str], list[str]]:
    """Return the aligned columns of each row but the last one, and the last columns. The first row is the head."""
    cells = [[printable(cell) for cell in row] for row in rows]
    most = None if width is None else MAX_CELL
    cells = [[*(cut(cell, most) for cell in row[:-1]), row[-1]] for row in cells]
    widths = [max(columns(row[place]) for row in cells) for place in range(len(cells[0]) - 1)]
    starts = [
        "".join(padded(row[place], width, place in right) + "  " for place, width in enumerate(widths)) for row in cells
    ]
    return starts, [row[-1] for row in cells]


def table(
    rows: Iterable[Sequence[str]],
    width: int | None = WIDTH,
    palette: Style = PLAIN,
    tones: Mapping[int, str] | None = None,
    right: Collection[int] = (),
) -> list[str]:
    """Lines of aligned columns, the first row being the head; the last column takes what is left of `width`.

    `tones` has the colours of rows, `right` the columns of numbers.
    """
    lines = []
    for place, (start, last) in enumerate(zip(*_aligned(rows, right, width), strict=True)):
        tone = FAINT if place == 0 else (tones or {}).get(place, "")
        lines.append("  " + palette(tone, cut(start + last, None if width is None else width - 2).rstrip()))
    return lines


def in_columns(words: Sequence[str], width: int | None = WIDTH, rows: int = 20) -> list[str]:
    """Words side by side, at most so many rows of them."""
    words = [printable(word) for word in words]
    space = max(map(columns, words), default=0) + 2
    beside = max(1, (width or WIDTH) // space)
    shown = words[: beside * rows]
    lines = [
        cut("".join(padded(word, space) for word in shown[at : at + beside]).rstrip(), width)
        for at in range(0, len(shown), beside)
    ]
    return lines + ([f"… {len(words) - len(shown)} more"] if len(words) > len(shown) else [])


def counted(number: int, noun: str) -> str:
    """`1 run`, `2 runs`"""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def numbered(noun: str, numbers: Collection[int]) -> str:
    """`line 7`, `lines 1, 3-5`: three and more in a row as their first and last."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    told = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)
    return f"{noun}{'' if len(numbers) == 1 else 's'} {told}"


# --- records --------------------------------------------------------------------------------------


def _natural(key: str) -> tuple[int, int, str]:
    """Numbers in their order, before words in theirs."""
    plain = key.isascii() and key.isdigit() and len(key) < 20
    return (0, int(key), "") if plain else (1, 0, key)


def record_rows(records: Records) -> list[list[str]]:
    """A row per version: key, version (the newest with a star), value."""
    rows = [["key", "version", "value"]]
    for key in sorted(records, key=_natural):
        for place, (version, value) in enumerate(records[key]):
            rows.append([key if place == 0 else "", f"{version}{NEWEST if place == 0 else ''}", value])
    return rows


@frozen
class Held:
    """A version of a record, and on which nodes it is."""

    key: str
    version: Version
    value: str
    on: tuple[str, ...]
    newest: bool
    everywhere: bool
    """Whether all nodes have it, or all of its group."""
    group: int


def held_versions(nodes: Mapping[str, Records], groups: Mapping[str, int]) -> list[Held]:
    """Every version that any of the nodes has, key by key, newest first; `groups` says in which group each node is."""
    sizes = Counter(groups.get(id, 1) for id in nodes)
    holders: dict[str, dict[tuple[Version, str], list[str]]] = {}
    for id, records in nodes.items():
        for key, versions in records.items():
            for pair in versions:
                holders.setdefault(key, {}).setdefault(pair, []).append(id)
    held = []
    for key in sorted(holders, key=_natural):
        for place, (version, value) in enumerate(sorted(holders[key], key=lambda pair: pair[0], reverse=True)):
            on = holders[key][version, value]
            group = groups.get(on[0], 1)
            held.append(Held(key, version, value, tuple(on), place == 0, len(on) == sizes[group], group))
    return held


def global_rows(held: Sequence[Held], groups: bool = False) -> list[list[str]]:
    """A row per version, the newest with a star, and on which nodes it is; with `groups` the group that holds it."""
    rows = [["key", "version", *(["group"] if groups else []), "on", "value"]]
    for each in held:
        key, star = (each.key, NEWEST) if each.newest else ("", "")
        group = [str(each.group)] if groups else []
        rows.append([key, f"{each.version}{star}", *group, "all" if each.everywhere else " ".join(each.on), each.value])
    return rows


def newest_rows(rows: Sequence[Sequence[str]]) -> dict[int, str]:
    """The tones of a table of records: what is the newest stands out."""
    return {place: STRONG for place, row in enumerate(rows) if row[1].endswith(NEWEST)}


# --- runs -----------------------------------------------------------------------------------------


def run_line(
    run: str,
    input: str,
    application: str,
    output: str,
    steps: Iterable[Step],
    ms: float,
    width: int | None,
) -> str:
    """A run that is done: id, input, application, output, the worker of each step, milliseconds.

    Where there is no room for all, the application's name is cut before the output is.
    """
    end = f"  {' '.join(step.worker for step in steps):<8} {ms:5.{0 if ms >= 100 else 1}f} ms"
    start = f"run      {short_id(run):<9} "
    room = max(10, (width or WIDTH) - len(start) - len(end))
    name = printable(application.rpartition("/")[2])
    before, behind = printable(f"{input} "), printable(f" -> {output}")
    if width is not None:
        name = cut(name, max(SHORT_NAME, room - columns(before) - columns(behind)))
    what = before + name + behind
    return start + padded(cut(what, room) if width is not None else what, room) + end


def runs_table(runs: Sequence[Mapping[str, Any]], width: int | None = WIDTH, palette: Style = PLAIN) -> list[str]:
    """A row per run, in the order given."""
    rows = [["run", "state", "ms", "input", "operators"]]
    for run in runs:
        ms = "" if run["state"] == "going on" else f"{run['ms']:.{0 if run['ms'] >= 100 else 1}f}"
        rows.append([short_id(run["run"]), run["state"], ms, run["input"], " ".join(run["operators"])])
    tones = {"failed": BAD, "going on": ODD}
    return table(rows, width, palette, {at: tones.get(row[1], "") for at, row in enumerate(rows)}, right=(2,))


def progress_bar(name: str, done: int, failed: int, size: int, width: int) -> str:
    """How far something is that consists of `size` parts."""
    ended = done + failed
    start, end = f"{name:<8} [", f"] {ended}/{size}" + (f", {failed} failed" if failed else "")
    room = max(1, min(40, width - len(start) - len(end) - 1))
    return cut(start + padded(bar(ended, size, room), room) + end, width - 1)


@frozen
class NodeState:
    """What is known of a node: its address, and its status (empty if it does not reply)."""

    id: str
    role: str
    address: str
    state: str
    members: Mapping[str, Any] = field(factory=dict)
    problem: str = ""
    """Why the node is missing or does not reply."""


def status_lines(
    nodes: Sequence[NodeState], width: int | None = WIDTH, palette: Style = PLAIN, groups: bool = False
) -> list[str]:
    """A row per node: state, view, how many nodes it sees alive of those it knows, lag, and what it did.

    Below: which nodes consider others dead. The counters of a node are wrapped, and move to separate lines if the row
    has no room for them.
    """
    hosts = {node.address.rpartition(":")[0] for node in nodes}
    host = hosts.pop() if len(hosts) == 1 else ""
    head = ["node", "role", "port" if host else "at", "state", "view", "sees", "lag", "did"]
    starts, dids = _aligned([head, *(_status_row(node, host, groups) for node in nodes)], (6,), width)
    width = UNBOUNDED if width is None else width
    indent = columns(starts[0]) + 2
    room = width - indent
    lines = [] if host in ("", "localhost") else [f"  on {printable(host)}:"]
    names = starts[0] + head[-1] if room >= NARROW else starts[0]
    lines.append(palette(FAINT, "  " + cut(names.rstrip(), max(1, width - 2))))
    for node, start, did in zip(nodes, starts[1:], dids[1:], strict=True):
        said = wrapped(did, room if room >= NARROW else max(10, width - 6))
        beside = said.pop(0) if said and room >= NARROW else ""
        start_cut = cut(start, max(1, width - 2))
        lines.append("  " + palette(_tone(node), start_cut.rstrip()) + " " * _trailing(start_cut, beside) + beside)
        lines += [" " * (indent if room >= NARROW else 6) + line for line in said]
    return lines + [palette(BAD, "  " + line) for line in _presumed_dead(nodes)]


def _trailing(text: str, beside: str) -> int:
    """Blanks between the end of the text and what stands beside it."""
    return len(text) - len(text.rstrip()) if beside else 0


def _tone(node: NodeState) -> str:
    if node.problem or node.state in ("failed", "ended"):
        return BAD
    return "" if node.members.get("ready") else ODD


def _status_row(node: NodeState, host: str, groups: bool) -> list[str]:
    says = node.members
    at = node.address.rpartition(":")[2] if host else node.address
    if not says:
        # why it could not be started was told in full when it failed
        problem = node.problem.partition(": ")[0] if node.state == "failed" else node.problem
        return [node.id, node.role, at, node.state, "", "", "", problem]
    view = str(says["view"]) if "view" in says else ""
    view += f" g{says['group']}" if view and groups else ""
    alive, dead = len(says.get("alive", ())), len(says.get("dead", ()))
    lag = str(sum(says["lag"].values())) if "lag" in says else ""
    did = [] if says.get("ready") else ["serves not yet"]
    hidden = (*_SHOWN_ELSEWHERE, *_HIDDEN.get(node.role, ()))
    did += [_did(name, value) for name, value in says.items() if name not in hidden and value]
    return [node.id, node.role, at, node.state, view, f"{alive}/{alive + dead}", lag, ", ".join(did)]


_SHOWN_ELSEWHERE = (
    *("id", "role", "url", "ready", "alive", "dead", "view", "group", "replica", "component", "membership", "lag"),
    *("notes", "log", "policy", "gossip_delay", "sessions", "pid", "memory", "max_memory"),
)
_HIDDEN = {"storage": ("executed",)}
"""By role, what says nothing to a person."""
_COUNTED = {
    "records": "record",
    "reads": "read",
    "writes": "write",
    "updateifs": "updateIf",
    "executed": "operator",
    "runs": "run",
}


def _did(name: str, value: object) -> str:
    if isinstance(value, int) and name in _COUNTED:
        return counted(value, _COUNTED[name])
    words = name.replace("_", " ")
    if value is True:
        return words
    return f"{_brief(value)} {words}" if isinstance(value, int) else f"{words} {_brief(value)}"


def _presumed_dead(nodes: Sequence[NodeState]) -> list[str]:
    """Return a line for each node that others presume dead."""
    by: dict[str, list[str]] = {}
    for node in nodes:
        for dead in node.members.get("dead", ()):
            by.setdefault(dead, []).append(node.id)
    return [printable(f"{dead} is presumed dead by {' '.join(who)}") for dead, who in by.items()]


def _brief(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(_brief, value))
    if isinstance(value, Mapping):
        return " ".join(f"{name}:{_brief(inner)}" for name, inner in value.items())
    return str(value)


# --- progress -------------------------------------------------------------------------------------


def progress_line(starting: Sequence[str], runs: int, wait: float | None, seconds: float, width: int | None) -> str:
    """What is being waited for, in one line; nothing: empty. `wait` are the seconds left of a wait."""
    parts = [f"waiting for {' '.join(starting)}"] if starting else []
    parts += [f"{counted(runs, 'run')} going on"] if runs else []
    parts += [f"wait, {wait:.1f} s left"] if wait is not None else []
    if not parts:
        return ""
    sign = "|/-\\"[int(seconds * 5) % 4]
    return cut(printable(f"{sign}        {', '.join(parts)}"), (width or WIDTH) - 1)
