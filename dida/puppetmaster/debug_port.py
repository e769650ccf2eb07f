"""The debug ports, to which workers in debug mode report outputs: one per address of this machine that they use."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.error import CannotListenError

from dida.addresses import HERE, LOOPBACK, Address
from dida.chains.messages import Output
from dida.console.tables import printable
from dida.errors import UserError
from dida.protocols.lines import Answer, LineServerFactory, NodeCommands, ok
from dida.wire.messages import Ok, Request, Status, System, vocabulary
from dida.wire.whole import whole


class DebugCommands(NodeCommands):
    """The verbs of the debug port."""

    vocabulary: Mapping[str, type[Request]] = {**NodeCommands.vocabulary, **vocabulary(Output)}

    def __init__(self, say: Callable[[str], None], known: Callable[[], Ok] = whole) -> None:
        """`known` returns the reply to `system`."""
        self._say = say
        self._known = known

    def cmd_system(self, request: System) -> Answer:
        return self._known()

    def cmd_status(self, request: Status) -> Answer:
        return ok(id="puppetmaster", role="puppetmaster", pid=os.getpid(), ready=True)

    def cmd_debug(self, request: Request) -> Answer:
        """There is no more to report."""
        return ok()

    def cmd_output(self, request: Output) -> Answer:
        meta = request.meta
        seen = ", ".join(f"{key} {version}" for key, version in meta.versions.items()) or "nothing"
        after = " ".join(f"{stream}:{count}" for stream, count in meta.after.items()) or "-"
        where = f"{request.operator} at {request.position}"
        self._say(printable(f"debug    {request.run} {where} on {request.worker} -> {request.output}"))
        self._say(printable(f"         read or wrote {seen}; after {after}; view {meta.view} of {len(meta.storage)}"))
        return ok()


class DebugPorts:
    """The debug ports, opened on demand. `say` prints what workers report, line by line."""

    def __init__(self, reactor: Any, port: int, say: Callable[[str], None]) -> None:
        self.reactor = reactor
        self._port = port
        self._say = say
        self._open: dict[str, Any] = {}
        """By the address of this machine that the workers use."""

    def url(self, host: str, known: Callable[[], Ok] = whole) -> str:
        """Open the port on an address of this machine, unless it is open; return its URL. UserError when it cannot."""
        address = Address(HERE if host in LOOPBACK else host, self._port)
        if address.host not in self._open:
            try:
                self._open[address.host] = self._opened(address, known)
            except CannotListenError as problem:
                reason = os.strerror(getattr(problem.socketError, "errno", 0)).lower()
                raise UserError(f"cannot listen on {address} for debug output: {reason}") from None
        return str(Address(address.host, self._open[address.host].getHost().port))

    def _opened(self, address: Address, known: Callable[[], Ok]) -> Any:
        """Open the wanted port, or a free one if that is taken, mostly by another puppetmaster."""
        factory = LineServerFactory(DebugCommands(self._say, known), self.reactor)
        interface = "127.0.0.1" if address.host == HERE else address.host
        try:
            return self.reactor.listenTCP(address.port, factory, interface=interface)
        except CannotListenError as problem:
            if getattr(problem.socketError, "errno", 0) != errno.EADDRINUSE:
                raise
        port = self.reactor.listenTCP(0, factory, interface=interface)
        self._say(f"debug    {address} is taken: outputs are collected at {address.host}:{port.getHost().port}")
        return port

    async def close(self) -> None:
        """Close all ports."""
        for port in self._open.values():
            await port.stopListening()
