"""Failure detection: heartbeats, the lease, suspicion, and evidence of a death.

Members send each other heartbeats. A silent member is suspected; a suspected member is dead when the others do not hear
it either, a process whose port refuses connections is dead at once. A node answers clients only while every member of
its view has answered one of its heartbeats within the lease, which is shorter than the silence after which a leader
removes a node: its lease has expired by then.

In a large view all exchange heartbeats with one member only, the **hub**: the lowest, which leads changes anyway. The
lease of the others is what the hub grants them of its lease, counted from when they asked. So it expires when the hub's
does, and no node serves on a report older than the lease of any member. Only the lowest member may grant: a node that
leads a change in its place has not heard the hub for longer than a lease, or knows that it is dead, and then counts the
silence of the others from that moment on. docs/explanation/reliability.md has the whole argument.

Sources: confirmation of suspects by other members, and doubt in oneself, as in SWIM (Das et al., 2002) and Lifeguard
(Dadgar et al., 2017); leases that are passed on: Gray and Cheriton (1989).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from attrs import Factory, define

from dida.replication.context import ReplicaContext
from dida.replication.gossip import ReplicaState
from dida.replication.messages import Alive, Heartbeat, Member, Suspect
from dida.timestamps import Timestamp
from dida.wire.messages import Ok, Reply

SUSPECT_AGAIN = 0.2
WITNESSES = 3
"""Members of a large view that are asked about a suspect; in a small view all are."""
ASK_AGAIN = 0.05
"""Time after which a member of a large view asks again for the lease that it lacks, in seconds."""
STALL = 0.4
"""Time between two ticks that makes a node doubt itself, not the others, in seconds."""
FOREVER = float("inf")
NOTHING: tuple[float, Timestamp] = (-FOREVER, {})


@define(eq=False)
class _Suspicion:
    asked: float = -FOREVER
    silent: dict[str, float] = Factory(dict)
    """Other member to how long it has not heard the suspect either, in seconds."""


@define
class Detection:
    """What one replica knows of which members are alive."""

    context: ReplicaContext
    state: ReplicaState
    gone: dict[str, float] = Factory(dict)
    """Incarnations whose process is certainly dead, and from when on that counts."""
    heard: dict[str, float] = Factory(dict)
    _hub: Member | None = None
    """Of a large view: the lowest member (perhaps this node)."""
    _listens: dict[str, float] = Factory(dict)
    """Members whose silence this node judges, because it exchanges heartbeats with them, and since when."""
    _witness: dict[str, tuple[float, float]] = Factory(dict)
    """Other members about which it was asked: since when they have not answered it, and when it was asked last."""
    _awaited: dict[str, float] = Factory(dict)
    """Other members from which something here awaits a message, and since when."""
    _lease: dict[str, float] = Factory(dict)
    _granted: float = -FOREVER
    """The time until which the hub's lease lets this node answer."""
    _halted: bool = False
    """True if the hub follows a change that this node leads: it grants nothing any more."""
    _everywhere: tuple[float, Timestamp] = NOTHING
    _agreed: float = -FOREVER
    """When this node last agreed to the view in force, if it has been awake since then."""
    _beat: dict[str, float] = Factory(dict)
    _beating: dict[str, float] = Factory(dict)
    _suspicions: dict[str, _Suspicion] = Factory(dict)
    _ticked: float | None = None

    # --- the lease ------------------------------------------------------------------------------

    @property
    def follows(self) -> bool:
        """True if another member is the hub of this node's view."""
        return self._hub is not None and self._hub.component != self.context.incarnation

    def lease_until(self) -> float:
        """Return the time until which this node may answer; later it must ask the members first, or the hub."""
        if self.follows:
            return self._granted
        return min((self._answered_until(m) for m in self.context.others()), default=FOREVER)

    def _answered_until(self, member: Member) -> float:
        return self._lease.get(member.component, -FOREVER) + self.context.config.lease

    def ask_all(self, now: float) -> None:
        """Send heartbeats to the members whose reply the lease lacks."""
        if self.follows:
            assert self._hub is not None
            lacking = [self._hub] if self._granted <= now else []
        else:
            lacking = [m for m in self.context.others() if self._answered_until(m) <= now]
        least = ASK_AGAIN if self._hub is not None else 0.0
        for member in lacking:
            if now - self._beat.get(member.component, -FOREVER) >= least:
                self._heartbeat(member, now)

    def _heartbeat(self, member: Member, now: float) -> None:
        peer = member.component
        if peer not in self._beating:
            self._beating[peer] = self._beat[peer] = now
            is_hub = self._hub is not None and not self.follows
            have = self._held_everywhere(now) if is_hub else self.state.log.have
            message = Heartbeat(**self.context.stamp(), have=have, all=is_hub, oldest=self.context.oldest, at=now)
            self.context.send(member, message)

    def _held_everywhere(self, now: float) -> Timestamp:
        """Return what every member has, for the hub to report to all; computed once a turn."""
        found, least = self._everywhere
        if found != now:
            least = self.state.held_everywhere()
            self._everywhere = (now, least)
        return least

    def on_heartbeat(self, message: Heartbeat, now: float) -> Reply:
        """Answer a member, which may count on the reply for its lease."""
        told = self.context.others() if message.all else (self.context.member(message.sender),)
        for member in told:
            if member is not None:
                self.state.confirm(member.component, message.have)
        have = {"have": self.state.log.have, **self.context.completeness()}
        if self._hub is None:
            return Ok((), have)
        return Ok((), {**have, "oldest": self.context.oldest, "lease": self._grant(now)})

    def _grant(self, now: float) -> float:
        """Return for how many seconds this node's lease lets the asking one serve; 0 if this node is not the hub."""
        if self.follows:
            return 0.0
        left = min(max(0.0, self.lease_until() - now), self.context.config.lease)
        if left == 0.0:
            self.ask_all(now)
        return left

    def on_beat(self, peer: str, sent: float, alive: Alive | None, now: float) -> None:
        """Process the reply to the heartbeat sent at `sent`; None: it did not get through.

        The lease counts from then on: a reply that is read late, after a pause for example, renews nothing.
        """
        if self._beating.get(peer) == sent:
            del self._beating[peer]
        if alive is not None and self.context.member(peer) is not None:
            self._lease[peer] = max(sent, self._lease.get(peer, -FOREVER))
            if self._hub is not None and self._hub.component == peer:
                self._granted = max(self._granted, sent + min(alive.lease, self.context.config.lease))
            if not self.context.complete:
                answered = not self.follows and all(m.component in self._lease for m in self.context.others())
                self.context.complete = alive.complete or answered
            self.state.confirm(peer, alive.have)
            self.state.changed = True

    # --- evidence -------------------------------------------------------------------------------

    def hear(self, incarnation: str, now: float) -> None:
        """Note that `incarnation` is alive: a message came from it."""
        self.heard[incarnation] = now
        self._suspicions.pop(incarnation, None)
        if len(self._listens) > 1 and self._hub is not None and self._hub.component == incarnation and not self._halted:
            # the hub: the silence of the others counts no more
            self._listens = {incarnation: self._listens[incarnation]}
            self._suspicions.clear()

    def bury(self, incarnation: str, now: float) -> bool:
        """Note that a member's process is dead; return True if that alone is enough.

        While this node held its lease, that member cannot have removed it before. Otherwise (this node was paused, for
        example) it may have, and others may go on with the state: they are asked first.
        """
        answered = max(self._lease.get(incarnation, -FOREVER), self._agreed)
        if now < max(answered + self.context.config.lease, self._granted):
            self.gone[incarnation] = now
            return True
        self.gone.setdefault(incarnation, now + self.context.config.ping_timeout)
        return False

    def is_gone(self, incarnation: str, now: float) -> bool:
        """Return True if its process is certainly dead."""
        return now >= self.gone.get(incarnation, FOREVER)

    def on_broken(self, url: str, now: float) -> None:
        """Send the heartbeat at once: the connection to `url` broke, which is a hint."""
        for member in self.context.others():
            if member.url == url:
                self._beating.pop(member.component, None)
                self._heartbeat(member, now)

    def on_suspect(self, message: Suspect, now: float) -> Reply:
        """Report how long this node has not heard from the suspect, and send it a heartbeat at once.

        Of a member to which it does not listen it reports since when its heartbeats are not answered.
        """
        member = self.context.member(message.component)
        if member is None:
            return Ok((), {"silent": 86_400.0})
        peer = member.component
        self._heartbeat(member, now)
        if peer in self._listens:
            return Ok((), {"silent": self._silence(peer, now)})
        since, asked = self._witness.get(peer, (now, now))
        if self.heard.get(peer, now) >= since or now - asked > self.context.config.ping_timeout:
            since = now
        self._witness[peer] = (since, now)
        return Ok((), {"silent": now - since})

    def on_suspected(self, peer: str, message: Suspect, silent: float | None) -> None:
        """Process a member's report on a suspect; None: it did not get through."""
        suspicion = self._suspicions.get(message.component)
        if suspicion is not None and silent is not None:
            suspicion.silent[peer] = silent

    def _silence(self, incarnation: str, now: float) -> float:
        """Return for how many seconds this node has not heard from a member while it listened to it."""
        since = self._listens.get(incarnation)
        return now - max(since, self.heard.get(incarnation, now)) if since is not None else 0.0

    @property
    def _doubt_after(self) -> float:
        """Silence after which others are asked, in seconds. In a large view, where they have to begin to listen, it is
        half of the time-out."""
        timeout = self.context.config.ping_timeout
        return timeout / 2 if self._hub is not None else timeout

    def dead(self, now: float) -> set[str]:
        """Return the members that are to be removed; ask others about suspects on the way."""
        config = self.context.config
        large = self._hub is not None
        least = config.ping_timeout / 4 if large else config.ping_timeout - config.ping_interval
        others = self.context.others()
        dead = {m.component for m in others if self.is_gone(m.component, now)}
        silence = {c: self._silence(c, now) for c in self._listens if c not in dead}
        suspects = {c for c, seconds in silence.items() if seconds > self._doubt_after}
        for place, member in enumerate(others):
            peer = member.component
            if peer not in suspects:
                continue
            suspicion = self._suspicions.setdefault(peer, _Suspicion())
            behind = others[place:] + others[:place] if large else others
            living = (m for m in behind if m.component not in suspects and m.component not in dead)
            witnesses = list(islice(living, WITNESSES if large else None))
            agreed = all(suspicion.silent.get(m.component, 0) >= least for m in witnesses)
            if silence[peer] > config.ping_timeout and (agreed or silence[peer] > 4 * config.ping_timeout):
                dead.add(peer)
            elif now - suspicion.asked >= SUSPECT_AGAIN:
                suspicion.asked = now
                for witness in witnesses:
                    self.context.send(witness, Suspect(**self.context.stamp(), component=peer))
        return dead

    def leads(self, now: float) -> bool:
        """Return True if this node is the lowest member that is not suspected, and does not leave while another
        stays."""
        mine, stops = self.context.me.replica, self.context.stops
        timeout = self.context.config.ping_timeout
        living = [
            m
            for m in self.context.others()
            if not self.is_gone(m.component, now) and self._silence(m.component, now) <= timeout
        ]
        if stops:
            staying = [m for m in living if m.component not in stops]
            if self.context.leaves and staying:
                return False
            if not self.context.leaves:
                living = staying
        return not any(m.replica < mine for m in living)

    # --- time, and views ------------------------------------------------------------------------

    def look_at_clock(self, now: float) -> float:
        """Return for how many seconds this node was not running, 0 if it was; called with every tick."""
        passed = now - self._ticked if self._ticked is not None else 0.0
        self._ticked = now
        if passed <= STALL:
            return 0.0
        self._doubt_myself(now)
        return passed

    def tick(self, now: float) -> None:
        """Send the heartbeats that are due."""
        if self.follows:
            self._look_for_hub(now)
        for incarnation in self._listens:
            member = self.context.member(incarnation)
            if member is not None and now - self._beat.get(incarnation, -FOREVER) >= self.context.config.ping_interval:
                self._heartbeat(member, now)

    def _look_for_hub(self, now: float) -> None:
        """Without its hub, listen to all from now on. The first heartbeats wait: a new view may be near."""
        assert self._hub is not None
        hub = self._hub.component
        if len(self._listens) == 1 and (self.is_gone(hub, now) or self._silence(hub, now) > self._doubt_after):
            for member in self.context.others():
                if member.component != hub:
                    self._listens[member.component] = self._beat[member.component] = now

    def listen_to_all(self, peer: str, now: float) -> None:
        """Listen to all if `peer`, which has stopped the view for a change that this node leads, is the hub.

        A hub that leaves no longer notices which members are silent; its last grants are older than a silence that
        counts from now on.
        """
        if self.follows and self._hub is not None and self._hub.component == peer and not self._halted:
            self._halted = True
            self._listens.update({m.component: now for m in self.context.others() if m.component not in self._listens})

    def wait_for(self, components: Iterable[str], now: float) -> None:
        """Send heartbeats to the members among these that get none anyway, when a message from them takes long."""
        interval = self.context.config.ping_interval
        others = [c for c in components if c not in self._listens and c != self.context.incarnation]
        self._awaited = {c: self._awaited.get(c, now) for c in others}
        for incarnation, since in self._awaited.items():
            member = self.context.member(incarnation)
            if member is not None and now - max(since, self._beat.get(incarnation, -FOREVER)) >= interval:
                self._heartbeat(member, now)

    def _doubt_myself(self, now: float) -> None:
        self._agreed = -FOREVER
        for member in self.context.others():
            self.heard[member.component] = now
        self._suspicions.clear()
        self._witness.clear()
        self._beating.clear()

    def enter(self, agreed: float | None, now: float) -> None:
        """A view begins: nothing is known of its members except that they exist.

        `agreed`: when this node last answered its leader, or began to lead the change. No member can have removed it
        for its silence before a time-out after that; this node may enter the view much later, if it was paused.
        """
        view = self.context.view
        assert view is not None
        self._agreed = agreed if agreed is not None else -FOREVER
        self.gone = {
            incarnation: since for incarnation, since in self.gone.items() if view.member(incarnation) is not None
        }
        self.heard = {m.component: now for m in view.members}
        self._clear()
        self._hub = view.members[0] if len(view.members) > self.context.config.all_to_all else None
        asked = (self._hub,) if self._hub is not None and self.follows else self.context.others()
        self._listens = {member.component: now for member in asked}

    def forget(self) -> None:
        """Begin again as a new incarnation, in no view."""
        self.gone.clear()
        self._clear()

    def _clear(self) -> None:
        self._hub = None
        self._halted = False
        self._granted = -FOREVER
        self._everywhere = NOTHING
        for table in (self._listens, self._witness, self._awaited, self._lease, self._beat, self._beating):
            table.clear()
        self._suspicions.clear()
