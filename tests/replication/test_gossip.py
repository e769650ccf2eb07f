"""Lazy replication, sentence by sentence of its rules, as plain calls."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import permutations
from random import Random
from time import process_time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dida.replication import log as log_module
from dida.replication.config import Config
from dida.replication.context import ReplicaContext
from dida.replication.executed import ReplyCache, not_applied
from dida.replication.gossip import ReplicaState, with_found
from dida.replication.messages import Fetch, Gossip, Member, Prepared, Range, Record, View
from dida.replication.requests import Requests
from dida.replication.snapshot import Snapshot, parts_of
from dida.replication.store import Entry, Store
from dida.replication.streams import commit_stream
from dida.timestamps import Timestamp, covers
from dida.versions import Version
from dida.wire.messages import Error, Journal, Ok, Read, Write
from tests.support.simnet import Hand

HERE, THERE, THIRD = "1:1", "2:1", "3:1"


def state(number: int = 1, count: int = 3, **config: Any) -> ReplicaState:
    """The replicated state of one member of a view, which has just begun."""
    members = tuple(Member(f"{n}:1", n, f"s{n}", f"node:{n}") for n in range(1, count + 1))
    context = ReplicaContext(Config(**config), members[number - 1])
    context.enter(View(1, "1:1", members), {})
    context.serving = True
    made = ReplicaState(context, Store(context.config.max_versions), ReplyCache())
    live = [m.component for m in members]
    made.settle({}, (), live, live, 0.0)
    return made


def update(stream: str, seq: int, prev: Timestamp | None = None, number: int = 0, **rest: Any) -> Record:
    """Return a record of the key `k`; by default its number is that in its stream."""
    replica = int(stream.partition(":")[0])
    return Record(stream, seq, prev or {}, rest.pop("key", "k"), number or seq, replica, f"{stream} {seq}", **rest)


def accept(made: ReplicaState, *records: Record) -> None:
    for record in records:
        made.accept([Range(record.stream, record.seq - 1, (record,))], 0.0)


def sent(made: ReplicaState) -> list[Any]:
    """What was sent since the last time, as (member, message)."""
    out, made.context.out = made.context.out, []
    return [(o.peer, o.message) for o in out]  # type: ignore[union-attr]


def shown(made: ReplicaState) -> tuple[Any, ...]:
    return made.store.page("", 100)[0], made.value_ts, sorted(made.held)


# --- updates ------------------------------------------------------------------------------------


def test_ts_is_prev_with_the_own_entry_set() -> None:
    """An update depends on what its client has seen, not on all that its replica has logged."""
    made = state()
    accept(made, update(THERE, 1))
    record = made.next_record(HERE, {}, key="k", number=2, replica=1, value="v")
    assert made.execute(record, 0.0) == Ok(("2.1",), {"after": {HERE: 1}})
    assert record.ts == {HERE: 1}
    assert made.value_ts == {HERE: 1, THERE: 1}


def test_lag_is_what_others_have_not_confirmed() -> None:
    """Of the own updates, writes and commits; who has all of them is left out."""
    made = state()
    for seq in (1, 2):
        made.execute(made.next_record(HERE, {}, key="k", number=seq, replica=1, value="v"), 0.0)
    made.execute(update(commit_stream(HERE), 1, number=3), 0.0)
    accept(made, update(THERE, 1))
    made.confirm(THERE, {HERE: 1, commit_stream(HERE): 1})
    assert made.lag() == {"s2": 1, "s3": 3}
    made.confirm(THERE, {HERE: 2})
    assert made.lag() == {"s3": 3}


def test_a_held_back_record_is_applied_when_what_it_depends_on_is() -> None:
    """Records are applied when `prev ≤ value_ts`, to a fixed point, however they come."""
    records = [
        update(THERE, 1),
        update(THIRD, 1, {THERE: 1}, 2),
        update(THERE, 2, {THERE: 1, THIRD: 1}, 3),
        update(THIRD, 2, {THERE: 2, THIRD: 1}, 4),
    ]
    expected = None
    for order in permutations(records):
        made = state()
        for record in order:
            made.accept([Range(record.stream, record.seq - 1, (record,))], 0.0)
        for record in order:  # what came with a gap is sent again
            made.accept([Range(record.stream, 0, tuple(r for r in records if r.stream == record.stream))], 0.0)
        expected = expected or shown(made)
        assert shown(made) == expected
        assert made.held == {}
        assert [e.value for e in made.store.versions("k")] == [f"{THIRD} 2", f"{THERE} 2", f"{THIRD} 1", f"{THERE} 1"]


def test_a_long_chain_of_updates_takes_no_more_than_its_length() -> None:
    """What a client that sends `after` back has written one by one comes in one message, and is gone through once."""

    class Counted(dict[str, int]):
        looked = 0

        def items(self) -> Any:
            Counted.looked += 1
            return super().items()

    made, length = state(), 1000
    made.accept([Range(THERE, 0, tuple(update(THERE, n, Counted({THERE: n - 1})) for n in range(1, length + 1)))], 0.0)
    assert made.held == {}
    assert Counted.looked <= 6 * length


@given(st.integers(0, 2**32))
def test_held_back_records_are_applied_to_a_fixed_point(seed: int) -> None:
    """Whatever depends on whatever, in whatever order it comes: what is applied is what can be; and nothing is logged
    before the commits of others that it depends on."""
    random = Random(seed)
    commits = {commit_stream(THERE), commit_stream(THIRD)}
    streams = [THERE, THIRD, *sorted(commits)]
    records: list[Record] = []
    counts = dict.fromkeys(streams, 0)
    for _ in range(30):
        stream = random.choice(streams)
        counts[stream] += 1
        prev = {s: random.randint(1, counts[s] + 2) for s in streams if s != stream and random.random() < 0.3}
        prev = {s: min(n, counts[s]) if s in commits else n for s, n in prev.items() if s not in commits or counts[s]}
        if random.random() < 0.5 and counts[stream] > 1:
            prev[stream] = random.randint(1, counts[stream] - 1)
        records.append(update(stream, counts[stream], prev, len(records) + 1))
    made = state()
    rest = {stream: [r for r in records if r.stream == stream] for stream in streams}
    applied: list[Record] = []
    reached: Timestamp = {}
    while any(rest.values()):
        offered = [
            Range(stream, rest[stream][0].seq - 1, tuple(rest[stream][: random.randint(1, 5)]))
            for stream in random.sample(streams, random.randint(1, len(streams)))
            if rest[stream]
        ]
        made.accept(offered, 0.0)
        logged = dict.fromkeys(streams, 0)
        while True:  # as the rule has it, one record at a time
            following = [
                r
                for r in records
                if r.seq == logged[r.stream] + 1
                and (r not in rest[r.stream] or any(r in each.records for each in offered))
                and all(logged[s] >= n for s, n in r.prev.items() if s in commits and s != r.stream)
            ]
            if not following:
                break
            logged[following[0].stream] += 1
        assert made.log.have == {s: n for s, n in logged.items() if n}
        rest = {s: [r for r in rest[s] if r.seq > logged[s]] for s in streams}
        here = [r for r in records if r not in rest[r.stream] and r not in applied]
        while free := [r for r in here if covers(reached, r.prev)]:
            here = [r for r in here if r not in free]
            applied += free
            for record in free:
                reached = {s: max(reached.get(s, 0), record.ts.get(s, 0)) for s in {*reached, *record.ts}}
        assert sorted(made.held) == sorted((r.stream, r.seq) for r in here)
        assert made.value_ts == reached


def test_one_entry_says_nothing_of_what_is_applied() -> None:
    """Only the whole of `prev` counts: a record waits although its own stream's entry is covered."""
    made = state()
    accept(made, update(THERE, 1, {THIRD: 1}), update(THERE, 2, {THERE: 1}))
    assert sorted(made.held) == [(THERE, 1), (THERE, 2)]
    assert made.value_ts == {}
    accept(made, update(THIRD, 1))
    assert made.held == {}


