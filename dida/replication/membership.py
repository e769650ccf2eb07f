"""Membership: views and their changes, and what becomes of a node that was removed.

Theory of operation. The lowest member that is not suspected leads a change of the view: FLUSH stops the old view at all
that go on, LEVEL gives everyone what any of them has (there the streams of dead incarnations are cut), INSTALL begins
the new view. A leader that dies midway is followed by the next with a higher number; each member obeys the highest
ballot that it has promised to follow. `dida.replication.detection` finds out which members are alive,
`dida.replication.joining` gives the state to those that join, `dida.replication.next_view` chooses the members, and
`dida.replication.view_change` is the leader's side of one change.

With `majority` a view is changed by more than half of its members, counted among those that become members of the next.
As long as it is not known to be **complete** (each of its members has entered it, and answered a heartbeat there) more
than half of the view before must be among them, too, and so on back to the last complete one: a view carries those
lists. Otherwise a member that never entered a view could make another one out of the view before, and both would serve.
For the same reason a node gives way to a view of higher rank that it cannot enter only when that one is complete.

A node that was paused, or cut off, asks before it answers, learns that it was removed, and comes back as a new
incarnation with fresh state.

The module is a little long because all of a member's messages about views read and change the same promises.

Sources: virtual synchrony (Birman and Joseph, 1987); ballots as in Paxos (Lamport, 1998).
"""

from __future__ import annotations

from attrs import Factory, define, field

from dida.addresses import StorageAddress
from dida.replication.context import ReplicaContext
from dida.replication.detection import STALL, Detection
from dida.replication.gossip import ReplicaState, with_found
from dida.replication.joining import Joining
from dida.replication.leaving import Leaving
from dida.replication.losses import Losses, beyond
from dida.replication.messages import Alive, Flush, Found, Has, Install, Level, Member, Range, View
from dida.replication.next_view import NextView
from dida.replication.outputs import CHANGING
from dida.replication.streams import successor
from dida.replication.view_change import ViewChange
from dida.timestamps import Timestamp, merged
from dida.wire.messages import Error, Ok, Reply


