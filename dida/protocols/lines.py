"""The line protocol on a transport: one base for the answering side, one for the asking side.

`LineServer` bounds and decodes lines and dispatches them to `cmd_VERB` of its node, which returns a
reply, or a Deferred of one. Untagged requests are answered in order, tagged ones as they come. All that
one turn of the reactor produces goes out in one write. `LineClient` keeps many tagged requests in flight
with one timer for all; `Link` keeps a LineClient connected.

What bounds it: the line, the requests in flight per connection, and the transport's own buffer, whose
fullness stops the reading (a client that does not read its answers is not read from, either).
"""

from __future__ import annotations

import heapq
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, cast

from twisted.application.internet import ClientService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IPushProducer, IReactorTime
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from dida import errors, wire
from dida.errors import DidaError, Unavailable
from dida.messages import NODE, Crash, Error, Help, Ok, Ping, Quit, Reply, Request, form_of, vocabulary

MAX_IN_FLIGHT = 1000
"""Requests of one connection that may be unanswered before no more are read from it."""
LINGER = 5.0
"""Seconds for a client to read the last answer before its connection is cut."""
GRACE = 1.0
"""Seconds past its deadline after which an unanswered request is answered by the connection itself."""

_log = Logger()

Answer = Reply | Deferred[Reply] | None
"""What a cmd_ method returns; None says that it has answered by itself (or never will)."""


class Node(Protocol):
    """Who answers: its vocabulary, and a `cmd_VERB(request)` for each verb."""

    vocabulary: Mapping[str, type[Request]]


