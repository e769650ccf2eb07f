"""Another protocol's bytes on a DIDA port: nothing in them is executed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import implementer

from dida.protocols import lines
from dida.protocols.lines import LineServer, LineServerFactory
from tests.support.desk import Desk, Wire

HTTP = b"%b\r\nHost: localhost:5001\r\nContent-Type: text/plain\r\n\r\n"
DO = b"write k v\r\n#1 write k v\r\n"
ATTACKS = {
    "form": HTTP % b"POST / HTTP/1.1" + DO,
    "old": HTTP % b"POST / HTTP/1.0" + DO,
    "no header": b"GET / HTTP/1.1\r\n\r\n" + DO,
    "pipelined": HTTP % b"GET / HTTP/1.1" + HTTP % b"GET / HTTP/1.1" + DO,
    "preflight": HTTP % b"OPTIONS /x HTTP/1.1" + HTTP % b"write /x HTTP/1.1",
    "chunked": HTTP % b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked" + b"b\r\nwrite k v\r\n\r\n0\r\n\r\n",
    "websocket": HTTP % b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade" + DO,
    "absolute": HTTP % b"GET http://localhost:5001/ HTTP/1.1" + DO,
    "connect": HTTP % b"CONNECT localhost:5001 HTTP/1.1" + DO,
    "any method": HTTP % b"what-ever /x HTTP/1.1" + DO,
    "small method": HTTP % b"post / HTTP/1.1" + DO,
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + DO,
    "http 0.9": b"Host: x\r\n" + DO,
    "header first": b"Content-Length: 10\r\n" + DO,
    "write": HTTP % b"write /k HTTP/1.1" + DO,
    "tagged": HTTP % b"#1 /x HTTP/1.1" + DO,
    "smtp": b"EHLO me\r\nMAIL FROM:<a@b>\r\nDATA\r\n" + DO,
    "lmtp": b"LHLO me\r\n" + DO,
    "redis": b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n" + DO,
    "pop": b"+OK ready\r\n" + DO,
    "ssh": b"SSH-2.0-x\r\n" + DO,
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n" + DO,
}


class Server:
    """A connection with all around it, over which a stranger speaks."""

    def __init__(self, clock: Clock | None = None, factory: LineServerFactory | None = None) -> None:
        self.clock = clock or Clock()
        self.desk = Desk()
        self.factory = factory or LineServerFactory(self.desk, self.clock, 10_000)
        self.connection: LineServer = self.factory.buildProtocol(None)
        self.wire = Wire()
        self.wire.peerAddr = IPv4Address("TCP", "192.0.2.7", 50_000)
        self.connection.makeConnection(self.wire)

    def hear(self, *chunks: bytes) -> None:
        """What is said, in these pieces, as long as the connection takes it."""
        for chunk in chunks:
            self.connection.dataReceived(chunk)
            self.clock.advance(0)

    def cut(self) -> bool:
        """Whether the connection was ended, with no word, and nothing was done."""
        self.clock.advance(1)
        return (self.wire.value(), self.wire.closed, self.desk.seen) == (b"", "writing", [])


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_behind_it_is_executed(attack: str) -> None:
    """All in one piece, byte by byte, line by line: the connection ends, unanswered, and nothing is done."""
    said = ATTACKS[attack]
    for pieces in ([said], [said[at : at + 1] for at in range(len(said))], said.splitlines(keepends=True)):
        server = Server()
        server.hear(*pieces)
        assert server.cut(), pieces


@pytest.mark.parametrize(
    "attack", [name for name in ATTACKS if name not in ("write", "smtp", "lmtp", "redis", "pop", "ssh", "tls")]
)
def test_nor_behind_lines_of_ours(attack: str) -> None:
    """HTTP and headers end a connection also when lines of ours came before, whose answers still go out."""
    server = Server()
    server.hear(b"ping\r\n", b"#1 ping\r\n" + ATTACKS[attack])
    assert server.wire.lines() == ["ok", "#1 ok"]
    assert server.cut()


def test_what_waits_is_given_up() -> None:
    """Requests in flight on such a connection hold up its end no more than they would if the client were gone."""
    server = Server()
    server.hear(b"#1 write a 1\r\n", b"GET / HTTP/1.1\r\n\r\n")
    assert (server.wire.value(), server.wire.closed) == (b"", "writing")
    assert not server.connection._waiting
    assert server.desk.waiting["a"].called


def test_a_tls_hello_without_a_line_end() -> None:
    """A TLS hello is cut off at its second byte: its client would wait for an answer."""
    server = Server()
    server.hear(b"\x16")
    assert server.wire.closed == ""
    server.hear(b"\x03")
    assert server.cut()


def test_a_verb_as_the_method() -> None:
    """A page's own method that is a verb is malformed, and answered as that; the header behind it ends all."""
    server = Server()
    server.hear(HTTP % b"crash / HTTP/1.1" + b"crash\r\n")
    assert server.cut()
    server = Server()
    server.hear(b"crash / HTTP/1.1\r\nping\r\n")
    assert [line[:17] for line in server.wire.lines()] == ["error bad-request", "ok"]
    server.hear(b"Host: x\r\n" + DO)
    assert server.cut()


