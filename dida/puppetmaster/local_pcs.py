"""The PCS that the puppetmaster starts when there is none for it on its machine: a process that ends with it.

It serves this puppetmaster alone. If its port is taken, mostly by the PCS of another puppetmaster, it gets a free one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from dida.addresses import HERE, Address
from dida.errors import DidaError, UserError
from dida.pcs.client import Pcs
from dida.pcs.launch import command_line
from dida.pcs.processes import how_it_ended, listens
from dida.wire.messages import DRAIN, Status

PCS_DEADLINE = 15.0
"""Time-out for the start of the PCS, in seconds."""
PORTS_TRIED = 3
"""Attempts to get a free port, which another process may take first."""
PROBE_INTERVAL = 0.03
"""Time between two attempts to connect to the PCS, in seconds."""
PROBE_TIMEOUT = 2.0
"""Time-out for one of them, in seconds."""
STOP_DEADLINE = DRAIN + 8.0
"""Time-out for the PCS to end its nodes and itself before it is killed, in seconds."""


class LocalPcs:
    """The PCS of the puppetmaster `name`: its processes, one after the other. `say` prints what happens.

    `wanted` has the options `operators` and `logs` as the user gave them; None where the default holds.
    """

    def __init__(
        self,
        reactor: Any,
        name: str,
        logs: str,
        keep: bool,
        wanted: Mapping[str, str | None],
        say: Callable[[str], None],
    ) -> None:
        self.reactor = reactor
        self.name = name
        self.logs = logs
        self.keep = keep
        self._wanted = wanted
        self._say = say
        self._process: PcsProcess | None = None
        self._stopping = False

    @property
    def address(self) -> Address | None:
        """Its address; None while there is none."""
        return None if self._process is None else self._process.address

    @property
    def pid(self) -> int:
        """Its process id; 0 while there is none."""
        return 0 if self._process is None else int(cast(Any, self._process.transport).pid)

    async def start(self, wanted: Address, taken: str) -> Address:
        """Start it at `wanted`, or at a free port if that is taken (`taken` says by what, if known)."""
        if not taken:
            try:
                return await self._start_at(wanted, "")
            except UserError:
                if not await listens(self.reactor, wanted, PROBE_TIMEOUT):
                    raise
                taken = f"{wanted} is taken"
        for _ in range(PORTS_TRIED - 1):
            try:
                return await self._start_at_a_free_port(taken)
            except UserError:
                pass  # another process took the port first, or the next attempt shows what is wrong
        return await self._start_at_a_free_port(taken)

    async def _start_at_a_free_port(self, taken: str) -> Address:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = int(found.getsockname()[1])
        return await self._start_at(Address(HERE, port), taken)

    async def _start_at(self, address: Address, why: str) -> Address:
        if self._stopping:
            raise UserError("the puppetmaster is ending")
        words = [f"--logs={self.logs}", f"--serves={self.name}", "--quiet"]
        operators = self._wanted["operators"]
        words += [] if operators is None else [f"--operators={operators}"]
        log = os.path.join(self.logs, "pcs.log")
        process = self._process = PcsProcess(self.reactor, address, self.name, log, self.keep, words, self._ended)
        try:
            await process.until_ready()
        except UserError:
            await process.stop()
            raise
        self._say(f"pcs      started at {address}")
        if why:
            self._say(f"         {why}")
        if process.nodes_log_in not in ("", self.logs):
            self._say(f"         its nodes log in {process.nodes_log_in}")
        return address

    def found(self, address: Address, status: Mapping[str, Any]) -> None:
        """Note the options that have no effect, as another PCS is used, which has its own."""
        for option, given in self._wanted.items():
            own = status.get(option)
            if given is not None and os.path.abspath(given) != own:
                has = f"its own, {own}" if own else "the workers' default"
                self._say(f"note: --{option} has no effect: the PCS at {address} has {has}")

    def _ended(self, how: str) -> None:
        """Start the next process, which takes over the nodes of the one that has ended."""
        if not self._stopping and self._process is not None:
            self._say(f"pcs      has ended ({how}): another one is started")
            again = Deferred.fromCoroutine(self._start_at(self._process.address, ""))
            again.addErrback(lambda failure: self._say(str(failure.value)))

    def end_watch(self) -> None:
        """Start no further process."""
        self._stopping = True

    async def stop(self) -> None:
        """End the PCS, and with it all nodes that it has started."""
        if self._process is not None:
            await self._process.stop()


class PcsProcess(ProcessProtocol):
    """A PCS process that serves the puppetmaster `name` and logs in the file `log`.

    `on_end` is called when it ends after it was ready.
    """

    def __init__(
        self,
        reactor: Any,
        address: Address,
        name: str,
        log: str,
        keep: bool,
        options: Sequence[str],
        on_end: Callable[[str], None],
    ) -> None:
        self.reactor = reactor
        self.address = address
        self.name = name
        self.nodes_log_in = ""
        """Folder of its nodes' logs, known once it is ready."""
        self.log = log
        self._begins = 0
        """Offset at which this PCS's part of the log begins."""
        self.running = False
        self._gone: Deferred[None] = Deferred()
        self._on_end = on_end
        self._was_ready = False
        words = ["dida-pcs", f"--url=http://{address}", *options, *([] if keep else ["--attached"])]
        arguments = command_line(*words, output=self.log)
        with open(self.log, "ab") as output, open(os.devnull, "rb") as nothing:
            self._begins = output.tell()
            files: dict[int, Any] = {0: nothing.fileno() if keep else "w", 1: output.fileno(), 2: output.fileno()}
            reactor.spawnProcess(self, arguments[0], arguments, env=None, childFDs=files)
        self.running = True

    async def until_ready(self) -> None:
        """Return when it answers; UserError when it ends before, or takes too long."""
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
            status = (await pcs.ask(Status(deadline=1))).object
        except DidaError:
            return False
        else:
            self.nodes_log_in = str(status.get("logs", ""))
            return status.get("serves") == self.name  # else another PCS took the address first
        finally:
            await pcs.close()

    def _last_line(self) -> str:
        try:
            with open(self.log, "rb") as log:
                log.seek(self._begins)
                lines = log.read()[-4096:].decode(errors="replace").split("\n")
        except OSError:
            lines = []
        return next((line for line in reversed(lines) if line.strip()), f"see {self.log}")

    def processEnded(self, reason: Failure) -> None:
        self.running = False
        self._gone.callback(None)
        if self._was_ready:
            self._on_end(how_it_ended(reason))

    async def stop(self) -> None:
        """End the process."""
        if self.running:
            cast(Any, self.transport).signalProcess("TERM")
            kill = self.reactor.callLater(STOP_DEADLINE, cast(Any, self.transport).signalProcess, "KILL")
            await self._gone
            if kill.active():
                kill.cancel()
