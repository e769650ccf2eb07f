"""A scheduler sends its address to the storage nodes and workers that it uses, so that they can name it to clients."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.python.failure import Failure

from dida.addresses import NodeAddress
from dida.chains.messages import HOP_TIMEOUT
from dida.errors import DidaError
from dida.protocols.links import ReconnectingClient
from dida.wire.messages import SchedulerAt

ANNOUNCE_EVERY = 2.0
"""Interval between two messages to a node, in seconds."""


class Presence:
    """The announcements of the scheduler `me`; `links` returns the connections to the nodes that it uses."""

    def __init__(self, me: NodeAddress, links: Callable[[], Iterable[ReconnectingClient]]) -> None:
        self._announcement = SchedulerAt(me.id, str(me.address))
        self._links = links
        self._announced: dict[str, float] = {}
        """Address of a node to the time of the last announcement."""

    def tick(self, now: float) -> None:
        """Announce the scheduler to the nodes whose time has come: to new ones at once."""
        links = {link.address: link for link in self._links()}
        self._announced = {address: when for address, when in self._announced.items() if address in links}
        for address, link in links.items():
            if now >= self._announced.get(address, now - ANNOUNCE_EVERY) + ANNOUNCE_EVERY:
                self._announced[address] = now
                link.ask(self._announcement, HOP_TIMEOUT).addErrback(_not_there)


def _not_there(failure: Failure) -> None:
    """Ignore the error: the announcement is repeated."""
    failure.trap(DidaError)
