"""Clients that are gone, or may be: what waits for them is given up."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from dida.protocols import lines, tuning
from dida.protocols.lines import ok
from dida.protocols.links import ReconnectingClient
from dida.wire.messages import Ping, Reply
from tests.protocols.test_lines import READ, Server
from tests.support.desk import Listener, turn
from tests.support.netcat import Netcat


@pytest.fixture
def server() -> Server:
    return Server()


def was_given_up(server: Server, key: str) -> bool:
    return server.desk.waiting[key].called


@pytest.mark.parametrize(
    "said",
    [
        ['write a 1 {"deadline": 3600}'],
        ['#1 write a 1 {"deadline": 3600}'],
        ['#1 write b 1 {"deadline": 3600}', 'write a 1 {"deadline": 3600}', "ping", "quit"],
    ],
    ids=["untagged", "tagged", "with more behind it"],
)
def test_a_half_closed_client_is_given_up(server: Server, said: list[str]) -> None:
    """Who has closed its sending side and hears nothing for a while is gone: nothing waits for it, all is closed."""
    server.say(*said)
    server.connection.readConnectionLost()
    server.clock.advance(lines.PATIENCE - 0.1)
    assert (was_given_up(server, "a"), server.wire.closed) == (False, "")
    server.clock.advance(0.2)
    assert (was_given_up(server, "a"), server.wire.closed) == (True, "wholly")
    assert server.wire.lines() == []
    server.hang_up()
    assert server.clock.getDelayedCalls() == []


def test_a_half_closed_client_that_is_answered_is_not_given_up(server: Server) -> None:
    """Each answer gives the next one as much time: a long script that is piped in is done to its end."""
    server.say(*[f"write {key} 1" for key in "abc"], "read d")
    server.connection.readConnectionLost()
    for key in "abc":
        server.clock.advance(lines.PATIENCE - 1)
        server.desk.waiting[key].callback(ok(key))
        assert server.answers()[0] == f"ok {key}"
    server.clock.advance(0)
    assert server.wire.closed == "wholly"
    assert len(server.desk.seen) == 4


def test_a_half_closed_client_that_reads_slowly_is_not_given_up() -> None:
    """A client that has sent much and reads its answers bit by bit gets all of them, as long as it reads."""
    server = Server(max_line=100_000)
    server.wire.write = lambda data: server.connection.pauseProducing()  # type: ignore[method-assign]
    key = "k" * 30_000
    server.say(*[f"read {key}"] * 20)
    server.connection.readConnectionLost()
    for _ in range(8):
        server.clock.advance(lines.PATIENCE - 1)
        server.connection.resumeProducing()
        server.clock.advance(0)
    assert len(server.desk.seen) == 20
    assert server.wire.closed == "wholly"


def test_what_waits_for_a_lost_connection_is_given_up_at_once(server: Server) -> None:
    """When the connection is broken nobody can be answered any more."""
    server.say('#1 write a 1 {"deadline": 3600}', 'write b 1 {"deadline": 3600}', "read c")
    server.hang_up()
    assert was_given_up(server, "a")
    assert was_given_up(server, "b")
    assert server.clock.getDelayedCalls() == []


def test_a_bug_in_what_was_given_up_is_still_in_the_log(server: Server, logged_errors: list[Any]) -> None:
    """A command that fails when nobody waits for it any more fails loudly all the same."""

    def fail(answer: Deferred[Reply]) -> None:
        answer.errback(ZeroDivisionError())

    server.desk.waiting["a"] = Deferred(fail)
    server.say("write a 1")
    server.hang_up()
    assert len(logged_errors) == 1
    logged_errors.clear()


def test_answers_that_a_half_closed_client_does_not_read(server: Server) -> None:
    """It is given up, too, and what it has not read in a minute is thrown away."""
    server.connection.pauseProducing()
    server.say("read a", "read b")
    server.connection.readConnectionLost()
    server.clock.advance(lines.PATIENCE)
    assert (server.desk.seen, server.wire.closed) == ([], "wholly")
    server.clock.advance(lines.UNREAD)
    assert server.wire.closed == "aborted"


def test_a_client_that_reads_no_answers_after_quit(server: Server) -> None:
    """A connection that the node wants to close is closed, whether its client takes the answers or not."""
    server.say("quit")
    assert server.wire.closed == "writing"
    server.clock.advance(lines.UNREAD)
    assert server.wire.closed == "aborted"


# --- over TCP -----------------------------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    pytest_twisted.blockon(listener.close())


@pytest.mark.parametrize("behind", [b"", b"ping\n" * 3, b"ping\n" * 20_000], ids=["nothing", "lines", "much"])
@pytest_twisted.ensureDeferred
async def test_a_client_that_hangs_up_while_it_is_not_read_from(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, behind: bytes
) -> None:
    """A connection whose lines wait for their turn is not read from; its end is seen all the same."""
    monkeypatch.setattr(lines, "PATIENCE", 0.05)
    monkeypatch.setattr(lines, "LOOK_INTERVAL", 0.01)
    netcat = Netcat(listener.number)
    netcat.socket.setblocking(False)
    sent = netcat.socket.send(b'write a 1 {"deadline": 3600}\n' + behind)
    assert sent > 0
    await turn(listener.reactor, lambda: "a" in listener.desk.waiting)
    assert listener.factory.connections
    netcat.close()
    await turn(listener.reactor, lambda: not listener.factory.connections)
    assert listener.desk.waiting["a"].called


@pytest_twisted.ensureDeferred
async def test_peers_that_vanish_are_asked_for(listener: Listener) -> None:
    """The kernel asks after the other end of every connection, accepted or made, and breaks it in about a minute."""

    def connect() -> Netcat:
        netcat = Netcat(listener.number)
        assert netcat.ask("read k") == READ("k")
        return netcat

    netcat = await deferToThread(connect)
    (connection,) = listener.factory.connections
    link = ReconnectingClient(listener.reactor, "127.0.0.1", listener.number)
    await link.ask(Ping(), 5.0)
    assert link.client is not None
    for protocol in (connection, link.client):
        transport: Any = protocol.transport
        handle: socket.socket = transport.getHandle()
        assert handle.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        tcp = {name: handle.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in tuning._OPTIONS}
        assert tcp["TCP_KEEPIDLE"] + tcp["TCP_KEEPINTVL"] * tcp["TCP_KEEPCNT"] == 60
        assert tcp["TCP_USER_TIMEOUT"] == 60_000
    netcat.close()
    await link.stop()
    await turn(listener.reactor, lambda: not listener.factory.connections)