def test_what_is_not_kept_counts_all_the_same() -> None:
    """A version older than all that are kept is dropped, and its `ts` merged: nobody waits for it for ever."""
    made = state(max_versions=1)
    accept(made, update(THERE, 1, number=5), update(THIRD, 1, number=3))
    assert made.value_ts == {THERE: 1, THIRD: 1}
    assert [e.value for e in made.store.versions("k")] == [f"{THERE} 1"]


def test_a_message_that_does_not_continue_the_log_is_not_taken() -> None:
    """A gap is refused, and the answer says what is here; what is here already is not taken twice."""
    made = state()
    accept(made, update(THERE, 1))
    message = Gossip(sender=THERE, ranges=(Range(THERE, 2, (update(THERE, 3),)),), have={THERE: 3})
    assert made.on_gossip(message, 0.0).object == {"have": {THERE: 1}}
    assert made.log.size == 1
    message = Gossip(sender=THERE, ranges=(Range(THERE, 0, (update(THERE, 1), update(THERE, 2))),), have={THERE: 2})
    assert made.on_gossip(message, 0.0).object == {"have": {THERE: 2}}
    assert made.log.size == 2


def test_what_a_peer_has_is_not_what_is_here() -> None:
    """The sender's `have` raises its row of the table, and never what this replica says to have."""
    made = state()
    made.on_gossip(Gossip(sender=THERE, have={THERE: 7, THIRD: 3}), 0.0)
    assert made.log.have == {}
    assert made.table[THERE] == {THERE: 7, THIRD: 3}
    made.confirm(THERE, {THERE: 2})
    assert made.table[THERE] == {THERE: 7, THIRD: 3}


