"""The line protocol on a transport, the server side; the client side is `dida.protocols.links`.

`LineServer` bounds and decodes lines and dispatches them to the `cmd_VERB` methods of its node, which return a reply or
a Deferred of one. Untagged requests are executed one after the other, so that each sees the effects of those before it;
tagged requests are executed as they come. All replies of one turn of the reactor are written at once.

Three things bound a connection: the length of a line, the requests in flight, and the transport's buffer. When that is
full the server stops reading: it does not read from a client that does not read its replies. Lines that were read by
then wait; they are no more than one read.

A client that speaks another protocol (`dida.wire.foreign`) is disconnected. A client that has closed its sending side
may still read or be gone, which looks the same: it gets the replies that come, and is disconnected when none has come
for `PATIENCE` seconds. While the server does not read from a connection, it polls for its end.

The module is long because `LineServer` is one state machine: order, flow control and the end of a connection depend on
one another, and the path of a request must not be longer than it is.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IPushProducer, IReactorTime
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from dida import errors
from dida.errors import DidaError
from dida.protocols.deadlines import Deadlines
from dida.protocols.introductions import PeerIdentity
from dida.protocols.links import LineClient as LineClient
from dida.protocols.links import ReconnectingClient as ReconnectingClient
from dida.protocols.shortage import lack_of_descriptors
from dida.protocols.tuning import has_ended, tune
from dida.protocols.writing import Writer
from dida.wire import foreign, grammar
from dida.wire.messages import NODE, Crash, Error, Help, Ok, Ping, Quit, Reply, Request, System, form_of, vocabulary
from dida.wire.whole import whole

MAX_IN_FLIGHT = 1000
"""The most unanswered requests of one connection; the server reads no more until some are answered."""
MAX_OUTPUT = 2**16
"""Bytes of replies collected before they are written to the transport."""
TURN = 0.005
"""Time for the lines of one connection before others get their turn, in seconds: a flood of lines stalls nobody."""
LINES_PER_LOOK = 64
"""Lines of the fast path between two looks at the clock; after any other line the server looks, too."""
LINGER = 5.0
"""Time for a client to read the last reply before its connection is cut, in seconds."""
PATIENCE = 9.0
"""Time without a reply after which a client that has closed its sending side counts as gone, in seconds."""
LOOK_INTERVAL = 0.5
"""Interval between two polls for the end of the connections that are not read now, in seconds."""
UNREAD = 60.0
"""Time for a client to receive the remaining replies when its connection is closed, in seconds."""
HOLD = 0.2
"""Time to wait for the line after a request line of HTTP, in seconds."""
LOG_INTERVAL = 60.0
"""Shortest interval between two log lines about one address that speaks another protocol, in seconds."""
MAX_LOGGED = 1000
"""The most addresses that the log names in that time."""
GRACE = 1.0
"""Time past a request's deadline after which the connection itself replies, in seconds."""

_log = Logger()

Answer = Reply | Deferred[Reply] | None
"""The result of a cmd_ method; None: it has replied already, or never will."""


