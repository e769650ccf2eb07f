"""What the services of all nodes share: options, the one listening port, an end without a traceback."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, NoReturn, TypeVar, cast

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python import usage
from twisted.python.failure import Failure

from dida import __version__
from dida.addresses import Address, StorageAddress, host_and_port, node_id
from dida.errors import UserError
from dida.protocols.lines import LineServerFactory, Node
from dida.services.own_process import OwnProcess, shared_reactor
from dida.wire import grammar
from dida.wire.messages import DRAIN, Ok, Status

_T = TypeVar("_T")

_log = Logger()

END_TIME = 10.0
"""Seconds that an older process of this node may take to end, beside its `--drain`."""
READY_INTERVAL = 0.05
"""Seconds between two looks at whether the node is ready, while somebody waits for it."""


def fail(command: str, text: str) -> NoReturn:
    """End the process before it has begun: one line on standard error, exit status 1."""
    raise SystemExit(f"twistd {command}: {text}")


def coerced(parse: Callable[[str], _T]) -> Callable[[str], _T]:
    """`parse` as twisted.python.usage wants it: its UserError becomes a ValueError."""

    def coerce(text: str) -> _T:
        try:
            return parse(text)
        except UserError as problem:
            raise ValueError(str(problem)) from None

    return coerce


def number(least: float, most: float, unit: str, kind: type[int] | type[float] = int) -> Callable[[str], float]:
    """A coercion to a number in a range, for an option."""

    def coerce(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = kind(-1)
        if not least <= value <= most:
            raise ValueError(f"invalid number {text!r}: expected {unit} from {least} to {most}")
        return value

    return coerce


def _named(name: str, coerce: Callable[[str], Any]) -> Callable[[str], Any]:
    def named(text: str) -> Any:
        try:
            return coerce(text)
        except ValueError as problem:
            raise ValueError(f"--{name}: {problem}") from None

    return named


def _named_option(name: str, method: Callable[[Any, str], None]) -> Callable[[Any, str], None]:
    @wraps(method)
    def named(self: Any, text: str) -> None:
        try:
            method(self, text)
        except UserError as problem:
            raise UserError(f"--{name}: {problem}") from None

    return named


milliseconds = number(0, 86_400_000, "milliseconds")


def drain_option(what: str) -> list[Any]:
    """The option `--drain` of a node that has something to finish, for optParameters."""
    about = f"time at shutdown (SIGTERM) to {what}, in s"
    return ["drain", None, DRAIN, about, number(0, 86_400, "seconds", float)]


def check_distinct(members: Iterable[StorageAddress]) -> None:
    """UsageError when two storage nodes have one number, id or URL."""
    known = set(members)
    for part, what in (("replica", "replica number"), ("id", "id"), ("address", "URL")):
        if len({getattr(each, part) for each in known}) != len(known):
            raise usage.UsageError(f"--storage names one {what} twice")


class Options(usage.Options):
    """Options that end in one line when they are wrong, and what every listening node has.

    A subclass sets `command`, `required` and adds to optParameters and optFlags.
    """

    command = ""
    required: tuple[str, ...] = ()

    def __init_subclass__(cls) -> None:
        """Name the option in errors about its value."""
        super().__init_subclass__()
        for name, method in list(vars(cls).items()):
            if name.startswith("opt_"):
                setattr(cls, name, _named_option(name.removeprefix("opt_"), method))
        for option in cls.__dict__.get("optParameters", ()):
            if len(option) > 4:
                option[4] = _named(option[0], option[4])

    def parseOptions(self, options: Any = None) -> None:
        try:
            super().parseOptions(options)
        except UserError as problem:
            fail(self.command, str(problem))
        except usage.UsageError as problem:
            text = str(problem).removeprefix("Parameter type enforcement failed: ")
            fail(self.command, f"{text} (--help shows the options)")

    def parseArgs(self, *words: str) -> None:
        if words:
            raise usage.UsageError(f"unexpected {words[0]!r}: everything is given by options")

    def postOptions(self) -> None:
        for name in self.required:
            if self[name] in (None, ""):
                raise usage.UsageError(f"missing --{name}")
        self._own_files()

    def opt_version(self) -> None:
        """Show the version and end."""
        sys.stdout.write(f"DIDA {__version__}\n")
        raise SystemExit(0)

    @property
    def in_background(self) -> bool:
        """Whether twistd makes a daemon of the process."""
        return self.parent is not None and not (self.parent.get("nodaemon") or self.parent.get("debug"))

    def _own_files(self) -> None:
        """twistd keeps one twistd.pid and one twistd.log a folder; here several nodes in one folder are normal."""
        parent = self.parent
        if parent is None:
            return
        folder = parent.get("rundir") or "."
        if not os.path.isdir(folder):
            raise UserError(f"--rundir {folder}: no such folder")
        name = (self.get("id") or self.command).replace(os.sep, "_")
        if parent.get("pidfile") == "twistd.pid":
            parent["pidfile"] = f"{name}.pid" if self.in_background else ""
        if self.in_background and not (parent.get("syslog") or parent.get("logger")):
            parent["logfile"] = parent.get("logfile") or f"{name}.log"


class NodeOptions(Options):
    """What every node that listens has."""

    required: tuple[str, ...] = ("id", "url")
    optParameters = [
        ["id", None, None, "the node's id: any word", coerced(node_id)],
        ["url", None, None, "where others reach it: http://HOST:PORT", coerced(Address.parse)],
        [
            "listen",
            None,
            None,
            "HOST[:PORT] to listen on, where that is not the URL's (containers, NAT; 0.0.0.0: all)",
            coerced(host_and_port),
        ],
        [
            "wait",
            None,
            None,
            "seconds to wait for the node to be ready; status 1: it is not yet (default: the command returns at once)",
            number(0, 86_400, "seconds", float),
        ],
        [
            "max-line",
            None,
            grammar.MAX_LINE,
            "longest line taken, in bytes",
            number(1024, grammar.HIGHEST_LIMIT, "bytes"),
        ],
    ]
    optFlags = [["debug", None, "log what goes on, line by line"]]
    process: OwnProcess | None = None
    """What twistd was started for; None in a process that is not the node's own."""

    @property
    def address(self) -> Address:
        address: Address = self["url"]
        return address

    def postOptions(self) -> None:
        super().postOptions()
        if self["wait"] is not None and self.parent is not None and not self.in_background:
            raise usage.UsageError("--wait is for a node in the background: leave out -n")
        if self.parent is not None:
            patience = END_TIME + float(self.get("drain") or DRAIN)
            self.process = OwnProcess(self.command, self["id"], self.parent, self["wait"], patience)


