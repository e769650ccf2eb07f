"""A storage node is killed at each step of an updateIf: when that is noticed, when there is a new view, when the
client has its answer.

Four nodes without any delay. The node that dies is started with a failpoint; the client asks another one. The
times are those of the client's machine: the death is the process's end (a pidfd), detection the first word of it
in the `status` of a survivor (looked at every millisecond), the new view the answer to `watch`.
"""

from __future__ import annotations

import os
import select
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from attrs import frozen

from benchmarks.load import LoadFailed
from benchmarks.nodes import storage
from dida.placement import Ring
from tests.support.clusters import StorageCluster
from tests.support.netcat import Netcat

COORDINATOR = (
    "forward.receive",
    "prepare.send",
    "prepare.send@3",
    "prepare.answered",
    "prepare.answered@3",
    "prepare.send@4",
    "forward.reply",
)
"""The steps at which the node dies that coordinates the commit, in their order; `@N`: at the N-th time. It sends the
record to three members, gets their answers, and sends the commit."""
PARTICIPANT = ("prepare.receive", "prepare.reply", "prepare.receive@2", "prepare.reply@2")
"""The steps at which one of the others dies: at the record, and at the commit."""
NODES = 4
KEY = "k"
WITHIN = 15.0
"""Seconds within which all of it is over."""


@frozen
class Crash:
    """One kill; all times are medians over the rounds, in milliseconds, `view` and `detected` since the death."""

    step: str
    who: str
    detected_ms: float
    view_ms: float
    answer_ms: float
    """From the client's request to its reply."""
    added_ms: float
    """What of it the crash added: beyond the same updateIf without one."""
    rounds: tuple[dict[str, float], ...]


def measure(steps: Iterable[str], rounds: int) -> list[Crash]:
    """Kill a node at each of these steps, in turns, so many times."""
    steps = list(steps)
    found: dict[str, list[dict[str, float]]] = {step: [] for step in steps}
    with storage(NODES) as cluster:
        home = int(Ring(map(str, cluster.nodes)).owner(KEY) or 0)
        asked, other, *_ = (number for number in cluster.nodes if number != home)
        usual = _usual(cluster, asked)
        for _ in range(rounds):
            for step in steps:
                victim = home if step in COORDINATOR else other
                found[step].append(_one(cluster, victim, asked, step))
    return [_crash(step, times, usual) for step, times in found.items()]


def _crash(step: str, times: list[dict[str, float]], usual: float) -> Crash:
    detected, view, answer = (
        statistics.median(each[name] for each in times) for name in ("detected", "view", "answer")
    )
    who = "coordinator" if step in COORDINATOR else "participant"
    return Crash(step, who, detected, view, answer, answer - usual, tuple(times))


def _usual(cluster: StorageCluster, asked: int) -> float:
    """Milliseconds of the same updateIf when nobody dies."""
    taken = []
    with cluster.nodes[asked].connect() as node:
        node.ask(f"write {KEY} old")
        for _ in range(20):
            begun = time.monotonic()
            _expect_ok(node.ask(f"updateif {KEY} old old"))
            taken.append(1000 * (time.monotonic() - begun))
    return statistics.median(taken)


def _expect_ok(reply: str) -> None:
    if not reply.startswith("ok"):
        raise LoadFailed(reply)


def _one(cluster: StorageCluster, victim: int, asked: int, step: str) -> dict[str, float]:
    """Restart the node that is to die, with the failpoint, and send the request."""
    cluster.nodes[victim].kill()
    for number, node in cluster.nodes.items():
        if number != victim and node.process.poll() is not None:
            cluster.start(number)  # it died at a step before
    survivors = [number for number in cluster.nodes if number != victim]
    cluster.wait_members(*survivors)
    place, at, times = step.partition("@")
    cluster.start(victim, ready=False, options=("--failpoint", f"{place}=kill{at}{times}"))
    cluster.wait_members(*cluster.nodes)
    pid = cluster.nodes[victim].pid
    with ThreadPoolExecutor() as threads, cluster.nodes[asked].connect() as client:
        for number in survivors:  # what is written reaches all: each has a connection to each
            _expect_ok(cluster.nodes[number].ask(f"write {KEY} old"))
        cluster.wait_equal(*cluster.nodes)
        ready = [
            threads.submit(_death, pid),
            threads.submit(_word, [cluster.nodes[number].connect() for number in survivors]),
            threads.submit(_view, cluster.nodes[asked].connect()),
        ]
        time.sleep(0.1)  # the three look by now
        begun = time.monotonic()
        _expect_ok(client.ask(f"updateif {KEY} old old"))
        answered = time.monotonic()
        died, detected, view = (future.result(WITHIN) for future in ready)
    return {
        "answer": 1000 * (answered - begun),
        "death": 1000 * (died - begun),
        "detected": 1000 * (detected - died),
        "view": 1000 * (view - died),
    }


def _death(pid: int) -> float:
    """Return when the process ended."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(1000 * WITHIN):
            raise LoadFailed("the failpoint did not kill the node")
        return time.monotonic()
    finally:
        os.close(descriptor)


def _word(connections: list[Netcat]) -> float:
    """Return when a survivor first reported that something is wrong: a note, or that it does not serve."""

    def said(connection: Netcat) -> tuple[Any, ...]:
        status = connection.ask_object("status")
        return status["ready"], status["view"], status["notes"]

    before = [said(connection) for connection in connections]
    try:
        for _ in _until(lambda: any(said(c) != was for c, was in zip(connections, before, strict=True))):
            time.sleep(0.001)
        return time.monotonic()
    finally:
        for connection in connections:
            connection.close()


def _until(condition: Callable[[], bool]) -> Iterator[None]:
    end = time.monotonic() + WITHIN
    while not condition():
        if time.monotonic() > end:
            raise LoadFailed("no survivor reported that a node is dead")
        yield


def _view(connection: Netcat) -> float:
    """Return when the node had another view than now."""
    with connection:
        connection.ask(f"watch {connection.ask_object('watch')['view']}")
        return time.monotonic()
