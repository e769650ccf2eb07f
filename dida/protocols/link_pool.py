"""Links to nodes by address: made when they are needed, dropped when they fail or are too many."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from dida.protocols.links import LinkListener, ReconnectingClient
from dida.wire.messages import Reply, Request

MAX_LINKS = 256
"""The most links; the least recently used one is dropped first."""


class ConnectionPool(LinkListener):
    """A table of links. A node that can't be reached keeps no link: the next request makes a new one."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._links: dict[tuple[str, int], ReconnectingClient] = {}

    def ask(self, host: str, port: int, request: Request, timeout: float) -> Deferred[Reply]:
        """Send a request to the node at that address and return its reply, as `ReconnectingClient.ask`."""
        return self._link((host, port)).ask(request, timeout)

    def stop(self) -> None:
        """Close all links."""
        for link in self._links.values():
            link.stop()
        self._links.clear()

    def _link(self, address: tuple[str, int]) -> ReconnectingClient:
        link = self._links.pop(address, None)
        if link is None:
            link = ReconnectingClient(self._reactor, *address, self)
            if len(self._links) >= MAX_LINKS:
                self._links.pop(next(iter(self._links))).stop()
        self._links[address] = link  # the most recently used one is the last
        return link

    def on_down(self, link: ReconnectingClient, broken: bool) -> None:
        self._reactor.callLater(0, self._drop, link)

    def _drop(self, link: ReconnectingClient) -> None:
        """Drop a link that broke or was refused: without a request there is no reason to reconnect."""
        address = link.host, link.port
        if self._links.get(address) is link and link.client is None:
            del self._links[address]
            link.stop()
