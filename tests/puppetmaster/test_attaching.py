"""A running system that a puppetmaster takes up: found from any of its nodes, used, and left as it was."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.protocol import Factory, Protocol

from dida.addresses import Address
from dida.chains.messages import AddStorage, AddWorker, WorkerDebug
from dida.errors import UserError
from dida.pcs.messages import NodeEntry
from dida.pcs.node import PcsNode
from dida.protocols.lines import Answer, NodeCommands, ok
from dida.puppetmaster.attaching import ASK_TIME, RunningSystem, who_listens
from dida.puppetmaster.checking import check
from dida.wire.messages import NODE, Request, Slow, Status, System, vocabulary
from tests.puppetmaster.test_script_runner import Scene
from tests.support.fake_pcs import FakeTable
from tests.support.fakes import Port, the_reactor, until


class Peer(NodeCommands):
    """A node that says who it is, and whom it knows."""

    vocabulary: Mapping[str, type[Request]] = vocabulary(*NODE, WorkerDebug, Slow, AddWorker, AddStorage)

    def __init__(self, id: str, role: str, pid: int, **members: Any) -> None:
        self.members = {"id": id, "role": role, "pid": pid, "ready": True, **members}
        self.knows: dict[str, list[dict[str, Any]]] = {}
        self.port = Port(the_reactor(), self)
        self.debug: list[WorkerDebug] = []
        self.told: list[Request] = []

    @property
    def address(self) -> Address:
        return self.port.address

    def cmd_status(self, request: Status) -> Answer:
        return ok(**self.members)

    def cmd_system(self, request: System) -> Answer:
        return ok(**self.knows)

    def cmd_debug(self, request: Any) -> Answer:
        self.debug.append(request)
        return ok()

    def cmd_slow(self, request: Request) -> Answer:
        self.told.append(request)
        return ok()

    cmd_worker = cmd_storage = cmd_slow


class Running:
    """Two storage nodes, a worker and a scheduler, started by a PCS; each knows a part of the others."""

    def __init__(self) -> None:
        self.closed: list[Peer] = []
        self.table = FakeTable()
        self.pcs = Port(the_reactor(), PcsNode("pcs", self.table))
        self.s1 = Peer("s1", "storage", 11, replica=1, gossip_delay=5, alive=["s1", "s2"])
        self.s2 = Peer("s2", "storage", 12, replica=2, alive=["s1", "s2"])
        self.w1 = Peer("w1", "worker", 13, gossip_delay=7, alive=["s1", "s2"])
        self.sc = Peer("sc", "scheduler", 14, alive=["w1", "s1", "s2"])
        storage = [{"replica": n, "id": s.members["id"], "url": str(s.address)} for n, s in enumerate(self.stores, 1)]
        known = {"storage": storage, "schedulers": [{"id": "sc", "url": str(self.sc.address)}]}
        self.s1.knows = self.s2.knows = self.w1.knows = known
        self.sc.knows = {"storage": storage, "workers": [{"id": "w1", "url": str(self.w1.address)}]}
        for peer in self.peers:
            self.enter(peer)

    @property
    def stores(self) -> list[Peer]:
        return [self.s1, self.s2]

    @property
    def peers(self) -> list[Peer]:
        return [self.s1, self.s2, self.w1, self.sc]

    def enter(self, peer: Peer, owner: str = "") -> None:
        """The PCS has started it."""
        members = peer.members
        row = NodeEntry(members["id"], members["role"], f"http://{peer.address}", members["pid"], "ready", owner=owner)
        self.table.set(row)

    async def close(self) -> None:
        self.table.tell()
        for peer in self.peers:
            if peer not in self.closed:
                await peer.port.close()
        await self.pcs.close()


@pytest_twisted.async_yield_fixture
async def running() -> AsyncIterator[Running]:
    made = Running()
    yield made
    await made.close()


async def found_from(running: Running, *named: Address, pcs: bool = True, ask_time: float = ASK_TIME) -> RunningSystem:
    found = RunningSystem(the_reactor(), named, [running.pcs.address] if pcs else [], ask_time)
    await found.find()
    return found


@pytest.mark.parametrize("via", ["s1", "s2", "w1", "sc", "pcs"])
@pytest_twisted.ensureDeferred
async def test_from_any_node(running: Running, via: str) -> None:
    """Whichever node is named, all are found, with their numbers and delays, and the PCS that has started them."""
    found = await found_from(running, getattr(running, via).address)
    assert {node.id: (node.role, node.replica, node.gossip_delay, node.pid) for node in found.nodes.values()} == {
        "s1": ("storage", 1, 5, 11),
        "s2": ("storage", 2, 0, 12),
        "w1": ("worker", 0, 7, 13),
        "sc": ("scheduler", 0, 0, 14),
    }
    assert {node.pcs for node in found.nodes.values()} == {running.pcs.address} == set(found.pcs)
    assert found.notes == []


@pytest_twisted.ensureDeferred
async def test_without_a_pcs(running: Running) -> None:
    """Nodes that were started by hand are found, too."""
    found = await found_from(running, running.w1.address, pcs=False)
    assert set(found.nodes) == {"s1", "s2", "w1", "sc"}
    assert {node.pcs for node in found.nodes.values()} == {None}
    assert found.pcs == {}


@pytest_twisted.ensureDeferred
async def test_two_systems_at_one_pcs(running: Running) -> None:
    """The nodes of another system at the same PCS are left alone, unless the PCS itself is named."""
    other = Peer("other", "worker", 99)
    running.enter(other)
    running.table.set(NodeEntry("gone", "worker", "http://localhost:1", 98, "ended"))
    assert set((await found_from(running, running.s1.address)).nodes) == {"s1", "s2", "w1", "sc"}
    assert set((await found_from(running, running.pcs.address)).nodes) == {"s1", "s2", "w1", "sc", "other"}
    assert list((await found_from(running, other.address)).nodes) == ["other"]
    await other.port.close()


@pytest_twisted.ensureDeferred
async def test_nodes_that_know_nothing(running: Running) -> None:
    """Of nodes that do not know `system` the PCS tells who belongs to them: those whom they take for alive."""
    for peer in running.peers:
        peer.knows = {"storage": [{"nonsense": 1}]}
    found = await found_from(running, running.sc.address)
    assert set(found.nodes) == {"s1", "s2", "w1", "sc"}
    assert [found.nodes[id].replica for id in ("s1", "s2")] == [1, 2]


@pytest_twisted.ensureDeferred
async def test_nodes_that_do_not_answer(running: Running) -> None:
    """A node that its PCS knows to run is taken up though it is paused; one that is only hearsay is not."""
    await running.s2.port.close()
    running.closed.append(running.s2)
    running.sc.knows["workers"] += [{"id": "w9", "url": "localhost:1"}, {"id": "w8", "url": "nonsense"}]
    running.table.set(NodeEntry("w7", "worker", "nonsense", 98, "ready"))
    running.table.set(NodeEntry("w6", "shell", "localhost:1", 97, "ready"))
    found = await found_from(running, running.pcs.address)
    assert set(found.nodes) == {"s1", "s2", "w1", "sc"}
    assert found.nodes["s2"].replica == 2
    assert found.notes == [f"s2 at {running.s2.address} runs, but does not answer"]


@pytest_twisted.ensureDeferred
async def test_one_id_twice(running: Running) -> None:
    """Two systems that have one id in common can't be taken up together: that is said."""
    other = Peer("s1", "storage", 77, replica=1)
    found = await found_from(running, running.s1.address, other.address)
    assert found.nodes["s1"].address == running.s1.address
    assert found.notes == [f"s1 is at {running.s1.address} and at {other.address}: only the first of them is taken up"]
    await other.port.close()


