"""Requests of clients at one replica: answered, forwarded to the home of their key, or parked.

A request that cannot be answered yet waits, bounded, with its deadline. One that lacks updates is tried again when they
have come, any other whenever something has changed.

The module is a little long because what each request waits for is decided in one place, for both paths.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from attrs import evolve

from dida import errors
from dida.placement import Shards
from dida.replication.concerns import Concerns
from dida.replication.context import ReplicaContext
from dida.replication.coordinator import Commit
from dida.replication.detection import FOREVER
from dida.replication.executed import TOO_MANY_ANSWERS, after_of, answered
from dida.replication.fences import Fences
from dida.replication.forwarding import Forwards
from dida.replication.gossip import FETCH_AGAIN, ReplicaState
from dida.replication.membership import Membership
from dida.replication.messages import Record
from dida.replication.operations import (
    Obstacle,
    PendingRequest,
    Question,
    ReplicaRequest,
    refused,
    superseded,
    too_late,
    unknown_outcome,
)
from dida.replication.outputs import CHANGING, OTHER_VIEW
from dida.replication.parked import ParkedRequests
from dida.replication.participant import Locks
from dida.replication.room import refusal
from dida.replication.store import Entry, shown
from dida.replication.streams import commit_stream, incarnation_of, is_commit, replica_of
from dida.timestamps import Timestamp, covers, lacking, merged
from dida.versions import Version
from dida.wire.messages import Concern, Error, Home, Journal, ListRecords, Ok, Reply, Versions

MAX_LISTED = 1000
"""Records that one reply lists."""
NO_QUORUM_AFTER = 1.0
"""Time that a request waits in a minority (`--membership majority`) before it is refused, in seconds."""


class Requests:
    """The unanswered requests of one replica."""

    state: ReplicaState
    locks: Locks
    commit: Commit
    concerns: Concerns
    fences: Fences

    def __init__(
        self, context: ReplicaContext, shards: Shards, shard: int, membership: Membership, secret: str
    ) -> None:
        self.context = context
        self.config = context.config
        self.shards = shards
        self.shard = shard
        self._sharded = len(shards) > 1
        self.membership = membership
        self.detection = membership.detection
        self.parked = ParkedRequests()
        self.forwards = Forwards(context, secret)
        self.counts = {"reads": 0, "writes": 0, "updateifs": 0}
        self.lease_until = 0.0
        """The time until which this node need not ask its members, when last checked."""
        self._all_again_at = 0.0
        self._minority_since: float | None = None

    def begin_with(self, state: ReplicaState, locks: Locks, commit: Commit) -> None:
        """Use this state from now on."""
        self.state, self.locks, self.commit = state, locks, commit
        self.concerns = Concerns(self.context, state)
        self.fences = Fences(self.context, state, commit, self.membership.joining.note_promise)

    # --- what may be answered at once -----------------------------------------------------------

    def obstacle(self, key: str | None, now: float) -> Obstacle | None:
        """Return what keeps this node from answering a request from its own state now; None if nothing does.

        Both paths ask here: the general one acts on the obstacle, the fast one leaves the request to it. `key` is that
        of the request; None if it has none that a shard must hold.
        """
        if self._sharded and key is not None and self.shards.of_key(key) != self.shard:
            return Obstacle.OTHER_SHARD
        if not self.context.serving:
            return Obstacle.VIEW_CHANGE
        if now >= self.lease_until:
            self.lease_until = self.detection.lease_until()
            if now >= self.lease_until:
                return Obstacle.NO_LEASE
        return None

    def write_obstacle(self, key: str, value: str, concern: Concern = 1, id: str | None = None) -> Obstacle | None:
        """Return what keeps this node from executing a plain write now; both paths ask here, after `obstacle`."""
        log = self.state.log
        if key in self.locks.keys:
            return Obstacle.LOCKED
        if log.size + len(self.state.prepared) >= self.config.max_log or log.bytes >= self.config.max_log_bytes:
            return Obstacle.LOG_FULL
        if id is not None and self.state.executed.full:
            return Obstacle.TOO_MANY_REPLIES
        if (concern != 1 or self.config.write_concern > 1) and self.context.cannot_meet(concern):
            return Obstacle.TOO_FEW_MEMBERS
        if refusal(self.state, key, value):
            return Obstacle.NO_ROOM
        return None

    def can_answer(self, key: str, now: float) -> bool:
        """Return True if the fast path may answer a client's plain request about `key` now."""
        return not (self.context.stops and self.context.leaves) and self.obstacle(key, now) is None

    def plain_read(self, key: str, now: float) -> tuple[Entry, Timestamp] | None:
        """Return what `read KEY` shows, and its timestamp; None if it takes the general path."""
        if not self.can_answer(key, now):
            return None
        entry = self.state.store.newest(key)
        if entry is None:
            return None
        self.counts["reads"] += 1
        return entry, self.state.value_ts

    def plain_write(self, key: str, value: str, now: float) -> Ok | None:
        """Execute `write KEY VALUE` and return its reply; None if it takes the general path."""
        if (
            not self.can_answer(key, now)
            or self.config.write_concern > 1
            or self.write_obstacle(key, value) is not None
        ):
            return None
        self.counts["writes"] += 1
        return self.state.execute(self._next_record(key, value), now)

    # --- the general path -----------------------------------------------------------------------

    def accept(self, waiting: PendingRequest, now: float) -> None:
        """Take a new request of a client; a node that leaves refuses it."""
        if self.context.leaves:
            refusal = Error(errors.UNAVAILABLE, ("this node is shutting down: send the request to another node",))
            self.context.answer(waiting.token, refusal)
        else:
            self.attempt(waiting, now)

    def attempt(self, waiting: PendingRequest, now: float) -> None:
        """Answer the request, forward it, or park it."""
        reply = self._try(waiting, now)
        if reply is not None:
            self.context.answer(waiting.token, reply)

    def _try(self, waiting: PendingRequest, now: float) -> Reply | None:
        """Return the reply; None if the request waits now, here or at its home."""
        op = waiting.op
        obstacle = self.obstacle(op.key if op.verb not in ("list", "fence") else None, now)
        if obstacle is not None:
            return self._wait_or_refuse(waiting, obstacle, now)
        if now > waiting.deadline:
            return too_late(waiting)
        if op.verb == "fence":
            self.fences.begin(waiting, now)
            return None
        if op.after:
            lost, after = self._without_dead(op.after)
            if lost:
                text = "updates that you have seen were lost with a crashed replica"
                return Error(errors.LOST_UPDATE, (text,), {"lost": lost})
            if after is not op.after:
                op = waiting.op = evolve(op, after=after)
        if op.id is not None:
            if by := self.state.executed.superseded(op.id, op.epoch):
                return superseded(by)
            known = self.state.executed.answer(op.id)
            if known is not None:
                if op.verb == "write" and self.context.holders_wanted(op.concern) > 1:
                    return self._at_home(waiting, now)  # executed, but perhaps not yet held where its concern wants it
                return known
            if self.state.executed.expired(op.id):
                return Error(errors.SESSION_EXPIRED, (op.id,))
        if op.verb == "updateif" or op.latest or (op.retry and op.id is not None and len(self.context.others()) > 0):
            return self._at_home(waiting, now)
        if not covers(self.state.value_ts, op.after):
            self.state.fetch(op.after, now)
            return self._park(waiting, now, lacking(self.state.value_ts, op.after)[0])
        if op.question is not None:
            return self._question(op.question)
        return self._read(op) if op.verb == "read" else self._write(waiting, now)

    def _wait_or_refuse(self, waiting: PendingRequest, obstacle: Obstacle, now: float) -> Reply | None:
        """Return the error of a request that has no chance here; None if it waits until the obstacle is gone."""
        op = waiting.op
        match obstacle:
            case Obstacle.OTHER_SHARD:
                holders = self.shards.replicas(self.shards.of_key(op.key))
                return Error(errors.NOT_HERE, (op.key,), {"replicas": holders})
            case Obstacle.VIEW_CHANGE | Obstacle.NO_LEASE:
                if now > waiting.deadline:
                    return too_late(waiting)
                if obstacle is Obstacle.NO_LEASE:
                    self.detection.ask_all(now)
                return self._park(waiting, now)
            case Obstacle.LOCKED:
                self.locks.queue_write(waiting)
                return None
            case Obstacle.LOG_FULL:
                return refused(waiting, "too many updates are not confirmed by all members: try again later")
            case Obstacle.TOO_MANY_REPLIES:
                return refused(waiting, TOO_MANY_ANSWERS)
            case Obstacle.TOO_FEW_MEMBERS:
                return refused(waiting, self.context.cannot_meet(op.concern))
            case Obstacle.NO_ROOM:
                return Error(errors.STORAGE_FULL, (refusal(self.state, op.key, op.value),))

    def _park(self, waiting: PendingRequest, now: float, stream: str | None = None) -> Reply | None:
        """Let a request wait until there is more of `stream`; None: until anything changes."""
        if len(self.parked) >= self.config.max_waiting and not waiting.passed_on:
            return refused(waiting, f"{self.config.max_waiting} requests already wait here")
        self.parked.add(waiting, now, stream)
        return None

    def _without_dead(self, after: Timestamp) -> tuple[Timestamp, Timestamp]:
        """Return the entries of `after` that are lost, and `after` without the entries of removed incarnations."""
        live = self.state.table
        lost: Timestamp = {}
        gone = set()
        for stream, count in after.items():
            incarnation = incarnation_of(stream)
            if incarnation in live or incarnation == self.context.incarnation:
                continue
            gone.add(stream)
            if count == 0 or self._of_another_shard(incarnation):
                continue
            if count > self.state.final_counts.get(stream, 0):
                lost[stream] = count
        if gone:
            after = {stream: count for stream, count in after.items() if stream not in gone}
        return lost, after

    def _of_another_shard(self, incarnation: str) -> bool:
        """Return True if a client has this entry from a shard whose updates this node cannot know."""
        replica = replica_of(incarnation)
        return replica is not None and self.shards.of_replica(replica) != self.shard

    def _question(self, question: Question) -> Reply:
        """Return the reply to a question about the records that is not a read."""
        store = self.state.store
        if isinstance(question, ListRecords):
            page, following = store.page(question.from_, min(question.limit, MAX_LISTED))
            return Ok((), {"records": page, **({"next": following} if following is not None else {})})
        if isinstance(question, Versions):
            return Ok((), {"versions": shown(store.versions(question.key))})
        assert self.context.view is not None and isinstance(question, Home)
        home = self.context.home(question.key)
        return Ok((str(home.replica), home.id), {"members": [m.id for m in self.context.view.members]})

    def _read(self, op: ReplicaRequest) -> Reply:
        self.counts["reads"] += 1
        store = self.state.store
        if op.version is None:
            entry = store.newest(op.key)
            if entry is None:
                return Error(errors.NO_SUCH_RECORD, (op.key,))
        else:
            entry = store.find(op.key, op.version)
            if entry is None:
                if store.newest(op.key) is None:
                    return Error(errors.NO_SUCH_RECORD, (op.key,))
                return Error(errors.NO_SUCH_VERSION, (op.key, str(op.version)))
        return answered((entry.value, str(entry.version)), self.state.value_ts)

    def _write(self, waiting: PendingRequest, now: float) -> Reply | None:
        op = waiting.op
        obstacle = self.write_obstacle(op.key, op.value, op.concern, op.id)
        if obstacle is not None:
            return self._wait_or_refuse(waiting, obstacle, now)
        self.counts["writes"] += 1
        record = self._next_record(op.key, op.value, op.after, op.id, op.lowest, op.journal)
        reply = self.state.execute(record, now)
        if self.context.holders_wanted(op.concern) > 1:
            self.concerns.wait(record, op.concern, waiting.token, waiting.deadline)
            return None
        return reply

    def _next_record(
        self,
        key: str,
        value: str,
        after: Timestamp | None = None,
        id: str | None = None,
        lowest: int = 0,
        journal: Journal | None = None,
    ) -> Record:
        newest = self.state.store.newest(key)
        after = after or {}
        if newest is not None and newest.ts:
            # it follows that version: whoever logs it must have the commits that led there
            after = merged(after, {stream: count for stream, count in newest.ts.items() if is_commit(stream)})
        return self.state.next_record(
            self.context.incarnation,
            after,
            key=key,
            number=1 + (newest.number if newest is not None else 0),
            replica=self.context.me.replica,
            value=value,
            id=id,
            lowest=lowest,
            journal=journal,
        )

    def _at_home(self, waiting: PendingRequest, now: float) -> Reply | None:
        """Have the request executed in the queue of its key."""
        op = waiting.op
        home = self.context.home(op.key)
        if home.component == self.context.incarnation:
            if op.verb == "updateif":
                self.counts["updateifs"] += 1
                self.forwards.give_id(waiting, now)
            self.commit.begin(waiting, now)
            return None
        if op.forwarded:
            return Error(OTHER_VIEW)
        self.forwards.send(waiting, home, now)
        return None

    def on_forwarded(self, number: int, reply: Reply | None, now: float) -> None:
        """Process the home's reply to a forwarded request; None: none came."""
        waiting = self.forwards.take(number)
        if waiting is None:
            return
        if reply is None or (isinstance(reply, Error) and reply.code in (OTHER_VIEW, CHANGING, errors.FENCED)):
            reply = too_late(waiting) if now >= waiting.deadline else self._park(waiting, now)
        if reply is not None:
            self._take_commit(waiting.op, reply, now)
            self.context.answer(waiting.token, reply)

    def _take_commit(self, op: ReplicaRequest, reply: Reply, now: float) -> None:
        """Log the commit that a reply shows, because the home's message with it, on another connection, may come later.

        Not without a lease: the home may answer from a view that this node is no longer in.
        """
        updated = isinstance(reply, Ok) and op.verb != "read"
        if updated and op.key in self.state.prepared and self.context.serving and now < self.detection.lease_until():
            home = self.context.home(op.key).component
            seq = after_of(reply).get(commit_stream(home), 0)
            self.locks.on_committed(home, op.key, Version.parse(reply.words[0]), seq, now)

    def give_up_without_quorum(self, now: float) -> None:
        """In a minority, answer what was begun before as at its deadline, too: it cannot be completed."""
        if not self.config.majority or now < self.detection.lease_until():
            self._minority_since = None
            return
        if self._minority_since is None:
            self._minority_since = now
        if now - self._minority_since < NO_QUORUM_AFTER:
            return
        for waiting in (*self.commit.waiting(), *self.locks.waiting(), *self.fences.waiting()):
            waiting.deadline = min(now, waiting.deadline)
        self.concerns.expire(now)
        for waiting in self.forwards.take_all():
            self.context.answer(waiting.token, too_late(waiting))

    def give_up_late(self, now: float) -> None:
        """Answer the requests whose deadline is over."""
        minority = self.config.majority and now >= self.detection.lease_until()
        for waiting in self.parked.take_late(now, NO_QUORUM_AFTER if minority else FOREVER):
            self.context.answer(waiting.token, too_late(waiting))

    def give_up(self, tokens: Set[Any], now: float) -> None:
        """End the requests under these tokens, whose clients are gone: what was not begun by now is not begun."""
        held = (*self.commit.waiting(), *self.locks.waiting(), *self.fences.waiting())
        for waiting in (*self.parked.requests.values(), *held):
            if waiting.token in tokens:
                waiting.deadline = min(now, waiting.deadline)
        for waiting in self.forwards.take_of(tokens):
            self.context.answer(waiting.token, too_late(waiting))
        self.concerns.give_up(tokens, now)

    def run_waiting(self, now: float, everything: bool = False) -> None:
        """Try again those that may have what they wait for; now and then, or with `everything`, all of them.

        That fetches again what they lack, and the reply to an update may be known by now.
        """
        if not (self.parked and self.context.serving):
            return
        if everything or now >= self._all_again_at:
            self._all_again_at = now + FETCH_AGAIN
            again = self.parked.take_all()
        else:
            again = self.parked.take_supplied(self.state.value_ts)
        for waiting in again:
            self.attempt(waiting, now)
        self.parked.forget_others(again)

    def give_back(self) -> list[PendingRequest]:
        """Stop what all members take part in: another view begins. The requests are given back."""
        return [*self.commit.give_back(), *self.fences.give_back()]

    def run_resumed(self, now: float) -> None:
        """Try the writes again whose keys were unlocked."""
        while self.locks.resumed:
            resumed, self.locks.resumed = self.locks.resumed, []
            for waiting in resumed:
                self.attempt(waiting, now)

    def refuse_all(self, refusal: Error) -> None:
        """Refuse everything that waits."""
        for one in (*self.parked.requests.values(), *self.give_back(), *self.forwards.take_all()):
            self.context.answer(one.token, unknown_outcome() if one.passed_on else refusal)
        for token in self.concerns.tokens():
            self.context.answer(token, unknown_outcome())
        self.parked.clear()
        self.context.own_ids.clear()

    @property
    def in_hand(self) -> int:
        """The number of requests that are parked here, or forwarded, or that fence a run."""
        return len(self.parked) + len(self.forwards) + len(self.fences)
