"""The answering side of the line protocol: bytes in, bytes out; in memory, and over TCP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
import pytest_twisted
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.logger import LogEvent
from twisted.python.failure import Failure

from dida.protocols import lines
from dida.protocols.lines import LineServerFactory, ok
from dida.wire.messages import Request, vocabulary
from tests.support.desk import Desk, Listener, Wire, turn
from tests.support.netcat import Netcat


class Server:
    """A LineServer with all that is around it."""

    def __init__(self, max_line: int = 200) -> None:
        self.clock = Clock()
        self.desk = Desk()
        self.factory = LineServerFactory(self.desk, self.clock, max_line)
        self.connection = self.factory.buildProtocol(None)
        self.wire = Wire()
        self.connection.makeConnection(self.wire)

    def say(self, *said: str) -> list[str]:
        """What is answered to lines at once."""
        self.connection.dataReceived("".join(f"{line}\r\n" for line in said).encode())
        return self.wire.lines()

    def answers(self) -> list[str]:
        """What is answered once the reactor has turned, so that lines that waited were served."""
        for _ in range(10):
            self.clock.advance(0)
        return self.wire.lines()

    def hang_up(self) -> None:
        self.connection.connectionLost(Failure(ConnectionDone()))


@pytest.fixture
def server() -> Server:
    return Server()


BUG = 'error internal "a bug at this node; its log has the details"'
READ = 'ok {} {{"after":{{"1":1}}}}'.format


# --- order ------------------------------------------------------------------


def test_untagged_requests_are_answered_in_order(server: Server) -> None:
    """Untagged requests are done one after the other: each sees what those before it did, however long they take."""
    assert server.say("write a 1", "read b", "write c 1", "nonsense", "help") == []
    assert [type(request).__name__ for request in server.desk.seen] == ["Write"]
    server.desk.waiting["a"].callback(ok("a"))
    assert server.answers() == ["ok a", READ("b")]
    server.desk.waiting["c"].callback(ok("c"))
    answers = server.answers()
    assert answers[:2] == ["ok c", "error unknown-verb nonsense"]
    assert answers[-1] == "ok"


def test_an_answer_does_not_call_the_node_again(server: Server) -> None:
    """The next line is served in a turn of its own: a node that answers is never called in the middle of that."""
    server.say("write a 1", "read b")
    server.desk.waiting["a"].callback(ok("a"))
    assert len(server.desk.seen) == 1
    assert server.answers() == ["ok a", READ("b")]


def test_tagged_requests_are_answered_as_they_come(server: Server) -> None:
    """A tagged answer waits for nobody, and carries its tag."""
    assert server.say("#1 write a 1", "#2 read b", "write c 1", "#é read d", "#3 nonsense") == [
        "#2 " + READ("b"),
        "#é " + READ("d"),
        "#3 error unknown-verb nonsense",
    ]
    server.desk.waiting["c"].callback(ok("c"))
    server.desk.waiting["a"].callback(ok("a"))
    assert server.answers() == ["ok c", "#1 ok a"]


def test_what_one_read_brings_is_answered_by_one_write(server: Server) -> None:
    """The answers to lines that came together go out together."""
    writes: list[bytes] = []
    server.wire.write = writes.append  # type: ignore[method-assign]
    server.say("#1 read a", "read b", "ping", "nonsense")
    assert len(writes) == 1


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_place_to_cut(end: str) -> None:
    """Two lines, with any character set and line end, are understood however the stream is cut in two."""
    stream = f'read "é ü"{end}#tag read ⏚{end}'.encode()
    whole = Server().say
    for cut in range(len(stream) + 1):
        server = Server()
        server.connection.dataReceived(stream[:cut])
        server.connection.dataReceived(stream[cut:])
        assert server.wire.lines() == ['ok "é ü" {"after":{"1":1}}', "#tag " + READ("⏚")]
    assert whole() == []


@given(st.lists(st.binary(max_size=30), max_size=10))
def test_no_bytes_disturb_a_connection(chunks: list[bytes]) -> None:
    """Whatever bytes come, the connection answers and stays, and the next proper request is served."""
    server = Server(max_line=1000)
    for chunk in chunks:
        server.connection.dataReceived(chunk)
    server.connection.dataReceived(b"\n")
    server.wire.lines()
    if not server.wire.closed:  # "quit" may have been among them
        assert server.say("read k") == [READ("k")]


def test_help_is_for_people(server: Server) -> None:
    """An untagged help is readable lines that end in ok, a tagged one an object; both have every verb."""
    *text, last = server.say("help")
    assert last == "ok"
    assert [line.split()[0] for line in text] == list(server.desk.vocabulary)
    assert "read KEY [VERSION]" in text[7]
    (answer,) = server.say("#1 help")
    assert answer.startswith('#1 ok {"help":"help","ping":"ping",')


def test_what_was_ignored_of_a_line_is_named(server: Server) -> None:
    """A reply names the members that the verb does not have, whatever it is, and whenever it comes."""
    assert server.say(
        '#1 write a 1 {"sate": 1}',
        'read b {"afer": {}}',
        '#2 ping {"x": 1, "y": {}, "deadline": 1}',
        'updateif error 1 2 {"x": 1}',
        '#3 nonsense {"x": 1}',
        'read {"x": 1}',
    ) == [
        'ok b {"after":{"1":1},"ignored":["afer"]}',
        '#2 ok {"ignored":["x","y"]}',
        'error unavailable "try again" {"seconds":1,"ignored":["x"]}',
        "#3 error unknown-verb nonsense",
        'error bad-request "expected: read KEY [VERSION]; got 0 words after read"',
    ]
    server.desk.waiting["a"].callback(ok("a"))
    assert server.answers() == ['#1 ok a {"ignored":["sate"]}']
    assert server.say('help {"x": 1}')[-1] == "ok"
    assert server.say('quit {"x": 1}') == ['ok {"ignored":["x"]}']


# --- what goes wrong --------------------------------------------------------


def test_bad_lines_get_an_error_and_the_connection_stays(server: Server) -> None:
    """Malformed lines, unknown verbs and wrong words each get their one error line."""
    answers = server.say("read", "", "raed k", 'read "k', "#7 read a b", "read k {", "ping")
    assert [answer.split(" ")[:2] for answer in answers[:6]] == [
        ["error", "bad-request"],
        ["error", "bad-request"],
        ["error", "unknown-verb"],
        ["error", "bad-request"],
        ["#7", "error"],
        ["error", "bad-request"],
    ]
    assert answers[6] == "ok"
    server.connection.dataReceived(b"#8 read \xff\n")
    assert server.wire.lines() == ['#8 error bad-request "not UTF-8 at byte 9: send text as UTF-8"']
    assert not server.wire.closed


def test_an_expected_failure_is_its_error_line(server: Server) -> None:
    """A DidaError that a command raises becomes its code, words and object."""
    assert server.say("updateif error 1 2") == ['error unavailable "try again" {"seconds":1}']


@pytest.mark.parametrize("where", ["bug", "unsayable"])
def test_a_bug_is_one_error_line_and_in_the_log(server: Server, logged_errors: list[LogEvent], where: str) -> None:
    """Whatever a command raises or returns, the peer gets one line without details, and all others are served."""
    assert server.say(f"updateif {where} 1 2", "ping") == [BUG, "ok"]
    assert len(logged_errors) == 1
    logged_errors.clear()


def test_an_answer_that_is_no_text(server: Server) -> None:
    """An answer that can't be encoded as UTF-8 is an error for its asker, not for those behind it."""
    assert server.say("updateif surrogate 1 2", "#1 ping") == [
        'error bad-request "half a surrogate pair: text that can\'t be encoded as UTF-8"',
        "#1 ok",
    ]


