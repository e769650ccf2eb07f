"""updateIf, and what else needs all members at once: two-phase commit with a visibility barrier.

Theory of operation. The updates of a key queue at one member, its home. The home locks the key at all members, which
queue plain writes of the key from then on and return their newest version. The home compares the newest of all values
and appends the update to its commit stream. The members log the commit, invisible, and confirm. When all have
confirmed, the home exposes the commit: it replies to the client, and every member makes the commit visible and runs
the queued writes. So a value that a client received or could read survives any crash, and every survivor has the
decision. Linearizable reads, and updates that may be a retry, go through the same queue.

`flush` sends what one turn of the reactor has gathered for each member, so that concurrent transactions share messages.
The module is long because a transaction is read as one piece, from its lock to its release.

Source: two-phase commit (Gray, 1978), with one coordinator per key and the barrier of replication.md.
Views, and what becomes of transactions when they change, are decided by `dida.replication.membership`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from attrs import Factory, define

from dida import errors
from dida.errors import BadRequest
from dida.replication.batches import batches
from dida.replication.context import ReplicaContext
from dida.replication.executed import TOO_MANY_ANSWERS, after_of, answered, not_applied, split
from dida.replication.gossip import ReplicaState, write_answer
from dida.replication.messages import Decide, Ended, Expose, Grant, Granted, Lock, Member, Record, Release, Wanted
from dida.replication.operations import (
    PendingRequest,
    ReplicaRequest,
    refused,
    superseded,
    too_late,
    unknown_outcome,
)
from dida.replication.participant import MAX_QUEUE, Locks
from dida.replication.room import refusal
from dida.replication.store import Entry
from dida.replication.streams import incarnation_of
from dida.timestamps import Timestamp, covers, merge_into, merged
from dida.versions import Version
from dida.wire.messages import Epoch, Error, No, Ok, Reply

SHORT = 1000
"""Maximum length of a value that a release repeats, in characters."""
NOT_REACHED = -1
"""The last exposed count of a member that the last EXPOSE did not reach."""

QUEUED, LOCKING, COMPARING, HOLDING, DECIDING, ENDED = "queued", "locking", "comparing", "holding", "deciding", "ended"

TRANSITIONS: dict[str, dict[str, str]] = {
    QUEUED: {
        LOCKING: "its turn has come, and the gossip delay is over: LOCK to all members",
        ENDED: "the deadline: unavailable",
    },
    LOCKING: {
        COMPARING: "all members have granted",
        HOLDING: "a member has executed this update before, and the write concern wants it held by all",
        ENDED: "a member has executed this update before: its answer again; or the deadline: unavailable",
    },
    COMPARING: {
        DECIDING: "the newest value of all is `old` (or it is a write): the commit is logged, DECIDE to all members",
        HOLDING: "the value is another one, or it is a read: the answer waits until all members hold that value",
        ENDED: "there is no record; or the update was executed before; or the deadline: unavailable",
    },
    HOLDING: {ENDED: "all members hold the value: no, or the value read; RELEASE; or the deadline: unavailable"},
    DECIDING: {ENDED: "all members have logged the commit: it is exposed, the client hears ok"},
    ENDED: {},
}
"""The states of a transaction at its home: from where to where, and when. A change of the view ends each: what is
decided is applied by all, what is not begins again in the new view."""


@define(eq=False)
class _Transaction:
    op: ReplicaRequest
    waiters: list[PendingRequest]
    start_at: float
    number: int = 0
    """Given when the transaction starts: a home's numbers grow."""
    state: str = QUEUED
    asked: set[str] = Factory(set)
    """Members whose grant is awaited."""
    grants: dict[str, Version | None] = Factory(dict)
    seen: dict[str, Timestamp] = Factory(dict)
    record: Record | None = None
    ts: Timestamp = Factory(dict)
    """The record's."""
    answer: Reply | None = None
    holding: Timestamp = Factory(dict)

    def become(self, state: str) -> None:
        """Go on to a state that may follow."""
        assert state in TRANSITIONS[self.state], f"a transaction that is {self.state} can't become {state}"
        self.state = state


