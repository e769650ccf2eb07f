"""The PCS on the line protocol: its verbs, and the typed client side that the puppetmaster uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from attrs import frozen
from twisted.internet.defer import Deferred

from dida import wire
from dida.chain_messages import ListOperators, Runs, WorkerDebug, Workers
from dida.control_messages import (
    PCS,
    CrashNode,
    NodeEntry,
    Nodes,
    Output,
    Start,
    Stop,
    Tell,
    WatchNodes,
)
from dida.errors import BadRequest, DidaError
from dida.messages import (
    Crash,
    Debug,
    Error,
    Home,
    ListRecords,
    Ok,
    Ping,
    Read,
    Reply,
    Request,
    Status,
    Versions,
    vocabulary,
)
from dida.protocols.lines import GRACE, Answer, NodeCommands, ok
from dida.protocols.links import Link

RELAYED = vocabulary(Ping, Status, WorkerDebug, ListRecords, Read, Home, Versions, ListOperators, Runs, Workers)
"""What `tell` passes on: questions, and the debug switch."""


class Table(Protocol):
    """The PCS's nodes as the verbs see them; `dida.services.pcs.Processes` is one. All raise DidaError."""

    def start(self, request: Start) -> int:
        """Start a node and return its process id."""

    def entries(self) -> list[NodeEntry]:
        """All nodes, in the order of their start."""

    def watch(self, number: int | None, deadline: float) -> Deferred[int]:
        """The table's number, once it is not `number`; at the deadline also when it is."""

    def crash(self, id: str) -> Deferred[None]:
        """Kill a node; fires when it is gone."""

    def stop(self, id: str | None) -> Deferred[None]:
        """End a node, or all of them, politely; fires when they are gone."""

    def output(self, id: str, lines: int) -> list[str]:
        """The newest lines that a node put out."""

    def ask(self, id: str, request: Request) -> Deferred[Reply]:
        """A node's reply to a request."""


class PcsCommands(NodeCommands):
    """The verbs of a PCS."""

    vocabulary: Mapping[str, type[Request]] = PCS

    def __init__(self, id: str, table: Table) -> None:
        self.id = id
        self.table = table

    def cmd_status(self, request: Status) -> Answer:
        entries = self.table.entries()
        return ok(
            id=self.id,
            role="pcs",
            ready=True,
            alive=[entry.id for entry in entries if entry.state != "ended"],
            dead=[entry.id for entry in entries if entry.state == "ended"],
        )

    def cmd_debug(self, request: Debug) -> Answer:
        """A PCS has nothing more to say: each node's output is in its file."""
        return ok()

    def cmd_start(self, request: Start) -> Answer:
        return ok(self.table.start(request))

    def cmd_nodes(self, request: Nodes) -> Answer:
        return ok(nodes=wire.unshaped(self.table.entries()))

    def cmd_watch(self, request: WatchNodes) -> Answer:
        def answer(number: int) -> Reply:
            return ok(number=number, nodes=wire.unshaped(self.table.entries()))

        return self.table.watch(request.number, request.deadline).addCallback(answer)

    def cmd_crash(self, request: Crash | CrashNode) -> Answer:
        if isinstance(request, Crash) or request.id is None:
            return super().cmd_crash(Crash())
        return self.table.crash(request.id).addCallback(_done)

    def cmd_stop(self, request: Stop) -> Answer:
        return self.table.stop(request.id).addCallback(_done)

    def cmd_output(self, request: Output) -> Answer:
        return ok(lines=self.table.output(request.id, request.lines))

    def cmd_tell(self, request: Tell) -> Answer:
        _, relayed = wire.decode(request.line.encode("utf-8", "surrogatepass"), RELAYED)
        return self.table.ask(request.id, relayed)


def _done(result: None) -> Reply:
    return ok()


# --- the asking side ------------------------------------------------------------------------------


@frozen
class NodeTable:
    """What `watch` answers."""

    number: int
    nodes: list[NodeEntry]


class Pcs:
    """The client side of one PCS. Every call raises the DidaError that the PCS answered."""

    def __init__(self, link: Link) -> None:
        self.link = link

    async def _ask(self, request: Request) -> Ok:
        reply = await self.link.ask(request, request.deadline + 2 * GRACE)
        if isinstance(reply, Error):
            raise DidaError(reply.code, *reply.words, object=reply.object)
        if not isinstance(reply, Ok):
            raise BadRequest("the PCS answered no where only ok is an answer")
        return reply

    async def start(self, request: Start) -> int:
        """Start a node; its process id."""
        return int((await self._ask(request)).words[0])

    async def watch(self, number: int | None, deadline: float) -> NodeTable:
        """The table of its nodes, as soon as its number is not `number`, at the latest at the deadline."""
        reply = await self._ask(WatchNodes(number, deadline=deadline))
        return wire.shaped(reply.object, NodeTable)

    async def crash(self, id: str) -> None:
        """Kill a node."""
        await self._ask(CrashNode(id))

    async def stop(self, id: str | None = None) -> None:
        """End a node, or all of them, politely."""
        await self._ask(Stop(id))

    async def tell(self, id: str, request: Request) -> Ok:
        """A node's `ok` to a request."""
        line = wire.encode(request).decode()
        return await self._ask(Tell(id, line, deadline=request.deadline))
