"""Executes commands: the next one does not wait for the effect of the one before, and yet none is lost.

The order that is kept: node commands start at once, and only the commands that need a node wait for it. All others are
executed one after the other, each when the nodes named before it are settled: a populate is executed when the data is
written, a client when the scheduler has given a run id (so a client sees the data of the populates before it, and a
crash comes after the runs before it have begun, not after they have ended), the others when they are answered. A wait
holds everything after it, and begins when the commands before it are executed. The result of a run is shown when it
ends. What each command does is in `dida.puppetmaster.commands`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed

from dida.console.commands import ClientCommand, MapCommand, RunCommand
from dida.console.script import Line, first_members
from dida.console.style import GOOD, ODD
from dida.console.tables import printable
from dida.errors import UserError
from dida.puppetmaster.client_runs import ClientRuns
from dida.puppetmaster.cluster import Cluster
from dida.puppetmaster.commands import action_of
from dida.puppetmaster.commands.base import Action
from dida.puppetmaster.console_storage import ConsoleStorage
from dida.puppetmaster.context import Context
from dida.puppetmaster.line_work import LineWork, Output, copied
from dida.puppetmaster.nodes import Node


class ScriptRunner:
    """Executes lines on a cluster, and prints what comes of them. It is the cluster's listener."""

    def __init__(self, make_cluster: Callable[[ScriptRunner], Cluster], folders: Sequence[str], output: Output) -> None:
        """`make_cluster` makes the cluster, given its listener."""
        self.cluster = make_cluster(self)
        self.output = output
        self.folders = folders
        self.work = LineWork(output)
        storage = ConsoleStorage(self.cluster, output)
        self.context = Context(self.cluster, output, folders, self.work, storage, ClientRuns(self.cluster, storage))
        self._queued: Deferred[None] = succeed(None)
        """Fires when all queued commands are executed."""
        self._closed = False

    def plan(self, lines: Iterable[Line]) -> None:
        """Announce a script: the nodes of its leading block know each other from the start."""
        self.cluster.plan(first_members(lines))

    async def play(self, line: Line) -> None:
        """Execute one line; return when the next one may be given."""
        self.work.counts.commands += 1
        action = action_of(line)
        if action.at_once(self.context):
            self.work.begin(line, action.run(self.context))
        elif action.holds:
            await copied(self._queued)
            await action.run(self.context)
        else:
            try:
                action.prepare(self.context)
            except UserError as problem:
                self.work.fail(line, str(problem))
            else:
                self._queue(action)

    def _queue(self, action: Action[Any]) -> None:
        before = self._queued
        ids = [node.id for node in self.cluster.nodes.named()]

        async def in_turn() -> None:
            await copied(before)
            for id in ids:  # a node may have been started again meanwhile
                await self.cluster.nodes[id].settled.wait()
            await action.run(self.context)

        self._queued = copied(self.work.begin(action.line, in_turn()))

    async def finish(self) -> None:
        """Wait for the commands, then for the runs; runs that go on at the deadline have failed."""
        for node in self.cluster.nodes.named():
            await node.settled.wait()
        await copied(self._queued)
        self.context.runs.finishing = True
        deadline = self.cluster.deadline
        problem = f"not ended within {deadline:g} s of the script's end"
        late = self.cluster.reactor.callLater(deadline, self.work.cancel, problem)
        await self.work.wait()
        if late.active():
            late.cancel()

    async def close(self) -> None:
        """Cancel what still goes on; runs that are cut off have failed."""
        self._closed = True
        self.work.cancel(
            "cut off by the end of the puppetmaster",
            lambda line: isinstance(line.command, ClientCommand | RunCommand | MapCommand),
        )
        self.work.close()
        self.context.storage.close()

    # --- what happens to nodes --------------------------------------------------------------------

    def node_ready(self, node: Node, seconds: float) -> None:
        if self._closed:
            return
        text = f"ready    {node.id:<6} {node.role:<10} {node.address!s:<22} {seconds:6.2f} s"
        self.output.say(self.output.page.paint.word(GOOD, text))
        if node.replica:
            self.context.storage.add(node)

    def node_failed(self, node: Node) -> None:
        line = self.context.line_of(node.command)
        assert line is not None, "a command has started it"
        self.work.fail(line, node.problem)

    def node_lost(self, node: Node) -> None:
        line = self.context.line_of(node.command)
        text = f"{node.id} has ended unexpectedly: {node.problem}"
        if line is None:  # it ran before the puppetmaster
            self.output.say(self.output.page.paint(ODD, printable(f"note: {text}")))
        else:
            self.work.fail(line, text)

    def trouble(self, text: str) -> None:
        self.output.say(printable(text))
