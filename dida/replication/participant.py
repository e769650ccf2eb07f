"""Locks on keys: a participant's side of the transactions that `dida.replication.coordinator` coordinates.

The home of a key locks it at all members before it compares: they say their newest version, and hold plain writes
of the key back until the update is applied, or released. One home per key: its next transaction supersedes the
last, should a release be late.
"""

from __future__ import annotations

from typing import Any

from attrs import Factory, define

from dida.replication.context import ReplicaContext
from dida.replication.executed import after_of, not_applied
from dida.replication.gossip import ReplicaState
from dida.replication.messages import Lock, Release, Wanted
from dida.replication.operations import PendingRequest, refused, too_late
from dida.replication.streams import incarnation_of
from dida.timestamps import Timestamp
from dida.versions import Version
from dida.wire.messages import No, Ok, Reply

MAX_QUEUE = 1000
"""Operations that may wait at one key: transactions at its home, plain writes at each member."""


@define(eq=False)
class _KeyLock:
    home: str
    txn: int
    decided: int | None = None
    """The commit's seq, once it is logged."""
    queue: list[PendingRequest] = Factory(list)


@define
class Locks:
    """The keys that are locked at one replica, and the writes that wait for them."""

    context: ReplicaContext
    state: ReplicaState
    keys: dict[str, _KeyLock] = Factory(dict)
    resumed: list[PendingRequest] = Factory(list)
    """Writes that may go on now; the owner runs them."""

    def lock(self, home: str, txn: int, key: str) -> None:
        """Lock for `home`; a later transaction of the same home supersedes an earlier one."""
        lock = self.keys.get(key)
        if lock is None:
            self.keys[key] = _KeyLock(home, txn)
        elif lock.txn < txn:
            lock.txn = txn
            lock.decided = None

    def on_lock(self, message: Lock, now: float) -> Reply:
        """Lock the keys, say their newest versions; or what an update was answered, if it was."""
        grants = [self._grant(message.sender, wanted) for wanted in message.keys]
        return Ok((), {"grants": grants, "seen": self.state.value_ts})

    def _grant(self, home: str, wanted: Wanted) -> dict[str, Any]:
        executed = self.state.executed
        if by := executed.superseded(wanted.id, wanted.epoch):
            return {"superseded": by}
        if wanted.id is not None:
            known = executed.answer(wanted.id)
            if isinstance(known, Ok | No):
                return {"known": list(known.words), "ok": isinstance(known, Ok), "after": after_of(known)}
            if executed.expired(wanted.id):
                return {"expired": True}
        self.lock(home, wanted.txn, wanted.key)
        newest = self.state.store.newest(wanted.key)
        return {"newest": str(newest.version)} if newest is not None else {}

    def on_release(self, message: Release, now: float) -> Reply:
        """Unlock: no updates come. A `no` is remembered, so that a retry elsewhere hears it, too."""
        for ended in message.keys:
            if ended.answer is not None and ended.id is not None:
                self._note_refusal(ended.id, ended.key, ended.answer, ended.after, now)
            self.unlock(ended.key, message.sender, ended.txn)
        return Ok()

    def _note_refusal(self, id: str, key: str, words: tuple[str, ...], after: Timestamp, now: float) -> None:
        """Remember a `no`, a long value as it is here; where that is gone by now, the home remembers it alone."""
        if len(words) == 1:
            value = self.state.value_of(key, Version.parse(words[0]))
            if value is None:
                return
            words = (*words, value)
        self.state.executed.note(id, 0, not_applied(words, after), now)

    def unlock(self, key: str, home: str, txn: int) -> None:
        lock = self.keys.get(key)
        if lock is not None and lock.home == home and lock.txn == txn:
            del self.keys[key]
            self.resumed += lock.queue

    def clear(self, home: str, oldest: int) -> None:
        """Drop what an overtaken LOCK of a transaction that has ended may have left here."""
        for key, lock in list(self.keys.items()):
            if lock.home == home and lock.txn < oldest and lock.decided is None:
                del self.keys[key]
                self.resumed += lock.queue

    def homes(self) -> set[str]:
        """Who has locked something here."""
        return {lock.home for lock in self.keys.values()}

    def queue_write(self, waiting: PendingRequest) -> bool:
        """Hold a plain write back while its key is locked; False when it is not locked."""
        lock = self.keys.get(waiting.op.key)
        if lock is None:
            return False
        if len(lock.queue) >= MAX_QUEUE:
            text = f"{MAX_QUEUE} writes already wait at this key: try again later"
            self.context.answer(waiting.token, refused(waiting, text))
        else:
            lock.queue.append(waiting)
        return True

    def decided(self, key: str, seq: int) -> None:
        """The home has logged the commit of its transaction."""
        self.keys[key].decided = seq

    def observe(self) -> None:
        """Follow what replication did: commits that were logged, and those that were applied, which end the lock."""
        state = self.state
        if not (state.decided or state.committed):
            return
        logged, state.decided = state.decided, []
        for record in logged:
            lock = self.keys.get(record.key)
            if lock is not None and lock.home == incarnation_of(record.stream):
                lock.decided = record.seq
        committed, state.committed = state.committed, []
        for record in committed:
            lock = self.keys.get(record.key)
            if lock is not None and lock.home == incarnation_of(record.stream) and lock.decided == record.seq:
                del self.keys[record.key]
                self.resumed += lock.queue

    def waiting(self) -> list[PendingRequest]:
        """The writes that wait until a key is unlocked."""
        return [waiting for lock in self.keys.values() for waiting in lock.queue]

    def give_up_late(self, now: float) -> None:
        """Answer the writes whose deadline is over."""
        for lock in self.keys.values():
            for waiting in [w for w in lock.queue if now >= w.deadline]:
                lock.queue.remove(waiting)
                self.context.answer(waiting.token, too_late(waiting))

    def give_back(self) -> list[PendingRequest]:
        """Nothing is locked any more. The writes that wait are given back."""
        again = [*self.waiting(), *self.resumed]
        self.state.decided.clear()
        self.state.committed.clear()
        self.keys.clear()
        self.resumed = []
        return again
