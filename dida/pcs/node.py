"""The PCS on the line protocol: its verbs, and the typed client side that the puppetmaster uses."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from attrs import evolve, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from dida.addresses import HERE, Address, NodeAddress, StorageAddress
from dida.chains.messages import ListOperators, Runs, WorkerDebug, Workers
from dida.errors import TIMED_OUT, DidaError
from dida.pcs.messages import (
    PCS,
    STOP_DEADLINE,
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
from dida.protocols.lines import GRACE, Answer, NodeCommands, ok
from dida.protocols.links import Link, granted
from dida.wire import grammar
from dida.wire.messages import (
    Crash,
    Debug,
    Home,
    ListRecords,
    Ok,
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
from dida.wire.whole import whole

WATCH_TIME = 3.0
"""Seconds that one question for the table stays open; a PCS that says nothing for longer does not answer."""
RETRY_INTERVAL = 0.5
"""Seconds until a PCS that did not answer is asked again."""
OWN_TIME = 60.0
"""Seconds that nodes outlive their owner when nobody can be told that it is gone."""
OWN_INTERVAL = 20.0
"""Seconds between two `own`: one is always open."""

_log = Logger()

RELAYED = vocabulary(
    *(Ping, Status, System, Slow, WorkerDebug, ListRecords, Read, Home, Versions, ListOperators, Runs, Workers)
)
"""What `tell` passes on: questions, the debug switch, the gossip delay."""


class Table(Protocol):
    """The PCS's nodes as the verbs see them; `dida.services.pcs.Processes` is one. All raise DidaError."""

    logs: str
    """The folder of the nodes' output."""
    operators: str | None
    """The workers' operators folder; None: their own default."""

    @property
    def elsewhere(self) -> list[Elsewhere]:
        """The nodes that other PCSs have started, as far as this one was told."""

    def start(self, request: Start) -> int:
        """Start a node and return its process id."""

    def entries(self) -> list[NodeEntry]:
        """All nodes, in the order of their start."""

    def watch(self, number: int | None, deadline: float) -> Deferred[int]:
        """The table's number, once it is not `number`; at the deadline also when it is."""

    def crash(self, id: str) -> Deferred[None]:
        """Kill a node; fires when it is gone."""

    def stop(self, id: str | None, within: float | None = None) -> Deferred[None]:
        """End a node, or all of them, in order; fires when they are gone. They are told again `within` seconds."""

    def pause(self, id: str) -> None:
        """Stop a node's process."""

    def resume(self, id: str) -> None:
        """Let a paused node go on."""

    def own(self, owner: str, deadline: float) -> Deferred[None]:
        """The nodes of that owner live until this fires: at the deadline, or when it is cancelled."""

    def know(self, owner: str, nodes: list[Elsewhere]) -> None:
        """What that owner has started elsewhere."""

    def output(self, id: str, lines: int) -> list[str]:
        """The newest lines that a node put out."""

    def ask(self, id: str, request: Request) -> Deferred[Reply]:
        """A node's reply to a request."""


class PcsCommands(NodeCommands):
    """The verbs of a PCS."""

    vocabulary: Mapping[str, type[Request]] = PCS

    def __init__(self, id: str, table: Table, serves: str = "", url: Address | None = None) -> None:
        """`url` is where it listens."""
        self.id = id
        self.url = url
        self.table = table
        self.serves = serves
        """The puppetmaster that has started it for itself, and that says `own` as long as it lives; empty: nobody."""
        self._owners = 0
        self._was_owned = False

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
        """Of other PCSs only the address is known."""
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
        """A PCS has nothing more to say: each node's output is in its file."""
        return ok()

    def cmd_start(self, request: Start) -> Answer:
        return ok(self.table.start(request))

    def cmd_nodes(self, request: Nodes) -> Answer:
        return ok(nodes=grammar.unshaped(self.table.entries()), elsewhere=grammar.unshaped(self.table.elsewhere))

    def cmd_watch(self, request: WatchNodes) -> Answer:
        def answer(number: int) -> Reply:
            return ok(number=number, nodes=grammar.unshaped(self.table.entries()))

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
        for node in request.nodes:  # nothing is known of what has no address
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
    """`ok` when it is done. It goes on, to its end, when nobody waits for that any more."""
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


# --- the asking side ------------------------------------------------------------------------------


@frozen
class NodeTable:
    """What `watch` answers."""

    number: int
    nodes: list[NodeEntry]


