"""What all tests share: nothing logged, nothing left in the reactor; node processes that end with their test."""

from __future__ import annotations

import functools
import gc
import inspect
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import HealthCheck, settings
from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import provider

from tests.support.nodes import NodeProcess, free_port
from tests.support.schedulers import System
from tests.support.turns import Room

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=10_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))

ROOM = pytest.StashKey[Room]()
FROZEN_EACH = 20
"""Tests after which what they left is no longer searched for garbage."""
_finished: list[str] = []
SETTLING_TURNS = 50
"""Turns of the reactor for what a test closed at its end to be gone."""


def pytest_sessionstart(session: pytest.Session) -> None:
    """One of two sides (`tools.sides`) shares a room with the other one."""
    room = os.environ.pop("TESTS_ROOM", "")  # it is not for a pytest that a test starts
    if room:
        session.config.stash[ROOM] = Room(Path(room))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """What is counted here goes into the closing line of both sides."""
    if ROOM in config.stash:
        config.stash[ROOM].tell({kind: len(found) for kind, found in terminalreporter.stats.items()})


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool | None, bool | None]:
    """A test that is marked `alone` waits until no other one runs; only then its time-out begins."""
    if ROOM not in item.config.stash:
        return (yield)
    with item.config.stash[ROOM].entered(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Two things that pytest-twisted does not do well.

    A test by Hypothesis is a plain call: pytest-twisted would wrap it anew for each of its parameters. And an async
    test has a deadline inside the reactor, because pytest-timeout can only end the whole run when the reactor waits.
    """
    test = pyfuncitem.obj
    if hasattr(test, "hypothesis"):
        test(**{name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames})
        return True
    if inspect.iscoroutinefunction(test):
        marker = pyfuncitem.get_closest_marker("timeout")
        limit = float(marker.args[0] if marker else pyfuncitem.config.getini("timeout"))

        @functools.wraps(test)
        async def limited(**arguments: Any) -> None:
            await Deferred.fromCoroutine(test(**arguments)).addTimeout(limit - 5, _reactor(), _where)

        pyfuncitem.obj = limited
    return None


@pytest.fixture(scope="session", autouse=True)
def _all_set_up() -> None:
    """The reactor has its own readers; and what was there before the tests is not searched for garbage after each."""
    pytest_twisted.blockon(_one_turn())
    gc.collect()
    gc.freeze()


def pytest_runtest_logfinish(nodeid: str) -> None:
    """Now and then what has stayed of the tests so far (reports, caches) is left out of the search for garbage, too.

    That search comes after each test. Here the test's own objects are gone, so none of them is left out.
    """
    _finished.append(nodeid)
    if len(_finished) == FROZEN_EACH:
        _finished.clear()
        gc.collect()
        gc.freeze()


@pytest.fixture
def logged_errors() -> Iterator[list[LogEvent]]:
    """The errors logged during the test; one that expects some takes them out of the list."""
    found: list[LogEvent] = []

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event.get("log_level") in (LogLevel.error, LogLevel.critical) or event.get("isError"):
            found.append(event)

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)


@pytest.fixture(autouse=True)
def _clean(logged_errors: list[LogEvent]) -> Iterator[None]:
    """Fails a test that logged an error, or left a call, a port or a connection behind in the reactor."""
    before = _in_reactor()
    yield
    for _ in range(SETTLING_TURNS):
        if not _in_reactor() - before:
            break
        pytest_twisted.blockon(_one_turn())
    left = _in_reactor() - before
    gc.collect()  # an error in a Deferred that nobody owned is logged now
    assert not left, "left in the reactor: " + ", ".join(map(repr, left))
    texts = [
        event["log_failure"].getTraceback() if "log_failure" in event else formatEvent(event) for event in logged_errors
    ]
    assert not texts, "logged errors:\n" + "\n".join(texts)


def _where(cancelled: Failure, seconds: float) -> Failure:
    """What a test fails with at its deadline: the CancelledError, whose traceback shows what it awaited."""
    return cancelled


def _reactor() -> Any:
    from twisted.internet import reactor

    return reactor


def _in_reactor() -> set[Any]:
    reactor = _reactor()
    return {*reactor.getDelayedCalls(), *reactor.getReaders(), *reactor.getWriters()}


def _one_turn() -> Deferred[None]:
    return task.deferLater(_reactor(), 0)


@pytest.fixture
def port() -> int:
    """A free TCP port of the loopback interface."""
    return free_port()


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Starts `twistd -n COMMAND OPTION…` as a process: `start_node("dida-worker", "--id", "w1", …, port=4001)`.

    `port` adds `--url`. Without `ready=False` it is waited for until it is. All end with the test.
    """
    started: list[NodeProcess] = []

    def start(command: str, *options: str, port: int | None = None, ready: bool = True) -> NodeProcess:
        url = () if port is None else ("--url", f"http://127.0.0.1:{port}")
        node = NodeProcess(command, *options, *url, folder=tmp_path, port=port)
        started.append(node)
        return node.wait_ready() if ready and port is not None else node

    yield start
    for node in started:
        node.ask_to_end()
    for node in started:
        node.end()


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    """The system, started by the test."""
    made = System(tmp_path)
    for key, value in (("13", "1"), ("14", "one_ahead_of_13"), ("23", "11"), ("24", "one_ahead_of_23")):
        made.storage.group.put(key, value)
    yield made
    made.close()
