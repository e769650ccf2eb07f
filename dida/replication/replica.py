"""A storage replica: all its state machines as one, without sockets, clock or randomness.

Every input is a method with the time `now` (seconds of any clock that does not go back) and returns the outputs of that
turn: what to send, what to answer. A request that cannot be answered yet waits, bounded, with its deadline.
`dida.storage.node` runs a Replica over sockets, the simulator runs many in virtual time.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any, ClassVar

from attrs import evolve

from dida import errors
from dida.addresses import StorageAddress
from dida.errors import DidaError
from dida.placement import Shards
from dida.replication.config import Config
from dida.replication.context import ReplicaContext
from dida.replication.coordinator import Commit
from dida.replication.directory import Directory
from dida.replication.executed import ReplyCache
from dida.replication.gossip import ReplicaState
from dida.replication.membership import Membership
from dida.replication.messages import (
    FenceRun,
    Fetch,
    Flush,
    Forward,
    Gossip,
    Heartbeat,
    Install,
    Join,
    Level,
    Load,
    Member,
    PeerMessage,
    Prepare,
    Record,
    Release,
    Stop,
    Suspect,
)
from dida.replication.operations import PendingRequest, forwarded, operation
from dida.replication.outputs import CHANGING, OTHER_VIEW, FlushRequested, Left, Output
from dida.replication.participant import Locks
from dida.replication.peer_replies import PeerReplies
from dida.replication.requests import Requests
from dida.replication.room import Gauge, used, warns
from dida.replication.store import Entry, Store
from dida.wire import grammar
from dida.wire.messages import (
    Error,
    Fence,
    Forget,
    Home,
    ListRecords,
    Note,
    Ok,
    Read,
    Reply,
    Request,
    UpdateIf,
    Versions,
    Watch,
    Write,
    form_of,
)

EARLY = 0.03
"""Time before its deadline at which a request is given up, in seconds, so that the reply arrives in time: a tick, and
the way."""


class Replica:
    """One replica. Not reentrant: an input is processed to its end, then the owner acts on its outputs."""

    def __init__(
        self, config: Config, me: Member, named: tuple[StorageAddress, ...], now: float, secret: str = ""
    ) -> None:
        """`secret` is part of the ids of updates whose clients have given none; clients must not guess those."""
        self.shards = Shards({me.replica, *(other.replica for other in named)}, config.replication_factor)
        self.shard = self.shards.of_replica(me.replica)
        elsewhere = tuple(other for other in named if self.shards.of_replica(other.replica) != self.shard)
        if len(self.shards) > 1:
            # its nodes know, gossip with and vote with their shard only
            config = evolve(config, cluster=f"{config.cluster}/{self.shard + 1}")
            named = tuple(other for other in named if self.shards.of_replica(other.replica) == self.shard)
        self.config = config
        self.context = ReplicaContext(config, me)
        self.membership = Membership(self.context, self._blank(), named, now)
        self.detection, self.joining = self.membership.detection, self.membership.joining
        self.requests = Requests(self.context, self.shards, self.shard, self.membership, secret)
        self._forget()
        self.directory = Directory(self.context, self.shards, self.membership, elsewhere)
        self._flush_asked = False
        self.ended = False
        """True if it has left: it has no further outputs."""
        self._gauge = Gauge()

    def _blank(self) -> ReplicaState:
        return ReplicaState(self.context, Store(self.config.max_versions), ReplyCache(self.config.session_ttl))

    def _forget(self) -> None:
        self.state = self._blank()
        self.membership.begin_with(self.state)
        self.locks = Locks(self.context, self.state)
        self.commit = Commit(self.context, self.state, self.locks)
        self.requests.begin_with(self.state, self.locks, self.commit)
        fences = self.requests.fences
        self._replies = PeerReplies(self.context, self.membership, self.state, self.locks, self.commit, fences)

    # --- requests of clients --------------------------------------------------------------------

    def on_request(self, token: Any, request: Request, now: float) -> list[Output]:
        """Take a client's request; it is answered under `token`, now or later, by its deadline."""
        op = operation(request)
        if op is not None:
            ends = now + request.deadline - min(EARLY, request.deadline / 2)
            self.requests.accept(PendingRequest(token, op, ends), now)
        elif isinstance(request, Watch):
            self.directory.on_watch(token, request, now)
        elif isinstance(request, Forget):
            for session in request.session:
                self.state.executed.forget(session)
            self.context.answer(token, Ok())
        return self._end_turn(now)

    def give_up(self, tokens: Set[Any], now: float) -> list[Output]:
        """Forget the clients under these tokens, which are gone. What waits for them ends with the next tick."""
        self.directory.give_up(tokens)
        self.requests.give_up(tokens, now)
        return self._end_turn(now)

    def plain_write(self, key: str, value: str, now: float) -> tuple[Ok, list[Output]] | None:
        """Execute a client's `write KEY VALUE` on the fast path; None: it takes the general path, `on_request`."""
        answer = self.requests.plain_write(key, value, now)
        return (answer, self._end_turn(now)) if answer is not None else None

    # --- messages of peers ----------------------------------------------------------------------

    def on_peer(self, token: Any, message: PeerMessage, now: float) -> list[Output]:
        """Take a message of another storage node; it is answered under `token`."""
        if message.cluster != self.config.cluster:
            text = f"this node belongs to cluster {self.config.cluster}, not {message.cluster}"
            self.context.answer(token, Error(errors.BAD_REQUEST, (text,)))
            return self._end_turn(now)
        same_view = self.context.view is not None and message.view == self.context.view_name
        member = self.context.member(message.sender)
        if member is not None and (same_view or not self.config.majority):
            self.detection.hear(message.sender, now)
        reply: Reply | None
        match message:
            case Prepare() | Forward() if same_view and member is not None and self.context.serving:
                reply = self._in_view(token, message, now)  # by far the most
            case Join():
                reply = self.joining.on_join(message, now)
            case Load():
                held = grammar.structure(message.state.get("held", []), list[Record])
                reply = self.joining.on_load(message, tuple(held), now)
            case Install():
                reply = self.membership.on_install(message.sender, message.installs, message.base, now)
            case Flush() if same_view or self.context.view is None:
                reply = self.membership.on_flush(message, now)
            case Level() if same_view or self.context.view is None:
                reply = self.membership.on_level(message, now)
            case _ if not same_view or member is None:
                reply = self.context.other_view()
            case Fetch():
                reply = self.state.on_fetch(message, now)
            case Stop():
                reply = self.membership.leaving.on_stop(message, now)
            case _ if not self.context.serving:
                reply = Error(CHANGING, (), self.context.completeness())
            case _:
                reply = self._in_view(token, message, now)
        if reply is not None:
            self.context.answer(token, reply)
        return self._end_turn(now)

    def _in_view(self, token: Any, message: PeerMessage, now: float) -> Reply | None:
        """Process a message of the view that is in force."""
        match message:
            case Prepare():
                self.locks.on_outcomes(message, now)
                self.commit.observe(now)
                self.requests.run_resumed(now)
                return self.locks.on_prepare(message)
            case Gossip():
                return self.state.on_gossip(message, now)
            case FenceRun():
                return self.requests.fences.on_fence_run(message, now)
            case Release():
                return self.locks.on_release(message, now)
            case Heartbeat():
                self.locks.clear(message.sender, message.oldest)
                return self.detection.on_heartbeat(message, now)
            case Suspect():
                return self.detection.on_suspect(message, now)
            case Forward():
                try:
                    op = forwarded(message)
                except DidaError as problem:
                    return Error(problem.code, problem.words)
                self.requests.attempt(PendingRequest(token, op, now + message.deadline), now)
                return None
        return Ok()

    def on_answer(self, url: str, peer: str, message: Request, reply: Reply | None, now: float) -> list[Output]:
        """Process the reply to a message sent to `peer` at `url`; None: it did not get through in time."""
        assert isinstance(message, PeerMessage)
        if message.sender != self.context.incarnation:
            return []  # this node was fenced since: the message was another incarnation's
        elsewhere = isinstance(reply, Error) and reply.code == OTHER_VIEW and self.config.majority
        if reply is not None and self.context.member(peer) is not None and not elsewhere:
            self.detection.hear(peer, now)
        try:
            self._replies.take(url, peer, message, reply, now)
        except DidaError as problem:
            self.context.note(f"{url}: invalid reply to {form_of(type(message)).verb}: {problem}")
        return self._end_turn(now)

    def on_forwarded(self, token: Any, reply: Reply | None, now: float) -> list[Output]:
        """Process the home's reply to a forwarded request; None: none came."""
        self.requests.on_forwarded(token, reply, now)
        return self._end_turn(now)

    def on_stranger(self, refusal: str, now: float) -> None:
        """Note that there is a storage node with which this one cannot work together, and why: it may be in a view."""
        self.joining.view_met = now
        self.context.note_once(refusal)

    # --- connections and time -------------------------------------------------------------------

    def on_broken(self, url: str, now: float) -> list[Output]:
        """Note that the connection to `url` broke."""
        self.detection.on_broken(url, now)
        return self._end_turn(now)

    def on_refused(self, url: str, at: float, now: float) -> list[Output]:
        """Note that nobody listened at `url` when a connection was tried at the time `at`."""
        self.membership.on_refused(url, at, now)
        self.membership.tick(now)
        return self._end_turn(now)

    def tick(self, now: float) -> list[Output]:
        """Let time pass; call it often (some tens of milliseconds)."""
        self.context.oldest = self.commit.oldest
        self.membership.leaving.busy = bool(self.requests.in_hand or self.commit.open)
        self.membership.tick(now)
        self.requests.give_up_without_quorum(now)
        self.requests.fences.give_up_late(now)
        if self.context.serving:
            if self.detection.follows:
                self.detection.wait_for(sorted(self.locks.homes()), now)
            self.state.tick(now)
            self.commit.tick(now)
            self.requests.fences.tick(now)
        else:
            self.commit.tick_stopped(now)
        self._check_concerns(now)
        if text := self._gauge.look(self.state):
            self.context.note(text)
        self.directory.tick(now)
        if self.requests.parked:
            self.requests.give_up_late(now)
            self.requests.run_waiting(now)
        return self._end_turn(now)

    def _check_concerns(self, now: float) -> None:
        """Answer the writes that enough members hold, if this node may answer."""
        self.requests.concerns.check(now, self.requests.obstacle(None, now) is None)

    def on_stop(self, drain: float, now: float) -> list[Output]:
        """Shut down in order, within `drain` seconds; then an output is a `Left`."""
        self.membership.leaving.begin(drain, now)
        self.membership.leaving.tick(now)
        return self._end_turn(now)

    def _leave(self, left: Left, now: float) -> None:
        """Answer what waits: this node ends."""
        self.ended = True
        if left.kept:
            self.requests.concerns.check(now, may_answer=True)
        self.requests.refuse_all(Error(errors.UNAVAILABLE, ("this node has left: send the request to another node",)))
        self.context.serving = False
        self.context.note(left.text)
        self.context.out.append(left)

    def _end_turn(self, now: float) -> list[Output]:
        """Follow up what has changed, until nothing does; then return the outputs."""
        if self.ended:
            self.context.out.clear()
            return []
        while True:
            entered = False
            if self.membership.fenced is not None:
                self._fenced()
            elif self.membership.entered:
                entered, self.membership.entered = True, False
                self.requests.lease_until = 0.0
                for waiting in (*self.requests.give_back(), *self.requests.forwards.take_back()):
                    self.requests.attempt(waiting, now)
            else:
                self.commit.observe(now)
                self.requests.fences.observe(now)
                if self.locks.resumed:
                    self.requests.run_resumed(now)
                if not self.state.changed:
                    break
            self.state.changed = False
            if self.state.confirmed:
                self._check_concerns(now)
            self.requests.run_waiting(now, everything=entered)
        if self.directory.watching:
            self.directory.answer_changed()
        if self.membership.leaving.left is not None:
            self._leave(self.membership.leaving.left, now)
        elif self.commit.wants_flush and not self._flush_asked and self.context.others():
            self._flush_asked = True
            self.context.out.append(FlushRequested())
        out, self.context.out = self.context.out, []
        return out

    def flush(self, now: float) -> list[Output]:
        """Send what was gathered for other storage nodes; `FlushRequested` has asked for it."""
        self._flush_asked = False
        if self.context.serving and self.commit.wants_flush:
            self.commit.flush()
        return self._end_turn(now)

    def _fenced(self) -> None:
        """Fail everything that waits, and forget the state: this node no longer serves."""
        assert self.membership.fenced is not None
        self.requests.refuse_all(Error(errors.FENCED, (self.membership.fenced,)))
        self.membership.fenced = None
        self.membership.entered = False
        self._forget()

    # --- what people see ------------------------------------------------------------------------

    def keep_encoded(self, entry: Entry, encoded: bytes) -> None:
        """Keep the encoded form of an entry, as long as there is room for what only saves time."""
        if not warns(self.state):
            self.state.store.keep_encoded(entry, encoded)

    def slow(self, seconds: float) -> None:
        """Set the gossip delay, in seconds."""
        self.context.config = evolve(self.context.config, gossip_delay=seconds)

    def status(self, now: float) -> dict[str, Any]:
        """Return the members of the reply to `status`."""
        view = self.context.view
        state = self.state
        return {
            "ready": self._ready(now),
            "alive": [m.id for m in view.members] if view is not None else [],
            "dead": self.directory.dead(),
            "view": view.number if view is not None else 0,
            "group": self.shard + 1,
            "replica": self.context.me.replica,
            "component": self.context.incarnation,
            "gossip_delay": round(self.context.config.gossip_delay * 1000),
            "membership": "majority" if self.config.majority else "available",
            "records": len(state.store),
            **self.requests.counts,
            "lag": state.lag(),
            "log": state.log.size,
            "held": len(state.held),
            "waiting": self.requests.in_hand,
            "transactions": self.commit.open,
            "locks": len(self.locks.keys),
            "executed": state.executed.size,
            "leaving": self.context.leaves,
            "memory": used(state),
            "max_memory": self.config.max_memory or 0,
            "nearly_full": warns(state),
            "discarded": self.membership.losses.discarded,
            "notes": list(self.context.notes),
        }

    def _ready(self, now: float) -> bool:
        without_half = self.config.majority and now >= self.detection.lease_until()
        return self.context.serving and not without_half and not self.context.leaves

    VERBS: ClassVar[tuple[type[Request], ...]] = (
        *(Read, Write, UpdateIf, ListRecords, Versions, Home, Forget, Watch),
        *(Note, Fence),
    )
