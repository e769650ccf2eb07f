"""Fences of runs: all members promise to execute nothing more of a run in lower epochs, and say what they know of it.

A run that is executed again first fences its older executions, which may only be paused. The node that a worker asks
has all members of its view promise. A member that is the home of a key gives up the transactions of the run in lower
epochs whose records are not out. Where such a record is prepared, whether it is committed is not known yet: the member
is asked again until that is over. Then the node fetches what it lacks of the run's updates, and replies with their
journals. A change of the view begins the fence again.

Source: the epochs of ZooKeeper's and Kafka's fenced producers; the rules are in docs/explanation/chains.md.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from attrs import Factory, define

from dida import errors
from dida.replication.batches import BATCH
from dida.replication.context import ReplicaContext
from dida.replication.coordinator import Commit
from dida.replication.executed import TOO_MANY_ANSWERS, bytes_of_journal, split
from dida.replication.gossip import ReplicaState
from dida.replication.messages import FenceRun, RunFenced
from dida.replication.operations import PendingRequest, refused, superseded, too_late
from dida.replication.streams import incarnation_of
from dida.timestamps import Timestamp, covers, merge_into
from dida.wire import grammar
from dida.wire.messages import Epoch, Error, Fence, KnownUpdate, Ok, Reply

MAX_UPDATES = 1000
"""The most updates in one reply to a fence."""


@define(eq=False)
class _Fencing:
    """A fence that a client waits for."""

    waiting: PendingRequest
    run: str
    epoch: Epoch
    first: int
    missing: set[str]
    """Members that have not promised yet."""
    asked: dict[str, FenceRun] = Factory(dict)
    """Those of them that were asked, and with which message: the reply to that counts."""
    after: Timestamp = Factory(dict)
    highest: int = 0


@define
class Fences:
    """The fences of runs at one replica. `on_promise` is called with each promise that it makes."""

    context: ReplicaContext
    state: ReplicaState
    commit: Commit
    on_promise: Callable[[str, Epoch], None]
    _open: list[_Fencing] = Factory(list)

    def __len__(self) -> int:
        return len(self._open)

    # --- the node that is asked -----------------------------------------------------------------

    def begin(self, waiting: PendingRequest, now: float) -> None:
        """Fence a run for a client."""
        request = waiting.op.question
        assert isinstance(request, Fence)
        if len(self._open) >= self.context.config.max_waiting:
            self.context.answer(waiting.token, refused(waiting, f"{len(self._open)} fences already wait here"))
            return
        if self.state.executed.full and not self.state.executed.knows(request.run):
            self.context.answer(waiting.token, refused(waiting, TOO_MANY_ANSWERS))
            return
        if refusal := self._promise(request.run, request.epoch, now):
            self.context.answer(waiting.token, refusal)
            return
        missing = {member.component for member in self.context.others()}
        fencing = _Fencing(waiting, request.run, request.epoch, request.from_, missing)
        self._open.append(fencing)
        self._ask(fencing)
        self._advance(fencing, now)

    def _promise(self, run: str, epoch: Epoch, now: float) -> Error | None:
        executed = self.state.executed
        if executed.has_expired(run):
            return Error(errors.SESSION_EXPIRED, (run,))
        if by := executed.promise(run, epoch, now):
            return superseded(by)
        self.on_promise(run, epoch)
        self.commit.supersede(run, epoch, now)
        return None

    def _ask(self, fencing: _Fencing) -> None:
        for member in self.context.others():
            if member.component in fencing.missing and member.component not in fencing.asked:
                message = FenceRun(**self.context.stamp(), run=fencing.run, epoch=fencing.epoch)
                fencing.asked[member.component] = message
                self.context.send(member, message)

    def _known(self, run: str) -> tuple[Timestamp, int]:
        """Return the timestamp of the run's updates that are known here, held-back ones included, and their highest
        number."""
        after, highest = self.state.executed.known_of(run)
        for record in self.state.held.values():
            if record.id is not None:
                session, number = split(record.id)
                if session == run:
                    merge_into(after, record.ts)
                    highest = max(highest, number)
        alive = {s: n for s, n in after.items() if self.context.member(incarnation_of(s)) is not None}
        return alive, highest

    def on_fenced(self, peer: str, message: FenceRun, reply: Reply | None, now: float) -> None:
        """Process the reply of a member; None: none came, or it belongs to another view."""
        known = grammar.structure(reply.object, RunFenced) if isinstance(reply, Ok) else None
        for fencing in [f for f in self._open if f.asked.get(peer) is message]:
            del fencing.asked[peer]
            if isinstance(reply, Error) and reply.code in (errors.SUPERSEDED, errors.SESSION_EXPIRED):
                self._end(fencing, reply)
            elif known is not None:
                if not known.open:
                    fencing.missing.discard(peer)
                merge_into(fencing.after, known.after)
                fencing.highest = max(fencing.highest, known.highest)
                self._advance(fencing, now)

    def _advance(self, fencing: _Fencing, now: float) -> None:
        """Reply if all members have promised, and all that they know of the run is applied here."""
        if fencing.missing or self.commit.locks.has_prepared(fencing.run, fencing.epoch):
            return
        mine, highest = self._known(fencing.run)
        merge_into(fencing.after, mine)
        if not covers(self.state.value_ts, fencing.after):
            self.state.fetch(fencing.after, now)
            return
        if self.state.executed.has_expired(fencing.run):
            self._end(fencing, Error(errors.SESSION_EXPIRED, (fencing.run,)))
            return
        if by := self.state.executed.superseded(f"{fencing.run}:0", fencing.epoch):
            self._end(fencing, superseded(by))
            return
        updates: list[KnownUpdate] = []
        size, following = 0, None
        for update in islice(self.state.executed.updates_of(fencing.run, fencing.first), MAX_UPDATES + 1):
            size += len(update.key) + bytes_of_journal(update.journal)
            if updates and (len(updates) == MAX_UPDATES or size > BATCH):
                following = update.number
                break
            updates.append(update)
        members: dict[str, Any] = {"updates": updates, "highest": max(highest, fencing.highest), "after": fencing.after}
        self._end(fencing, Ok((), members | ({"next": following} if following is not None else {})))

    def _end(self, fencing: _Fencing, reply: Reply) -> None:
        self._open.remove(fencing)
        self.context.answer(fencing.waiting.token, reply)

    # --- the other members ----------------------------------------------------------------------

    def on_fence_run(self, message: FenceRun, now: float) -> Reply:
        """Promise, and say what is known of the run: the asker waits for that, and for what is prepared."""
        if refusal := self._promise(message.run, message.epoch, now):
            return refusal
        after, highest = self._known(message.run)
        is_open = self.commit.locks.has_prepared(message.run, message.epoch)
        return Ok((), {"after": after, "highest": highest, **({"open": True} if is_open else {})})

    # --- time, and views ------------------------------------------------------------------------

    def observe(self, now: float) -> None:
        """Go on with what waits for updates."""
        for fencing in list(self._open):
            if not fencing.missing:
                self._advance(fencing, now)

    def tick(self, now: float) -> None:
        """Send again what got no reply."""
        for fencing in self._open:
            self._ask(fencing)
        self.observe(now)

    def give_up_late(self, now: float) -> None:
        """Answer the fences whose deadline is over, also while the view changes."""
        for fencing in list(self._open):
            if now >= fencing.waiting.deadline:
                self._end(fencing, too_late(fencing.waiting))

    def waiting(self) -> list[PendingRequest]:
        """Return the requests that wait."""
        return [fencing.waiting for fencing in self._open]

    def give_back(self) -> list[PendingRequest]:
        """Stop all, because another view begins: the requests are given back."""
        again = self.waiting()
        self._open.clear()
        return again
