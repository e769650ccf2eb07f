"""The journal of a run: what its executions got from the storage, so that a step that is executed again gets the same.

Theory of operation. A step that is executed again must not take another way than its lost execution did, whose updates
count. So each update carries, into the storage, what was delivered to the run since its last update of the same shard:
reads, refusals, errors, updates of other shards, outputs of steps. A new execution first fences the older ones
(`dida.replication.fences`) and gets all that. `resume` makes of it the position from which the run goes on and the
entries that are known; `History` answers the calls of the operator from them, one by one, and fails if a call differs.
After the last entry all is for real.

An entry is a list; its second part is the number of the call, which contains the position of the step:

    ["r", call, key, version, value]            a read
    ["n", call, key, version, value]            a compare-and-swap that was refused; without a record: version null
    ["x", call, key, verb, code, words]         an error
    ["u", call, key, verb, version, digest]     an update
    ["e", call, output, digest]                 the end of a step

A long value is left out (null), and its hash follows. Pure: no clock, no connection.

The module is a little long because what writes an entry and what reads it again stand side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
import mmh3
import msgspec
from attrs import define, field
from msgspec.structs import replace

from dida.chains.messages import Execute
from dida.chains.records import Assignment, Mark, versions_after
from dida.errors import NOT_DETERMINISTIC, BadRequest, DidaError
from dida.interfaces import Access
from dida.timestamps import merged
from dida.versions import Version
from dida.wire.messages import Epoch, Fenced, Journal, KnownUpdate

MAX_CALLS = 1_000_000
"""The most storage calls of one step of a run."""
LONG = 4096
"""Length of a value, in bytes, from which on the journal has its hash only."""
LONG_KEY = 64 * 1024
"""Length of a key, in characters, from which on the journal has its beginning and its hash only."""
MAX_NOTED = 64 * 1024
"""Length of the entries, in bytes, that one update or note carries, about."""
MAX_VALUES = 4 * 2**20
"""Length of the entries of a run, in bytes, from which on the journal has no values, only their hashes."""
MAX_JOURNAL = 8 * 2**20
"""Length of the entries of a run, in bytes, from which on there are no more."""
TOO_MUCH = "it has read too much for its journal"
CALLS = {"r": "read", "w": "write", "c": "update_if_value_is"}
"""The storage call of each verb."""

Entry = Sequence[Any]
PARTS = {"r": 5, "n": 5, "x": 6, "u": 6, "e": 4, "!": 2}
"""The least number of parts of each kind of entry."""
_ENTRIES = msgspec.json.Decoder(list[tuple[Any, ...]])


@define(eq=False)
class Kept:
    """An entry, and the shards that have it."""

    entry: Entry
    carried: set[int] = field(factory=set)
    lost: bool = False
    """True if it is an update that no member has: it must be made again."""


def fold(digest: int, *parts: str) -> int:
    """Return the next link, 63 bits, of a hash chain."""
    try:
        text = msgspec.json.encode((digest, parts))
    except UnicodeEncodeError:  # a surrogate, which no storage node would accept
        text = ascii((digest, parts)).encode()
    link: int = mmh3.hash64(text, signed=False)[0] >> 1  # it fits a signed integer of 64 bits
    return link


def encoded(some: Iterable[Kept]) -> str:
    """Return entries as an update carries them."""
    entries = [kept.entry for kept in some]
    return msgspec.json.encode(entries).decode() if entries else ""


def decoded(entries: str) -> list[tuple[Any, ...]]:
    """Return the entries that an update has carried. Raises Hole."""
    try:
        found = _ENTRIES.decode(entries) if entries else []
    except (ValueError, RecursionError):
        found = [()]
    if not all(map(_is_entry, found)):
        raise Hole("its journal can't be read: somebody else has written updates under its id")
    return found


def _is_entry(entry: Entry) -> bool:
    of_kind = bool(entry) and isinstance(entry[0], str) and entry[0] in PARTS
    return of_kind and len(entry) >= PARTS[entry[0]] and type(entry[1]) is int


def start_of(input: str) -> Mark:
    """Return the mark of a run before its first step."""
    return Mark(fold(0, input))


def mark_before(request: Execute) -> Mark:
    """Return the mark of a request at the beginning of its next step."""
    return request.chain[request.next - 1].mark if request.next else start_of(request.input)


@define(eq=False)
class Call:
    """One storage call of an operator. `entry`: its result in an earlier execution, or an earlier try of this one."""

    number: int
    verb: str
    key: str
    digest: int
    """Of an update: the link that it ends."""
    entry: Kept | None
    carries: Sequence[Kept] = ()
    """The entries that its update carries."""
    value: str = ""
    """What an update writes."""

    @property
    def answered(self) -> bool:
        """True if the journal answers it; an update that no member has is made again."""
        return self.entry is not None and not self.entry.lost


class History:
    """The calls of one step, in one execution: each attempt begins with `begin`."""

    def __init__(self, request: Execute, known: Mapping[int, Kept] | None = None) -> None:
        """`known`: the entries of an earlier execution, as `resume` returns them."""
        self.run = request.meta.run
        self.position = request.next
        self.epoch: Epoch = request.epoch
        self.number = request.number
        """The number in the id of the last update."""
        self.bytes = request.bytes
        """About the length of the run's entries."""
        self.unsure = False
        """True if the outcome of an update is not known: whatever goes on from here is a new execution."""
        self._request = request
        self._start = mark_before(request)
        self._digest, self._updates, self._last = self._start.digest, self._start.updates, self._start.last
        self._first = request.next * MAX_CALLS
        self._asked: list[str] = []
        """The calls since the last link."""
        self._before: list[Kept] | None = None
        """The entries that the request carries; None as long as nobody needs them, as in a step without calls."""
        self._kept: list[Kept] = []
        self._known: Mapping[int, Kept] = known or {}
        self._memory: dict[int, Kept] = {}
        self._made = 0

    def begin(self) -> None:
        """Begin another attempt: it gets again what this one got up to its last update. Raises Hole."""
        entries = {**self._known, **self._memory}
        last = max((number for number, kept in entries.items() if kept.entry[0] == "u"), default=-1)
        if any(number <= last and kept.entry[0] == "!" for number, kept in entries.items()):
            raise Hole(TOO_MUCH)
        self._known = {number: kept for number, kept in entries.items() if number <= last or _ends_a_step(kept.entry)}
        self._memory = {}
        self._made = 0
        self._asked = []
        self._digest, self._updates, self._last = self._start.digest, self._start.updates, self._start.last
        self._kept = list(self._before or ())

    @property
    def kept(self) -> list[Kept]:
        """The entries that some shard lacks."""
        if self._before is None:
            self._before = _kept_by(self._request)
            self._kept = list(self._before)
        return self._kept

    @property
    def mark(self) -> Mark:
        """Where the run stands."""
        return Mark(self._linked(), self._updates, self._last)

    # --- calls ----------------------------------------------------------------------------------

    def call(self, verb: str, key: str, *rest: str) -> Call:
        """Note the next call; raise not-deterministic if it was another one before."""
        self._made += 1
        if self._made >= MAX_CALLS:
            raise BadRequest(f"too many storage calls in one step (limit {MAX_CALLS}): split the operator")
        number = self._first + self._made
        self._asked += (verb, key, *rest)
        if verb != "r":
            self._digest, self._asked = self._linked(), []
        kept = self._known.get(number) if self._known else None
        call = Call(number, verb, key, self._digest, kept, (), rest[-1] if verb != "r" else "")
        if kept is not None:
            self._compare(call, kept.entry)
        return call

    def _linked(self) -> int:
        return fold(self._digest, *self._asked) if self._asked else self._digest

    def _compare(self, call: Call, entry: Entry) -> None:
        was, key = _verb_of(entry), entry[2]
        if (was, key) != (call.verb, _named(call.key)):
            raise self._differs(f"call {self._made} was {_shown(was, key)}, now it is {_shown(call.verb, call.key)}")
        if entry[0] == "u" and entry[5] != call.digest:
            raise self._differs(f"call {self._made} was {_shown(was, key)}, now it has another value")

    def _differs(self, what: str) -> DidaError:
        return DidaError(NOT_DETERMINISTIC, f"executed again, is not deterministic: {what}")

    def next_number(self) -> int:
        """Return a number for the id of an update that was never used before."""
        self.number += 1
        return self.number

    def journal(self, call: Call, shard: int) -> Journal:
        """Return what the update of a call carries to its shard."""
        call.carries = [kept for kept in self.kept if shard not in kept.carried]
        return Journal(
            self.epoch.number,
            self.epoch.by,
            call.number,
            call.digest,
            "w" if call.verb == "w" else "c",
            encoded(call.carries),
        )

    def note(self, shard: int, room: int = MAX_NOTED, most: int = MAX_NOTED) -> tuple[Journal, list[Kept]] | None:
        """Return a note that must go to a shard ahead of its next update; None if that has room for all entries.

        `room`: length of the entries that the update has room for, in bytes, about; `most`: that the note has room for.
        """
        if self.bytes <= room:
            return None
        todo = [kept for kept in self.kept if shard not in kept.carried]
        if sum(_size(kept.entry) for kept in todo) <= min(room, MAX_NOTED):
            return None
        some: list[Kept] = []
        size = 0
        for kept in todo:
            size += _size(kept.entry)
            if some and size > most:
                break
            some.append(kept)
        call = some[-1].entry[1]
        return Journal(self.epoch.number, self.epoch.by, call, self._digest, "n", encoded(some)), some

    @property
    def long(self) -> bool:
        """True if a request should not carry all the entries that some shard lacks."""
        return self.bytes > MAX_NOTED and sum(_size(kept.entry) for kept in self.kept) > MAX_NOTED

    def touched(self) -> set[str]:
        """Return the keys of the calls whose entries are kept."""
        return {kept.entry[2] for kept in self.kept if kept.entry[0] in "rnxu"}

    # --- what was delivered ---------------------------------------------------------------------

    def replayed(self, call: Call) -> None:
        """Note that a call was answered by its entry."""
        kept = call.entry
        assert kept is not None
        if kept.entry[0] == "u":
            self._count(call)
        self._keep(call.number, kept)

    def read(self, call: Call, value: str, version: Version) -> None:
        """Note the result of a read whose version the run had not seen before."""
        self._add(["r", call.number, _named(call.key), str(version)], value)

    def refused(self, call: Call, found: tuple[Version, str] | None) -> None:
        """Note that a compare-and-swap was refused, and what it has found."""
        entry: list[Any] = ["n", call.number, _named(call.key)]
        if found is None:
            self._add([*entry, None], "")
        else:
            self._add([*entry, str(found[0])], found[1])

    def failed(self, call: Call, problem: DidaError) -> None:
        """Note the error that a call has raised."""
        self._add(
            ["x", call.number, _named(call.key), call.verb, problem.code, [_named(word) for word in problem.words]],
            None,
        )

    def updated(self, call: Call, version: Version, shard: int, shards: int) -> None:
        """Note that an update was acknowledged: its shard has what it carried."""
        self.carried(call.carries, shard)
        kept = Kept(("u", call.number, _named(call.key), call.verb, str(version), call.digest), {shard})
        self._count(call)
        self._memory[call.number] = kept
        if shards > 1:
            self.kept.append(kept)
        self.prune(shards)

    def carried(self, some: Iterable[Kept], shard: int) -> None:
        """Note that a shard has these entries."""
        for kept in some:
            kept.carried.add(shard)

    def prune(self, shards: int) -> None:
        """Drop the entries that all shards have."""
        if self.kept:
            self._kept = [kept for kept in self._kept if len(kept.carried) < shards]
        if self._before:
            self._before = [kept for kept in self._before if len(kept.carried) < shards]

    def _count(self, call: Call) -> None:
        self._updates += 1
        self._last = call.digest

    def _add(self, entry: list[Any], value: str | None) -> None:
        if self.bytes > MAX_JOURNAL:
            entry = ["!", entry[1]]
        elif value is not None:
            long = len(value) >= LONG or self.bytes > MAX_VALUES
            entry += [None, fold(0, value)] if long else [value]
        self.bytes += _size(entry)
        self._keep(entry[1], Kept(tuple(entry)))

    def _keep(self, number: int, kept: Kept) -> None:
        self._memory[number] = kept
        self.kept.append(kept)

    # --- the end of the step --------------------------------------------------------------------

    def end(self, output: str) -> Mark:
        """End the step and return the run's mark; raise not-deterministic if it had made more calls before."""
        made, following = self._first + self._made, self._first + MAX_CALLS
        more = [number for number, kept in self._known.items() if kept.entry[0] == "u" and made < number < following]
        if more:
            entry = self._known[min(more)].entry
            at = entry[1] - self._first
            raise self._differs(f"call {at} was {_shown(_verb_of(entry), entry[2])}, now it has ended")
        self._asked += ("end", output)
        return self.mark

    @property
    def calls(self) -> int:
        """The number of calls of this attempt."""
        return self._made

    @property
    def more(self) -> bool:
        """True if the journal has calls of steps after this one."""
        return bool(self._known) and any(number > (self.position + 1) * MAX_CALLS for number in self._known)

    def travelling(self) -> tuple[Any, ...]:
        """Return what the request carries on: entries that some shard lacks, and the shards that have them."""
        return _travelling(self.kept) if self._before is not None else self._request.kept


