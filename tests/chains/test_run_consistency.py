"""Chains over lagging replicas, in virtual time: what each run has read and written keeps the rules of chains."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import Any

import pytest
from attrs import Factory, define

from dida.client.operations import ClientOperation, Done, Pause, ReadOperation, UpdateIfOperation, WriteOperation
from dida.client.replicas import ReplicaDirectory
from dida.client.sessions import CausalContext, RunUpdate
from dida.errors import NO_SUCH_VERSION, DidaError
from dida.interfaces import Access
from dida.replication.config import Config
from dida.simulate import checkers
from dida.simulate.network import Cluster, Network
from dida.simulate.node import Node
from dida.timestamps import Timestamp
from dida.versions import Version
from dida.wire import grammar
from dida.wire.messages import Journal, Read, Reply, UpdateIf, Write, vocabulary

KEYS = ("a", "b", "c")
STEPS, CALLS = 5, 3
DEADLINE = 20.0
VOCABULARY = vocabulary(Read, Write, UpdateIf)


@define(eq=False)
class Run:
    """A run: its steps one after the other, each by a worker that knows only what the meta record carries."""

    name: str
    chains: Chains
    after: Timestamp = Factory(dict)
    versions: dict[str, Version] = Factory(dict)
    touches: list[Access] = Factory(list)
    values: dict[str, str] = Factory(dict)
    failed: str = ""
    ended: bool = False
    calls: int = 0
    seen: CausalContext = Factory(CausalContext)
    number: int = 0

    def next(self) -> None:
        """The next call of the step, or the next step."""
        if self.calls % CALLS == 0:
            self.touches += [t for t in self.seen.records if t not in self.touches]
            if self.calls == STEPS * CALLS:
                self.ended = True
                return
            self.seen = CausalContext(self.after, self.versions)
            self.chains.choose_worker(self)
        self.calls += 1
        rng, now = self.chains.rng, self.chains.cluster.now
        key, value = rng.choice(KEYS), f"{self.name}.{self.calls}"
        roll, ends, replicas = rng.random(), now + DEADLINE, self.chains.replicas
        operation: ClientOperation[Any] = ReadOperation(replicas, self.seen, key, ends)
        if roll < 0.3:
            operation = WriteOperation(replicas, self.seen, key, ends, value, ids=self._update())
        elif roll < 0.6 and key in self.values:
            operation = UpdateIfOperation(replicas, self.seen, key, ends, self.values[key], value, ids=self._update())
        elif (known := self.seen.known(key, None)) is not None:
            self.values[key] = known.value
            self.next()
            return
        self.go_on(operation)

    def _update(self) -> RunUpdate:
        return RunUpdate(self.name, self._next_number, Journal(0, "", self.calls, 0, "w"))

    def _next_number(self) -> int:
        self.number += 1
        return self.number

    def go_on(self, operation: ClientOperation[Any]) -> None:
        try:
            step = operation.next(self.chains.cluster.now)
        except DidaError as problem:
            self._fail(problem)
            return
        if isinstance(step, Pause):
            self.chains.cluster.at(step.seconds, partial(self.go_on, operation))
        else:
            self.chains.ask(str(step.member.address), step.request, partial(self.on_reply, operation, step.member))

    def on_reply(self, operation: ClientOperation[Any], member: Any, reply: Reply) -> None:
        try:
            done = operation.on_reply(member, reply)
        except DidaError as problem:
            self._fail(problem)
            return
        if not isinstance(done, Done):
            self.go_on(operation)
            return
        if isinstance(operation, ReadOperation):
            self.values[operation.key] = done.value.value
        self.chains.cluster.at(0.2 * self.chains.rng.random(), self.next)

    def _fail(self, problem: DidaError) -> None:
        self.failed, self.ended = problem.code, True
        self.touches += [t for t in self.seen.records if t not in self.touches]


class Chains:
    """Storage nodes with a gossip delay, and interleaved runs on the same keys."""

    def __init__(self, seed: int, gossip_delay: float, max_versions: int) -> None:
        self.rng = Random(seed)
        config = Config(gossip_delay=gossip_delay, max_versions=max_versions)
        self.cluster = Cluster(Random(seed + 1), 3, config, Network(mean_delay=0.002))
        self.cluster.on_reply = self._replied
        self.replicas = ReplicaDirectory(self.cluster.named)
        self.runs: list[Run] = []
        self._waiting: dict[Any, Any] = {}

    def play(self, count: int) -> None:
        cluster = self.cluster
        for node in cluster.nodes.values():
            cluster.start(node)
        serving = lambda: all(n.replica is not None and n.replica.context.serving for n in cluster.nodes.values())  # noqa: E731
        assert cluster.run(5.0, serving)
        for key in KEYS:
            self.ask(next(iter(cluster.nodes)), Write(key, f"initial-{key}"), lambda reply: None)
        cluster.run(cluster.now + 2 * cluster.config.gossip_delay + 1)
        for number in range(count):
            run = Run(f"r{number}", self)
            self.runs.append(run)
            cluster.at(0.5 * number, run.next)
        assert cluster.run(cluster.now + 600.0, lambda: all(run.ended for run in self.runs))

    def choose_worker(self, run: Run) -> None:
        """A step's worker may have found any replica slow: the next one on the ring is asked, which lags."""
        for member in self.cluster.named:
            self.replicas.trust(member)
        for member in self.rng.sample(self.cluster.named, self.rng.randint(0, 2)):
            self.replicas.suspect(member, float("inf"))

    def ask(self, url: str, request: Any, then: Any) -> None:
        token = ("run", len(self._waiting))
        self._waiting[token] = then
        request = grammar.decode(grammar.encode(request), VOCABULARY)[1]
        self.cluster.at(0.001, lambda: self.cluster.ask(url, request, token))

    def _replied(self, token: Any, reply: Reply, node: Node) -> None:
        self.cluster.at(0.001, lambda: self._waiting[token](reply))


SEEDS = [seed if seed < 3 else pytest.param(seed, marks=pytest.mark.long) for seed in range(10)]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_hundred_runs_over_lagging_replicas(seed: int) -> None:
    """Interleaved runs on the same keys, replicas lagging by 2 s: each sees its own writes, reads a record in one
    version and nothing older than what it implies; it fails only where a version was discarded everywhere."""
    chains = Chains(seed, gossip_delay=2.0, max_versions=100_000 if seed % 5 else 10)
    chains.play(100)
    assert checkers.runs({run.name: run.touches for run in chains.runs}) == []
    assert {run.failed for run in chains.runs} <= ({""} if seed % 5 else {"", NO_SUCH_VERSION})
    assert sum(not run.failed for run in chains.runs) > 20
    assert sum(len(run.touches) for run in chains.runs) > 500