@pytest.mark.parametrize("then", [b"ping\r\n", b"#1 read /k\r\n"])
def test_a_record_may_say_what_http_says(then: bytes) -> None:
    """`write /k HTTP/1.1` is a line of ours unless a header follows: done with the next line, or a moment later."""
    server = Server()
    server.hear(b"write /k HTTP/1.1\r\n")
    assert server.desk.seen == []
    server.clock.advance(lines.HOLD)
    assert [type(request).__name__ for request in server.desk.seen] == ["Write"]
    server = Server()
    server.hear(b"write /k HTTP/1.1\r\n", then)
    assert type(server.desk.seen[0]).__name__ == "Write"
    server = Server()
    server.hear(b"write /k HTTP/1.1\r\n")
    server.connection.readConnectionLost()
    assert type(server.desk.seen[0]).__name__ == "Write"
    server = Server()
    server.hear(b"ping\r\nwrite /k HTTP/1.1\r\n")
    assert type(server.desk.seen[0]).__name__ == "Write"


OURS = [
    "GET /crash",
    "SET k v",
    "a1 LOGIN x y",
    "QUIT",
    "STATUS",
    "READ k",
    "CRASH",
    "PING",
    "VRFY me",
    "HTTP/1.1 200 OK",
]


@pytest.mark.parametrize("line", OURS)
def test_an_unknown_verb_is_answered(line: str) -> None:
    """Redis inline, IMAP, HTTP/0.9 and whatever is not understood: an unknown verb; the connection stays."""
    server = Server()
    server.hear(f"{line}\r\n".encode())
    assert server.wire.lines() == [f"error unknown-verb {line.split()[0]}"]
    server.hear(b"read k\r\n")
    assert len(server.wire.lines()) == 1
    assert server.wire.closed == ""


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What the log says."""
    found: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        found.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)


def test_the_log_tells_of_each_address_once_a_minute(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One line for each address and minute, and for so many addresses: a page that tries all ports fills no log."""
    monkeypatch.setattr(lines, "MAX_LOGGED", 2)
    clock, factory = Clock(), LineServerFactory(Desk(), Clock())
    factory.clock = clock

    def attack(host: str) -> None:
        server = Server(clock, factory)
        server.wire.peerAddr = IPv4Address("TCP", host, 50_000)
        server.hear(b"GET / HTTP/1.1\r\n")

    def told() -> list[Any]:
        hosts = [text.split()[4].strip(":") for text in said]
        said.clear()
        return hosts

    for host in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.3"):
        attack(host)
    assert told() == ["192.0.2.1", "192.0.2.2"]
    clock.advance(lines.LOG_INTERVAL - 3)
    attack("192.0.2.1")
    assert told() == []
    clock.advance(10)
    for host in ("192.0.2.3", "192.0.2.1"):
        attack(host)
    assert told() == ["192.0.2.3", "192.0.2.1"]
