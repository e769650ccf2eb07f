"""The storage in memory: one real replica and the client's real operations, without a network, in virtual time.

It replies as a storage node does: versions, errors, update ids, kept and discarded versions. It can't show what several
replicas do: lag, crashes, lost updates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from dida.addresses import Address, StorageAddress
from dida.chains.journal import History
from dida.chains.records import KnownValue, Meta
from dida.client.operations import (
    ClientOperation,
    ListOperation,
    Pause,
    ReadOperation,
    UpdateIfOperation,
    VersionsOperation,
    WriteOperation,
)
from dida.client.replicas import ReplicaDirectory
from dida.client.sessions import CausalContext, RequestIds
from dida.client.storage_client import StorageClient
from dida.interfaces import IStorage, Record
from dida.replication.config import Config
from dida.replication.messages import Member
from dida.replication.outputs import Answer, Output
from dida.replication.replica import Replica
from dida.versions import Version
from dida.wire import grammar
from dida.wire.texts import plain, plain_version
from dida.worker.run_storage import RunStorage

ADDRESS = StorageAddress(1, "memory", Address("memory", 1))
TICK = 0.001
"""Virtual time that an operation takes, in seconds."""

_T = TypeVar("_T")


@implementer(IStorage)
class View:
    """The storage as one client sees it."""

    deadline = 10.0

    def __init__(self, node: _Node, seen: CausalContext, ids: RequestIds) -> None:
        self._node = node
        self._seen = seen
        self._ids = ids

    def read(self, key: str, version: Version | None = None) -> Record:
        """Return the record, the newest or that version."""
        (key,), version = plain(key), plain_version(version)
        known = self._seen.known(key, version)
        if known is not None:
            return known
        node = self._node
        return node.carry_out(ReadOperation(node.replicas, self._seen, key, node.now + self.deadline, version))

    def write(self, key: str, value: str) -> Version:
        """Write a new version."""
        key, value = plain(key, value)
        node = self._node
        ends = node.now + self.deadline
        return node.carry_out(WriteOperation(node.replicas, self._seen, key, ends, value, ids=self._ids))

    def update_if_value_is(self, key: str, old: str, new: str) -> Version | None:
        """Compare and swap; return None if the value is not `old`."""
        key, old, new = plain(key, old, new)
        node = self._node
        ends = node.now + self.deadline
        return node.carry_out(UpdateIfOperation(node.replicas, self._seen, key, ends, old, new, ids=self._ids))


class MemoryStorage(View):
    """A storage with the newest `max_versions` of each record; `records` are written first."""

    def __init__(self, records: Mapping[str, str] | None = None, max_versions: int = 10) -> None:
        super().__init__(_Node(max_versions), CausalContext(), RequestIds("memory"))
        self._runs = 0
        for key, value in (records or {}).items():
            self.write(key, value)

    @property
    def records(self) -> dict[str, list[tuple[Version, str]]]:
        """All records: key to (version, value), newest first."""
        node = self._node
        found: dict[str, list[tuple[Version, str]]] = {}
        start: str | None = ""
        while start is not None:
            page = node.carry_out(ListOperation(node.replicas, self._seen, start, node.now + self.deadline))
            found.update(page.records)
            start = page.next
        return found

    @property
    def values(self) -> dict[str, str]:
        """All records: key to newest value."""
        return {key: versions[0][1] for key, versions in self.records.items()}

    def versions(self, key: str) -> list[tuple[Version, str]]:
        """Return the kept versions of a record, newest first."""
        node = self._node
        return node.carry_out(VersionsOperation(node.replicas, self._seen, key, node.now + self.deadline))

    def new_run(self) -> Meta:
        """Return the meta record of a new run."""
        self._runs += 1
        return Meta(run=f"r{self._runs}-memory", scheduler="memory:1", storage=(str(ADDRESS),))


@implementer(IStorage)
class StepView:
    """The storage as one attempt of a step sees it: what workers give to operators, with calls that return at once."""

    def __init__(self, storage: MemoryStorage, meta: Meta, history: History, known: Iterable[KnownValue] = ()) -> None:
        self._client = MemoryClient(storage)
        self.deadline = storage.deadline
        self.run = RunStorage(self._client, meta, storage.deadline, history, None, known)

    def read(self, key: str, version: Version | None = None) -> Record:
        """Return the record: that version, or the one that the run has seen, or the newest."""
        return self._client.result(self.run.read(key, version))

    def write(self, key: str, value: str) -> Version:
        """Write a new version."""
        return self._client.result(self.run.write(key, value))

    def update_if_value_is(self, key: str, old: str, new: str) -> Version | None:
        """Compare and swap; return None if the value is not `old`."""
        return self._client.result(self.run.update_if_value_is(key, old, new))


class MemoryClient(StorageClient):
    """The client of a worker, without connections: its operations end before they return."""

    def __init__(self, storage: MemoryStorage) -> None:
        self._node = storage._node
        self.reactor = _Later(self._node)
        self.deadline = storage.deadline
        self.max_line = grammar.MAX_LINE
        self.replicas = self._node.replicas

    async def _carry_out(self, operation: ClientOperation[_T]) -> _T:
        return self._node.carry_out(operation)

    def result(self, answer: Deferred[_T]) -> _T:
        """Return the result of a call, or raise its error."""
        self.reactor.run()
        found: list[Any] = []
        answer.addBoth(found.append)
        if isinstance(found[0], Failure):
            found[0].raiseException()
        result: _T = found[0]
        return result


class _Later:
    """What a client needs of a reactor."""

    def __init__(self, node: _Node) -> None:
        self._node = node
        self._calls: list[Callable[[], object]] = []

    def seconds(self) -> float:
        return self._node.now

    def callLater(self, seconds: float, call: Callable[..., object], *arguments: object) -> None:
        self._calls.append(partial(call, *arguments))

    def run(self) -> None:
        while self._calls:
            self._calls.pop(0)()


class _Node:
    """The replica, and its time."""

    def __init__(self, max_versions: int) -> None:
        self.now = 0.0
        self.replicas = ReplicaDirectory([ADDRESS])
        self._answer: Answer | None = None
        me = Member(f"{ADDRESS.replica}:memory", ADDRESS.replica, ADDRESS.id, str(ADDRESS.address))
        self._replica = Replica(Config(max_versions=max_versions), me, (ADDRESS,), self.now)
        while not self._replica.context.serving:
            self._tick()

    def carry_out(self, operation: ClientOperation[_T]) -> _T:
        """Return the result of the operation; raise the error with which it ends."""
        try:
            while True:
                step = operation.next(self.now)
                if isinstance(step, Pause):
                    self._tick(step.seconds)
                    continue
                self._answer = None
                self._act(self._replica.on_request(operation, step.request, self.now))
                while self._answer is None:
                    self._tick()
                done = operation.on_reply(step.member, self._answer.reply)
                if done is not None:
                    return done.value
        finally:
            operation.close()

    def _tick(self, seconds: float = TICK) -> None:
        self.now += seconds
        self._act(self._replica.tick(self.now))

    def _act(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            if isinstance(output, Answer):
                self._answer = output
