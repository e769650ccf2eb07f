"""updateIf, and what else needs all members at once: two-phase commit, in one round where the home knows best.

Theory of operation. The updates of a key queue at one member, its home. If the newest version there has the value
`old`, the home sends all members PREPARE with the new record: they lock the key, that is they queue plain writes of it,
and keep the record, invisible, unless they know a newer version. When all have prepared it, and hold what it depends
on, it is committed: the home appends it to its commit stream, replies to the client, and names it in its next message
to each member, which then logs it as prepared and runs the queued writes. So a value that a client received or could
read survives any crash, and every survivor has what it takes to decide. If a member knows a newer version, the home
fetches it and compares again, under the same locks: the next round. Reads that must see the newest version, and updates
that may be a retry, begin with a round of locks alone.

`flush` sends what one turn of the reactor has gathered for each member, so that concurrent transactions share messages.
The module is long because a transaction is read as one piece, from its first round to its release.

Source: two-phase commit (Gray, 1978), with one coordinator per key; docs/explanation/replication.md has the reasons.
Views, and what becomes of transactions when they change, are decided by `dida.replication.membership`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from attrs import Factory, define
from msgspec.structs import replace

from dida import errors
from dida.errors import BadRequest
from dida.replication.batches import batches
from dida.replication.context import ReplicaContext
from dida.replication.executed import TOO_MANY_ANSWERS, after_of, answered, not_applied, split
from dida.replication.gossip import ReplicaState
from dida.replication.log import bytes_of
from dida.replication.messages import Ended, Grant, Granted, Member, Prepare, Range, Record, Release, Wanted
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
from dida.wire.messages import FIRST, Epoch, Error, No, Ok, Reply

SHORT = 1000
"""Maximum length of a value that a release repeats, in characters."""

QUEUED, LOCKING, PREPARING, COMPARING, HOLDING, RELEASING, ENDED = (
    *("queued", "locking", "preparing", "comparing"),
    *("holding", "releasing", "ended"),
)

TRANSITIONS: dict[str, dict[str, str]] = {
    QUEUED: {
        PREPARING: "its turn has come, the value here is `old`, and the gossip delay is over: PREPARE to all members",
        LOCKING: "its turn has come, and the value here is another one, or it is a retry or a read: locks alone",
        ENDED: "the deadline: unavailable",
    },
    LOCKING: {
        COMPARING: "all members have granted",
        HOLDING: "a member has executed this update before, and the write concern wants it held by all",
        ENDED: "a member has executed this update before: its answer again; or the deadline: unavailable",
    },
    PREPARING: {
        COMPARING: "all members have answered, and one of them has a newer version",
        RELEASING: "a member has executed this update before, or refuses it for another reason",
        ENDED: "all members have prepared the record: it is committed, the client hears ok",
    },
    COMPARING: {
        PREPARING: "the newest value of all is `old` (or it is a write): PREPARE to all members, the next round",
        HOLDING: "the value is another one, or it is a read: the answer waits until all members hold that value",
        RELEASING: "it is refused, and some members may have prepared a record",
        ENDED: "there is no record; or the update was executed before; or the deadline: unavailable",
    },
    HOLDING: {ENDED: "all members hold the value: no, or the value read; RELEASE; or the deadline: unavailable"},
    RELEASING: {ENDED: "all members have dropped what they had prepared: the client hears why"},
    ENDED: {},
}
"""The states of a transaction at its home: from where to where, and when. A change of the view ends each: what all that
go on have prepared is committed, what is not begins again in the new view. Once a record is out no deadline ends it."""


@define(eq=False)
class _Transaction:
    op: ReplicaRequest
    waiters: list[PendingRequest]
    start_at: float
    """When its record may be sent: the gossip delay holds it back."""
    number: int = 0
    """Given when the transaction starts: a home's numbers grow."""
    round: int = 0
    state: str = QUEUED
    asked: set[str] = Factory(set)
    """Members whose grant is awaited."""
    grants: dict[str, Grant] = Factory(dict)
    """Those of this round."""
    seen: dict[str, Timestamp] = Factory(dict)
    record: Record | None = None
    """The record of this round, without its place in the stream."""
    base: Version | None = None
    """The version that it replaces."""
    out: bool = False
    """True if a record was sent, in this round or before: some members may have prepared it."""
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
    _outcomes: deque[tuple[int, int]] = Factory(deque)
    """Own commits that some member may lack: their places in the stream, and their transactions."""
    _told: dict[str, int] = Factory(dict)
    """Member to the last own commit that was sent to it and is not refused or lost."""
    _telling: dict[str, int] = Factory(dict)
    """Member to the number of messages with commits for it that are under way."""
    _blocked: dict[int, _Transaction] = Factory(dict)
    _releases: dict[int, tuple[Ended, set[str], set[str]]] = Factory(dict)
    """Per transaction to release: its end, the members that have not confirmed it, those of them that were asked."""
    _gathered: list[_Transaction] = Factory(list)
    """Transactions that wait for the flush to send their round."""
    wants_flush: bool = False
    """There is something for the members: `flush` sends it, in few messages."""
    _last: int = 0

    # --- the home's side ------------------------------------------------------------------------

    def begin(self, waiting: PendingRequest, now: float) -> None:
        """Queue an operation at its key; this replica is the key's home."""
        op = waiting.op
        same = self._by_id.get(op.id) if op.id is not None else None
        if same is not None and same.op.epoch == op.epoch:
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
        delayed = op.verb == "updateif" and bool(self.context.others())
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
        self._begin_rounds(txn, now)

    def _begin_rounds(self, txn: _Transaction, now: float) -> None:
        """Begin with PREPARE where this home has the value `old`, and else with locks alone."""
        newest = self._replaced(txn)
        if newest is None:
            txn.become(LOCKING)
            self._send_round(txn, now)
        elif self._may_send(txn, now):
            self._prepare(txn, newest, now)

    def _may_send(self, txn: _Transaction, now: float) -> bool:
        return now >= txn.start_at or self.context.leaves

    def _replaced(self, txn: _Transaction) -> Entry | None:
        """Return the version that the update replaces, if it seems so from here; None: all must be asked first."""
        op, state = txn.op, self.state
        may_be_retry = op.retry and op.id is not None
        if op.verb != "updateif" or may_be_retry or not covers(state.value_ts, op.after):
            return None
        newest = state.store.newest(op.key)
        if newest is None or newest.value != op.old or refusal(state, op.key, op.value):
            return None
        if op.id is not None:
            executed = state.executed
            if executed.answer(op.id) is not None or executed.expired(op.id) or executed.superseded(op.id, op.epoch):
                return None
        if state.held and state.newest_logged((op.key,))[op.key] != newest.version:
            return None
        return newest

    def _prepare(self, txn: _Transaction, newest: Entry | None, now: float) -> None:
        """Send the record that replaces the newest version, which is here, to all members."""
        assert self.context.serving, "nothing is prepared while the view changes"
        op = txn.op
        depends = newest.ts if newest is not None and newest.ts is not None else {}
        txn.base = newest.version if newest is not None else None
        txn.record = Record(
            self.context.commits,
            0,
            merged(depends, op.after),
            op.key,
            1 + (newest.number if newest is not None else 0),
            self.context.me.replica,
            op.value,
            op.id,
            op.lowest,
            op.journal,
        )
        txn.out = bool(self.context.others())
        txn.become(PREPARING)
        self._send_round(txn, now)

    def _send_round(self, txn: _Transaction, now: float) -> None:
        txn.round += 1
        txn.grants.clear()
        txn.asked.clear()
        me = self.context.incarnation
        self.locks.lock(me, txn.number, txn.round, txn.op.key)
        if txn.state == PREPARING:
            self.locks.prepare(me, self._wanted(txn))
        self._gathered.append(txn)
        self.wants_flush = True
        self._advance(txn, now)

    def _wanted(self, txn: _Transaction) -> Wanted:
        op = txn.op
        if txn.state == PREPARING:
            return Wanted(txn.number, op.key, txn.round, None, FIRST, txn.base, txn.record)
        return Wanted(txn.number, op.key, txn.round, op.id, op.epoch)

    def flush(self) -> None:
        """Send each member what was gathered for it: one RELEASE, and one PREPARE with what is committed."""
        self._send(self._gathered)

    def _send(self, gathered: Collection[_Transaction], again: bool = False) -> None:
        for member in self.context.others():
            self._send_releases(member)
            self._send_rounds(member, gathered)
            self._send_commits(member, again)
        self._gathered = []
        self.wants_flush = False

    def _send_rounds(self, member: Member, gathered: Collection[_Transaction]) -> None:
        peer = member.component
        wanted = []
        needed: Timestamp = {}
        for txn in gathered:
            if txn.state in (LOCKING, PREPARING) and peer not in txn.asked and peer not in txn.grants:
                txn.asked.add(peer)
                wanted.append(self._wanted(txn))
                if txn.record is not None:
                    merge_into(needed, txn.record.prev)
        needed.pop(self.context.commits, None)  # they are named
        ranges = self.state.log.since(self.state.table[peer], needed) if needed else ()
        for some in batches(wanted, _bytes):
            self._send_prepare(member, tuple(some), ranges)
            ranges = ()

    def _send_prepare(self, member: Member, keys: tuple[Wanted, ...], ranges: tuple[Range, ...] = ()) -> None:
        """Send what is committed, and after that what is wanted."""
        peer = member.component
        known = self.state.table[peer].get(self.context.commits, 0)
        commits = tuple(txn for seq, txn in self._outcomes if seq > known)
        if commits:
            self._told[peer] = known + len(commits)
            self._telling[peer] = self._telling.get(peer, 0) + 1
        message = Prepare(
            **self.context.stamp(),
            base=known,
            commits=commits,
            keys=keys,
            ranges=ranges,
            have=self.state.log.have if commits else {},
            oldest=self.oldest,
        )
        self.context.send(member, message)

    def _send_commits(self, member: Member, again: bool) -> None:
        """Send what is committed to a member that no other message tells; one at a time, unless it is `again`."""
        peer = member.component
        if self._has_untold(peer) and (again or not self._telling.get(peer)):
            self._send_prepare(member, ())

    def on_prepared(self, peer: str, message: Prepare, granted: Granted, now: float) -> None:
        """A member has logged the commits, and has locked the keys."""
        if len(granted.grants) != len(message.keys):
            raise BadRequest(f"{len(granted.grants)} grants for {len(message.keys)} keys")
        self._has_answered(peer, message)
        self.state.confirm(peer, granted.have)
        self._forget_outcomes()
        for wanted, grant in zip(message.keys, granted.grants, strict=True):
            self._take_grant(peer, wanted, grant, granted.have, now)
        if self._has_untold(peer):
            self.wants_flush = True

    def _has_untold(self, peer: str) -> bool:
        """Return True if a member lacks commits, and no message tells it."""
        if not self._outcomes:
            return False
        told = max(self._told.get(peer, 0), self.state.table[peer].get(self.context.commits, 0))
        return told < self._outcomes[-1][0]

    def _has_answered(self, peer: str, message: Prepare) -> None:
        if message.commits:
            self._telling[peer] = self._telling.get(peer, 1) - 1

    def _forget_outcomes(self) -> None:
        """Forget the commits that all members have logged."""
        stream = self.context.commits
        while self._outcomes and self.state.held_by_all({stream: self._outcomes[0][0]}):
            self._outcomes.popleft()

    def _take_grant(self, peer: str, wanted: Wanted, grant: Grant, have: Timestamp, now: float) -> None:
        """A member has locked the key; or it has executed this very update before."""
        txn = self._running.get(wanted.txn)
        if txn is None or txn.round != wanted.round or txn.state not in (LOCKING, PREPARING):
            return
        txn.asked.discard(peer)
        if grant.ended:
            return
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
        txn.grants[peer] = grant
        txn.seen[peer] = have
        self._advance(txn, now)

    def on_unanswered(self, peer: str, message: Prepare) -> None:
        """A Prepare did not get through: what it carried will be sent again with the next tick."""
        if message.view != self.context.view_name:
            return  # all of that view has ended
        self._has_answered(peer, message)
        if message.commits:
            self._told.pop(peer, None)
        for wanted in message.keys:
            txn = self._running.get(wanted.txn)
            if txn is not None and txn.round == wanted.round:
                txn.asked.discard(peer)

    def _advance(self, txn: _Transaction, now: float) -> None:
        """Go on as far as what has been heard allows."""
        lacks: Timestamp = {}
        if txn.state in (LOCKING, PREPARING) and len(txn.grants) == len(self.context.others()):
            if txn.state == LOCKING or not self._has_prepared(txn):
                txn.become(COMPARING)
            elif lacks := self._lacks(txn):
                self.state.hasten(lacks)
            else:
                self._commit(txn, now)
                return
        if txn.state == COMPARING:
            self._compare(txn, now)
        state = self.state
        if txn.state == HOLDING and covers(state.log.have, txn.holding) and state.held_by_all(txn.holding):
            assert txn.answer is not None
            self._finish(txn, txn.answer, now)
        if lacks or txn.state in (COMPARING, HOLDING):
            self._blocked[txn.number] = txn
        else:
            self._blocked.pop(txn.number, None)

    def _has_prepared(self, txn: _Transaction) -> bool:
        """Return True if all members have prepared the record, this one included."""
        mine = self.state.prepared.get(txn.op.key)
        return mine is not None and mine.record is txn.record and all(grant.prepared for grant in txn.grants.values())

    def _lacks(self, txn: _Transaction) -> Timestamp:
        """Return what the record depends on, if some member lacks any of it; empty if none does."""
        assert txn.record is not None
        prev = txn.record.prev
        return {} if not prev or self.state.held_by_all(prev) else prev

    def _commit(self, txn: _Transaction, now: float) -> None:
        """All members have prepared the record: it has a place in the stream from now on, and is visible."""
        assert self.context.serving, "nothing is committed while the view changes"
        assert txn.record is not None
        stream = self.context.commits
        record = replace(txn.record, seq=self.state.log.have.get(stream, 0) + 1)
        answer = self.state.execute(record, now)
        if self.context.others():
            self._outcomes.append((record.seq, txn.number))
            self.wants_flush = True
        self._end(txn, answer, now)

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
        for peer, grant in txn.grants.items():
            if grant.newest is not None and (mine is None or mine < grant.newest):
                state.fetch(txn.seen[peer], now)
                return
        if state.held and (logged := state.newest_logged((op.key,)).get(op.key)) != mine:
            assert logged is not None
            state.fetch(self._depends(op.key, logged), now)
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
            elif op.verb == "write" or self._may_send(txn, now):
                self._prepare(txn, newest, now)
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
        if (
            txn.op.verb != "write"
            or txn.out
            or all(self.context.holders_wanted(w.op.concern) == 1 for w in txn.waiters)
        ):
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

    def _depends(self, key: str, version: Version) -> Timestamp:
        """Return what a held-back version depends on."""
        held = self.state.held.values()
        return next((r.prev for r in held if r.key == key and r.version == version and not r.note), {})

    def _finish(self, txn: _Transaction, answer: Reply, now: float) -> None:
        """End a transaction that changes nothing: release the key, and reply.

        If members may have prepared a record, the reply waits until all have dropped it: whoever goes on without this
        node would commit it. They have dropped it where all hold the newer version that the reply reports.
        """
        if txn.state == RELEASING:
            return
        waits = txn.out and txn.state != HOLDING
        if not waits:
            self._note_refusal(txn, answer, now)
        if txn.state != QUEUED:
            self._release(txn, None if waits else answer)
        if waits:
            txn.become(RELEASING)
            txn.answer = answer
            self._blocked.pop(txn.number, None)
        else:
            self._end(txn, answer, now)

    def _note_refusal(self, txn: _Transaction, answer: Reply, now: float) -> None:
        if txn.op.id is not None and isinstance(answer, No):
            self.state.executed.note(txn.op.id, txn.op.lowest, answer, now)

    def _end(self, txn: _Transaction, answer: Reply, now: float) -> None:
        """Reply to the clients; go on with the next transaction of the key."""
        for waiting in txn.waiters:
            self.context.answer(waiting.token, self._by_concern(waiting, answer))
        self._drop(txn)
        txn.become(ENDED)
        queue = self._queues[txn.op.key]
        if queue[0] is txn:
            queue.popleft()
            if not queue:
                del self._queues[txn.op.key]
            elif self.context.serving:  # else all begin anew in the next view
                self._start(queue[0], now)
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
        if txn.op.id is not None and self._by_id.get(txn.op.id) is txn:
            del self._by_id[txn.op.id]

    def _release(self, txn: _Transaction, answer: Reply | None) -> None:
        """Unlock the key everywhere; with a `no`, members note it for retries."""
        self.locks.unlock(txn.op.key, self.context.incarnation, txn.number)
        words = answer.words if isinstance(answer, No) else None
        after = after_of(answer) if isinstance(answer, No) else {}
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

    def on_released(self, peer: str, message: Release, arrived: bool, now: float) -> None:
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
                    txn = self._running.get(ended.txn)
                    if txn is not None and txn.state == RELEASING:
                        assert txn.answer is not None
                        self._note_refusal(txn, txn.answer, now)
                        self._end(txn, txn.answer, now)

    def supersede(self, run: str, epoch: Epoch, now: float) -> None:
        """End the open transactions of a run with lower epochs, but for those whose records are out."""
        for queue in list(self._queues.values()):
            # the first one last: when it ends, the next one begins
            for txn in [txn for txn in reversed(queue) if not txn.out and _is_below(txn, run, epoch)]:
                self._finish(txn, superseded(epoch), now)

    @property
    def oldest(self) -> int:
        """The number below which all transactions of this home have ended."""
        return next(iter(self._running), self._last + 1)

    # --- what happens by itself -----------------------------------------------------------------

    def observe(self, now: float) -> None:
        """Follow what replication did: commits applied, states that have changed.

        Not while the view changes: what comes then is for all to begin the next view alike.
        """
        if not self.context.serving:
            return
        self.locks.observe()
        if self.state.changed:
            self._forget_outcomes()  # members confirm by heartbeats and gossip, too
            for txn in list(self._blocked.values()):
                self._advance(txn, now)

    def tick(self, now: float) -> None:
        """Start what was delayed, send again what did not get through, give up what is late."""
        for txn in list(self._running.values()):
            if txn.state == QUEUED:
                self._begin_rounds(txn, now)
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
                    self.context.answer(waiting.token, unknown_outcome() if txn.out else too_late(waiting))
        self.locks.give_up_late(now)

    def waiting(self) -> list[PendingRequest]:
        """Who waits for the transactions here."""
        return [waiting for queue in self._queues.values() for txn in queue for waiting in txn.waiters]

    def _give_up_late(self, txn: _Transaction, now: float) -> None:
        late = [w for w in txn.waiters if now >= w.deadline]
        if not late:
            return
        if txn.out:
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

    def give_back(self) -> list[PendingRequest]:
        """Stop all: nothing is locked, nothing runs. The operations that are not answered are given back.

        Those whose records are committed with the next view are answered by their ids, like retries.
        """
        again: list[PendingRequest] = []
        for queue in self._queues.values():
            for txn in queue:
                for waiting in txn.waiters:
                    waiting.passed_on = waiting.passed_on or txn.out
                    again.append(waiting)
        again += self.locks.give_back()
        for part in (self._queues, self._running, self._by_id, self._blocked, self._releases):
            part.clear()
        self._outcomes.clear()
        self._told.clear()
        self._telling.clear()
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
    if isinstance(item, Wanted) and item.record is not None:
        return 100 + bytes_of(item.record)
    return 100 + len(item.key) + len(item.id or "")
