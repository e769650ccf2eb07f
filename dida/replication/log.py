"""The log of a replica: per stream a gapless run of records, of which the stable head is truncated.

`have` is the replica timestamp: `have[s] = n` exactly when all records 1..n of stream s were received.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import islice, takewhile

from attrs import define, field

from dida.replication.batches import BATCH
from dida.replication.executed import bytes_of_journal
from dida.replication.messages import Range, Record
from dida.replication.streams import is_commit

Place = tuple[str, int]
"""Stream and number of a record."""


@define
class Log:
    """The records that were accepted and that some member may not have."""

    have: dict[str, int] = field(factory=dict)
    _records: dict[str, deque[Record]] = field(factory=dict)
    size: int = 0
    bytes: int = 0
    """Memory that the records take, about, counted as for messages."""

    def append(self, record: Record) -> None:
        """Append the next record of its stream."""
        stream = record.stream
        assert record.seq == self.have.get(stream, 0) + 1, f"{stream}: {record.seq} does not continue the log"
        self.have = {**self.have, stream: record.seq}
        self._records.setdefault(stream, deque()).append(record)
        self.size += 1
        self.bytes += bytes_of(record)

    def accept(self, given: Range) -> tuple[Record, ...]:
        """Append the records of `given` that are new here and return them; none if it does not continue the log.

        It ends before a record that depends on a commit which is not here: so whoever has a version has the commits
        that it follows.
        """
        have = self.have.get(given.stream, 0)
        if given.base > have:
            return ()
        new = tuple(takewhile(self._has_commits, given.records[have - given.base :]))
        if new:
            self.have = {**self.have, given.stream: have + len(new)}
            self._records.setdefault(given.stream, deque()).extend(new)
            self.size += len(new)
            self.bytes += sum(map(bytes_of, new))
        return new

    def _has_commits(self, record: Record) -> bool:
        own = record.stream
        return not any(is_commit(s) and s != own and self.have.get(s, 0) < n for s, n in record.prev.items())

    def since(self, known: Mapping[str, int], wanted: Mapping[str, int]) -> tuple[Range, ...]:
        """Return ranges beyond `known`, up to `wanted`, as many as fit a message.

        Nothing of a stream whose needed head is truncated: the caller then needs a snapshot. Commits come first, and
        one of each stream at least, for no record is logged before those that it depends on.
        """
        ranges = []
        room = BATCH
        for stream in sorted(wanted, key=_commits_first):
            base = known.get(stream, 0)
            records = self._records.get(stream)
            cut = self.truncated(stream)
            count = min(wanted[stream], self.have.get(stream, 0)) - base
            if count <= 0 or not records or base < cut:
                continue
            taken: list[Record] = []
            for record in islice(records, base - cut, base - cut + count):
                if room <= 0 and (taken or not is_commit(stream)):
                    break
                taken.append(record)
                room -= bytes_of(record)
            if taken:
                ranges.append(Range(stream, base, tuple(taken)))
        return tuple(ranges)

    def truncated(self, stream: str) -> int:
        """Return how many records of the stream's head are no longer here."""
        return self.have.get(stream, 0) - len(self._records.get(stream, ()))

    def truncate(self, stream: str, upto: int) -> list[Record]:
        """Remove and return the records up to `upto`."""
        records = self._records.get(stream)
        gone = []
        while records and records[0].seq <= upto:
            gone.append(records.popleft())
        self.size -= len(gone)
        self.bytes -= sum(map(bytes_of, gone))
        return gone

    def streams(self) -> list[str]:
        """Return the streams of which there are records here."""
        return [stream for stream, records in self._records.items() if records]

    def restart(self, base: Mapping[str, int]) -> None:
        """Remove all records, which are applied everywhere, and all streams but those of `base`."""
        self._records.clear()
        self.size = self.bytes = 0
        self.have = dict(base)


def _commits_first(stream: str) -> tuple[bool, str]:
    return not is_commit(stream), stream


def bytes_of(record: Record) -> int:
    carried = bytes_of_journal(record.journal) if record.journal is not None else 0
    return 100 + len(record.key) + len(record.value) + carried
