"""In-process stand-ins: storage nodes that share one set of records, and any node on a separate port."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import deferLater

from dida.addresses import Address, StorageAddress
from dida.protocols.lines import Answer, LineServerFactory, Node, NodeCommands, ok
from dida.replication.operations import superseded
from dida.versions import Version
from dida.wire import grammar
from dida.wire.messages import (
    FIRST,
    NODE,
    Epoch,
    Error,
    Fence,
    Forget,
    Journal,
    KnownUpdate,
    ListRecords,
    Member,
    No,
    Note,
    Ok,
    Read,
    Reply,
    Request,
    UpdateIf,
    Versions,
    View,
    Watch,
    Write,
    vocabulary,
)
from tests.support.nodes import free_port


class Port:
    """A node that listens on the loopback interface, on a free port if not on `port`."""

    def __init__(self, reactor: Any, node: Node, port: int = 0) -> None:
        self._factory = LineServerFactory(node, reactor)
        self._port = reactor.listenTCP(port, self._factory, interface="127.0.0.1")
        self.address = Address("127.0.0.1", self._port.getHost().port)

    def cut(self) -> None:
        """Break all connections that there are."""
        for connection in list(self._factory.connections):
            transport: Any = connection.transport
            transport.abortConnection()

    def close(self) -> Any:
        """As a process that is killed: no more connections, and those there are break."""
        self.cut()
        return maybeDeferred(self._port.stopListening)


def the_reactor() -> Any:
    """The reactor that pytest-twisted runs."""
    from twisted.internet import reactor

    return reactor


async def until(condition: Callable[[], Any], seconds: float = 5.0) -> None:
    """Until the condition holds; for what has no event that can be awaited."""
    reactor = the_reactor()
    end = reactor.seconds() + seconds
    while not condition():
        assert reactor.seconds() < end, "not within the time"
        await deferLater(reactor, 0.005)


def refused() -> Address:
    """An address where nobody listens."""
    return Address("127.0.0.1", free_port())


@define(eq=False)
class FakeGroup:
    """What the replicas of a group share: records, results by update id, the view."""

    records: dict[str, list[tuple[Version, str]]] = field(factory=dict)
    results: dict[str, Reply] = field(factory=dict)
    journals: dict[str, tuple[str, Journal]] = field(factory=dict)
    """Of applied updates of runs, by update id: key and journal."""
    fenced: dict[str, Epoch] = field(factory=dict)
    number: int = 1
    members: list[StorageAddress] = field(factory=list)
    dead: list[str] = field(factory=list)
    kept: int = 10
    forgotten: set[str] = field(factory=set)
    """Sessions that have ended."""
    writes: int = 0
    gone: set[str] = field(factory=set)
    """Streams that are lost."""
    _watching: list[Deferred[Reply]] = field(factory=list)

    def put(self, key: str, value: str, replica: int = 1) -> Version:
        """A new version of a record."""
        versions = self.records.setdefault(key, [])
        version = Version(versions[0][0].number + 1 if versions else 1, replica)
        versions.insert(0, (version, value))
        del versions[self.kept :]
        self.writes += 1
        return version

    def kill(self, id: str) -> None:
        """A member leaves the view, and who watches hears of it."""
        self.members = [each for each in self.members if each.id != id]
        self.dead.append(id)
        self.number += 1
        self.tell()

    def view(self) -> Ok:
        """The answer to `watch`."""
        members = tuple(Member(each.replica, each.id, str(each.address)) for each in self.members)
        return Ok((), grammar.unstructure(View(str(self.number), self.number, members, tuple(self.dead))))

    def watch(self, view: str | None) -> Answer:
        """The view, once it is another one."""
        if view != str(self.number):
            return self.view()
        waiting: Deferred[Reply] = Deferred()
        self._watching.append(waiting)
        return waiting

    def tell(self) -> None:
        """Answer all who watch."""
        watching, self._watching = self._watching, []
        for each in watching:
            if not each.called:
                each.callback(self.view())


class FakeStorage(NodeCommands):
    """One replica of a group. `answer`, when set, is given instead of the real one; None there: silence."""

    vocabulary: Mapping[str, type[Request]] = vocabulary(
        *NODE, Read, Write, UpdateIf, ListRecords, Versions, Forget, Watch, Fence, Note
    )

    def __init__(self, reactor: Any, group: FakeGroup, replica: int, watched: bool = True) -> None:
        self.group = group
        self.replica = replica
        self.requests: list[Request] = []
        self.delay = 0.0
        self.answer: Callable[[Request], Reply | None] | None = None
        self.watched = watched
        self.listing: Callable[[ListRecords], Reply] = self._page
        self._reactor = reactor

    def cmd_watch(self, request: Watch) -> Answer:
        return self.group.watch(request.view) if self.watched else Error("unknown-verb", ("watch",))

    def cmd_read(self, request: Read) -> Answer:
        return self._answered(request, self._read)

    def _read(self, request: Any) -> Reply:
        versions = self.group.records.get(request.key)
        if not versions:
            return Error("no-such-record", (request.key,))
        for version, value in versions:
            if request.version in (None, version):
                return ok(value, version, after=self._after())
        return Error("no-such-version", (request.key, str(request.version)))

    def cmd_write(self, request: Write) -> Answer:
        return self._answered(request, self._once)

    def cmd_updateif(self, request: UpdateIf) -> Answer:
        return self._answered(request, self._once)

    def cmd_forget(self, request: Forget) -> Answer:
        self.group.forgotten.update(request.session)
        return Ok()

    def cmd_fence(self, request: Fence) -> Answer:
        """What the group knows of a run, which is fenced from now on."""
        group = self.group
        if group.fenced.get(request.run, FIRST) > request.epoch:
            return superseded(group.fenced[request.run])
        group.fenced[request.run] = request.epoch
        numbers = [int(id.rpartition(":")[2]) for id in group.results if id.startswith(f"{request.run}:")]
        known = [
            KnownUpdate(int(id.rpartition(":")[2]), Version.parse(group.results[id].words[0]), *found)
            for id, found in group.journals.items()
            if id.startswith(f"{request.run}:")
        ]
        return ok(updates=known, highest=max(numbers, default=0), after=self._after() if known else {})

    def cmd_note(self, request: Note) -> Answer:
        self.requests.append(request)
        self.group.results[request.id] = ok("1.1", after=self._after())
        self.group.journals[request.id] = request.key, request.journal
        return self.group.results[request.id]

    def cmd_list(self, request: ListRecords) -> Answer:
        return self._lost(request) or self.listing(request)

    def _lost(self, request: Any) -> Reply | None:
        """What it has to say of updates that nobody has any more."""
        lost = {stream: n for stream, n in getattr(request, "after", {}).items() if stream in self.group.gone}
        return Error("lost-update", ("lost",), {"lost": lost}) if lost else None

    def _page(self, request: ListRecords) -> Reply:
        keys = sorted(key for key in self.group.records if key >= request.from_)
        page = {key: _pairs(self.group.records[key]) for key in keys[: request.limit]}
        more = {"next": keys[request.limit]} if len(keys) > request.limit else {}
        return ok(records=page, **more)

    def cmd_versions(self, request: Versions) -> Answer:
        return ok(versions=_pairs(self.group.records[request.key]))

    def _once(self, request: Any) -> Reply:
        group, run = self.group, (request.id or "").rpartition(":")[0]
        epoch = request.journal.epoch if request.journal is not None else FIRST
        if group.fenced.get(run, FIRST) > epoch:
            return superseded(group.fenced[run])
        result = group.results.get(request.id)
        if result is None:
            result = group.results[request.id] = self._update(request)
            if request.journal is not None and isinstance(result, Ok):
                group.journals[request.id] = request.key, request.journal
        return result

    def _update(self, request: Any) -> Reply:
        if isinstance(request, UpdateIf):
            versions = self.group.records.get(request.key)
            if not versions:
                return No()
            version, value = versions[0]
            if value != request.old:
                return No((str(version), value), {"after": self._after()})
            return ok(self.group.put(request.key, request.new, self.replica), after=self._after())
        return ok(self.group.put(request.key, request.value, self.replica), after=self._after())

    def _after(self) -> dict[str, int]:
        return {f"{self.replica}:1": self.group.writes}

    def _answered(self, request: Request, work: Callable[[Any], Reply]) -> Answer:
        self.requests.append(request)
        if self.answer is not None:
            return self.answer(request)
        if (lost := self._lost(request)) is not None:
            return lost
        if self.delay:
            return deferLater(self._reactor, self.delay, work, request)
        return work(request)


def _pairs(versions: Iterable[tuple[Version, str]]) -> list[tuple[str, str]]:
    return [(str(version), value) for version, value in versions]


class FakeCluster:
    """A group of fake storage nodes, each on its port."""

    def __init__(self, reactor: Any, size: int, watched: bool = True) -> None:
        self.group = FakeGroup()
        self.nodes = [FakeStorage(reactor, self.group, number, watched) for number in range(1, size + 1)]
        self._ports = {node.replica: Port(reactor, node) for node in self.nodes}
        self.addresses = [
            StorageAddress(node.replica, f"s{node.replica}", self._ports[node.replica].address) for node in self.nodes
        ]
        self.group.members = list(self.addresses)

    def node(self, member: StorageAddress) -> FakeStorage:
        """The node at an address."""
        return self.nodes[member.replica - 1]

    def crash(self, member: StorageAddress) -> None:
        """Kill its process; the others do not know it yet."""
        self._ports[member.replica].close()

    def requests(self) -> list[Request]:
        """All requests, of all nodes."""
        return [request for node in self.nodes for request in node.requests]

    def close(self) -> None:
        """Close all ports, and let go of who waits."""
        self.group.tell()
        for port in self._ports.values():
            port.close()