updates = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 5), st.sampled_from("kl")), min_size=1, max_size=8)


@given(updates, st.randoms(use_true_random=False))
def test_all_orders_come_to_the_same(some: list[tuple[int, int, str]], random: Random) -> None:
    """Whatever three replicas do, and in whatever order and however often it is gossiped, they end equal."""
    replicas = {n: state(n) for n in (1, 2, 3)}
    logged: list[Record] = []
    for number, seen, key in some:
        made = replicas[number]
        after = logged[seen % len(logged)].ts if logged and seen < 3 else {}
        for record in logged:
            if covers(after, record.ts):
                made.accept([Range(record.stream, 0, _run(logged, record.stream, record.seq))], 0.0)
        newest = made.store.newest(key)
        record = made.next_record(
            f"{number}:1",
            after,
            key=key,
            number=1 + (newest.version.number if newest is not None else 0),
            replica=number,
            value=f"{number} {len(logged)}",
        )
        made.execute(record, 0.0)
        logged.append(record)
    for made in replicas.values():
        parts = [Range(r.stream, 0, _run(logged, r.stream, r.seq)) for r in [*logged, *logged]]
        random.shuffle(parts)
        made.accept(parts, 0.0)
        made.accept(parts, 0.0)
        assert made.held == {}
        assert made.log.have == made.value_ts
    assert len({msgspec.json.encode(made.store.page("", 10)[0]) for made in replicas.values()}) == 1


def _run(logged: Iterable[Record], stream: str, upto: int) -> tuple[Record, ...]:
    return tuple(r for r in logged if r.stream == stream and r.seq <= upto)


# --- commits ------------------------------------------------------------------------------------


def prepared(home: str, record: Record, base: Version | None = None, txn: int = 1) -> Prepared:
    return Prepared(home, txn, 1, record, base)


def test_what_is_prepared_is_in_no_stream() -> None:
    """A record that is only prepared is neither logged nor shown; as a commit it is both, and what followed it goes
    on."""
    made = state()
    stream = commit_stream(THERE)
    made.prepared["k"] = prepared(THERE, update(stream, 0, number=1))
    accept(made, update(THIRD, 1, {stream: 1}, 2))
    assert made.log.have == {}
    assert shown(made) == ({}, {}, [])
    accept(made, update(stream, 1))
    assert made.prepared == {}
    accept(made, update(THIRD, 1, {stream: 1}, 2))
    assert [e.value for e in made.store.versions("k")] == [f"{THIRD} 1", f"{stream} 1"]
    assert [r.stream for r in made.committed] == [stream]


