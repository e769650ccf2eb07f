"""Discovery of a running system from the URL of one of its nodes, or of a PCS.

`RunningSystem` asks each node which others it knows, then asks those, and joins the replies. It also looks for a PCS at
the usual port of each node's machine. That PCS belongs to the system if it has started the very process of the node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, DeferredList

from dida.addresses import Address, node_id
from dida.errors import DidaError, UserError
from dida.pcs.messages import ROLES, Elsewhere, NodeEntry, Nodes
from dida.protocols.links import ReconnectingClient, Unreachable
from dida.wire import grammar
from dida.wire.messages import Member, Ok, Request, Status, System

_T = TypeVar("_T")

ASK_TIME = 3.0
"""Time-out for the questions to one node, in seconds."""
LOOK_TIME = 1.0
"""Time-out for the question which node listens at an address, in seconds."""
MAX_NODES = 1000
"""Maximum number of nodes that are asked."""
PCS_PORT = 10_000


@define
class FoundNode:
    """A node that runs."""

    id: str
    role: str
    address: Address
    replica: int = 0
    """Number of a storage node; 0 while it is unknown."""
    pid: int = 0
    gossip_delay: int = 0
    pcs: Address | None = None
    """The PCS that has started the node; None while it is unknown."""
    owner: str = ""
    """The owner with which the node ends, as its PCS reports it."""
    answers: bool = False


@frozen
class _Tables:
    """The reply to `nodes`."""

    nodes: list[NodeEntry] = field(factory=list)
    elsewhere: list[Elsewhere] = field(factory=list)


@frozen
class _Other:
    id: str
    url: str


@frozen
class _Known:
    """The reply to `system`."""

    storage: list[Member] = field(factory=list)
    schedulers: list[_Other] = field(factory=list)
    workers: list[_Other] = field(factory=list)
    pcs: list[_Other] = field(factory=list)


@frozen
class _Replies:
    """The replies from one address: its status, and the nodes it knows. Empty if nothing replied."""

    address: Address
    status: Mapping[str, Any] = field(factory=dict)
    known: Mapping[str, Any] = field(factory=dict)


class RunningSystem:
    """The nodes and PCSs found so far.

    `named`: the URLs to begin with, which must reply. `pcs`: PCSs that may have started nodes.
    """

    def __init__(
        self, reactor: Any, named: Iterable[Address], pcs: Iterable[Address] = (), ask_time: float = ASK_TIME
    ) -> None:
        self.reactor = reactor
        self.ask_time = ask_time
        self.nodes: dict[str, FoundNode] = {}
        self.pcs: dict[Address, Mapping[str, Any]] = {}
        """The PCSs by address, each with its status."""
        self.notes: list[str] = []
        """Oddities of the system, for the user."""
        self._named = list(named)
        self._candidates = set(pcs)
        self._tables: dict[Address, _Tables] = {}
        self._mentioned: set[str] = set()
        """Ids of the nodes that another node considers alive."""

    async def find(self) -> None:
        """Find the system; raise UserError if a named address is neither a node nor a PCS."""
        asked: set[Address] = set()
        wave = list(dict.fromkeys(self._named))
        while wave and len(asked) < MAX_NODES:
            asked.update(wave)
            replies = await self._all([self._meet(address) for address in wave])
            known = [found for each in replies for found in self._take(each)]
            candidates = self._candidates - self._tables.keys() - asked
            await self._all([self._ask_candidate(address) for address in candidates])
            known += self._beside()
            wave = [address for address in dict.fromkeys(known) if address not in asked]
        self._match()

    async def _all(self, work: Iterable[Any]) -> list[Any]:
        results = []
        for success, result in await DeferredList([Deferred.fromCoroutine(each) for each in work], consumeErrors=True):
            if not success:
                failure: Any = result
                raise failure.value
            results.append(result)
        return results

    # --- one node after the other ---------------------------------------------------------------

    async def _meet(self, address: Address) -> _Replies:
        """Ask the node at an address for its status and for the nodes it knows."""
        link = ReconnectingClient(self.reactor, address.host, address.port)
        try:
            status = (await _ask(link, Status(deadline=self.ask_time))).object
            node_id(str(status.get("id", "")))
            request = Nodes(deadline=self.ask_time) if status.get("role") == "pcs" else System(deadline=self.ask_time)
            try:
                return _Replies(address, status, (await _ask(link, request)).object)
            except DidaError:
                return _Replies(address, status)
        except DidaError as problem:
            if address in self._named:
                raise _nobody(address, problem) from None
            return _Replies(address)
        finally:
            await link.stop()

    def _take(self, replies: _Replies) -> list[Address]:
        """Enter the replies of a node or a PCS; return the addresses of the nodes it knows, or raise UserError."""
        address, status = replies.address, replies.status
        role = status.get("role")
        if role == "pcs":
            self.pcs[address] = status
            return self._take_tables(address, _shaped(replies.known, _Tables))
        if role in ROLES:
            self._enter(str(status["id"]), str(role), address, status)
            self._candidates.add(Address(address.host, PCS_PORT))
        elif role != "puppetmaster":
            if status and address in self._named:
                raise UserError(f"unexpected role {role} at {address}: neither a node nor a PCS, check the URL")
            return []
        known = _shaped(replies.known, _Known)
        self._candidates.update(_addresses(known.pcs))
        return [*self._storage(known.storage), *_addresses([*known.schedulers, *known.workers])]

    def _enter(self, id: str, role: str, address: Address, status: Mapping[str, Any]) -> None:
        node = self._node(id, role, address)
        if node is None:
            return
        node.answers = True
        self._mentioned.update(map(str, status.get("alive", ())))
        node.pid = _number(status, "pid") or node.pid
        node.gossip_delay = _number(status, "gossip_delay")
        node.replica = _number(status, "replica") or node.replica

    def _node(self, id: str, role: str, address: Address) -> FoundNode | None:
        """Return the node with that id, or None if a node at another address has it."""
        node = self.nodes.setdefault(id, FoundNode(id, role, address))
        if (node.address.machine, node.address.port) == (address.machine, address.port):
            return node
        self.notes.append(f"{id} is at {node.address} and at {address}: only the first of them is taken up")
        return None

    def _take_tables(self, address: Address, tables: _Tables) -> list[Address]:
        self._tables[address] = tables
        known = []
        for entry in tables.nodes:
            if entry.state != "ended":
                known += self._started(entry)
        return [
            *known,
            *_addresses(tables.elsewhere),
            *_addresses([_Other(each.id, each.pcs) for each in tables.elsewhere]),
        ]

    def _started(self, entry: NodeEntry) -> list[Address]:
        """Enter a node of a PCS; return its address, unless another node has its id."""
        for address in _addresses([entry] if entry.role in ROLES else []):
            node = self._node(entry.id, entry.role, address)
            if node is not None:
                node.pid = node.pid or entry.pid
                return [address]
        return []

    def _storage(self, members: Iterable[Member]) -> list[Address]:
        known = []
        for member in members:
            for address in _addresses([member]):
                node = self._node(member.id, "storage", address)
                if node is not None:
                    node.replica = member.replica
                known.append(address)
        return known

    # --- the PCSs -------------------------------------------------------------------------------

    async def _ask_candidate(self, address: Address) -> None:
        """Ask a PCS that was not named; its nodes do not yet belong to the system."""
        link = ReconnectingClient(self.reactor, address.host, address.port)
        try:
            status = (await _ask(link, Status(deadline=self.ask_time))).object
            if status.get("role") == "pcs":
                self._tables[address] = grammar.structure(
                    (await _ask(link, Nodes(deadline=self.ask_time))).object, _Tables
                )
                self.pcs[address] = status
            else:
                self._tables[address] = _Tables()
        except DidaError:
            self._tables[address] = _Tables()
        finally:
            await link.stop()

    def _beside(self) -> list[Address]:
        """Return the addresses of further nodes that belong to the system, from the tables of its PCSs.

        A node belongs to it if its PCS serves one puppetmaster alone, or if a node of the system considers it alive.
        """
        self._match_processes()
        known = []
        for address in {node.pcs for node in self.nodes.values() if node.pcs is not None}:
            alone = bool(self.pcs[address].get("serves"))
            for entry in self._tables[address].nodes:
                if entry.state != "ended" and (alone or entry.id in self._mentioned):
                    known += self._started(entry)
        return known

    def _match_processes(self) -> None:
        """Find out which PCS has started which node."""
        for address, tables in self._tables.items():
            for entry in tables.nodes:
                node = self.nodes.get(entry.id)
                if entry.state != "ended" and node is not None and node.pid == entry.pid:
                    node.pcs, node.owner = address, entry.owner

    def _match(self) -> None:
        """Drop PCSs that were not named and have started no node, and nodes that neither reply nor belong to a PCS."""
        self._match_processes()
        used = {node.pcs for node in self.nodes.values()}
        self.pcs = {
            address: status for address, status in self.pcs.items() if address in used or address in self._named
        }
        for node in list(self.nodes.values()):
            if not node.answers and node.pcs is None:
                del self.nodes[node.id]  # the node that named it may know it from before
            elif not node.answers:
                self.notes.append(f"{node.id} at {node.address} runs, but does not answer")


async def who_listens(reactor: Any, address: Address) -> str:
    """Return the node that listens there, in words; empty if none replies within a second."""
    link = ReconnectingClient(reactor, address.host, address.port)
    try:
        status = (await _ask(link, Status(deadline=LOOK_TIME))).object
    except DidaError:
        return ""
    finally:
        await link.stop()
    return f"the {status.get('role', 'node')} {status.get('id', '')}".strip()


async def _ask(link: ReconnectingClient, request: Request) -> Ok:
    reply = await link.ask(request, request.deadline)
    if not isinstance(reply, Ok):
        raise UserError("unexpected error reply")
    return reply


def _shaped(members: Mapping[str, Any], shape: type[_T]) -> _T:
    """Return the decoded reply, or an empty one if it cannot be decoded."""
    try:
        return grammar.structure(members, shape)
    except DidaError:
        return shape()


def _addresses(others: Iterable[Any]) -> list[Address]:
    """Return the addresses in their URLs; skip invalid ones."""
    found = []
    for other in others:
        with suppress(UserError):
            found.append(Address.parse(other.url))
    return found


def _nobody(address: Address, problem: DidaError) -> UserError:
    if isinstance(problem, Unreachable):
        return UserError(f"cannot connect to {address}: name a running node, or a PCS")
    return UserError(f"unexpected reply from {address}: not a node of DIDA, check the URL")


def _number(status: Mapping[str, Any], name: str) -> int:
    value = status.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
