"""The client of a PCS: its table of nodes, kept up to date, and the verbs that start and end them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from dida.addresses import HERE, Address
from dida.errors import TIMED_OUT, DidaError
from dida.pcs.messages import (
    STOP_DEADLINE,
    CrashNode,
    Elsewhere,
    Know,
    NodeEntry,
    Own,
    Pause,
    Resume,
    Start,
    Stop,
    Tell,
    WatchNodes,
)
from dida.protocols.lines import GRACE
from dida.protocols.links import ReconnectingClient
from dida.wire import grammar
from dida.wire.messages import (
    Ok,
    Request,
)

WATCH_TIME = 3.0
"""Seconds that one question for the table stays open; a PCS that says nothing for longer does not answer."""
RETRY_INTERVAL = 0.5
"""Seconds until a PCS that did not answer is asked again."""
OWN_TIME = 60.0
"""Seconds that nodes outlive their owner when nobody can be told that it is gone."""
OWN_INTERVAL = 20.0
"""Seconds between two `own`: one is always open."""


@frozen
class NodeTable:
    """What `watch` answers."""

    number: int
    nodes: list[NodeEntry]


_log = Logger()


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
        self._link = ReconnectingClient(reactor, address.host, address.port)
        self._next_own = 0.0
        self._watching: Deferred[None] | None = None
        self._ended = False

    @property
    def seen_from(self) -> str:
        """This machine's address on the way to the PCS's, as far as it is connected."""
        return self._link.local_host or HERE

    async def ask(self, request: Request) -> Ok:
        """Its `ok` to a request."""
        return await self._link.ask_ok(request, request.deadline + 2 * GRACE)

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
                table = grammar.structure(reply.object, NodeTable)
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
        old, self._link = self._link, ReconnectingClient(self.reactor, self.address.host, self.address.port)
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
