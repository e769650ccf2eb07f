"""The storage's client without connections: which replica to ask, and what its replies mean.

A `ClientOperation` is one read, write or updateif from the first attempt to its end. `next` returns what to do now; the
outcome of that is passed to `on_reply` or `on_no_reply`, until `on_reply` returns the result or `next` raises. What a
client keeps from one operation to the next is in `dida.client.sessions`.

`dida.client.replicas` knows the replicas. When one does not reply, or can't serve, the operation asks the next one on
the ring with the same update id. An attempt gets only a part of the remaining time, so that a paused replica does not
use it up.

The module is a little long because it has one class for each operation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from attrs import define, field, frozen

from dida import errors
from dida.addresses import StorageAddress
from dida.client.replicas import SUSPICION, ReplicaDirectory
from dida.client.sessions import CausalContext, RequestIds, RunUpdate
from dida.errors import DidaError, Unavailable
from dida.interfaces import Record
from dida.versions import Version
from dida.wire.grammar import structure
from dida.wire.messages import (
    FIRST,
    Concern,
    Epoch,
    Error,
    Fence,
    Fenced,
    ListRecords,
    No,
    Note,
    Ok,
    Read,
    Reply,
    Request,
    UpdateIf,
    Versions,
    Write,
)

_T = TypeVar("_T")

PAUSES = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Pauses between rounds through all replicas, in seconds; the last one repeats."""


@frozen
class Try:
    """Ask `member`, for at most `timeout` seconds."""

    member: StorageAddress
    request: Request
    timeout: float


@frozen
class Pause:
    """Wait so many seconds: no replica could serve."""

    seconds: float


@frozen
class Done(Generic[_T]):
    """The result of an operation."""

    value: _T


@define(eq=False)
class ClientOperation(ABC, Generic[_T]):
    """One operation on one key. Subclasses define what is sent and what the replies mean."""

    replicas: ReplicaDirectory
    seen: CausalContext
    key: str
    ends: float
    """The deadline, on the clock of `now`."""
    _plan: list[StorageAddress] = field(factory=list, init=False)
    _rounds: int = field(default=0, init=False)
    _resting: bool = field(default=False, init=False)
    _arrived: bool = field(default=False, init=False)
    _uncertain: bool = field(default=False, init=False)
    _problem: str = field(default="no storage node is known", init=False)

    def next(self, now: float) -> Try | Pause:
        """Return what to do now. Raises unavailable or unknown-outcome when the deadline has passed."""
        left = self.ends - now
        if left <= 0:
            if self._uncertain:
                raise DidaError(errors.UNKNOWN_OUTCOME, self._problem)
            raise Unavailable(self._problem)
        while True:
            while self._plan:
                member = self._plan.pop(0)
                if member in self.replicas and self._may_ask(member):
                    timeout = left if len(self.replicas) == 1 else min(left, self._patience(left))
                    # The replica's deadline is a little earlier, so that its own error reply arrives.
                    return Try(member, self._request(round(timeout * 0.9, 3)), timeout)
            if self._rounds and not self._resting:
                self._on_round()
                self._resting = True
                return Pause(min(left, PAUSES[min(self._rounds, len(PAUSES)) - 1]))
            self._resting = False
            self._rounds += 1
            self._plan = self.replicas.order(self.key, now)

    def on_reply(self, member: StorageAddress, reply: Reply) -> Done[_T] | None:
        """Return the result, or None to go on with `next`. Raises the DidaError with which the operation ends."""
        self.replicas.trust(member)
        self._arrived = True
        if not isinstance(reply, Error):
            self.seen.on_reply(reply.object)
            try:
                return Done(self._result(reply))
            except (ValueError, IndexError):
                raise DidaError(errors.INTERNAL, f"{member.id} sent a reply that can't be parsed") from None
        problem = DidaError(reply.code, *reply.words, object=reply.object)
        self._problem = f"{member.id} replied {problem}"
        if reply.code == errors.NOT_HERE:
            named = list(self.replicas.named(reply.object.get("replicas") or ()))
            self._plan = [each for each in named if each != member] + [each for each in self._plan if each not in named]
        elif reply.code in (errors.UNAVAILABLE, errors.FENCED):
            pass
        elif reply.code == errors.UNKNOWN_OUTCOME:
            self._uncertain = True
        else:
            if reply.code == errors.LOST_UPDATE and self.seen.on_lost(reply.object):
                return None
            return self._on_error(member, problem)
        return None

    def on_no_reply(self, member: StorageAddress, problem: DidaError, now: float, sent: bool = True) -> None:
        """Note that the connection broke or the attempt timed out; or that nothing was `sent`, without a connection."""
        self._problem = f"{member.id}: {' '.join(problem.words)}"
        if sent:
            self._arrived = self._uncertain = True
        if problem.code == errors.TIMED_OUT:
            self.replicas.suspect(member, now + SUSPICION)

    def close(self) -> None:
        """Release what the operation holds: nobody waits for its result any more."""

    def _patience(self, left: float) -> float:
        """Return the time-out for one attempt when there are other replicas to ask, in seconds."""
        return 2.0

    def _may_ask(self, member: StorageAddress) -> bool:
        return True

    @abstractmethod
    def _request(self, deadline: float) -> Request:
        """Return the request of one attempt."""

    @abstractmethod
    def _result(self, reply: Ok | No) -> _T:
        """Return the result that a reply means."""

    def _on_error(self, member: StorageAddress, problem: DidaError) -> Done[_T] | None:
        """Handle an error reply that another replica would repeat."""
        raise problem

    def _on_round(self) -> None:
        """Note that all living replicas were asked."""


