"""The PCS's verbs on the line: each form, each refusal, and the client side against them."""

from __future__ import annotations

import os
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from dida.addresses import Address
from dida.errors import DidaError
from dida.pcs.client import Pcs
from dida.pcs.messages import Elsewhere, NodeEntry, Start
from dida.pcs.node import PcsNode
from dida.protocols.lines import LineServerFactory
from dida.wire.messages import Status
from tests.support.desk import Wire
from tests.support.fake_pcs import FakeTable
from tests.support.fakes import Port, refused, the_reactor, until
from tests.support.netcat import object_of

ROW = '"asked":false,"ended":"","id":"w1","line":"","log":"logs/w1.log"'


class Server:
    """A PCS with a table of rows, on a transport in memory."""

    def __init__(self) -> None:
        self.table = FakeTable()
        self.clock = Clock()
        self.connection = LineServerFactory(PcsNode("pcs", self.table), self.clock).buildProtocol(None)
        self.wire = Wire()
        self.connection.makeConnection(self.wire)

    def say(self, line: str) -> list[str]:
        self.connection.dataReceived(f"{line}\r\n".encode())
        return self.wire.lines()


@pytest.fixture
def server() -> Server:
    return Server()


def test_start(server: Server) -> None:
    """`start ROLE ID URL {…}` gives the process id; the object has what a person need not type."""
    line = 'start storage s1 http://localhost:5001 {"replica":1,"gossip_delay":5,"storage":["2=s2@localhost:5002"]}'
    assert server.say(line) == ["ok 1001"]
    assert server.table.started == [
        Start("storage", "s1", "http://localhost:5001", replica=1, gossip_delay=5, storage=["2=s2@localhost:5002"])
    ]


def test_tables(server: Server) -> None:
    """`nodes` and `watch` give the table, `status` who lives and who has ended."""
    server.say("start worker w1 localhost:4001")
    server.say("start worker w2 localhost:4002")
    server.say("crash w2")
    (nodes,) = server.say("nodes")
    assert nodes.startswith('ok {"nodes":[{' + ROW)
    (table,) = server.say("watch")
    assert table.startswith('ok {"number":4,"nodes":[{' + ROW)
    assert server.say("watch 4") == []
    me = f'"id":"pcs","role":"pcs","pid":{os.getpid()}'
    rest = '"restarts":0,"serves":"","logs":"logs","operators":null'
    assert server.say("#1 status") == [f'#1 ok {{{me},"ready":true,"alive":["w1"],"dead":["w2"],{rest}}}']
    assert server.say("status") == [], "an untagged request waits for its turn"
    server.table.change("w1", state="ended", ended="exit status 0")
    server.clock.advance(0)
    watched, status = server.wire.lines()
    assert watched.startswith('ok {"number":5,')
    assert status == f'ok {{{me},"ready":true,"alive":[],"dead":["w1","w2"],{rest}}}'


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("crash w1", "ok"),
        ("stop w1", "ok"),
        ("stop", "ok"),
        ("debug on", "ok"),
        ("output w1 2", 'ok {"lines":["line 0","line 1"]}'),
        (
            "tell w1 status",
            'ok {"id":"w1","role":"worker","ready":true,"alive":["s1","s2"],"dead":["s3"],"runs":0,"reads":4}',
        ),
        ('tell w1 "debug on {\\"ot\\":\\"localhost:10001\\"}"', 'ok {"ignored":["ot"]}'),
        ('tell w1 "debug on {\\"to\\":\\"localhost:10001\\"}"', "ok"),
        ("crash nobody", 'error no-such-node nobody "was never started here"'),
        ("tell w1 crash", "error unknown-verb crash"),
        ('tell w1 "write a b"', "error unknown-verb write"),
        ("start worker", 'error bad-request "expected: start ROLE ID URL; got 1 word after start"'),
        ("output w1 many", 'error bad-request "LINES: expected `int`, got `str`; expected: output ID [LINES]"'),
    ],
)
def test_verbs(server: Server, line: str, answer: str) -> None:
    """Every verb is answered as it says in its usage; what can't be done is one error line."""
    server.say("start worker w1 localhost:4001")
    assert server.say(line) == [answer]


def test_whom_it_serves() -> None:
    """A PCS serves the puppetmaster that has started it for itself as long as that one lives, and says so; what
    others own changes nothing. Then, when it was kept, it is everybody's."""
    factory = LineServerFactory(PcsNode("pcs", FakeTable(), "puppetmaster-1"), Clock())
    wires: dict[str, Wire] = {}
    connections: dict[str, Any] = {}
    for name in ("puppetmaster-1", "puppetmaster-2", "asks"):
        connections[name] = factory.buildProtocol(None)
        connections[name].makeConnection(wires.setdefault(name, Wire()))

    def serves() -> str:
        connections["asks"].dataReceived(b"status\r\n")
        return str(object_of(wires["asks"].lines()[-1])["serves"])

    assert serves() == "puppetmaster-1"
    for name in ("puppetmaster-1", "puppetmaster-2"):
        connections[name].dataReceived(f"own {name}\r\n".encode())
        assert serves() == "puppetmaster-1"
    connections["puppetmaster-2"].connectionLost()
    assert serves() == "puppetmaster-1"
    connections["puppetmaster-1"].connectionLost()
    assert serves() == ""
    connections["asks"].connectionLost()


