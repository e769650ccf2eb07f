"""The running system as the puppetmaster sees it: nodes, started through PCSs, and what can be asked of them.

Not here: when a command is executed (`dida.protocols.player`) and where a PCS process comes from
(`dida.services.puppetmaster`). A node is settled once it is ready and those that need to know it know
it, or once it is certain that it will not be ready; that takes no longer than the deadline.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from attrs import field, frozen
from twisted.internet.defer import Deferred, DeferredList, DeferredLock
from twisted.logger import Logger

from dida import wire
from dida.addresses import Address, NodeAddress, StorageAddress
from dida.chain_messages import AddStorage, AddWorker, WorkerDebug
from dida.control_messages import Start
from dida.errors import BAD_REQUEST, UNAVAILABLE, DidaError, UserError
from dida.messages import Error, ListRecords, Ok, Request, Status
from dida.protocols.lines import GRACE
from dida.protocols.links import Link
from dida.protocols.named_nodes import ENDED, FAILED, PLANNED, READY, STARTING, Node
from dida.protocols.pcs import Pcs
from dida.script import NodeCommand, Scheduler, Storage
from dida.tables import Records
from dida.versions import Version

LOOPBACK = ("localhost", "127.0.0.1", "::1")
PING_TIMEOUT = 3.0
"""Seconds for a PCS to answer that it is there."""

_log = Logger()
_T = TypeVar("_T")


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


def host_key(host: str) -> str:
    """Hosts that are one machine have one key."""
    return "localhost" if host in LOOPBACK else host


class System:
    """All nodes that commands have named, and the PCSs that start them."""

    def __init__(self, reactor: Any, pcs: Iterable[Address], deadline: float) -> None:
        self.reactor = reactor
        self.deadline = deadline
        self.nodes: dict[str, Node] = {}
        self.debug_to: str | None = None
        """Where workers report their outputs, once debug was asked for."""
        self.start_pcs: Callable[[Address], Awaitable[None]] | None = None
        """Starts a PCS on this machine; UserError says why it could not be."""
        self.on_ready: Callable[[Node, float], None] = lambda node, seconds: None
        self.on_failed: Callable[[Node], None] = lambda node: None
        self.on_lost: Callable[[Node], None] = lambda node: None
        self.on_trouble: Callable[[str], None] = lambda text: None
        self._addresses = {"localhost": Address("localhost", 10_000)}
        self._addresses.update((host_key(address.host), address) for address in pcs)
        self._pcs: dict[str, Pcs] = {}
        self._finding = DeferredLock()
        self._replicas = 0
        self._scheduler: Link | None = None
        self._told: set[str] = set()
        """Ids of the nodes that the scheduler was started with."""

    # --- nodes ----------------------------------------------------------------------------------

    def plan(self, commands: Iterable[NodeCommand]) -> None:
        """Nodes that will be started: those that are started before are told of them, too."""
        for command in commands:
            if self._clash(command) is None:
                self._enter(command)

    def named(self, role: str | None = None) -> list[Node]:
        """The nodes, except those that are only planned."""
        return [node for node in self.nodes.values() if node.state != PLANNED and role in (None, node.role)]

    def ready(self, role: str) -> list[Node]:
        """The nodes of a role that serve; UserError when there is none."""
        nodes = [node for node in self.named(role) if node.state == READY]
        if not nodes:
            failed = [f"{node.id} {_short(node.problem)}" for node in self.named(role) if node.problem]
            hint = f": {failed[-1]}" if failed else f": a command {role} ID URL … starts one"
            raise UserError(f"no {role}{' node' if role == 'storage' else ''} is there{hint}")
        return nodes

    def node(self, id: str) -> Node:
        """The node of that id, which must be there; UserError when it is not."""
        node = self.nodes.get(id)
        if node is None or node.state == PLANNED:
            known = ", ".join(node.id for node in self.named() if node.there) or "none yet"
            raise UserError(f"no node has the id {id}: there are {known}")
        if not node.there:
            raise UserError(f"{id} is not there any more: {_short(node.problem)}")
        return node

    def knows(self, command: NodeCommand) -> bool:
        """Whether a node of that id was named before, by another command."""
        node = self.nodes.get(command.id)
        return node is not None and node.command is not command

    def _enter(self, command: NodeCommand) -> Node:
        before = self.nodes.pop(command.id, None)
        node = self.nodes[command.id] = Node(command)
        if isinstance(command, Storage):
            if before is None or not before.replica:
                self._replicas += 1
            node.replica = before.replica if before is not None and before.replica else self._replicas
        return node

    def _clash(self, command: NodeCommand) -> str | None:
        """What forbids to start that node."""
        for node in self.nodes.values():
            if not node.there:
                continue
            if node.id == command.id:
                return f"{node.id} is there already, a {node.role} at {node.address}: take another id"
            if node.address.port == command.address.port and host_key(node.address.host) == host_key(
                command.address.host
            ):
                return f"{node.address} is the address of {node.id}: take another port"
            if isinstance(command, Scheduler) and node.role == "scheduler":
                return f"there is a scheduler already, {node.id} at {node.address}: one is enough"
        return None

    async def start(self, command: NodeCommand) -> Node:
        """Start a node, which will settle by itself. UserError when it can't be in this system."""
        node = self.nodes.get(command.id)
        if node is None or node.command is not command or node.state != PLANNED:
            clash = self._clash(command)
            if clash is not None:
                raise UserError(clash)
            node = self._enter(command)
        node.state = STARTING
        began = self.reactor.seconds()
        try:
            node.pcs = await self._pcs_of(command.address.host)
            if command.role == "scheduler":
                self._told = {other.id for other in self.nodes.values() if other.there}
            node.pid = await node.pcs.start(self._start_request(node))
            self._on_table(node.pcs)
        except DidaError as problem:
            node.become(FAILED, plain(problem))
        late = self.reactor.callLater(self.deadline, self._too_late, node)
        node.answered.wait().addCallback(lambda result: late.cancel() if late.active() else None)
        introduction = Deferred.fromCoroutine(self._introduce(node, began))
        introduction.addErrback(lambda failure: _log.failure("introducing {id}", failure, id=node.id))
        return node

    def _start_request(self, node: Node) -> Start:
        there = [other for other in self.nodes.values() if other.there]
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
        )

    def _too_late(self, node: Node) -> None:
        entry = node.pcs.table.get(node.id) if node.pcs is not None else None
        log = f": its output is in {entry.log}" if entry is not None else ""
        node.become(FAILED, f"not ready within {self.deadline:g} s{log}")

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
                    await self.ask_scheduler(self._announcement(node))
            if self.debug_to is not None and node.role == "worker":
                await self._debug(node)
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
                node.become(ENDED, entry.ended)
                if not entry.asked:
                    self.on_lost(node)

    # --- PCSs -----------------------------------------------------------------------------------

    async def _pcs_of(self, host: str) -> Pcs:
        """The PCS of a host; on this machine one is started when there is none."""
        key = host_key(host)
        address = self._addresses.get(key)
        if address is None:
            raise UserError(f"no PCS is known for {host}: start twistd dida-pcs there, and name it with --pcs URL")
        await self._finding.acquire()
        try:
            if key not in self._pcs:
                await self._meet(address, key)
                pcs = Pcs(self.reactor, address)
                pcs.on_table = self._on_table
                pcs.on_trouble = self.on_trouble
                pcs.watch()
                self._pcs[key] = pcs
            return self._pcs[key]
        finally:
            self.reactor.callLater(0, self._finding.release)  # whoever waits comes after who has just found it

    async def _meet(self, address: Address, key: str) -> None:
        """See to it that a PCS is there."""
        pcs = Pcs(self.reactor, address)
        try:
            reply = await pcs.ask(Status(deadline=PING_TIMEOUT))
        except DidaError as problem:
            if key != "localhost" or self.start_pcs is None:
                text = f"the PCS at {address} does not answer: start it there with twistd dida-pcs"
                raise UserError(text) from problem
            await self.start_pcs(address)
            return
        finally:
            await pcs.close()
        if reply.object.get("role") != "pcs":
            role = reply.object.get("role", "something else")
            raise UserError(f"at {address} there is a {role}, no PCS: name another one with --pcs URL")

    async def stop_nodes(self) -> int:
        """End all nodes politely; how many."""
        living = [node for node in self.named() if node.there and node.pcs is not None and node.pid]
        await DeferredList(
            [Deferred.fromCoroutine(node.pcs.stop(node.id)) for node in living if node.pcs], consumeErrors=True
        )
        return len(living)

    def end_watch(self) -> None:
        """From now on nodes and PCSs may end without a word."""
        for pcs in self._pcs.values():
            pcs.end_watch()

    async def close(self) -> None:
        """End all connections, and all waiting."""
        for node in self.named():
            if not node.answered.happened:
                node.become(ENDED, "not waited for any more")
        for pcs in self._pcs.values():
            await pcs.close()
        if self._scheduler is not None:
            await self._scheduler.stop()

    # --- questions to nodes ---------------------------------------------------------------------

    async def tell(self, node: Node, request: Request) -> Ok:
        """A node's `ok`, through the PCS that started it."""
        if node.pcs is None:
            raise UserError(f"{node.id} was never started: {node.problem}")
        return await node.pcs.tell(node.id, request)

    async def ask_scheduler(self, request: Request) -> Ok:
        """The scheduler's `ok`; UserError when there is none."""
        address = self.ready("scheduler")[0].address
        if self._scheduler is None or self._scheduler.address != f"{address.host}:{address.port}":
            if self._scheduler is not None:
                await self._scheduler.stop()
            self._scheduler = Link(self.reactor, address.host, address.port)
        reply = await self._scheduler.ask(request, request.deadline + 2 * GRACE)
        if isinstance(reply, Error):
            raise DidaError(reply.code, *reply.words, object=reply.object)
        assert isinstance(reply, Ok)
        return reply

    async def crash(self, id: str) -> None:
        """Kill a node at once."""
        node = self.node(id)
        if node.pcs is None:
            raise UserError(f"{id} was never started")
        await node.pcs.crash(id)
        node.become(ENDED, "crashed by command")

    async def records(self, node: Node) -> Records:
        """All records on one storage node."""
        if node.role != "storage":
            raise UserError(f"{node.id} is a {node.role}: only storage nodes have records")
        records: dict[str, list[tuple[Version, str]]] = {}
        start: str | None = ""
        while start is not None:
            reply = await self.tell(node, ListRecords(from_=start))
            page = wire.shaped(reply.object, _ListObject)
            records.update(page.records)
            start = page.next
        return records

    async def debug(self, to: str) -> int:
        """From now on the workers report their outputs to that address; how many were told now."""
        self.debug_to = to
        workers = self.ready("worker")
        for worker in workers:
            await self._debug(worker)
        return len(workers)

    async def _debug(self, worker: Node) -> None:
        assert self.debug_to is not None
        await self.tell(worker, WorkerDebug("on", to=self.debug_to))