# --- executing again ----------------------------------------------------------------------------


class Hole(Exception):
    """The run cannot go on: its journal lacks what a new execution needs."""


def borne_out(mark: Mark, shards: Sequence[Fenced]) -> bool:
    """Return True if an outcome with that mark is that of the execution whose updates the storage has."""
    journals = [update.journal for shard in shards for update in shard.updates]
    # who was not told that an update was made did not count it
    untold = {entry[1] for journal in journals for entry in decoded(journal.entries) if entry[0] == "x"}
    updates = {journal.call: journal for journal in journals if journal.verb != "n" and journal.call not in untold}
    made = [journal for _, journal in sorted(updates.items())]
    return (len(made), made[-1].digest if made else 0) == (mark.updates, mark.last)


def resume(request: Execute, shards: Sequence[Fenced]) -> tuple[Execute, dict[int, Kept]]:
    """Return the request as it goes on after a fence, and the known entries from its next step on. Raises Hole.

    `shards`: their replies to the fence. The journal is the longest that one of them makes. If it is longer than what
    the request has seen, the run goes on at the first step whose end it does not have.
    """
    own = {update.journal.call: update for shard in shards for update in shard.updates if update.journal.verb != "n"}
    entries: dict[int, Entry] = {}
    by = 0
    for number, shard in enumerate(shards):
        made = _joined(shard.updates)
        if max(made, default=-1) > max(entries, default=-1):
            entries, by = made, number
    entries = {number: _as_made(entry, own.get(number)) for number, entry in entries.items()}
    after = request.meta.after
    highest = request.number
    for shard in shards:
        after = merged(after, shard.after)
        highest = max(highest, shard.highest)
    request = attrs.evolve(request, ask=False, number=highest, meta=attrs.evolve(request.meta, after=after))
    updates = [entry for entry in entries.values() if entry[0] == "u"]
    mark = mark_before(request)
    lost = [entry[1] for entry in updates if entry[1] not in own]
    longer = len(updates) > mark.updates or (len(updates) == mark.updates and updates and updates[-1][5] != mark.last)
    if not longer and not lost:
        return request, {}
    return _rewound(request, entries, own, lost, by, len(shards))


