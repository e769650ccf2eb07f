"""The clock that never steps: reactors, whose time of day is stepped under them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock, LoopingCall, deferLater

from dida.client.storage_client import StorageClient
from dida.protocols.clock import steady, time_of_day
from dida.protocols.links import ReconnectingClient
from tests.support.nodes import ROOT, environment, free_port

HOUR = 3600.0


class TimeOfDay:
    """What Twisted's reactors ask; it can be set."""

    def __init__(self) -> None:
        self.off = 0.0

    def __call__(self) -> float:
        return time_of_day() + self.off


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch) -> TimeOfDay:
    made = TimeOfDay()
    monkeypatch.setattr(ReactorBase, "seconds", staticmethod(made))
    return made


@pytest.fixture
def reactor() -> Iterator[Any]:
    """A reactor that is turned by hand; not the one of the process."""
    made = SelectReactor()
    yield made
    for each in made.removeAll():
        each.connectionLost(ConnectionDone())


def turn(reactor: Any, calls: list[Any], seconds: float = 0.3) -> None:
    """Turns, until something is called or the time is over."""
    end = time.monotonic() + seconds
    while not calls and time.monotonic() < end:
        reactor.iterate(0.01)


@pytest.mark.parametrize("off", [-HOUR, HOUR])
def test_what_waits_is_not_moved_by_a_step(day: TimeOfDay, reactor: Any, off: float) -> None:
    """What is to come soon comes soon, and what is to come later does not come yet; a LoopingCall goes on."""
    steady(reactor)
    before = reactor.seconds()
    calls: list[str] = []
    late = reactor.callLater(60, calls.append, "late")
    deferLater(reactor, 0.02).addCallback(lambda _: calls.append("soon"))
    answer: Deferred[None] = Deferred()
    answer.addTimeout(0.1, reactor).addErrback(lambda _: calls.append("timed out"))
    loop = LoopingCall(lambda: calls.append("again"))
    loop.clock = reactor
    loop.start(0.05, now=False)
    day.off = off
    for expected in ("soon", "again"):
        turn(reactor, calls)
        assert calls == [expected]
        calls.clear()
    late.reset(50)
    assert 49 < late.getTime() - reactor.seconds() < 51
    assert 0 < reactor.seconds() - before < 10
    turn(reactor, calls)
    assert set(calls) <= {"again", "timed out"}
    loop.stop()
    late.cancel()
    for call in reactor.getDelayedCalls():
        call.cancel()


@pytest.mark.parametrize("off", [-HOUR, HOUR])
def test_a_reactor_that_is_in_use(day: TimeOfDay, reactor: Any, off: float) -> None:
    """A reactor of somebody else's goes on from where it is: its calls, and times taken before, stay right."""
    calls: list[str] = []
    reactor.callLater(0.02, calls.append, "soon")
    late = reactor.callLater(60, calls.append, "late")
    taken = reactor.seconds()
    StorageClient(reactor)
    again = reactor.seconds
    ReconnectingClient(reactor, "localhost", 1)
    assert reactor.seconds is again, "it is done once"
    day.off = off
    turn(reactor, calls)
    assert calls == ["soon"]
    assert 0 <= reactor.seconds() - taken < 10
    late.reset(50)
    assert 49 < late.getTime() - reactor.seconds() < 51
    late.cancel()


def test_other_clocks_are_left_alone() -> None:
    """A test's clock stays the test's."""
    clock = Clock()
    assert steady(clock) is clock
    clock.advance(5)
    assert clock.seconds() == 5.0


SERVICES = """
import sys
from importlib import import_module

from twisted.internet import reactor
from twisted.python import runtime

kind, *words = sys.argv[1:]
options = import_module(f"dida.services.{kind}").Options()
options.parseOptions(words)
import_module(f"dida.services.{kind}").makeService(options)
before = reactor.seconds()
import time

time.time = lambda: 0.0
type(reactor).seconds = staticmethod(lambda: 0.0)
assert 0 <= reactor.seconds() - before < 10, reactor.seconds()
"""


@pytest.mark.parametrize(
    "words",
    [
        ("storage", "--id", "s1", "--replica", "1"),
        ("worker", "--id", "w1"),
        ("scheduler", "--id", "sc1"),
        ("pcs",),
        ("puppetmaster",),
    ],
    ids=lambda words: words[0],
)
def test_every_node_counts_by_it(words: tuple[str, ...], tmp_path: Any) -> None:
    """The reactor of each of the five commands never asks for the time of day."""
    at = () if words[0] == "puppetmaster" else ("--url", f"http://127.0.0.1:{free_port()}")
    command = [sys.executable, "-c", SERVICES, *words, *at]
    ended = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=30)
    assert ended.returncode == 0, ended.stderr


def test_a_script_with_a_reactor_of_our_own() -> None:
    """`dida.client` starts the reactor, and puts it on that clock."""
    script = (
        "import time; from twisted.internet import reactor; from dida.client import connect;"
        "storage = connect('localhost:1', deadline=1); before = reactor.seconds();"
        "type(reactor).seconds = staticmethod(lambda: 0.0); assert 0 <= reactor.seconds() - before < 10;"
        "storage.close()"
    )
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=30)
    assert ended.returncode == 0, ended.stderr
