"""A scheduler tells the storage nodes and workers that it uses where it is, so that each can name it to clients."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.python.failure import Failure

from dida.addresses import NodeAddress
from dida.chains.messages import HOP_TIMEOUT
from dida.errors import DidaError
from dida.protocols.links import ReconnectingClient
from dida.wire.messages import SchedulerAt

TELL_EVERY = 2.0
"""Seconds between two times that each node is told."""


class Presence:
    """Of the scheduler `me`; `links` gives the connections to those that it uses now."""

    def __init__(self, me: NodeAddress, links: Callable[[], Iterable[ReconnectingClient]]) -> None:
        self._said = SchedulerAt(me.id, str(me.address))
        self._links = links
        self._told: dict[str, float] = {}
        """Addresses of nodes, and when each was told."""

    def tick(self, now: float) -> None:
        """Tell those whose time has come: new ones at once."""
        links = {link.address: link for link in self._links()}
        self._told = {address: when for address, when in self._told.items() if address in links}
        for address, link in links.items():
            if now >= self._told.get(address, now - TELL_EVERY) + TELL_EVERY:
                self._told[address] = now
                link.ask(self._said, HOP_TIMEOUT).addErrback(_not_there)


def _not_there(failure: Failure) -> None:
    """It is told again soon."""
    failure.trap(DidaError)