class Stranger(Protocol):
    """A server of another protocol."""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


class Silent(Protocol):
    """A server that says nothing."""


@pytest_twisted.ensureDeferred
async def test_wrong_urls(running: Running) -> None:
    """A URL without a node of DIDA is one line: no listener, another protocol, silence, another role."""
    reactor = the_reactor()
    ports = [reactor.listenTCP(0, Factory.forProtocol(kind), interface="127.0.0.1") for kind in (Stranger, Silent)]
    odd = Peer("odd", "gateway", 5)
    wrong = {Address("127.0.0.1", port.getHost().port): "not a node of DIDA, check the URL" for port in ports}
    wrong[odd.address] = "unexpected role gateway"
    wrong[Address("127.0.0.1", 1)] = "cannot connect to 127.0.0.1:1: name a running node, or a PCS"
    wrong[Address("no.such.host.invalid", 5)] = "cannot connect to no.such.host.invalid:5"
    for address, problem in wrong.items():
        with pytest.raises(UserError) as caught:
            await found_from(running, running.s1.address, address, ask_time=0.2)
        assert problem in str(caught.value)
        assert str(address) in str(caught.value)
        assert "\n" not in str(caught.value)
    for port in ports:
        await port.stopListening()
    await odd.port.close()


# --- what is done with it ---------------------------------------------------------------------------


@pytest_twisted.async_yield_fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    made = Scene(tmp_path)
    yield made
    await made.close()


async def attached(scene: Scene, running: Running, **options: Any) -> None:
    scene.player.cluster.owner = "puppetmaster-2"
    scene.player.cluster.take_up(await found_from(running, running.s1.address, **options))


@pytest_twisted.ensureDeferred
async def test_only_what_was_started_here_is_stopped(scene: Scene, running: Running) -> None:
    """Nodes that were there go on; those that were started from here end, and are numbered behind them."""
    await attached(scene, running)
    await scene.play("storage s3 localhost:5003\nworker w2 localhost:4002\nstorage s1 localhost:5009\n")
    assert [(start.id, start.replica, start.owner) for start in running.table.started] == [
        ("s3", 3, "puppetmaster-2"),
        ("w2", 0, "puppetmaster-2"),
    ]
    assert len(running.table.started[0].storage) == 3
    assert scene.failed == [3]
    assert sorted(type(request).__name__ for request in running.sc.told) == ["AddStorage", "AddWorker"]
    assert f"already in use: the id s1, by a storage at {running.s1.address}: choose another id" in scene.said[-1]
    await scene.player.cluster.stop_nodes()
    assert sorted(map(str, running.table.stopped)) == ["s3", "w2"]