def bind(command: str, url: Address, listen: tuple[str, int | None] | None = None) -> socket.socket:
    """A listening socket on the host of a URL, or where `--listen` says, or the end of the process in one line."""
    host, port = listen or (url.host, None)
    address = Address(host, port or url.port)
    option = "--url" if listen is None else "--listen"
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "no host can have that name"
        fail(command, f"cannot find the host of {option} {address}: {reason}")
    family, kind, protocol, _, where = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    listening = socket.socket(family, kind, protocol)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setblocking(False)
    try:
        listening.bind(where)
        listening.listen(1024)
    except OSError as problem:
        listening.close()
        hint = _LISTEN_HINTS.get(problem.errno or 0, f"give {option} an address of this machine")
        at = str(address) if listen is None else f"{address} (--listen)"
        fail(command, f"cannot listen on {at}: {os.strerror(problem.errno or 0).lower()}: {hint}")
    return listening


_LISTEN_HINTS = {
    errno.EADDRINUSE: "choose another port, or stop what listens there",
    errno.EACCES: "choose a port from 1024 on, or start it as who may have this one",
    errno.EADDRNOTAVAIL: "this machine has no such address: listen on one that it has, by --listen HOST",
}


MAX_ACCEPTS = 20
"""Connections that are accepted before others are looked at."""


