"""Graceful shutdown of a storage node: it leaves the view when a member that stays has its state.

It takes no new requests of clients, and sends STOP to all members. Those that stay change the view: the leaving node
answers their FLUSH, so the next view has all that it has, but it is not in that view, leads nothing, and has no vote.
It ends when it hears of the new view. Nobody changes a view for a STOP that is younger than a second: perhaps all nodes
are shutting down. When all members leave, each ends when it has heard from all, and has all their updates.

Where the members that stay cannot change the view alone (half of a `majority`, or none but a node that is still
joining), the leaving ones help to take in the joiner, and go after that.
"""

from __future__ import annotations

from attrs import Factory, define

from dida.replication.context import ReplicaContext
from dida.replication.detection import FOREVER, Detection
from dida.replication.gossip import ReplicaState
from dida.replication.joining import Joining
from dida.replication.losses import beyond
from dida.replication.messages import Member, Stop, View
from dida.replication.outputs import Left
from dida.timestamps import Timestamp, covers
from dida.wire.messages import Ok, Reply

TOGETHER = 1.0
"""Time in which nobody changes the view for a STOP, and the only member waits for another to join, in seconds."""
SAY_AGAIN = 0.1
"""Time after which an unanswered STOP is sent again, in seconds."""


@define
class Leaving:
    """One replica's share in leaving: as a node that leaves, and as one that hears of others."""

    context: ReplicaContext
    state: ReplicaState
    detection: Detection
    joining: Joining
    left: Left | None = None
    """Set when this node ends: the owner answers what waits, and returns it as an output."""
    heirs: dict[str, Member] = Factory(dict)
    """Members of the next views without this node for which it has stopped the view: any of them may have begun."""
    next_views: set[str] = Factory(set)
    """The names of those views: all that this node has is in them."""
    busy: bool = False
    """True while requests of clients are unanswered."""
    _since: float = FOREVER
    _by: float = FOREVER
    _view: str = ""
    """The view to which the following belongs."""
    _said: dict[str, float] = Factory(dict)
    """Member to when the STOP was sent to it."""
    _understood: set[str] = Factory(set)
    """Members that have answered it."""
    _heard: set[str] = Factory(set)
    """Members that have sent a STOP."""

    def begin(self, drain: float, now: float) -> None:
        """Leave, within `drain` seconds."""
        if self._since == FOREVER:
            self._since, self._by = now, now + drain
            self.context.stops[self.context.incarnation] = now
            self.context.note("shutting down: waiting for another member to take over its state")

    # --- who leaves, and who stays --------------------------------------------------------------

    def stays(self, member: Member) -> bool:
        """Return True if the member has not announced that it leaves."""
        return member.component not in self.context.stops

    def due(self, members: tuple[Member, ...], now: float) -> bool:
        """Return True if one of them has been leaving for so long that not all leave together."""
        stops = self.context.stops
        return any(now - stops.get(m.component, now) >= TOGETHER for m in members)

    def on_stop(self, message: Stop, now: float) -> Reply:
        """Note that a member of the view leaves."""
        self._look_at_view()
        self._heard.add(message.sender)
        self.context.stops.setdefault(message.sender, now)
        self.state.confirm(message.sender, message.have)
        return Ok((), {"have": self.state.log.have})

    def on_stopped(self, peer: str, message: Stop, have: Timestamp | None) -> None:
        """Process the reply to a STOP; `have` is None if it did not get through."""
        self._look_at_view()
        if have is not None and message.view == self._view:
            self._understood.add(peer)
            self.state.confirm(peer, have)

    def _look_at_view(self) -> None:
        if self._view != self.context.view_name:
            self._view = self.context.view_name
            for what in (self._said, self._understood, self._heard):
                what.clear()

    # --- the one that leaves --------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Send STOP to members that have not answered it; end this node if it may."""
        if self._since == FOREVER or self.left is not None:
            return
        self._look_at_view()
        self._push()
        for member in self.context.others():
            peer = member.component
            if peer not in self._understood and now - self._said.get(peer, -FOREVER) >= SAY_AGAIN:
                self._said[peer] = now
                self.context.send(member, Stop(**self.context.stamp(), have=self.state.log.have))
        if self.context.view is None:
            self._end(False, "it was in no view")
        elif now >= self._by:
            self._end(False, f"timed out, no member has taken over its state in {self._by - self._since:g} s")
        elif not self.joining.joiners and now - self.joining.asked_at >= TOGETHER:
            self._end_with_all(now)

    def _push(self) -> None:
        """Send at once what only this node has."""
        self.state.hasten(self._have)

    def _end_with_all(self, now: float) -> None:
        """End, if no member stays or joins, as soon as all living ones know that."""
        if self.context.config.majority:  # a silent one may be alive, and is needed
            others = [m for m in self.context.others() if not self.detection.is_gone(m.component, now)]
        else:
            dead = self.detection.dead(now)
            others = [m for m in self.context.others() if m.component not in dead]
        if not others:
            if now - self._since >= TOGETHER or not self.joining.knows_others:
                self._end(False, "the only member")
            return
        if self.busy and now - self._since < TOGETHER:
            return
        told = [self.context.stops.get(m.component, now) for m in others] + [self._since]
        if max(told) - min(told) > TOGETHER / 2 and now - max(told) < TOGETHER:
            return  # one after the other: one that was stopped earlier may be about to join again
        alike = all(covers(self.state.table[m.component], self._have) for m in others)
        if alike and all(m.component in self._heard and m.component in self._understood for m in others):
            self._end(False, f"with all members ({', '.join(m.id for m in others)})")

    def succeeded(self, view: View, base: Timestamp) -> bool:
        """Return True, and end this node, if a view that began without it has all that is here."""
        old = self.context.view
        next_one = old is not None and view.previous == old.name and covers(base, self._have)
        if self._since == FOREVER or not (next_one or view.previous in self.next_views):
            return False
        self.taken_over(view, base)
        return True

    def stops_for(self, view: str, members: tuple[Member, ...]) -> None:
        """Note that this node has stopped its view, and has sent what it has: one of that name may begin without it."""
        self.next_views.add(view)
        self.heirs.update({m.component: m for m in members})

    def forget_heirs(self) -> None:
        """This node is in another view, or in none."""
        self.next_views.clear()
        self.heirs.clear()

    def taken_over(self, view: View, base: Timestamp) -> None:
        """End this node: a view without it, whose members have `base`, has all that is here."""
        for member in view.members:
            self.state.confirm(member.component, base)
        self._end(True, f"{', '.join(m.id for m in view.members)} go on with its state (view {view.number})")

    @property
    def _have(self) -> Timestamp:
        return self.state.log.have

    def removed(self, kept: bool, text: str) -> None:
        """End this node: the others have removed it."""
        if self.left is None:
            self.left = Left(kept, f"ends: {text}")

    def _end(self, kept: bool, why: str) -> None:
        ends = "" if kept else self._what_ends()
        self.left = Left(kept, f"ends: {why}{ends}")

    def _what_ends(self) -> str:
        """Return what no other node has, as far as this one knows."""
        records = len(self.state.store)
        stay = [m for m in self.context.others() if self.stays(m)]
        if not records:
            return "; it had no records"
        if not stay:
            return f"; what it has ends with it, unless another node has it: {_count(records, 'record')}"
        lacking = min(beyond(self._have, self.state.table[m.component]) for m in stay)
        return f"; what nobody else has: {_count(lacking, 'update')}" if lacking else "; another member has all of it"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"