def test_a_range_ends_before_a_record_whose_commit_is_not_here() -> None:
    """What comes before it is logged, what comes after it is not; once the commit is here it is offered again, in the
    same message too, whatever comes first."""
    stream = commit_stream(THIRD)
    given = Range(THERE, 0, (update(THERE, 1), update(THERE, 2, {stream: 1}, 2), update(THERE, 3, number=3)))
    made = state()
    made.accept([given], 0.0)
    assert made.log.have == {THERE: 1}
    accept(made, update(stream, 1))
    made.accept([given], 0.0)
    assert made.log.have == {THERE: 3, stream: 1}
    made = state()
    made.accept([given, Range(stream, 0, (update(stream, 1),))], 0.0)
    assert made.log.have == {THERE: 3, stream: 1}


def test_a_message_makes_progress_whatever_it_has_no_room_for() -> None:
    """Each commit stream has a place in it, however long the records of another one are: it may be what those depend
    on."""
    made, other = state(), state(3)
    first, second = commit_stream(HERE), commit_stream(THERE)
    accept(made, *(update(second, seq, key=f"{seq}") for seq in (1, 2, 3)))
    long = Record(first, 1, {second: 3}, "long", 1, 1, "x" * 300_000)
    made.execute(long, 0.0)
    for _ in range(4):
        other.accept(made.log.since(other.log.have, made.log.have), 0.0)
    assert other.log.have == made.log.have


def test_a_newer_version_ends_what_is_prepared() -> None:
    """One that is logged, held back or not, and newer than the version that the prepared record replaces; an older one
    ends nothing, nor does another key's, nor a note."""
    stream = commit_stream(THERE)
    held = {HERE: 9}
    note = Journal(0, "", 1, 1, "n")
    for record, ends in (
        (update(THIRD, 1, number=4), False),
        (update(THIRD, 1, number=5), True),
        (update(HERE, 1, number=5), True),
        (update(THIRD, 1, held, 6), True),
        (update(THIRD, 1, number=6, key="other"), False),
        (update(THIRD, 1, number=6, id="r:1", journal=note), False),
    ):
        made = state(2)
        made.prepared["k"] = prepared(THERE, update(stream, 0, number=6), Version(5, 3))
        if record.replica == 3 and record.number == 5:
            made.prepared["k"] = prepared(THERE, update(stream, 0, number=6), Version(4, 1))
        accept(made, record)
        assert (made.prepared == {}) == ends, record
    made = state(2)
    made.prepared["k"] = prepared(THERE, update(stream, 0, number=1))
    accept(made, update(THIRD, 1))
    assert made.prepared == {}, "it was to be the first version"


# --- who sends what to whom ---------------------------------------------------------------------


def test_what_is_sent_is_what_the_peer_has_not_confirmed() -> None:
    """The same is sent again until the peer says that it has it: what was sent last is nothing to go by."""
    made = state()
    made.execute(update(HERE, 1), 0.0)
    for _ in range(3):
        made.push(THERE)
        made.on_gossiped(THERE, None, 0.0)
    messages = sent(made)
    assert [peer for peer, _ in messages] == [THERE] * 3
    assert [[r.seq for each in message.ranges for r in each.records] for _, message in messages] == [[1]] * 3
    made.on_gossiped(THERE, {HERE: 1}, 0.0)
    made.push(THERE)
    ((_, message),) = sent(made)
    assert message.ranges == ()


def test_one_message_of_gossip_at_a_time() -> None:
    """While a member has not answered, it gets no other gossip; it is due again afterwards."""
    made = state(count=2)
    made.execute(update(HERE, 1), 0.0)
    made.tick(0.0)
    made.execute(update(HERE, 2), 0.1)
    made.tick(0.1)
    assert len(sent(made)) == 1
    made.on_gossiped(THERE, {HERE: 1}, 0.2)
    made.tick(0.2)
    ((_, message),) = sent(made)
    assert [r.seq for each in message.ranges for r in each.records] == [2]


