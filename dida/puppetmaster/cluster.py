"""The running system as the puppetmaster sees it: nodes that PCSs start, watch and end.

A node is settled once it is ready and the nodes that need to know it do, or once it certainly will not be ready; that
takes no longer than the deadline. When a command is executed is not decided here (`dida.puppetmaster.script_runner`),
nor which PCS starts a node (`dida.puppetmaster.pcs_directory`). Requests to nodes: `dida.puppetmaster.node_calls`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

from attrs import evolve
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from dida.addresses import HERE, Address, NodeAddress, StorageAddress
from dida.chains.messages import AddStorage, AddWorker, WorkerDebug
from dida.client.scheduler_client import SchedulerClient
from dida.console.commands import NodeCommand, SchedulerCommand, StorageCommand, WorkerCommand
from dida.errors import DidaError, UserError
from dida.pcs.client import Pcs
from dida.pcs.messages import ROLES, Elsewhere, Start
from dida.puppetmaster.attaching import RunningSystem
from dida.puppetmaster.node_calls import CLOSE_TIME, NodeCalls
from dida.puppetmaster.nodes import ENDED, FAILED, PLANNED, READY, STARTING, Node, Nodes
from dida.puppetmaster.pcs_directory import LocalPcsStarter, PcsDirectory
from dida.puppetmaster.refusals import CRASHED, STOPPED, no_delay, plain
from dida.wire.messages import Ok, Request, Slow
from dida.wire.whole import whole

HURRIED = 1.0
"""Time for a worker to finish its current work when nobody waits for it any more, in seconds."""
END_DEADLINE = 10.0
"""Time-out for a PCS to end a node, in seconds."""

_log = Logger()


class ClusterListener(Protocol):
    """Hears what happens to nodes."""

    def node_ready(self, node: Node, seconds: float) -> None:
        """A node is ready, that long after its start."""

    def node_failed(self, node: Node) -> None:
        """A node will not be ready; `node.problem` says why."""

    def node_lost(self, node: Node) -> None:
        """A ready node has ended though no command ended it."""

    def trouble(self, text: str) -> None:
        """Something that users should know of."""


class Cluster:
    """All nodes that commands have named, and the PCSs that start them."""

    def __init__(
        self,
        reactor: Any,
        pcs: Iterable[Address],
        deadline: float,
        listener: ClusterListener,
        *,
        name: str = "",
        owner: str = "",
        local_pcs: LocalPcsStarter | None = None,
        debug_url: Callable[[str, Callable[[], Ok]], str] | None = None,
        who_listens: Callable[[Address], Coroutine[Any, Any, str]] | None = None,
    ) -> None:
        """`name`: of the puppetmaster; `owner`: the name that nodes end with, empty if they are left running;
        `debug_url` opens the debug port on an address of this machine; `who_listens` describes the node that listens
        at an address, empty if there is none."""
        self.reactor = reactor
        self.deadline = deadline
        self.owner = owner
        self.nodes = Nodes()
        self.pcs_directory = PcsDirectory(reactor, pcs, self, name=name or owner, owner=owner, local_pcs=local_pcs)
        self.calls = NodeCalls(reactor)
        self.scheduler = SchedulerClient(reactor, self.nodes.scheduler_address, deadline)
        self._listener = listener
        self._debug_url = debug_url
        self._debugging = False
        """Whether workers report their outputs."""
        self._who_listens = who_listens
        self._known_to_scheduler: set[str] = set()
        """Ids of the nodes that the scheduler was started with."""
        self._warned = False

    # --- nodes ----------------------------------------------------------------------------------

    def plan(self, commands: Iterable[NodeCommand]) -> None:
        """Add nodes that will be started: nodes that start earlier learn of them, too."""
        for command in commands:
            if self.nodes.clash(command) is None:
                self._look(self.nodes.add(command))

    def known(self) -> Ok:
        """Return the reply to `system`: all nodes that commands have named and that run."""
        there = [node for node in self.nodes.named() if node.there]
        nodes = {role: [NodeAddress(n.id, n.address) for n in there if n.role == role] for role in ROLES}
        storage = [StorageAddress(n.replica, n.id, n.address) for n in there if n.role == "storage"]
        pcs = {n.pcs.address: NodeAddress("", n.pcs.address) for n in there if n.pcs is not None}
        return whole(storage, nodes["scheduler"], nodes["worker"], pcs.values())

    def take_up(self, found: RunningSystem) -> None:
        """Add nodes that run already: as if commands had started them, but they are left running."""
        pcs = {address: self.pcs_directory.take(address, status) for address, status in found.pcs.items()}
        for each in found.nodes.values():
            command: NodeCommand = SchedulerCommand(each.id, each.address)
            if each.role == "storage":
                command = StorageCommand(each.id, each.address, each.gossip_delay)
            elif each.role == "worker":
                command = WorkerCommand(each.id, each.address, each.gossip_delay)
            node = Node(command, each.replica, pid=each.pid, taken_up=True, owner=each.owner)
            node.pcs = pcs[each.pcs] if each.pcs is not None else None
            node.become(READY)
            node.looked.happen()
            node.settled.happen()
            self.nodes.take_up(node)
            self._known_to_scheduler.add(node.id)

    # --- starting -------------------------------------------------------------------------------

    async def start(self, command: NodeCommand) -> Node:
        """Start a node, which settles later. UserError when it cannot be in this system."""
        node = self.nodes.get(command.id)
        if node is None or node.command is not command or node.state != PLANNED:
            clash = self.nodes.clash(command)
            if clash is not None:
                raise UserError(clash)
            node = self.nodes.add(command)
            self._look(node)
        node.state = STARTING
        began = self.reactor.seconds()
        late = self.reactor.callLater(self.deadline, self._too_late, node)
        node.answered.wait().addCallback(lambda result: late.cancel() if late.active() else None)
        introduction = Deferred.fromCoroutine(self._introduce(node, began))
        introduction.addErrback(lambda failure: _log.failure("cannot introduce {id}", failure, id=node.id))
        try:
            for other in self.nodes:
                await other.looked.wait()
            if node.taken:
                raise UserError(node.taken)
            node.pcs_sought = Deferred.fromCoroutine(self.pcs_directory.pcs_of(command.address))
            node.pcs = await node.pcs_sought
            self._warn_of_loopback()
            if command.role == "scheduler":
                self._known_to_scheduler = {other.id for other in self.nodes if other.there}
            node.pid = await node.pcs.start(self._start_request(node))
            if node.state == FAILED:
                self._kill(node.pcs, node.id)  # the PCS answered too late
            self.table_changed(node.pcs)
        except DidaError as problem:
            node.become(FAILED, plain(problem))
        return node

    def _look(self, node: Node) -> None:
        """Find out whether a node of another system listens at the address: nodes started meanwhile would else accept
        it as the one that they were given."""
        looking = Deferred.fromCoroutine(self._find_taken(node))
        looking.addErrback(lambda failure: _log.failure("cannot look for {id}", failure, id=node.id))
        looking.addBoth(lambda result: node.looked.happen())

    async def _find_taken(self, node: Node) -> None:
        who = "" if self._who_listens is None else await self._who_listens(node.address)
        if who:
            use = "address already in use: choose another port, or stop what listens there"
            node.taken = f"{who} is at {node.address}, not started from here: {use}"

    def _start_request(self, node: Node) -> Start:
        there = [other for other in self.nodes if other.there and not other.taken]
        storage = [str(StorageAddress(other.replica, other.id, other.address)) for other in there if other.replica]
        workers = [str(NodeAddress(other.id, other.address)) for other in there if other.role == "worker"]
        return Start(
            node.role,
            node.id,
            f"http://{node.address}",
            gossip_delay=getattr(node.command, "gossip_delay", 0),
            replica=node.replica,
            storage=storage if node.role != "worker" else [],
            worker=workers if node.role == "scheduler" else [],
            owner=self.owner if node.owner is None else node.owner,
        )

    def _warn_of_loopback(self) -> None:
        """Warn that nodes on other machines cannot reach a URL with localhost."""
        there = [node.address for node in self.nodes if node.there]
        here = [address for address in there if address.machine == HERE]
        away = [address for address in there if address.machine != HERE]
        if here and away and not self._warned:
            self._warned = True
            text = f"note: for {away[0].host}, {here[0]} is itself: write this machine's name into that URL"
            self._listener.trouble(text)

    def _too_late(self, node: Node) -> None:
        if node.pcs is None or not node.pid:
            node.become(FAILED, f"not started within {self.deadline:g} s: no PCS has answered for {node.address.host}")
            if node.pcs_sought is not None:
                node.pcs_sought.cancel()
            return
        if not node.pcs.answers:
            what = f"not ready within {self.deadline:g} s"
            node.become(FAILED, f"{what}: the PCS at {node.pcs.address} has ended, or does not answer any more")
            return
        entry = node.pcs.table.get(node.id)
        log = f": its output is in {entry.log}" if entry is not None else ""
        node.become(FAILED, f"not ready within {self.deadline:g} s, so it was killed{log}")
        self._kill(node.pcs, node.id)

    def _kill(self, pcs: Pcs, id: str) -> None:
        """Kill a node that nobody waits for any more."""
        killed = Deferred.fromCoroutine(pcs.crash(id))
        killed.addErrback(lambda failure: failure.trap(DidaError) and None)

    async def _introduce(self, node: Node, began: float) -> None:
        """Wait until the node is ready; then introduce it to the nodes that need to know it."""
        try:
            await node.answered.wait()
            if node.state != READY:
                self._listener.node_failed(node)
                return
            for scheduler in self.nodes.named("scheduler"):
                await scheduler.settled.wait() if scheduler is not node else None
                known = node.id in self._known_to_scheduler or node.role == "scheduler"
                if scheduler.state == READY and not known:
                    await self.scheduler.ask(_announcement(node))
            if self._debugging and node.role == "worker":
                await self._debug(node)
            self._tell_pcs()
            self._listener.node_ready(node, self.reactor.seconds() - began)
        except DidaError as problem:
            self._listener.trouble(f"{node.id} is ready, but could not be introduced: {plain(problem)}")
        finally:
            node.settled.happen()

    # --- what PCSs report -------------------------------------------------------------------------

    def table_changed(self, pcs: Pcs) -> None:
        """Take over what a PCS knows of its nodes."""
        for node in self.nodes:
            entry = pcs.table.get(node.id)
            if entry is None or node.pcs is not pcs or entry.pid != node.pid:
                continue
            if entry.state == "ready" and node.state == STARTING:
                node.become(READY)
            elif entry.state == "ended" and node.state == STARTING:
                last = f": {entry.line}" if entry.line and not entry.asked else ""
                node.become(FAILED, f"ended before it was ready ({entry.ended}){last}")
            elif entry.state == "ended" and node.state == READY:
                self._lose(node, entry.ended, expected=entry.asked)

    def pcs_back(self, pcs: Pcs) -> None:
        """A PCS answers again; it may be a new process, which may not know all of its nodes."""
        self._tell_pcs()
        for node in self.nodes:
            entry = pcs.table.get(node.id)
            if node.pcs is pcs and node.pid and node.there and (entry is None or entry.pid != node.pid):
                self._lose(node, "its PCS was restarted and does not find it")

    def trouble(self, text: str) -> None:
        """Pass on what users should know of a PCS."""
        self._listener.trouble(text)

    def _lose(self, node: Node, how: str, expected: bool = False) -> None:
        """A node has ended."""
        node.become(ENDED, how)
        self._tell_pcs()
        if not expected:
            self._listener.node_lost(node)

    def _tell_pcs(self) -> None:
        """Tell each PCS which nodes the others have started."""
        self.pcs_directory.tell(
            [
                Elsewhere(node.id, node.role, f"http://{node.address}", str(node.pcs.address), node.replica)
                for node in self.nodes
                if node.state == READY and node.pcs is not None
            ]
        )

    # --- commands to single nodes -----------------------------------------------------------------

    async def crash(self, id: str) -> None:
        """Kill a node at once."""
        node = self.nodes.running(id)
        if node.pcs is None and node.taken_up:
            await self.calls.crash_itself(node)
        else:
            await self._pcs_that_started(node).crash(id)
        self._lose(node, CRASHED, expected=True)

    async def stop(self, id: str) -> None:
        """End a node in order."""
        node = self.nodes.running(id)
        await self._pcs_that_started(node).stop(id, self.deadline)
        self._lose(node, STOPPED, expected=True)

    async def pause(self, id: str, paused: bool) -> None:
        """Stop a node's process, or continue it."""
        node = self.nodes.running(id)
        pcs = self._pcs_that_started(node)
        await (pcs.pause(id) if paused else pcs.resume(id))
        node.paused = paused

    async def slow(self, id: str, milliseconds: int) -> None:
        """Set a node's gossip delay."""
        node = self.nodes.running(id)
        if node.role == "scheduler":
            raise no_delay(id)
        await self.calls.tell(node, Slow(milliseconds))

    async def kill_for_restart(self, id: str) -> NodeCommand:
        """Kill a node, if it runs; return a command that starts it again in the same way."""
        node = self.nodes.get(id)
        if node is None or node.state == PLANNED or node.there:
            self._pcs_that_started(self.nodes.running(id))
            await self.crash(id)
        return evolve(self.nodes[id].command)

    def _pcs_that_started(self, node: Node) -> Pcs:
        if node.pcs is None and node.taken_up:
            host = node.address.host
            raise UserError(
                f"no PCS is known that has started {node.id}: do that on {host}, where its process is {node.pid}"
            )
        if node.pcs is None:
            raise UserError(f"{node.id} was never started")
        return node.pcs

    def debug_on(self) -> list[Node]:
        """Have workers that start later report their outputs; return those that have started, for `debug`."""
        self._debugging = True
        return self.nodes.named("worker")

    async def debug(self, workers: Iterable[Node]) -> list[str]:
        """Have these workers report their outputs; return the addresses to which they report."""
        return [await self._debug(worker) for worker in workers]

    async def _debug(self, worker: Node) -> str:
        if self._debug_url is None:
            raise UserError("there is no debug port here")
        if not worker.reports_to:
            to = self._debug_url(await self.calls.seen_from(worker), self.known)
            await self.calls.tell(worker, WorkerDebug("on", to=to))
            worker.reports_to = to
        return worker.reports_to

    # --- the end --------------------------------------------------------------------------------

    async def stop_nodes(self) -> list[Node]:
        """Shut down all nodes started here; return those whose PCS does not answer."""
        living = [node for node in self.started_here() if node.pcs is not None]
        stopped = await DeferredList(
            [
                Deferred.fromCoroutine(node.pcs.stop(node.id, END_DEADLINE, HURRIED if node.role == "worker" else None))
                for node in living
                if node.pcs
            ],
            consumeErrors=True,
        )
        return [node for node, (success, _) in zip(living, stopped, strict=True) if not success]

    def started_here(self) -> list[Node]:
        """Return the running nodes that end with the puppetmaster."""
        return [node for node in self.nodes.named() if node.there and node.pid and not node.taken_up]

    def left_running(self) -> list[Node]:
        """Return the running nodes that ran before the puppetmaster."""
        return [node for node in self.nodes.named() if node.there and node.taken_up]

    async def debug_off(self) -> None:
        """Stop the reports of workers that go on."""
        workers = [node for node in self.left_running() if node.role == "worker" and node.reports_to]
        off = WorkerDebug("off", deadline=CLOSE_TIME)
        await DeferredList([Deferred.fromCoroutine(self.calls.tell(node, off)) for node in workers], consumeErrors=True)

    def end_watch(self) -> None:
        """Stop watching: nodes and PCSs may end from now on."""
        self.pcs_directory.end_watch()

    async def close(self) -> None:
        """Close all connections, and end all waiting."""
        for node in self.nodes.named():
            if not node.answered.happened:
                node.become(ENDED, "not waited for any more")
        await self.pcs_directory.close()
        await self.scheduler.stop()
        await self.calls.close()


def _announcement(node: Node) -> Request:
    """Return the request that introduces a node to the scheduler."""
    if node.replica:
        return AddStorage(node.replica, node.id, f"http://{node.address}")
    return AddWorker(node.id, f"http://{node.address}")