@define(eq=False)
class ReadOperation(ClientOperation[Record]):
    """`read KEY [VERSION]`. A fixed version counts as discarded only when all replicas lack it."""

    version: Version | None = None
    pinned: bool = field(default=False, init=False)
    _lacking: dict[StorageAddress, DidaError] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        if self.version is None:
            self.version = self.seen.wanted(self.key)
            self.pinned = self.version is not None

    def _request(self, deadline: float) -> Request:
        return Read(self.key, self.version, after=self.seen.after, deadline=deadline)

    def _result(self, reply: Ok | No) -> Record:
        record = Record(self.key, reply.words[0], Version.parse(reply.words[1]))
        self.seen.on_version("read", self.key, record.version)
        return record

    def on_no_reply(self, member: StorageAddress, problem: DidaError, now: float, sent: bool = True) -> None:
        ClientOperation.on_no_reply(self, member, problem, now, sent)
        self._uncertain = False  # a read has no effect to be uncertain of

    def _on_error(self, member: StorageAddress, problem: DidaError) -> Done[Record] | None:
        missing = problem.code == errors.NO_SUCH_VERSION or (self.pinned and problem.code == errors.NO_SUCH_RECORD)
        if self.version is None or not missing:
            raise problem
        self._lacking[member] = problem
        self._on_round()
        return None

    def _on_round(self) -> None:
        if not self._lacking or any(each not in self._lacking for each in self.replicas.living):
            return
        if self.pinned:
            why = "this run has seen that version, but it was discarded everywhere: only the newest ones are kept"
            raise DidaError(errors.NO_SUCH_VERSION, self.key, str(self.version), why)
        raise next(iter(self._lacking.values()))


class NoOther(Unavailable):
    """There is no other living replica."""


@define(eq=False)
class SecureOperation(ClientOperation[None]):
    """A read of a record at another replica than the one that wrote it; that replica then has all that was seen."""

    by: int
    """The number of the replica that wrote it."""

    def next(self, now: float) -> Try | Pause:
        if all(member.replica == self.by for member in self.replicas.living):
            raise NoOther("no other replica is alive")
        return ClientOperation.next(self, now)

    def _may_ask(self, member: StorageAddress) -> bool:
        return member.replica != self.by

    def _request(self, deadline: float) -> Request:
        return Read(self.key, after=self.seen.after, deadline=deadline)

    def _result(self, reply: Ok | No) -> None:
        return None

    def on_reply(self, member: StorageAddress, reply: Reply) -> Done[None] | None:
        if isinstance(reply, Error) and reply.code == errors.NOT_HERE:
            holders = self.replicas.named(reply.object.get("replicas") or ())
            if all(each.replica == self.by for each in holders):
                return Done(None)  # its group is the one replica
        return ClientOperation.on_reply(self, member, reply)


@define(eq=False)
class _Update(ClientOperation[_T]):
    """An operation with an update id."""

    ids: RequestIds | RunUpdate = field(kw_only=True)
    _session: str = field(default="", init=False)
    _number: int = field(default=0, init=False)
    _renewed: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._take_id()

    def _take_id(self) -> None:
        self._session = self.ids.session
        self._number = self.ids.take()
        self._arrived = False

    def _id(self) -> dict[str, Any]:
        lowest = self.ids.lowest if self._session == self.ids.session else 0
        journal = self.ids.journal if isinstance(self.ids, RunUpdate) else None
        return {"id": f"{self._session}:{self._number}", "retry": self._arrived, "lowest": lowest, "journal": journal}

    def _on_error(self, member: StorageAddress, problem: DidaError) -> Done[_T] | None:
        if problem.code == errors.STORAGE_FULL and self._uncertain:
            raise DidaError(errors.UNKNOWN_OUTCOME, f"{member.id} replied {problem}")  # it may have been executed
        if problem.code != errors.SESSION_EXPIRED or self._uncertain or self._renewed:
            raise problem
        # No replica can have executed it: it becomes a new update of a new session.
        self._renewed = True
        if self._session == self.ids.session:
            self.ids.renew()
        self._take_id()
        self._plan.insert(0, member)
        return None

    def close(self) -> None:
        self.ids.close(self._number)


