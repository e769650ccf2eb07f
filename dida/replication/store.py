"""The records of a replica: per key the newest versions, newest first.

What is kept is a pure function of the set of updates seen (the newest `max_versions` in the one total order), so
putting is associative, commutative and idempotent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct
from sortedcontainers import SortedList

from dida.replication.batches import batches
from dida.versions import Version

PAGE = 512 * 1024
"""Characters of keys and values in one page, about; a single record may be larger."""

STRING = 56
"""Bytes that a string takes beside its characters."""
VERSION = 72
"""Bytes that a version takes beside its strings: the entry, and its place among the key's."""
KEY = 110
"""Bytes that a key takes beside its characters and its versions."""

MANY = 64
"""Versions of one key from which on another one is inserted in place."""


class Entry(Struct, gc=False):
    """A version of a record. `ts` is what it depends on, None once every member holds it; `encoded` is room for its
    part of a reply, as bytes.

    No entry refers back to itself, so Python's garbage collector, which would take seconds for a million of them, need
    not track them.
    """

    number: int
    replica: int
    value: str
    id: str | None
    ts: dict[str, int] | None
    encoded: bytes | None = None

    @property
    def bytes(self) -> int:
        """Memory that it takes, about."""
        encoded = len(self.encoded) + STRING if self.encoded is not None else 0
        return VERSION + bytes_of(self.value) + (bytes_of(self.id) if self.id is not None else 0) + encoded

    @property
    def version(self) -> Version:
        return Version(self.number, self.replica)

    def is_newer(self, than: Entry) -> bool:
        """Return True if it is newer than the other, by the order of `Version`."""
        return self.number > than.number or (self.number == than.number and self.replica < than.replica)


def bytes_of(text: str) -> int:
    """Return how much memory a string takes, about: all characters count as the widest, for it is not inspected."""
    return STRING + (len(text) if text.isascii() else 4 * len(text))


class Store:
    """Key to entries, newest first, at most `max_versions` of them.

    They are a tuple, which a dump shares; more than `MANY` are a list, into which another one is inserted at once.
    """

    def __init__(self, max_versions: int = 10) -> None:
        self.max_versions = max_versions
        self.bytes = 0
        """Memory that the records take, about."""
        self._records: dict[str, tuple[Entry, ...] | list[Entry]] = {}
        self._long: dict[str, list[Entry]] = {}
        self._keys: SortedList[str] = SortedList()

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def newest(self, key: str) -> Entry | None:
        entries = self._records.get(key)
        return entries[0] if entries else None

    def find(self, key: str, version: Version) -> Entry | None:
        number, replica = version.number, version.replica
        return next((e for e in self._records.get(key, ()) if e.number == number and e.replica == replica), None)

    def versions(self, key: str) -> Sequence[Entry]:
        return self._records.get(key, ())

    def put(self, key: str, entry: Entry) -> bool:
        """Return True if the entry was stored, False if it is a duplicate or older than all of a full list."""
        entries = self._records.get(key)
        if entries is None:
            self._records[key] = (entry,)
            self._keys.add(key)
            self.bytes += KEY + bytes_of(key) + entry.bytes
            return True
        at = 0
        while at < len(entries) and entries[at].is_newer(entry):
            at += 1
        if at < len(entries) and not entry.is_newer(entries[at]):
            held = entries[at]
            assert held.value == entry.value and held.id == entry.id, f"two updates are {key} {entry.version}"
            return False
        if at >= self.max_versions:
            return False
        self.bytes += entry.bytes - (entries[-1].bytes if len(entries) >= self.max_versions else 0)
        if len(entries) < MANY:
            self._records[key] = (*entries[:at], entry, *entries[at : self.max_versions - 1])
            return True
        if key not in self._long:
            self._long[key] = self._records[key] = list(entries)
        self._long[key].insert(at, entry)
        del self._long[key][self.max_versions :]
        return True

    def grows(self, key: str, value: str) -> bool:
        """Return True if another version with that value takes more memory than the one that it pushes out, if any."""
        entries = self._records.get(key, ())
        return len(entries) < self.max_versions or bytes_of(value) > bytes_of(entries[-1].value)

    def keep_encoded(self, entry: Entry, encoded: bytes) -> None:
        """Keep the encoded form of an entry that is here."""
        entry.encoded = encoded
        self.bytes += len(encoded) + STRING

    def page(self, start: str, limit: int) -> tuple[dict[str, list[list[str]]], str | None]:
        """Return up to `limit` records from key `start` on, as many as fit a reply, and the key to go on with."""
        found: dict[str, list[list[str]]] = {}
        room = PAGE
        for key in self._keys.irange(start):
            if len(found) == limit or (found and room <= 0):
                return found, key
            entries = self._records[key]
            found[key] = shown(entries)
            room -= len(key) + sum(40 + len(entry.value) for entry in entries)
        return found, None

    def dump(self) -> Iterator[list[Any]]:
        """Return everything as it is now, for a node that joins, a key in as many pieces as its versions need.

        Entries that are put meanwhile are not in it.
        """
        records = self._records.copy()
        records.update((key, tuple(entries)) for key, entries in self._long.items())
        return (
            [key, [[e.number, e.replica, e.value, e.id] for e in some]]
            for key, entries in records.items()
            for some in batches(entries, lambda entry: 60 + len(entry.value))
        )

    def load(self, dumped: list[Any]) -> None:
        """Add a part of a dump."""
        for key, entries in dumped:
            for number, replica, value, id in entries:
                self.put(key, Entry(number, replica, value, id, None))


def shown(entries: Sequence[Entry]) -> list[list[str]]:
    """Return versions as replies show them: `[[VERSION, VALUE], …]`, newest first."""
    return [[str(entry.version), entry.value] for entry in entries]
