"""The records of a replica: per key the newest versions, newest first.

What is kept is a pure function of the set of updates seen (the newest `max_versions` in the one total
order), so that putting is associative, commutative and idempotent.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from attrs import define, field

from dida.versions import Version

PAGE = 512 * 1024
"""Characters of keys and values in one page, about; a single record may be larger."""


class Entry:
    """A version of a record. `ts` is what it depends on, None once every member holds it; `said` is room for how
    an answer tells of it."""

    __slots__ = ("id", "said", "ts", "value", "version")

    def __init__(self, version: Version, value: str, id: str | None, ts: dict[str, int] | None) -> None:
        self.version = version
        self.value = value
        self.id = id
        self.ts = ts
        self.said: bytes | None = None


@define
class Store:
    """Key to entries, newest first, at most `max_versions` of them."""

    max_versions: int = 10
    _records: dict[str, list[Entry]] = field(factory=dict)
    _sorted: list[str] | None = None

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def newest(self, key: str) -> Entry | None:
        entries = self._records.get(key)
        return entries[0] if entries else None

    def find(self, key: str, version: Version) -> Entry | None:
        return next((entry for entry in self._records.get(key, ()) if entry.version == version), None)

    def versions(self, key: str) -> list[Entry]:
        return self._records.get(key, [])

    def put(self, key: str, entry: Entry) -> bool:
        """Whether the entry is now kept: not when it was there, or is older than all of a full list."""
        entries = self._records.get(key)
        if entries is None:
            self._records[key] = [entry]
            self._sorted = None
            return True
        at = 0
        while at < len(entries) and entries[at].version > entry.version:
            at += 1
        if at < len(entries) and entries[at].version == entry.version:
            held = entries[at]
            assert held.value == entry.value and held.id == entry.id, f"two updates are {key} {entry.version}"
            return False
        if at >= self.max_versions:
            return False
        entries.insert(at, entry)
        del entries[self.max_versions :]
        return True

    def page(self, start: str, limit: int) -> tuple[dict[str, list[list[str]]], str | None]:
        """Up to `limit` records from key `start` on, as many as fit a reply, and the key to go on with."""
        if self._sorted is None:
            self._sorted = sorted(self._records)
        low, high = 0, len(self._sorted)
        while low < high:
            middle = (low + high) // 2
            if self._sorted[middle] < start:
                low = middle + 1
            else:
                high = middle
        found: dict[str, list[list[str]]] = {}
        room = PAGE
        for key in islice(self._sorted, low, None):
            if len(found) == limit or (found and room <= 0):
                return found, key
            entries = self._records[key]
            found[key] = said(entries)
            room -= len(key) + sum(40 + len(entry.value) for entry in entries)
        return found, None

    def dump(self) -> Iterator[list[Any]]:
        """Everything, key by key, for a node that joins."""
        for key, entries in self._records.items():
            yield [key, [[e.version.number, e.version.replica, e.value, e.id] for e in entries]]

    def load(self, dumped: list[Any]) -> None:
        """Take over a part of a dump."""
        for key, entries in dumped:
            for number, replica, value, id in entries:
                self.put(key, Entry(Version(number, replica), value, id, None))


def said(entries: list[Entry]) -> list[list[str]]:
    """Versions as they are told: `[[VERSION, VALUE], …]`, newest first."""
    return [[str(entry.version), entry.value] for entry in entries]