def test_system() -> None:
    """A PCS knows itself, the living nodes that it has started, and those that it was told of, with their PCSs."""
    table = FakeTable()
    commands = PcsNode("pcs", table, url=Address("localhost", 10_000))
    connection = LineServerFactory(commands, Clock()).buildProtocol(None)
    connection.makeConnection(wire := Wire())
    table.known["somebody"] = [Elsewhere("s2", "storage", "http://h:5002", "h:10000", 2)]
    connection.dataReceived(
        b'start storage s1 http://localhost:5001 {"replica":1}\r\nstart worker w1 localhost:4001\r\n'
        b"start worker w2 localhost:4002\r\ncrash w2\r\nstart scheduler sc localhost:2000\r\nsystem\r\n"
    )
    assert object_of(wire.lines()[-1]) == {
        "storage": [
            {"replica": 1, "id": "s1", "url": "localhost:5001"},
            {"replica": 2, "id": "s2", "url": "h:5002"},
        ],
        "schedulers": [{"id": "sc", "url": "localhost:2000"}],
        "workers": [{"id": "w1", "url": "localhost:4001"}],
        "pcs": [{"id": "pcs", "url": "localhost:10000"}, {"id": "", "url": "h:10000"}],
        "http": [],
    }


@pytest.mark.parametrize("verb", ["stop", "crash"])
def test_a_node_that_is_to_end_ends_without_its_client(
    server: Server, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Who asked for a node's end and went away does not stop it half-way: the SIGKILL that is to follow is sent."""
    going_on: Deferred[None] = Deferred()
    monkeypatch.setattr(server.table, verb, lambda *words: going_on)
    assert server.say(f"{verb} w1") == []
    server.connection.connectionLost()
    assert not going_on.called
    going_on.callback(None)
    assert server.wire.lines() == []


def test_what_is_relayed_has_the_deadline_of_tell(server: Server) -> None:
    """`tell` waits no longer than its own deadline, nor than that of the line that it passes on."""
    server.say("start worker w1 localhost:4001")
    server.say('tell w1 status {"deadline":2}')
    server.say('tell w1 "status {\\"deadline\\":1}" {"deadline":3}')
    server.say('tell w1 "read 13"')
    assert [request.deadline for _, request in server.table.told] == [2, 1, 10]


class Heard:
    """What a client has heard of its PCS."""

    def __init__(self) -> None:
        self.troubles: list[str] = []

    def table_changed(self, pcs: Pcs) -> None:
        pass

    def pcs_back(self, pcs: Pcs) -> None:
        pass

    def trouble(self, text: str) -> None:
        self.troubles.append(text)


@pytest_twisted.ensureDeferred
async def test_client_side() -> None:
    """The client side starts, asks and kills nodes, and follows the table, also over a broken connection."""
    table = FakeTable()
    port = Port(the_reactor(), PcsNode("pcs", table))
    pcs = Pcs(the_reactor(), port.address)
    heard = Heard()
    troubles = heard.troubles
    pcs.watch(heard)
    pid = await pcs.start(Start("worker", "w1", "http://localhost:4001"))
    await until(lambda: "w1" in pcs.table)
    assert pcs.table["w1"] == NodeEntry("w1", "worker", "http://localhost:4001", pid, "ready", log="logs/w1.log")
    assert (await pcs.tell("w1", Status())).object["alive"] == ["s1", "s2"]
    with pytest.raises(DidaError) as caught:
        await pcs.crash("nobody")
    assert str(caught.value) == "no-such-node: nobody was never started here"
    await port.close()
    await until(lambda: troubles)
    assert "does not answer any more" in troubles[0]
    again = Port(the_reactor(), PcsNode("pcs", table), port.address.port)
    table.change("w1", state="ended", ended="signal SIGKILL")
    await until(lambda: pcs.table["w1"].state == "ended")
    assert troubles[1:] == [f"the PCS at {port.address} is back; what runs there: nothing"]
    await pcs.close()
    table.tell()
    await again.close()


@pytest_twisted.ensureDeferred
async def test_no_pcs() -> None:
    """Where no PCS listens, the client side says so at once."""
    pcs: Any = Pcs(the_reactor(), refused())
    with pytest.raises(DidaError) as caught:
        await pcs.stop()
    assert "no connection to" in str(caught.value)
    await pcs.close()