def _as_made(entry: Entry, update: KnownUpdate | None) -> Entry:
    """Return the entry of an update with its version: a lost write may have been made again since."""
    if entry[0] != "u" or update is None or entry[4] == str(update.version):
        return entry
    return (*entry[:4], str(update.version), *entry[5:])


def _joined(updates: Sequence[KnownUpdate]) -> dict[int, Entry]:
    """Return the history that the updates of one shard make, by the numbers of the calls."""
    found: dict[int, Entry] = {}
    for update in updates:
        journal = update.journal
        if journal.verb != "n":  # what a note has said of a try that came to nothing
            found = {number: entry for number, entry in found.items() if number <= journal.call}
        found.update((entry[1], entry) for entry in decoded(journal.entries))
        if journal.verb != "n" and journal.call not in found:
            found[journal.call] = (
                "u",
                journal.call,
                _named(update.key),
                journal.verb,
                str(update.version),
                journal.digest,
            )
    last = max((number for number, entry in found.items() if entry[0] == "u"), default=-1)
    return {number: found[number] for number in sorted(found) if number <= last}


def _rewound(
    request: Execute,
    entries: Mapping[int, Entry],
    own: Mapping[int, KnownUpdate],
    lost: Sequence[int],
    shard: int,
    shards: int,
) -> tuple[Execute, dict[int, Kept]]:
    position = 0
    chain = list(request.chain)
    until = min(lost, default=len(chain) * MAX_CALLS) // MAX_CALLS
    mark = start_of(request.input)
    while position < until and (end := entries.get((position + 1) * MAX_CALLS)) is not None:
        output, digest = end[2], end[3]
        if output is None:
            if chain[position].mark.digest != digest:
                break
            output = chain[position].output
        of_step = [
            entry for number, entry in entries.items() if number // MAX_CALLS == position and not _ends_a_step(entry)
        ]
        updates = [entry for entry in of_step if entry[0] == "u"]
        last = updates[-1][5] if updates else mark.last
        mark = Mark(digest, mark.updates + len(updates), last)
        records = tuple(access for entry in of_step for access in _access(entry))
        chain[position] = replace(chain[position], output=output, mark=mark, records=records, after=request.meta.after)
        position += 1
    first = position * MAX_CALLS
    if any(entry[0] == "!" for number, entry in entries.items() if number > first):
        raise Hole(TOO_MUCH)
    known = {
        number: Kept(entry, {shard}, lost=entry[0] == "u" and number not in own)
        for number, entry in entries.items()
        if number > first
    }
    kept = [Kept(entry, {shard}) for number, entry in entries.items() if number <= first] if shards > 1 else []
    meta = attrs.evolve(request.meta, versions=versions_after(chain[:position]))
    again = attrs.evolve(request, meta=meta, chain=tuple(chain), next=position, kept=_travelling(kept))
    return again, known


