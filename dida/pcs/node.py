"""The PCS on the line protocol: its verbs. Their client is `dida.pcs.client`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from dida.addresses import Address, NodeAddress, StorageAddress
from dida.chains.messages import ListOperators, WorkerDebug
from dida.pcs.messages import (
    PCS,
    CrashNode,
    Elsewhere,
    Know,
    NodeEntry,
    Nodes,
    Output,
    Own,
    Pause,
    Resume,
    Start,
    Stop,
    Tell,
    WatchNodes,
)
from dida.protocols.lines import Answer, NodeCommands, ok
from dida.wire import grammar
from dida.wire.messages import (
    Crash,
    Debug,
    Home,
    ListRecords,
    Ping,
    Read,
    Reply,
    Request,
    Slow,
    Status,
    System,
    Versions,
    vocabulary,
)
from dida.wire.runs import ListRuns, ListWorkers
from dida.wire.whole import whole

_log = Logger()

RELAYED = vocabulary(
    *(Ping, Status, System, Slow, WorkerDebug, ListRecords, Read, Home, Versions, ListOperators, ListRuns, ListWorkers)
)
"""The verbs that `tell` forwards: queries, the debug switch, the gossip delay."""


class Table(Protocol):
    """The PCS's nodes as the verbs see them (`dida.pcs.table.Processes`). All methods raise DidaError."""

    logs: str
    """Folder of the nodes' output."""
    operators: str | None
    """Operators folder of the workers; None: their default."""

    @property
    def elsewhere(self) -> list[Elsewhere]:
        """The nodes that owners have started at other PCSs."""

    def start(self, request: Start) -> int:
        """Start a node and return its process id."""

    def begin(self) -> None:
        """Take over the nodes of an earlier PCS, and watch all nodes."""

    def end(self) -> Deferred[Any]:
        """End the nodes, or leave them to the next PCS; the result fires when that is done."""

    def entries(self) -> list[NodeEntry]:
        """Return all nodes, in the order of their start."""

    def watch(self, number: int | None, deadline: float) -> Deferred[int]:
        """Return the table's number once it differs from `number`, at the latest at the deadline."""

    def crash(self, id: str) -> Deferred[None]:
        """Kill a node; the result fires when it has ended."""

    def stop(self, id: str | None, within: float | None = None) -> Deferred[None]:
        """End a node, or all, in order; at once after `within` seconds. The result fires when they have ended."""

    def pause(self, id: str) -> None:
        """Stop a node's process."""

    def resume(self, id: str) -> None:
        """Continue a paused node."""

    def own(self, owner: str, deadline: float) -> Deferred[None]:
        """Keep an owner's nodes until the result fires: at the deadline, or when it is cancelled."""

    def know(self, owner: str, nodes: list[Elsewhere]) -> None:
        """Remember what an owner has started at other PCSs."""

    def output(self, id: str, lines: int) -> list[str]:
        """Return the newest lines of a node's output."""

    def ask(self, id: str, request: Request) -> Deferred[Reply]:
        """Send a request to a node; return its reply."""


