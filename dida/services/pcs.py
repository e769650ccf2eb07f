"""The Process Creation Service: starts nodes as processes on its machine, and knows which of them live.

It starts the three kinds of node and nothing else, at most so many. A node's output is read line by line
as it comes, whatever anybody does with it: into a file per node, onto the PCS's own console with the
node's id in front, and the newest lines are kept for whoever asks. A node counts as starting until it
says itself, on its port, that it is ready. When the PCS ends, its nodes end, unless told to keep them.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO, cast
from urllib.parse import quote

from attrs import evolve
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError, DNSLookupError, ReactorNotRunning
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile

from dida.addresses import Address
from dida.control_messages import NodeEntry, Start, node_arguments
from dida.errors import NO_SUCH_NODE, BadRequest, DidaError, Unavailable
from dida.messages import Ok, Reply, Request, Status
from dida.protocols.links import Link
from dida.protocols.pcs import PcsCommands
from dida.services.launch import command_line
from dida.services.node import NodeOptions, NodeService, coerced, default_reactor, fail, listening, number

MAX_ENDED = 200
"""Ended nodes that the table remembers."""
MAX_WATCHERS = 100
KEPT_LINES = 1000
MAX_OUTPUT_LINE = 4096
"""Bytes after which a line of a node's output is broken."""
LOG_SIZE = 20_000_000
"""Bytes of a node's log file before it is rotated; one older file is kept."""
PROBE_INTERVAL = 0.03
SILENCE = 1.0
"""Seconds after which a node is asked whether it listens, though it has not put out a line."""
PROBE_TIMEOUT = 2.0
POLITE = 3.0
"""Seconds between asking a node to end and killing it."""
EXIT_GRACE = 0.5
"""Seconds for the rest of an ended node's output to come."""

_log = Logger()


class _Probes(Factory):
    """Connections that only find out whether anybody listens."""

    noisy = False
    protocol = Protocol


_probes = _Probes()


def how_it_ended(failure: Failure) -> str:
    """`exit status 1`, or `signal SIGKILL`."""
    problem: Any = failure.value
    if problem.signal is not None:
        return f"signal {signal.Signals(problem.signal).name}"
    return f"exit status {problem.exitCode or 0}"


class NodeProcess(ProcessProtocol):
    """One node: its row of the table, its output, its end."""

    def __init__(self, reactor: Any, entry: NodeEntry, show: Callable[[str, bytes], None]) -> None:
        self.reactor = reactor
        self.entry = entry
        self.address = Address.parse(entry.url)
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.link = Link(reactor, self.address.host, self.address.port)
        self.on_change: Callable[[], None] = lambda: None
        self._show = show
        self._file = LogFile(os.path.basename(entry.log), os.path.dirname(entry.log), LOG_SIZE, maxRotatedFiles=1)
        self._part = b""
        self._ended: list[Deferred[None]] = []
        self._probe: Deferred[None] | None = None
        self._talks: Deferred[None] = Deferred()
        self._rest: IDelayedCall | None = None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.entry.state != "ended"

    def set(self, **changes: Any) -> None:
        """Change the node's row, and tell who watches."""
        self.entry = evolve(self.entry, **changes)
        self.on_change()

    # --- output ---------------------------------------------------------------------------------

    def outReceived(self, data: bytes) -> None:
        *lines, self._part = (self._part + data).split(b"\n")
        for line in lines:
            self._line(line)
        while len(self._part) > MAX_OUTPUT_LINE:
            self._line(self._part[:MAX_OUTPUT_LINE])
            self._part = self._part[MAX_OUTPUT_LINE:]

    errReceived = outReceived

    def _line(self, line: bytes) -> None:
        if not self._talks.called:
            self._talks.callback(None)
        line = line.removesuffix(b"\r")
        self.lines.append(line[:MAX_OUTPUT_LINE].decode(errors="replace"))
        try:
            self._file.write(line + b"\n")
            self._file.flush()
        except OSError as problem:
            _log.error("can't write {log}: {problem}", log=self.entry.log, problem=problem.strerror)
        self._show(self.entry.id, line)

    # --- readiness ------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        self._probe = Deferred.fromCoroutine(self._until_ready())
        self._probe.addErrback(self._probe_failed)

    def _probe_failed(self, failure: Failure) -> None:
        if self.alive:
            _log.failure("asking {id} whether it is ready", failure, id=self.entry.id)

    async def _until_ready(self) -> None:
        await self._until_listening()
        while True:
            try:
                reply = await self.link.ask(Status(), PROBE_TIMEOUT)
                if isinstance(reply, Ok) and reply.object.get("ready") and reply.object.get("id") == self.entry.id:
                    break
            except DidaError:
                pass
            await deferLater(self.reactor, PROBE_INTERVAL)
        self.set(state="ready")

    async def _until_listening(self) -> None:
        """Cheaper than the link's own attempts, at a steady pace, and not before the node has begun to talk."""
        self._talks.addTimeout(SILENCE, self.reactor, lambda result, seconds: None)
        await self._talks
        endpoint = HostnameEndpoint(self.reactor, self.address.host.encode(), self.address.port, PROBE_TIMEOUT)
        while True:
            try:
                connection = cast(Protocol, await endpoint.connect(_probes))
            except (ConnectError, DNSLookupError):
                await deferLater(self.reactor, PROBE_INTERVAL)
                continue
            assert connection.transport is not None
            connection.transport.loseConnection()
            return

    # --- the end --------------------------------------------------------------------------------

    def end(self, how: str) -> Deferred[None]:
        """Send the signal KILL, or TERM and KILL a little later; fires when the process is gone."""
        if not self.alive:
            return succeed(None)
        self.entry = evolve(self.entry, asked=True)
        gone: Deferred[None] = Deferred()
        self._ended.append(gone)
        self._signal(how)
        if how != "KILL":
            kill = self.reactor.callLater(POLITE, self._signal, "KILL")
            gone.addBoth(lambda result: kill.cancel() if kill.active() else None)
        return gone

    def _signal(self, name: str) -> None:
        if self.transport is not None and self.transport.pid is not None:
            self.transport.signalProcess(name)

    def processExited(self, reason: Failure) -> None:
        """A grandchild may hold the output open: don't wait for it for ever."""
        assert self.transport is not None
        self._rest = self.reactor.callLater(EXIT_GRACE, self.transport.loseConnection)

    def processEnded(self, reason: Failure) -> None:
        if self._rest is not None and self._rest.active():
            self._rest.cancel()
        if self._part:
            self._line(self._part)
            self._part = b""
        self._file.close()
        said = [line for line in self.lines if line.strip()]
        self.set(state="ended", ended=how_it_ended(reason), line=said[-1] if said else "")
        self.link.stop()
        if self._probe is not None:
            self._probe.cancel()
        ended, self._ended = self._ended, []
        for gone in ended:
            gone.callback(None)


