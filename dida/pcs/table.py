"""The table of a machine's nodes: started, watched, restarted, stopped, killed; kept on disk for the next PCS."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import msgspec
from attrs import evolve
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from dida.addresses import Address, StorageAddress
from dida.errors import NO_SUCH_NODE, BadRequest, DidaError, Unavailable
from dida.pcs.launch import command_line, node_arguments, number_of
from dida.pcs.log_folder import LogFolder
from dida.pcs.messages import Elsewhere, NodeEntry, Start
from dida.pcs.node_process import KeptEntry, NodeProcess
from dida.pcs.processes import LineWriter
from dida.protocols.links import ReconnectingClient
from dida.wire.messages import DRAIN, Reply, Request

MAX_ENDED = 200
"""Ended nodes that the table remembers."""
MAX_WATCHERS = 100
NO_LIMIT = 2**50
"""Bytes that storage nodes may take together where nobody has set a limit."""
READ_INTERVAL = 0.05
"""Seconds between two looks at the nodes' output."""
ORPHANED = 5.0
"""Seconds without a word from an owner after which its nodes are ended."""
HURRIED = 1.0
"""Seconds for a worker to finish what it has in hand when its owner, and so who wants to know, is gone."""
RESTART_DELAY = 0.5
LONGEST_DELAY = 30.0
"""Seconds until a node that has failed is started again: the first time, and at most; each time twice as many."""
STEADY = 60.0
"""Seconds after which a node that fails counts as one that fails the first time."""
IN_ORDER = ("exit status 0", "signal SIGTERM", "signal SIGINT")
"""Ends that are no failures: the node was told to end, by whomever."""
SHOWN_LAST = 1.0
"""Seconds for the console to show the last lines."""

_log = Logger()