def bound_accepts(port: Any) -> None:
    """Have a listening port take `MAX_ACCEPTS` connections at a time. Twisted's takes twenty more each time, and so
    stalls those that are there while thousands come."""
    accept = port.doRead

    def accept_some() -> None:
        port.numberAccepts = min(port.numberAccepts, MAX_ACCEPTS)
        accept()

    port.doRead = accept_some


class Listening(Service):
    """The node's one port. The socket is bound before the service starts, so that a failure is loud."""

    def __init__(
        self, reactor: Any, bound: socket.socket, factory: LineServerFactory, process: OwnProcess | None = None
    ) -> None:
        self._reactor = reactor
        self._socket = bound
        self._factory = factory
        self._port: Any = None
        self._process = process
        self._readiness = LoopingCall(self._look_whether_ready)
        self._readiness.clock = reactor

    def privilegedStartService(self) -> None:
        super().privilegedStartService()
        if self._process is not None:
            self._process.write_pid()

    def startService(self) -> None:
        super().startService()
        self._port = self._reactor.adoptStreamPort(self._socket.fileno(), self._socket.family, self._factory)
        bound_accepts(self._port)
        self._socket.close()
        if self._process is not None:
            self._process.connections = self._descriptors
            if self._process.on_begun():
                self._readiness.start(READY_INTERVAL, now=False)

    def _descriptors(self) -> list[int]:
        """Those of the connections, also of those that are not read from now."""
        return [cast(Any, connection.transport).fileno() for connection in self._factory.connections]

    def _look_whether_ready(self) -> None:
        node: Any = self._factory.node
        reply = node.cmd_status(Status())
        if isinstance(reply, Ok) and reply.object.get("ready"):
            self._readiness.stop()
            if self._process is not None:
                self._process.say_ready()

    def stopService(self) -> Deferred[Any] | None:
        super().stopService()
        if self._readiness.running:
            self._readiness.stop()
        if self._port is None:
            return None
        for connection in list(self._factory.connections):
            transport: Any = connection.transport
            transport.abortConnection()
        stopped: Deferred[Any] | None = self._port.stopListening()
        return stopped


def default_reactor(reactor: Any, options: NodeOptions) -> Any:
    """`reactor`, or the one that twistd installed; then the process is this node's alone."""
    if reactor is not None or options.process is None:
        return reactor or shared_reactor()
    try:
        return options.process.begin()
    except UserError as problem:
        fail(options.command, str(problem))


def listening(node: Node, options: NodeOptions, reactor: Any) -> Listening:
    """The listening service of `node` where its options say; its port is bound already, or the process has ended."""
    bound = bind(options.command, options.address, options["listen"])
    factory = LineServerFactory(node, reactor, int(options["max-line"]))
    return Listening(reactor, bound, factory, options.process)


class NodeService(MultiService):
    """A node and its port. `process` is the node's process, if it is its alone.

    A node that ends first leaves, while its port and all else still work, and then closes.
    """

    def __init__(self, name: str, node: Node, port: Listening, process: OwnProcess | None = None) -> None:
        super().__init__()
        self.setName(name)
        self.node = node
        self.process = process
        port.setServiceParent(self)

    def setServiceParent(self, parent: Any) -> None:
        super().setServiceParent(parent)
        if self.process is not None:
            self.process.log_to(parent)

    def startService(self) -> None:
        super().startService()
        self.node.start()

    def stopService(self) -> Deferred[Any]:
        left = self.node.leave()
        return self._closed(None) if left is None else left.addBoth(self._closed)

    def _closed(self, result: Any) -> Deferred[Any]:
        if isinstance(result, Failure):
            _log.failure("the node could not leave in order", result)
        return DeferredList([maybeDeferred(self.node.stop), super().stopService()])


def serve(node: Node, options: NodeOptions, reactor: Any) -> NodeService:
    """The service of `node`; its port is bound already, or the process has ended."""
    return NodeService(options["id"], node, listening(node, options, reactor), options.process)