class Processes(Service):
    """The nodes of this PCS: what `dida.protocols.pcs.Table` says."""

    def __init__(self, reactor: Any, logs: str, most: int, keep: bool, operators: str | None = None) -> None:
        self.reactor = reactor
        self.logs = os.path.abspath(logs)
        self.most = most
        self.keep = keep
        self.operators = operators
        self.console: BinaryIO | None = None
        self.command_line: Callable[..., list[str]] = command_line
        self._nodes: dict[str, NodeProcess] = {}
        self._number = 1
        self._watchers: list[Deferred[int]] = []

    def stopService(self) -> Deferred[Any]:
        super().stopService()
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            watcher.callback(self._number)
        if self.keep:
            return DeferredList([node.link.stop() for node in self._nodes.values()])
        return self.stop(None)

    # --- the verbs ------------------------------------------------------------------------------

    def start(self, request: Start) -> int:
        words = node_arguments(request, self.operators)
        self._check(request)
        for old in [node for node in self._nodes.values() if not node.alive][: -MAX_ENDED or None]:
            del self._nodes[old.entry.id]
        self._nodes.pop(request.id, None)
        url = f"http://{Address.parse(request.url)}"
        log = os.path.join(self.logs, quote(request.id, safe=" ")[:100] + ".log")
        try:
            node = NodeProcess(
                self.reactor, NodeEntry(request.id, request.role, url, 0, "starting", log=log), self._show
            )
            arguments = self.command_line(*words)
            process = self.reactor.spawnProcess(node, arguments[0], arguments, env=None)
        except OSError as problem:
            # The table is as it was: the node is entered once it has a process.
            raise Unavailable(f"can't start {request.id}: {os.strerror(problem.errno or 0).lower()}") from None
        process.closeStdin()
        node.on_change = self._changed
        self._nodes[request.id] = node
        node.set(pid=process.pid)
        return int(process.pid)

    def _check(self, request: Start) -> None:
        alive = [node for node in self._nodes.values() if node.alive]
        for node in alive:
            if node.entry.id == request.id:
                raise BadRequest(f"{request.id} runs already, as {node.entry.role} at {node.address}: take another id")
            if node.address == Address.parse(request.url):
                raise BadRequest(f"{node.address} is the address of {node.entry.id}: take another port")
        if len(alive) >= self.most:
            raise Unavailable(f"{len(alive)} nodes run here, and no more may (--max-nodes)")
        if not self.running:
            raise Unavailable("this PCS is ending")

    def entries(self) -> list[NodeEntry]:
        return [node.entry for node in self._nodes.values()]

    def watch(self, number: int | None, deadline: float) -> Deferred[int]:
        if number != self._number or not self.running:
            return succeed(self._number)
        if len(self._watchers) >= MAX_WATCHERS:
            raise Unavailable(f"{MAX_WATCHERS} clients watch already")
        watcher: Deferred[int] = Deferred()
        self._watchers.append(watcher)

        def late() -> None:
            self._watchers.remove(watcher)
            watcher.callback(self._number)

        timer = self.reactor.callLater(deadline, late)
        return watcher.addCallback(lambda found: timer.cancel() or found if timer.active() else found)

    def crash(self, id: str) -> Deferred[None]:
        return self._living(id).end("KILL")

    def stop(self, id: str | None) -> Deferred[None]:
        if id is not None:
            return self._living(id).end("TERM")
        return DeferredList([node.end("TERM") for node in self._nodes.values()]).addCallback(lambda results: None)

    def output(self, id: str, lines: int) -> list[str]:
        return list(self._node(id).lines)[-lines:]

    def ask(self, id: str, request: Request) -> Deferred[Reply]:
        return self._living(id).link.ask(request, request.deadline)

    def _node(self, id: str) -> NodeProcess:
        node = self._nodes.get(id)
        if node is None:
            raise DidaError(NO_SUCH_NODE, id, "was never started here")
        return node

    def _living(self, id: str) -> NodeProcess:
        node = self._node(id)
        if not node.alive:
            raise DidaError(NO_SUCH_NODE, id, f"has ended ({node.entry.ended})")
        return node

    def _changed(self) -> None:
        self._number += 1
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            watcher.callback(self._number)

    def _show(self, id: str, line: bytes) -> None:
        if self.console is not None:
            self.console.write(f"{id} | ".encode() + line + b"\n")
            self.console.flush()


