"""What one client of the storage keeps: the ids of its updates, and what it has seen.

- `RequestIds`: ids with which an update can be retried and is executed once; `RunUpdate`: that of an update of a run.
- `CausalContext`: what one client (a run, a script) has seen, which it must go on seeing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field

from dida import errors
from dida.errors import DidaError
from dida.interfaces import Access, Record
from dida.timestamps import Timestamp, merge_into
from dida.versions import Version
from dida.wire.messages import Journal

MAX_GONE = 1000
"""The most lost streams that a client remembers."""
MAX_RECORDS = 2000
"""The most accesses to records that one step reports."""
MAX_VALUE = 4096
"""Length of a value, in characters, up to which a run keeps what it has read or written."""
MAX_VALUES = 32 * 1024
"""Length of the keys and values that a run keeps, in characters."""


class RequestIds:
    """The numbers of one session's updates. The id of an update is `SESSION:N`."""

    def __init__(self, session: str) -> None:
        self.session = self._name = session
        self._lives = 1
        self._last = 0
        self._open: dict[int, None] = {}

    def take(self) -> int:
        """Return a number that was never used before; it is open until `close`."""
        self._last += 1
        self._open[self._last] = None
        return self._last

    def close(self, number: int) -> None:
        """Close a number: its update will not be retried any more."""
        self._open.pop(number, None)

    @property
    def lowest(self) -> int:
        """The lowest number that may still be retried."""
        return next(iter(self._open), self._last + 1)

    def renew(self) -> None:
        """Begin a new session: the replicas have forgotten this one, which was idle for too long."""
        self._lives += 1
        self.session = f"{self._name}-{self._lives}"
        self._open.clear()


class RunUpdate:
    """The id and the journal of one update of a run. Each execution of the run takes new numbers."""

    lowest = 0
    """While the run goes on, each of its updates may be asked for."""

    def __init__(self, run: str, next_number: Callable[[], int], journal: Journal) -> None:
        """`next_number` returns a number that the run has never used before."""
        self.session = run
        self.journal = journal
        self.take = next_number

    def close(self, number: int) -> None:
        """Do nothing: the run's updates are forgotten when it has ended."""

    def renew(self) -> None:
        """Raise: the replicas have forgotten the run, so nobody knows which of its updates were applied."""
        raise DidaError(errors.SESSION_EXPIRED, f"the storage has forgotten the updates of {self.session}")


@define
class CausalContext:
    """What a client has seen: `after` covers it. With `versions`, reads are repeatable, too."""

    after: Timestamp = field(factory=dict)
    versions: dict[str, Version] | None = None
    found: dict[str, Record] = field(factory=dict)
    """Key to the record that a failed updateif has returned, and to what else is kept for later reads; with `versions`
    only."""
    records: dict[Access, None] = field(factory=dict)
    """What was read and written, in order; with `versions` only, and at most MAX_RECORDS."""
    lost: Timestamp = field(factory=dict)
    """What this client depended on and what is lost; with `versions` only."""
    on_gone: Callable[[Timestamp], None] = lambda lost: None
    """Called with the streams that are dropped because they are lost; without `versions` only."""
    _kept: dict[str, int] = field(factory=dict)
    """Key to the length of key and value, of those records in `found` that may be dropped."""
    _size: int = 0
    _gone: dict[str, None] = field(factory=dict)
    """The newest streams that were dropped."""

    def wanted(self, key: str) -> Version | None:
        """Return the version that a read of `key` must return, if it is fixed already."""
        return self.versions.get(key) if self.versions is not None else None

    def known(self, key: str, version: Version | None) -> Record | None:
        """Return the record if no replica needs to be asked for it."""
        record = self.found.get(key)
        if record is None or record.version != self.wanted(key) or version not in (None, record.version):
            return None
        return record

    def on_known(self, record: Record) -> None:
        """Take note of a read for which no replica was asked."""
        if Access("refused", record.key, record.version) not in self.records:
            self.on_version("read", record.key, record.version)

    def on_found(self, record: Record) -> None:
        """Take note of the record that a failed updateif has returned: it counts as read, even if it is discarded
        soon."""
        if self.versions is not None:
            self.on_version("refused", record.key, record.version)
            if record.key in self._kept:
                self._size -= self._kept.pop(record.key)
            self.found[record.key] = record

    def keep(self, key: str, value: str, version: Version) -> None:
        """Keep what was read or written for later reads of that version, unless it is long."""
        if key in self._kept:
            self._size -= self._kept.pop(key)
        if len(value) > MAX_VALUE:
            self.found.pop(key, None)
            return
        self.found[key] = Record(key, value, version)
        size = self._kept[key] = len(key) + len(value)
        self._size += size
        while self._size > MAX_VALUES:
            oldest = next(iter(self._kept))
            self._size -= self._kept.pop(oldest)
            del self.found[oldest]

    def on_version(self, how: str, key: str, version: Version) -> None:
        """Take note of a version that was read or written (see `Access.how`)."""
        if self.versions is not None:
            if how != "read" or key not in self.versions:
                self.versions[key] = version
            if len(self.records) < MAX_RECORDS:
                self.records[Access(how, key, version)] = None

    def on_reply(self, members: Mapping[str, Any]) -> None:
        """Merge the timestamp in a reply."""
        after = members.get("after")
        if isinstance(after, dict):
            merge_into(self.after, after)

    def on_lost(self, members: Mapping[str, Any]) -> bool:
        """Drop what is lost, so that only one operation fails of it. Return True if another operation of this client
        has reported the loss before."""
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
