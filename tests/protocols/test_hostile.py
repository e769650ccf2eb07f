"""Hostile input: what one client sends stalls no other one for long, and costs little memory, whatever it is."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Iterator

import pytest
from twisted.internet.task import Clock

from dida.protocols import lines
from dida.protocols.lines import LineServerFactory
from tests.support.desk import Desk, Wire

STALL = 0.1
"""Seconds of the processor for which nobody else is served, at most."""
COST = 8 * 2**20
"""Bytes of memory, at most."""
READ = 2**16
"""Bytes that the reactor reads at once."""
MEGABYTE = 2**20 - 100

ATTACKS = {
    "no line end": b"x" * (5 * 2**20),
    "braces": b'ping {"a":' * 100_000 + b"\n",
    "nested": b'ping {"a":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001 + b"\n",
    "brackets": b'ping {"a":' + b"[" * 900_000 + b"\n",
    "timestamp": b'read k {"after":%b}\n' % json.dumps({f"{n}:abc": n for n in range(50_000)}).encode(),
    "members": b"ping {%b}\n" % b",".join(b'"x%d":0' % n for n in range(80_000)),
    "arrays": b'ping {"a":[%b]}\n' % b",".join([b"[]"] * 300_000),
    "behind a string": b'read "k {" {"a":[%b]}\n' % b",".join([b"[]"] * 300_000),
    "behind a tab": b'ping\t{"a":[%b]}\n' % b",".join([b"[]"] * 300_000),
    "without a verb": b'{"a":[%b]}\n' % b",".join([b"[]"] * 300_000),
    "not closed": b'read "' + b'\\",' * 300_000 + b"\n",
    "not closed in an object": b'ping {"a":"' + b'\\",' * 300_000 + b"\n",
    "strings": b"ping {" + b'"," ' * 200_000 + b"\n",
    "blanks": b" " * MEGABYTE + b"\n",
    "words": b"read " + b"a " * (MEGABYTE // 2 - 5) + b"\n",
    "quoted words": b"read " + b'"a" ' * (MEGABYTE // 4 - 5) + b"\n",
    "quotes": b'"' * MEGABYTE + b"\n",
    "escaped quotes": b'read "' + b'\\"' * (MEGABYTE // 2 - 5) + b"\n",
    "surrogates": b'read "' + b"\\ud83d\\ude00" * 80_000 + b'"\n',
    "erasures": b"ab\x7f\x7f" * (MEGABYTE // 4) + b"\n",
    "telnet options": b"\xff\xfb\x01" * (MEGABYTE // 3) + b"\n",
    "no text": b"read " + b"\xc3" * (MEGABYTE - 10) + b"\n",
    "a long tag": b"#" + b"x" * (MEGABYTE - 10) + b" ping\n",
    "a long number": b'ping {"deadline": ' + b"9" * (MEGABYTE - 30) + b"}\n",
    "empty lines": b"\n" * 100_000,
    "tags": b"".join(b"#%d ping\n" % n for n in range(20_000)),
    "unknown verbs": b"a\n" * 40_000,
}


class Working(Clock):
    """A clock that goes on as long as this thread has the processor."""

    def seconds(self) -> float:
        return super().seconds() + time.thread_time()


def attack(said: bytes) -> Iterator[float]:
    """Send it to a node, and let the node work; how long it works without a look at others, each time."""
    clock = Working()
    connection = LineServerFactory(Desk(), clock).buildProtocol(None)
    wire = Wire()
    connection.makeConnection(wire)
    for at in range(0, len(said), READ):
        while wire.producerState == "paused":
            assert connection._resumption is not None
            connection._resumption.cancel()
            began = time.thread_time()
            connection._resume()
            yield time.thread_time() - began
            wire.clear()
        began = time.thread_time()
        connection.dataReceived(said[at : at + READ])
        yield time.thread_time() - began
        wire.clear()
    connection.connectionLost()


@pytest.mark.parametrize("name", ATTACKS)
def test_nobody_is_stalled(name: str) -> None:
    """Whatever one client says, the node looks at the others in between."""
    assert max(attack(ATTACKS[name])) < STALL


@pytest.mark.parametrize("name", ATTACKS)
def test_it_costs_little(name: str) -> None:
    """Whatever one client says, it takes a few times the memory of a line."""
    said = ATTACKS[name]
    if said.count(b"\n") > 1:  # many lines cost as much as a few, and tracing them takes long
        said = said[: READ // 4]
    tracemalloc.start()
    try:
        for _ in attack(said):
            pass
        assert tracemalloc.get_traced_memory()[1] < COST
    finally:
        tracemalloc.stop()


def test_idle_connections_cost_little() -> None:
    """Of the cost of two thousand idle connections ours is the smaller part."""
    factory = LineServerFactory(Desk(), Clock())
    wires = [Wire() for _ in range(2000)]
    tracemalloc.start()
    try:
        for wire in wires:
            factory.buildProtocol(None).makeConnection(wire)
        assert tracemalloc.get_traced_memory()[0] < COST / 2
    finally:
        tracemalloc.stop()


def test_a_flood_is_read_no_faster_than_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that did not fit into one turn are served before more is read, in their order; all are answered."""
    clock = Clock()
    monkeypatch.setattr(clock, "seconds", iter(range(10**6)).__next__)  # each look at it takes a second
    connection = LineServerFactory(Desk(), clock).buildProtocol(None)
    wire = Wire()
    connection.makeConnection(wire)
    connection.dataReceived(b"".join(b"#%d ping\n" % n for n in range(100)))
    turns = 0
    answers = wire.lines()
    while wire.producerState == "paused":
        turns += 1
        connection._resume()
        answers += wire.lines()
    assert answers == [f"#{n} ok" for n in range(100)]
    assert turns > 5


def test_many_floods_share_the_time_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With many connections that say too much at once each gets a part of the time, and the others are not stalled."""
    clock = Working()
    factory = LineServerFactory(Desk(), clock)
    connections = []
    for _ in range(50):
        connection = factory.buildProtocol(None)
        connection.makeConnection(Wire())
        connections.append(connection)
        connection.dataReceived(b"a\n" * (READ // 2))
    assert len(factory.crowd) == 50
    worked = []
    for connection in connections:
        began = time.thread_time()
        connection._resume()
        worked.append(time.thread_time() - began)
    assert sum(worked) < STALL
    assert lines.TURN < STALL / 10
    for connection in connections:
        connection.connectionLost()
    assert factory.crowd == set()
