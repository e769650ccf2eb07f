"""The asking side of the line protocol: in memory, and over TCP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, connect

from dida import errors
from dida.errors import DidaError, Unavailable
from dida.protocols import links
from dida.protocols.lines import LineServerFactory, ok
from dida.protocols.links import LineClient, LineClientListener, LinkListener, ReconnectingClient, Unreachable
from dida.wire.messages import Ok, Ping, Read, Request, Write
from tests.support.desk import Desk, Listener, Wire, cut, turn
from tests.support.fakes import refused, the_reactor

# --- the asking side ----------------------------------------------------------------------------


class Asker:
    """A LineClient on a transport in memory."""

    def __init__(self, max_line: int = 1000) -> None:
        self.clock = Clock()
        self.client = LineClient(self.clock, LineClientListener(), max_line)
        self.wire = Wire()
        self.client.makeConnection(self.wire)
        self.replies: list[Any] = []

    def ask(self, request: Request, timeout: float = 5.0) -> None:
        """Ask; the reply, or the failure's exception, goes to `replies`."""
        self.client.ask(request, timeout).addBoth(
            lambda result: self.replies.append(result.value if isinstance(result, Failure) else result)
        )

    def sent(self) -> list[str]:
        self.clock.advance(0)
        return self.wire.lines()

    def hear(self, *said: str) -> list[Any]:
        """What is new in `replies` after the peer said some lines."""
        before = len(self.replies)
        self.client.dataReceived("".join(f"{line}\r\n" for line in said).encode())
        return self.replies[before:]

    def hang_up(self) -> None:
        self.client.connectionLost(Failure(ConnectionDone()))


@pytest.fixture
def asker() -> Iterator[Asker]:
    asker = Asker()
    yield asker
    if asker.client.connected:
        asker.hang_up()
    assert asker.clock.getDelayedCalls() == []


def test_many_requests_in_flight(asker: Asker) -> None:
    """Requests of one turn go out together, each under its own tag; replies find theirs in any order."""
    for key in "abc":
        asker.ask(Read(key))
    assert asker.sent() == ["#1 read a", "#2 read b", "#3 read c"]
    assert asker.hear("#3 ok c", "#1 no 4.1 x") == [Ok(("c",)), *asker.replies[1:2]]
    assert asker.hear("#2 error unavailable later")[0].code == "unavailable"


def test_an_answer_that_is_too_late_is_an_error_and_bothers_nobody(asker: Asker) -> None:
    """Each request has its own time-out; a reply that comes afterwards is dropped, and never another's."""
    asker.ask(Read("a"), timeout=5)
    asker.ask(Read("b"), timeout=1)
    asker.sent()
    asker.clock.advance(1)
    assert [problem.code for problem in asker.replies] == [errors.TIMED_OUT]
    assert asker.hear("#2 ok b") == []
    assert asker.hear("#1 ok a") == [Ok(("a",))]
    asker.clock.advance(10)
    assert len(asker.replies) == 2


def test_a_request_that_nobody_waits_for_any_more(asker: Asker) -> None:
    """A cancelled question is ended for its asker; its reply, should it come, is dropped."""
    asked = asker.client.ask(Ping(), 5)
    asked.addErrback(lambda failure: None)
    asked.cancel()
    asker.sent()
    assert asker.hear("#1 ok") == []
    assert asker.wire.closed == ""


@pytest.mark.parametrize(
    "line",
    ["ok", "#9 ok", "#x ok", "#0 ok", "#² ok", "what is this", "#1 maybe", "error line-too-long", "x" * 1001, "\0"],
)
def test_a_peer_that_answers_what_was_not_asked_is_left(asker: Asker, line: str) -> None:
    """A reply that belongs to no request means that the two sides no longer understand each other: all ends."""
    asker.ask(Ping())
    asker.sent()
    assert asker.hear(line, "#1 ok") == []
    assert asker.wire.closed == "aborted"
    asker.hang_up()
    assert [type(problem) for problem in asker.replies] == [Unavailable]


