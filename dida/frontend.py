"""The pure part of a front end, the storage's client: whom to ask what, and what the answers mean.

- `UpdateIds`: the ids that let an update be asked for twice and done once.
- `Seen`: what one client (a run, a script) has seen, which it must go on seeing.
- `Operation`: one read, write or updateif from the first try to its end. `next` says what to do now;
  what came of it goes to `on_reply` or `on_no_reply`, until `on_reply` gives the answer or `next` raises.

`dida.replicas` knows which replicas there are. One that does not answer, or can't serve, is followed by
the next one on the ring, with the same update id. A try is given only a part of the time that is left,
so that a paused replica does not eat it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from attrs import define, field, frozen

from dida import errors
from dida.addresses import StorageAddress
from dida.errors import DidaError, Unavailable
from dida.interfaces import Record
from dida.messages import Error, ListRecords, No, Ok, Read, Reply, Request, UpdateIf, Versions, Write
from dida.replicas import Replicas
from dida.timestamps import Timestamp, merge_into
from dida.versions import Version

_T = TypeVar("_T")

SUSPICION = 5.0
"""Seconds for which a replica that did not answer in time is asked last."""
PAUSES = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Seconds between two rounds through all replicas; the last one repeats."""


class UpdateIds:
    """Numbers of one session's updates; an update's id is `SESSION:N`."""

    def __init__(self, session: str) -> None:
        self.session = self._name = session
        self._lives = 1
        self._last = 0
        self._open: dict[int, None] = {}

    def take(self) -> int:
        """A number never used before; it is open until `close`."""
        self._last += 1
        self._open[self._last] = None
        return self._last

    def close(self, number: int) -> None:
        """Nobody will ask for that update again."""
        self._open.pop(number, None)

    @property
    def lowest(self) -> int:
        """The lowest number that may be asked for again."""
        return next(iter(self._open), self._last + 1)

    def renew(self) -> None:
        """Begin a new session: the replicas have forgotten this one, which was idle for too long."""
        self._lives += 1
        self.session = f"{self._name}-{self._lives}"
        self._open.clear()


@define
class Seen:
    """What a client has seen: `after` covers it. With `versions`, reads are repeatable, too."""

    after: Timestamp = field(factory=dict)
    versions: dict[str, Version] | None = None
    told: dict[str, Record] = field(factory=dict)
    """By key, what a failed updateif told of it; with `versions` only."""

    def wanted(self, key: str) -> Version | None:
        """The version that a read of `key` must give, if it is fixed already."""
        return self.versions.get(key) if self.versions is not None else None

    def known(self, key: str, version: Version | None) -> Record | None:
        """The record that a read would give, when no replica needs to be asked for it."""
        record = self.told.get(key)
        if record is None or record.version != self.wanted(key) or version not in (None, record.version):
            return None
        return record

    def on_told(self, record: Record) -> None:
        """A failed updateif has told what is there: that counts as read, however soon it is discarded."""
        if self.versions is not None:
            self.versions[record.key] = record.version
            self.told[record.key] = record

    def on_version(self, key: str, version: Version) -> None:
        """That version was read or written."""
        if self.versions is not None:
            self.versions[key] = version

    def on_reply(self, members: Mapping[str, Any]) -> None:
        """Merge the timestamp that a reply carries."""
        after = members.get("after")
        if isinstance(after, dict):
            merge_into(self.after, after)

    def on_lost(self, members: Mapping[str, Any]) -> None:
        """What depended on lost updates is told once, and not asked for again."""
        lost = members.get("lost")
        for stream in lost if isinstance(lost, dict) else ():
            self.after.pop(stream, None)


@frozen
class Try:
    """Ask `member`, for at most `timeout` seconds."""

    member: StorageAddress
    request: Request
    timeout: float


@frozen
class Pause:
    """All were asked in vain: wait so many seconds."""

    seconds: float


@frozen
class Done(Generic[_T]):
    """The answer of an operation."""

    value: _T


