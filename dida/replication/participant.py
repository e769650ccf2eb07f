"""Locks on keys: a participant's side of the transactions that `dida.replication.coordinator` coordinates.

The home of a key locks it at all members: they hold plain writes of the key back, and prepare the record of the update,
unless they know a newer version than the one that it replaces. The lock ends when the record is applied, or released.
One home per key: its next transaction supersedes the last, should a release be late.
"""

from __future__ import annotations

from typing import Any

from attrs import Factory, define
from msgspec.structs import replace

from dida.replication.context import ReplicaContext
from dida.replication.executed import after_of, not_applied, split
from dida.replication.gossip import ReplicaState
from dida.replication.messages import Prepare, Prepared, Range, Release, Wanted
from dida.replication.operations import PendingRequest, refused, too_late
from dida.replication.streams import commit_stream, incarnation_of
from dida.timestamps import Timestamp
from dida.versions import Version
from dida.wire.messages import Epoch, No, Ok, Reply

MAX_QUEUE = 1000
"""Operations that may wait at one key: transactions at its home, plain writes at each member."""

_ENDED = {"ended": True}


@define(eq=False)
class _KeyLock:
    home: str
    txn: int
    round: int = 0
    version: Version | None = None
    """That of the record which was prepared last for the transaction."""
    queue: list[PendingRequest] = Factory(list)


