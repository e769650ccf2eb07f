"""The line protocol on a transport, the answering side; the asking side is `dida.protocols.links`.

`LineServer` bounds and decodes lines and dispatches them to `cmd_VERB` of its node, which returns a
reply, or a Deferred of one. Untagged requests are done one after the other, so that each sees what those
before it did; tagged ones are done as they come. All that one turn of the reactor produces goes out in one
write.

What bounds it: the line, the requests in flight per connection, and the transport's own buffer, whose
fullness stops the reading (a client that does not read its answers is not read from, either). Lines
that had been read by then wait, at most one read's worth.

What speaks another protocol (`dida.wire.foreign`) is cut off. A client that has closed its sending side may still read,
or be gone, which looks the same: it gets the answers that come, and is given up when none has come for `PATIENCE`
seconds. While nothing is read from a connection, its end is looked for.
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
"""Requests of one connection that may be unanswered before no more are read from it."""
MAX_OUTPUT = 2**16
"""Bytes of answers collected before they are handed to the transport."""
TURN = 0.005
"""Seconds for which lines of one connection are served without a look at the others: a flood of lines stalls nobody."""
LINES_PER_LOOK = 64
"""Lines of the quickest kind between two looks at the clock; after any other line it is looked at, too."""
LINGER = 5.0
"""Seconds for a client to read the last answer before its connection is cut."""
PATIENCE = 9.0
"""Seconds without an answer after which a client that has closed its sending side counts as gone."""
LOOK_INTERVAL = 0.5
"""Seconds between two looks whether those clients have closed it from which nothing is read now."""
UNREAD = 60.0
"""Seconds for a client to take the answers that are still to be sent when its connection is closed."""
HOLD = 0.2
"""Seconds for what stands behind the request line of HTTP to come."""
TELL_INTERVAL = 60.0
"""Seconds between two lines of the log about one address that speaks another protocol."""
MAX_TOLD = 1000
"""Addresses that are told of in that time."""
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

    def peer_request(self, request: Any, connection: LineServer) -> Answer:
        """A request for which it matters who is at the other end (`Request.of_connection`)."""

    def fast_reply(self, line: bytes) -> bytes | None:
        """The answer to an untagged line that needs no more than a look; None: it is decoded and dispatched."""

    def start(self) -> None:
        """Begin: the port is open."""

    def leave(self) -> Deferred[Any] | None:
        """Finish what is in hand, and tell who has to know; None: there is nothing to wait for.

        Fires within the node's `--drain` seconds. The port and all else still work.
        """

    def stop(self) -> Deferred[Any] | None:
        """Give up what is still going on; the port is closed at the same time."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class LineServer(TwistedProtocol):
    """The answering side of one connection."""

    factory: LineServerFactory

    def __init__(self, node: Node, clock: IReactorTime, max_line: int) -> None:
        self.node = node
        self.clock = clock
        self.introduction: PeerIdentity | None = None
        """Who is at the other end, by its own words."""
        self._buffer = grammar.LineBuffer(max_line)
        self._lines: list[bytes] = []
        """Those that are not served yet, the next one last. (A deque takes as much as all the rest of a connection.)"""
        self._quick = node.fast_reply
        self._serving = False
        self._begun: bytes | None = b""
        """How the connection begins, as long as it may turn out to be another protocol's; None: it is not."""
        self._waiting: dict[Deferred[Reply], bool] = {}
        """Requests without an answer, and whether each is only to be held open."""
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
        """Whether the first line may be served; if not, more bytes, or the end of a moment, will tell."""
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
        """Nothing has come that would say that it is another protocol."""
        if self._begun is not None:
            self._begun = None
            self._serve()

    def _cut(self) -> None:
        """This is another protocol: no answer, and whatever follows is not looked at."""
        self._closing = True
        self.factory.tell_of_foreign(cast(Any, self.transport).getPeer())
        self._give_up()

    def _serve(self) -> None:
        """Serve the lines that are here, as long as nothing stops it, and put out what is answered."""
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
                answer = self._quick(line)
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
        except Exception:  # noqa: BLE001 - whatever a request ends in, the connection goes on
            answer = reply_to(Failure())
        if isinstance(answer, Deferred):
            self._await(tag, request, answer, ignored)
        elif answer is not None:
            self._answer(_encoded(grammar.with_ignored(answer, ignored), tag))
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

    def _await(self, tag: str | None, request: Request, answer: Deferred[Reply], ignored: Sequence[str]) -> None:
        """Answer when `answer` fires, at the latest a little after the request's deadline."""
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
                reply: Reply = Error(errors.UNKNOWN_OUTCOME, ("no answer within the deadline",))
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
        """Close; the writing side first, as long as the client sends: a reset would destroy the last answer."""
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
        """The client has closed its sending side. Whether it is there to read answers nobody knows."""
        if self._patience is None:
            self._patience = self.clock.callLater(PATIENCE, self._lose_patience)

    def _lose_patience(self) -> None:
        if self._waiting or self._lines or self._stopped_by:
            self._give_up()
            self._read_closed = True
            self._flush()

    def _give_up(self) -> None:
        """Nothing that waits here is of use to anybody any more."""
        self._given_up = True
        self._lines.clear()
        for answer in list(self._waiting):
            answer.cancel()
        self._waiting.clear()

    def writeConnectionLost(self) -> None:
        """The last answer is on its way; a client that has not hung up a while later is cut off."""
        if self._linger is not None and self._linger.active():
            self._linger.reset(LINGER)

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
        """Serve what had been read already, then read on."""
        self._resumption = None
        self.factory.crowd.discard(self)
        self._serve()
        if not (self._stopped_by or self._resumption or self._read_closed):
            cast(Any, self.transport).resumeProducing()