class Node(Protocol):
    """What a port serves: a vocabulary, and a `cmd_VERB(request)` for each verb."""

    @property
    def vocabulary(self) -> Mapping[str, type[Request]]:
        """The verbs that the node answers."""

    def peer_request(self, request: Any, connection: LineServer) -> Answer:
        """Answer a request that depends on who is at the other end (`Request.of_connection`)."""

    def fast_reply(self, line: bytes) -> bytes | None:
        """Return the reply to an untagged line that can be answered without decoding, else None."""

    def start(self) -> None:
        """Start to work: the port is open."""

    def leave(self) -> Deferred[Any] | None:
        """Finish the open requests and notify the other nodes, within the node's `--drain` seconds.

        Return None if there is nothing to wait for.

        The port is still open meanwhile.
        """

    def stop(self) -> Deferred[Any] | None:
        """Cancel what is still going on; the port is closed at the same time."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class LineServer(TwistedProtocol):
    """The server side of one connection."""

    factory: LineServerFactory

    def __init__(self, node: Node, clock: IReactorTime, max_line: int) -> None:
        self.node = node
        self.clock = clock
        self.introduction: PeerIdentity | None = None
        """The claimed identity of the other side."""
        self._buffer = grammar.LineBuffer(max_line)
        self._lines: list[bytes] = []
        """Lines that wait, the next one last. (A deque would take as much memory as the rest of a connection.)"""
        self._fast_reply = node.fast_reply
        self._serving = False
        self._begun: bytes | None = b""
        """The first bytes, while they may be another protocol's; None: they are not."""
        self._waiting: dict[Deferred[Reply], bool] = {}
        """Unanswered requests, each with whether it is only to be held open."""
        self._turn_taken = False
        self._output: list[bytes] = []
        self._output_size = 0
        self._stopped_by: set[str] = set()
        self._resumption: IDelayedCall | None = None
        self._read_closed = False
        self._closing = False
        self._hung_up = False
        self._given_up = False
        self._linger: IDelayedCall | None = None
        self._hold: IDelayedCall | None = None
        self._patience: IDelayedCall | None = None

    # --- bytes in -------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        tune(self.transport)
        self._writer = Writer(self.transport, self)
        self.factory.connections.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.forget(self)
        self._give_up()
        for call in (self._linger, self._resumption, self._hold, self._patience):
            if call is not None and call.active():
                call.cancel()
        self._output.clear()

    def dataReceived(self, data: bytes) -> None:
        if self._closing:
            return
        lines = self._buffer.take(data)
        lines.reverse()
        self._lines = lines + self._lines if self._lines else lines
        if self._begun is None or self._is_ours(data):
            self._serve()
        else:
            self._flush()

    def _is_ours(self, data: bytes) -> bool:
        """Return True if the first line may be served; if False, more bytes or a short time will tell."""
        assert self._begun is not None
        self._begun = (self._begun + data[:4])[:4]
        theirs = foreign.opening(self._begun)
        if theirs is None:
            return False
        if not theirs and self._lines and foreign.is_request(self._lines[-1]):
            if foreign.is_foreign(self._lines[-1], self.node.vocabulary):
                theirs = True
            elif len(self._lines) == 1 and not self._buffer.overlong:
                self._hold = self._hold or self.clock.callLater(HOLD, self._begin)
                return False
            else:
                theirs = len(self._lines) > 1 and foreign.is_header(self._lines[-2])
        if theirs:
            self._cut()
        elif self._lines or self._buffer.overlong:
            self._begun = None
        return not theirs

    def _begin(self) -> None:
        """Serve the lines: nothing has come that belongs to another protocol."""
        if self._begun is not None:
            self._begun = None
            self._serve()

    def _cut(self) -> None:
        """Ignore whatever follows: this is another protocol."""
        self._closing = True
        self.factory.log_foreign(cast(Any, self.transport).getPeer())
        self._give_up()

    def _serve(self) -> None:
        """Serve the lines that are here until something stops it, and write the replies."""
        self._serving = True
        looks, began = LINES_PER_LOOK, 0.0
        while self._lines and not self._stopped_by and not self._closing:
            looks -= 1
            if looks <= 0:
                looks, now = LINES_PER_LOOK, self.clock.seconds()
                if not began:
                    began = now
                elif now - began > TURN / max(1, len(self.factory.crowd)):
                    self.factory.crowd.add(self)
                    self._stop("turn")
                    self._go_on("turn")
                    break
            if self._turn_taken and not self._lines[-1].lstrip(b" \t").startswith(b"#"):
                self._stop("order")
            else:
                line = self._lines.pop()
                answer = self._fast_reply(line)
                if answer is None:
                    looks = 0
                    self._serve_line(line)
                else:
                    self._answer(answer)
                if self._output_size > MAX_OUTPUT:
                    self._write_output()
        if self._buffer.overlong and not (self._lines or self._closing or self._resumption):
            if self._turn_taken:
                self._stop("order")
            else:
                text = f"longer than {self._buffer.limit} bytes: raise --max-line, or send less"
                self._answer(grammar.encode_reply(Error(errors.LINE_TOO_LONG, (text,))))
                self._closing = True
        self._serving = False
        self._flush()

    def _serve_line(self, line: bytes) -> None:
        commands = self.factory.commands
        ignored: list[str] = []
        try:
            tag, request = grammar.decode(line, self.node.vocabulary, ignored)
        except DidaError as problem:
            if foreign.is_foreign(line, self.node.vocabulary):
                self._cut()
                return
            tag = grammar.tag_of(line)
            self._answer(_encoded(grammar.with_ignored(reply_to(Failure(problem)), ignored), tag))
            return
        kind = type(request)
        if tag is None and kind is Help:
            self._answer(self._help_text())
            return
        answer: Answer
        try:
            if kind.of_connection:
                answer = self.node.peer_request(request, self)
            else:
                answer = (commands.get(kind) or self._command(kind))(request)
        except Exception:  # noqa: BLE001 - whatever a request raises, the connection goes on
            answer = reply_to(Failure())
        if isinstance(answer, Deferred):
            self._await(tag, request, answer, ignored)
        elif answer is not None:
            self._answer(_encoded(grammar.with_ignored(answer, ignored), tag))
        if kind is Quit:
            self._closing = True
            self._lines.clear()

    def take_lines_of(self, limit: int) -> None:
        """Allow lines of up to `limit` bytes from now on."""
        self._buffer.limit = max(limit, self._buffer.limit)

    def _command(self, kind: type[Request]) -> Callable[[Any], Answer]:
        """Return the node's method for a kind of request; it is looked up once."""
        command: Callable[[Any], Answer] = getattr(self.node, f"cmd_{form_of(kind).verb}")
        self.factory.commands[kind] = command
        return command

    # --- answers out ----------------------------------------------------------------------------

    def _await(self, tag: str | None, request: Request, answer: Deferred[Reply], ignored: Sequence[str]) -> None:
        """Reply when `answer` fires, at the latest a little after the request's deadline."""
        self._waiting[answer] = request.held
        if tag is None:
            self._turn_taken = True

        late = False

        def too_late() -> None:
            nonlocal late
            late = True
            answer.cancel()

        deadline = self.factory.deadlines.add(request.deadline + GRACE, too_late)

        def done(result: Reply | Failure) -> None:
            self.factory.deadlines.cancel(deadline)
            if isinstance(result, Failure) and result.check(CancelledError) and (late or self._given_up):
                reply: Reply = Error(errors.UNKNOWN_OUTCOME, ("no reply within the deadline",))
            else:
                reply = reply_to(result) if isinstance(result, Failure) else result
            self._waiting.pop(answer, None)
            if tag is None:
                self._turn_taken = False
            if self._given_up:
                return
            self._answer(_encoded(grammar.with_ignored(reply, ignored), tag))
            if tag is None:
                self._go_on("order")
            if len(self._waiting) < MAX_IN_FLIGHT // 2:
                self._go_on("in-flight")
            if not self._serving:
                self._flush()

        answer.addBoth(done)
        if len(self._waiting) >= MAX_IN_FLIGHT:
            self._stop("in-flight")

    def _answer(self, line: bytes) -> None:
        self._output.append(line)
        self._output_size += len(line)

    def _write_output(self) -> None:
        output = self._output
        output.append(b"")
        self._output = []
        self._output_size = 0
        if self._patience is not None and self._patience.active():
            self._patience.reset(PATIENCE)
        self._writer.write(b"\r\n".join(output))

    def _flush(self) -> None:
        if self._output:
            self._write_output()
        if (self._closing or self._read_closed) and not (self._waiting or self._lines or self._resumption):
            self._hang_up()

    def _help_text(self) -> bytes:
        forms = [form_of(kind) for kind in self.node.vocabulary.values()]
        width = max(len(form.usage) for form in forms)
        lines = [f"{form.usage:{width}}  {form.about}".rstrip() for form in forms]
        return "\r\n".join([*lines, "ok"]).encode()

    # --- the end of a connection ----------------------------------------------------------------

    def _hang_up(self) -> None:
        """Close; the writing side first while the client sends: a reset would destroy the last reply."""
        transport = cast(Any, self.transport)
        if not self._hung_up:
            self._hung_up = True
            self._linger = self.clock.callLater(UNREAD, transport.abortConnection)
            transport.unregisterProducer()
            if not self._read_closed:
                self._stopped_by.clear()
                transport.resumeProducing()
                transport.loseWriteConnection()
        if self._read_closed:
            transport.loseConnection()

    def readConnectionLost(self) -> None:
        self._read_closed = True
        for answer, held in list(self._waiting.items()):
            if held:
                answer.cancel()
        self._begin()
        self._flush()
        if not self._hung_up:
            self.on_end()

    def on_end(self) -> None:
        """Limit the time of a client that has closed its sending side: nobody knows whether it still reads."""
        if self._patience is None:
            self._patience = self.clock.callLater(PATIENCE, self._lose_patience)

    def _lose_patience(self) -> None:
        if self._waiting or self._lines or self._stopped_by:
            self._give_up()
            self._read_closed = True
            self._flush()

    def _give_up(self) -> None:
        """Cancel all that waits here: nobody needs it any more."""
        self._given_up = True
        self._lines.clear()
        for answer in list(self._waiting):
            answer.cancel()
        self._waiting.clear()

    def writeConnectionLost(self) -> None:
        """Limit the time of a client that does not close its side after the last reply."""
        if self._linger is not None and self._linger.active():
            self._linger.reset(LINGER)

    # --- flow control ---------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        self._stop("transport")

    def resumeProducing(self) -> None:
        self._go_on("transport")

    def stopProducing(self) -> None:
        """Do nothing: connectionLost follows."""

    def _stop(self, why: str) -> None:
        if not self._stopped_by:
            cast(Any, self.transport).pauseProducing()
            self.factory.look_after(self)
        self._stopped_by.add(why)

    def _go_on(self, why: str) -> None:
        if why in self._stopped_by:
            self._stopped_by.discard(why)
            if not self._stopped_by:
                self.factory.stopped.pop(self, None)
                if self._resumption is None and not self._given_up:
                    self._resumption = self.clock.callLater(0, self._resume)

    def _resume(self) -> None:
        """Serve the lines that were read before, then read on."""
        self._resumption = None
        self.factory.crowd.discard(self)
        self._serve()
        if not (self._stopped_by or self._resumption or self._read_closed):
            cast(Any, self.transport).resumeProducing()