class PcsNode(NodeCommands):
    """A PCS: its table of nodes, and the verbs that change it."""

    vocabulary: Mapping[str, type[Request]] = PCS

    def __init__(self, id: str, table: Table, serves: str = "", url: Address | None = None) -> None:
        """`url` is its address."""
        self.id = id
        self.url = url
        self.table = table
        self.serves = serves
        """The puppetmaster that has started it for itself, and sends `own` while it lives; empty: none."""
        self._owners = 0
        self._was_owned = False

    def start(self) -> None:
        self.table.begin()

    def stop(self) -> Deferred[Any]:
        return self.table.end()

    def cmd_status(self, request: Status) -> Answer:
        entries = self.table.entries()
        return ok(
            id=self.id,
            role="pcs",
            pid=os.getpid(),
            ready=True,
            alive=[entry.id for entry in entries if entry.state != "ended"],
            dead=[entry.id for entry in entries if entry.state == "ended"],
            restarts=sum(entry.restarts for entry in entries),
            serves=self.serves if self._owners or not self._was_owned else "",
            logs=self.table.logs,
            operators=self.table.operators,
        )

    def cmd_system(self, request: System) -> Answer:
        """Other PCSs have an empty id, as only their addresses are known."""
        nodes: list[NodeEntry | Elsewhere] = [entry for entry in self.table.entries() if entry.state != "ended"]
        nodes += self.table.elsewhere
        known = [(node.role, node.replica, node.id, Address.parse(node.url)) for node in nodes]
        others = dict.fromkeys(Address.parse(node.pcs) for node in self.table.elsewhere)
        pcs = [NodeAddress(self.id, self.url)] if self.url is not None else []
        return whole(
            [StorageAddress(replica, id, url) for role, replica, id, url in known if role == "storage"],
            [NodeAddress(id, url) for role, _, id, url in known if role == "scheduler"],
            [NodeAddress(id, url) for role, _, id, url in known if role == "worker"],
            [*pcs, *(NodeAddress("", url) for url in others if url != self.url)],
        )

    def cmd_debug(self, request: Debug) -> Answer:
        """There is no more to log: each node's output is in its file."""
        return ok()

    def cmd_start(self, request: Start) -> Answer:
        return ok(self.table.start(request))

    def cmd_nodes(self, request: Nodes) -> Answer:
        return ok(nodes=grammar.unstructure(self.table.entries()), elsewhere=grammar.unstructure(self.table.elsewhere))

    def cmd_watch(self, request: WatchNodes) -> Answer:
        def answer(number: int) -> Reply:
            return ok(number=number, nodes=grammar.unstructure(self.table.entries()))

        return self.table.watch(request.number, request.deadline).addCallback(answer)

    def cmd_crash(self, request: Crash | CrashNode) -> Answer:
        if isinstance(request, Crash) or request.id is None:
            return super().cmd_crash(Crash())
        return _when_done(self.table.crash(request.id))

    def cmd_stop(self, request: Stop) -> Answer:
        return _when_done(self.table.stop(request.id, request.within))

    def cmd_pause(self, request: Pause) -> Answer:
        self.table.pause(request.id)
        return ok()

    def cmd_resume(self, request: Resume) -> Answer:
        self.table.resume(request.id)
        return ok()

    def cmd_own(self, request: Own) -> Answer:
        held = self.table.own(request.owner, request.deadline)
        if request.owner == self.serves:
            self._was_owned = True
            self._owners += 1
            held.addBoth(self._let_go)
        return held.addCallback(_done)

    def _let_go(self, result: Any) -> Any:
        self._owners -= 1
        return result

    def cmd_know(self, request: Know) -> Answer:
        for node in request.nodes:  # raises UserError for an invalid address
            Address.parse(node.url)
            Address.parse(node.pcs)
        self.table.know(request.owner, request.nodes)
        return ok()

    def cmd_output(self, request: Output) -> Answer:
        return ok(lines=self.table.output(request.id, request.lines))

    def cmd_tell(self, request: Tell) -> Answer:
        ignored: list[str] = []
        _, relayed = grammar.decode(request.line.encode("utf-8", "surrogatepass"), RELAYED, ignored)
        reply = self.table.ask(request.id, evolve(relayed, deadline=min(relayed.deadline, request.deadline)))
        return reply.addCallback(grammar.with_ignored, ignored)


def _done(result: None) -> Reply:
    return ok()


def _when_done(work: Deferred[None]) -> Deferred[Reply]:
    """Reply `ok` when the work is done. The work goes on even if nobody waits for the reply any more."""
    answer: Deferred[Reply] = Deferred()

    def done(result: Failure | None) -> Failure | None:
        if answer.called:
            return result
        if isinstance(result, Failure):
            answer.errback(result)
        else:
            answer.callback(ok())
        return None

    work.addBoth(done)
    return answer
