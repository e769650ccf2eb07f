"""What commands work on."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field

from dida.console.commands import NodeCommand
from dida.console.script import Line
from dida.puppetmaster.client_runs import ClientRuns
from dida.puppetmaster.cluster import Cluster
from dida.puppetmaster.console_storage import ConsoleStorage
from dida.puppetmaster.line_work import LineWork, Output


@define
class Context:
    """The system, the console, and the work that goes on."""

    cluster: Cluster
    output: Output
    folders: Sequence[str]
    """Where the files are that commands name."""
    work: LineWork
    storage: ConsoleStorage
    runs: ClientRuns
    waits_until: float | None = None
    """When the current wait ends."""
    _lines: dict[int, Line] = field(factory=dict)
    """By `id` of a node command, as equal commands may stand on several lines."""

    def say(self, text: str) -> None:
        """Print a line."""
        self.output.say(text)

    def named_by(self, command: NodeCommand, line: Line) -> None:
        """Remember the line that has named a node."""
        self._lines[id(command)] = line

    def line_of(self, command: NodeCommand) -> Line | None:
        """Return the line that has named a node; None if the node ran before."""
        return self._lines.get(id(command))