@implementer(IHalfCloseableProtocol, IPushProducer)
class LineServer(LineOnlyReceiver):
    """The answering side of one connection."""

    delimiter = b"\n"
    factory: LineServerFactory
    _own: ClassVar[Mapping[str, type[Request]]] = vocabulary(*NODE)

    def __init__(self, node: Node, clock: IReactorTime, max_line: int) -> None:
        self.node = node
        self.clock = clock
        self.MAX_LENGTH = max_line
        self._pending: deque[list[bytes | None]] = deque()
        self._in_flight = 0
        self._output: list[bytes] = []
        self._receiving = False
        self._read_closed = False
        self._closing = False
        self._linger: IDelayedCall | None = None
        self._stopped_by: set[str] = set()

    # --- bytes in -------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        transport = cast(Any, self.transport)
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)
        transport.registerProducer(self, True)
        self.factory.connections.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.connections.discard(self)
        if self._linger is not None and self._linger.active():
            self._linger.cancel()

    def dataReceived(self, data: bytes) -> None:
        if self._closing:
            return
        self._receiving = True
        try:
            super().dataReceived(data)
        finally:
            self._receiving = False
            self._flush()

    def lineReceived(self, line: bytes) -> None:
        if self._closing:
            return
        if line.endswith(b"\r"):
            line = line[:-1]
        try:
            tag, request = wire.decode(line, self.node.vocabulary)
        except DidaError as problem:
            self._answer(wire.tag_of(problem), Error(problem.code, problem.words))
            return
        verb = form_of(type(request)).verb
        if tag is None and type(request) is Help:
            self._write_slot(None, self._help_text())
            return
        try:
            answer: Answer = getattr(self.node, "cmd_" + verb)(request)
        except Exception:
            answer = reply_to(Failure())
        if isinstance(answer, Deferred):
            self._await(tag, request, answer)
        elif answer is not None:
            self._answer(tag, answer)
        if type(request) is Quit:
            self._close_when_answered()

    def lineLengthExceeded(self, line: bytes) -> None:
        text = f"longer than {self.MAX_LENGTH} bytes: raise --max-line, or send less"
        self._answer(None, Error(errors.LINE_TOO_LONG, (text,)))
        self._close_when_answered()

    # --- answers out ----------------------------------------------------------------------------

    def _await(self, tag: str | None, request: Request, answer: Deferred[Reply]) -> None:
        """Answer when `answer` fires, at the latest a little after the request's deadline."""
        slot: list[bytes | None] | None = None
        if tag is None:
            slot = [None]
            self._pending.append(slot)
        self._in_flight += 1
        if self._in_flight >= MAX_IN_FLIGHT:
            self._stop_reading("in-flight")

        def done(result: Reply | Failure) -> None:
            self._in_flight -= 1
            if self._in_flight < MAX_IN_FLIGHT // 2:
                self._go_on_reading("in-flight")
            reply = reply_to(result) if isinstance(result, Failure) else result
            self._write_slot(slot, wire.encode_reply(reply, tag), tagged=slot is None)
            if not self._receiving:
                self._flush()

        answer.addTimeout(request.deadline + GRACE, self.clock, _too_late)
        answer.addBoth(done)

    def _answer(self, tag: str | None, reply: Reply) -> None:
        self._write_slot(None, wire.encode_reply(reply, tag), tagged=tag is not None)

    def _write_slot(self, slot: list[bytes | None] | None, line: bytes, tagged: bool = False) -> None:
        """Put out a reply; an untagged one only behind the replies of the requests before it."""
        if tagged or (slot is None and not self._pending):
            self._output.append(line)
        elif slot is None:
            self._pending.append([line])
        else:
            slot[0] = line
        while self._pending and self._pending[0][0] is not None:
            self._output.append(cast(bytes, self._pending.popleft()[0]))
        if not self._receiving:
            self._flush()

    def _flush(self) -> None:
        if self._output and self.connected:
            output = self._output
            self._output = []
            output.append(b"")
            cast(Any, self.transport).write(b"\r\n".join(output))
        if self._in_flight == 0 and not self._pending:
            if self._closing and self._linger is None:
                self._hang_up()
            elif self._read_closed:
                cast(Any, self.transport).loseConnection()

    def _help_text(self) -> bytes:
        forms = [form_of(kind) for kind in self.node.vocabulary.values()]
        width = max(len(form.usage) for form in forms)
        lines = [f"{form.usage:{width}}  {form.about}".rstrip() for form in forms]
        return "\r\n".join([*lines, "ok"]).encode()

    # --- the end of a connection ----------------------------------------------------------------

    def _close_when_answered(self) -> None:
        self._closing = True
        if not self._receiving:
            self._flush()

    def _hang_up(self) -> None:
        """Close the writing side, and read on for a while: a reset would destroy the last answer."""
        transport = cast(Any, self.transport)
        transport.unregisterProducer()
        self._go_on_reading("transport")
        transport.loseWriteConnection()
        self._linger = self.clock.callLater(LINGER, transport.abortConnection)

    def readConnectionLost(self) -> None:
        self._read_closed = True
        if self._linger is not None:
            cast(Any, self.transport).loseConnection()
        elif not self._receiving:
            self._flush()

    def writeConnectionLost(self) -> None:
        """Nothing to do: the reading side tells when the client is gone."""

    # --- flow control ---------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        self._stop_reading("transport")

    def resumeProducing(self) -> None:
        self._go_on_reading("transport")

    def stopProducing(self) -> None:
        """The connection is gone; connectionLost follows."""

    def _stop_reading(self, why: str) -> None:
        if not self._stopped_by:
            cast(Any, self.transport).pauseProducing()
        self._stopped_by.add(why)

    def _go_on_reading(self, why: str) -> None:
        if why in self._stopped_by:
            self._stopped_by.discard(why)
            if not self._stopped_by and self.connected and not self._read_closed:
                cast(Any, self.transport).resumeProducing()


def _too_late(result: Any, seconds: float) -> Any:
    return Error(errors.UNKNOWN_OUTCOME, ("no answer within the deadline",))


def reply_to(failure: Failure) -> Reply:
    """The `error` line for what a cmd_ method raised; a bug is logged and never told to the peer."""
    problem = failure.value
    if isinstance(problem, DidaError):
        return Error(problem.code, problem.words, problem.object)
    _log.failure("a request ended in a bug", failure)
    return Error(errors.INTERNAL, ("a bug at this node; its log has the details",))