class Processes:
    """The nodes of this PCS: what `dida.pcs.node.Table` says. `kept`: the file with the table of the living."""

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
    ) -> None:
        """`max_memory`: bytes that its storage nodes may take together; `drain`: the nodes' `--drain`, None: their own
        default; `restart`: whether nodes that nobody owns are started again when they fail; `folder` keeps other PCSs
        out of `logs`, or leads to another folder; `command_line` says how a node is started."""
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
        self.running = False
        """Whether it has begun, and not ended."""
        self._kept = os.path.join(self.logs, kept)
        self._nodes: dict[str, NodeProcess] = {}
        self._number = 1
        self._watchers: list[Deferred[int]] = []
        self._reading = LoopingCall(self._read)
        self._reading.clock = reactor
        self._held: Counter[str] = Counter()
        """Owner to how many `own` of it are open."""
        self._orphans: dict[str, IDelayedCall] = {}
        """Owners that have no `own` open, and the end of their nodes."""
        self._elsewhere: dict[str, list[Elsewhere]] = {}

    def begin(self) -> None:
        self.running = True
        if self.folder is not None:
            try:
                self.folder.take()
            except OSError as problem:
                _log.error("other PCSs are not kept out of {logs}: {problem}", logs=self.logs, problem=str(problem))
            self.logs = self.folder.path
        _log.info("the nodes' output goes to {logs}", logs=self.logs)
        self._take_up()
        self._reading.start(READ_INTERVAL, now=False)

    def end(self) -> Deferred[Any]:
        self.running = False
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            watcher.callback(self._number)
        for orphan in self._orphans.values():
            orphan.cancel()
        self._orphans.clear()
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
            # The table is as it was: the node is entered once it has a process.
            raise Unavailable(f"can't start {request.id}: {os.strerror(problem.errno or 0).lower()}") from None
        try:
            self._write_table([node])
        except OSError as problem:
            node.kill()  # the PCS after this one would not know of it
            what = f"the table of nodes {self._kept} can't be written: {os.strerror(problem.errno or 0).lower()}"
            raise Unavailable(f"can't start {request.id}: {what}") from None
        before = self._nodes.pop(request.id, None)
        if before is not None:
            before.give_up()
        self._enter(node)
        self._changed()
        return node.entry.pid

    def _process(self, entry: NodeEntry, words: Sequence[str]) -> NodeProcess:
        return NodeProcess(self.reactor, entry, self._show, words, DRAIN if self.drain is None else self.drain)

    def _enter(self, node: NodeProcess) -> None:
        node.on_change = self._changed
        node.on_end = self._on_end
        self._nodes[node.entry.id] = node
        self._watch_over(node.entry.owner)

    def _check(self, request: Start) -> None:
        alive = [node for node in self._nodes.values() if node.alive]
        for node in alive:
            if node.entry.id == request.id:
                what = f"{request.id} runs already, as {node.entry.role} at {node.address}"
                raise BadRequest(f"{what}: take another id, or end it by a line to this PCS: stop {request.id}")
            if node.address == Address.parse(request.url):
                raise BadRequest(f"{node.address} is the address of {node.entry.id}: take another port")
        if len(alive) >= self.most:
            raise Unavailable(f"{len(alive)} nodes run here, and no more may (--max-nodes)")
        if not self.running:
            raise Unavailable("this PCS is ending")

    def _share(self, request: Start) -> int:
        """Bytes that a new storage node may take: those that run here, and that it names on its host, share alike."""
        host = Address.parse(request.url).host
        members = [StorageAddress.parse(member) for member in request.storage]
        ids = {request.id, *(member.id for member in members if member.address.host == host)}
        ids.update(each.entry.id for each in self._nodes.values() if each.alive and each.entry.role == "storage")
        return max(1, self.max_memory // len(ids))

    def entries(self) -> list[NodeEntry]:
        return [node.entry for node in self._nodes.values()]

    @property
    def elsewhere(self) -> list[Elsewhere]:
        return [node for nodes in self._elsewhere.values() for node in nodes]

    def watch(self, number: int | None, deadline: float) -> Deferred[int]:
        if number != self._number or not self.running:
            return succeed(self._number)
        if len(self._watchers) >= MAX_WATCHERS:
            raise Unavailable(f"{MAX_WATCHERS} clients watch already")
        watcher: Deferred[int] = Deferred()
        self._watchers.append(watcher)

        timer = self.reactor.callLater(deadline, lambda: watcher.callback(self._number))

        def waits_no_more(result: Any) -> Any:
            if timer.active():
                timer.cancel()
            if watcher in self._watchers:
                self._watchers.remove(watcher)
            return result

        return watcher.addBoth(waits_no_more)

    def crash(self, id: str) -> Deferred[None]:
        return succeed(None) if self._node(id).give_up() else self._living(id).kill()

    def stop(self, id: str | None, within: float | None = None) -> Deferred[None]:
        if id is not None:
            return succeed(None) if self._node(id).give_up() else self._living(id).end(within)
        for node in self._nodes.values():
            node.give_up()
        return DeferredList([node.end(within) for node in self._nodes.values()]).addCallback(lambda results: None)

    def _end(self, node: NodeProcess) -> Deferred[None]:
        """End a node whose owner is gone, if it has one."""
        node.give_up()
        return node.end(HURRIED if node.entry.owner and node.entry.role == "worker" else None)

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

    def _changed(self) -> None:
        self._number += 1
        self._keep_table()
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            watcher.callback(self._number)

    # --- nodes that fail ------------------------------------------------------------------------

    def _on_end(self, node: NodeProcess) -> None:
        entry = node.entry
        wanted = self.restart and self.running and node.words and not entry.asked and not entry.owner
        if not wanted or entry.ended in IN_ORDER:
            return
        if self.reactor.seconds() - node.since > STEADY:
            node.failures = 0
        delay = min(LONGEST_DELAY, RESTART_DELAY * 2**node.failures)
        node.again = self.reactor.callLater(delay, self._start_again, node)
        text = f"{entry.id} has ended ({entry.ended}): started again in {delay:g} s"
        _log.info("{text}", text=text)
        self._show(entry.id, f"({text})".encode())

    def _start_again(self, failed: NodeProcess) -> None:
        failed.again = None
        restarts = failed.entry.restarts + 1
        entry = evolve(failed.entry, state="starting", ended="", line="", paused=False, pid=0, restarts=restarts)
        node = self._process(entry, failed.words)
        node.failures = failed.failures + 1
        try:
            node.start(self.command_line(*node.words, output=entry.log))
        except OSError as problem:
            _log.error("can't start {id} again: {problem}", id=entry.id, problem=problem.strerror)
            failed.failures += 1
            self._on_end(failed)
            return
        self._nodes.pop(entry.id, None)
        self._enter(node)
        self._changed()

    # --- owners ---------------------------------------------------------------------------------

    def own(self, owner: str, deadline: float) -> Deferred[None]:
        if self._held.total() >= MAX_WATCHERS:
            raise Unavailable(f"{MAX_WATCHERS} owners are here already")
        self._held[owner] += 1
        orphan = self._orphans.pop(owner, None)
        if orphan is not None:
            orphan.cancel()
        holder: Deferred[None] = Deferred(lambda dropped: dropped.callback(None))
        timer = self.reactor.callLater(deadline, holder.callback, None)

        def released(result: Any) -> Any:
            if timer.active():
                timer.cancel()
            self._held[owner] -= 1
            self._watch_over(owner)
            return result

        return holder.addBoth(released)

    def know(self, owner: str, nodes: list[Elsewhere]) -> None:
        if owner not in self._elsewhere and len(self._elsewhere) >= MAX_WATCHERS:
            raise Unavailable(f"{MAX_WATCHERS} owners are here already")
        self._elsewhere[owner] = nodes
        self._watch_over(owner)

    def _watch_over(self, owner: str) -> None:
        """An owner that nobody speaks for is gone a little later."""
        if owner and not self._held[owner]:
            del self._held[owner]
            if owner not in self._orphans and self.running:
                self._orphans[owner] = self.reactor.callLater(ORPHANED, self._gone, owner)

    def _gone(self, owner: str) -> None:
        del self._orphans[owner]
        self._elsewhere.pop(owner, None)
        orphans = [node for node in self._nodes.values() if node.alive and node.entry.owner == owner]
        for node in orphans:
            self._end(node)
        if orphans:
            ids = ", ".join(node.entry.id for node in orphans)
            _log.info("{owner} is gone, which had started {ids}: ended", owner=owner, ids=ids)

    # --- the table on disk ----------------------------------------------------------------------

    def _keep_table(self) -> None:
        if self.keep and not self.running:
            return  # it is the next PCS's
        try:
            self._write_table()
        except OSError as problem:
            _log.error("can't write {file}: {problem}", file=self._kept, problem=problem.strerror)

    def _write_table(self, more: Sequence[NodeProcess] = ()) -> None:
        """The living, and `more`; OSError when they can't be written: then the table is the one before.

        When the PCS ends and none lives there is nothing to keep.
        """
        living = [node.kept for node in (*self._nodes.values(), *more) if node.alive or node.again is not None]
        if not living and not self.running:
            with suppress(FileNotFoundError):
                os.remove(self._kept)
            return
        new = self._kept + ".new"
        with open(new, "wb") as file:
            file.write(msgspec.json.encode(living))
        os.replace(new, self._kept)

    def _take_up(self) -> None:
        """The nodes of an earlier PCS: those that still run are this one's now, of the others the end is known."""
        try:
            with open(self._kept, "rb") as file:
                kept = msgspec.json.decode(file.read(), type=list[KeptEntry])
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError) as problem:
            _log.error("no node is taken up: can't read {file}: {problem}", file=self._kept, problem=str(problem))
            return
        for each in kept:
            node = NodeProcess(self.reactor, each.entry, self._show, each.words, each.drain)
            node.take_up(each)
            self._enter(node)
            if node.alive:
                self._show(each.entry.id, f"(taken up: it still runs, as process {each.entry.pid})".encode())
            else:
                self._on_end(node)
        self._changed()

    # --- output ---------------------------------------------------------------------------------

    def _read(self) -> None:
        for node in list(self._nodes.values()):
            if node.alive:
                node.output.poll()

    def _show(self, id: str, line: bytes) -> None:
        if self.console is not None:
            self.console.say(f"{id} | ".encode() + line)
