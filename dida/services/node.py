"""What the services of all nodes share: options, the one listening port, an end without a traceback."""

from __future__ import annotations

import gc
import os
import socket
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, NoReturn, TypeVar

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred
from twisted.python import usage

from dida import wire
from dida.addresses import Address, StorageAddress, node_id
from dida.errors import UserError
from dida.protocols.clock import steady
from dida.protocols.lines import LineServerFactory, Node

_T = TypeVar("_T")

YOUNG = 20_000
"""Objects made and not freed until the young ones are searched for cycles: some megabytes. With Python's own 700,
what some hundred requests in flight consist of is searched again and again, which is a fifth of a worker's time."""


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
            raise ValueError(f"{text!r} is no number of {unit} from {least} to {most}")
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
        """What is wrong with an option's value is told with the option's name."""
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
                raise usage.UsageError(f"--{name} is missing")
        self._own_pidfile()

    def _own_pidfile(self) -> None:
        """twistd keeps one twistd.pid a folder; several nodes in one folder are the normal case here."""
        parent = self.parent
        if parent is None or parent.get("pidfile") != "twistd.pid":
            return
        if parent.get("nodaemon") or parent.get("debug"):
            parent["pidfile"] = ""
        else:
            name = (self.get("id") or self.command).replace(os.sep, "_")
            parent["pidfile"] = f"{name}.pid"
            parent["logfile"] = parent.get("logfile") or f"{name}.log"


class NodeOptions(Options):
    """What every node that listens has."""

    required: tuple[str, ...] = ("id", "url")
    optParameters = [
        ["id", None, None, "the node's id: any word", coerced(node_id)],
        ["url", None, None, "where it listens: http://HOST:PORT", coerced(Address.parse)],
        ["max-line", None, wire.MAX_LINE, "longest line taken, in bytes", number(1024, wire.HIGHEST_LIMIT, "bytes")],
    ]
    optFlags = [["debug", None, "log what goes on, line by line"]]

    @property
    def address(self) -> Address:
        address: Address = self["url"]
        return address


def bind(command: str, address: Address) -> socket.socket:
    """A listening socket on the host of a URL, or the end of the process in one line."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "no host can have that name"
        fail(command, f"can't find the host of --url {address}: {reason}")
    family, kind, protocol, _, where = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    listening = socket.socket(family, kind, protocol)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setblocking(False)
    try:
        listening.bind(where)
        listening.listen(1024)
    except OSError as problem:
        listening.close()
        hint = "choose another port, or stop what listens there"
        fail(command, f"can't listen on {address}: {os.strerror(problem.errno or 0).lower()}: {hint}")
    return listening


class Listening(Service):
    """The node's one port. The socket is bound before the service starts, so that a failure is loud."""

    def __init__(self, reactor: Any, bound: socket.socket, factory: LineServerFactory) -> None:
        self._reactor = reactor
        self._socket = bound
        self._factory = factory
        self._port: Any = None

    def startService(self) -> None:
        super().startService()
        self._port = self._reactor.adoptStreamPort(self._socket.fileno(), self._socket.family, self._factory)
        self._socket.close()

    def stopService(self) -> Deferred[Any] | None:
        super().stopService()
        if self._port is None:
            return None
        for connection in list(self._factory.connections):
            transport: Any = connection.transport
            transport.abortConnection()
        stopped: Deferred[Any] | None = self._port.stopListening()
        return stopped


def default_reactor(reactor: Any) -> Any:
    """`reactor`, or the one that twistd installed; then the process is this node's alone, and its clock never steps."""
    if reactor is None:
        from twisted.internet import reactor as installed

        gc.freeze()  # what was imported stays: no collection goes through it any more
        gc.set_threshold(YOUNG)
        gc.enable()  # where dida.services.launch has kept it from the imports
        return steady(installed)
    return reactor


def listening(node: Node, options: NodeOptions, reactor: Any) -> Listening:
    """The listening service of `node` at its URL; its port is bound already, or the process has ended."""
    bound = bind(options.command, options.address)
    return Listening(reactor, bound, LineServerFactory(node, reactor, int(options["max-line"])))


class NodeService(MultiService):
    """A node: its children are the listening port and whatever the node needs."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.setName(name)


def installed_folder(name: str) -> str:
    """Where a stock folder (`operators`, `pmscripts`) is: in the current folder, or as installed."""
    if os.path.isdir(name):
        return name
    beside = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), name)
    return beside if os.path.isdir(beside) else os.path.join(sys.prefix, "share", "dida", name)
