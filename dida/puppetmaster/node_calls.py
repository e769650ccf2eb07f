"""Requests from the puppetmaster to nodes: through the PCS that started a node, or straight if none is known."""

from __future__ import annotations

from typing import Any

from attrs import field, frozen

from dida.addresses import HERE
from dida.console.tables import Records
from dida.errors import DidaError, UserError
from dida.protocols.lines import GRACE
from dida.protocols.links import ReconnectingClient, Unreachable
from dida.puppetmaster.nodes import Node
from dida.puppetmaster.refusals import no_records
from dida.versions import Version
from dida.wire import grammar
from dida.wire.messages import Crash, ListRecords, Ok, Ping, Request

CLOSE_TIME = 1.0
"""Time-out for a last request to a node at the puppetmaster's end, in seconds."""


@frozen
class _ListObject:
    """The object of a `list` reply."""

    records: dict[str, list[tuple[Version, str]]] = field(factory=dict)
    next: str | None = None


class NodeCalls:
    """The ways to the nodes of a cluster."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self._links: dict[str, ReconnectingClient] = {}
        """By id, to nodes that were taken up without a PCS."""

    async def tell(self, node: Node, request: Request) -> Ok:
        """Return a node's `ok` to a request; DidaError otherwise."""
        if node.pcs is None and not node.taken_up:
            raise UserError(f"{node.id} was never started: {node.problem}")
        if node.paused:
            raise UserError(f"paused: resume {node.id} lets it go on")
        if node.pcs is None:
            return await self._link(node).ask_ok(request, request.deadline + 2 * GRACE)
        return await node.pcs.tell(node.id, request)

    def _link(self, node: Node) -> ReconnectingClient:
        if node.id not in self._links:
            self._links[node.id] = ReconnectingClient(self.reactor, node.address.host, node.address.port)
        return self._links[node.id]

    async def records(self, node: Node, seconds: float) -> Records:
        """Return all records of a storage node; each page of them may take that long."""
        if node.role != "storage":
            raise no_records(node.id, node.role)
        records: dict[str, list[tuple[Version, str]]] = {}
        start: str | None = ""
        while start is not None:
            reply = await self.tell(node, ListRecords(from_=start, deadline=seconds))
            page = grammar.structure(reply.object, _ListObject)
            records.update(page.records)
            start = page.next
        return records

    async def seen_from(self, node: Node) -> str:
        """Return the address of this machine as a node reaches it."""
        if node.pcs is not None:
            return node.pcs.seen_from
        await self.tell(node, Ping())
        return self._link(node).local_host or HERE

    async def crash_itself(self, node: Node) -> None:
        """Ask a node without a known PCS to kill itself."""
        try:
            await self._link(node).ask(Crash(), CLOSE_TIME)
        except Unreachable:
            raise
        except DidaError:
            pass  # it ended before it could answer

    async def close(self) -> None:
        """Close all connections."""
        for link in self._links.values():
            await link.stop()