@define
class Locks:
    """The keys that are locked at one replica, and the writes that wait for them."""

    context: ReplicaContext
    state: ReplicaState
    keys: dict[str, _KeyLock] = Factory(dict)
    resumed: list[PendingRequest] = Factory(list)
    """Writes that may go on now; the owner runs them."""
    _oldest: dict[str, int] = Factory(dict)
    """Home to the number below which all its transactions have ended."""
    _ended: dict[str, set[int]] = Factory(dict)
    """Home to those from that number on that have ended here."""

    def lock(self, home: str, txn: int, round: int, key: str) -> None:
        """Lock for `home`; a later transaction of the same home supersedes an earlier one, and what it has prepared."""
        lock = self.keys.get(key)
        if lock is None:
            self.keys[key] = _KeyLock(home, txn, round)
            return
        if (lock.txn, lock.round) < (txn, round):
            self.state.prepared.pop(key, None)
            lock.txn, lock.round, lock.version = txn, round, None

    def prepare(self, home: str, wanted: Wanted) -> None:
        """Keep the record of a key that is locked for it, in place of an earlier round's."""
        assert wanted.record is not None
        self.keys[wanted.key].version = wanted.record.version
        self.state.prepared[wanted.key] = Prepared(home, wanted.txn, wanted.round, wanted.record, wanted.base)

    # --- what the home sends --------------------------------------------------------------------

    def on_outcomes(self, message: Prepare, now: float) -> None:
        """Log what is committed, and what the records that follow depend on."""
        if message.commits:
            self._commit(message.sender, message.base, message.commits, now)
        if message.ranges:
            self.state.accept(message.ranges, now)
        self.state.confirm(message.sender, message.have)

    def on_prepare(self, message: Prepare) -> Reply:
        """Lock the keys, prepare their records, or say what is newer than these; `on_outcomes` comes before.

        A transaction whose commit could not be logged here keeps its key.
        """
        home, state = message.sender, self.state
        if not message.keys:
            return Ok((), {"have": state.log.have})
        self._forget_ended(home, message.oldest)
        pending = set(message.commits[max(0, state.log.have.get(commit_stream(home), 0) - message.base) :])
        newest = state.newest_logged({wanted.key for wanted in message.keys})
        grants = [self._grant(home, wanted, newest.get(wanted.key), pending) for wanted in message.keys]
        return Ok((), {"grants": grants, "have": state.log.have})

    def _commit(self, home: str, base: int, commits: tuple[int, ...], now: float) -> None:
        """Log the records of these transactions, as prepared: the commits of the home after `base`.

        One that is missing, and those after it, come by gossip.
        """
        stream = commit_stream(home)
        have = self.state.log.have.get(stream, 0)
        txns = commits[max(0, have - base) :]
        records = []
        if have >= base:
            prepared = {each.txn: each for each in self.state.prepared.values() if each.home == home}
            for seq, txn in enumerate(txns, have + 1):
                if txn not in prepared:
                    break
                records.append(replace(prepared[txn].record, seq=seq))
        if records:
            self.state.accept((Range(stream, have, tuple(records)),), now)

    def _grant(self, home: str, wanted: Wanted, newest: Version | None, pending: set[int]) -> dict[str, Any]:
        executed = self.state.executed
        lock = self.keys.get(wanted.key)
        if self._has_ended(home, wanted.txn) or (lock is not None and self._goes_before(lock, wanted, pending)):
            return _ENDED
        id = wanted.update_id
        if by := executed.superseded(id, wanted.update_epoch):
            return {"superseded": by}
        if id is not None:
            known = executed.answer(id)
            if isinstance(known, Ok | No):
                return {"known": list(known.words), "ok": isinstance(known, Ok), "after": after_of(known)}
            if executed.expired(id):
                return {"expired": True}
        self.lock(home, wanted.txn, wanted.round, wanted.key)
        if wanted.record is not None and (newest is None or not _newer(newest, wanted.base)):
            self.prepare(home, wanted)
            return {"prepared": True}
        return {"newest": str(newest)} if newest is not None else {}

    def _goes_before(self, lock: _KeyLock, wanted: Wanted, pending: set[int]) -> bool:
        later = (lock.txn, lock.round) > (wanted.txn, wanted.round)
        return later or (lock.txn in pending and lock.txn != wanted.txn)

    def on_committed(self, home: str, key: str, version: Version, seq: int, now: float) -> None:
        """Log a commit that the home has reported in another way, if its record is prepared here and the next one."""
        prepared, stream = self.state.prepared.get(key), commit_stream(home)
        if prepared is None or prepared.home != home or prepared.record.version != version:
            return
        if self.state.log.have.get(stream, 0) == seq - 1:
            self.state.accept((Range(stream, seq - 1, (replace(prepared.record, seq=seq),)),), now)

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
        """End a transaction that changes nothing."""
        self._note_ended(home, txn)
        lock = self.keys.get(key)
        if lock is not None and lock.home == home and lock.txn == txn:
            self.state.prepared.pop(key, None)
            del self.keys[key]
            self.resumed += lock.queue

    def clear(self, home: str, oldest: int) -> None:
        """Drop what an overtaken message of a transaction that has ended may have left here.

        Not where a record is prepared, or its commit waits to be applied: that it has ended does not say how.
        """
        self._forget_ended(home, oldest)
        for key, lock in list(self.keys.items()):
            if lock.home == home and lock.txn < oldest and lock.version is None:
                del self.keys[key]
                self.resumed += lock.queue

    # --- transactions that have ended -----------------------------------------------------------

    def _has_ended(self, home: str, txn: int) -> bool:
        return txn < self._oldest.get(home, 0) or txn in self._ended.get(home, ())

    def _note_ended(self, home: str, txn: int) -> None:
        if txn >= self._oldest.get(home, 0):
            self._ended.setdefault(home, set()).add(txn)

    def _forget_ended(self, home: str, oldest: int) -> None:
        """Note the number below which all transactions of a home have ended."""
        if oldest > self._oldest.get(home, 0):
            self._oldest[home] = oldest
            ended = self._ended.get(home)
            if ended:
                self._ended[home] = {txn for txn in ended if txn >= oldest}

    # --- runs -----------------------------------------------------------------------------------

    def has_prepared(self, run: str, epoch: Epoch) -> bool:
        """Return True if a record of the run in a lower epoch is prepared here."""
        records = (each.record for each in self.state.prepared.values())
        return any(r.epoch < epoch and r.id is not None and split(r.id)[0] == run for r in records)

    # --- plain writes that wait -----------------------------------------------------------------

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

    def observe(self) -> None:
        """Follow what replication did: a commit that was applied ends the lock of its transaction."""
        if not self.state.committed:
            return
        committed, self.state.committed = self.state.committed, []
        for record in committed:
            lock = self.keys.get(record.key)
            if lock is not None and lock.home == incarnation_of(record.stream) and lock.version == record.version:
                self._note_ended(lock.home, lock.txn)
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
        self.state.committed.clear()
        self.keys.clear()
        self._oldest.clear()
        self._ended.clear()
        self.resumed = []
        return again


def _newer(version: Version, base: Version | None) -> bool:
    return base is None or base < version
