"""The nodes of one machine: started, watched, stopped, killed; kept on disk for the next PCS."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

from attrs import evolve, frozen
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from dida.addresses import Address, StorageAddress
from dida.errors import NO_SUCH_NODE, BadRequest, DidaError, Unavailable
from dida.pcs.kept_table import KeptTable
from dida.pcs.launch import command_line, node_arguments, number_of
from dida.pcs.log_folder import LogFolder
from dida.pcs.messages import Elsewhere, NodeEntry, Start
from dida.pcs.node_process import NodeProcess
from dida.pcs.owners import Owners
from dida.pcs.processes import LineWriter
from dida.pcs.restarts import FIRST_DELAY, Restarts
from dida.protocols.links import ReconnectingClient
from dida.wire.messages import DRAIN, Reply, Request

MAX_ENDED = 200
"""Ended nodes that the table keeps."""
MAX_WATCHERS = 100
"""Open `watch` requests."""
NO_LIMIT = 2**50
"""Memory of all storage nodes together when no limit is set, in bytes."""
READ_INTERVAL = 0.05
"""Time between two reads of the nodes' output, in seconds."""
SHOWN_LAST = 1.0
"""Time-out for the console to show the last lines, in seconds."""

_log = Logger()


@frozen
class Timing:
    """How long a PCS waits, in seconds."""

    grace: float = 3.0
    """After a node's `--drain`, until a node that is shutting down is killed."""
    orphaned: float = 5.0
    """After the end of an owner's last `own`, until its nodes are ended."""
    hurried: float = 1.0
    """For a worker to finish its current work when its owner is gone."""
    restart_delay: float = FIRST_DELAY
    """Until a node that has failed is started again (`dida.pcs.restarts`)."""


