"""The client of a PCS: its table of nodes, kept up to date, and the verbs that start and end nodes."""

from __future__ import annotations

from typing import Any, Protocol

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
from dida.wire.messages import Ok, Request

WATCH_TIME = 3.0
"""Time that one request for the table stays open, in seconds; a PCS that is silent for longer does not answer."""
RETRY_INTERVAL = 0.5
"""Pause before the next request to a PCS that did not answer, in seconds."""
OWN_TIME = 60.0
"""Time that one `own` stays open, in seconds."""
OWN_INTERVAL = 20.0
"""Time between two `own`, in seconds: one is always open."""

_log = Logger()


@frozen
class NodeTable:
    """The object of a `watch` reply."""

    number: int
    nodes: list[NodeEntry]


class PcsListener(Protocol):
    """Hears what happens at a PCS whose table is watched."""

    def table_changed(self, pcs: Pcs) -> None:
        """`pcs.table` is new."""

    def pcs_back(self, pcs: Pcs) -> None:
        """The PCS answers again; called before `table_changed`."""

    def trouble(self, text: str) -> None:
        """Something that users should know of."""


class Pcs:
    """The client of one PCS. Each call raises the DidaError that the PCS replied."""

    def __init__(self, reactor: Any, address: Address, owner: str = "") -> None:
        self.reactor = reactor
        self.address = address
        self.owner = owner
        """Owner whose nodes live as long as the table is watched."""
        self.answers = True
        self.table: dict[str, NodeEntry] = {}
        self._link = ReconnectingClient(reactor, address.host, address.port)
        self._next_own = 0.0
        self._watching: Deferred[None] | None = None
        self._ended = False

    @property
    def seen_from(self) -> str:
        """This machine's address as the PCS reaches it; localhost while not connected."""
        return self._link.local_host or HERE

    async def ask(self, request: Request) -> Ok:
        """Return the `ok` to a request."""
        return await self._link.ask_ok(request, request.deadline + 2 * GRACE)

    async def start(self, request: Start) -> int:
        """Start a node; return its process id."""
        return int((await self.ask(request)).words[0])

    async def crash(self, id: str) -> None:
        """Kill a node."""
        await self.ask(CrashNode(id))

    async def stop(self, id: str | None = None, seconds: float = STOP_DEADLINE, within: float | None = None) -> None:
        """End a node, or all, in order; at once after `within` seconds. Time out after `seconds`."""
        await self.ask(Stop(id, within=within, deadline=seconds))

    async def pause(self, id: str) -> None:
        """Stop a node's process."""
        await self.ask(Pause(id))

    async def resume(self, id: str) -> None:
        """Continue a paused node."""
        await self.ask(Resume(id))

    async def know(self, nodes: list[Elsewhere]) -> None:
        """Send the nodes that the owner has started at other PCSs."""
        await self.ask(Know(owner=self.owner, nodes=nodes))

    async def tell(self, id: str, request: Request) -> Ok:
        """Return a node's `ok` to a request."""
        return await self.ask(Tell(id, grammar.encode(request).decode(), deadline=request.deadline))

    def watch(self, listener: PcsListener) -> None:
        """Keep the table up to date from now on."""
        self._watching = Deferred.fromCoroutine(self._watch(listener))
        self._watching.addErrback(lambda failure: failure.trap(CancelledError))
        self._watching.addErrback(lambda failure: _log.failure("cannot watch a PCS", failure))

    async def _watch(self, listener: PcsListener) -> None:
        number: int | None = None
        while not self._ended:
            self._own()
            try:
                reply = await self.ask(WatchNodes(number, deadline=WATCH_TIME))
                table = grammar.structure(reply.object, NodeTable)
            except DidaError as problem:
                if self.answers:
                    listener.trouble(
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
                listener.trouble(f"the PCS at {self.address} is back; what runs there: {living or 'nothing'}")
                listener.pcs_back(self)
            listener.table_changed(self)

    def _own(self) -> None:
        """Tell the PCS that the owner is alive."""
        if self.owner and self.reactor.seconds() >= self._next_own:
            self._next_own = self.reactor.seconds() + OWN_INTERVAL
            owned = self._link.ask(Own(self.owner, deadline=OWN_TIME), OWN_TIME + 2 * GRACE)
            owned.addErrback(self._not_owned)

    def _not_owned(self, failure: Failure) -> None:
        """Send `own` again as soon as the PCS answers; the watch reports the trouble."""
        failure.trap(DidaError, CancelledError)
        self._next_own = 0.0

    async def _connect_anew(self) -> None:
        """Replace a silent connection, which may be broken without notice."""
        old, self._link = self._link, ReconnectingClient(self.reactor, self.address.host, self.address.port)
        await old.stop()

    def end_watch(self) -> None:
        """Stop watching the table. A listener may call this."""
        self._ended = True
        if self._watching is not None:
            self._watching.cancel()

    async def close(self) -> None:
        """Close the connection."""
        self.end_watch()
        await self._link.stop()