class LineServerFactory(Factory):
    """The connections of one listening port."""

    noisy = False

    def __init__(self, node: Node, clock: IReactorTime, max_line: int = wire.MAX_LINE) -> None:
        self.node = node
        self.clock = clock
        self.max_line = max_line
        self.connections: set[LineServer] = set()

    def buildProtocol(self, addr: object) -> LineServer:
        protocol = LineServer(self.node, self.clock, self.max_line)
        protocol.factory = self
        return protocol


# --- the asking side ------------------------------------------------------------------------------


class LineClient(LineOnlyReceiver):
    """The asking side of one connection: `ask` as often as you like, replies come as they come."""

    delimiter = b"\n"

    def __init__(self, clock: IReactorTime, max_line: int = 64 * wire.MAX_LINE) -> None:
        self.clock = clock
        self.MAX_LENGTH = max_line
        self._waiting: dict[str, Deferred[Reply]] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._timer: IDelayedCall | None = None
        self._last_tag = 0
        self._output: list[bytes] = []
        self._flush_call: IDelayedCall | None = None
        self.on_lost: Callable[[LineClient], None] = _nothing

    def connectionMade(self) -> None:
        transport = cast(Any, self.transport)
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)

    def ask(self, request: Request, timeout: float) -> Deferred[Reply]:
        """Send `request`; its reply, or Unavailable when the connection ends or `timeout` seconds pass."""
        self._last_tag += 1
        tag = str(self._last_tag)
        answer: Deferred[Reply] = Deferred()
        if not self.connected:
            answer.errback(Unavailable("the connection is closed"))
            return answer
        self._waiting[tag] = answer
        heapq.heappush(self._deadlines, (self.clock.seconds() + timeout, self._last_tag))
        self._set_timer()
        self._output.append(wire.encode(request, tag))
        if self._flush_call is None:
            self._flush_call = self.clock.callLater(0, self._flush)
        return answer

    def _flush(self) -> None:
        self._flush_call = None
        output, self._output = self._output, []
        output.append(b"")
        cast(Any, self.transport).write(b"\r\n".join(output))

    def lineReceived(self, line: bytes) -> None:
        try:
            tag, reply = wire.decode_reply(line.removesuffix(b"\r"))
        except DidaError as problem:
            self._give_up(f"the peer sent what is no reply: {problem}")
            return
        answer = self._waiting.pop(tag, None) if tag is not None else None
        if answer is not None:
            answer.callback(reply)
        elif isinstance(reply, Error) and reply.code == errors.LINE_TOO_LONG:
            self._give_up("a line was too long for the peer")
        elif tag is None or not tag.isdigit() or int(tag) > self._last_tag:
            self._give_up(f"the peer answered what was never asked (tag {tag})")

    def lineLengthExceeded(self, line: bytes) -> None:
        self._give_up(f"the peer sent a line longer than {self.MAX_LENGTH} bytes")

    def _give_up(self, why: str) -> None:
        _log.warn("closing a connection: {why}", why=why)
        cast(Any, self.transport).abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        for call in (self._timer, self._flush_call):
            if call is not None and call.active():
                call.cancel()
        self._flush_call = self._timer = None
        waiting, self._waiting = self._waiting, {}
        self._deadlines.clear()
        self.on_lost(self)
        for answer in waiting.values():
            answer.errback(Unavailable("the connection broke before the answer came"))

    def _set_timer(self) -> None:
        """One timer for all: for the earliest deadline, and never less than needed."""
        first = self._deadlines[0][0]
        if self._timer is not None and self._timer.active():
            if self._timer.getTime() <= first:
                return
            self._timer.cancel()
        self._timer = self.clock.callLater(max(0, first - self.clock.seconds()), self._time_out)

    def _time_out(self) -> None:
        now = self.clock.seconds()
        late: list[Deferred[Reply]] = []
        while self._deadlines and (self._deadlines[0][0] <= now or str(self._deadlines[0][1]) not in self._waiting):
            _, number = heapq.heappop(self._deadlines)
            answer = self._waiting.pop(str(number), None)
            if answer is not None:
                late.append(answer)
        if self._deadlines:
            self._set_timer()
        for answer in late:
            answer.errback(DidaError(errors.TIMED_OUT, "no answer in time"))