def _encoded(reply: Reply, tag: str | None) -> bytes:
    try:
        return grammar.encode_reply(reply, tag)
    except Exception:  # noqa: BLE001 - a reply that can't be said must not hold up those behind it
        return grammar.encode_reply(reply_to(Failure()), tag)


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

    def __init__(self, node: Node, clock: IReactorTime, max_line: int = grammar.MAX_LINE) -> None:
        self.node = node
        self.clock = clock
        self.max_line = max_line
        self.connections: set[LineServer] = set()
        self.deadlines = Deadlines(clock)
        """Of the requests that wait for their answers."""
        self.commands: dict[type[Request], Callable[[Any], Answer]] = {}
        self.stopped: dict[LineServer, None] = {}
        """Connections from which nothing is read now, so that the reactor does not see their end."""
        self.crowd: set[LineServer] = set()
        """Connections that have more lines than fit in their turn; they share the time of one."""
        self._looking: IDelayedCall | None = None
        self._lack_told = float("-inf")
        self._told: dict[str, float] = {}
        """Addresses that speak other protocols, and when the log last told of each."""

    def look_after(self, connection: LineServer) -> None:
        """Look now and then whether the client has closed its side, until it is read from again."""
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
        """It is lost."""
        self.connections.discard(connection)
        self.crowd.discard(connection)
        self.stopped.pop(connection, None)
        if self._looking is not None and not self.connections:
            self._looking.cancel()
            self._looking = None

    def tell_of_foreign(self, peer: Any) -> None:
        """Say in the log that somebody speaks another protocol; of one address not again and again."""
        host, now = str(getattr(peer, "host", peer)), self.clock.seconds()
        if now - self._told.get(host, -TELL_INTERVAL) < TELL_INTERVAL:
            return
        if len(self._told) >= MAX_TOLD:
            self._told = {each: when for each, when in self._told.items() if now - when < TELL_INTERVAL}
        if len(self._told) < MAX_TOLD:
            self._told[host] = now
            _log.warn("closed a connection from {host}: it speaks another protocol, such as HTTP or TLS", host=host)

    def buildProtocol(self, addr: object) -> Any:
        """A connection; None, with which it is closed, when its descriptor is one of those that are kept back."""
        if lack := lack_of_descriptors():
            now = self.clock.seconds()
            if now >= self._lack_told + TELL_INTERVAL:
                self._lack_told = now
                _log.warn("no more {what}: no more connections are taken than {n}", what=lack, n=len(self.connections))
            return None
        protocol = LineServer(self.node, self.clock, self.max_line)
        protocol.factory = self
        return protocol


def ok(*words: object, **members: Any) -> Ok:
    """An `ok` reply in short."""
    return Ok(tuple(map(str, words)), members)


class NodeCommands:
    """The verbs that every node has; a node's class adds its own `vocabulary` and `cmd_` methods."""

    vocabulary: Mapping[str, type[Request]] = vocabulary(*NODE)

    def peer_request(self, request: Any, connection: LineServer) -> Answer:
        """Of a node without peers everybody may ask everything."""
        raise AssertionError(f"{request} is in the vocabulary of no such node")

    def fast_reply(self, line: bytes) -> bytes | None:
        """Nothing is as frequent as that."""
        return None

    def start(self) -> None:
        """Nothing goes on before a request comes."""

    def leave(self) -> Deferred[Any] | None:
        """Nothing is in hand."""
        return None

    def stop(self) -> Deferred[Any] | None:
        """Nothing goes on."""
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

    def cmd_system(self, request: System) -> Answer:
        """A node that knows of no other one."""
        return whole()
