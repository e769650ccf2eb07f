"""A node for tests of the line protocol, transports in memory for it, and a real port."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport

from dida import errors
from dida.errors import DidaError
from dida.protocols.lines import Answer, LineServer, LineServerFactory, NodeCommands, ok
from dida.wire.messages import NODE, Home, Ok, Read, Reply, Request, UpdateIf, Write, vocabulary


class Desk(NodeCommands):
    """A node for tests: reads are answered at once, writes when the test says so, the others not as they should."""

    vocabulary = vocabulary(*NODE, Read, Write, UpdateIf, Home)

    def __init__(self) -> None:
        self.waiting: dict[str, Deferred[Reply]] = {}
        self.seen: list[Request] = []
        self.peers: tuple[str, ...] = ()

    def peer_request(self, request: Any, connection: LineServer) -> Answer:
        if request.word in self.peers:
            connection.take_lines_of(500)
        return ok()

    def cmd_read(self, request: Read) -> Answer:
        self.seen.append(request)
        return ok(request.key, after={"1": 1})

    def cmd_write(self, request: Write) -> Answer:
        self.seen.append(request)
        return self.waiting.setdefault(request.key, Deferred())

    def cmd_updateif(self, request: UpdateIf) -> Answer:
        if request.key == "bug":
            raise ZeroDivisionError("a secret")
        if request.key == "error":
            raise DidaError(errors.UNAVAILABLE, "try again", object={"seconds": 1})
        return succeed(Ok((), {"what": object()})) if request.key == "unsayable" else Ok(("\ud800",))

    def cmd_home(self, request: Home) -> Answer:
        return None


class Wire(StringTransport):
    """A transport in memory that can be closed by halves, and remembers how it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = ""

    def loseWriteConnection(self) -> None:
        assert not self.closed
        self.closed = "writing"

    def loseConnection(self) -> None:
        self.closed = self.closed or "wholly"
        super().loseConnection()

    def abortConnection(self) -> None:
        self.closed = "aborted"
        self.disconnected = True

    def lines(self) -> list[str]:
        """What was written since the last time, by lines."""
        text: str = self.value().decode()
        self.clear()
        assert text == "" or text.endswith("\r\n")
        return text.split("\r\n")[:-1]


class Listener:
    """A node on a real port, which can go and come again."""

    def __init__(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.desk = Desk()
        self.factory = LineServerFactory(self.desk, self.reactor)
        self.number = 0
        self.open()

    def open(self) -> None:
        self.port = self.reactor.listenTCP(self.number, self.factory, interface="127.0.0.1")
        self.number = self.port.getHost().port

    def close(self) -> Any:
        for connection in list(self.factory.connections):
            cut(connection)
        return self.port.stopListening()


def cut(connection: LineServer) -> None:
    transport: Any = connection.transport
    transport.abortConnection()


async def turn(reactor: Any, condition: Callable[[], bool]) -> None:
    """Let the reactor run until something is true."""
    end = reactor.seconds() + 20
    while not condition():
        assert reactor.seconds() < end, "what the test waits for never came"
        await deferLater(reactor, 0.002)