def _encoded(reply: Reply, tag: str | None) -> bytes:
    try:
        return grammar.encode_reply(reply, tag)
    except Exception:  # noqa: BLE001 - a reply that can't be encoded must not hold up those behind it
        return grammar.encode_reply(reply_to(Failure()), tag)


def reply_to(failure: Failure) -> Reply:
    """Return the `error` reply for what a cmd_ method raised. A bug is logged, never sent to the peer."""
    problem = failure.value
    if isinstance(problem, DidaError):
        return Error(problem.code, problem.words, problem.object)
    _log.failure("a request ended in a bug", failure)
    return Error(errors.INTERNAL, ("a bug at this node; its log has the details",))


class LineServerFactory(Factory):
    """The connections of one listening port."""

    noisy = False

    def __init__(self, node: Node, clock: IReactorTime, max_line: int = grammar.MAX_LINE) -> None:
        self.node = node
        self.clock = clock
        self.max_line = max_line
        self.connections: set[LineServer] = set()
        self.deadlines = Deadlines(clock)
        """The deadlines of unanswered requests."""
        self.commands: dict[type[Request], Callable[[Any], Answer]] = {}
        self.stopped: dict[LineServer, None] = {}
        """Connections that are not read now, so that the reactor does not notice their end."""
        self.crowd: set[LineServer] = set()
        """Connections that have more lines than fit in their turn; they share the time of one."""
        self._looking: IDelayedCall | None = None
        self._lack_logged = float("-inf")
        self._logged_at: dict[str, float] = {}
        """Addresses that speak other protocols, with the time of the last log line about each."""

    def look_after(self, connection: LineServer) -> None:
        """Poll for the end of a connection until it is read again."""
        self.stopped[connection] = None
        if self._looking is None:
            self._looking = self.clock.callLater(LOOK_INTERVAL, self._look)

    def _look(self) -> None:
        self._looking = None
        for connection in list(self.stopped):
            if has_ended(connection.transport):
                connection.on_end()
            self.look_after(connection)

    def forget(self, connection: LineServer) -> None:
        """Forget a connection that is lost."""
        self.connections.discard(connection)
        self.crowd.discard(connection)
        self.stopped.pop(connection, None)
        if self._looking is not None and not self.connections:
            self._looking.cancel()
            self._looking = None

    def log_foreign(self, peer: Any) -> None:
        """Log that an address speaks another protocol, but not again and again."""
        host, now = str(getattr(peer, "host", peer)), self.clock.seconds()
        if now - self._logged_at.get(host, -LOG_INTERVAL) < LOG_INTERVAL:
            return
        if len(self._logged_at) >= MAX_LOGGED:
            self._logged_at = {each: when for each, when in self._logged_at.items() if now - when < LOG_INTERVAL}
        if len(self._logged_at) < MAX_LOGGED:
            self._logged_at[host] = now
            _log.warn("closed a connection from {host}: it speaks another protocol, such as HTTP or TLS", host=host)

    def buildProtocol(self, addr: object) -> Any:
        """Return a connection, or None, which closes it, if only the reserve of descriptors is left."""
        if lack := lack_of_descriptors():
            now = self.clock.seconds()
            if now >= self._lack_logged + LOG_INTERVAL:
                self._lack_logged = now
                _log.warn(
                    "no more {what}: further connections are refused ({n} are open)", what=lack, n=len(self.connections)
                )
            return None
        protocol = LineServer(self.node, self.clock, self.max_line)
        protocol.factory = self
        return protocol


