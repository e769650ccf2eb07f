"""The verbs of a storage node: what clients ask, and what storage nodes say to each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred

from dida.addresses import Address
from dida.chains.messages import SchedulerAt
from dida.errors import BadRequest, Unavailable
from dida.protocols.introductions import Introduction
from dida.protocols.lines import Answer, LineServer, NodeCommands
from dida.replication.messages import INTRODUCTIONS, PEER, Peer, PeerMessage
from dida.replication.replica import Replica
from dida.wire import grammar
from dida.wire.messages import NODE, Ok, Reply, Request, Slow, form_of, vocabulary


class StorageCommands(NodeCommands):
    """`ask` and `tell` take a request to the replica; each gives the reply, or a Deferred of it."""

    vocabulary: Mapping[str, type[Request]] = vocabulary(
        *NODE, Slow, *Replica.VERBS, SchedulerAt, *INTRODUCTIONS, *PEER
    )

    ask: Callable[[Request], Answer]
    """A client's request."""
    tell: Callable[[PeerMessage, str], Answer]
    """The message of the storage node at that URL."""
    vouched: Callable[[Address, str], Deferred[Reply]]
    """Asks the node at an address whether the word is its own."""

    def cmd_read(self, request: Request) -> Answer:
        return self.ask(request)

    cmd_write = cmd_updateif = cmd_list = cmd_versions = cmd_home = cmd_forget = cmd_watch = cmd_read

    def heard(self, request: Any, connection: LineServer) -> Answer:
        """`peer`, or what only another storage node may say: its connection has proved whose it is."""
        if isinstance(request, Peer):
            address = Address.parse(request.url)
            introduction = Introduction(str(address), lambda: self.vouched(address, request.word))
            connection.introduction = introduction
            introduction.proof().addCallback(
                lambda proved: connection.take_lines_of(grammar.LONGEST_LINE) if proved else None
            )
            return Ok()
        known = connection.introduction
        if known is None:
            raise BadRequest(f"{form_of(type(request)).verb} is for storage nodes, whose connections begin with peer")
        if known.proved:
            return self.tell(request, known.url)
        return known.proof().addCallback(lambda proved: self._told(request, known, proved))

    def _told(self, message: PeerMessage, introduction: Introduction, proved: bool) -> Any:
        if not proved:
            raise Unavailable(f"{introduction.url} does not vouch for this connection")
        return self.tell(message, introduction.url)
