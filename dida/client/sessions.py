"""What one client of the storage keeps: the ids of its updates, and what it has seen.

- `RequestIds`: the ids that let an update be asked for twice and done once; `StepRequestIds`: those of a step of a run.
- `CausalContext`: what one client (a run, a script) has seen, which it must go on seeing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field

from dida import errors
from dida.errors import BadRequest, DidaError
from dida.interfaces import Access, Record
from dida.timestamps import Timestamp, merge_into
from dida.versions import Version

MAX_UPDATES = 1_000_000
"""Updates that one step of a run can make."""
MAX_GONE = 1000
"""Lost streams that a client remembers to have been told of."""
MAX_RECORDS = 2000
"""Records read or written that one step tells of."""


class RequestIds:
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


class StepRequestIds:
    """The numbers of the updates of one step of a run: the same ones each time the step is executed.

    An update's id is `RUN:N`, N made of the step's position and the count of the update within the step. So
    a step that is executed again gets the first answers instead of writing twice. `again` says that some of
    the ids may have been sent before.
    """

    lowest = 0
    """While the run goes on, each may be asked for again."""

    def __init__(self, run: str, position: int, again: bool = False) -> None:
        self.session = run
        self.again = again
        self._first = self._last = position * MAX_UPDATES
        self._refused: set[int] = set()

    def take(self) -> int:
        """The number of the step's next update."""
        self._last += 1
        while self._last in self._refused:
            self._last += 1
        if self._last >= self._first + MAX_UPDATES:
            raise BadRequest(f"a step can make {MAX_UPDATES} updates: make more operators of this one")
        return self._last

    def restart(self) -> None:
        """The step is tried again: what was applied is not done twice, what was refused is asked anew."""
        self._last = self._first
        self.again = True

    def refused(self, number: int) -> None:
        """That update was not applied, for the value was another one."""
        self._refused.add(number)

    def close(self, number: int) -> None:
        """Somebody may ask for it again: a step can be lost after it was answered."""

    def renew(self) -> None:
        """The replicas have forgotten the run: nobody knows what of it was done."""
        raise DidaError(errors.SESSION_EXPIRED, f"the storage has forgotten the updates of {self.session}")


@define
class CausalContext:
    """What a client has seen: `after` covers it. With `versions`, reads are repeatable, too."""

    after: Timestamp = field(factory=dict)
    versions: dict[str, Version] | None = None
    told: dict[str, Record] = field(factory=dict)
    """By key, what a failed updateif told of it; with `versions` only."""
    pins: dict[str, Version] = field(factory=dict)
    """By key, what an earlier execution of the same step has read: to be read again, if it is still there."""
    records: dict[Access, None] = field(factory=dict)
    """What was read and written, in order; with `versions` only, and no more than MAX_RECORDS."""
    lost: Timestamp = field(factory=dict)
    """What this client depended on and was told to be lost; with `versions` only."""
    on_gone: Callable[[Timestamp], None] = lambda lost: None
    """Called with the streams that are dropped because they are lost; without `versions` only."""
    _gone: dict[str, None] = field(factory=dict)
    """Streams that were dropped, the newest ones."""

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
            self.on_version("refused", record.key, record.version)
            self.told[record.key] = record

    def on_version(self, how: str, key: str, version: Version) -> None:
        """That version was read or written (see `Access.how`)."""
        if self.versions is not None:
            if how != "read" or key not in self.versions:
                self.versions[key] = version
            if len(self.records) < MAX_RECORDS:
                self.records[Access(how, key, version)] = None

    def on_reply(self, members: Mapping[str, Any]) -> None:
        """Merge the timestamp that a reply carries."""
        after = members.get("after")
        if isinstance(after, dict):
            merge_into(self.after, after)

    def on_lost(self, members: Mapping[str, Any]) -> bool:
        """What depended on lost updates is told once, and not asked for again. Whether it was told before, to another
        operation of this client."""
        lost = members.get("lost")
        lost = lost if isinstance(lost, dict) else {}
        dropped = {stream: self.after.pop(stream) for stream in lost if stream in self.after}
        if self.versions is not None:
            self.lost |= dropped
            return False
        before = bool(lost) and all(stream in self._gone for stream in lost) and not dropped
        self._gone.update(dict.fromkeys(dropped))
        while len(self._gone) > MAX_GONE:
            del self._gone[next(iter(self._gone))]
        if dropped:
            self.on_gone(dropped)
        return before
