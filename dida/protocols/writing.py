"""Writing to a connection at once, if its socket has room.

Twisted's `transport.write` sends in a later turn of the reactor, after two more system calls. A line and its reply are
small and the socket mostly has room: then they are sent at once. Only the rest is left to the transport, with all that
follows until the transport has sent it; meanwhile the producer is paused.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IPullProducer
from zope.interface import implementer


@implementer(IPullProducer)
class Writer:
    """The writing side of one transport, and of the `producer` (an IPushProducer) of the bytes, if it can wait."""

    def __init__(self, transport: Any, producer: Any = None) -> None:
        self._transport = transport
        self._producer = producer
        self._send = getattr(transport, "writeSomeData", None)
        self._behind = self._told = False
        if self._send is None and producer is not None:
            transport.registerProducer(producer, True)

    def write(self, data: bytes) -> None:
        """Send bytes, after all that was written before."""
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
        self._transport.write(bytes(rest))  # the transport also detects a lost connection
        self._behind, self._told = True, False
        if self._producer is not None:
            self._producer.pauseProducing()
        self._transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        """Continue: the transport calls this once at its registration, and when it has sent all."""
        if not self._told:
            self._told = True
            return
        self._transport.unregisterProducer()
        self._behind = False
        if self._producer is not None:
            self._producer.resumeProducing()

    def stopProducing(self) -> None:
        """Do nothing: the connection is gone, and its protocol is notified."""
