"""A node of a PCS: its process, whether it is ready, what it puts out, and its end."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from attrs import evolve, field, frozen
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from dida.addresses import Address
from dida.errors import DidaError
from dida.pcs.messages import NodeEntry
from dida.pcs.processes import AdoptedProcess, Child, OutputFile, birth, listens
from dida.protocols.links import ReconnectingClient
from dida.wire.messages import DRAIN, Ok, Status

PROBE_INTERVAL = 0.03
SILENCE = 1.0
"""Seconds after which a node is asked whether it listens, though it has not put out a line."""
PROBE_TIMEOUT = 2.0
POLITE = 3.0
"""Seconds beside its `--drain` between telling a node to end and killing it."""

_log = Logger()


@frozen
class KeptEntry:
    """A row of the table on disk: a node that lived, and what tells its process from others."""

    entry: NodeEntry
    birth: str
    words: list[str] = field(factory=list)
    """Its command line, without what differs from process to process."""
    drain: float = DRAIN


class NodeProcess:
    """One node: its row of the table, its output, its end."""

    def __init__(
        self,
        reactor: Any,
        entry: NodeEntry,
        show: Callable[[str, bytes], None],
        words: Sequence[str] = (),
        drain: float = DRAIN,
    ) -> None:
        self.reactor = reactor
        self.entry = entry
        self.words = words
        self.drain = drain
        self.since: float = reactor.seconds()
        """When it was started, or taken up."""
        self.again: IDelayedCall | None = None
        """Its next start, once it has failed."""
        self.failures = 0
        """So often in a row it has failed soon after its start."""
        self.birth = ""
        self.address = Address.parse(entry.url)
        self.link = ReconnectingClient(reactor, self.address.host, self.address.port)
        self.on_change: Callable[[], None] = lambda: None
        self.on_end: Callable[[NodeProcess], None] = lambda node: None
        self.output = OutputFile(entry.log, self._line)
        self._show = show
        self._process: Child | AdoptedProcess | None = None
        self._ended: list[Deferred[None]] = []
        self._probe: Deferred[None] | None = None
        self._talks: Deferred[None] = Deferred()
        self._told = False

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.entry.state != "ended"

    def set(self, **changes: Any) -> None:
        """Change the node's row, and tell who watches."""
        self.entry = evolve(self.entry, **changes)
        self.on_change()

    def start(self, arguments: list[str]) -> None:
        """Start the process; OSError when there can't be one."""
        child = Child(self._on_end)
        with self.output.begin() as output, open(os.devnull, "rb") as nothing:
            files = {0: nothing.fileno(), 1: output.fileno(), 2: output.fileno()}
            process = self.reactor.spawnProcess(child, arguments[0], arguments, env=None, childFDs=files)
        self._process = child
        self.birth = birth(process.pid)
        self.entry = evolve(self.entry, pid=process.pid)
        self._follow()

    def take_up(self, kept: KeptEntry) -> None:
        """Go on with a process that an earlier PCS has started, if it is still that process."""
        self.output.take_up()
        self.birth = kept.birth
        try:
            process = AdoptedProcess(self.reactor, self.entry.pid, self._on_end)
        except OSError:
            process = None
        if process is None or birth(self.entry.pid) != kept.birth:
            if process is not None:
                process.release()
            self._on_end("while no PCS was there")
            return
        self._process = process
        self._talks.callback(None)
        if self.entry.state == "starting":
            self._follow()

    # --- output and readiness -------------------------------------------------------------------

    def _line(self, line: bytes) -> None:
        if not self._talks.called:
            self._talks.callback(None)
        self._show(self.entry.id, line)

    def _follow(self) -> None:
        self._probe = Deferred.fromCoroutine(self._until_ready())
        self._probe.addErrback(self._probe_failed)

    def _probe_failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            _log.failure("asking {id} whether it is ready", failure, id=self.entry.id)

    async def _until_ready(self) -> None:
        await self._until_listening()
        while True:
            try:
                reply = await self.link.ask(Status(), PROBE_TIMEOUT)
                if isinstance(reply, Ok) and reply.object.get("ready") and reply.object.get("pid") == self.entry.pid:
                    break
            except DidaError:
                pass
            await deferLater(self.reactor, PROBE_INTERVAL)
        self.set(state="ready")

    async def _until_listening(self) -> None:
        """Cheaper than the link's own attempts, at a steady pace, and not before the node has begun to talk."""
        if not self._talks.called:
            self._talks.addTimeout(SILENCE, self.reactor, lambda result, seconds: None)
        await self._talks
        while not await listens(self.reactor, self.address, PROBE_TIMEOUT):
            await deferLater(self.reactor, PROBE_INTERVAL)

    # --- signals, and the end -------------------------------------------------------------------

    def pause(self, paused: bool) -> None:
        """SIGSTOP, or SIGCONT."""
        self._signal("STOP" if paused else "CONT")
        self.set(paused=paused)

    @property
    def kept(self) -> KeptEntry:
        """Its row of the table on disk."""
        return KeptEntry(self.entry, self.birth, list(self.words), self.drain)

    def kill(self) -> Deferred[None]:
        """End the process at once; fires when it is gone."""
        gone = self._gone()
        self._signal("KILL")
        return gone

    def end(self, within: float | None = None) -> Deferred[None]:
        """End the process in order; fires when it is gone.

        After `within` seconds it is told once more, which ends it at once; past its `--drain` it is killed.
        """
        if not self.alive:
            return succeed(None)
        gone = self._gone()
        if not self._told:  # a second TERM would end it at once
            self._told = True
            self._signal("TERM")
            self._signal("CONT")  # a paused process takes no other signal
            self._later(gone, self.drain + POLITE, "KILL")
        if within is not None:
            self._later(gone, within, "TERM")
        return gone

    def _later(self, gone: Deferred[None], seconds: float, signal: str) -> None:
        call = self.reactor.callLater(seconds, self._signal, signal)
        gone.addBoth(lambda result: call.cancel() if call.active() else None)

    def _gone(self) -> Deferred[None]:
        """Fires when the process, which is told to end, is gone."""
        if not self.alive:
            return succeed(None)
        self.entry = evolve(self.entry, asked=True)
        gone: Deferred[None] = Deferred()
        self._ended.append(gone)
        return gone

    def give_up(self) -> bool:
        """Start it no more; whether it was about to be."""
        if self.again is None:
            return False
        self.again.cancel()
        self.again = None
        return True

    def _signal(self, name: str) -> None:
        if self._process is not None:
            self._process.signal(name)

    def _on_end(self, how: str) -> None:
        self.output.end()
        self._show(self.entry.id, f"(ended: {how})".encode())
        said = [line for line in self.output.lines if line.strip()]
        self.entry = evolve(self.entry, state="ended", ended=how, line=said[-1] if said else "", paused=False)
        self.on_end(self)
        self.on_change()
        self._leave()
        ended, self._ended = self._ended, []
        for gone in ended:
            gone.callback(None)

    def _leave(self) -> Deferred[None]:
        if self._probe is not None:
            self._probe.cancel()
        return self.link.stop()

    def release(self) -> Deferred[None]:
        """The process is left alone."""
        if self._process is not None:
            self._process.release()
        self.output.close()
        return self._leave()
