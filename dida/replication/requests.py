"""Operations of clients at one replica: answered, passed on to the home of their key, or waiting for what they lack.

What can't be answered yet waits, bounded, with its deadline. What lacks updates is tried again when they have come,
all else whenever something has changed.
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
from dida.replication.executed import CROWDED_TTL, TOO_MANY_ANSWERS, after_of, answered
from dida.replication.gossip import FETCH_AGAIN, ReplicaState
from dida.replication.membership import Membership
from dida.replication.messages import Forward, Record
from dida.replication.operations import PendingRequest, Question, ReplicaRequest, refused, too_late, unknown_outcome
from dida.replication.outputs import CHANGING, OTHER_VIEW
from dida.replication.parked import ParkedRequests
from dida.replication.participant import Locks
from dida.replication.room import refusal
from dida.replication.store import Entry, said
from dida.replication.streams import incarnation_of, is_commit, replica_of
from dida.timestamps import Timestamp, covers, lacking
from dida.wire.messages import Error, ListRecords, No, Ok, Reply, Versions

MAX_LISTED = 1000
"""Records that one answer lists."""
NO_QUORUM_AFTER = 1.0
"""Seconds that a request waits in a minority (`--membership majority`) before it is answered that it can't be done."""


class Requests:
    """The operations that one replica has in hand."""

    state: ReplicaState
    locks: Locks
    commit: Commit
    concerns: Concerns

    def __init__(
        self, context: ReplicaContext, shards: Shards, shard: int, membership: Membership, secret: str
    ) -> None:
        self.context = context
        self._secret = secret
        self.config = context.config
        self.shards = shards
        self.shard = shard
        self.membership = membership
        self.detection = membership.detection
        self.parked = ParkedRequests()
        self.counts = {"reads": 0, "writes": 0, "updateifs": 0}
        self.lease_until = 0.0
        """Until when nobody need be asked before an answer, as far as was looked."""
        self._all_again_at = 0.0
        self._minority_since: float | None = None
        self._forwarded: dict[int, tuple[PendingRequest, str]] = {}
        """What was passed on, and to which member, by the number of the message."""
        self._last_forward = 0
        self._last_id = 0
        self._own_session = 0
        self._own_used = 0.0

    def begin_with(self, state: ReplicaState, locks: Locks, commit: Commit) -> None:
        """This is the state from now on."""
        self.state, self.locks, self.commit = state, locks, commit
        self.concerns = Concerns(self.context, state)

    def plain_read(self, key: str, now: float) -> tuple[Entry, Timestamp] | None:
        """What `read KEY` gives, with the timestamp, when it can be answered at once; None: ask with `on_request`."""
        if now >= self.lease_until or not self.context.serving or len(self.shards) > 1 or self.context.stops:
            return None
        entry = self.state.store.newest(key)
        if entry is None:
            return None
        self.counts["reads"] += 1
        return entry, self.state.value_ts

    def plain_write(self, key: str, value: str, now: float) -> Ok | None:
        """Executes `write KEY VALUE`, when that can be done at once; None: ask with `on_request`."""
        if now >= self.lease_until or not self.context.serving or len(self.shards) > 1 or self.context.stops:
            return None
        if self.config.write_concern > 1 or key in self.locks.keys or self._log_full:
            return None
        if refusal(self.state, key, value):
            return None
        self.counts["writes"] += 1
        return self.state.execute(self._next_record(key, value), now)

    def holds_lease(self, now: float) -> bool:
        """Whether this node may answer without asking the members first."""
        if now >= self.lease_until:
            self.lease_until = self.detection.lease_until()
        return now < self.lease_until

    def attempt(self, waiting: PendingRequest, now: float) -> None:
        """Answer the operation, or pass it on, or let it wait for what it lacks."""
        reply = self._try(waiting, now)
        if reply is not None:
            self.context.answer(waiting.token, reply)

    def _not_here(self, key: str) -> Reply | None:
        """The error of a request for a key that another shard holds."""
        holder = self.shards.of_key(key)
        if holder == self.shard:
            return None
        return Error(errors.NOT_HERE, (key,), {"replicas": self.shards.replicas(holder)})

    def _try(self, waiting: PendingRequest, now: float) -> Reply | None:
        """The answer, or None when somebody else now has the operation in hand."""
        op = waiting.op
        if len(self.shards) > 1 and op.verb != "list" and (elsewhere := self._not_here(op.key)) is not None:
            return elsewhere
        if now > waiting.deadline:
            return too_late(waiting)
        if not self.context.serving:
            return self._park(waiting, now)
        if not self.holds_lease(now):
            self.detection.ask_all(now)
            return self._park(waiting, now)
        if op.after:
            lost, after = self._without_dead(op.after)
            if lost:
                text = "updates that you have seen were lost with a crashed replica"
                return Error(errors.LOST_UPDATE, (text,), {"lost": lost})
            if after is not op.after:
                op = waiting.op = evolve(op, after=after)
        if op.id is not None:
            known = self.state.executed.answer(op.id)
            if known is not None:
                if op.verb == "write" and self.context.holders_wanted(op.concern) > 1:
                    return self._at_home(waiting, now)  # executed, but maybe not yet where its concern wants it
                return known
            if self.state.executed.expired(op.id):
                return Error(errors.SESSION_EXPIRED, (op.id,))
        if op.verb == "updateif" or op.latest or (op.retry and op.id is not None and len(self.context.others()) > 0):
            return self._at_home(waiting, now)
        if not covers(self.state.value_ts, op.after):
            self.state.fetch(op.after, now)
            return self._park(waiting, now, lacking(self.state.value_ts, op.after)[0])
        if op.question is not None:
            return self._told(op.question)
        return self._read(op) if op.verb == "read" else self._write(waiting, now)

    def _park(self, waiting: PendingRequest, now: float, stream: str | None = None) -> Reply | None:
        """Let it wait: until there is more of that stream, or for anything."""
        if len(self.parked) >= self.config.max_waiting and not waiting.passed_on:
            return refused(waiting, f"{self.config.max_waiting} requests already wait here")
        self.parked.add(waiting, now, stream)
        return None

    def _without_dead(self, after: Timestamp) -> tuple[Timestamp, Timestamp]:
        """Entries of `after` that are lost, and `after` without the entries of removed components."""
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

    def _told(self, question: Question) -> Reply:
        """What is asked of the records but to read one."""
        store = self.state.store
        if isinstance(question, ListRecords):
            page, following = store.page(question.from_, min(question.limit, MAX_LISTED))
            return Ok((), {"records": page, **({"next": following} if following is not None else {})})
        if isinstance(question, Versions):
            return Ok((), {"versions": said(store.versions(question.key))})
        assert self.context.view is not None
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
        op, state = waiting.op, self.state
        if self.locks.queue_write(waiting):
            return None
        if self._log_full:
            return refused(waiting, "too many updates are not confirmed by all members: try again later")
        if op.id is not None and state.executed.full:
            return refused(waiting, TOO_MANY_ANSWERS)
        if why := self.context.cannot_meet(op.concern):
            return refused(waiting, why)
        if why := refusal(state, op.key, op.value):
            return Error(errors.STORAGE_FULL, (why,))
        self.counts["writes"] += 1
        record = self._next_record(op.key, op.value, op.after, op.id, op.lowest)
        reply = state.execute(record, now)
        if self.context.holders_wanted(op.concern) > 1:
            self.concerns.wait(record, op.concern, waiting.token, waiting.deadline)
            return None
        return reply

    @property
    def _log_full(self) -> bool:
        log = self.state.log
        return log.size >= self.config.max_log or log.bytes >= self.config.max_log_bytes

    def _next_record(
        self, key: str, value: str, after: Timestamp | None = None, id: str | None = None, lowest: int = 0
    ) -> Record:
        newest = self.state.store.newest(key)
        return self.state.next_record(
            self.context.incarnation,
            after or {},
            key=key,
            number=1 + (newest.number if newest is not None else 0),
            replica=self.context.me.replica,
            value=value,
            id=id,
            lowest=lowest,
        )

    def _at_home(self, waiting: PendingRequest, now: float) -> Reply | None:
        """Have the operation done in the queue of its key."""
        op = waiting.op
        home = self.context.home(op.key)
        if home.component == self.context.incarnation:
            if op.verb == "updateif":
                self.counts["updateifs"] += 1
            self.commit.begin(waiting, now)
            return None
        if op.forwarded:
            return Error(OTHER_VIEW)
        if op.id is None and op.verb != "read":
            op = waiting.op = evolve(op, id=self._own_id(waiting.token, now), retry=False)
        self._last_forward += 1
        self._forwarded[self._last_forward] = waiting, home.component
        message = Forward(
            **self.context.stamp(),
            verb=op.verb,
            key=op.key,
            value=op.value,
            old=op.old,
            id=op.id,
            lowest=next(iter(self.context.own_ids.values())) if waiting.token in self.context.own_ids else op.lowest,
            retry=op.retry or waiting.passed_on,
            concern=op.concern,
            after=op.after,
            deadline=max(0.0, waiting.deadline - now),
        )
        waiting.passed_on = waiting.passed_on or op.verb != "read"
        self.context.forward(home, message, self._last_forward, waiting.deadline - now)
        return None

    def _own_id(self, token: Any, now: float) -> str:
        """An id for an update whose client gave none. A session that was not used for a while might have expired."""
        if now - self._own_used > min(self.config.session_ttl, CROWDED_TTL) / 2:
            self._own_session += 1
        self._own_used = now
        self._last_id += 1
        self.context.own_ids[token] = self._last_id
        return f"{self.context.incarnation}{self._secret}.{self._own_session}:{self._last_id}"

    def on_forwarded(self, number: int, reply: Reply | None, now: float) -> None:
        """The home's answer to a request that was passed on; None when none came."""
        waiting, _ = self._forwarded.pop(number, (None, ""))
        if waiting is None:
            return
        if reply is None or (isinstance(reply, Error) and reply.code in (OTHER_VIEW, CHANGING, errors.FENCED)):
            reply = too_late(waiting) if now >= waiting.deadline else self._park(waiting, now)
        if reply is not None:
            self._expose_answered(reply, now)
            self.context.answer(waiting.token, reply)

    def take_back(self) -> list[PendingRequest]:
        """What was passed on to a node that is no longer a member: it begins again, at the key's new home."""
        gone = [number for number, (_, home) in self._forwarded.items() if self.context.member(home) is None]
        return [self._forwarded.pop(number)[0] for number in gone]

    def _expose_answered(self, reply: Reply, now: float) -> None:
        """What an answer tells of is exposed, though the EXPOSE, on another connection, may come later.

        Not without a lease: the home may answer from a view that this node is no longer in.
        """
        if self.context.serving and isinstance(reply, Ok | No) and now < self.detection.lease_until():
            for stream, count in after_of(reply).items():
                if is_commit(stream) and self.context.member(incarnation_of(stream)) is not None:
                    self.state.expose(incarnation_of(stream), count, now)

    def give_up_without_quorum(self, now: float) -> None:
        """In a minority nothing comes of what was begun before either: it is answered as at its deadline."""
        if not self.config.majority or now < self.detection.lease_until():
            self._minority_since = None
            return
        if self._minority_since is None:
            self._minority_since = now
        if now - self._minority_since < NO_QUORUM_AFTER:
            return
        for waiting in (*self.commit.waiting(), *self.locks.waiting()):
            waiting.deadline = min(now, waiting.deadline)
        self.concerns.expire(now)
        forwarded, self._forwarded = self._forwarded, {}
        for waiting, _ in forwarded.values():
            self.context.answer(waiting.token, too_late(waiting))

    def give_up_late(self, now: float) -> None:
        minority = self.config.majority and now >= self.detection.lease_until()
        for waiting in self.parked.take_late(now, NO_QUORUM_AFTER if minority else FOREVER):
            self.context.answer(waiting.token, too_late(waiting))

    def give_up(self, tokens: Set[Any], now: float) -> None:
        """Nobody waits for these answers any more: what was not begun by now is not begun."""
        for waiting in (*self.parked.requests.values(), *self.commit.waiting(), *self.locks.waiting()):
            if waiting.token in tokens:
                waiting.deadline = min(now, waiting.deadline)
        for number, (waiting, _) in list(self._forwarded.items()):
            if waiting.token in tokens:
                del self._forwarded[number]
                self.context.answer(waiting.token, too_late(waiting))
        self.concerns.give_up(tokens, now)

    def run_waiting(self, now: float, everything: bool = False) -> None:
        """Try those again that may have what they have waited for; all of them in another view, and now and then: what
        they lack is asked for again, and the answer of an update may be known by now."""
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

    def run_resumed(self, now: float) -> None:
        while self.locks.resumed:
            resumed, self.locks.resumed = self.locks.resumed, []
            for waiting in resumed:
                self.attempt(waiting, now)

    def refuse_all(self, refusal: Error) -> None:
        """This node is a new component: everything that waits hears so."""
        forwarded = [waiting for waiting, _ in self._forwarded.values()]
        for one in (*self.parked.requests.values(), *self.commit.give_back(), *forwarded):
            self.context.answer(one.token, unknown_outcome() if one.passed_on else refusal)
        for token in self.concerns.tokens():
            self.context.answer(token, unknown_outcome())
        self.parked.clear()
        self._forwarded.clear()
        self.context.own_ids.clear()

    @property
    def in_hand(self) -> int:
        """Operations that wait here, or were passed on."""
        return len(self.parked) + len(self._forwarded)