@define
class Commit:
    """The transactions that a replica coordinates, as the home of their keys."""

    context: ReplicaContext
    state: ReplicaState
    locks: Locks
    _queues: dict[str, deque[_Transaction]] = Factory(dict)
    _running: dict[int, _Transaction] = Factory(dict)
    _by_id: dict[str, _Transaction] = Factory(dict)
    _deciding: deque[_Transaction] = Factory(deque)
    _decided: Timestamp = Factory(dict)
    """What members must log for those, at least."""
    _confirming: set[str] = Factory(set)
    """Members whose answer to a DECIDE is awaited: one at a time, and the next has all that was decided meanwhile."""
    _blocked: dict[int, _Transaction] = Factory(dict)
    _releases: dict[int, tuple[Ended, set[str], set[str]]] = Factory(dict)
    """Per transaction to release: its end, the members that have not confirmed it, those of them that were asked."""
    _gathered: list[_Transaction] = Factory(list)
    """Transactions that wait for the flush to ask for their locks."""
    wants_flush: bool = False
    """There is something for the members: `flush` sends it, in few messages."""
    _last: int = 0

    # --- the home's side ------------------------------------------------------------------------

    def begin(self, waiting: PendingRequest, now: float) -> None:
        """Queue an operation at its key; this replica is the key's home."""
        op = waiting.op
        same = self._by_id.get(op.id) if op.id is not None else None
        if same is not None:
            same.waiters.append(waiting)
            return
        if op.id is not None and self.state.executed.full and self.state.executed.answer(op.id) is None:
            self.context.answer(waiting.token, refused(waiting, TOO_MANY_ANSWERS))
            return
        queue = self._queues.setdefault(op.key, deque())
        if len(queue) >= MAX_QUEUE:
            text = f"{MAX_QUEUE} operations already wait at this key: try again later"
            self.context.answer(waiting.token, refused(waiting, text))
            return
        delayed = op.verb == "updateif" and bool(self.context.others()) and not self.context.leaves
        start_at = now + (self.context.config.gossip_delay if delayed else 0)
        txn = _Transaction(op, [waiting], start_at)
        if op.id is not None:
            self._by_id[op.id] = txn
        queue.append(txn)
        if len(queue) == 1:
            self._start(txn, now)

    def _start(self, txn: _Transaction, now: float) -> None:
        self._last += 1
        txn.number = self._last
        self._running[txn.number] = txn
        if txn.start_at <= now:
            self._lock_all(txn, now)

    def _lock_all(self, txn: _Transaction, now: float) -> None:
        txn.become(LOCKING)
        self.locks.lock(self.context.incarnation, txn.number, txn.op.key)
        self._gathered.append(txn)
        self.wants_flush = True
        self._advance(txn, now)

    def flush(self) -> None:
        """Send each member what was gathered for it: mostly one RELEASE, one LOCK and one DECIDE, or an EXPOSE."""
        self._send(self._gathered)

    def _send(self, locking: Collection[_Transaction], again: bool = False) -> None:
        for member in self.context.others():
            self._send_releases(member)
            self._send_locks(member, locking)
            self._send_decide(member)
        self._announce(again)
        self._gathered = []
        self.wants_flush = False

    def _send_locks(self, member: Member, locking: Collection[_Transaction]) -> None:
        peer = member.component
        wanted = []
        for txn in locking:
            if txn.state == LOCKING and peer not in txn.asked and peer not in txn.grants:
                txn.asked.add(peer)
                wanted.append(Wanted(txn.number, txn.op.key, txn.op.id, txn.op.epoch))
        for some in batches(wanted, _bytes):
            self.context.send(member, Lock(**self.context.stamp(), keys=tuple(some)))

    def _send_decide(self, member: Member) -> None:
        peer = member.component
        if self._deciding and peer not in self._confirming and not self._acknowledged(self._deciding[-1], peer):
            self._confirming.add(peer)
            log = self.state.log
            ranges = log.since(self.state.table[peer], self._decided)
            self.context.send(member, Decide(**self.context.stamp(), ranges=ranges, have=log.have))

    def _acknowledged(self, txn: _Transaction, peer: str) -> bool:
        assert txn.record is not None
        known = self.state.table[peer]
        return known.get(txn.record.stream, 0) >= txn.record.seq and covers(known, txn.ts)

    def _acknowledged_by_all(self, txn: _Transaction) -> bool:
        for member in self.context.others():  # noqa: SIM110 - on the path of every commit, and all() takes twice as long
            if not self._acknowledged(txn, member.component):
                return False
        return True

    def on_granted(self, peer: str, message: Lock, granted: Granted, now: float) -> None:
        """A member has locked the keys."""
        if len(granted.grants) != len(message.keys):
            raise BadRequest(f"{len(granted.grants)} grants for {len(message.keys)} keys")
        for wanted, grant in zip(message.keys, granted.grants, strict=True):
            self._take_grant(peer, wanted, grant, granted.seen, now)

    def _take_grant(self, peer: str, wanted: Wanted, grant: Grant, seen: Timestamp, now: float) -> None:
        """A member has locked the key; or it has executed this very update before."""
        txn = self._running.get(wanted.txn)
        if txn is None or txn.state != LOCKING:
            return
        txn.asked.discard(peer)
        if grant.expired:
            self._finish(txn, self._session_expired(txn), now)
            return
        if grant.superseded is not None:
            self._finish(txn, superseded(grant.superseded), now)
            return
        if grant.known is not None:
            known = (answered if grant.ok else not_applied)(grant.known, grant.after)
            self._finish_known(txn, known, now)
            return
        txn.grants[peer] = grant.newest
        txn.seen[peer] = seen
        self._advance(txn, now)

    def on_decided(self, peer: str, have: Timestamp, now: float) -> None:
        """A member has logged commits."""
        self.state.confirm(peer, have)
        self._confirming.discard(peer)
        self._expose_acknowledged(now)
        if self._deciding:
            self.wants_flush = True

    def on_unanswered(self, peer: str, message: Lock | Decide) -> None:
        """A Lock or Decide did not get through: it will be sent again with the next tick."""
        if isinstance(message, Decide):
            self._confirming.discard(peer)
        else:
            for wanted in message.keys:
                if wanted.txn in self._running:
                    self._running[wanted.txn].asked.discard(peer)

    def _advance(self, txn: _Transaction, now: float) -> None:
        """Go on as far as what has been heard allows."""
        if txn.state == LOCKING and len(txn.grants) == len(self.context.others()):
            txn.become(COMPARING)
        if txn.state == COMPARING:
            self._compare(txn, now)
        state = self.state
        if txn.state == HOLDING and covers(state.log.have, txn.holding) and state.held_by_all(txn.holding):
            assert txn.answer is not None
            self._finish(txn, txn.answer, now)
        if txn.state in (COMPARING, HOLDING):
            self._blocked[txn.number] = txn
        else:
            self._blocked.pop(txn.number, None)

    def _compare(self, txn: _Transaction, now: float) -> None:
        """All writes of the key are held back everywhere: get the newest value, and test it."""
        state, op = self.state, txn.op
        if by := state.executed.superseded(op.id, op.epoch):
            self._finish(txn, superseded(by), now)
            return
        known = state.executed.answer(op.id) if op.id is not None else None
        if known is not None:
            self._finish_known(txn, known, now)
            return
        if op.id is not None and state.executed.expired(op.id):
            self._finish(txn, self._session_expired(txn), now)
            return
        newest = state.store.newest(op.key)
        mine = newest.version if newest is not None else None
        for peer, version in txn.grants.items():
            if version is not None and (mine is None or mine < version):
                state.fetch(txn.seen[peer], now)
                return
        if not covers(state.value_ts, op.after):
            state.fetch(op.after, now)
            return
        if op.verb == "write" and self.context.cannot_meet(op.concern):
            self._finish(txn, unknown_outcome(), now)
            return
        if op.verb == "write" or (op.verb == "updateif" and newest is not None and newest.value == op.old):
            if why := refusal(state, op.key, op.value):
                self._finish(txn, Error(errors.STORAGE_FULL, (why,)), now)
            else:
                self._decide(txn, newest, now)
            return
        if newest is None:
            missing = Error(errors.NO_SUCH_RECORD, (op.key,))
            self._finish(txn, No() if op.verb == "updateif" else missing, now)
            return
        if op.verb == "updateif":
            txn.answer = No((str(newest.version), newest.value), {"after": state.value_ts})
        else:
            txn.answer = Ok((newest.value, str(newest.version)), {"after": state.value_ts})
        txn.holding = newest.ts or {}
        txn.become(HOLDING)
        state.hasten(txn.holding)

    def _finish_known(self, txn: _Transaction, known: Reply, now: float) -> None:
        """The update was executed before. A write is answered again when as many hold it as its concern wants: all."""
        if txn.op.verb != "write" or all(self.context.holders_wanted(w.op.concern) == 1 for w in txn.waiters):
            self._finish(txn, known, now)
        else:
            after = after_of(known)
            live = {s: n for s, n in after.items() if self.context.member(incarnation_of(s)) is not None}
            txn.answer, txn.holding = known, live
            txn.become(HOLDING)
            self.state.fetch(live, now)
            self.state.hasten(live)
            self._advance(txn, now)

    def _session_expired(self, txn: _Transaction) -> Error:
        """A retry from long ago: its update was executed, and its answer is forgotten."""
        return Error(errors.SESSION_EXPIRED, (txn.op.id or "",))

    def _decide(self, txn: _Transaction, newest: Entry | None, now: float) -> None:
        assert self.context.serving, "nothing is decided while the view changes"
        state, op = self.state, txn.op
        depends = newest.ts if newest is not None and newest.ts is not None else {}
        txn.record = state.next_record(
            self.context.commits,
            merged(depends, op.after),
            key=op.key,
            number=1 + (newest.number if newest is not None else 0),
            replica=self.context.me.replica,
            value=op.value,
            id=op.id,
            lowest=op.lowest,
            journal=op.journal,
        )
        txn.ts = txn.record.ts
        state.append_commit(txn.record)
        self.locks.decided(op.key, txn.record.seq)
        txn.become(DECIDING)
        self._deciding.append(txn)
        merge_into(self._decided, txn.ts)
        self.wants_flush = True
        self._expose_acknowledged(now)

    def _expose_acknowledged(self, now: float) -> None:
        """Commits that all members have logged, in order, become visible."""
        done = []
        while self._deciding and self._acknowledged_by_all(self._deciding[0]):
            done.append(self._deciding.popleft())
        if not done:
            return
        if not self._deciding:
            self._decided = {}
        last = done[-1].record
        assert last is not None
        self.context.exposed = last.seq
        self.state.expose(self.context.incarnation, last.seq, now)
        self.wants_flush = True
        for txn in done:
            assert txn.record is not None
            self._finish(txn, write_answer(txn.record), now)

    def _finish(self, txn: _Transaction, answer: Reply, now: float) -> None:
        """Tell the clients; release the key where no update does it; go on with the next."""
        for waiting in txn.waiters:
            self.context.answer(waiting.token, self._by_concern(waiting, answer))
        self._drop(txn)
        if txn.record is None:
            if txn.op.id is not None and isinstance(answer, No):
                self.state.executed.note(txn.op.id, txn.op.lowest, answer, now)
            self._release(txn, answer)
        txn.become(ENDED)
        queue = self._queues[txn.op.key]
        if queue[0] is txn:
            queue.popleft()
            if queue:
                self._start(queue[0], now)
            else:
                del self._queues[txn.op.key]
        else:
            queue.remove(txn)

    def _by_concern(self, waiting: PendingRequest, answer: Reply) -> Reply:
        """The answer, which all members hold; not when more than all were to hold it."""
        if isinstance(answer, Ok) and waiting.op.verb == "write" and self.context.cannot_meet(waiting.op.concern):
            return unknown_outcome()
        return answer

    def _drop(self, txn: _Transaction) -> None:
        self._running.pop(txn.number, None)
        self._blocked.pop(txn.number, None)
        if txn.op.id is not None:
            self._by_id.pop(txn.op.id, None)

    def _release(self, txn: _Transaction, answer: Reply) -> None:
        if txn.state == QUEUED:
            return
        self.locks.unlock(txn.op.key, self.context.incarnation, txn.number)
        words = answer.words if isinstance(answer, No) else None
        after = after_of(answer) if words is not None else {}
        if words and len(words[1]) > SHORT:
            words = words[:1]
        peers = {m.component for m in self.context.others()}
        if peers:
            self._releases[txn.number] = (Ended(txn.number, txn.op.key, txn.op.id, words, after), peers, set())
            self.wants_flush = True

    def _send_releases(self, member: Member) -> None:
        peer = member.component
        released = []
        for ended, peers, asked in self._releases.values():
            if peer in peers and peer not in asked:
                asked.add(peer)
                released.append(ended)
        for some in batches(released, _bytes):
            self.context.send(member, Release(**self.context.stamp(), keys=tuple(some)))

    def on_released(self, peer: str, message: Release, arrived: bool) -> None:
        """The answer to a Release."""
        for ended in message.keys:
            pending = self._releases.get(ended.txn)
            if pending is None:
                continue
            _, peers, asked = pending
            asked.discard(peer)
            if arrived:
                peers.discard(peer)
                if not peers:
                    del self._releases[ended.txn]

    def supersede(self, run: str, epoch: Epoch, now: float) -> None:
        """End the open transactions of a run with lower epochs, but for those that are decided."""
        for queue in list(self._queues.values()):
            # the first one last: when it ends, the next one begins
            for txn in [txn for txn in reversed(queue) if txn.record is None and _is_below(txn, run, epoch)]:
                self._finish(txn, superseded(epoch), now)

    # --- the participant's side -----------------------------------------------------------------

    def on_decide(self, message: Decide, now: float) -> Reply:
        """Log the commits, invisible; the answer says what is logged."""
        self.state.accept(message.ranges, now)
        self.state.confirm(message.sender, message.have)
        return Ok((), {"have": self.state.log.have})

    @property
    def oldest(self) -> int:
        """The number below which all transactions of this home have ended."""
        return next(iter(self._running), self._last + 1)

    # --- what happens by itself -----------------------------------------------------------------

    def observe(self, now: float) -> None:
        """Follow what replication did: decisions logged, commits applied, states that have changed.

        Not while the view changes: what comes then is for all to begin the next view alike.
        """
        if not self.context.serving:
            return
        self.locks.observe()
        if self.state.changed:
            self._expose_acknowledged(now)  # members confirm by heartbeats and gossip, too
            for txn in list(self._blocked.values()):
                self._advance(txn, now)

    def _announce(self, again: bool) -> None:
        """Send EXPOSE to the members that did not learn of exposed commits by another message.

        A member that was not reached gets it `again` with the next tick, not at once: it may be gone.
        """
        for member in self.context.others():
            told = self.context.told.get(member.component, 0)
            if told < self.context.exposed and (again or told != NOT_REACHED):
                self.context.send(member, Expose(**self.context.stamp()))

    def tick(self, now: float) -> None:
        """Start what was delayed, send again what did not get through, give up what is late."""
        for txn in list(self._running.values()):
            if txn.state == QUEUED:
                if now >= txn.start_at or self.context.leaves:
                    self._lock_all(txn, now)
            elif txn.number in self._blocked:
                self._advance(txn, now)
        for queue in list(self._queues.values()):
            for txn in list(queue):
                self._give_up_late(txn, now)
        self.locks.give_up_late(now)
        self._send(self._running.values(), again=True)

    def tick_stopped(self, now: float) -> None:
        """While the view changes: nothing goes on, but what is late is answered."""
        for queue in self._queues.values():
            for txn in queue:
                for waiting in [w for w in txn.waiters if now >= w.deadline]:
                    txn.waiters.remove(waiting)
                    self.context.answer(
                        waiting.token, unknown_outcome() if txn.record is not None else too_late(waiting)
                    )
        self.locks.give_up_late(now)

    def waiting(self) -> list[PendingRequest]:
        """Who waits for the transactions here."""
        return [waiting for queue in self._queues.values() for txn in queue for waiting in txn.waiters]

    def _give_up_late(self, txn: _Transaction, now: float) -> None:
        late = [w for w in txn.waiters if now >= w.deadline]
        if not late:
            return
        if txn.state == DECIDING:
            for waiting in late:
                txn.waiters.remove(waiting)
                self.context.answer(waiting.token, unknown_outcome())
        elif len(late) == len(txn.waiters):
            first = txn.waiters.pop(0)
            for waiting in txn.waiters:
                self.context.answer(waiting.token, too_late(waiting))
            txn.waiters = [first]
            self._finish(txn, too_late(first), now)
        else:
            for waiting in late:
                txn.waiters.remove(waiting)
                self.context.answer(waiting.token, too_late(waiting))

    def settle(self) -> None:
        """The new view is settled: all members have applied the decided commits, so reply to their clients."""
        for queue in self._queues.values():
            for txn in queue:
                if txn.record is not None:
                    for waiting in txn.waiters:
                        self.context.answer(waiting.token, self._by_concern(waiting, write_answer(txn.record)))
                    txn.waiters = []

    def give_back(self) -> list[PendingRequest]:
        """Stop all: nothing is locked, nothing runs. The operations that are not answered are given back."""
        again: list[PendingRequest] = []
        for queue in self._queues.values():
            for txn in queue:
                for waiting in txn.waiters:
                    waiting.passed_on = waiting.passed_on or txn.record is not None
                    again.append(waiting)
        again += self.locks.give_back()
        for part in (self._queues, self._running, self._by_id, self._blocked, self._releases):
            part.clear()
        self._deciding.clear()
        self._decided = {}
        self._confirming.clear()
        self._gathered = []
        self.wants_flush = False
        return again

    @property
    def open(self) -> int:
        """Transactions that wait or run here."""
        return sum(map(len, self._queues.values()))


def _is_below(txn: _Transaction, run: str, epoch: Epoch) -> bool:
    return txn.op.id is not None and split(txn.op.id)[0] == run and txn.op.epoch < epoch


def _bytes(item: Wanted | Ended) -> int:
    return 100 + len(item.key) + len(item.id or "")