@define
class Membership:
    """One replica's share in the agreement on the members."""

    context: ReplicaContext
    state: ReplicaState
    named: tuple[StorageAddress, ...]
    started: float
    detection: Detection = field(init=False)
    joining: Joining = field(init=False)
    leaving: Leaving = field(init=False)
    next_view: NextView = field(init=False)
    entered: bool = False
    """True if a view was entered: the owner restarts the transactions, and resets this."""
    fenced: str | None = None
    """Why this node was removed: the owner fails what waits, forgets the state, and resets this."""
    promised: tuple[int, str] = (0, "")
    departed: dict[int, Member] = Factory(dict)
    """Replica to the member that was removed last."""
    changing_since: float | None = None
    times_fenced: int = 0
    losses: Losses = Factory(Losses)
    halted: dict[str, float] = Factory(dict)
    """Members that have reported that they are in a change of the view, and since when."""
    _ballot: ViewChange | None = None
    _kept: bool = False
    """True if what is prepared here is of the view before, for another change of that which this node follows."""
    _bound: set[str] = Factory(set)
    """With `majority`: leaders whose changes of the view in force this node has promised to follow."""

    def __attrs_post_init__(self) -> None:
        self.detection = Detection(self.context, self.state)
        self.joining = Joining(self.context, self.state, self.detection, self.named)
        self.leaving = Leaving(self.context, self.state, self.detection, self.joining)
        self.next_view = NextView(self.context, self.named, self.detection, self.joining, self.leaving)

    def begin_with(self, state: ReplicaState) -> None:
        """Use this state from now on."""
        self.state = self.detection.state = self.joining.state = state
        self.leaving.state = state

    # --- what happens ---------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Send heartbeats, suspicions, joins and probes, and change the view if this node leads."""
        self.started += self.detection.look_at_clock(now)  # a pause does not count
        self.leaving.tick(now)
        if self.leaving.left is not None:
            return
        if self.context.view is None:
            self.joining.seek(now)
        else:
            self.detection.tick(now)
            self.joining.probe(now)
            self.joining.load_joiners(now)
        self._lead(now)

    def on_refused(self, url: str, at: float, now: float) -> None:
        """Note that a process is dead: nobody listened at `url` when a connection was tried at the time `at`.

        What this node learns late, because it was paused, says nothing about now.
        """
        if now - at > STALL:
            return
        for member in self.context.others():
            if member.url == url and member.component not in self.detection.gone:
                if not self.detection.bury(member.component, now):
                    self.joining.probe_at_once()
                self.context.note(f"{member.id} ({url}) is dead: its port refuses connections")
        self.joining.drop(url)
        self.leaving.heirs = {c: m for c, m in self.leaving.heirs.items() if m.url != url}

    def on_beat(self, peer: str, sent: float, alive: Alive | None, now: float) -> None:
        """Process the reply to a heartbeat; None: it did not get through."""
        if alive is not None:
            self.halted.pop(peer, None)
        self.detection.on_beat(peer, sent, alive, now)

    # --- leading a change -----------------------------------------------------------------------

    @property
    def leads(self) -> bool:
        """True if this node leads a change of the view."""
        return self._ballot is not None

    def _wanted(self, now: float) -> tuple[Member, ...] | None:
        """Return the members that the next view should have; None if there is nothing to change."""
        if self.context.view is None:
            return self.next_view.first_members(self.started, self.times_fenced > 0, now)
        halts = [*self.halted.values(), *([self.changing_since] if self.changing_since is not None else [])]
        stuck = any(now - since > self.context.config.call_timeout for since in halts)
        stuck = stuck or (self.changing_since is not None and self.promised[1] in self.context.stops)
        return self.next_view.members(stuck or self._ballot is not None, now)

    def _lead(self, now: float) -> None:
        wanted = self._wanted(now)
        if wanted is None and self.context.leaves:
            self._ballot = None  # another one leads
        if self.context.view is not None and not self.detection.leads(now):
            self.detection.dead(now)  # witnesses are asked: the leader may be the suspect
        ballot = self._ballot
        if wanted is None:
            if ballot is not None and self.context.view is None:
                self._ballot = None
            return
        leaving = self.next_view.leavers(wanted, now)
        outdated = (
            ballot is None
            or (ballot.members, ballot.leaving) != (wanted, leaving)
            or self.promised != (ballot.number, self.context.incarnation)
        )
        if outdated or (ballot is not None and now - ballot.begun > 3 * self.context.config.call_timeout):
            known = self.context.view.number if self.context.view is not None else 0
            number = max(self.promised[0], known) + 1
            self._drop_kept()
            ballot = self._ballot = ViewChange(
                self.context, self.state, number, wanted, leaving, now, self.joining.promises()
            )
            self.promised = (number, self.context.incarnation)
            self._stop(now)
        assert ballot is not None
        self._push_on(ballot, now)

    def _stop(self, now: float) -> None:
        """Note that the old view is no longer in force here."""
        self.context.serving = False
        self.changing_since = now

    def _push_on(self, ballot: ViewChange, now: float) -> None:
        """Send what the change needs next; install the new view when all its members have all there is."""
        if not ballot.advance(now, self._heirs(ballot, now)):
            return
        assert ballot.base is not None
        view = View(
            ballot.number,
            self.context.incarnation,
            ballot.members,
            self._state_of,
            self.next_view.lists(),
            ballot.found,
        )
        stamp, base = self.context.stamp(), with_found(ballot.base, ballot.found)
        self._ballot = None
        for member in (*ballot.others, *ballot.leaving):
            self.context.send(member, Install(**stamp, installs=view, base=base))
        self._enter(view, base, now)

    def _heirs(self, ballot: ViewChange, now: float) -> list[Member]:
        """Return those that may have begun a view without this node, which leaves, and are not known to be dead.

        The leader of that change may have informed them alone.
        """
        there = {m.component for m in (*ballot.members, *ballot.leaving)}
        heirs = [m for m in self.leaving.heirs.values() if m.component not in there]
        dead = self.detection.dead(now) if heirs else set()
        return [m for m in heirs if m.component not in dead]

    def on_flushed(self, peer: str, message: Flush, has: Has | None, now: float, outside: bool = False) -> None:
        """Process the reply to a FLUSH: a member has stopped the old view, and has this.

        `outside`: it is in no view, and lacks the state for any.
        """
        ballot = self._ballot
        if ballot is None or ballot.number != message.number or ballot.base is not None:
            return
        if has is not None and has.component not in ("", peer):
            return  # `peer` was asked, and a later life of its process answered: that has nothing of what `peer` had
        if not any(m.component == peer for m in (*ballot.members, *ballot.leaving)):
            if has is not None or outside:
                ballot.answered.add(peer)
                self._push_on(ballot, now)
        elif has is not None:
            ballot.have[peer] = has.have
            ballot.prepared[peer] = set(has.prepared)
            self.detection.listen_to_all(peer, now)
            self._push_on(ballot, now)

    def on_levelled(self, peer: str, message: Level, has: Has | None, now: float) -> None:
        """Process the reply to a LEVEL: a member has taken a part of what it lacked."""
        ballot = self._ballot
        if ballot is not None and ballot.number == message.number and has is not None and ballot.base is not None:
            ballot.have[peer] = has.have
            ballot.prepared[peer] = set(has.prepared)
            ballot.asked.pop(peer, None)
            self._push_on(ballot, now)

    def on_fetched(self, peer: str, ranges: tuple[Range, ...], now: float) -> bool:
        """Process the reply to the leader's fetch in a change; return False if it belongs to no change."""
        ballot = self._ballot
        if self.context.serving or ballot is None or ballot.base is None or peer not in ballot.have:
            return False
        self.state.accept(ranges, now)
        ballot.asked.pop(peer, None)
        self._push_on(ballot, now)
        return True

    # --- following a change ---------------------------------------------------------------------

    def on_flush(self, message: Flush, now: float) -> Reply:
        """Promise to follow this ballot and no lower one; stop the old view; report what is here."""
        if not any(m.component == self.context.incarnation for m in (*message.members, *message.leaving)):
            return self.context.other_view()
        if (message.number, message.sender) < self.promised:
            return Error(CHANGING, (), {"promised": self.promised[0]})
        if self.context.view is None and message.view != self.joining.loaded:
            return Error(CHANGING, ("not loaded",))
        if (message.number, message.sender) != self.promised:
            self.promised = (message.number, message.sender)
            self._ballot = None
            if self.context.view is None:
                self.state.prepared.clear()  # another leader has given it, for a view that may never begin
            self._drop_kept()
        if self.context.view is not None and self.context.config.majority:
            self._bound.add(message.sender)
        if self.context.view is not None and not any(m.component == self.context.incarnation for m in message.members):
            self.leaving.stops_for(f"{message.number}@{message.sender}", message.members)
        for run, epoch in message.promises.items():
            self.state.executed.promise(run, epoch, now)
        self._stop(now)
        return self._has()

    def _drop_kept(self) -> None:
        """The view in force is changed: what was prepared before it is none of its transactions."""
        if self._kept:
            self.state.prepared.clear()
            self._kept = False

    def _has(self) -> Reply:
        """Report what is logged and prepared here."""
        prepared = [each.name for each in self.state.prepared.values()]
        has = {"have": self.state.log.have, "component": self.context.incarnation, "prepared": prepared}
        return Ok((), has | self.context.completeness())

    def on_changing(self, peer: str, number: int, now: float) -> None:
        """Note that a member is in a change of the view; the next ballot here is higher than the one it follows."""
        if self.context.member(peer) is not None:
            self.halted.setdefault(peer, now)
        if number > self.promised[0]:
            self.promised = (number, "")

    def on_level(self, message: Level, now: float) -> Reply:
        """Log what the survivors have, without showing it."""
        if (message.number, message.sender) != self.promised:
            return Error(CHANGING, (), {"promised": self.promised[0]})
        self.changing_since = now
        self.state.accept(message.ranges, now)
        self.state.prepared.update({each.record.key: each for each in message.prepared})
        return self._has()

    def on_install(self, sender: str, view: View, base: Timestamp, now: float) -> Reply:
        """Begin the new view, or end this incarnation if the view does not have it."""
        mine = self.context.view
        if mine is not None and mine.name == view.name:
            return Ok()
        if mine is not None and mine.rank > view.rank:
            return self.context.other_view()
        self._bound.discard(sender)  # a leader that installs another view has given its change up
        if self._enters(view, base, now):
            return Ok()
        if mine is not None or view.member(self.context.incarnation) is not None:
            self._give_way(sender, view, base, False, now)
        return self.context.other_view()

    def _enters(self, view: View, base: Timestamp, now: float) -> bool:
        """Enter the view, if this node is one of its members and has the state; return True if so."""
        if view.member(self.context.incarnation) is None or not self._continued_by(view, base):
            return False
        self._enter(view, base, now)
        return True

    def _give_way(self, peer: str, view: View, base: Timestamp, complete: bool, now: float) -> None:
        """End this incarnation: `peer` is in a view of higher rank, which this node cannot enter.

        It ends in order if it leaves, and that view has all that it has. With `majority` it does not end before all
        members of that view are known to have entered it: it may still come to nothing, and then what this node has,
        and its vote, are needed. A node that leaves, and has promised no other to change its view, need not wait for
        that.
        """
        decided = complete or self.context.view is None or not self.context.config.majority
        if (decided or self._bound <= {view.leader}) and self.leaving.succeeded(view, base):
            return
        if decided:
            self.fence(view, now)
        elif self._ballot is not None and any(m.component == peer for m in self._ballot.members):
            self._ballot.lost = True
            for member in self._ballot.members:  # they may go over to that view
                if member.component != self.context.incarnation and view.member(member.component) is not None:
                    self.context.send(member, Install(**self.context.stamp(), installs=view, base=base))

    @property
    def _state_of(self) -> str:
        """The view whose state is here: the view in force, or the one from which this node has its snapshot."""
        return self.joining.loaded if self.context.view is None else self.context.view_name

    def _continued_by(self, view: View, base: Timestamp) -> bool:
        """Return True if the state here is the one with which `view` begins.

        That is the state of the view that it changes, or of a sister: another view that changed the same one at the
        same time, and had the same updates. `base` alone does not show that: two sides that went on apart may have the
        same timestamps once dead incarnations have left them. A node that has promised to change its view does not go
        over to a sister: each of the two might then need it.
        """
        mine = self.context.view
        sister = mine is not None and view.previous == mine.previous and not self._bound
        alike = sister or view.previous == self._state_of
        return alike and self.state.stands_at(base, self._left_to_commit(view))

    def _left_to_commit(self, view: View) -> tuple[Found, ...]:
        """Return what this node commits when it enters the view: a sister has begun with some of it."""
        mine = self.context.view
        sister = mine is not None and view.previous == mine.previous
        return tuple(each for each in view.found if not (sister and mine is not None and each in mine.found))

    def _enter(self, view: View, base: Timestamp, now: float) -> None:
        old = self.context.view
        live = {m.component for m in view.members}
        removed = [m for m in old.members if m.component not in live] if old is not None else []
        left = [m for m in removed if not self.leaving.stays(m)]
        silent = [m for m in removed if m not in left and not self.detection.is_gone(m.component, now)]
        confirmed = {m.replica: self.state.table.get(m.component, {}) for m in silent}
        self.losses.enter(view, base, self.context.base if old is not None else None, confirmed)
        for member in removed:
            self.departed[member.replica] = member
            self.joining.remember(member)
        for member in view.members:
            self.departed.pop(member.replica, None)
            self.joining.remember(member)
        found = self._left_to_commit(view)
        self.context.enter(view, base)
        stayed = [m.component for m in old.members] if old is not None else []
        follows_another = self.promised > (view.number, view.leader)
        self.state.settle(base, found, live, stayed, now, keep=follows_another)
        self._kept = follows_another
        agreed = self.promised == (view.number, view.leader)
        self.detection.enter(self.changing_since if agreed else None, now)
        self.joining.enter()
        self.halted.clear()
        self._bound.clear()
        self.leaving.forget_heirs()
        self._ballot = None
        self.promised = max(self.promised, (view.number, view.leader))
        self.context.serving = not follows_another
        self.changing_since = now if follows_another else None
        text = ", ".join(m.id for m in view.members)
        gone = [m.id for m in removed if m not in left]
        without = f"; without {', '.join(gone)}" if gone else ""
        without += f"; {', '.join(m.id for m in left)} left" if left else ""
        self.context.note(f"view {view.number}: {text}{without}")
        self.entered = True
        self.detection.ask_all(now)

    # --- other views ----------------------------------------------------------------------------

    def on_other_view(self, peer: str, view: View | None, base: Timestamp, complete: bool, now: float) -> None:
        """Follow a peer's view, help it into this node's, or find out that this node was removed."""
        mine = self.context.view
        if view is None or mine is None:
            if view is not None:
                self.joining.on_joined(view.members, view.name, now)
                if view.member(self.context.incarnation) is not None:
                    self.on_install("", view, base, now)
            elif mine is not None and peer:
                self._install_at(peer)
            return
        if view.name == mine.name:
            return
        if view.rank > mine.rank:
            if not self._enters(view, base, now):
                self._give_way(peer, view, base, complete, now)
        elif peer:
            self._install_at(peer)

    def _install_at(self, peer: str) -> None:
        member = self.context.member(peer)
        if member is not None and self.context.view is not None:
            message = Install(**self.context.stamp(), installs=self.context.view, base=self.context.base)
            self.context.send(member, message)

    def fence(self, view: View, now: float) -> None:
        """Forget the state, and ask to join as a new incarnation.

        This node was removed while it was alive, or taken in with a state that it no longer has (two sides of a
        partition gave it theirs).
        """
        leaves = self.context.leaves
        have = self.state.log.have if self.context.view is not None else {}
        # what a member that goes on there has confirmed is not lost
        stay = [m.component for m in self.context.others() if view.member(m.component) is not None]
        known = [self.state.table[incarnation] for incarnation in stay]
        lost = beyond(have, merged(self.context.base, *known)) + self.losses.alone
        if leaves and stay and not lost:
            self.leaving.taken_over(view, have)
            return
        self.losses.discard(lost)
        self.times_fenced += 1
        incarnation = successor(self.context.incarnation, self.times_fenced)
        what = (
            "removed from the view" if self.context.view is not None else "taken in with a state that it no longer has,"
        )
        text = f"{what} by {view.leader} (view {view.number}); joining again as {incarnation}"
        self.context.note(text + (f"; discarded up to {lost} updates that no other member has" if lost else ""))
        for member in (*view.members, *(self.context.view.members if self.context.view is not None else ())):
            self.joining.remember(member)
        self.context.me = Member(incarnation, self.context.me.replica, self.context.me.id, self.context.me.url)
        self.context.enter(None, {})
        self.context.serving = False
        self.changing_since = None
        self.promised = (0, "")
        self.started = now
        self._ballot = None
        self._bound.clear()
        self.leaving.forget_heirs()
        self.detection.forget()
        self.joining.forget()
        self.halted.clear()
        self.fenced = text
        if leaves:
            self.leaving.removed(lost == 0, text)