def ok(*words: object, **members: Any) -> Ok:
    """Return an `ok` reply."""
    return Ok(tuple(map(str, words)), members)


class NodeCommands:
    """The verbs that every node has; the class of a node adds its `vocabulary` and `cmd_` methods."""

    vocabulary: Mapping[str, type[Request]] = vocabulary(*NODE)

    def peer_request(self, request: Any, connection: LineServer) -> Answer:
        """Raise: a node without peers has no such request in its vocabulary."""
        raise AssertionError(f"{request} is not in the vocabulary of this node")

    def fast_reply(self, line: bytes) -> bytes | None:
        """Return None: this node has no fast path."""
        return None

    def start(self) -> None:
        """Do nothing: this node only replies to requests."""

    def leave(self) -> Deferred[Any] | None:
        """Return None: there is nothing to finish."""
        return None

    def stop(self) -> Deferred[Any] | None:
        """Do nothing: nothing is going on."""
        return None

    def cmd_help(self, request: Help) -> Answer:
        """Reply to the tagged form; the connection replies to the untagged one with a text."""
        return Ok((), {verb: form_of(kind).usage for verb, kind in self.vocabulary.items()})

    def cmd_ping(self, request: Ping) -> Answer:
        return Ok()

    def cmd_crash(self, request: Crash) -> Answer:
        """Kill this process; nothing is cleaned up, on purpose."""
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    def cmd_quit(self, request: Quit) -> Answer:
        return Ok()

    def cmd_system(self, request: System) -> Answer:
        """Reply that this node knows no other node."""
        return whole()
