"""Deliberate faults of the replication, each of which the simulator must find: the measure of the simulator.

`python -m tools.bugs` runs each against seed after seed, in two processes, and prints how many seeds it took.
A bug is a patch of behaviour; the product knows nothing of it. The first thirteen are the mistakes that
implementers make (lazy replication), the others break commit, views, leases and joins. The module is long because it
is one list.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any
from unittest import mock

from attrs import evolve, frozen
from msgspec.structs import replace

from dida.chains import journal
from dida.chains.journal import History, Kept
from dida.chains.runs import Runs
from dida.errors import UNAVAILABLE
from dida.replication import replica as replica_module
from dida.replication import requests as requests_module
from dida.replication import room
from dida.replication.config import Config
from dida.replication.context import ReplicaContext
from dida.replication.coordinator import PREPARING, Commit
from dida.replication.detection import Detection
from dida.replication.executed import ReplyCache, answered
from dida.replication.fences import Fences
from dida.replication.gossip import ReplicaState
from dida.replication.joining import Joining
from dida.replication.leaving import Leaving
from dida.replication.log import Log
from dida.replication.membership import Membership
from dida.replication.messages import Forward, Install, Prepare, View
from dida.replication.next_view import NextView
from dida.replication.operations import operation
from dida.replication.outputs import Left
from dida.replication.participant import Locks
from dida.replication.peer_replies import PeerReplies
from dida.replication.replica import Replica
from dida.replication.requests import Requests
from dida.replication.store import Entry, Store
from dida.replication.streams import commit_stream, incarnation_of, is_commit
from dida.replication.view_change import ViewChange
from dida.simulate import execution as execution_module
from dida.simulate import network
from dida.simulate.execution import Execution
from dida.simulate.scenario import Simulation, plan_of
from dida.timestamps import merged
from dida.wire.messages import Error, Journal, Ok

MOST = 2000
"""Seeds within which each must be found."""

Patch = tuple[Any, str, Any]


@frozen
class Bug:
    """What is broken, in words, and how: attributes of the code and what they are for the time being."""

    name: str
    patches: tuple[Patch, ...]
    plan: Mapping[str, str] = MappingProxyType({})
    """The part of the plan that is the same for all its seeds, where few seeds draw it: fields as text."""

    @contextmanager
    def in_force(self) -> Iterator[None]:
        held = [mock.patch.object(where, what, value) for where, what, value in self.patches]
        for each in held:
            each.start()
        try:
            yield
        finally:
            for each in reversed(held):
                each.stop()


def _any_entry_covers(high: Any, low: Any) -> bool:
    return not low or any(high.get(name, 0) >= count for name, count in low.items())


def _prev_is_all_that_was_logged(self: ReplicaState, stream: str, prev: Any, **rest: Any) -> Any:
    return NEXT_RECORD(self, stream, prev if is_commit(stream) else dict(self.log.have), **rest)


NEXT_RECORD = ReplicaState.next_record


def _write_without_waiting(self: Requests, waiting: Any, now: float) -> Any:
    op = waiting.op
    first = op.verb == "write" and not (op.retry and op.id is not None)
    if first and self.context.serving and now < self.detection.lease_until():
        waiting.op = evolve(op, after=self._without_dead(op.after)[1])
        return self._write(waiting, now)
    return TRY(self, waiting, now)


TRY = Requests._try


def _apply_merges_only_what_is_kept(self: ReplicaState, record: Any, now: float) -> None:
    before = self.value_ts
    APPLY(self, record, now)
    entries = self.store.versions(record.key)
    if not any(entry.version == record.version for entry in entries):
        self.value_ts = before


APPLY = ReplicaState._apply


def _no_operation_is_a_retry(request: Any) -> Any:
    op = OPERATION(request)
    return evolve(op, retry=False) if op is not None and op.verb == "write" else op


OPERATION = operation


def _have_is_merged_from_gossip(self: ReplicaState, message: Any, now: float) -> Any:
    reply = ON_GOSSIP(self, message, now)
    self.log.have = merged(self.log.have, message.have)
    return reply


ON_GOSSIP = ReplicaState.on_gossip


def _answers_before_applying(self: ReplicaState, ranges: Any, now: float) -> None:
    ACCEPT_ALL(self, ranges, now)
    for record in self.held.values():
        self.value_ts = merged(self.value_ts, {record.stream: record.seq})


ACCEPT_ALL = ReplicaState.accept


def _table_says_what_was_sent(self: ReplicaState, peer: str) -> None:
    PUSH(self, peer)
    self.table[peer] = merged(self.table[peer], self.log.have)


PUSH = ReplicaState.push


def _old_versions_come_back(self: Store, key: str, entry: Any) -> bool:
    kept = PUT(self, key, entry)
    entries = self._records.get(key)
    if not kept and entries is not None and all(e.version != entry.version for e in entries):
        self._records[key] = (*entries[:-1], entry)
        return True
    return kept


PUT = Store.put


def _ties_by_arrival(self: Store, key: str, entry: Any) -> bool:
    kept = PUT(self, key, entry)
    if kept:
        self._records[key] = tuple(sorted(self._records[key], key=lambda e: (-e.number, e is not entry)))
    return kept


def _park_without_a_bound(self: Requests, waiting: Any, now: float, stream: Any = None) -> None:
    self.parked.add(waiting, now, None)


def _numbers_from_a_client(request: Any) -> Any:
    op = OPERATION(request)
    if op is not None and op.verb == "write" and op.lowest % 7 == 0:
        return evolve(op, after={**op.after, "1:1": 2**63})
    return op


def _committed_when_one_has_prepared(self: Commit, txn: Any, now: float) -> None:
    one = txn.state == PREPARING and any(grant.prepared for grant in txn.grants.values())
    if one and _own_record_only(self, txn) and not self._lacks(txn):
        self._commit(txn, now)
    else:
        ADVANCE(self, txn, now)


ADVANCE = Commit._advance


def _read_though_only_prepared(self: Requests, op: Any) -> Any:
    prepared = self.state.prepared.get(op.key)
    if prepared is None or op.version is not None:
        return READ(self, op)
    return answered((prepared.record.value, str(prepared.record.version)), self.state.value_ts)


READ = Requests._read


def _plain_read_though_only_prepared(self: Requests, key: str, now: float) -> Any:
    prepared, found = self.state.prepared.get(key), PLAIN_READ(self, key, now)
    if prepared is None or found is None:
        return found
    record = prepared.record
    return Entry(record.number, record.replica, record.value, record.id, {}), self.state.value_ts


PLAIN_READ = Requests.plain_read


def _what_the_leader_has_prepared(self: ViewChange, others: Any, again: float, now: float) -> bool:
    """Any survivor, here the one that leads; the others are given it."""
    self._look_here()
    self.found = tuple(sorted(self.prepared[self.context.incarnation]))
    return LEVEL(self, others, again, now)


def _ended_by_newer_while_serving(self: ReplicaState, record: Any) -> None:
    prepared = self.prepared.get(record.key)
    if prepared is None or self.context.serving or prepared.record.version == record.version:
        END_PREPARED(self, record)
    elif prepared.base is None or prepared.base < record.version:
        self.prepared[record.key] = replace(prepared, base=record.version)


END_PREPARED = ReplicaState._end_prepared


def _ended_by_its_commit_alone(self: ReplicaState, record: Any) -> None:
    prepared = self.prepared.get(record.key)
    if prepared is not None and prepared.record.version == record.version:
        END_PREPARED(self, record)


def _prepared_without_a_look(self: Locks, home: str, wanted: Any, newest: Any, pending: Any) -> Any:
    return GRANT_LOCK(self, home, wanted, newest if wanted.record is None else None, pending)


GRANT_LOCK = Locks._grant


def _prepared_is_not_locked(self: Requests, *write: Any) -> Any:
    keys = self.locks.keys
    self.locks.keys = {key: lock for key, lock in keys.items() if key not in self.state.prepared}
    try:
        return WRITE_OBSTACLE(self, *write)
    finally:
        self.locks.keys = keys


def _queued_writes_go_first(self: Replica, token: Any, message: Any, now: float) -> Any:
    if isinstance(message, Prepare):
        for key, lock in list(self.locks.keys.items()):
            prepared = self.state.prepared.get(key)
            if prepared is not None and prepared.home == message.sender and prepared.txn in message.commits:
                del self.locks.keys[key]
                queue, lock.queue = lock.queue, []
                for waiting in queue:
                    self.requests.attempt(waiting, now)
                self.locks.keys[key] = lock
    return IN_VIEW(self, token, message, now)


IN_VIEW = Replica._in_view


def _records_before_commits(self: Commit, member: Any, keys: Any, ranges: Any = ()) -> None:
    outcomes = self._outcomes
    if keys:
        self._outcomes = deque()
    SEND_PREPARE(self, member, keys, ranges)
    self._outcomes = outcomes


SEND_PREPARE = Commit._send_prepare


def _records_alone(self: Commit, member: Any, keys: Any, ranges: Any = ()) -> None:
    SEND_PREPARE(self, member, keys)


def _given_up_though_out(self: Commit, txn: Any, now: float) -> None:
    out, txn.out = txn.out, False
    GIVE_UP_LATE(self, txn, now)
    txn.out = out


GIVE_UP_LATE = Commit._give_up_late


def _refused_though_out(self: Commit, now: float) -> None:
    out = [txn for queue in self._queues.values() for txn in queue if txn.out]
    for txn in out:
        txn.out = False
    TICK_STOPPED(self, now)
    for txn in out:
        txn.out = True


TICK_STOPPED = Commit.tick_stopped


def _any_other_replaces(self: Locks, home: str, txn: int, round: int, key: str) -> None:
    lock = self.keys.get(key)
    if lock is not None and (lock.txn, lock.round) > (txn, round):
        lock.txn, lock.round = 0, 0
    LOCK_HERE(self, home, txn, round, key)


def _unlocks_what_has_ended(self: Locks, home: str, oldest: int) -> None:
    for key, lock in list(self.keys.items()):
        if lock.home == home and lock.txn < oldest:
            self.unlock(key, home, lock.txn)
    CLEAR(self, home, oldest)


CLEAR = Locks.clear


def _fence_is_ignored(self: Membership, view: Any, now: float) -> None:
    self.context.note("goes on as if nothing had been")


def _level_with_the_leader(self: ViewChange, others: Any, again: float, now: float) -> bool:
    self.base = dict(self.state.log.have)
    self.have = dict.fromkeys(self.have, self.base)
    return LEVEL(self, others, again, now)


LEVEL = ViewChange._level


def _install_without_levelling(self: Membership, sender: str, view: Any, base: Any, now: float) -> Any:
    have = dict(base)
    for home, _, _ in view.found:
        have[commit_stream(home)] -= 1
    self.state.log.have = have
    return ON_INSTALL(self, sender, view, base, now)


ON_INSTALL = Membership.on_install


def _joins_empty(self: Joining, message: Any, held: Any, now: float) -> Any:
    reply = ON_LOAD(self, message, held, now)
    if self.loaded:
        self.state.store = Store(self.state.store.max_versions)
    return reply


ON_LOAD = Joining.on_load


def _locks_nothing(self: Requests, *write: Any) -> Any:
    keys, self.locks.keys = self.locks.keys, {}
    try:
        return WRITE_OBSTACLE(self, *write)
    finally:
        self.locks.keys = keys


WRITE_OBSTACLE = Requests.write_obstacle


def _plain_without_a_lease(self: Requests, key: str, now: float) -> bool:
    return self.context.serving and not self.context.leaves


def _plain_while_the_view_changes(self: Requests, key: str, now: float) -> bool:
    return now < self.detection.lease_until() and not self.context.leaves


def _plain_write_of_a_locked_key(self: Requests, key: str, value: str, now: float) -> Any:
    if not self.can_answer(key, now) or self.config.write_concern > 1:
        return None
    return self.state.execute(self._next_record(key, value), now)


def _own_value_only(self: Commit, txn: Any, now: float) -> None:
    txn.grants = {peer: evolve(grant, newest=None) for peer, grant in txn.grants.items()}
    COMPARE(self, txn, now)


COMPARE = Commit._compare


def _own_record_only(self: Commit, txn: Any) -> bool:
    mine = self.state.prepared.get(txn.op.key)
    return mine is not None and mine.record is txn.record


def _told_at_once(self: Commit, txn: Any, now: float) -> None:
    COMPARE(self, txn, now)
    txn.holding = {}


def _release_is_lost(self: Commit, txn: Any, answer: Any) -> None:
    self.locks.unlock(txn.op.key, self.context.incarnation, txn.number)


def _other_views_are_taken(self: Replica, token: Any, message: Any, now: float) -> Any:
    return ON_PEER(self, token, evolve(message, view=self.context.view_name), now)


ON_PEER = Replica.on_peer


def _who_is_asked_coordinates(self: Requests, waiting: Any, now: float) -> None:
    self.commit.begin(waiting, now)


def _first_come_first_locked(self: Locks, message: Any) -> Any:
    for wanted in message.keys:
        lock = self.keys.get(wanted.key)
        if lock is not None and lock.home != message.sender:
            return Error(UNAVAILABLE)
    return ON_PREPARE(self, message)


ON_PREPARE = Locks.on_prepare


def _a_lock_stays(self: Locks, home: str, txn: int, round: int, key: str) -> None:
    if key not in self.keys or self.keys[key].txn == txn:
        LOCK_HERE(self, home, txn, round, key)


LOCK_HERE = Locks.lock


def _any_evidence_counts_at_once(self: Detection, incarnation: str, now: float) -> bool:
    self.gone[incarnation] = now
    return True


def _news_is_never_old(self: Membership, url: str, at: float, now: float) -> None:
    ON_REFUSED(self, url, now, now)


ON_REFUSED = Membership.on_refused


def _any_ballot_is_obeyed(self: Membership, message: Any, now: float) -> Any:
    self.promised = (0, "")
    return ON_FLUSH(self, message, now)


ON_FLUSH = Membership.on_flush


def _joiners_hold_nothing_up(self: ReplicaState) -> None:
    joining = {c: self.table.pop(c) for c in list(self.table) if self.context.member(c) is None}
    TRUNCATE(self)
    self.table.update(joining)


TRUNCATE = ReplicaState.truncate


def _losses_are_not_told(self: Requests, after: Any) -> Any:
    return {}, WITHOUT_DEAD(self, after)[1]


WITHOUT_DEAD = Requests._without_dead


def _the_answer_renews_the_lease(self: Detection, peer: str, sent: float, have: Any, now: float) -> None:
    self._beating.pop(peer, None)
    ON_BEAT(self, peer, now, have, now)


ON_BEAT = Detection.on_beat


def _a_full_lease_for_all(self: Detection, now: float) -> float:
    GRANT(self, now)
    return self.context.config.lease


GRANT = Detection._grant


def _silence_since_ever(self: Detection, incarnation: str, now: float) -> float:
    return now - self.heard.get(incarnation, now) if incarnation in self._listens else 0.0


def _any_join_is_evidence(self: Joining, message: Any, now: float) -> Any:
    return ON_JOIN(self, evolve(message, told=self.context.view_name), now)


ON_JOIN = Joining.on_join


def _what_anybody_has(self: ReplicaState) -> Any:
    return merged(self.log.have, *self.table.values())


def _who_was_sent_it_counts(self: ReplicaState, record: Any) -> int:
    return min(len(self.context.others()), HOLDERS(self, record) + len(self._gossiping))


HOLDERS = ReplicaState.holders


def _all_but_one_are_all(self: ReplicaContext, concern: Any) -> int:
    wanted = HOLDERS_WANTED(self, concern)
    return max(1, wanted - 1) if concern == "all" else wanted


HOLDERS_WANTED = ReplicaContext.holders_wanted


def _refused_and_written(self: Requests, waiting: Any, now: float) -> Any:
    op, state = waiting.op, self.state
    if room.refusal(state, op.key, op.value) and op.key not in self.locks.keys:
        state.execute(self._next_record(op.key, op.value, op.after, op.id, op.lowest), now)
    return WRITE(self, waiting, now)


WRITE = Requests._write


def _replication_is_refused(self: ReplicaState, ranges: Any, now: float) -> None:
    full = [r for given in ranges for r in given.records if room.refusal(self, r.key, r.value)]
    ACCEPT_ALL(self, ranges if not full else (), now)


def _expired_names_are_not_given(self: ReplyCache, dumped: Any, expired: Any, now: float) -> None:
    LOAD(self, dumped, [], now)


LOAD = ReplyCache.load


def _flush_stops_nothing(self: Membership, message: Any, now: float) -> Any:
    serving = self.context.serving
    reply = ON_FLUSH(self, message, now)
    self.context.serving = serving
    return reply


def _held_back_writes_are_dropped(self: ReplicaState, *rest: Any, **more: Any) -> None:
    for place in [place for place in self.held if not is_commit(place[0])]:
        del self.held[place]
    SETTLE(self, *rest, **more)


SETTLE = ReplicaState.settle


def _the_dead_stay(self: ReplicaState, base: Any, found: Any, live: Any, *rest: Any, **more: Any) -> None:
    SETTLE(self, base, found, {*live, *map(incarnation_of, base)}, *rest, **more)


def _final_counts_are_not_given(self: Joining, message: Any, held: Any, now: float) -> Any:
    return ON_LOAD(
        self, evolve(message, state={n: v if n != "cuts" else {} for n, v in message.state.items()}), held, now
    )


def _half_of_the_view_alone(self: View, complete: bool) -> Any:
    return (tuple(m.component for m in self.members),)


def _complete_when_installed(self: PeerReplies, url: str, peer: str, message: Any, reply: Any, now: float) -> None:
    TAKE_ANSWER(self, url, peer, message, reply, now)
    if isinstance(message, Install) and isinstance(reply, Ok) and message.installs.name == self.context.view_name:
        ENTERED.setdefault((self.context.incarnation, self.context.view_name), {self.context.incarnation}).add(peer)
        entered = ENTERED[self.context.incarnation, self.context.view_name]
        assert self.context.view is not None
        self.context.complete |= all(m.component in entered for m in self.context.view.members)


TAKE_ANSWER = PeerReplies.take
ENTERED: dict[tuple[str, str], set[str]] = {}


def _nobody_is_bound(self: Membership, message: Any, now: float) -> Any:
    reply = ON_FLUSH(self, message, now)
    self._bound.clear()
    return reply


def _its_vote_goes_with_it(self: Membership, *rest: Any) -> None:
    bound, self._bound = self._bound, set()
    try:
        GIVE_WAY(self, *rest)
    finally:
        self._bound = bound


GIVE_WAY = Membership._give_way


def _the_lowest_leads(self: Detection, now: float) -> bool:
    stops, self.context.stops = self.context.stops, {}
    try:
        return LEADS(self, now)
    finally:
        self.context.stops = stops


LEADS = Detection.leads


def _who_leaves_counts(self: NextView, stay: Any) -> bool:
    view = self.context.view
    leavers = [m for m in view.members if not self.leaving.stays(m)] if view is not None else []
    return MAY_CHANGE(self, (*stay, *leavers)) and bool(stay)


MAY_CHANGE = NextView.may_change


def _ends_when_asked(self: Membership, message: Any, now: float) -> Any:
    reply = ON_FLUSH(self, message, now)
    if isinstance(reply, Ok) and any(m.component == self.context.incarnation for m in message.leaving):
        self.leaving.left = Left(True, "ends, and nobody has fetched anything yet")
    return reply


def _ends_when_all_have_heard(self: Leaving, now: float) -> None:
    self._heard = {m.component for m in self.context.others()}
    END_WITH_ALL(self, now)


END_WITH_ALL = Leaving._end_with_all


def _same_incarnation(node: Any) -> str:
    return f"{node.number}:1"


RUNS = {
    "runs": "8",
    "partitions": "no",
    "session_ttl": "3600",
    "max_versions": "100000",
    "crash": "1",
    "faults": "8",
    "max_memory": "0",
    "clients": "1",
}
"""Chains under crashes: of storage nodes, workers and the scheduler."""
SHARDS = RUNS | {"replicas": "3", "shards": "2", "keys": "1"}
"""The same over two shards, which lose writes apart from each other."""
LOSSES = RUNS | {"stray": "0.1", "clog": "2"}
"""Chains whose requests and replies get lost, too: what is forwarded is on its way while a run is fenced."""


def _nothing_is_superseded(self: ReplyCache, id: str | None, epoch: Any) -> None:
    return None


def _only_own_journal(self: Fences, waiting: Any, now: float) -> None:
    BEGIN_FENCE(self, waiting, now)
    for fencing in self._open:
        if fencing.waiting is waiting:
            fencing.missing.clear()
            self._advance(fencing, now)


BEGIN_FENCE = Fences.begin


def _promises_of_the_view_before(self: Fences) -> list[Any]:
    for fencing in self._open:
        fencing.missing = {c for c in fencing.missing if self.context.member(c) is not None}
    return []


def _locked_without_a_look(self: Locks, *wanted: Any) -> Any:
    with mock.patch.object(ReplyCache, "superseded", _nothing_is_superseded):
        return GRANT_LOCK(self, *wanted)


def _compared_without_a_look(self: Commit, txn: Any, now: float) -> None:
    with mock.patch.object(ReplyCache, "superseded", _nothing_is_superseded):
        COMPARE(self, txn, now)


def _the_same_numbers(request: Any, shards: Any) -> Any:
    again, known = RESUME(request, shards)
    return evolve(again, number=0), known


RESUME = journal.resume


def _outputs_do_not_travel(request: Any) -> list[Any]:
    return []


def _the_first_outcome_counts(self: Runs, id: str, chain: Any, after: Any, now: float, epoch: Any = None) -> Any:
    return ON_ENDED(self, id, chain, after, now, epoch=self[id].epoch)


ON_ENDED = Runs.on_ended


def _without_journals(self: ReplyCache, dumped: Any, expired: Any, now: float) -> None:
    LOAD_ANSWERS(self, [[*head, [each[:4] for each in answers]] for *head, answers in dumped], expired, now)


def _without_promises(self: ReplyCache, dumped: Any, expired: Any, now: float) -> None:
    LOAD_ANSWERS(self, [[a, b, c, (0, ""), answers] for a, b, c, _, answers in dumped], expired, now)


LOAD_ANSWERS = ReplyCache.load


def _forwarded_without_epoch(self: ReplicaContext, to: Any, message: Any, token: Any, timeout: float) -> None:
    if isinstance(message, Forward) and message.journal is not None:
        message = evolve(message, journal=Journal(10**12, "", *_rest_of(message.journal)))
    FORWARD(self, to, message, token, timeout)


def _rest_of(of: Journal) -> tuple[Any, ...]:
    return of.call, of.digest, of.verb, of.entries


FORWARD = ReplicaContext.forward


def _one_shard_has_it(self: History, call: Any, version: Any, shard: int, shards: int) -> None:
    UPDATED(self, call, version, shard, 1)


UPDATED = History.updated


def _nothing_is_lost(request: Any, shards: Any) -> Any:
    again, known = RESUME(request, shards)
    return again, {number: Kept(kept.entry, kept.carried) for number, kept in known.items()}


def _all_is_in_hand(self: Runs, request: Any, now: float, ago: float = 0.0, late: float = 0.0) -> Any:
    return ON_ADOPT(self, request, now, ago)


ON_ADOPT = Runs.on_adopt


def _all_is_read_again(self: History) -> None:
    memory, known = dict(self._memory), dict(self._known)
    BEGIN_TRY(self)
    self._known = {**known, **memory}


BEGIN_TRY = History.begin


def _in_the_same_execution(self: Execution, what: str) -> None:
    self.history.unsure = False
    RAISED(self, what)


RAISED = Execution._raised

SIDES = {"membership": "majority", "partitions": "yes", "turn": "1", "stop": "1"}
PLAIN = {"plain": "1", "pause": "1"}
"""Requests by the fast path, while nodes are paused often."""
KILLS = {
    "replicas": "3",
    "keys": "1",
    "partitions": "no",
    "armed": ",".join(f"prepare.send=kill@{hit}" for hit in range(6, 200, 11)),
    **dict.fromkeys(("pause", "clog", "stop"), "100"),
    "runs": "0",
}
"""Homes that die with the commits, or records, that they are about to send."""
LATE = {
    "replicas": "5",
    "keys": "1",
    "clients": "6",
    "gossip_delay": "0",
    "mean_delay": "0.01",
    "late": "0.1",
    "session_ttl": "3600",
    "runs": "0",
}
"""Messages of different nodes that overtake each other, about one key."""
PAIR = {
    "replicas": "2",
    "membership": "available",
    "partitions": "no",
    "keys": "1",
    "clients": "3",
    "write_concern": "1",
    "gossip_delay": "0",
    "late": "0.1",
    "crash": "0.3",
    "runs": "0",
}
"""Two nodes, one of which often dies before the other has its gossip."""
TURNS = SIDES | {"replicas": "5", "turn": "0.6", "faults": "12"}
"""Members change sides while a view is on its way, and nodes leave."""

BUGS = (
    Bug("one entry of value_ts decides for all", ((requests_module, "covers", _any_entry_covers),)),
    Bug("ts is replica_ts, not prev with one entry", ((ReplicaState, "next_record", _prev_is_all_that_was_logged),)),
    Bug("version number before the update is stable", ((Requests, "_try", _write_without_waiting),)),
    Bug("an update that is not kept: ts not merged", ((ReplicaState, "_apply", _apply_merges_only_what_is_kept),)),
    Bug("same update id accepted by two replicas", ((replica_module, "operation", _no_operation_is_a_retry),)),
    Bug("replica_ts merged from a partial message", ((ReplicaState, "on_gossip", _have_is_merged_from_gossip),)),
    Bug("a restart under the old component", ((network, "incarnation_name", _same_incarnation),)),
    Bug("answers between merging and applying", ((ReplicaState, "accept", _answers_before_applying),)),
    Bug("timestamp table says what was sent", ((ReplicaState, "push", _table_says_what_was_sent),)),
    Bug("a discarded version comes back", ((Store, "put", _old_versions_come_back),)),
    Bug("ties broken by arrival", ((Store, "put", _ties_by_arrival),)),
    Bug("unbounded waiting requests", ((Requests, "_park", _park_without_a_bound),)),
    Bug("a client's counter of 2^63 believed", ((replica_module, "operation", _numbers_from_a_client),)),
    Bug(
        "as proposed: newer versions may come in later",
        (
            (ReplicaState, "_end_prepared", _ended_by_its_commit_alone),
            (Log, "_has_commits", lambda self, record: True),
            (Commit, "_send_prepare", _records_before_commits),
        ),
    ),
    Bug(
        "committed if any survivor has it",
        (
            (ViewChange, "_level", _what_the_leader_has_prepared),
            (ReplicaState, "_end_prepared", _ended_by_newer_while_serving),
        ),
        KILLS | {"clients": "6", "gossip_delay": "0.3"},
    ),
    Bug("nothing prepared is committed", ((ViewChange, "_is_member", lambda self, peer: False),), KILLS),
    Bug("client answered before all have prepared", ((Commit, "_advance", _committed_when_one_has_prepared),)),
    Bug("prepared though it has a newer version", ((Locks, "_grant", _prepared_without_a_look),)),
    Bug(
        "visible when prepared",
        (
            (Requests, "_read", _read_though_only_prepared),
            (Requests, "plain_read", _plain_read_though_only_prepared),
        ),
    ),
    Bug("unlocked before the commit", ((Requests, "write_obstacle", _prepared_is_not_locked),)),
    Bug("queued write numbered before the record", ((Replica, "_in_view", _queued_writes_go_first),)),
    Bug(
        "newer version does not end what is prepared",
        ((ReplicaState, "_end_prepared", _ended_by_its_commit_alone),),
    ),
    Bug("newer version logged before its commit", ((Log, "_has_commits", lambda self, record: True),), LATE),
    Bug("PREPARE without the outcome before it", ((Commit, "_send_prepare", _records_before_commits),)),
    Bug(
        "PREPARE without what it depends on",
        (
            (Commit, "_send_prepare", _records_alone),
            (Commit, "_depends_on_nothing_lost", lambda self, txn: True),
        ),
        PAIR,
    ),
    Bug(
        "unavailable told with a record out",
        ((Commit, "_give_up_late", _given_up_though_out), (Commit, "tick_stopped", _refused_though_out)),
        SIDES | {"cut": "1", "keys": "1", "clients": "6"},
    ),
    Bug("old view goes on after FLUSH", ((Membership, "on_flush", _flush_stops_nothing),)),
    Bug("node that joins counts as a survivor", ((ViewChange, "_is_member", lambda self, peer: True),), KILLS),
    Bug(
        "PREPARE taken after its end",
        (
            (Locks, "_has_ended", lambda self, home, txn: False),
            (Locks, "_goes_before", lambda self, lock, wanted, pending: False),
            (Locks, "lock", _any_other_replaces),
        ),
        LATE | {"reset": "0.02", "stale": "0.3", "odd": "0.02"},
    ),
    Bug("heartbeat that it has ended unlocks", ((Locks, "clear", _unlocks_what_has_ended),)),
    Bug("locks hold no writes back", ((Requests, "write_obstacle", _locks_nothing),)),
    Bug(
        "the home tests its own value only",
        ((Commit, "_compare", _own_value_only), (Commit, "_has_prepared", _own_record_only)),
    ),
    Bug("no, before all hold the value", ((Commit, "_compare", _told_at_once),)),
    Bug(
        "a release is lost, and nobody looks",
        ((Commit, "_release", _release_is_lost), (Locks, "clear", lambda self, home, oldest: None)),
    ),
    Bug("the cut is the leader's own", ((ViewChange, "_level", _level_with_the_leader),)),
    Bug("a view installed without levelling", ((Membership, "on_install", _install_without_levelling),)),
    Bug("a removed node goes on", ((Membership, "fence", _fence_is_ignored),)),
    Bug("the lease ignored", ((Detection, "lease_until", lambda self: float("inf")),)),
    Bug("the fast path forgets the lease", ((Requests, "can_answer", _plain_without_a_lease),), PLAIN),
    Bug("the fast path forgets that the view changes", ((Requests, "can_answer", _plain_while_the_view_changes),)),
    Bug("the fast path forgets the locks", ((Requests, "plain_write", _plain_write_of_a_locked_key),)),
    Bug("executed table not given to a joiner", ((ReplyCache, "load", lambda self, *rest: None),)),
    Bug("a joiner counts before it has the records", ((Joining, "on_load", _joins_empty),)),
    Bug("held-back updates never tried again", ((ReplicaState, "apply_held", lambda self, now, places=None: None),)),
    Bug("who is asked coordinates, not the home", ((Requests, "_at_home", _who_is_asked_coordinates),)),
    Bug(
        "locks in arrival order at each participant",
        ((Requests, "_at_home", _who_is_asked_coordinates), (Locks, "on_prepare", _first_come_first_locked)),
    ),
    Bug(
        "a lock does not give way to the next",
        ((Locks, "lock", _a_lock_stays), (Locks, "clear", lambda self, home, oldest: None)),
    ),
    Bug("no fence: messages of other views are taken", ((Replica, "on_peer", _other_views_are_taken),)),
    Bug("a lease outlasts the silence", ((Config, "lease", property(lambda self: 4 * self.ping_timeout)),)),
    Bug("the lease counts from the answer", ((Detection, "on_beat", _the_answer_renews_the_lease),)),
    Bug("the hub grants more than its own lease", ((Detection, "_grant", _a_full_lease_for_all),)),
    Bug("silence counts from before the hub was lost", ((Detection, "_silence", _silence_since_ever),)),
    Bug("the hub says that all have what one has", ((ReplicaState, "held_everywhere", _what_anybody_has),)),
    Bug(
        "a release is lost, and nobody asks but the hub",
        ((Commit, "_release", _release_is_lost), (Detection, "wait_for", lambda self, *rest: None)),
    ),
    Bug(
        "stale evidence of a death is believed",
        ((Detection, "bury", _any_evidence_counts_at_once), (Membership, "on_refused", _news_is_never_old)),
    ),
    Bug("what an earlier life sent to join is believed", ((Joining, "on_join", _any_join_is_evidence),)),
    Bug("any ballot is obeyed", ((Membership, "on_flush", _any_ballot_is_obeyed),)),
    Bug("truncation does not wait for joiners", ((ReplicaState, "truncate", _joiners_hold_nothing_up),)),
    Bug("held-back writes dropped when the view changes", ((ReplicaState, "settle", _held_back_writes_are_dropped),)),
    Bug("waiting requests dropped when the view changes", ((Commit, "give_back", lambda self: []),)),
    Bug("the dead stay in the timestamps", ((ReplicaState, "settle", _the_dead_stay),)),
    Bug("lost updates are not reported", ((Requests, "_without_dead", _losses_are_not_told),)),
    Bug("a joiner does not know what was cut", ((Joining, "on_load", _final_counts_are_not_given),)),
    Bug("a joiner does not know the expired sessions", ((ReplyCache, "load", _expired_names_are_not_given),)),
    Bug("an expired session's retry is executed", ((ReplyCache, "expired", lambda self, id: False),)),
    Bug("a write answered before its concern is met", ((ReplicaState, "holders", lambda self, record: 99),)),
    Bug("a write is refused for want of memory, and done", ((Requests, "_write", _refused_and_written),)),
    Bug("want of memory stops replication", ((ReplicaState, "accept", _replication_is_refused),)),
    Bug("a write for all: who was sent it counts", ((ReplicaState, "holders", _who_was_sent_it_counts),)),
    Bug("a write for all: as if one were removed", ((ReplicaContext, "holders_wanted", _all_but_one_are_all),)),
    Bug("more than half of the view alone changes it", ((View, "lists", _half_of_the_view_alone),), TURNS),
    Bug("complete when all have installed it", ((PeerReplies, "take", _complete_when_installed),), SIDES),
    Bug("promised to change a view, and gone to another", ((Membership, "on_flush", _nobody_is_bound),), TURNS),
    Bug(
        "promised to change a view, and left",
        ((Membership, "_give_way", _its_vote_goes_with_it),),
        SIDES | {"replicas": "3"},
    ),
    Bug("who leaves leads a change", ((Detection, "leads", _the_lowest_leads),)),
    Bug("who leaves counts for the change", ((NextView, "may_change", _who_leaves_counts),)),
    Bug(
        "who leaves ends before anybody has its state",
        ((Membership, "on_flush", _ends_when_asked), (Leaving, "_push", lambda self: None)),
    ),
    Bug(
        "who leaves is not asked what it has",
        ((NextView, "leavers", lambda self, wanted, now: ()), (Leaving, "_push", lambda self: None)),
    ),
    Bug("all have heard, and one ends, though others stay", ((Leaving, "_end_with_all", _ends_when_all_have_heard),)),
    Bug("older executions of a run are not refused", ((ReplyCache, "superseded", _nothing_is_superseded),), RUNS),
    Bug("a run's journal is that of one member", ((Fences, "begin", _only_own_journal),), RUNS),
    Bug(
        "a home promises before its transactions end",
        (
            (Commit, "supersede", lambda *rest: None),
            (Locks, "has_prepared", lambda *rest: False),
        ),
        LOSSES,
    ),
    Bug("what was promised in the view before counts", ((Fences, "give_back", _promises_of_the_view_before),), RUNS),
    Bug(
        "a compare-and-swap is tested on arrival only",
        (
            (Locks, "_grant", _locked_without_a_look),
            (Commit, "_compare", _compared_without_a_look),
            (Commit, "supersede", lambda *rest: None),
        ),
        LOSSES | {"replicas": "3"},
    ),
    Bug("each execution takes the same numbers", ((execution_module, "resume", _the_same_numbers),), RUNS),
    Bug("refusals are not in the journal", ((History, "refused", lambda *rest: None),), RUNS),
    Bug("errors are not in the journal", ((History, "failed", lambda *rest: None),), RUNS),
    Bug("reads are not in the journal", ((History, "read", lambda *rest: None),), RUNS),
    Bug("what earlier steps left is not in the journal", ((journal, "_kept_by", _outputs_do_not_travel),), RUNS),
    Bug("the outcome that comes first counts", ((Runs, "on_ended", _the_first_outcome_counts),), RUNS),
    Bug("updates of a run do not depend on each other", ((execution_module, "merged", lambda one, other: {}),), RUNS),
    Bug("a joiner does not know the journals", ((ReplyCache, "load", _without_journals),), RUNS),
    Bug("a joiner does not know the promises", ((ReplyCache, "load", _without_promises),), RUNS),
    Bug("promises since its snapshot are not given", ((Joining, "promises", lambda self: {}),), RUNS),
    Bug("calls are not compared", ((History, "_compare", lambda *rest: None),), RUNS),
    Bug("an update is forwarded without its epoch", ((ReplicaContext, "forward", _forwarded_without_epoch),), LOSSES),
    Bug("a try with a call in flight keeps its epoch", ((Execution, "_raised", _in_the_same_execution),), RUNS),
    Bug("a try gets again what was read last", ((History, "begin", _all_is_read_again),), RUNS),
    Bug("other shards are not given what one has", ((History, "updated", _one_shard_has_it),), SHARDS),
    Bug("a lost write of another shard is not made again", ((execution_module, "resume", _nothing_is_lost),), SHARDS),
    Bug("a step of a worker that is gone is in hand for ever", ((Runs, "on_adopt", _all_is_in_hand),), SHARDS),
)


def seeds_needed(bug: Bug, most: int = MOST) -> tuple[int, str] | None:
    """How many seeds until the simulator finds the bug, and what it says; None when it does not."""
    with bug.in_force():
        for seed in range(most):
            wrong = Simulation(seed, plan=plan_of(seed, bug.plan)).run()
            if wrong:
                return seed + 1, wrong[0]
    return None


def _measure(number: int) -> tuple[int, tuple[int, str] | None]:
    return number, seeds_needed(BUGS[number])


def main() -> int:
    """The table of all bugs."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--jobs", type=int, default=os.cpu_count())
    options.add_argument("--like", default="", help="part of the names of the bugs to run (default: all)")
    given = options.parse_args()
    chosen = [number for number, bug in enumerate(BUGS) if given.like in bug.name]
    out: Callable[[str], Any] = sys.stdout.write
    missed = 0
    out(f"| {'deliberate bug':45} | seeds | what the simulator says |\n| --- | ---: | --- |\n")
    with ProcessPoolExecutor(given.jobs) as pool:
        for number, found in pool.map(_measure, chosen):
            seeds, says = found if found is not None else ("-", f"NOT FOUND in {MOST}")
            missed += found is None
            out(f"| {BUGS[number].name:45} | {seeds:5} | {says[:110]} |\n")
            sys.stdout.flush()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
