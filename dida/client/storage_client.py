"""The storage's client, for workers, for scripts, and for all other code with a reactor.

`StorageClient` runs the operations of `dida.client.operations` over connections to the storage nodes, and watches which
of them are alive (`watch`). Its calls return Deferreds; `dida.client.blocking.BlockingStorage` is the same for code in
another thread.

    storage = StorageClient(reactor, [StorageAddress.parse("1=s1@localhost:5001")])
    record = await storage.read("13")
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar, cast

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from dida import errors
from dida.addresses import Address, StorageAddress
from dida.client.operations import (
    ClientOperation,
    FenceOperation,
    ListOperation,
    NoOther,
    NoteOperation,
    Page,
    Pause,
    ReadOperation,
    SecureOperation,
    UpdateIfOperation,
    VersionsOperation,
    WriteOperation,
    joined,
)
from dida.client.replicas import ReplicaDirectory
from dida.client.sessions import CausalContext, RequestIds, RunUpdate
from dida.errors import BadRequest, DidaError, UserError
from dida.interfaces import IStorage, Record
from dida.protocols.clock import steady
from dida.protocols.links import LinkListener, ReconnectingClient, Unreachable
from dida.protocols.shortage import Lacking, lack_of_descriptors
from dida.timestamps import Timestamp, merged
from dida.versions import Version
from dida.wire import grammar
from dida.wire.messages import DEFAULT_DEADLINE, Concern, Epoch, Error, Fenced, Member, View, Watch
from dida.wire.texts import plain, plain_version

WATCH_SECONDS = 5.0
"""Time-out for one `watch`, in seconds; a node that does not answer it costs only that."""

_log = Logger()
_T = TypeVar("_T")


@implementer(IStorage)
class StorageClient:
    """The storage as one client sees it. `deadline`: time-out for one operation, in seconds.

    It connects on first use. `start` also begins to watch the nodes, `stop` closes all connections. From then on the
    reactor uses a steady clock (`dida.protocols.clock.steady`): a change of the time of day moves no deadline.
    """

    def __init__(
        self,
        reactor: Any,
        storage: Iterable[StorageAddress] = (),
        deadline: float = DEFAULT_DEADLINE,
        session: str = "",
        max_line: int = grammar.MAX_LINE,
        on_change: Callable[[], None] = lambda: None,
        on_gone: Callable[[Timestamp], None] = lambda lost: None,
    ) -> None:
        """`on_change` is called when the living nodes change, `on_gone` with streams that this client has seen and
        that are lost."""
        self.reactor = steady(reactor)
        self.deadline = deadline
        self.max_line = max_line
        self.replicas = ReplicaDirectory(storage)
        self.seen = CausalContext(on_gone=on_gone)
        self.ids = RequestIds(session or uuid.uuid4().hex[:16])
        self._on_change = on_change
        self._learnt: tuple[int, tuple[str, ...]] | None = None
        self._links: dict[StorageAddress, ReconnectingClient] = {}
        self._watching: dict[int, Deferred[None]] = {}
        """Group to the watch of its view."""

    # --- operations -----------------------------------------------------------------------------

    def read(self, key: str, version: Version | None = None) -> Deferred[Record]:
        """Return the record, the newest or that version."""
        return Deferred.fromCoroutine(self.read_as(self.seen, key, version, self.deadline))

    def write(self, key: str, value: str, concern: Concern = 1) -> Deferred[Version]:
        """Write a new version. `concern`: the number of replicas that must have it before the Deferred fires, or
        "all"."""
        return Deferred.fromCoroutine(self.write_as(self.seen, key, value, self.deadline, concern=concern))

    def update_if_value_is(self, key: str, old: str, new: str) -> Deferred[Version | None]:
        """Compare and swap; return None if the value is not `old`."""
        return Deferred.fromCoroutine(self.update_if_as(self.seen, key, old, new, self.deadline))

    def records(self, start: str = "", limit: int = 1000, at: StorageAddress | None = None) -> Deferred[Page]:
        """Return records from the key `start` on, as one replica has them: any (of each group), or the one at `at`."""
        return Deferred.fromCoroutine(self._records(start, limit, at))

    async def _records(self, start: str, limit: int, at: StorageAddress | None) -> Page:
        groups = [ReplicaDirectory([at])] if at is not None else self.replicas.apart()
        ends = self._ends(self.deadline)
        return joined(
            [await self._carry_out(ListOperation(each, self.seen, start, ends, limit)) for each in groups], limit
        )

    def drop_lost(self, seconds: float) -> Deferred[None]:
        """Drop from `after` what each group reports as lost, so that no operation fails of it any more.

        Raises unavailable if a group does not reply within so many seconds.
        """
        return Deferred.fromCoroutine(self._drop_lost(self._ends(seconds)))

    async def _drop_lost(self, ends: float) -> None:
        for each in self.replicas.apart():
            try:
                await self._carry_out(ListOperation(each, self.seen, "", ends, 1, dependent=True))
            except DidaError as problem:
                if problem.code != errors.LOST_UPDATE:
                    raise

    def versions(self, key: str) -> Deferred[list[tuple[Version, str]]]:
        """Return the kept versions of a record, newest first."""
        operation = VersionsOperation(self.replicas, self.seen, key, self._ends(self.deadline))
        return Deferred.fromCoroutine(self._carry_out(operation))

    @property
    def after(self) -> Timestamp:
        """The timestamp of what this client has seen; a run that gets it sees that, too."""
        return self.seen.after

    async def read_as(self, seen: CausalContext, key: str, version: Version | None, seconds: float) -> Record:
        """Do `read` for a client that has seen `seen`."""
        (key,), version = self._plain(key), plain_version(version)
        known = seen.known(key, version)
        if known is not None:
            seen.on_known(known)
            return known
        return await self._carry_out(ReadOperation(self.replicas, seen, key, self._ends(seconds), version))

    async def write_as(
        self,
        seen: CausalContext,
        key: str,
        value: str,
        seconds: float,
        ids: RunUpdate | None = None,
        concern: Concern = 1,
    ) -> Version:
        """Do `write` for a client that has seen `seen`."""
        key, value = self._plain(key, value)
        ends = self._ends(seconds)
        operation = WriteOperation(self.replicas, seen, key, ends, value, concern, ids=ids or self.ids)
        return await self._carry_out(operation)

    async def update_if_as(
        self, seen: CausalContext, key: str, old: str, new: str, seconds: float, ids: RunUpdate | None = None
    ) -> Version | None:
        """Do `update_if_value_is` for a client that has seen `seen`."""
        key, old, new = self._plain(key, old, new)
        operation = UpdateIfOperation(self.replicas, seen, key, self._ends(seconds), old, new, ids=ids or self.ids)
        return await self._carry_out(operation)

    async def note_as(self, seen: CausalContext, key: str, seconds: float, ids: RunUpdate) -> None:
        """Send a part of a run's journal to the shard that holds `key`."""
        await self._carry_out(NoteOperation(self.replicas, seen, key, self._ends(seconds), ids=ids))

    async def fence(self, run: str, epoch: Epoch, seconds: float) -> list[Fenced]:
        """Let all storage nodes refuse updates of the run in lower epochs. Return what each shard knows of the run.

        Raises superseded if the run is fenced to a higher epoch, session-expired if its updates are forgotten.
        """
        ends = self._ends(seconds)
        return [await self._fence(each, run, epoch, ends) for each in self.replicas.apart()]

    async def _fence(self, replicas: ReplicaDirectory, run: str, epoch: Epoch, ends: float) -> Fenced:
        seen = CausalContext()
        found = await self._carry_out(FenceOperation(replicas, seen, run, ends, epoch))
        while found.next is not None:
            more = await self._carry_out(FenceOperation(replicas, seen, run, ends, epoch, found.next))
            highest, after = max(found.highest, more.highest), merged(found.after, more.after)
            found = evolve(more, updates=(*found.updates, *more.updates), highest=highest, after=after)
        return found

    async def secure(self, seen: CausalContext, key: str, by: int, seconds: float) -> None:
        """Copy what was seen at the replica `by`, which wrote `key`, to a second replica, if there is one."""
        with suppress(NoOther):
            await self._carry_out(SecureOperation(self.replicas, seen, key, self._ends(seconds), by))

    def _ends(self, seconds: float) -> float:
        return cast(float, self.reactor.seconds()) + seconds

    def _plain(self, *texts: str) -> tuple[str, ...]:
        """Refuse texts that no storage node would accept, before one breaks the connection because of them."""
        return plain(*texts, max_line=self.max_line)

    async def _carry_out(self, operation: ClientOperation[_T]) -> _T:
        try:
            while True:
                step = operation.next(self.reactor.seconds())
                if isinstance(step, Pause):
                    await deferLater(self.reactor, step.seconds)
                    continue
                try:
                    reply = await self.link(step.member).ask(step.request, step.timeout)
                except BadRequest:
                    raise
                except DidaError as problem:
                    if isinstance(problem, Unreachable) and (lack := lack_of_descriptors()):
                        raise Lacking(lack) from None
                    sent = not isinstance(problem, Unreachable)
                    operation.on_no_reply(step.member, problem, self.reactor.seconds(), sent)
                    continue
                done = operation.on_reply(step.member, reply)
                if done is not None:
                    return done.value
        finally:
            operation.close()

    # --- the storage nodes ----------------------------------------------------------------------

    def add(self, member: StorageAddress) -> None:
        """Add a storage node."""
        self._changed(lambda: self.replicas.add(member))

    def learn(self, number: int, storage: tuple[str, ...]) -> None:
        """Take note of what the meta record of a run says of the storage nodes."""
        if self._learnt == (number, storage):
            return
        self._learnt = (number, storage)
        members = [StorageAddress.parse(each) for each in storage]
        self._changed(lambda: self.replicas.on_hearsay(number, members, self.reactor.seconds()))

    def link(self, member: StorageAddress) -> ReconnectingClient:
        """Return the connection to a storage node."""
        link = self._links.get(member)
        if link is None:
            listener = _ReplicaListener(self.replicas, member)
            link = ReconnectingClient(self.reactor, member.address.host, member.address.port, listener)
            self._links[member] = link
        return link

    def start(self) -> None:
        """Begin to watch the view of every known group."""
        for group in range(len(self.replicas.groups)):
            if group not in self._watching:
                self._watching[group] = Deferred.fromCoroutine(self._watch(group))
                self._watching[group].addErrback(_watch_ended)

    def stop(self) -> None:
        """Close all connections; operations in flight end within their deadlines."""
        for watching in self._watching.values():
            watching.cancel()
        self._watching.clear()
        for link in self._links.values():
            link.stop()

    def _changed(self, change: Callable[[], None]) -> None:
        """Make a change to the replicas and close the links to those that are gone: their operations go elsewhere."""
        before = self.replicas.living
        change()
        if self.replicas.living != before:
            for member in [each for each in self._links if each not in self.replicas]:
                self._links.pop(member).stop()
            self._on_change()

    async def _watch(self, group: int) -> None:
        """Ask one of the group's living nodes for the view, then for the next one. When it does not reply, ask
        another one, at last those that are known by a hint."""
        failed: set[StorageAddress] = set()
        while True:
            order = self.replicas.order(self.ids.session, self.reactor.seconds())
            order += [each for each in self.replicas.hearsay if each not in self.replicas]
            order = [each for each in order if self.replicas.groups.of_replica(each.replica) == group]
            member = next((each for each in order if each not in failed), None)
            if member is None:
                failed.clear()
                await deferLater(self.reactor, 0.5 if order else 0.2)
            elif await self._look(member, group):
                failed.clear()
                self.start()
            else:
                failed.add(member)
                if member not in self.replicas and member in self._links:
                    self._links.pop(member).stop()

    async def _look(self, member: StorageAddress, group: int) -> bool:
        """Send one `watch`; return True if it returned a view."""
        known = self.replicas.views.get(group) if member in self.replicas else None
        request = Watch(known, deadline=WATCH_SECONDS)
        try:
            reply = await self.link(member).ask(request, WATCH_SECONDS + 1)
            if isinstance(reply, Error):
                return False
            view = grammar.structure(reply.object, View)
            members, elsewhere = map(_addresses, (view.members, view.elsewhere))
        except (DidaError, UserError):
            return False
        self._changed(lambda: self.replicas.on_view(view.view, view.number, members, view.dead, view.groups, elsewhere))
        return True


class _ReplicaListener(LinkListener):
    """Suspects a storage node while there is no connection to it."""

    def __init__(self, replicas: ReplicaDirectory, member: StorageAddress) -> None:
        self._replicas = replicas
        self._member = member

    def on_up(self, link: ReconnectingClient) -> None:
        self._replicas.trust(self._member)

    def on_down(self, link: ReconnectingClient, broken: bool) -> None:
        self._replicas.suspect(self._member, float("inf"))


def _addresses(members: Iterable[Member]) -> list[StorageAddress]:
    return [StorageAddress(each.replica, each.id, Address.parse(each.url)) for each in members]


def _watch_ended(failure: Failure) -> None:
    if not failure.check(CancelledError):
        _log.failure("watching the storage nodes ended in a bug", failure)
