"""Fences of runs: all members promise to execute nothing more of a run in lower epochs, and say what they know of it.

A run that is executed again first fences its older executions, which may only be paused. The node that a worker asks
has all members of its view promise. A member that is the home of a key first ends its open transactions of the run in
lower epochs. Then the node fetches what it lacks of the run's updates and replies with their journals. A change of the
view begins the fence again.

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
from dida.replication.executed import bytes_of_journal, split
from dida.replication.gossip import ReplicaState
from dida.replication.messages import FenceRun, RunFenced
from dida.replication.operations import PendingRequest, superseded, too_late
from dida.replication.outputs import OTHER_VIEW
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
    asked: set[str] = Factory(set)
    """Those of them that were asked."""
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
    _awaited: list[tuple[Any, FenceRun]] = Factory(list)
    """Members' requests that wait until transactions have ended here, by their tokens."""

    def __len__(self) -> int:
        return len(self._open)

    # --- the node that is asked -----------------------------------------------------------------

    def begin(self, waiting: PendingRequest, now: float) -> None:
        """Fence a run for a client."""
        request = waiting.op.question
        assert isinstance(request, Fence)
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
            if member.component in fencing.missing - fencing.asked:
                fencing.asked.add(member.component)
                message = FenceRun(**self.context.stamp(), run=fencing.run, epoch=fencing.epoch)
                self.context.send(member, message)

    def _known(self, run: str) -> tuple[Timestamp, int]:
        """Return the timestamp of the run's updates that are known here, and their highest number."""
        after, highest = self.state.executed.known_of(run)
        for record in self.state.held.values():
            if record.id is not None:
                session, number = split(record.id)
                if session == run:
                    merge_into(after, record.ts)
                    highest = max(highest, number)
        alive = {s: n for s, n in after.items() if self._is_alive(incarnation_of(s))}
        return alive, highest

    def _is_alive(self, incarnation: str) -> bool:
        return incarnation == self.context.incarnation or self.context.member(incarnation) is not None

    def on_fenced(self, peer: str, message: FenceRun, reply: Reply | None, now: float) -> None:
        """Process the reply of a member; None: none came, or it belongs to another view."""
        known = grammar.structure(reply.object, RunFenced) if isinstance(reply, Ok) else None
        for fencing in [f for f in self._open if (f.run, f.epoch) == (message.run, message.epoch)]:
            fencing.asked.discard(peer)
            if isinstance(reply, Error) and reply.code in (errors.SUPERSEDED, errors.SESSION_EXPIRED):
                self._end(fencing, reply)
            elif known is not None:
                fencing.missing.discard(peer)
                merge_into(fencing.after, known.after)
                fencing.highest = max(fencing.highest, known.highest)
                self._advance(fencing, now)

    def _advance(self, fencing: _Fencing, now: float) -> None:
        """Reply if all members have promised, and all that they know of the run is applied here."""
        if fencing.missing or self.commit.open_below(fencing.run, fencing.epoch):
            return
        mine, highest = self._known(fencing.run)
        merge_into(fencing.after, mine)
        if not covers(self.state.value_ts, fencing.after):
            self.state.fetch(fencing.after, now)
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

    def on_fence_run(self, token: Any, message: FenceRun, now: float) -> Reply | None:
        """Promise; reply at once, or when the open transactions of the run in lower epochs have ended."""
        if refusal := self._promise(message.run, message.epoch, now):
            return refusal
        if self.commit.open_below(message.run, message.epoch):
            self._awaited.append((token, message))
            return None
        return self._fenced(message)

    def _fenced(self, message: FenceRun) -> Ok:
        after, highest = self._known(message.run)
        return Ok((), {"after": after, "highest": highest})

    # --- time, and views ------------------------------------------------------------------------

    def observe(self, now: float) -> None:
        """Go on with what waits for transactions, or for updates."""
        for fencing in list(self._open):
            if not fencing.missing:
                self._advance(fencing, now)
        for token, message in list(self._awaited):
            if not self.commit.open_below(message.run, message.epoch):
                self._awaited.remove((token, message))
                self.context.answer(token, self._fenced(message))

    def tick(self, now: float) -> None:
        """Send again what got no reply; give up what is late."""
        for fencing in list(self._open):
            if now >= fencing.waiting.deadline:
                self._end(fencing, too_late(fencing.waiting))
            else:
                self._ask(fencing)
        self.observe(now)

    def waiting(self) -> list[PendingRequest]:
        """Return the requests that wait."""
        return [fencing.waiting for fencing in self._open]

    def give_back(self) -> list[PendingRequest]:
        """Stop all, because another view begins: the requests are given back."""
        again = self.waiting()
        self._open.clear()
        for token, _ in self._awaited:
            self.context.answer(token, Error(OTHER_VIEW))
        self._awaited.clear()
        return again