@pytest_twisted.ensureDeferred
async def test_a_script_that_names_what_runs(scene: Scene, running: Running) -> None:
    """The script that has started a system plays on it again: its nodes are there, which is no failure; another node
    under one of their ids is one."""
    await attached(scene, running)
    text = (
        f"storage s1 {running.s1.address} 9\nworker w1 http://{running.w1.address}\nscheduler sc {running.sc.address}\n"
    )
    lines = scene.lines(text + f"worker s2 {running.s2.address}\n")
    there = [node.command for node in scene.player.cluster.nodes.named()]
    wrong = check(lines, [], [], None, there)
    assert [line.number for line, _ in wrong] == [4]
    await scene.play(text + f"worker s2 {running.s2.address}\n")
    assert running.table.started == []
    assert scene.said[0] == f"there    s1     storage    {running.s1.address}"
    assert scene.failed == [4]
    assert (
        len(check(scene.lines("crash s1\nstorage s1 localhost:1\nstorage s1 localhost:1\n"), [], [], None, there)) == 1
    )


@pytest_twisted.ensureDeferred
async def test_a_node_that_was_there_is_started_again(scene: Scene, running: Running) -> None:
    """It has the number, delay and owner that it had, and goes on when the puppetmaster ends."""
    running.enter(running.s2, owner="somebody")
    await attached(scene, running)
    await scene.play("crash s2\nrestart s2\nrestart w1\n")
    assert scene.failed == []
    assert sorted((start.id, start.replica, start.owner, start.gossip_delay) for start in running.table.started) == [
        ("s2", 2, "somebody", 0),
        ("w1", 0, "", 7),
    ]
    await scene.player.cluster.stop_nodes()
    assert running.table.stopped == []


@pytest_twisted.ensureDeferred
async def test_a_node_that_was_there_ends(scene: Scene, running: Running) -> None:
    """That is said; no line of the script has failed for it."""
    await attached(scene, running)
    await until(lambda: scene.player.cluster.pcs_directory._pcs["localhost"].table)
    running.table.change("w1", state="ended", ended="signal SIGKILL")
    await until(lambda: scene.said)
    assert scene.said == ["note: w1 has ended unexpectedly: signal SIGKILL"]
    assert scene.failed == []


@pytest_twisted.ensureDeferred
async def test_nodes_without_a_pcs(scene: Scene, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are asked, and crashed, directly; what only a PCS can do is refused in a line that says where to do it."""
    await attached(scene, running, pcs=False)
    monkeypatch.setattr(running.s1, "cmd_crash", lambda request: running.s1.port.close() and None, raising=False)
    await scene.play("status\ndebug\npause w1\nslow w1 5\nstop s1\nrestart s1\ncrash s1\n")
    assert any(line.split()[:4] == ["w1", "worker", str(running.w1.address.port), "ready"] for line in scene.said)
    problem = "no PCS is known that has started w1: do that on 127.0.0.1, where its process is 13"
    assert f"script line 3: pause w1: {problem}" in scene.said
    assert scene.failed == [3, 5, 6]
    assert running.w1.told == [Slow(5)]
    assert scene.said[-1] == f"crashed  s1     storage    {running.s1.address}"
    running.closed.append(running.s1)
    assert [request.to for request in running.w1.debug] == ["127.0.0.1:10001"]
    await scene.player.cluster.debug_off()
    assert [request.switch for request in running.w1.debug] == ["on", "off"]


# --- a port that is somebody else's -----------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_node_of_another_system_is_at_the_address(scene: Scene, running: Running) -> None:
    """The node is not started, and no other one is told of it: it would take the other system's node for that one.
    Where something else listens the node itself finds out."""
    who = partial(who_listens, scene.reactor)
    scene.player = scene.another_player([scene.pcs.address], who_listens=who)
    silent = scene.reactor.listenTCP(0, Factory.forProtocol(Stranger), interface="127.0.0.1")
    odd = silent.getHost().port
    await scene.play(
        f"worker w1 {running.w1.address}\nworker w2 localhost:1\nworker w3 127.0.0.1:{odd}\nstorage s1 localhost:2\n"
        f"storage s2 {running.s2.address}\nscheduler sc localhost:3\n"
    )
    use = "not started from here: address already in use: choose another port, or stop what listens there"
    assert sorted(line for line in scene.said if "line" in line) == [
        f"script line 1: worker w1 {running.w1.address}: the worker w1 is at {running.w1.address}, {use}",
        f"script line 5: storage s2 {running.s2.address}: the storage s2 is at {running.s2.address}, {use}",
    ]
    started = {start.id: start for start in scene.table.started}
    assert set(started) == {"w2", "w3", "s1", "sc"}
    assert started["sc"].worker == ["w2=localhost:1", f"w3=127.0.0.1:{odd}"]
    assert started["sc"].storage == started["s1"].storage == ["1=s1@localhost:2"]
    await silent.stopListening()
