"""Scripts and typed lines: one command a line.

Words are those of `dida.console.words`. A byte-order mark, CRLF, blank lines, a missing final newline and comments
(`#` at the start of a line or after a blank) are all accepted. The files that commands name are parsed by
`dida.console.data_files` and `dida.console.application`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import frozen

from dida.console.commands import (
    ClientCommand,
    Command,
    DebugCommand,
    MapCommand,
    NodeCommand,
    RunCommand,
    SchedulerCommand,
    command_of,
)
from dida.console.data_files import MAX_SIZE, decoded_lines
from dida.console.words import Word, words_of
from dida.errors import SHOWN, UserError

SCRIPT = "script"
"""Name of a script whose file is unknown."""


def parse_command(text: str) -> Command | None:
    """Parse a line; None for a blank or a comment. UserError says what to write."""
    return _parsed(words_of(text))


def _parsed(words: Sequence[Word]) -> Command | None:
    if not words:
        return None
    if words[-1].problem:
        raise UserError(words[-1].problem)
    name, *given = [word.text for word in words]
    return command_of(name, given)


@frozen
class Line:
    """A line that is neither blank nor a comment: its command, or what is wrong with it."""

    number: int
    """From 1; 0 for a line typed on a terminal."""
    text: str
    command: Command | None
    problem: str = ""
    file: str = SCRIPT

    def __str__(self) -> str:
        """Return the line as messages name it."""
        text = self.text if len(self.text) <= SHOWN else self.text[:SHOWN] + "…"
        return f"{self.file} line {self.number}: {text}" if self.number else text


def parse_line(text: str, number: int = 0, file: str = SCRIPT) -> Line | None:
    """Parse a line; None for a blank or a comment."""
    words = words_of(text)
    written = " ".join(word.written for word in words)
    try:
        command = _parsed(words)
    except UserError as problem:
        return Line(number, written, None, str(problem), file)
    return None if command is None else Line(number, written, command, file=file)


def parse_script(data: bytes, file: str = SCRIPT) -> tuple[Line, ...]:
    """Return the lines of a script that are neither blank nor comments, valid or not."""
    if len(data) > MAX_SIZE:
        raise UserError(f"{file} is longer than {MAX_SIZE} bytes: cut it in two")
    lines: list[Line] = []
    for number, text, problem in decoded_lines(data):
        if problem:
            line: Line | None = Line(number, " ".join(text.split()), None, problem, file)
        else:
            line = parse_line(text, number, file)
        if line is not None:
            lines.append(line)
    return tuple(lines)


def first_members(lines: Iterable[Line]) -> tuple[NodeCommand, ...]:
    """Return the node commands before the first command of another kind, `debug` aside."""
    members: list[NodeCommand] = []
    for line in lines:
        if isinstance(line.command, NodeCommand):
            members.append(line.command)
        elif line.command is not None and not isinstance(line.command, DebugCommand):
            break
    return tuple(members)


def in_order(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Return the lines in the order of execution: a scheduler named after the first run moves before it."""
    first = next(
        (at for at, line in enumerate(lines) if isinstance(line.command, ClientCommand | RunCommand | MapCommand)),
        len(lines),
    )
    late = next((at for at, line in enumerate(lines) if isinstance(line.command, SchedulerCommand)), 0)
    if late < first or first == len(lines):
        return tuple(lines)
    return (*lines[:first], lines[late], *lines[first:late], *lines[late + 1 :])