def test_a_late_bug_is_one_error_line_and_in_the_log(server: Server, logged_errors: list[LogEvent]) -> None:
    """The same for a command whose Deferred fails."""
    assert server.say("write a 1", "ping") == []
    server.desk.waiting["a"].errback(ZeroDivisionError())
    assert server.answers() == [BUG, "ok"]
    assert len(logged_errors) == 1
    logged_errors.clear()


def test_every_request_is_answered_by_its_deadline(server: Server) -> None:
    """A command that does not answer is answered for, a little after the request's deadline."""
    assert server.say('write a 1 {"deadline": 2}', "#1 write b 1", "ping") == []
    server.clock.advance(2.9)
    assert server.answers() == []
    server.clock.advance(0.2)
    assert server.answers() == ['error unknown-outcome "no reply within the deadline"', "ok"]
    server.clock.advance(8)
    assert server.answers() == ['#1 error unknown-outcome "no reply within the deadline"']
    server.desk.waiting["a"].callback(ok("too late"))
    assert server.answers() == []
    assert server.clock.getDelayedCalls() == []


def test_a_command_may_answer_nothing(server: Server) -> None:
    """None from a command is no answer, and holds up nobody."""
    assert server.say("home k", "ping") == ["ok"]


@pytest.mark.parametrize("data", [b"x" * 201, b"x" * 202 + b"\n", b"x" * 5000, b"ping\n" + b"x" * 201])
def test_a_line_that_is_too_long_ends_the_connection(server: Server, data: bytes) -> None:
    """It is answered (its end need not come), the writing side closed, and after a while the connection cut."""
    server.connection.dataReceived(data)
    answers = server.wire.lines()
    assert answers[-1] == 'error line-too-long "longer than 200 bytes: raise --max-line, or send less"'
    assert answers[:-1] == (["ok"] if data.startswith(b"ping") else [])
    assert server.wire.closed == "writing"
    server.connection.writeConnectionLost()
    for _ in range(20):
        assert server.say("x" * 1000, "read k") == []
    server.clock.advance(lines.LINGER - 0.1)
    assert server.wire.closed == "writing"
    server.clock.advance(0.2)
    assert server.wire.closed == "aborted"
    assert server.desk.seen == []