def test_the_gossip_delay_holds_gossip_back() -> None:
    """An update leaves after the node's delay, not before, and then all that is there by then."""
    made = state(count=2, gossip_delay=1.0)
    made.execute(update(HERE, 1), 0.0)
    made.tick(0.0)
    made.execute(update(HERE, 2), 0.5)
    made.tick(0.9)
    assert sent(made) == []
    made.tick(1.0)
    ((_, message),) = sent(made)
    assert [r.seq for each in message.ranges for r in each.records] == [1, 2]


def test_a_message_that_was_too_small_goes_on(monkeypatch: Any) -> None:
    """What does not fit a message is sent when the first part is confirmed, without a further delay."""
    monkeypatch.setattr(log_module, "BATCH", 300)
    made = state(count=2, gossip_delay=1.0)
    for seq in range(1, 6):
        made.execute(update(HERE, seq, {HERE: seq - 1} if seq > 1 else {}, seq), 0.0)
    made.tick(0.0)
    made.tick(1.0)
    had = 0
    for _ in range(5):
        for _, message in sent(made):
            had += sum(len(each.records) for each in message.ranges)
        made.on_gossiped(THERE, {HERE: had}, 1.0)
    assert had == 5


def test_what_is_missing_is_fetched_from_who_has_it() -> None:
    """A fetch goes to the stream's owner and to members whose row covers it, and is answered from the log."""
    made = state()
    made.confirm(THIRD, {THERE: 1})
    made.fetch({THERE: 1}, 0.0)
    asked = sent(made)
    assert [peer for peer, _ in asked] == [THERE, THIRD]
    other = state(3)
    accept(other, update(THERE, 1))
    reply = other.on_fetch(asked[1][1], 0.0)
    made.on_fetched(THIRD, reply.object["ranges"], reply.object["have"], 0.0)
    assert made.value_ts == {THERE: 1}
    made.fetch({THERE: 1}, 10.0)
    assert sent(made) == []


def test_a_fetch_is_not_repeated_at_once() -> None:
    """Who waits for the same gets it by the same fetch; when it does not come, it is asked for again."""
    made = state(count=2)
    made.fetch({THERE: 1}, 0.0)
    made.fetch({THERE: 1}, 0.1)
    assert len(sent(made)) == 1
    made.fetch({THERE: 1}, 0.5)
    assert len(sent(made)) == 1


def test_what_comes_up_during_a_fetch_is_fetched_with_its_answer() -> None:
    """A client that waits for more than the answer under way has in it need not wait for another reason to ask."""
    hand = Hand(3, gossip_delay=60.0)

    def seen(value: str) -> Timestamp:
        reply = hand.replies[hand.ask(2, Write("k", value))]
        return dict(reply.object["after"])

    waiting = [hand.ask(1, Read("k", after=seen("a")))]
    for value in "bcd":
        hand.deliver(*hand.under_way("fetch", answers=False))
        waiting.append(hand.ask(1, Read("k", after=seen(value))))
        hand.deliver(*hand.under_way("fetch", answers=True))
        assert [token in hand.replies for token in waiting] == [True] * (len(waiting) - 1) + [False]
        assert hand.under_way("fetch")
    hand.pass_on("fetch")
    assert waiting[-1] in hand.replies


# --- truncation and the whole state -------------------------------------------------------------


def test_truncation_waits_for_every_member() -> None:
    """A record goes when it is applied here and every member's row covers it; not before, and not while it is held."""
    made = state()
    made.execute(update(HERE, 1), 0.0)
    made.confirm(THERE, {HERE: 1})
    made.truncate()
    assert made.log.size == 1
    made.confirm(THIRD, {HERE: 1})
    made.truncate()
    assert made.log.size == 0
    accept(made, update(THERE, 1, {THIRD: 1}))
    made.confirm(THERE, {THERE: 1})
    made.confirm(THIRD, {THERE: 1})
    made.truncate()
    assert made.log.size == 1