class _Attached(Protocol):
    """Standard input of a PCS whose parent holds the other end."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor

    def connectionLost(self, reason: Failure | None = None) -> None:
        with suppress(ReactorNotRunning):
            self.reactor.stop()


class Options(NodeOptions):
    command = "dida-pcs"
    synopsis = "[options]"
    longdesc = "The Process Creation Service: one per machine, starts nodes for the puppetmaster."
    optParameters = [
        ["id", None, "pcs", "its id: any word"],
        ["url", None, "http://localhost:10000", "where it listens: http://HOST:PORT", coerced(Address.parse)],
        ["logs", None, "logs", "folder of the files with the nodes' output"],
        ["max-nodes", None, 64, "most nodes that may run at once", number(1, 10_000, "nodes")],
        ["operators", None, None, "the workers' operators folder (default: their own default)"],
    ]
    optFlags = [
        ["keep", None, "leave the nodes running when the PCS ends"],
        ["quiet", None, "don't show the nodes' output here (it is in the files all the same)"],
        ["attached", None, "end when standard input does: for a PCS that another program starts"],
    ]


def makeService(options: Options, reactor: Any = None) -> NodeService:
    reactor = default_reactor(reactor)
    logs: str = options["logs"]
    try:
        os.makedirs(logs, exist_ok=True)
    except OSError as problem:
        fail(options.command, f"can't make the folder of --logs {logs}: {os.strerror(problem.errno or 0).lower()}")
    if not os.access(logs, os.W_OK | os.X_OK):
        fail(options.command, f"can't write into the folder of --logs {logs}: permission denied")
    operators = options["operators"]
    if operators is not None:
        if not os.path.isdir(operators):
            fail(options.command, f"--operators {operators}: no such folder")
        operators = os.path.abspath(operators)
    service = NodeService("dida-pcs")
    processes = Processes(reactor, logs, int(options["max-nodes"]), bool(options["keep"]), operators)
    if not options["quiet"]:
        processes.console = sys.stdout.buffer
    processes.setServiceParent(service)
    listening(PcsCommands(options["id"], processes), options, reactor).setServiceParent(service)
    if options["attached"]:
        _attach(reactor)
    _log.info("the nodes' output goes to {logs}", logs=processes.logs)
    return service


def _attach(reactor: Any) -> None:
    from twisted.internet.stdio import StandardIO

    reactor.callWhenRunning(StandardIO, _Attached(reactor), reactor=reactor)