def test_a_line_of_just_the_limit_is_taken(server: Server) -> None:
    """The limit counts the line without its end."""
    key = "k" * 195
    assert server.say(f"read {key}") == [READ(key)]


def test_what_was_asked_before_a_line_that_is_too_long_is_answered_before_it(server: Server) -> None:
    """Requests in flight are not lost because a later line is too long."""
    assert server.say("write a 1", "x" * 300) == []
    assert server.wire.closed == ""
    server.desk.waiting["a"].callback(ok("a"))
    assert [answer.split(" ")[:2] for answer in server.answers()] == [["ok", "a"], ["error", "line-too-long"]]
    assert server.wire.closed == "writing"


@frozen
class Bulky(Request):
    usage: ClassVar[str] = "home WORD"
    of_connection: ClassVar[bool] = True
    word: str


def test_a_connection_that_brings_bulky_requests_has_a_limit_of_its_own(server: Server) -> None:
    """A peer's requests may need longer lines: its connection takes them once its node says so, no other."""
    server.desk.vocabulary = {**Desk.vocabulary, **vocabulary(Bulky)}
    long, answer = "k" * 400, READ("k" * 400)
    stranger = Server()
    stranger.desk.vocabulary = server.desk.vocabulary
    stranger.say("home word")
    assert stranger.say(f"read {long}")[0].startswith('error line-too-long "longer than 200 bytes')
    server.desk.peers = ("word",)
    server.say("home word")
    assert server.say(f"read {long}") == [answer]
    assert server.say("x" * 501)[0].startswith('error line-too-long "longer than 500 bytes')
    assert Server().say(f"read {long}")[0].startswith('error line-too-long "longer than 200 bytes')


def test_a_line_that_is_too_long_for_a_client_that_only_listens_any_more(server: Server) -> None:
    """It is answered even when the client has closed its sending side, and an earlier request is still being done."""
    server.say("write a 1", "x" * 300)
    server.connection.readConnectionLost()
    server.desk.waiting["a"].callback(ok("a"))
    assert [answer.split(" ")[:2] for answer in server.answers()] == [["ok", "a"], ["error", "line-too-long"]]
    assert server.wire.closed == "wholly"