def test_truncation_waits_for_a_joiner() -> None:
    """What a node that joins does not have yet is kept for it, too."""
    made = state(count=2)
    made.table["3:9"] = {}
    made.execute(update(HERE, 1), 0.0)
    made.confirm(THERE, {HERE: 1})
    made.truncate()
    assert made.log.size == 1
    made.confirm("3:9", {HERE: 1})
    made.truncate()
    assert made.log.size == 0


def test_the_whole_state_in_one_copy() -> None:
    """A joiner that takes over a dump has the store, timestamps, answers, and the records that are held back; nothing
    that is prepared."""
    made = state()
    stream = commit_stream(THERE)
    accept(made, update(THERE, 1, id="s:1"), update(stream, 1, {HERE: 1}, 2, id="s:2"), update(THIRD, 1, {HERE: 5}))
    made.prepared["p"] = prepared(THERE, update(stream, 0, key="p"))
    joiner = state(3)
    joiner.execute(update(THIRD, 1, key="gone"), 0.0)
    joiner.prepared["q"] = prepared(THERE, update(stream, 0, key="q"))
    copy = Snapshot.for_state(joiner)
    parts = parts_of(made, 0.0)
    before, have = shown(made), made.log.have
    made.execute(update(HERE, 1, number=9), 0.0)  # too late for this copy
    made.apply_held(0.0)
    for part in parts:
        copy.take(msgspec.json.decode(msgspec.json.encode(part)), part.get("held", []), 0.0)
        assert joiner.store.newest("gone") is not None
    copy.install(joiner, 0.0)
    assert shown(joiner) == before
    assert joiner.log.have == have
    assert joiner.log.size == 0
    assert joiner.prepared == {}
    assert joiner.executed.answer("s:2") is None
    assert joiner.executed.answer("s:1") == made.executed.answer("s:1") is not None
    accept(joiner, update(HERE, 1, number=9))
    assert joiner.executed.answer("s:2") == made.executed.answer("s:2") is not None


def test_a_copy_goes_in_parts_of_bounded_size() -> None:
    """Long values, many versions of a key, long answers and names of sessions: no part is much longer than a record."""
    made = state(max_versions=100)
    for number in range(20):
        made.execute(update(HERE, number + 1, number=number + 1, key="k", id=f"x{number}"), 0.0)
        made.store.put("long", Entry(number + 1, 1, "y" * 100_000, None, None))
        made.executed.note(f"s:{number}", 0, not_applied(("1.1", "z" * 100_000), {}), 0.0)
        made.executed.forget("w" * 100_000 + str(number))
    copy = Snapshot.for_state(state(2, max_versions=100))
    for part in parts_of(made, 0.0):
        said = msgspec.json.encode(part)
        assert len(said) < 500_000
        copy.take(msgspec.json.decode(said), part.get("held", []), 0.0)
    assert copy.store.page("", 10) == made.store.page("", 10)
    assert (copy.executed.size, copy.executed.bytes) == (made.executed.size, made.executed.bytes)
    assert copy.executed.expired_sessions == made.executed.expired_sessions
    assert copy.executed.answer("s:7") == made.executed.answer("s:7") is not None


def test_a_new_view_settles_everything() -> None:
    """A view begins: what died with its component is not waited for, and leaves the timestamps; what is prepared, and
    is not to be committed, is dropped."""
    made = state()
    stream = commit_stream(THERE)
    accept(made, update(stream, 1), update(THIRD, 1, {stream: 1, THERE: 9}, 2))
    made.prepared["p"] = prepared(THERE, update(stream, 0, key="p"))
    made.settle(made.log.have, (), [HERE, THIRD], [HERE, THIRD], 0.0)
    assert [e.value for e in made.store.versions("k")] == [f"{THIRD} 1", f"{stream} 1"]
    assert made.store.newest("p") is None
    assert made.held == {}
    assert made.prepared == {}
    assert made.log.size == 0
    assert made.value_ts == made.log.have == {THIRD: 1}
    assert made.table == {THIRD: {THIRD: 1}}


