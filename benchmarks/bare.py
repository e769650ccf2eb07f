"""Bare Twisted, the floor that DIDA is measured beside: a key-value server over a dict, and a relay of lines.

`python -m benchmarks.bare PORT` serves `read`, `write` and `updateif`; with a second port it passes each line on to
there and the answer back. A LineReceiver and nothing else: no checks, no tags, no bounds.
"""

from __future__ import annotations

import sys
from collections import deque
from typing import Any, cast

from twisted.internet import protocol
from twisted.protocols.basic import LineReceiver

MAX_LINE = 2**20
"""Bytes; as DIDA has it."""


class KeyValue(LineReceiver):
    """One dict, shared by all connections."""

    MAX_LENGTH = MAX_LINE
    records: dict[bytes, bytes]

    def connectionMade(self) -> None:
        cast(Any, self.transport).setTcpNoDelay(True)
        self.records = cast(Any, self.factory).records

    def lineReceived(self, line: bytes) -> None:
        words = line.split()
        records = self.records
        if words[0] == b"read":
            self.sendLine(b"ok " + records.get(words[1], b"none"))
        elif words[0] == b"write":
            records[words[1]] = words[2]
            self.sendLine(b"ok")
        elif records.get(words[1]) == words[2]:
            records[words[1]] = words[3]
            self.sendLine(b"ok")
        else:
            self.sendLine(b"no")


class Relay(LineReceiver):
    """Passes lines on over the process's one connection to the next node, answers back in their order."""

    MAX_LENGTH = MAX_LINE

    def connectionMade(self) -> None:
        cast(Any, self.transport).setTcpNoDelay(True)

    def lineReceived(self, line: bytes) -> None:
        cast(Any, self.factory).onward.ask(self, line)


class Onward(LineReceiver):
    """The connection to the next node."""

    MAX_LENGTH = MAX_LINE

    def __init__(self) -> None:
        self.waiting: deque[Relay] = deque()

    def connectionMade(self) -> None:
        cast(Any, self.transport).setTcpNoDelay(True)

    def ask(self, relay: Relay, line: bytes) -> None:
        self.waiting.append(relay)
        self.sendLine(line)

    def lineReceived(self, line: bytes) -> None:
        self.waiting.popleft().sendLine(line)


def main() -> None:
    """Listen until the process is ended."""
    from twisted.internet import reactor
    from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

    clock: Any = reactor
    port, *after = map(int, sys.argv[1:])
    factory: Any = protocol.Factory.forProtocol(Relay if after else KeyValue)
    factory.records = {}

    def listen(onward: Onward | None = None) -> None:
        factory.onward = onward
        clock.listenTCP(port, factory, interface="127.0.0.1", backlog=1024)

    if after:
        connectProtocol(TCP4ClientEndpoint(clock, "127.0.0.1", after[0]), Onward()).addCallback(listen)
    else:
        listen()
    clock.run()


if __name__ == "__main__":
    main()