# --- the end ----------------------------------------------------------------


def test_quit_closes_when_all_is_answered(server: Server) -> None:
    """After quit nothing more is read; what was asked before is answered, then ok, then the end."""
    assert server.say("write a 1", "#1 write b 1", "quit", "read k") == []
    server.desk.waiting["b"].callback(ok("b"))
    assert (server.answers(), server.wire.closed) == (["#1 ok b"], "")
    server.desk.waiting["a"].callback(ok("a"))
    assert (server.answers(), server.wire.closed) == (["ok a", "ok"], "writing")
    assert server.wire.producer is None, "a transport with a producer may never close"
    server.connection.writeConnectionLost()
    server.connection.readConnectionLost()
    assert server.wire.disconnecting
    server.hang_up()
    assert server.clock.getDelayedCalls() == []


def test_a_client_that_only_listens_any_more_gets_its_answers(server: Server) -> None:
    """A client that closed its sending side (nc -N) gets what it asked for, then the connection is closed."""
    assert server.say("write a 1", "ping") == []
    server.connection.readConnectionLost()
    assert server.wire.closed == ""
    server.desk.waiting["a"].callback(ok("a"))
    assert (server.answers(), server.wire.closed) == (["ok a", "ok"], "wholly")


def test_a_client_that_only_listens_from_the_start(server: Server) -> None:
    """With nothing in flight the connection of a client that closes its sending side is closed at once."""
    server.connection.readConnectionLost()
    assert server.wire.closed == "wholly"


@pytest.mark.parametrize("begun", ["read k", "write k v", '#1 write k "v'])
def test_a_line_without_an_end_is_not_executed(server: Server, begun: str) -> None:
    """When a client hangs up in mid-line, what it had begun to say is nothing."""
    server.connection.dataReceived(begun.encode())
    server.connection.readConnectionLost()
    server.hang_up()
    assert server.desk.seen == []
    assert server.factory.connections == set()


def test_answers_to_a_client_that_is_gone_are_dropped(server: Server) -> None:
    """A connection that was lost leaves no timer behind, and its answers go nowhere."""
    server.say('write a 1 {"deadline": 1}', "#1 write b 1", "quit")
    server.hang_up()
    server.desk.waiting["b"].callback(ok("b"))
    server.clock.advance(5)
    assert (server.answers(), server.wire.closed) == ([], "")
    assert server.clock.getDelayedCalls() == []


# --- bounds -----------------------------------------------------------------


def test_a_client_that_does_not_read_is_not_read_from(server: Server) -> None:
    """When the transport's buffer is full no more is read or served; when it has room, all goes on in order."""
    server.connection.pauseProducing()
    assert server.wire.producerState == "paused"
    assert server.say("read a", "read b") == []
    assert server.desk.seen == []
    server.connection.resumeProducing()
    server.clock.advance(0)
    assert server.answers() == [READ("a"), READ("b")]
    assert server.wire.producerState == "producing"


def test_a_full_buffer_stops_the_lines_that_were_read_already() -> None:
    """Of lines that came in one read, those after the transport's buffer is full wait: answers never pile up."""
    server = Server(max_line=100_000)
    written: list[bytes] = []

    def write(data: bytes) -> None:
        written.append(data)
        server.connection.pauseProducing()

    server.wire.write = write  # type: ignore[method-assign]
    key = "k" * 30_000
    server.say(*[f"read {key}"] * 20)
    served = []
    while len(server.desk.seen) < 20:
        served.append(len(server.desk.seen))
        assert server.wire.producerState == "paused"
        server.connection.resumeProducing()
        server.clock.advance(0)
    assert served == [3, 6, 9, 12, 15, 18]
    assert b"".join(written).count(b"\r\n") == 20