def test_a_new_view_commits_what_it_names() -> None:
    """As prepared, behind what is logged of their homes: a dead home's final count and a living home's next number
    count them."""
    made = state()
    mine, theirs = commit_stream(HERE), commit_stream(THERE)
    accept(made, update(theirs, 1))
    for key, home, txn in (("a", HERE, 3), ("b", THERE, 7), ("c", THERE, 9)):
        made.prepared[key] = prepared(home, update(commit_stream(home), 0, key=key, number=1, id=f"s:{txn}"), None, txn)
    found = ((HERE, 3, 1), (THERE, 7, 1), (THERE, 9, 1))
    base = with_found(made.log.have, found)
    assert base == {mine: 1, theirs: 3}
    assert made.stands_at(base, found)
    assert not made.stands_at(base, found[:2])
    made.settle(base, found, [HERE, THIRD], [HERE, THIRD], 0.0)
    assert all(made.store.newest(key) is not None for key in "abc")
    assert [made.executed.answer(f"s:{txn}") for txn in (3, 7, 9)] == [
        Ok((f"1.{replica}",), {"after": {stream: seq}})
        for replica, stream, seq in ((1, mine, 1), (2, theirs, 2), (2, theirs, 3))
    ]
    assert made.final_counts == {theirs: 3}
    assert made.log.have == made.value_ts == {mine: 1}


def test_a_view_needs_levelled_members() -> None:
    """A view whose beginning is not here can't begin here, nor can one that commits what is not prepared here: a broken
    invariant."""
    made = state()
    with pytest.raises(AssertionError, match="not levelled"):
        made.settle({THERE: 1}, (), [HERE], [HERE], 0.0)
    with pytest.raises(AssertionError, match="not levelled"):
        made.settle({commit_stream(THERE): 1}, ((THERE, 1, 1),), [HERE], [HERE], 0.0)


# --- through the replicas -----------------------------------------------------------------------


def test_a_query_waits_for_what_its_client_has_seen() -> None:
    """A replica that lags fetches at once, does not wait for gossip, and then answers from a state with all of it."""
    hand = Hand(3, gossip_delay=60.0)
    wrote = hand.answer(1, Write("k", "v"))
    assert hand.answer(2, Read("k")) == Error("no-such-record", ("k",))
    token = hand.ask(2, Read("k", after=wrote.object["after"]))
    assert [x.verb for x in hand.letters] == ["fetch"]
    hand.pass_on("fetch")
    assert hand.replies[token].words == ("v", "1.1")
    assert covers(hand.replies[token].object["after"], wrote.object["after"])


def test_a_long_timestamp_takes_no_longer_than_its_length() -> None:
    """A client may send back as many entries as fit a line, of nodes that nobody knows: it hears what is lost."""
    hand = Hand(1)
    begun = process_time()
    reply = hand.answer(1, Read("k", after={f"9:{n}": 1 for n in range(50_000)}))
    assert isinstance(reply, Error)
    assert reply.code == "lost-update"
    assert process_time() - begun < 5.0


def test_an_update_is_numbered_when_its_replica_has_what_the_client_has_seen() -> None:
    """A replica that lags fetches before it numbers: the client's next version is newer than what it saw."""
    hand = Hand(2, gossip_delay=60.0)
    after: Timestamp = {}
    for value in ("u", "v", "w"):
        after = hand.answer(1, Write("k", value, after=after)).object["after"]
    assert hand.answer(2, Write("k", "x", after=after)).words == ("4.2",)


def test_past_its_deadline_a_waiting_query_ends() -> None:
    """A request that cannot be served in time ends in an error with a code; nothing waits for ever."""
    hand = Hand(2, gossip_delay=60.0)
    after = hand.answer(1, Write("k", "v")).object["after"]
    token = hand.ask(2, Read("k", after=after, deadline=0.2))
    hand.lose(*hand.under_way("fetch"))
    for _ in range(15):
        hand.tick(2)
        hand.lose(*hand.under_way("fetch"))
    assert isinstance(hand.replies[token], Error)
    assert hand.replies[token].code == "unavailable"  # type: ignore[union-attr]


