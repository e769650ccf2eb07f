"""The storage as a step of a run uses it: with the versions and the timestamp of the run, and its journal.

The module is a little long because a call, its entry in the journal and its delivery are read as one piece.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure
from zope.interface import implementer

from dida import errors
from dida.chains.journal import MAX_NOTED, Call, History, fold
from dida.chains.records import KnownValue, Meta
from dida.client.operations import epoch_of
from dida.client.sessions import MAX_VALUE, MAX_VALUES, CausalContext, RunUpdate
from dida.client.storage_client import StorageClient
from dida.errors import BadRequest, DidaError, Unavailable
from dida.interfaces import Access, IStorage, Record
from dida.timestamps import Timestamp
from dida.versions import Version
from dida.wire import grammar
from dida.wire.messages import Epoch
from dida.wire.texts import ENVELOPE, plain, plain_version

_T = TypeVar("_T")

NO_STORAGE = "the run's scheduler knows no storage node: start it with --storage R=ID@URL, or send it: storage R ID URL"
"""The error for operators of a worker to which no storage node was ever named."""


@define(eq=False)
class _InFlight(CausalContext):
    """What one call in flight uses of what the run has seen. Which version that call got, the run sees when the result
    is delivered: the order in which replies arrive must not decide what it has seen last."""

    refused: Record | None = field(default=None, init=False)
    """What a failed updateif has found."""

    def on_version(self, how: str, key: str, version: Version) -> None:
        pass

    def on_found(self, record: Record) -> None:
        self.refused = record


@define(eq=False)
class _Slot:
    """A call whose result is not delivered yet."""

    answer: Deferred[Any]
    note: Callable[[Any], None] | None = None
    """Notes the result in the journal, at the moment of its delivery."""
    result: Any = None
    here: bool = field(default=False, init=False)


@implementer(IStorage)
class RunStorage:
    """The storage as one attempt of a step sees it; its accesses are noted in the run's meta record.

    A record that the run has read or written before is read in that same version. What an earlier execution got is
    answered from the journal. Results are delivered in the order of the calls, one at a time and never within a call:
    else the order in which replies arrive would decide what an operator with several calls in flight does next.
    """

    def __init__(
        self,
        storage_client: StorageClient,
        meta: Meta,
        deadline: float,
        history: History,
        apart: Callable[[Callable[[], None]], None] | None = None,
        known: Iterable[KnownValue] = (),
    ) -> None:
        """`apart(then)` calls `then` when the operator has done all that the result before leads to; None: at once."""
        self.deadline = deadline
        self.superseded: Epoch | None = None
        """The epoch of the execution that goes on instead of this one."""
        self.differs = ""
        """How the operator is not deterministic."""
        self._storage_client = storage_client
        self._history = history
        self._seen = CausalContext(meta.after, meta.versions)
        self._versions = meta.versions
        for each in known:
            self._seen.keep(each.key, each.value, each.version)
        self._closed = ""
        self._silent = False
        self._slots: deque[_Slot] = deque()
        self._apart = apart
        self._calling = False
        """True within a call."""
        self._busy = False
        """True while the result that was delivered last has not had all its effect."""

    @property
    def records(self) -> tuple[Access, ...]:
        """The accesses of the step so far."""
        return tuple(self._seen.records)

    @property
    def known(self) -> tuple[KnownValue, ...]:
        """What the run has read or written, for its next step: the newest of it, up to MAX_VALUES characters."""
        known: list[KnownValue] = []
        room = MAX_VALUES
        for key, record in reversed(self._seen.found.items()):
            if self._versions.get(key) == record.version and len(record.value) <= MAX_VALUE:
                room -= len(key) + len(record.value)
                if room < 0:
                    break
                known.append(KnownValue(key, record.version, record.value))
        return tuple(reversed(known))

    @property
    def unanswered(self) -> int:
        """The number of calls whose result was not delivered."""
        return len(self._slots)

    @property
    def lost(self) -> Timestamp:
        """What the run depended on and was lost with a storage node; the step can't go on then."""
        return self._seen.lost

    def read(self, key: str, version: Version | None = None) -> Deferred[Record]:
        """Return the record: that version, or the one that the run has seen, or the newest."""
        try:
            key, version = _text(key), plain_version(version)
            first = version is None and key not in self._versions
            call = self._made("r", key, *(() if version is None else (str(version),)))
        except DidaError as problem:
            return self._refused(problem)
        if call.answered:
            return self._again(call, self._read_again, self._has_read_again)
        work = self._storage_client.read_as(self._in_flight(), key, version, self.deadline)
        return self._really(call, work, self._has_read_first if first else self._has_read)

    def _has_read_first(self, call: Call, record: Record) -> None:
        self._history.read(call, record.value, record.version)
        self._has_read(call, record)
        self._seen.keep(call.key, record.value, record.version)

    def _has_read(self, call: Call, record: Record) -> None:
        """Note nothing in the journal: the result follows from the versions that the run has seen."""
        self._seen.on_known(record)

    async def _read_again(self, call: Call, entry: Any) -> Record:
        version, value = Version.parse(entry[3]), entry[4]
        if value is not None:
            return Record(call.key, value, version)
        try:
            record = await self._storage_client.read_as(self._in_flight(), call.key, version, self.deadline)
        except DidaError as problem:
            if problem.code == errors.NO_SUCH_VERSION:
                self._differs(f"executed again, needs {call.key} {version}, which was discarded")
            raise
        if fold(0, record.value) != entry[5]:
            self._differs(f"executed again, needs {call.key} {version}, whose value was lost")
            raise DidaError(errors.NOT_DETERMINISTIC, self.differs)
        return record

    def _has_read_again(self, call: Call, record: Record) -> None:
        self._seen.on_known(record)
        # a later read of it finds it, even if it is discarded by then
        self._seen.keep(call.key, record.value, record.version)

    def write(self, key: str, value: str) -> Deferred[Version]:
        """Write a new version."""
        try:
            key, value = _text(key), _text(value)
            call = self._made("w", key, value)
        except DidaError as problem:
            return self._refused(problem)
        if call.answered:
            return self._again(call, self._update_again, self._has_updated_again)
        seen = self._in_flight()

        def work() -> Coroutine[Any, Any, Version]:
            return self._storage_client.write_as(seen, key, value, self.deadline, self._update(call))

        fits = self._fits(key, value)
        asked = work() if fits else self._after_notes(work, key, value)
        return self._really(call, asked, partial(self._updated, seen))

    def update_if_value_is(self, key: str, old: str, new: str) -> Deferred[Version | None]:
        """Compare and swap; return None if the value is not `old`. The value found counts as read."""
        try:
            key, old, new = _text(key), _text(old), _text(new)
            call = self._made("c", key, old, new)
        except DidaError as problem:
            return self._refused(problem)
        if call.answered:
            return self._again(call, self._update_again, self._has_updated_again)
        seen = self._in_flight()

        def work() -> Coroutine[Any, Any, Version | None]:
            return self._storage_client.update_if_as(seen, key, old, new, self.deadline, self._update(call))

        fits = self._fits(key, old, new)
        asked = work() if fits else self._after_notes(work, key, old, new)
        return self._really(call, asked, partial(self._updated, seen))

    def _update(self, call: Call) -> RunUpdate:
        """Return the id and the journal of an update."""
        return RunUpdate(
            self._history.run, self._history.next_number, self._history.journal(call, self._shard(call.key))
        )

    def _fits(self, key: str, *values: str) -> bool:
        """Return True if the line of an update has room for all entries."""
        room = self._room(key, *values)
        if self._history.bytes <= room or room < 0:  # below zero: the line is too long as it is, and is refused
            return True
        return self._history.note(self._shard(key), room) is None

    async def _after_notes(self, work: Callable[[], Coroutine[Any, Any, _T]], key: str, *values: str) -> _T:
        await self._note_ahead(self._shard(key), key, self._room(key, *values))
        return await work()

    def _room(self, *texts: str) -> int:
        """Return how long the entries may be that fit on the line of an update, in bytes, however they are quoted."""
        most = self._storage_client.max_line
        if sum(map(len, texts)) < (most - ENVELOPE) // 12:
            return min(MAX_NOTED, (most - ENVELOPE) // 14)  # at most 6 bytes a character are half a line
        taken = sum(len(grammar.quote(text).encode(errors="surrogatepass")) for text in texts)
        return min(MAX_NOTED, (most - ENVELOPE - taken) // 7)

    async def _note_ahead(self, shard: int, key: str, room: int = MAX_NOTED) -> None:
        while (note := self._history.note(shard, room, self._room(key))) is not None:
            journal, some = note
            ids = RunUpdate(self._history.run, self._history.next_number, journal)
            await self._storage_client.note_as(self._seen, key, self.deadline, ids)
            self._history.carried(some, shard)

    def _updated(self, seen: _InFlight, call: Call, version: Version | None) -> None:
        if version is not None:
            self._has_updated(call, version)
            self._history.updated(call, version, self._shard(call.key), len(self._storage_client.replicas.groups))
            return
        found = seen.refused
        if found is not None:
            self._seen.on_found(found)
        self._history.refused(call, (found.version, found.value) if found is not None else None)

    def _has_updated(self, call: Call, version: Version) -> None:
        self._seen.on_version("written" if call.verb == "w" else "updated", call.key, version)
        self._seen.keep(call.key, call.value, version)

    async def _update_again(self, call: Call, entry: Any) -> Any:
        return Version.parse(entry[4]) if entry[0] == "u" else None

    def _has_updated_again(self, call: Call, version: Version | None) -> None:
        assert call.entry is not None
        entry = call.entry.entry
        if version is not None:
            self._has_updated(call, version)
        elif entry[3] is not None:
            found = Version.parse(entry[3])
            self._seen.on_version("refused", call.key, found)
            if entry[4] is not None:
                self._seen.on_found(Record(call.key, entry[4], found))

    def _in_flight(self) -> _InFlight:
        return _InFlight(self._seen.after, self._versions, self._seen.found, lost=self._seen.lost)

    def _shard(self, key: str) -> int:
        groups = self._storage_client.replicas.groups
        return groups.of_key(key) if len(groups) > 1 else 0

    async def relieve(self) -> None:
        """At the end of the step: send as notes what would make the request too long."""
        shards = {self._shard(key): key for key in self._history.touched()}
        try:
            for shard, key in shards.items():
                await self._note_ahead(shard, key)
        except DidaError as problem:
            if problem.code == errors.SUPERSEDED:
                self.superseded = epoch_of(problem)
            raise
        self._history.prune(len(self._storage_client.replicas.groups))

    def close(self, why: str, silent: bool = False) -> None:
        """Refuse further calls: the step has ended. Calls that the operator has given up are not unanswered.

        `silent`: never answer them, so that a coroutine that goes on whatever it is given stops at its next call.
        """
        self._closed = why
        self._silent = silent
        for slot in [slot for slot in self._slots if slot.answer.called]:
            if slot.note is not None:
                self._slots.remove(slot)
                slot.note(slot.result)

    # --- one call -------------------------------------------------------------------------------

    def _made(self, verb: str, key: str, *rest: str) -> Call:
        """Note a call; raise if the step has ended, or if it is another call than before."""
        self._check()
        try:
            return self._history.call(verb, key, *rest)
        except DidaError as problem:
            if problem.code == errors.NOT_DETERMINISTIC:
                self._differs(problem.words[0])
            raise

    def _really(self, call: Call, work: Coroutine[Any, Any, _T], note: Callable[[Call, Any], None]) -> Deferred[_T]:
        """Make a call for real; `note` notes its result in the journal, when it is delivered."""
        asked = Deferred.fromCoroutine(work)
        if self._slots or self._apart is not None or asked.called:
            return self._in_order(asked, lambda result: self._note(call, note, result))
        # The only call in flight: its result is the next one to be delivered, whenever it comes.
        slot = _Slot(asked)
        self._slots.append(slot)
        asked.addBoth(self._alone, slot, call, note)
        return asked

    def _alone(self, result: Any, slot: _Slot, call: Call, note: Callable[[Call, Any], None]) -> Any:
        self._slots.remove(slot)
        if isinstance(result, Failure):
            self._note(call, note, result)
        else:
            note(call, result)
        if self._slots:
            self._storage_client.reactor.callLater(0, self._deliver)
        return result

    def _again(
        self,
        call: Call,
        answered: Callable[[Call, Any], Coroutine[Any, Any, _T]],
        note: Callable[[Call, _T], None],
    ) -> Deferred[_T]:
        """Answer a call from the journal; `note` takes note of what the run has seen, when that is delivered."""
        assert call.entry is not None
        entry = call.entry.entry
        error = DidaError(entry[4], *entry[5]) if entry[0] == "x" else None
        asked = Deferred.fromCoroutine(answered(call, entry)) if error is None else fail(error)

        def delivered(result: Any) -> None:
            self._history.replayed(call)
            if not isinstance(result, Failure):
                note(call, result)

        return self._in_order(asked, delivered)

    def _refused(self, problem: DidaError) -> Deferred[Any]:
        """Answer a call that is not made, in a later turn of the reactor: else an operator that goes on whatever it is
        given would never let the reactor run."""
        asked: Deferred[Any] = Deferred()
        if self._silent:
            return asked
        self._storage_client.reactor.callLater(0, asked.errback, problem)
        return self._in_order(asked, lambda result: None)

    def _in_order(self, asked: Deferred[_T], note: Callable[[Any], None]) -> Deferred[_T]:
        answer: Deferred[_T] = Deferred(lambda cancelled: asked.cancel())
        slot = _Slot(answer, note)
        self._slots.append(slot)
        self._calling = True
        try:
            asked.addBoth(self._arrived, slot)
        finally:
            self._calling = False
        return answer

    def _check(self) -> None:
        if self._storage_client.replicas.unknown:
            raise Unavailable(NO_STORAGE)
        if self._closed:
            raise DidaError(errors.UNAVAILABLE, self._closed)
        if self.superseded is not None:
            raise DidaError(errors.SUPERSEDED, str(self.superseded))
        if self.differs:
            raise DidaError(errors.NOT_DETERMINISTIC, self.differs)
        if self._seen.lost:
            raise DidaError(errors.LOST_UPDATE, "updates that this run has seen were lost with a storage node")

    def _differs(self, what: str) -> None:
        self.differs = self.differs or what

    def _note(self, call: Call, note: Callable[[Call, Any], None], result: Any) -> None:
        if not isinstance(result, Failure):
            note(call, result)
            return
        problem = result.value
        if isinstance(problem, BadRequest):
            return  # the same call raises the same, whatever the storage is like
        if not isinstance(problem, DidaError):  # cancelled by the operator: the update may have arrived
            self._history.unsure |= call.verb != "r"
        elif problem.code == errors.SUPERSEDED:
            self.superseded = epoch_of(problem)
        elif problem.code not in (errors.LOST_UPDATE, errors.SESSION_EXPIRED, errors.NOT_DETERMINISTIC):
            self._history.unsure |= call.verb != "r" and problem.code == errors.UNKNOWN_OUTCOME
            self._history.failed(call, problem)

    def _arrived(self, result: Any, slot: _Slot) -> None:
        slot.result, slot.here = result, True
        if self._calling:
            self._storage_client.reactor.callLater(0, self._deliver)
        else:
            self._deliver()

    def _deliver(self) -> None:
        """Deliver the results that are here, in the order of the calls, each when the one before has had its effect."""
        while self._slots and self._slots[0].here and not self._busy:
            slot = self._slots.popleft()
            assert slot.note is not None
            slot.note(slot.result)
            if self._apart is not None:
                self._busy = True
                self._apart(self._go_on)
            if not slot.answer.called:
                slot.answer.callback(slot.result)

    def _go_on(self) -> None:
        self._busy = False
        self._deliver()


def _text(text: str) -> str:
    """Return a text by its characters; bad-request if it is none. Whether it fits on a line the client checks."""
    return text if type(text) is str else plain(text)[0]