class Processes:
    """The nodes of this PCS (`dida.pcs.node.Table`). It listens to each of them (`NodeListener`)."""

    def __init__(
        self,
        reactor: Any,
        logs: str,
        most: int,
        keep: bool,
        operators: str | None = None,
        kept: str = "pcs.nodes",
        max_memory: int = NO_LIMIT,
        drain: float | None = None,
        restart: bool = False,
        console: LineWriter | None = None,
        folder: LogFolder | None = None,
        command_line: Callable[..., list[str]] = command_line,
        timing: Timing = Timing(),
    ) -> None:
        """`most`: running nodes; `keep`: leave nodes running at the end; `operators`: the workers' operators folder;
        `kept`: file with the table of running nodes; `max_memory`: memory of all storage nodes together, in bytes;
        `drain`: the nodes' `--drain`, None: their default; `restart`: restart nodes without an owner when they fail;
        `folder` keeps other PCSs out of `logs`, or chooses another folder; `command_line` returns a node's command."""
        self.reactor = reactor
        self.logs = os.path.abspath(logs)
        self.most = most
        self.keep = keep
        self.operators = operators
        self.drain = drain
        self.restart = restart
        self.max_memory = max_memory
        self.console = console
        self.folder = folder
        self.command_line = command_line
        self.timing = timing
        self.running = False
        """Whether it has begun and not ended."""
        self._kept = KeptTable(os.path.join(self.logs, kept))
        self._nodes: dict[str, NodeProcess] = {}
        self._number = 1
        self._watchers: list[Deferred[int]] = []
        self._reading = LoopingCall(self._read)
        self._reading.clock = reactor
        self._restarts = Restarts(reactor, self._restart, self.show, timing.restart_delay)
        self._owners = Owners(reactor, self._owner_gone, timing.orphaned)

    def begin(self) -> None:
        self.running = True
        if self.folder is not None:
            try:
                self.folder.take()
            except OSError as problem:
                _log.error("cannot keep other PCSs out of {logs}: {problem}", logs=self.logs, problem=str(problem))
            self.logs = self.folder.path
        _log.info("the nodes' output goes to {logs}", logs=self.logs)
        self._take_over()
        self._reading.start(READ_INTERVAL, now=False)

    def end(self) -> Deferred[Any]:
        self.running = False
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            watcher.callback(self._number)
        self._owners.end()
        if self.keep:
            ended = DeferredList([node.release() for node in self._nodes.values()])
            for node in self._nodes.values():
                node.give_up()
        else:
            ended = DeferredList([self._end(node) for node in self._nodes.values()])
        return ended.addCallback(self._after_nodes)

    def _after_nodes(self, result: Any) -> None:
        self._keep_table()
        if self._reading.running:
            self._reading.stop()
        if self.folder is not None:
            self.folder.release()
        if self.console is not None:
            self.console.close(SHOWN_LAST)

    # --- the verbs ------------------------------------------------------------------------------

    def start(self, request: Start) -> int:
        words = node_arguments(request, self.operators, self.drain)
        self._check(request)
        if request.role == "storage":
            words.append(f"--max-memory={self._share(request)}")
        for old in [node for node in self._nodes.values() if not node.alive][: -MAX_ENDED or None]:
            del self._nodes[old.entry.id]
        url = f"http://{Address.parse(request.url)}"
        log = os.path.join(self.logs, quote(request.id, safe=" ")[:100] + ".log")
        entry = NodeEntry(
            request.id, request.role, url, 0, "starting", log=log, owner=request.owner, replica=number_of(request)
        )
        node = self._process(entry, words)
        try:
            node.start(self.command_line(*words, output=log))
        except OSError as problem:
            # The table has not changed: a node is entered once it has a process.
            raise Unavailable(f"cannot start {request.id}: {os.strerror(problem.errno or 0).lower()}") from None
        try:
            self._write_table([node])
        except OSError as problem:
            node.kill()  # the next PCS would not know of it
            what = f"cannot write the table of nodes {self._kept.path}: {os.strerror(problem.errno or 0).lower()}"
            raise Unavailable(f"cannot start {request.id}: {what}") from None
        before = self._nodes.pop(request.id, None)
        if before is not None:
            before.give_up()
        self._enter(node)
        self._changed()
        return node.entry.pid

    def _process(self, entry: NodeEntry, words: Sequence[str], drain: float | None = None) -> NodeProcess:
        if drain is None:
            drain = DRAIN if self.drain is None else self.drain
        return NodeProcess(self.reactor, entry, self, words, drain, grace=self.timing.grace)

    def _enter(self, node: NodeProcess) -> None:
        self._nodes[node.entry.id] = node
        self._owners.watch(node.entry.owner)

    def _check(self, request: Start) -> None:
        alive = [node for node in self._nodes.values() if node.alive]
        for node in alive:
            if node.entry.id == request.id:
                what = f"already running: {request.id}, a {node.entry.role} at {node.address}"
                raise BadRequest(f"{what}: choose another id, or end it with stop {request.id}")
            if node.address == Address.parse(request.url):
                raise BadRequest(f"already in use: {node.address}, by {node.entry.id}: choose another port")
        if len(alive) >= self.most:
            raise Unavailable(f"cannot run more than {len(alive)} nodes here (--max-nodes)")
        if not self.running:
            raise Unavailable("this PCS is shutting down")

    def _share(self, request: Start) -> int:
        """Return the memory of a new storage node, in bytes: an equal share for each one here, or named on its host."""
        host = Address.parse(request.url).host
        members = [StorageAddress.parse(member) for member in request.storage]
        ids = {request.id, *(member.id for member in members if member.address.host == host)}
        ids.update(each.entry.id for each in self._nodes.values() if each.alive and each.entry.role == "storage")
        return max(1, self.max_memory // len(ids))

    def entries(self) -> list[NodeEntry]:
        return [node.entry for node in self._nodes.values()]

    def watch(self, number: int | None, deadline: float) -> Deferred[int]:
        if number != self._number or not self.running:
            return succeed(self._number)
        if len(self._watchers) >= MAX_WATCHERS:
            raise Unavailable(f"{MAX_WATCHERS} clients watch already")
        watcher: Deferred[int] = Deferred()
        self._watchers.append(watcher)

        timer = self.reactor.callLater(deadline, lambda: watcher.callback(self._number))

        def done(result: Any) -> Any:
            if timer.active():
                timer.cancel()
            if watcher in self._watchers:
                self._watchers.remove(watcher)
            return result

        return watcher.addBoth(done)

    def crash(self, id: str) -> Deferred[None]:
        return succeed(None) if self._node(id).give_up() else self._living(id).kill()

    def stop(self, id: str | None, within: float | None = None) -> Deferred[None]:
        if id is not None:
            return succeed(None) if self._node(id).give_up() else self._living(id).end(within)
        for node in self._nodes.values():
            node.give_up()
        return DeferredList([node.end(within) for node in self._nodes.values()]).addCallback(lambda results: None)

    def _end(self, node: NodeProcess) -> Deferred[None]:
        """End a node; without delay if it is a worker whose owner is gone."""
        node.give_up()
        return node.end(self.timing.hurried if node.entry.owner and node.entry.role == "worker" else None)

    def pause(self, id: str) -> None:
        self._living(id).pause(True)

    def resume(self, id: str) -> None:
        self._living(id).pause(False)

    def output(self, id: str, lines: int) -> list[str]:
        return list(self._node(id).output.lines)[-lines:]

    def ask(self, id: str, request: Request) -> Deferred[Reply]:
        other = next((node for node in self.elsewhere if node.id == id), None)
        if other is None or id in self._nodes:
            return self._living(id).link.ask(request, request.deadline)
        address = Address.parse(other.url)
        link = ReconnectingClient(self.reactor, address.host, address.port)
        return link.ask(request, request.deadline).addBoth(lambda answer: link.stop().addCallback(lambda _: answer))

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

    def node_changed(self, node: NodeProcess) -> None:
        if self._nodes.get(node.entry.id) is node:
            self._changed()

    def _changed(self) -> None:
        self._number += 1
        self._keep_table()
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            watcher.callback(self._number)

    # --- nodes that fail ------------------------------------------------------------------------

    def node_ended(self, node: NodeProcess) -> None:
        if self._nodes.get(node.entry.id) is node and self.restart and self.running:
            self._restarts.ended(node)

    def _restart(self, failed: NodeProcess) -> None:
        """Start a node that has failed again, as an entry with the same id; raise OSError if that fails."""
        restarts = failed.entry.restarts + 1
        entry = evolve(failed.entry, state="starting", ended="", line="", paused=False, pid=0, restarts=restarts)
        node = self._process(entry, failed.words)
        node.failures = failed.failures + 1
        node.start(self.command_line(*node.words, output=entry.log))
        self._nodes.pop(entry.id, None)
        self._enter(node)
        self._changed()

    # --- owners ---------------------------------------------------------------------------------

    @property
    def elsewhere(self) -> list[Elsewhere]:
        return self._owners.elsewhere

    def own(self, owner: str, deadline: float) -> Deferred[None]:
        return self._owners.own(owner, deadline)

    def know(self, owner: str, nodes: list[Elsewhere]) -> None:
        self._owners.know(owner, nodes)

    def _owner_gone(self, owner: str) -> None:
        orphans = [node for node in self._nodes.values() if node.alive and node.entry.owner == owner]
        for node in orphans:
            self._end(node)
        if orphans:
            ids = ", ".join(node.entry.id for node in orphans)
            _log.info("ending {ids}: their owner {owner} is gone", owner=owner, ids=ids)

    # --- the table on disk ----------------------------------------------------------------------

    def _keep_table(self) -> None:
        if self.keep and not self.running:
            return  # the next PCS has it
        try:
            self._write_table()
        except OSError as problem:
            _log.error("cannot write {file}: {problem}", file=self._kept.path, problem=problem.strerror)

    def _write_table(self, more: Sequence[NodeProcess] = ()) -> None:
        """Write the running nodes and `more` to the file; OSError when that fails. Remove it at the end."""
        living = [node.kept for node in (*self._nodes.values(), *more) if node.alive or node.again is not None]
        if not living and not self.running:
            self._kept.remove()
        else:
            self._kept.write(living)

    def _take_over(self) -> None:
        """Adopt the nodes of an earlier PCS that still run; note the end of the others."""
        for each in self._kept.read():
            node = self._process(each.entry, each.words, each.drain)
            node.adopt(each)
            self._enter(node)
            if node.alive:
                self.show(each.entry.id, f"(taken over: it still runs, as process {each.entry.pid})".encode())
            elif self.restart:
                self._restarts.ended(node)
        self._changed()

    # --- output ---------------------------------------------------------------------------------

    def _read(self) -> None:
        for node in list(self._nodes.values()):
            if node.alive:
                node.output.poll()

    def show(self, id: str, line: bytes) -> None:
        if self.console is not None:
            self.console.say(f"{id} | ".encode() + line)