def test_waiting_requests_are_bounded() -> None:
    """Beyond the bound a request is refused at once, and those that wait go on waiting."""
    hand = Hand(2, gossip_delay=60.0, max_waiting=3)
    after = hand.answer(1, Write("k", "v")).object["after"]
    tokens = [hand.ask(2, Read("k", after=after)) for _ in range(5)]
    assert [token in hand.replies for token in tokens] == [False] * 3 + [True] * 2
    hand.pass_on()
    assert [hand.replies[token].words[0] for token in tokens[:3]] == ["v"] * 3


def test_what_waits_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that wait for updates are tried again when those have come, not with every other update."""
    hand = Hand(2, gossip_delay=60.0)
    seen = [hand.answer(1, Write("k", str(number))).object["after"] for number in range(20)]
    waiting = [hand.ask(2, Read("k", after=seen[number])) for number in (15, 5, 10)]
    hand.lose(*hand.under_way("fetch"))
    hand.ask(2, Write("other", ""))
    tried = 0
    attempt = Requests.attempt

    def counted(self: Requests, waiting: Any, now: float) -> None:
        nonlocal tried
        tried += 1
        attempt(self, waiting, now)

    monkeypatch.setattr(Requests, "attempt", counted)
    for number in range(100):
        hand.ask(2, Write("other", str(number)))
    assert tried == 100
    records = tuple(update(HERE, n, number=n) for n in range(1, 12))
    replica = hand.replicas[2]
    replica.state.accept([Range(HERE, 0, records)], hand.now)
    hand.act(2, replica.flush(hand.now))
    assert [token in hand.replies for token in waiting] == [False, True, True]
    assert tried == 102
    hand.lose(*hand.letters)
    hand.run(1.0)
    assert hand.replies[waiting[0]].words[1] == "20.1"


def test_a_write_concern_waits_for_that_many() -> None:
    """With W = 3 a write is answered when two others have logged it, whatever the gossip delay."""
    hand = Hand(4, gossip_delay=60.0, write_concern=3)
    token = hand.ask(1, Write("k", "v"))
    first, second, _ = hand.under_way("gossip", source=1)
    hand.deliver(first)
    hand.deliver(*hand.under_way("gossip", answers=True))
    assert token not in hand.replies
    hand.deliver(second)
    hand.deliver(*hand.under_way("gossip", answers=True))
    assert hand.replies[token].words == ("1.1",)


def test_a_write_concern_that_can_not_be_met() -> None:
    """With fewer members than W a write is refused, and nothing is written."""
    hand = Hand(2, write_concern=3)
    reply = hand.answer(1, Write("k", "v", id="s:1", retry=False))
    assert isinstance(reply, Error)
    assert reply.code == "unavailable"
    assert hand.stored(1, "k") == []


@pytest.mark.parametrize("bound", [{"max_log": 5}, {"max_log_bytes": 5 * 102}])
def test_a_log_that_nobody_confirms_refuses_writes(bound: dict[str, Any]) -> None:
    """Before memory grows: writes are refused while some member has not confirmed too many of them, or too much."""
    hand = Hand(2, gossip_delay=60.0, **bound)
    replies = [hand.replies[hand.ask(1, Write("k", str(n)))] for n in range(8)]
    assert [type(reply) for reply in replies] == [Ok] * 5 + [Error] * 3
    hand.run(0.5)
    hand.replicas[1].state.push("2:1")
    hand.act(1, hand.replicas[1].tick(hand.now))
    log = hand.replicas[1].state.log
    assert hand.run(1.0, lambda: (log.size, log.bytes) == (0, 0))
    assert isinstance(hand.replies[hand.ask(1, Write("k", "x"))], Ok)


def test_heads_of_streams_are_asked_for_by_their_names() -> None:
    """A fetch says what its sender has, so that the answer is what it lacks and no more."""
    made = state()
    accept(made, update(THERE, 1), update(THERE, 2, number=2))
    reply = made.on_fetch(Fetch(sender=THIRD, have={THERE: 1}), 0.0)
    assert [(each.base, len(each.records)) for each in reply.object["ranges"]] == [(1, 1)]
    assert made.table[THIRD] == {THERE: 1}