def _nothing(client: LineClient) -> None:
    """The default of `LineClient.on_lost`."""


class _LineClientFactory(Factory):
    noisy = False

    def __init__(self, build: Callable[[], LineClient]) -> None:
        self.build = build

    def buildProtocol(self, addr: object) -> TwistedProtocol:
        return self.build()


RETRY_DELAYS = (0.01, 0.05, 0.2, 0.5, 1.0)
"""Seconds between attempts to connect again; the last one repeats."""


class Link:
    """A connection to one node that is kept up: connects on first use, again when it breaks.

    `on_up` and `on_down` tell of changes; `on_down` also of each attempt that failed.
    """

    def __init__(self, reactor: Any, host: str, port: int) -> None:
        from twisted.internet.endpoints import HostnameEndpoint

        self.clock: IReactorTime = reactor
        self.address = f"{host}:{port}"
        self.client: LineClient | None = None
        self.on_up: Callable[[], None] = lambda: None
        self.on_down: Callable[[], None] = lambda: None
        self._service = ClientService(
            HostnameEndpoint(reactor, host.encode(), port, timeout=3),
            _LineClientFactory(self._build),
            retryPolicy=self._retry,
            clock=reactor,
            prepareConnection=self._up,
        )

    def start(self) -> None:
        """Begin to connect."""
        if not self._service.running:
            self._service.startService()

    def stop(self) -> Deferred[None]:
        """Close; what is in flight ends with Unavailable."""
        if not self._service.running:
            done: Deferred[None] = Deferred()
            done.callback(None)
            return done
        return cast("Deferred[None]", self._service.stopService())

    def ask(self, request: Request, timeout: float) -> Deferred[Reply]:
        """The reply; Unavailable when there is no connection, when it breaks, or after `timeout` s."""
        if self.client is not None:
            return self.client.ask(request, timeout)
        self.start()
        connected: Deferred[LineClient] = self._service.whenConnected(failAfterFailures=1)
        answer = connected.addCallbacks(lambda client: client.ask(request, timeout), self._unreachable)
        return cast("Deferred[Reply]", answer)

    def _unreachable(self, failure: Failure) -> Failure:
        return Failure(Unavailable(f"no connection to {self.address}"))

    def _build(self) -> LineClient:
        client = LineClient(self.clock)
        client.on_lost = self._lost
        return client

    def _up(self, client: LineClient) -> None:
        self.client = client
        self.on_up()

    def _lost(self, client: LineClient) -> None:
        if self.client is client:
            self.client = None
            if self._service.running:
                self.on_down()

    def _retry(self, failures: int) -> float:
        if failures:
            self.on_down()
        return RETRY_DELAYS[min(failures, len(RETRY_DELAYS) - 1)]


def ok(*words: object, **members: Any) -> Ok:
    """An `ok` reply in short."""
    return Ok(tuple(map(str, words)), members)


class NodeCommands:
    """The verbs that every node has; a node's class adds its own `vocabulary` and `cmd_` methods."""

    vocabulary: Mapping[str, type[Request]] = vocabulary(*NODE)

    def cmd_help(self, request: Help) -> Answer:
        """The tagged form; the untagged one is answered as text by the connection."""
        return Ok((), {verb: form_of(kind).usage for verb, kind in self.vocabulary.items()})

    def cmd_ping(self, request: Ping) -> Answer:
        return Ok()

    def cmd_crash(self, request: Crash) -> Answer:
        """Nothing is cleaned up, on purpose."""
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    def cmd_quit(self, request: Quit) -> Answer:
        return Ok()
