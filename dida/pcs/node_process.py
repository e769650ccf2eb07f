"""A node of a PCS: its process, its readiness, its output and its end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from dida.addresses import Address
from dida.errors import DidaError
from dida.pcs.kept_table import KeptEntry
from dida.pcs.messages import NodeEntry
from dida.pcs.processes import AdoptedProcess, Child, OutputFile, listens, start_time
from dida.protocols.links import ReconnectingClient
from dida.wire.messages import DRAIN, Ok, Status

PROBE_INTERVAL = 0.03
"""Time between two probes of a starting node, in seconds."""
SILENCE = 1.0
"""Time after which a starting node is probed though it has printed nothing, in seconds."""
PROBE_TIMEOUT = 2.0
"""Time-out for one probe, in seconds."""

_log = Logger()


class NodeListener(Protocol):
    """Hears what happens to nodes."""

    def node_changed(self, node: NodeProcess) -> None:
        """`node.entry` is new."""

    def node_ended(self, node: NodeProcess) -> None:
        """The process has ended; `node_changed` follows."""

    def show(self, id: str, line: bytes) -> None:
        """A node has printed a line."""


class NodeProcess:
    """One node, with its row of the table. `words` is its command line, `drain` its `--drain` in seconds.

    A node that is shutting down is killed `grace` seconds after its `--drain`.
    """

    def __init__(
        self,
        reactor: Any,
        entry: NodeEntry,
        listener: NodeListener,
        words: Sequence[str] = (),
        drain: float = DRAIN,
        *,
        grace: float,
    ) -> None:
        self.reactor = reactor
        self.entry = entry
        self.words = words
        self.drain = drain
        self.grace = grace
        self.since: float = reactor.seconds()
        """When it was started, or taken over."""
        self.again: IDelayedCall | None = None
        """Its restart, once it has failed."""
        self.failures = 0
        """Failures in a row, each soon after a start."""
        self.start_time = ""
        self.address = Address.parse(entry.url)
        self.link = ReconnectingClient(reactor, self.address.host, self.address.port)
        self.output = OutputFile(entry.log, self._line)
        self._listener = listener
        self._process: Child | AdoptedProcess | None = None
        self._ended: list[Deferred[None]] = []
        self._probe: Deferred[None] | None = None
        self._talks: Deferred[None] = Deferred()
        self._asked = False

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.entry.state != "ended"

    def set(self, **changes: Any) -> None:
        """Change the node's row."""
        self.entry = evolve(self.entry, **changes)
        self._listener.node_changed(self)

    def start(self, arguments: list[str]) -> None:
        """Start the process; OSError when that fails."""
        child = Child(self._on_end)
        with self.output.begin() as output, open(os.devnull, "rb") as nothing:
            files = {0: nothing.fileno(), 1: output.fileno(), 2: output.fileno()}
            process = self.reactor.spawnProcess(child, arguments[0], arguments, env=None, childFDs=files)
        self._process = child
        self.start_time = start_time(process.pid)
        self.entry = evolve(self.entry, pid=process.pid)
        self._follow()

    def adopt(self, kept: KeptEntry) -> None:
        """Watch a process that an earlier PCS has started, if it still runs."""
        self.output.resume()
        self.start_time = kept.start_time
        try:
            process = AdoptedProcess(self.reactor, self.entry.pid, self._on_end)
        except OSError:
            process = None
        if process is None or start_time(self.entry.pid) != kept.start_time:
            if process is not None:
                process.release()
            self._on_end("while there was no PCS")
            return
        self._process = process
        self._talks.callback(None)
        if self.entry.state == "starting":
            self._follow()

    # --- output and readiness -------------------------------------------------------------------

    def _line(self, line: bytes) -> None:
        if not self._talks.called:
            self._talks.callback(None)
        self._listener.show(self.entry.id, line)

    def _follow(self) -> None:
        self._probe = Deferred.fromCoroutine(self._until_ready())
        self._probe.addErrback(self._probe_failed)

    def _probe_failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            _log.failure("cannot find out whether {id} is ready", failure, id=self.entry.id)

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
        """Probe the port at a steady pace once the node has printed something; cheaper than the link's own attempts."""
        if not self._talks.called:
            self._talks.addTimeout(SILENCE, self.reactor, lambda result, seconds: None)
        await self._talks
        while not await listens(self.reactor, self.address, PROBE_TIMEOUT):
            await deferLater(self.reactor, PROBE_INTERVAL)

    # --- signals, and the end -------------------------------------------------------------------

    def pause(self, paused: bool) -> None:
        """Send SIGSTOP or SIGCONT."""
        self._signal("STOP" if paused else "CONT")
        self.set(paused=paused)

    @property
    def kept(self) -> KeptEntry:
        """Its row of the table on disk."""
        return KeptEntry(self.entry, self.start_time, list(self.words), self.drain)

    def kill(self) -> Deferred[None]:
        """Kill the process; the result fires when it has ended."""
        gone = self._gone()
        self._signal("KILL")
        return gone

    def end(self, within: float | None = None) -> Deferred[None]:
        """End the process in order; the result fires when it has ended.

        A second signal after `within` seconds ends it at once; after its `--drain` it is killed.
        """
        if not self.alive:
            return succeed(None)
        gone = self._gone()
        if not self._asked:  # a second TERM would end it at once
            self._asked = True
            self._signal("TERM")
            self._signal("CONT")  # a paused process takes no other signal
            self._later(gone, self.drain + self.grace, "KILL")
        if within is not None:
            self._later(gone, within, "TERM")
        return gone

    def _later(self, gone: Deferred[None], seconds: float, signal: str) -> None:
        call = self.reactor.callLater(seconds, self._signal, signal)
        gone.addBoth(lambda result: call.cancel() if call.active() else None)

    def _gone(self) -> Deferred[None]:
        """Note that the process is to end; the result fires when it has ended."""
        if not self.alive:
            return succeed(None)
        self.entry = evolve(self.entry, asked=True)
        gone: Deferred[None] = Deferred()
        self._ended.append(gone)
        return gone

    def give_up(self) -> bool:
        """Cancel its restart; return False if none was planned."""
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
        self._listener.show(self.entry.id, f"(ended: {how})".encode())
        printed = [line for line in self.output.lines if line.strip()]
        self.entry = evolve(self.entry, state="ended", ended=how, line=printed[-1] if printed else "", paused=False)
        self._listener.node_ended(self)
        self._listener.node_changed(self)
        self._leave()
        ended, self._ended = self._ended, []
        for gone in ended:
            gone.callback(None)

    def _leave(self) -> Deferred[None]:
        if self._probe is not None:
            self._probe.cancel()
        return self.link.stop()

    def release(self) -> Deferred[None]:
        """Leave the process alone."""
        if self._process is not None:
            self._process.release()
        self.output.close()
        return self._leave()
