"""What a replica does with the replies of its peers: which state machine takes which."""

from __future__ import annotations

from attrs import frozen

from dida import errors
from dida.replication.context import ReplicaContext
from dida.replication.coordinator import Commit
from dida.replication.fences import Fences
from dida.replication.gossip import ReplicaState
from dida.replication.membership import Membership
from dida.replication.messages import (
    Alive,
    FenceRun,
    Fetch,
    Fetched,
    Flush,
    Gossip,
    Granted,
    Has,
    Heard,
    Heartbeat,
    Install,
    Join,
    Level,
    Load,
    OtherView,
    PeerMessage,
    Prepare,
    Promised,
    Release,
    Silence,
    Stop,
    Suspect,
)
from dida.replication.outputs import CHANGING, OTHER_VIEW
from dida.replication.participant import Locks
from dida.wire import grammar
from dida.wire.messages import Error, Ok, Reply


@frozen
class PeerReplies:
    """The state machines of one replica that wait for replies of peers."""

    context: ReplicaContext
    membership: Membership
    state: ReplicaState
    locks: Locks
    commit: Commit
    fences: Fences

    def take(self, url: str, peer: str, message: PeerMessage, reply: Reply | None, now: float) -> None:
        """Process the reply to a message sent to `peer` at `url`; None: the message did not get through in time.

        DidaError if the reply has another form than its message asks for.
        """
        if isinstance(reply, Error):
            self._take_error(url, peer, message, reply, now)
            if self.membership.fenced is not None:
                return
        ok = reply if isinstance(reply, Ok) else None
        in_force = message.view == self.context.view_name and self.context.serving
        match message:
            case Prepare() if ok is not None and in_force:
                self.commit.on_prepared(peer, message, grammar.structure(ok.object, Granted), now)
            case Prepare():
                self.commit.on_unanswered(peer, message)
            case Heartbeat():
                alive = grammar.structure(ok.object, Alive) if ok is not None and in_force else None
                if alive is not None:
                    self.locks.clear(peer, alive.oldest)
                self.membership.on_beat(peer, message.at, alive, now)
            case Join():
                if ok is not None:
                    told = grammar.structure(ok.object, Heard)
                    self.membership.joining.on_joined(told.heard, told.view, now)
            case Load():
                self.membership.joining.on_loaded(peer, message, ok is not None, now)
            case Flush():
                has = grammar.structure(ok.object, Has) if ok is not None else None
                self._note_complete(message, has is not None and has.complete)
                outside = isinstance(reply, Error) and (
                    "not loaded" in reply.words or (reply.code == OTHER_VIEW and "view" not in reply.object)
                )
                self.membership.on_flushed(peer, message, has, now, outside)
            case Level():
                has = grammar.structure(ok.object, Has) if ok is not None else None
                self.membership.on_levelled(peer, message, has, now)
            case Suspect():
                silent = grammar.structure(ok.object, Silence).silent if ok is not None else None
                self.membership.detection.on_suspected(peer, message, silent)
            case Fetch():
                fetched = grammar.structure(ok.object, Fetched) if ok is not None else None
                if fetched is None or not self.membership.on_fetched(peer, fetched.ranges, now):
                    if fetched is not None and in_force:
                        self.state.on_fetched(peer, fetched.ranges, fetched.have, now)
                    else:
                        self.state.on_fetched(peer, None, None, now)
            case Stop():
                have = grammar.structure(ok.object, Has).have if ok is not None else None
                self.membership.leaving.on_stopped(peer, message, have)
            case Gossip():
                have = grammar.structure(ok.object, Has).have if ok is not None and in_force else None
                self.state.on_gossiped(peer, have, now)
            case FenceRun():
                self.fences.on_fenced(peer, message, reply if in_force else None, now)
            case Release():
                self.commit.on_released(peer, message, ok is not None, now)

    def _take_error(self, url: str, peer: str, message: PeerMessage, error: Error, now: float) -> None:
        if error.code == OTHER_VIEW:
            other = grammar.structure(error.object, OtherView)
            helped = "" if isinstance(message, Install) else peer
            self.membership.on_other_view(helped, other.view, other.base, other.complete, now)
        elif error.code == CHANGING:
            halted = grammar.structure(error.object, Promised)
            self._note_complete(message, halted.complete)
            self.membership.on_changing(peer, halted.promised, now)
        elif isinstance(message, Join) and error.code != errors.UNAVAILABLE:
            self.context.note_once(f"{url} refuses this node: {' '.join(error.words)}")
            self.membership.joining.on_joined((), str(error.object.get("view", "")), now)

    def _note_complete(self, message: PeerMessage, complete: bool) -> None:
        """Note that all members have entered the view of `message`, if the reply of a member says so."""
        if complete and message.view == self.context.view_name:
            self.context.complete = True
