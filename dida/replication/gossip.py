"""Lazy replication: the store, the log of updates, and the gossip that makes all replicas equal.

Theory of operation. An update is a record in its replica's stream; `prev` says what it depends on. A record is applied
when `prev ≤ value_ts`, else held back. Each replica sends its own streams to each member, computed from the timestamp
table, that is from what the member confirmed. A record that every member confirmed is truncated. A record that is only
prepared is in no stream, and shown to nobody: it ends when a newer version of its key is logged, its commit included.
Installing a view is a barrier: all members then have, and have applied, exactly the same updates.

Source: Coulouris et al., "Distributed Systems", 18.4.1; Ladin, Liskov et al., "Providing High Availability Using Lazy
Replication" (1992). This module neither commits nor knows of failures. It is a little long because what is logged,
applied, prepared and sent is one state.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any

from attrs import define, field
from msgspec.structs import replace

from dida.replication.context import ReplicaContext
from dida.replication.executed import ReplyCache, answered
from dida.replication.log import Log, Place
from dida.replication.messages import Fetch, Found, Gossip, Prepared, Range, Record
from dida.replication.store import Entry, Store
from dida.replication.streams import commit_stream, incarnation_of, is_commit
from dida.timestamps import Timestamp, covers, merged
from dida.versions import Version
from dida.wire.messages import Ok

KEPT_FINAL_COUNTS = 4096
FETCH_AGAIN = 0.3
"""Time after which updates that a client waits for are fetched again, in seconds."""


@define
class ReplicaState:
    """The replicated state of one replica, and the gossip about it."""

    context: ReplicaContext
    store: Store
    executed: ReplyCache
    log: Log = field(factory=Log)
    value_ts: Timestamp = field(factory=dict)
    held: dict[Place, Record] = field(factory=dict)
    unsettled: dict[Place, Entry] = field(factory=dict)
    """Entries of the store that some member may lack, by the place of their record."""
    prepared: dict[str, Prepared] = field(factory=dict)
    """Key to the record that a transaction of its home has prepared here."""
    table: dict[str, Timestamp] = field(factory=dict)
    """Member to what it has, at least."""
    committed: list[Record] = field(factory=list)
    """Commits that were applied since the owner looked last: they end transactions."""
    changed: bool = False
    """True if something has happened that a parked request may wait for."""
    final_counts: dict[str, int] = field(factory=dict)
    """Stream of a removed incarnation to how many of its updates survived; the newest ones."""
    _lines: dict[str, list[tuple[int, Place]]] = field(factory=dict)
    """Stream to a heap of the held-back records that wait for it, by the count they need."""
    _hurried: Timestamp = field(factory=dict)
    """What a reply waits for until members have it: it is sent at once."""
    confirmed: bool = False
    """True if a member has more than when the write concerns were checked last."""
    _gossiping: set[str] = field(factory=set)
    _due: dict[str, float] = field(factory=dict)
    _fetching: dict[str, float] = field(factory=dict)
    _fetch_next: set[str] = field(factory=set)
    """Members that are to be asked again when they have replied: more is needed of them by now."""

    # --- updates of this replica ----------------------------------------------------------------

    def next_record(self, stream: str, prev: Timestamp, **rest: Any) -> Record:
        """Return the next record of an own stream."""
        return Record(stream=stream, seq=self.log.have.get(stream, 0) + 1, prev=prev, **rest)

    def execute(self, record: Record, now: float) -> Ok:
        """Append an own plain write or commit, apply it, and return its reply."""
        self.log.append(record)
        self._end_prepared(record)
        self._apply_commit_or_write(record, now)
        return write_answer(record)

    def _end_prepared(self, record: Record) -> None:
        """A record is logged: what was prepared as that record, or in place of an older version, has ended."""
        prepared = self.prepared.get(record.key)
        if prepared is None:
            return
        mine = prepared.record
        is_it = (record.stream, record.version, record.id) == (mine.stream, mine.version, mine.id)
        if is_it or (not record.note and (prepared.base is None or prepared.base < record.version)):
            del self.prepared[record.key]

    def _apply(self, record: Record, now: float) -> None:
        ts = record.ts
        if not record.note:
            entry = Entry(record.number, record.replica, record.value, record.id, ts)
            if self.store.put(record.key, entry):
                self.unsettled[(record.stream, record.seq)] = entry
        if record.id is not None:
            answer = answered((str(record.version),), ts)
            self.executed.note(record.id, record.lowest, answer, now, record.key, record.journal)
        self.value_ts = merged(self.value_ts, ts)
        self.changed = True

    # --- updates of others ----------------------------------------------------------------------

    def accept(self, ranges: Iterable[Range], now: float) -> None:
        """Log what continues the log, and apply what can be applied."""
        places: list[Place] = []
        waiting = list(ranges)
        while True:
            stopped = []
            before = len(places)
            for given in waiting:
                for record in self.log.accept(given):
                    place = (record.stream, record.seq)
                    places.append(place)
                    self.held[place] = record
                    if self.prepared:
                        self._end_prepared(record)
                if given.base <= self.log.have.get(given.stream, 0) < given.base + len(given.records):
                    stopped.append(given)
            if not stopped or len(places) == before:
                break
            waiting = stopped  # what they depend on may have come after them
        self.apply_held(now, places)

    def value_of(self, key: str, version: Version) -> str | None:
        """Return the value of a version, held-back ones included; None if it is not here."""
        entry = self.store.find(key, version)
        if entry is not None:
            return entry.value
        found = (r for r in self.held.values() if r.key == key and r.version == version and not r.note)
        return next((record.value for record in found), None)

    def newest_logged(self, keys: Collection[str]) -> dict[str, Version]:
        """Return the newest version of each of these keys, held-back ones included."""
        found = {key: entry.version for key in keys if (entry := self.store.newest(key)) is not None}
        for record in self.held.values():
            if record.key in keys and not record.note:
                before = found.get(record.key)
                if before is None or before < record.version:
                    found[record.key] = record.version
        return found

    def apply_held(self, now: float, places: Iterable[Place] | None = None) -> None:
        """Apply held-back records to a fixed point, ties by (stream, seq).

        Those at `places` are considered (None: all); each one that is applied may free others. A record waits for one
        of the streams that it lacks at a time, so a chain of updates takes time in proportion to its length.
        """
        if places is None:
            self._lines.clear()
            places = list(self.held)
        ready: list[Place] = []
        for place in places:
            self._line_up(place, ready)
        while ready:
            place = heappop(ready)
            record = self.held.pop(place, None)
            if record is None:
                continue  # it was lined up twice
            self._apply_commit_or_write(record, now)
            line = self._lines.get(place[0])
            while line and line[0][0] <= self.value_ts.get(place[0], 0):
                self._line_up(heappop(line)[1], ready)

    def _line_up(self, place: Place, ready: list[Place]) -> None:
        """Let the record at `place`, if it is held, wait for the first stream that it lacks, or be applied."""
        record = self.held.get(place)
        if record is None:
            return
        lacks = next(((s, n) for s, n in record.prev.items() if self.value_ts.get(s, 0) < n), None)
        if lacks is None:
            heappush(ready, place)
        else:
            heappush(self._lines.setdefault(lacks[0], []), (lacks[1], place))

    def _apply_commit_or_write(self, record: Record, now: float) -> None:
        self._apply(record, now)
        if is_commit(record.stream):
            self.committed.append(record)

    # --- what members have ----------------------------------------------------------------------

    def confirm(self, incarnation: str, have: Mapping[str, int]) -> None:
        """Raise the entries of `incarnation` in the table to what it reports."""
        known = self.table.get(incarnation)
        if known is not None and not covers(known, have):
            self.table[incarnation] = merged(known, have)
            self.changed = self.confirmed = True

    def held_by_all(self, ts: Mapping[str, int]) -> bool:
        """Return True if every member has logged `ts`."""
        return all(covers(self.table[m.component], ts) for m in self.context.others())

    def held_everywhere(self) -> Timestamp:
        """Return what every member has, at least: the entry-wise minimum."""
        known = [self.table[m.component] for m in self.context.others()]
        least = {s: min([n, *(ts.get(s, 0) for ts in known)]) for s, n in self.log.have.items()}
        return {s: n for s, n in least.items() if n}

    def holders(self, record: Record) -> int:
        """Return how many other members have logged that record, and what it depends on of living incarnations."""
        stream, seq = record.stream, record.seq
        found = [known for m in self.context.others() if (known := self.table[m.component]).get(stream, 0) >= seq]
        if record.prev:
            prev = {s: n for s, n in record.prev.items() if self._lives(incarnation_of(s))}
            return sum(covers(known, prev) for known in found)
        return len(found)

    def _lives(self, incarnation: str) -> bool:
        return self.context.member(incarnation) is not None

    def truncate(self) -> None:
        """Truncate records that are applied here and confirmed by every member (and by nodes that join)."""
        for stream in self.log.streams():
            stable = min([self.log.have[stream], *(known.get(stream, 0) for known in self.table.values())])
            first_held = min((seq for s, seq in self.held if s == stream), default=stable + 1)
            for record in self.log.truncate(stream, min(stable, first_held - 1)):
                entry = self.unsettled.pop((record.stream, record.seq), None)
                if entry is not None:
                    entry.ts = None

    # --- gossip ---------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Send what is due; truncate the log; expire sessions."""
        delay = self.context.config.gossip_delay
        if self._hurried and self.held_by_all(self._hurried):
            self._hurried = {}
        for member in self.context.others():
            peer = member.component
            self._hurry(peer)
            if not self._lacks(peer):
                self._due.pop(peer, None)
            elif peer not in self._due:
                self._due[peer] = now + delay
                if delay == 0:
                    self.push(peer)
            elif now >= self._due[peer]:
                self.push(peer)
        self.truncate()
        self.executed.tick(now)

    def _lacks(self, peer: str) -> bool:
        known, have = self.table[peer], self.log.have
        return any(known.get(s, 0) < have.get(s, 0) for s in (self.context.incarnation, self.context.commits))

    def lag(self) -> dict[str, int]:
        """Return, by the id of each member that lacks any, how many updates of this replica it has not confirmed."""
        own = {stream: self.log.have.get(stream, 0) for stream in (self.context.incarnation, self.context.commits)}
        known = {member.id: self.table[member.component] for member in self.context.others()}
        lacking = {id: sum(max(0, n - ts.get(s, 0)) for s, n in own.items()) for id, ts in known.items()}
        return {id: number for id, number in lacking.items() if number}

    def push(self, peer: str) -> None:
        """Send gossip to `peer` now: the own streams, and what a reply waits for; one message at a time."""
        if peer in self._gossiping:
            return
        self._gossiping.add(peer)
        own = {s: n for s, n in self.log.have.items() if incarnation_of(s) == self.context.incarnation}
        member = self.context.member(peer)
        assert member is not None
        ranges = self.log.since(self.table[peer], merged(self._hurried, own))
        self.context.send(member, Gossip(**self.context.stamp(), ranges=ranges, have=self.log.have))

    def hasten(self, ts: Mapping[str, int]) -> None:
        """Send this at once, whatever the gossip delay, until members have it: a reply waits for that."""
        live = {s: n for s, n in ts.items() if self._lives(incarnation_of(s))}
        if not covers(self._hurried, live):
            self._hurried = merged(self._hurried, live)
        for member in self.context.others():
            self._hurry(member.component)

    def _hurry(self, peer: str) -> None:
        """Send what replies wait for, if this node has any that `peer` has not confirmed."""
        if self._hurried and peer not in self._gossiping:
            known, have = self.table[peer], self.log.have
            if any(known.get(s, 0) < min(n, have.get(s, 0)) for s, n in self._hurried.items()):
                self.push(peer)

    def on_gossip(self, message: Gossip, now: float) -> Ok:
        """Log ranges that continue the log; the reply reports what is here now."""
        self.accept(message.ranges, now)
        self.confirm(message.sender, message.have)
        return Ok((), {"have": self.log.have})

    def on_gossiped(self, peer: str, have: Timestamp | None, now: float) -> None:
        """Process the reply to gossip; None: it did not get through."""
        self._gossiping.discard(peer)
        if have is None or peer not in self.table:
            return
        before = self.table[peer]
        self.confirm(peer, have)
        if not self._lacks(peer):
            self._due.pop(peer, None)
        elif self.table[peer] is not before and now >= self._due.get(peer, now + 1):
            self.push(peer)  # more than one message holds is due
        self._hurry(peer)

    # --- fetching -------------------------------------------------------------------------------

    def fetch(self, wanted: Mapping[str, int], now: float) -> None:
        """Fetch what `wanted` covers and is not here, from the stream's owner and from members that have it."""
        asked = set()
        for stream, count in sorted(wanted.items()):
            if self.log.have.get(stream, 0) >= count:
                continue
            owner = incarnation_of(stream)
            if self.context.member(owner) is not None and owner != self.context.incarnation:
                asked.add(owner)
            asked.update(peer for peer, known in self.table.items() if known.get(stream, 0) >= count)
        for peer in sorted(asked):
            if now >= self._fetching.get(peer, now):
                self._send_fetch(peer, now)
            else:
                self._fetch_next.add(peer)

    def _send_fetch(self, peer: str, now: float) -> None:
        self._fetching[peer] = now + FETCH_AGAIN
        self._fetch_next.discard(peer)
        member = self.context.member(peer)
        if member is not None:
            self.context.send(member, Fetch(**self.context.stamp(), have=self.log.have))

    def on_fetch(self, message: Fetch, now: float) -> Ok:
        """Return what the sender lacks of what is here, as far as it fits a message."""
        self.confirm(message.sender, message.have)
        return Ok((), {"ranges": self.log.since(message.have, self.log.have), "have": self.log.have})

    def on_fetched(self, peer: str, ranges: tuple[Range, ...] | None, have: Timestamp | None, now: float) -> None:
        """Process the reply to a fetch; None: it did not get through."""
        self._fetching.pop(peer, None)
        if ranges is None or have is None:
            return
        before = self.log.have
        self.accept(ranges, now)
        self.confirm(peer, have)
        more = any(
            self.log.have.get(r.stream, 0) < have.get(r.stream, 0) for r in ranges
        )  # one message did not hold it all
        if peer in self._fetch_next or (more and self.log.have is not before):
            self._send_fetch(peer, now)
        self.changed = True

    # --- the barrier of a new view --------------------------------------------------------------

    def stands_at(self, base: Timestamp, found: Collection[Found]) -> bool:
        """Return True if exactly the updates of `base` are here, those that are `found` to be committed as prepared.

        Of two simultaneous changes of a view both may be completed. In the first view, which nobody serves, streams
        that are in the second have been cut off; their records are here nevertheless.
        """
        if not {each.name for each in self.prepared.values()}.issuperset(found):
            return False
        streams = [commit_stream(home) for home, _, _ in found]
        ended = {stream: self.final_counts[stream] for stream in streams if stream in self.final_counts}
        have = with_found({**self.log.have, **ended}, found)
        cut = {s: n for s, n in base.items() if s not in have and self.final_counts.get(s) == n}
        return {**have, **cut} == base

    def settle(
        self,
        base: Timestamp,
        found: Sequence[Found],
        live: Iterable[str],
        stayed: Collection[str],
        now: float,
        keep: bool = False,
    ) -> None:
        """Begin a new view of the incarnations `live`: all its members have exactly `base`.

        Those in `stayed` will have it; a node that joins has it for good when it says so in the new view. What was
        `found` prepared is committed. Held-back records are applied, though what they still lack died with its
        incarnation; but not an update of a run, which would outlive what the run has seen and done before it. Dead
        incarnations leave the timestamps, the log is empty, and so is what is prepared. With `keep` that stays: this
        node follows another change, to which it has reported it.
        """
        assert self.stands_at(base, found), "a view was installed on a replica that was not levelled"
        self.apply_held(now)
        for place in sorted(self.held):
            record = self.held.pop(place)
            if record.journal is None or covers(base, record.prev):
                self._apply_commit_or_write(record, now)
        self._lines.clear()
        records = {each.name: each.record for each in self.prepared.values()}
        self.prepared = {key: each for key, each in self.prepared.items() if keep and each.name not in found}
        for count, name in enumerate(found):
            stream = commit_stream(name[0])
            seq = base[stream] - sum(other[0] == name[0] for other in found[count + 1 :])
            self._apply_commit_or_write(replace(records[name], seq=seq), now)
        alive = set(live)
        for stream in [stream for stream in base if incarnation_of(stream) not in alive]:
            self.final_counts.pop(stream, None)
            self.final_counts[stream] = base[stream]
        while len(self.final_counts) > KEPT_FINAL_COUNTS:
            del self.final_counts[next(iter(self.final_counts))]
        kept = {s: n for s, n in base.items() if incarnation_of(s) in alive}
        self.log.restart(kept)
        for entry in self.unsettled.values():
            entry.ts = None
        self.unsettled.clear()
        self.value_ts = dict(kept)
        self.table = {
            incarnation: dict(kept) if incarnation in stayed else {}
            for incarnation in sorted(alive)
            if incarnation != self.context.incarnation
        }
        self._hurried = {s: n for s, n in self._hurried.items() if s in kept}
        self.confirmed = True
        self._gossiping.clear()
        self._due.clear()
        self._fetching.clear()
        self._fetch_next.clear()
        self.changed = True


def with_found(have: Mapping[str, int], found: Iterable[Found]) -> Timestamp:
    """Return `have` with the records that are committed as prepared: each has the next place in its home's stream."""
    counted = dict(have)
    for home, _, _ in found:
        stream = commit_stream(home)
        counted[stream] = counted.get(stream, 0) + 1
    return counted


def write_answer(record: Record) -> Ok:
    """Return the reply to an update: its version, and its timestamp."""
    return answered((str(record.version),), record.ts)
