"""The line protocol on a transport, the answering side; the asking side is `dida.protocols.links`.

`LineServer` bounds and decodes lines and dispatches them to `cmd_VERB` of its node, which returns a
reply, or a Deferred of one. Untagged requests are done one after the other, so that each sees what those
before it did; tagged ones are done as they come. All that one turn of the reactor produces goes out in one
write.

What bounds it: the line, the requests in flight per connection, and the transport's own buffer, whose
fullness stops the reading (a client that does not read its answers is not read from, either). Lines
that had been read by then wait, at most one read's worth.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IPushProducer, IReactorTime
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from dida import errors, wire
from dida.errors import DidaError
from dida.messages import NODE, Crash, Error, Help, Ok, Ping, Quit, Reply, Request, form_of, vocabulary
from dida.protocols.deadlines import Deadlines
from dida.protocols.introductions import Introduction
from dida.protocols.links import LineClient as LineClient
from dida.protocols.links import Link as Link
from dida.protocols.writing import Writer

MAX_IN_FLIGHT = 1000
"""Requests of one connection that may be unanswered before no more are read from it."""
MAX_OUTPUT = 2**16
"""Bytes of answers collected before they are handed to the transport."""
LINGER = 5.0
"""Seconds for a client to read the last answer before its connection is cut."""
GRACE = 1.0
"""Seconds past its deadline after which an unanswered request is answered by the connection itself."""

_log = Logger()

Answer = Reply | Deferred[Reply] | None
"""What a cmd_ method returns; None says that it has answered by itself (or never will)."""


class Node(Protocol):
    """Who answers: its vocabulary, and a `cmd_VERB(request)` for each verb."""

    @property
    def vocabulary(self) -> Mapping[str, type[Request]]:
        """The verbs that it answers."""

    def heard(self, request: Any, connection: LineServer) -> Answer:
        """A request for which it matters who is at the other end (`Request.of_connection`)."""

    def quick(self, line: bytes) -> bytes | None:
        """The answer to an untagged line that needs no more than a look; None: it is decoded and dispatched."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class LineServer(TwistedProtocol):
    """The answering side of one connection."""

    factory: LineServerFactory

    def __init__(self, node: Node, clock: IReactorTime, max_line: int) -> None:
        self.node = node
        self.clock = clock
        self.introduction: Introduction | None = None
        """Who is at the other end, by its own words."""
        self._buffer = wire.LineBuffer(max_line)
        self._lines: deque[bytes] = deque()
        self._quick = node.quick
        self._serving = False
        self._in_flight = 0
        self._turn_taken = False
        self._output: list[bytes] = []
        self._output_size = 0
        self._stopped_by: set[str] = set()
        self._resumption: IDelayedCall | None = None
        self._read_closed = False
        self._closing = False
        self._hung_up = False
        self._lost = False
        self._linger: IDelayedCall | None = None
        self._held: list[Deferred[Reply]] = []

    # --- bytes in -------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        transport = cast(Any, self.transport)
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)
        self._writer = Writer(transport, self)
        self.factory.connections.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True
        self._let_go()
        self.factory.connections.discard(self)
        for call in (self._linger, self._resumption):
            if call is not None and call.active():
                call.cancel()
        self._lines.clear()
        self._output.clear()

    def dataReceived(self, data: bytes) -> None:
        if not self._closing:
            self._lines.extend(self._buffer.take(data))
            self._serve()

    def _serve(self) -> None:
        """Serve the lines that are here, as long as nothing stops it, and put out what is answered."""
        self._serving = True
        while self._lines and not self._stopped_by and not self._closing:
            if self._turn_taken and not self._lines[0].lstrip(b" \t").startswith(b"#"):
                self._stop("order")
            else:
                line = self._lines.popleft()
                answer = self._quick(line)
                if answer is None:
                    self._serve_line(line)
                else:
                    self._answer(answer)
                if self._output_size > MAX_OUTPUT:
                    self._write_output()
        if self._buffer.overlong and not self._lines and not self._closing:
            if self._turn_taken:
                self._stop("order")
            else:
                text = f"longer than {self._buffer.limit} bytes: raise --max-line, or send less"
                self._answer(wire.encode_reply(Error(errors.LINE_TOO_LONG, (text,))))
                self._closing = True
        self._serving = False
        self._flush()

    def _serve_line(self, line: bytes) -> None:
        commands = self.factory.commands
        try:
            tag, request = wire.decode(line, self.node.vocabulary)
        except DidaError as problem:
            tag = wire.tag_of(line)
            self._answer(_encoded(reply_to(Failure(problem)), tag))
            return
        kind = type(request)
        if tag is None and kind is Help:
            self._answer(self._help_text())
            return
        answer: Answer
        try:
            if kind.of_connection:
                answer = self.node.heard(request, self)
            else:
                answer = (commands.get(kind) or self._command(kind))(request)
        except Exception:  # noqa: BLE001 - whatever a request ends in, the connection goes on
            answer = reply_to(Failure())
        if isinstance(answer, Deferred):
            self._await(tag, request, answer)
        elif answer is not None:
            self._answer(_encoded(answer, tag))
        if kind is Quit:
            self._closing = True
            self._lines.clear()

    def take_lines_of(self, limit: int) -> None:
        """Lines may be that long from now on, in bytes."""
        self._buffer.limit = max(limit, self._buffer.limit)

    def _command(self, kind: type[Request]) -> Callable[[Any], Answer]:
        """The node's method for a kind of request; sought once."""
        command: Callable[[Any], Answer] = getattr(self.node, f"cmd_{form_of(kind).verb}")
        self.factory.commands[kind] = command
        return command

    # --- answers out ----------------------------------------------------------------------------

    def _await(self, tag: str | None, request: Request, answer: Deferred[Reply]) -> None:
        """Answer when `answer` fires, at the latest a little after the request's deadline."""
        self._in_flight += 1
        if tag is None:
            self._turn_taken = True
        if request.held:
            self._held = [each for each in self._held if not each.called] + [answer]

        late = False

        def too_late() -> None:
            nonlocal late
            late = True
            answer.cancel()

        deadline = self.factory.deadlines.add(request.deadline + GRACE, too_late)

        def done(result: Reply | Failure) -> None:
            self.factory.deadlines.cancel(deadline)
            if late and isinstance(result, Failure) and result.check(CancelledError):
                reply: Reply = Error(errors.UNKNOWN_OUTCOME, ("no answer within the deadline",))
            else:
                reply = reply_to(result) if isinstance(result, Failure) else result
            self._in_flight -= 1
            if tag is None:
                self._turn_taken = False
            if self._lost:
                return
            self._answer(_encoded(reply, tag))
            if tag is None:
                self._go_on("order")
            if self._in_flight < MAX_IN_FLIGHT // 2:
                self._go_on("in-flight")
            if not self._serving:
                self._flush()

        answer.addBoth(done)
        if self._in_flight >= MAX_IN_FLIGHT:
            self._stop("in-flight")

    def _answer(self, line: bytes) -> None:
        self._output.append(line)
        self._output_size += len(line)

    def _write_output(self) -> None:
        output = self._output
        output.append(b"")
        self._output = []
        self._output_size = 0
        self._writer.write(b"\r\n".join(output))

    def _flush(self) -> None:
        if self._output:
            self._write_output()
        if (self._closing or self._read_closed) and not (self._in_flight or self._lines or self._resumption):
            self._hang_up()

    def _help_text(self) -> bytes:
        forms = [form_of(kind) for kind in self.node.vocabulary.values()]
        width = max(len(form.usage) for form in forms)
        lines = [f"{form.usage:{width}}  {form.about}".rstrip() for form in forms]
        return "\r\n".join([*lines, "ok"]).encode()

    # --- the end of a connection ----------------------------------------------------------------

    def _hang_up(self) -> None:
        """Close; the writing side first, as long as the client sends: a reset would destroy the last answer."""
        transport = cast(Any, self.transport)
        if not self._hung_up:
            self._hung_up = True
            transport.unregisterProducer()
            if not self._read_closed:
                self._stopped_by.clear()
                transport.resumeProducing()
                transport.loseWriteConnection()
        if self._read_closed:
            transport.loseConnection()

    def readConnectionLost(self) -> None:
        self._read_closed = True
        self._let_go()
        self._flush()

    def _let_go(self) -> None:
        """Nobody holds open any more what was held open here."""
        held, self._held = self._held, []
        for answer in held:
            answer.cancel()

    def writeConnectionLost(self) -> None:
        """The last answer is on its way; a client that has not hung up a while later is cut off."""
        self._linger = self.clock.callLater(LINGER, cast(Any, self.transport).abortConnection)

    # --- flow control ---------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        self._stop("transport")

    def resumeProducing(self) -> None:
        self._go_on("transport")

    def stopProducing(self) -> None:
        """The connection is gone; connectionLost follows."""

    def _stop(self, why: str) -> None:
        if not self._stopped_by:
            cast(Any, self.transport).pauseProducing()
        self._stopped_by.add(why)

    def _go_on(self, why: str) -> None:
        if why in self._stopped_by:
            self._stopped_by.discard(why)
            if not self._stopped_by and self._resumption is None and not self._lost:
                self._resumption = self.clock.callLater(0, self._resume)

    def _resume(self) -> None:
        """Serve what had been read already, then read on."""
        self._resumption = None
        self._serve()
        if not self._stopped_by and not self._read_closed:
            cast(Any, self.transport).resumeProducing()


def _encoded(reply: Reply, tag: str | None) -> bytes:
    try:
        return wire.encode_reply(reply, tag)
    except Exception:  # noqa: BLE001 - a reply that can't be said must not hold up those behind it
        return wire.encode_reply(reply_to(Failure()), tag)


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
        self.deadlines = Deadlines(clock)
        """Of the requests that wait for their answers."""
        self.commands: dict[type[Request], Callable[[Any], Answer]] = {}

    def buildProtocol(self, addr: object) -> LineServer:  # type: ignore[override]
        protocol = LineServer(self.node, self.clock, self.max_line)
        protocol.factory = self
        return protocol


def ok(*words: object, **members: Any) -> Ok:
    """An `ok` reply in short."""
    return Ok(tuple(map(str, words)), members)


class NodeCommands:
    """The verbs that every node has; a node's class adds its own `vocabulary` and `cmd_` methods."""

    vocabulary: Mapping[str, type[Request]] = vocabulary(*NODE)

    def heard(self, request: Any, connection: LineServer) -> Answer:
        """Of a node without peers everybody may ask everything."""
        raise AssertionError(f"{request} is in the vocabulary of no such node")

    def quick(self, line: bytes) -> bytes | None:
        """Nothing is as frequent as that."""
        return None

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
