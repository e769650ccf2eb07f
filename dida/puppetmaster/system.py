"""The running system as the puppetmaster sees it: nodes, started through PCSs, and what can be asked of them.

Not here: when a command is executed (`dida.puppetmaster.player`), and which PCS starts a node
(`dida.puppetmaster.machines`). A node is settled once it is ready and those that need to know it know it, or once
it is certain that it will not be ready; that takes no longer than the deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from attrs import evolve, field, frozen
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from dida.addresses import HERE, Address, NodeAddress, StorageAddress
from dida.chains.messages import AddStorage, AddWorker, WorkerDebug
from dida.client.scheduler_client import SchedulerClient
from dida.console.script import NodeCommand, SchedulerCommand, StorageCommand, WorkerCommand
from dida.console.tables import Records
from dida.errors import BAD_REQUEST, UNAVAILABLE, DidaError, UserError
from dida.pcs.client import Pcs
from dida.pcs.messages import ROLES, Elsewhere, Start
from dida.protocols.lines import GRACE
from dida.protocols.links import ReconnectingClient, Unreachable
from dida.puppetmaster.attaching import RunningSystem
from dida.puppetmaster.checking import CRASHED, STOPPED, clash, gone, missing, no_delay, no_records, unknown
from dida.puppetmaster.machines import PcsDirectory
from dida.puppetmaster.nodes import ENDED, FAILED, PLANNED, READY, STARTING, Node
from dida.versions import Version
from dida.wire import grammar
from dida.wire.messages import Crash, ListRecords, Ok, Ping, Request, Slow
from dida.wire.whole import whole

HURRIED = 1.0
"""Seconds for a worker to finish what it has in hand, when nobody waits for it any more."""
END_DEADLINE = 10.0
"""Seconds for a PCS to end a node before it counts as one that does not answer."""

_log = Logger()
_T = TypeVar("_T")

CLOSE_TIME = 1.0
"""Seconds for a worker to hear that nobody listens to its reports any more."""


def plain(problem: DidaError) -> str:
    """A problem in the words of its one line."""
    if problem.words and problem.code in (UNAVAILABLE, BAD_REQUEST):
        return " ".join(problem.words)
    return str(problem)


def _short(problem: str) -> str:
    """The first part of a problem that was told in full before."""
    return problem.partition(": ")[0]


@frozen
class _ListObject:
    """The object of a `list` reply."""

    records: dict[str, list[tuple[Version, str]]] = field(factory=dict)
    next: str | None = None


class Cluster:
    """All nodes that commands have named, and the PCSs that start them."""

    def __init__(self, reactor: Any, pcs: Iterable[Address], deadline: float, owner: str = "") -> None:
        self.reactor = reactor
        self.deadline = deadline
        self.owner = owner
        """With whom the nodes end; empty: they are left running."""
        self.nodes: dict[str, Node] = {}
        self.debug_to: Callable[[str], str] | None = None
        """Where workers report their outputs, by this machine's address for them, once debug was asked for."""
        self.machines = PcsDirectory(reactor, pcs, owner)
        self.machines.on_table = self._on_table
        self.machines.on_back = self._on_back
        self.machines.on_trouble = lambda text: self.on_trouble(text)
        self.on_ready: Callable[[Node, float], None] = lambda node, seconds: None
        self.on_failed: Callable[[Node], None] = lambda node: None
        self.on_lost: Callable[[Node], None] = lambda node: None
        self.on_trouble: Callable[[str], None] = lambda text: None
        self.who_listens: Callable[[Address], Coroutine[Any, Any, str]] | None = None
        """Says which node listens at an address where one is to be started; empty: none."""
        self._replicas = 0
        self.scheduler_client = SchedulerClient(reactor, self._scheduler_address, deadline)
        self._links: dict[str, ReconnectingClient] = {}
        """To nodes that were taken up without a PCS."""
        self._told: set[str] = set()
        """Ids of the nodes that the scheduler was started with."""
        self._warned = False

    # --- nodes ----------------------------------------------------------------------------------

    def plan(self, commands: Iterable[NodeCommand]) -> None:
        """Nodes that will be started: those that are started before are told of them, too."""
        for command in commands:
            if self._clash(command) is None:
                self._look(self._enter(command))

    def named(self, role: str | None = None) -> list[Node]:
        """The nodes, except those that are only planned."""
        return [node for node in self.nodes.values() if node.state != PLANNED and role in (None, node.role)]

    def ready(self, role: str) -> list[Node]:
        """The nodes of a role that serve; UserError when there is none."""
        nodes = [node for node in self.named(role) if node.state == READY]
        if not nodes:
            failed = [f"{n.id} {_short(n.problem).removeprefix(f'{n.id} ')}" for n in self.named(role) if n.problem]
            raise missing(role, failed[-1] if failed else "")
        return nodes

    def reachable(self, role: str) -> list[Node]:
        """Those of them that can be asked: their PCS answers."""
        nodes = [node for node in self.ready(role) if node.pcs is None or node.pcs.answers]
        if not nodes:
            raise missing(role, "the PCS that could tell does not answer")
        return nodes

    def known(self) -> Ok:
        """What the puppetmaster knows of the whole system: what commands have named, and runs."""
        there = [node for node in self.named() if node.there]
        nodes = {role: [NodeAddress(n.id, n.address) for n in there if n.role == role] for role in ROLES}
        storage = [StorageAddress(n.replica, n.id, n.address) for n in there if n.role == "storage"]
        pcs = {n.pcs.address: NodeAddress("", n.pcs.address) for n in there if n.pcs is not None}
        return whole(storage, nodes["scheduler"], nodes["worker"], pcs.values())

    def node(self, id: str) -> Node:
        """The node of that id, which must be there; UserError when it is not."""
        node = self.nodes.get(id)
        if node is None or node.state == PLANNED:
            raise unknown(id, [node.id for node in self.named() if node.there])
        if not node.there:
            raise gone(id, _short(node.problem))
        return node

    def take_up(self, found: RunningSystem) -> None:
        """Nodes that run already: from now on they are as if commands had started them, but they are left running."""
        pcs = {address: self.machines.take(address, status) for address, status in found.pcs.items()}
        for each in found.nodes.values():
            kind = {"storage": StorageCommand, "worker": WorkerCommand}.get(each.role)
            command = (
                kind(each.id, each.address, each.gossip_delay) if kind else SchedulerCommand(each.id, each.address)
            )
            node = self.nodes[each.id] = Node(command, each.replica, pid=each.pid, taken_up=True, owner=each.owner)
            node.pcs = pcs[each.pcs] if each.pcs is not None else None
            node.become(READY)
            node.looked.happen()
            node.settled.happen()
            self._told.add(node.id)
            self._replicas = max(self._replicas, node.replica)

    def knows(self, command: NodeCommand) -> bool:
        """Whether a node of that id was named before, by another command."""
        node = self.nodes.get(command.id)
        return node is not None and node.command is not command

    @property
    def scheduler(self) -> Node | None:
        """The scheduler that runs, or is to."""
        return next((node for node in self.nodes.values() if node.role == "scheduler" and node.there), None)

    def _enter(self, command: NodeCommand) -> Node:
        before = self.nodes.pop(command.id, None)
        node = self.nodes[command.id] = Node(command)
        if isinstance(command, StorageCommand):
            if before is None or not before.replica:
                self._replicas += 1
            node.replica = before.replica if before is not None and before.replica else self._replicas
        if before is not None:
            node.taken_up, node.owner = before.taken_up, before.owner
        return node

    def _clash(self, command: NodeCommand) -> str | None:
        """What forbids to start that node."""
        return clash(command, [node.command for node in self.nodes.values() if node.there])

    async def start(self, command: NodeCommand) -> Node:
        """Start a node, which will settle by itself. UserError when it can't be in this system."""
        node = self.nodes.get(command.id)
        if node is None or node.command is not command or node.state != PLANNED:
            clash = self._clash(command)
            if clash is not None:
                raise UserError(clash)
            node = self._enter(command)
            self._look(node)
        node.state = STARTING
        began = self.reactor.seconds()
        late = self.reactor.callLater(self.deadline, self._too_late, node)
        node.answered.wait().addCallback(lambda result: late.cancel() if late.active() else None)
        introduction = Deferred.fromCoroutine(self._introduce(node, began))
        introduction.addErrback(lambda failure: _log.failure("introducing {id}", failure, id=node.id))
        try:
            for other in list(self.nodes.values()):
                await other.looked.wait()
            if node.taken:
                raise UserError(node.taken)
            node.pcs_sought = Deferred.fromCoroutine(self.machines.pcs_of(command.address))
            node.pcs = await node.pcs_sought
            self._warn_of_loopback()
            if command.role == "scheduler":
                self._told = {other.id for other in self.nodes.values() if other.there}
            node.pid = await node.pcs.start(self._start_request(node))
            if node.state == FAILED:
                self._kill(node.pcs, node.id)  # it was too late when the PCS answered
            self._on_table(node.pcs)
        except DidaError as problem:
            node.become(FAILED, plain(problem))
        return node

    def _look(self, node: Node) -> None:
        """See whether a node of another system is at its address: else those that are started meanwhile would take it
        for the one that they are told of."""
        looking = Deferred.fromCoroutine(self._find_taken(node))
        looking.addErrback(lambda failure: _log.failure("looking for {id}", failure, id=node.id))
        looking.addBoth(lambda result: node.looked.happen())

    async def _find_taken(self, node: Node) -> None:
        who = "" if self.who_listens is None else await self.who_listens(node.address)
        if who:
            use = "address already in use: choose another port, or stop what listens there"
            node.taken = f"{who} is at {node.address}, not started from here: {use}"

    def _start_request(self, node: Node) -> Start:
        there = [other for other in self.nodes.values() if other.there and not other.taken]
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
        """Nodes on other machines can't reach one whose URL says localhost."""
        there = [node.address for node in self.nodes.values() if node.there]
        here = [address for address in there if address.machine == HERE]
        away = [address for address in there if address.machine != HERE]
        if here and away and not self._warned:
            self._warned = True
            self.on_trouble(f"note: for {away[0].host}, {here[0]} is itself: write this machine's name into that URL")

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
        """Nobody waits for that node any more."""
        killed = Deferred.fromCoroutine(pcs.crash(id))
        killed.addErrback(lambda failure: failure.trap(DidaError) and None)

    async def _introduce(self, node: Node, began: float) -> None:
        """Once the node is ready: tell who needs to know it."""
        try:
            await node.answered.wait()
            if node.state != READY:
                self.on_failed(node)
                return
            for scheduler in self.named("scheduler"):
                await scheduler.settled.wait() if scheduler is not node else None
                if scheduler.state == READY and node.id not in self._told and node.role != "scheduler":
                    await self.scheduler_client.ask(self._announcement(node))
            if self.debug_to is not None and node.role == "worker":
                await self._debug(node)
            self._tell_pcs()
            self.on_ready(node, self.reactor.seconds() - began)
        except DidaError as problem:
            self.on_trouble(f"{node.id} is ready, but could not be introduced: {plain(problem)}")
        finally:
            node.settled.happen()

    def _announcement(self, node: Node) -> Request:
        if node.replica:
            return AddStorage(node.replica, node.id, f"http://{node.address}")
        return AddWorker(node.id, f"http://{node.address}")

    def _on_table(self, pcs: Pcs) -> None:
        """What a PCS knows of its nodes."""
        for node in list(self.nodes.values()):
            entry = pcs.table.get(node.id)
            if entry is None or node.pcs is not pcs or entry.pid != node.pid:
                continue
            if entry.state == "ready" and node.state == STARTING:
                node.become(READY)
            elif entry.state == "ended" and node.state == STARTING:
                said = f": {entry.line}" if entry.line and not entry.asked else ""
                node.become(FAILED, f"ended before it was ready ({entry.ended}){said}")
            elif entry.state == "ended" and node.state == READY:
                self._lose(node, entry.ended, told=not entry.asked)

    def _lose(self, node: Node, how: str, told: bool) -> None:
        """A node has ended."""
        node.become(ENDED, how)
        self._tell_pcs()
        if told:
            self.on_lost(node)

    def _on_back(self, pcs: Pcs) -> None:
        """A PCS answers again, perhaps another process, which may not know all of its nodes."""
        self._tell_pcs()
        for node in list(self.nodes.values()):
            entry = pcs.table.get(node.id)
            if node.pcs is pcs and node.pid and node.there and (entry is None or entry.pid != node.pid):
                self._lose(node, "its PCS was started anew and does not find it", told=True)

    def _tell_pcs(self) -> None:
        """Each PCS knows the nodes that the others have started."""
        self.machines.tell(
            [
                Elsewhere(node.id, node.role, f"http://{node.address}", str(node.pcs.address), node.replica)
                for node in self.nodes.values()
                if node.state == READY and node.pcs is not None
            ]
        )

    # --- the end --------------------------------------------------------------------------------

    async def stop_nodes(self) -> list[Node]:
        """End all nodes politely; those that could not be ended, as their PCS does not answer."""
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
        """The nodes that run and end with the puppetmaster."""
        return [node for node in self.named() if node.there and node.pid and not node.taken_up]

    async def debug_off(self) -> None:
        """Workers that go on report no more to where nobody listens."""
        told = [node for node in self.named("worker") if node.there and node.taken_up and node.reports_to]
        work = [Deferred.fromCoroutine(self.tell(node, WorkerDebug("off", deadline=CLOSE_TIME))) for node in told]
        await DeferredList(work, consumeErrors=True)

    def end_watch(self) -> None:
        """From now on nodes and PCSs may end without a word."""
        self.machines.end_watch()

    async def close(self) -> None:
        """End all connections, and all waiting."""
        for node in self.named():
            if not node.answered.happened:
                node.become(ENDED, "not waited for any more")
        await self.machines.close()
        await self.scheduler_client.stop()
        for link in self._links.values():
            await link.stop()

    # --- questions to nodes ---------------------------------------------------------------------

    async def tell(self, node: Node, request: Request) -> Ok:
        """A node's `ok`, through the PCS that started it, if one is known."""
        if node.pcs is None and not node.taken_up:
            raise UserError(f"{node.id} was never started: {node.problem}")
        if node.paused:
            raise UserError(f"paused: resume {node.id} lets it go on")
        if node.pcs is None:
            return await self._link(node).ask_ok(request, request.deadline + 2 * GRACE)
        return await node.pcs.tell(node.id, request)

    def _link(self, node: Node) -> ReconnectingClient:
        if node.id not in self._links:
            self._links[node.id] = ReconnectingClient(self.reactor, node.address.host, node.address.port)
        return self._links[node.id]

    def _scheduler_address(self) -> Address:
        """Return the address of the scheduler that is ready; Unreachable when there is none."""
        try:
            return self.ready("scheduler")[0].address
        except UserError as problem:
            raise Unreachable(str(problem)) from None

    async def crash(self, id: str) -> None:
        """Kill a node at once."""
        node = self.node(id)
        if node.pcs is None and node.taken_up:
            await self._crash_itself(node)
        else:
            await self._pcs_that_started(id).crash(id)
        self._lose(self.nodes[id], CRASHED, told=False)

    async def _crash_itself(self, node: Node) -> None:
        """Tell it to kill itself, which is all that can be done without a PCS."""
        try:
            await self._link(node).ask(Crash(), CLOSE_TIME)
        except Unreachable:
            raise
        except DidaError:
            pass  # it was gone before it could answer

    async def stop(self, id: str) -> None:
        """End a node in order."""
        await self._pcs_that_started(id).stop(id, self.deadline)
        self._lose(self.nodes[id], STOPPED, told=False)

    async def pause(self, id: str, paused: bool) -> None:
        """Stop a node's process, or let it go on."""
        pcs = self._pcs_that_started(id)
        await (pcs.pause(id) if paused else pcs.resume(id))
        self.nodes[id].paused = paused

    async def slow(self, id: str, milliseconds: int) -> None:
        """Give a node another gossip delay."""
        node = self.node(id)
        if node.role == "scheduler":
            raise no_delay(id)
        await self.tell(node, Slow(milliseconds))

    async def kill_for_restart(self, id: str) -> NodeCommand:
        """Kill a node, if it lives; a command that starts it again as it was started."""
        node = self.nodes.get(id)
        if node is None or node.state == PLANNED or node.there:
            self._pcs_that_started(id)
            await self.crash(id)
        return evolve(self.nodes[id].command)

    def _pcs_that_started(self, id: str) -> Pcs:
        node = self.node(id)
        if node.pcs is None and node.taken_up:
            host = node.address.host
            raise UserError(
                f"no PCS is known that has started {id}: do that on {host}, where its process is {node.pid}"
            )
        if node.pcs is None:
            raise UserError(f"{id} was never started")
        return node.pcs

    async def records(self, node: Node, seconds: float) -> Records:
        """All records on one storage node, which may take so long for each page of them."""
        if node.role != "storage":
            raise no_records(node.id, node.role)
        records: dict[str, list[tuple[Version, str]]] = {}
        start: str | None = ""
        while start is not None:
            reply = await self.tell(node, ListRecords(from_=start, deadline=seconds))
            page = grammar.structure(reply.object, _ListObject)
            records.update(page.records)
            start = page.next
        return records

    async def debug(self, workers: Iterable[Node]) -> list[str]:
        """Let these workers report their outputs where `debug_to` says, as those do that become ready later; where."""
        return [await self._debug(worker) for worker in workers]

    async def _debug(self, worker: Node) -> str:
        assert self.debug_to is not None
        if not worker.reports_to:
            if worker.pcs is None:
                await self.tell(worker, Ping())
                seen_from = self._link(worker).local_host
            else:
                seen_from = worker.pcs.seen_from
            to = self.debug_to(seen_from or HERE)
            await self.tell(worker, WorkerDebug("on", to=to))
            worker.reports_to = to
        return worker.reports_to