def test_a_broken_connection_ends_what_is_in_flight(asker: Asker) -> None:
    """When the connection ends, so do its requests; what is asked afterwards was certainly not sent."""
    asker.ask(Ping())
    asker.ask(Ping())
    asker.hang_up()
    assert [problem.code for problem in asker.replies] == [errors.UNAVAILABLE] * 2
    asker.ask(Ping())
    assert isinstance(asker.replies[-1], Unreachable)


def test_what_cannot_be_said_is_refused_alone(asker: Asker) -> None:
    """A request that is no text fails by itself, and leaves no trace on the connection."""
    asker.ask(Read("\ud800"))
    asker.ask(Read("a"))
    assert [problem.code for problem in asker.replies] == [errors.BAD_REQUEST]
    assert asker.sent() == ["#1 read a"]


def test_replies_in_any_pieces(asker: Asker) -> None:
    """A reply is understood however its bytes are cut."""
    for place in range(9):
        asker.ask(Ping())
        tag = asker.sent()[0].split(" ")[0]
        data = f"{tag} ok aé\r\n".encode()
        asker.client.dataReceived(data[:place])
        asker.client.dataReceived(data[place:])
        assert asker.replies[-1] == Ok(("aé",))


def test_what_waits_is_bounded(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that wait for replies are counted, and those above the bound refused; deadlines do not pile up."""
    monkeypatch.setattr(links, "MAX_WAITING", 2)
    for _ in range(3):
        asker.ask(Ping())
    assert isinstance(asker.replies[0], Unreachable)
    asker.hear("#1 ok", "#2 ok")
    for number in range(3, 1000):
        asker.ask(Ping(), timeout=100)
        asker.hear(f"#{number} ok")
    assert len(asker.client._deadlines) < 100
    assert len(asker.clock.getDelayedCalls()) <= 2


def test_closing_sends_what_was_asked_first(asker: Asker) -> None:
    """A request asked just before the connection is closed still goes out; a peer that does not take it is cut."""
    asker.ask(Ping())
    asker.client.close()
    assert (asker.wire.lines(), asker.wire.closed) == (["#1 ping"], "wholly")
    asker.clock.advance(links.CLOSE_TIMEOUT)
    assert asker.wire.closed == "aborted"


# --- the two sides together ---------------------------------------------------------------------


@given(st.lists(st.text(), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_both_sides_understand_each_other(keys: list[str], random: Any) -> None:
    """Each of many requests in flight gets its own answer, whatever their text and the order of the answers."""
    clock = Clock()
    desk = Desk()
    factory = LineServerFactory(desk, clock, 10_000)
    client, server = LineClient(clock, LineClientListener()), factory.buildProtocol(None)
    pump = connect(server, FakeTransport(server, isServer=True), client, FakeTransport(client, isServer=False))
    asked = [client.ask(Write(f"{number}/{key}", key), 5) for number, key in enumerate(keys)]
    clock.advance(0)
    pump.flush()
    waiting = list(desk.waiting.items())
    random.shuffle(waiting)
    for key, answer in waiting:
        answer.callback(ok(key))
    pump.flush()
    assert [answer.result for answer in asked] == [Ok((f"{number}/{key}",)) for number, key in enumerate(keys)]
    client.connectionLost()
    server.connectionLost()
    assert [call for call in clock.getDelayedCalls() if call.active()] == []


# --- Link, over TCP -----------------------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    pytest_twisted.blockon(listener.close())


class Changes(LinkListener):
    """Notes the changes of a link."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_up(self, link: ReconnectingClient) -> None:
        self.seen.append("up")

    def on_down(self, link: ReconnectingClient, broken: bool) -> None:
        self.seen.append("broken" if broken else "down")

    def on_refused(self, link: ReconnectingClient, tried: float) -> None:
        self.seen.append("refused")


@pytest.fixture
def changes() -> Changes:
    return Changes()


@pytest.fixture
def link(listener: Listener, changes: Changes) -> Iterator[ReconnectingClient]:
    link = ReconnectingClient(listener.reactor, "127.0.0.1", listener.number, changes)
    yield link
    pytest_twisted.blockon(link.stop())


@pytest_twisted.ensureDeferred
async def test_a_link_connects_on_use_and_again(listener: Listener, link: ReconnectingClient, changes: Changes) -> None:
    """The first request connects; after the connection broke, a new one is made; its listener hears of each change."""
    assert await link.ask(Ping(), 5) == Ok()
    for connection in list(listener.factory.connections):
        cut(connection)
    await turn(listener.reactor, lambda: changes.seen == ["up", "broken", "up"])
    assert await link.ask(Ping(), 5) == Ok()


@pytest.mark.parametrize(("failures", "seconds"), [(1, 0.001), (2, 0.05), (3, 0.2), (5, 1.0), (50, 1.0)])
def test_when_a_link_tries_again(link: ReconnectingClient, failures: int, seconds: float) -> None:
    """At once after the connection broke, which is how a death is noticed; then more and more slowly."""
    assert link._retry(failures) == seconds


@pytest_twisted.ensureDeferred
async def test_a_link_to_nobody(listener: Listener, link: ReconnectingClient, changes: Changes) -> None:
    """While nobody listens at the port, a request fails at once with Unreachable; later it is answered."""
    await listener.close()
    with pytest.raises(Unreachable, match=f"127.0.0.1:{listener.number}"):
        await link.ask(Ping(), 5)
    assert changes.seen[:2] == ["refused", "down"]
    listener.open()
    await turn(listener.reactor, lambda: link.client is not None)
    assert await link.ask(Ping(), 5) == Ok()


@pytest_twisted.ensureDeferred
async def test_a_question_that_is_cancelled_while_connecting(listener: Listener, link: ReconnectingClient) -> None:
    """Who cancels a question hears of that, not of a node that can't be reached: a loop that asks ends."""
    asked = link.ask(Ping(), 5)
    asked.cancel()
    with pytest.raises(CancelledError):
        await asked


@pytest_twisted.ensureDeferred
async def test_a_question_over_a_link_has_one_deadline(listener: Listener, link: ReconnectingClient) -> None:
    """A node that takes the request and does not answer: the question ends after its time."""
    with pytest.raises(DidaError) as caught:
        await link.ask(Write("k", "v"), 0.05)
    assert caught.value.code == errors.TIMED_OUT
    listener.desk.waiting["k"].callback(ok())


@pytest_twisted.ensureDeferred
async def test_a_stopped_link_stays_stopped(listener: Listener, link: ReconnectingClient) -> None:
    """After stop what is in flight ends, nothing connects any more, and every question is Unreachable."""
    asked = link.ask(Write("k", "v"), 5)
    await turn(listener.reactor, lambda: "k" in listener.desk.waiting)
    stopped = link.stop()
    with pytest.raises(Unavailable):
        await asked
    await stopped
    with pytest.raises(Unreachable):
        await link.ask(Ping(), 5)
    listener.desk.waiting["k"].callback(ok())
    await turn(listener.reactor, lambda: not listener.factory.connections)


@pytest_twisted.ensureDeferred
async def test_a_link_that_is_stopped_while_it_connects() -> None:
    """What was asked of a link that is stopped before it is connected ends as unreachable, not as cancelled."""
    address = refused()
    link = ReconnectingClient(the_reactor(), address.host, address.port)
    answer = link.ask(Ping(), 5.0)
    link.stop()
    with pytest.raises(Unreachable):
        await answer


@pytest_twisted.ensureDeferred
async def test_who_is_told_that_nobody_is_there_may_ask_again_at_once() -> None:
    """What a failed question sets off may be another question to the same node, or the end of the link."""
    address = refused()
    link = ReconnectingClient(the_reactor(), address.host, address.port)
    again: list[Deferred[Any]] = []
    asked = link.ask(Ping(), 5.0).addErrback(lambda failure: again.append(link.ask(Ping(), 5.0)))
    await asked
    told = again[0].addErrback(lambda failure: link.stop().addCallback(lambda stopped: failure))
    with pytest.raises(Unreachable):
        await told
