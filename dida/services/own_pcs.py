"""The PCS that the puppetmaster starts when there is none on its machine: a process that ends with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from dida.addresses import Address
from dida.errors import DidaError, UserError
from dida.messages import Status
from dida.protocols.pcs import Pcs
from dida.services.launch import command_line
from dida.services.processes import how_it_ended, listens

PCS_DEADLINE = 15.0
"""Seconds for a PCS that was started here to listen."""
PROBE_INTERVAL = 0.03
PROBE_TIMEOUT = 2.0
STOP_DEADLINE = 8.0
"""Seconds for the PCS to end its nodes and itself before it is killed."""


class OwnPcs(ProcessProtocol):
    """The PCS process that was started here."""

    def __init__(self, reactor: Any, address: Address, logs: str, keep: bool, operators: str | None) -> None:
        self.reactor = reactor
        self.address = address
        self.log = os.path.join(logs, "pcs.log")
        self.running = False
        self._gone: Deferred[None] = Deferred()
        self.on_end: Callable[[str], None] = lambda how: None
        """Called when it ends after it was ready."""
        self._was_ready = False
        words = ["dida-pcs", f"--url=http://{address}", f"--logs={logs}", "--quiet"]
        words += [] if keep else ["--attached"]
        words += [] if operators is None else [f"--operators={operators}"]
        arguments = command_line(*words)
        with open(self.log, "ab") as log, open(os.devnull, "rb") as nothing:
            files: dict[int, Any] = {0: nothing.fileno() if keep else "w", 1: log.fileno(), 2: log.fileno()}
            reactor.spawnProcess(self, arguments[0], arguments, env=None, childFDs=files)
        self.running = True

    async def until_ready(self) -> None:
        """Returns when it answers; UserError when it ends before, or takes too long."""
        ends = self.reactor.seconds() + PCS_DEADLINE
        while self.running and self.reactor.seconds() < ends:
            await deferLater(self.reactor, PROBE_INTERVAL)
            if await listens(self.reactor, self.address, PROBE_TIMEOUT) and await self._answers():
                self._was_ready = True
                return
        raise UserError(f"no PCS could be started at {self.address}: {self._last_line()}")

    async def _answers(self) -> bool:
        pcs = Pcs(self.reactor, self.address)
        try:
            return (await pcs.ask(Status(deadline=1))).object.get("role") == "pcs"
        except DidaError:
            return False
        finally:
            await pcs.close()

    def _last_line(self) -> str:
        try:
            with open(self.log, "rb") as log:
                lines = log.read()[-4096:].decode(errors="replace").split("\n")
        except OSError:
            lines = []
        return next((line for line in reversed(lines) if line.strip()), f"see {self.log}")

    def processEnded(self, reason: Failure) -> None:
        self.running = False
        self._gone.callback(None)
        if self._was_ready:
            self.on_end(how_it_ended(reason))

    async def stop(self) -> None:
        """End it, and with it all nodes that it has started."""
        if self.running:
            cast(Any, self.transport).signalProcess("TERM")
            kill = self.reactor.callLater(STOP_DEADLINE, cast(Any, self.transport).signalProcess, "KILL")
            await self._gone
            if kill.active():
                kill.cancel()