def test_requests_in_flight_are_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """With many requests unanswered no more are read; when half of them are answered, reading goes on."""
    monkeypatch.setattr(lines, "MAX_IN_FLIGHT", 4)
    server.say(*[f"#1 write {name} 1" for name in "abcdef"])
    assert [getattr(request, "key", None) for request in server.desk.seen] == ["a", "b", "c", "d"]
    assert server.wire.producerState == "paused"
    for name in "abc":
        server.desk.waiting[name].callback(ok(name))
    server.clock.advance(0)
    assert len(server.desk.seen) == 6
    assert server.wire.producerState == "producing"
    assert server.wire.lines() == [f"#1 ok {name}" for name in "abc"]


def test_requests_that_wait_for_their_turn_are_bounded(server: Server) -> None:
    """Quick requests behind a slow one wait for their turn, and no more are read meanwhile."""
    server.say("write a 1", *["read k"] * 10)
    assert len(server.desk.seen) == 1
    assert server.wire.producerState == "paused"
    server.desk.waiting["a"].callback(ok("a"))
    assert len(server.answers()) == 11
    assert server.wire.producerState == "producing"


def test_half_closed_with_lines_still_waiting(server: Server) -> None:
    """Lines that wait for room are served, and answered, though the client has closed its sending side."""
    server.connection.pauseProducing()
    server.say("read a", "quit")
    server.connection.readConnectionLost()
    assert server.wire.closed == ""
    server.connection.resumeProducing()
    server.clock.advance(0)
    assert (server.answers(), server.wire.closed) == ([READ("a"), "ok"], "wholly")


# --- a connection over TCP ----------------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    pytest_twisted.blockon(listener.close())


def talk(listener: Listener, conversation: Callable[[Netcat], list[str]]) -> Any:
    """Run a blocking conversation with the listener in a thread."""

    def converse() -> list[str]:
        with Netcat(listener.number) as netcat:
            return conversation(netcat)

    return deferToThread(converse)


@pytest_twisted.ensureDeferred
async def test_half_close_over_tcp(listener: Listener) -> None:
    """printf 'write …' | nc -N: the answer that comes later is still read, then the connection ends."""

    def conversation(netcat: Netcat) -> list[str]:
        netcat.send("write k v")
        netcat.send("ping")
        netcat.half_close()
        return netcat.rest()

    talked = talk(listener, conversation)
    await turn(listener.reactor, lambda: "k" in listener.desk.waiting)
    listener.desk.waiting["k"].callback(ok("k"))
    assert await talked == ["ok k", "ok"]
    await turn(listener.reactor, lambda: not listener.factory.connections)


@pytest_twisted.ensureDeferred
async def test_an_endless_line_over_tcp(listener: Listener) -> None:
    """Who sends a line beyond the limit reads the error, though it was still sending when it was written."""

    def conversation(netcat: Netcat) -> list[str]:
        netcat.send_raw(b"x" * (3 * 2**20))
        return netcat.rest()

    (answer,) = await talk(listener, conversation)
    assert answer.startswith("error line-too-long ")
    await turn(listener.reactor, lambda: not listener.factory.connections)


@pytest_twisted.ensureDeferred
async def test_quit_over_tcp(listener: Listener) -> None:
    """quit is answered, and the connection closed."""
    assert await talk(listener, lambda netcat: [netcat.ask("quit"), *netcat.rest()]) == ["ok"]
    await turn(listener.reactor, lambda: not listener.factory.connections)


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_read_over_tcp(listener: Listener) -> None:
    """A client that asks much and reads late gets every answer, and in between the node holds little."""
    key = "k" * 10_000
    count = 3000

    def conversation(netcat: Netcat) -> list[str]:
        import threading

        sender = threading.Thread(target=netcat.send_raw, args=[f"read {key}\n".encode() * count])
        sender.start()
        found = [netcat.line() for _ in range(count)]
        sender.join()
        return found

    answers = await talk(listener, conversation)
    assert len(answers) == count
    assert len({*answers}) == 1
    await turn(listener.reactor, lambda: not listener.factory.connections)