def _travelling(kept: Iterable[Kept]) -> tuple[Any, ...]:
    """Return entries as a request carries them; the end of a step that no shard has is in the chain."""
    return tuple((each.entry, sorted(each.carried)) for each in kept if each.carried or not _ends_a_step(each.entry))


def _kept_by(request: Execute) -> list[Kept]:
    """Return the entries that a request carries, and the ends of the steps that no update of the run has followed."""
    if not request.next:
        return []
    found = {entry[1]: Kept(tuple(entry), set(carried)) for entry, carried in request.kept}
    updates = mark_before(request).updates
    for step in request.chain[: request.next]:
        number = (step.position + 1) * MAX_CALLS
        if step.mark.updates == updates and number not in found:
            found[number] = Kept(_end_of(step))
    return [found[number] for number in sorted(found)]


def _end_of(step: Assignment) -> Entry:
    output = step.output if len(step.output) < LONG else None
    return ("e", (step.position + 1) * MAX_CALLS, output, step.mark.digest)


def _access(entry: Entry) -> list[Access]:
    """Return the access to a record that an entry stands for."""
    kind = entry[0]
    if kind in ("r", "n") and entry[3] is not None:
        return [Access("read" if kind == "r" else "refused", entry[2], Version.parse(entry[3]))]
    if kind == "u":
        return [Access("written" if entry[3] == "w" else "updated", entry[2], Version.parse(entry[4]))]
    return []


def _named(key: str) -> str:
    """Return a key as entries have it."""
    return key if len(key) < LONG_KEY else f"{key[:60]}… {fold(0, key):x}"


def _verb_of(entry: Entry) -> str:
    return {"r": "r", "n": "c"}.get(entry[0]) or str(entry[3])


def _shown(verb: str, key: str) -> str:
    return f'{CALLS.get(verb, verb)} "{key[:60]}"'


def _ends_a_step(entry: Entry) -> bool:
    return bool(entry[0] == "e")


def _size(entry: Entry) -> int:
    return 20 + sum(
        len(part) + 3 if isinstance(part, str) else _size(part) if isinstance(part, list) else 10 for part in entry
    )