@define(eq=False)
class WriteOperation(_Update[Version]):
    """`write KEY VALUE`"""

    value: str
    concern: Concern = 1

    def _patience(self, left: float) -> float:
        # it may have to wait for an updateif of the same key, or for the removal of a silent member
        return 3.0 if self.concern == 1 else max(3.0, left / 2)

    def _request(self, deadline: float) -> Request:
        common = {"after": self.seen.after, "deadline": deadline, **self._id()}
        return Write(self.key, self.value, concern=self.concern, **common)

    def _result(self, reply: Ok | No) -> Version:
        version = Version.parse(reply.words[0])
        self.seen.on_version("written", self.key, version)
        return version


@define(eq=False)
class UpdateIfOperation(_Update["Version | None"]):
    """`updateif KEY OLD NEW`. A gossip delay may hold back its first message to the other replicas."""

    old: str
    new: str

    def _patience(self, left: float) -> float:
        return max(3.0, left / 2)

    def _request(self, deadline: float) -> Request:
        return UpdateIf(self.key, self.old, self.new, after=self.seen.after, deadline=deadline, **self._id())

    def _result(self, reply: Ok | No) -> Version | None:
        if isinstance(reply, No) and not reply.words:
            return None
        version = Version.parse(reply.words[0])
        if isinstance(reply, No):
            self.seen.on_found(Record(self.key, reply.words[1], version))
            return None
        self.seen.on_version("updated", self.key, version)
        return version


@define(eq=False)
class NoteOperation(_Update[None]):
    """`note KEY`. It is sent with a new id each time: a part of a journal may be there twice."""

    def _request(self, deadline: float) -> Request:
        assert isinstance(self.ids, RunUpdate)
        if self._arrived:
            self._number = self.ids.take()
            self._arrived = False
        id = f"{self._session}:{self._number}"
        return Note(self.key, id=id, journal=self.ids.journal, after=self.seen.after, deadline=deadline)

    def _result(self, reply: Ok | No) -> None:
        return None


@define(eq=False)
class FenceOperation(ClientOperation[Fenced]):
    """`fence RUN`: one part of the reply. `key` only chooses the node that is asked first."""

    epoch: Epoch
    first: int = 0

    def on_no_reply(self, member: StorageAddress, problem: DidaError, now: float, sent: bool = True) -> None:
        ClientOperation.on_no_reply(self, member, problem, now, sent)
        self._uncertain = False  # it may be repeated

    def _request(self, deadline: float) -> Request:
        return Fence(self.key, epoch=self.epoch, from_=self.first, deadline=deadline)

    def _result(self, reply: Ok | No) -> Fenced:
        return structure(reply.object, Fenced)


@frozen
class Page:
    """Some records: key to (version, value), newest first. `next` is the key of the next page, or None."""

    records: dict[str, list[tuple[Version, str]]]
    next: str | None


def joined(pages: Sequence[Page], limit: int) -> Page:
    """Join the pages of several groups, which begin at the same key, into one page."""
    following = [page.next for page in pages if page.next is not None]
    keys = sorted(key for page in pages for key in page.records)
    ends = min([*following, *keys[limit : limit + 1]], default=None)
    records = {key: versions for page in pages for key, versions in page.records.items()}
    return Page({key: records[key] for key in keys if ends is None or key < ends}, ends)


@define(eq=False)
class ListOperation(ClientOperation[Page]):
    """`list`, from the key `key` on."""

    limit: int = 1000
    dependent: bool = False
    """True if the page must include what this client has seen."""

    def _request(self, deadline: float) -> Request:
        after = self.seen.after if self.dependent else {}
        return ListRecords(limit=self.limit, from_=self.key, after=after, deadline=deadline)

    def _result(self, reply: Ok | No) -> Page:
        records = {key: _versions(pairs) for key, pairs in reply.object.get("records", {}).items()}
        return Page(records, reply.object.get("next"))


@define(eq=False)
class VersionsOperation(ClientOperation["list[tuple[Version, str]]"]):
    """`versions KEY`: the kept versions, newest first."""

    def _request(self, deadline: float) -> Request:
        return Versions(self.key, deadline=deadline)

    def _result(self, reply: Ok | No) -> list[tuple[Version, str]]:
        return _versions(reply.object.get("versions", ()))


def _versions(pairs: Iterable[Sequence[str]]) -> list[tuple[Version, str]]:
    return [(Version.parse(version), value) for version, value in pairs]


@frozen
class _Named:
    """What is read of the object of a reply."""

    epoch: Epoch = FIRST


def epoch_in(members: Mapping[str, Any]) -> Epoch:
    """Return the epoch that the object of a reply names."""
    return structure(members, _Named).epoch


def epoch_of(problem: DidaError) -> Epoch:
    """Return the epoch that a `superseded` error names."""
    return epoch_in(problem.object)
