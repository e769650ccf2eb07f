"""Bytes to a connection at once, where its socket takes them.

Twisted's own `transport.write` sends in another turn of the reactor, and asks the kernel twice more to be woken for
it. A line and its answer are small and the socket mostly has room: then they are sent here and now. Only what it
does not take is left to the transport, with all that follows until the transport has sent it; so long the producer
is paused.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IPullProducer
from zope.interface import implementer


@implementer(IPullProducer)
class Writer:
    """The writing side of one transport, and the `producer` (an IPushProducer) of what is written, if it can wait."""

    def __init__(self, transport: Any, producer: Any = None) -> None:
        self._transport = transport
        self._producer = producer
        self._send = getattr(transport, "writeSomeData", None)
        self._behind = self._told = False
        if self._send is None and producer is not None:
            transport.registerProducer(producer, True)

    def write(self, data: bytes) -> None:
        """Send it, behind all that was written before."""
        if self._send is None or self._behind:
            self._transport.write(data)
            return
        sent = self._send(data)
        if sent == len(data):
            return
        rest = memoryview(data)
        while isinstance(sent, int) and sent:
            rest = rest[sent:]
            if not rest:
                return
            sent = self._send(rest)
        self._transport.write(bytes(rest))  # a lost connection is found by the transport, too
        self._behind, self._told = True, False
        if self._producer is not None:
            self._producer.pauseProducing()
        self._transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        """The transport asks for more: once at its registration, and when it has sent all."""
        if not self._told:
            self._told = True
            return
        self._transport.unregisterProducer()
        self._behind = False
        if self._producer is not None:
            self._producer.resumeProducing()

    def stopProducing(self) -> None:
        """The connection is gone, as its protocol is told."""