@define(eq=False)
class Operation(Generic[_T]):
    """One operation on one key; subclasses say what is sent and what the replies mean."""

    replicas: Replicas
    seen: Seen
    key: str
    ends: float
    """When it is given up, on the clock of `now`."""
    _plan: list[StorageAddress] = field(factory=list, init=False)
    _rounds: int = field(default=0, init=False)
    _resting: bool = field(default=False, init=False)
    _arrived: bool = field(default=False, init=False)
    _uncertain: bool = field(default=False, init=False)
    _problem: str = field(default="no storage node is known", init=False)

    def next(self, now: float) -> Try | Pause:
        """What to do now. Raises unavailable or unknown-outcome when the time is over."""
        left = self.ends - now
        if left <= 0:
            if self._uncertain:
                raise DidaError(errors.UNKNOWN_OUTCOME, self._problem)
            raise Unavailable(self._problem)
        while True:
            while self._plan:
                member = self._plan.pop(0)
                if member in self.replicas:
                    timeout = left if len(self.replicas) == 1 else min(left, self._patience(left))
                    # The replica gives up a little earlier, so that its own word on the outcome arrives.
                    return Try(member, self._request(round(timeout * 0.9, 3)), timeout)
            if self._rounds and not self._resting:
                self._on_round()
                self._resting = True
                return Pause(min(left, PAUSES[min(self._rounds, len(PAUSES)) - 1]))
            self._resting = False
            self._rounds += 1
            self._plan = self.replicas.order(self.key, now)

    def on_reply(self, member: StorageAddress, reply: Reply) -> Done[_T] | None:
        """The answer; None to go on with `next`; DidaError when it ends badly."""
        self.replicas.trust(member)
        self._arrived = True
        if not isinstance(reply, Error):
            self.seen.on_reply(reply.object)
            try:
                return Done(self._result(reply))
            except (ValueError, IndexError):
                raise DidaError(errors.INTERNAL, f"{member.id} sent an answer that can't be understood") from None
        problem = DidaError(reply.code, *reply.words, object=reply.object)
        self._problem = f"{member.id} said {problem}"
        if reply.code == errors.NOT_HERE:
            named = list(self.replicas.named(reply.object.get("replicas") or ()))
            self._plan = [each for each in named if each != member] + [each for each in self._plan if each not in named]
        elif reply.code in (errors.UNAVAILABLE, errors.FENCED):
            pass
        elif reply.code == errors.UNKNOWN_OUTCOME:
            self._uncertain = True
        else:
            if reply.code == errors.LOST_UPDATE:
                self.seen.on_lost(reply.object)
            return self._on_error(member, problem)
        return None

    def on_no_reply(self, member: StorageAddress, problem: DidaError, now: float, sent: bool = True) -> None:
        """The connection broke, or the try took too long; or nothing was `sent`, for want of a connection."""
        self._problem = f"{member.id}: {' '.join(problem.words)}"
        if sent:
            self._arrived = self._uncertain = True
        if problem.code == errors.TIMED_OUT:
            self.replicas.suspect(member, now + SUSPICION)

    def close(self) -> None:
        """Nobody waits for the answer any more."""

    def _patience(self, left: float) -> float:
        """Seconds for one try when there are others to ask."""
        return 2.0

    def _request(self, deadline: float) -> Request:
        raise NotImplementedError

    def _result(self, reply: Ok | No) -> _T:
        raise NotImplementedError

    def _on_error(self, member: StorageAddress, problem: DidaError) -> Done[_T] | None:
        """An error reply that another replica would not better."""
        raise problem

    def _on_round(self) -> None:
        """All living replicas were asked."""


@define(eq=False)
class ReadOperation(Operation[Record]):
    """`read KEY [VERSION]`; a version that is fixed is asked for at all replicas before it counts as gone."""

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
        if self.seen.wanted(self.key) is None:
            self.seen.on_version(self.key, record.version)
        return record

    def on_no_reply(self, member: StorageAddress, problem: DidaError, now: float, sent: bool = True) -> None:
        Operation.on_no_reply(self, member, problem, now, sent)
        self._uncertain = False  # there is nothing to be uncertain of

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


@define(eq=False)
class _Update(Operation[_T]):
    """An operation with an update id."""

    ids: UpdateIds = field(kw_only=True)
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
        return {"id": f"{self._session}:{self._number}", "retry": self._arrived, "lowest": lowest}

    def _on_error(self, member: StorageAddress, problem: DidaError) -> Done[_T] | None:
        if problem.code != errors.SESSION_EXPIRED or self._uncertain or self._renewed:
            raise problem
        # No replica can have executed it: it is a new update, of a new session.
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

    def _patience(self, left: float) -> float:
        return 3.0  # it may have to wait for an updateif of the same key

    def _request(self, deadline: float) -> Request:
        return Write(self.key, self.value, after=self.seen.after, deadline=deadline, **self._id())

    def _result(self, reply: Ok | No) -> Version:
        version = Version.parse(reply.words[0])
        self.seen.on_version(self.key, version)
        return version


@define(eq=False)
class UpdateIfOperation(_Update["Version | None"]):
    """`updateif KEY OLD NEW`; its first message to the other replicas may be held back by a gossip delay."""

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
            self.seen.on_told(Record(self.key, reply.words[1], version))
            return None
        self.seen.on_version(self.key, version)
        return version


@frozen
class Page:
    """Some records: key to (version, value), newest first; `next` is the key to go on with, or None."""

    records: dict[str, list[tuple[Version, str]]]
    next: str | None


@define(eq=False)
class ListOperation(Operation[Page]):
    """`list`, from the key `key` on. With `at`, of that storage node only."""

    limit: int = 1000
    at: StorageAddress | None = None

    def __attrs_post_init__(self) -> None:
        if self.at is not None:
            self.replicas = Replicas([self.at])

    def _request(self, deadline: float) -> Request:
        return ListRecords(limit=self.limit, from_=self.key, deadline=deadline)

    def _result(self, reply: Ok | No) -> Page:
        records = {key: _versions(pairs) for key, pairs in reply.object.get("records", {}).items()}
        return Page(records, reply.object.get("next"))


@define(eq=False)
class VersionsOperation(Operation["list[tuple[Version, str]]"]):
    """`versions KEY`: those kept, newest first."""

    def _request(self, deadline: float) -> Request:
        return Versions(self.key, deadline=deadline)

    def _result(self, reply: Ok | No) -> list[tuple[Version, str]]:
        return _versions(reply.object.get("versions", ()))


def _versions(pairs: Iterable[Sequence[str]]) -> list[tuple[Version, str]]:
    return [(Version.parse(version), value) for version, value in pairs]