class Pcs:
    """The client side of one PCS, which keeps its table. Every call raises the DidaError that the PCS answered."""

    def __init__(self, reactor: Any, address: Address, owner: str = "") -> None:
        self.reactor = reactor
        self.address = address
        self.owner = owner
        """Whose nodes live as long as the table is watched."""
        self.answers = True
        self.table: dict[str, NodeEntry] = {}
        self.on_table: Callable[[Pcs], None] = lambda pcs: None
        self.on_trouble: Callable[[str], None] = lambda text: None
        self.on_back: Callable[[Pcs], None] = lambda pcs: None
        """Called with the first table after it did not answer."""
        self._link = Link(reactor, address.host, address.port)
        self._next_own = 0.0
        self._watching: Deferred[None] | None = None
        self._ended = False

    @property
    def seen_from(self) -> str:
        """This machine's address on the way to the PCS's, as far as it is connected."""
        return self._link.local_host or HERE

    async def ask(self, request: Request) -> Ok:
        """Its `ok` to a request."""
        return granted(await self._link.ask(request, request.deadline + 2 * GRACE))

    async def start(self, request: Start) -> int:
        """Start a node; its process id."""
        return int((await self.ask(request)).words[0])

    async def crash(self, id: str) -> None:
        """Kill a node."""
        await self.ask(CrashNode(id))

    async def stop(self, id: str | None = None, seconds: float = STOP_DEADLINE, within: float | None = None) -> None:
        """End a node, or all of them, in order, at once after `within` seconds; that may take so many `seconds`."""
        await self.ask(Stop(id, within=within, deadline=seconds))

    async def pause(self, id: str) -> None:
        """Stop a node's process."""
        await self.ask(Pause(id))

    async def resume(self, id: str) -> None:
        """Let a paused node go on."""
        await self.ask(Resume(id))

    async def know(self, nodes: list[Elsewhere]) -> None:
        """Tell what its owner has started at other PCSs."""
        await self.ask(Know(owner=self.owner, nodes=nodes))

    async def tell(self, id: str, request: Request) -> Ok:
        """A node's `ok` to a request."""
        return await self.ask(Tell(id, grammar.encode(request).decode(), deadline=request.deadline))

    def watch(self) -> None:
        """Keep the table up to date from now on."""
        self._watching = Deferred.fromCoroutine(self._watch())
        self._watching.addErrback(lambda failure: failure.trap(CancelledError))
        self._watching.addErrback(lambda failure: _log.failure("watching a PCS", failure))

    async def _watch(self) -> None:
        number: int | None = None
        while not self._ended:
            self._own()
            try:
                reply = await self.ask(WatchNodes(number, deadline=WATCH_TIME))
                table = grammar.shaped(reply.object, NodeTable)
            except DidaError as problem:
                if self.answers:
                    self.on_trouble(
                        f"the PCS at {self.address} does not answer any more ({problem}): "
                        "nothing can be started or stopped there until it does"
                    )
                self.answers, number = False, None
                if problem.code == TIMED_OUT:
                    await self._connect_anew()
                await deferLater(self.reactor, RETRY_INTERVAL)
                continue
            number = table.number
            self.table = {entry.id: entry for entry in table.nodes}
            if not self.answers:
                self.answers = True
                living = " ".join(entry.id for entry in table.nodes if entry.state != "ended")
                self.on_trouble(f"the PCS at {self.address} is back; what runs there: {living or 'nothing'}")
                self.on_back(self)
            self.on_table(self)

    def _own(self) -> None:
        """Say that the owner lives."""
        if self.owner and self.reactor.seconds() >= self._next_own:
            self._next_own = self.reactor.seconds() + OWN_INTERVAL
            owned = self._link.ask(Own(self.owner, deadline=OWN_TIME), OWN_TIME + 2 * GRACE)
            owned.addErrback(self._not_owned)

    def _not_owned(self, failure: Failure) -> None:
        """Who watches the table tells of it; it is said again as soon as the PCS answers."""
        failure.trap(DidaError, CancelledError)
        self._next_own = 0.0

    async def _connect_anew(self) -> None:
        """A connection on which nothing came may be broken where nobody sees it."""
        old, self._link = self._link, Link(self.reactor, self.address.host, self.address.port)
        await old.stop()

    def end_watch(self) -> None:
        """The table is not kept up to date any more. May be called by who is told of the table."""
        self._ended = True
        if self._watching is not None:
            self._watching.cancel()

    async def close(self) -> None:
        """End the connection."""
        self.end_watch()
        await self._link.stop()
