"""`Threads`: calls in a bounded number of threads, none of which waits for another one that takes long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Barrier, Event
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from dida.protocols.deadlines import SLACK, Deadlines
from dida.worker.threads import Threads, TimedOut
from tests.support.nodes import until

SECONDS = 10.0
"""More than any of these calls takes."""


class Reactor(Clock):
    """Virtual time, and calls from threads that are made when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.from_threads: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def callFromThread(self, call: Callable[[], None]) -> None:
        self.from_threads.put(call)

    def until(self, condition: Callable[[], bool]) -> None:
        """Make calls until it is true."""
        while not condition():
            self.from_threads.get(timeout=SECONDS)()


@pytest.fixture
def reactor() -> Reactor:
    return Reactor()


@pytest.fixture
def threads(reactor: Reactor) -> Iterator[Threads]:
    threads = Threads(reactor, 3)
    yield threads
    threads.stop()
    assert not reactor.getDelayedCalls()


def collected(*results: Deferred[Any]) -> list[Any]:
    """What has come of them, in the order in which it comes."""
    found: list[Any] = []
    for result in results:
        result.addBoth(found.append)
    return found


def test_all_are_executed(reactor: Reactor, threads: Threads) -> None:
    """However many there are, in whatever threads; what a call raises is its result."""
    found = collected(*(threads.run(lambda n=n: 60 // n, SECONDS, SECONDS) for n in range(61)))  # type: ignore[misc]
    reactor.until(lambda: len(found) == 61)
    failures = [each for each in found if not isinstance(each, int)]
    assert sorted(each for each in found if isinstance(each, int)) == sorted(60 // n for n in range(1, 61))
    assert [each.type for each in failures] == [ZeroDivisionError] and threads.waiting == 0


def test_none_waits_for_one_that_takes_long(reactor: Reactor, threads: Threads) -> None:
    """As many as there are threads are executed at the same time: each of these ends when all have begun."""
    for _ in range(20):
        together = Barrier(3)
        found = collected(*(threads.run(lambda: together.wait(SECONDS), SECONDS, SECONDS) for _ in range(3)))  # noqa: B023
        reactor.until(lambda: len(found) == 3)  # noqa: B023
        assert sorted(found) == [0, 1, 2]


def test_no_more_at_once_than_there_are_threads(reactor: Reactor, threads: Threads) -> None:
    """The others wait, and are told apart when their time is over."""
    go_on = Event()
    found = collected(*(threads.run(lambda: go_on.wait(SECONDS), SECONDS, SECONDS) for _ in range(3)))
    late = collected(threads.run(lambda: True, SECONDS, 1.0))
    assert threads.waiting == 1
    reactor.advance(1.0)
    assert late == [TimedOut(False)] and threads.waiting == 0
    go_on.set()
    reactor.until(lambda: len(found) == 3)
    assert found == [True] * 3


def test_a_stuck_thread_is_replaced(reactor: Reactor, threads: Threads) -> None:
    """A call that takes too long is late, others take its place, and its thread is of use again when it is back."""
    go_on = Event()
    late = collected(*(threads.run(lambda: go_on.wait(SECONDS), 0.5, SECONDS) for _ in range(3)))
    found = collected(threads.run(lambda: "done", SECONDS, SECONDS))
    assert threads.waiting == 1
    reactor.advance(0.5)
    assert late == [TimedOut(True)] * 3 and threads.stuck == 3
    reactor.until(lambda: len(found) == 1)
    go_on.set()
    reactor.until(lambda: threads.stuck == 0)
    assert found == ["done"] and late == [TimedOut(True)] * 3


def test_who_is_given_up_by_another_one(reactor: Reactor, threads: Threads) -> None:
    """A call whose result is there, but was not told yet, leaves no stuck thread behind."""
    first, second = (threads.run(lambda: True, SECONDS, SECONDS) for _ in range(2))
    heard: list[Any] = []
    for one, other in ((first, second), (second, first)):
        one.addCallbacks(lambda result, other=other: heard.append(other.cancel()), lambda failure: None)
    until("both have ended", lambda: len(threads._done) == 2, SECONDS)
    reactor.until(lambda: bool(heard))
    assert len(heard) == 1 and threads.stuck == 0


def test_deadlines() -> None:
    """Those that are not cancelled are called, each at its time."""
    clock = Clock()
    deadlines = Deadlines(clock)
    called: list[int] = []
    given = {n: deadlines.add(n, lambda n=n: called.append(n)) for n in (5, 1, 3, 2, 4)}  # type: ignore[misc]
    deadlines.cancel(given[1])
    deadlines.cancel(given[4])
    clock.pump([1, 1])
    assert called == [2]
    deadlines.cancel(given[2])
    clock.advance(10)
    assert called == [2, 3, 5] and not clock.getDelayedCalls()


def test_deadlines_that_are_met_leave_nothing() -> None:
    """Neither memory, while others are still open, nor, in the end, a timer; and there is one timer at most."""
    clock = Clock()
    deadlines = Deadlines(clock)
    last = deadlines.add(100, lambda: None)
    for n in range(1000):
        deadlines.cancel(deadlines.add(n % 7, lambda: None))
        assert len(clock.getDelayedCalls()) == 1 and len(deadlines._heap) <= SLACK + 5
    deadlines.cancel(last)
    assert not clock.getDelayedCalls() and not deadlines._heap
