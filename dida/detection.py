"""Who lives: heartbeats, the lease, suspicion, and evidence of a death.

Members send each other heartbeats. Silence makes a suspect; a suspect is dead when the others do not hear it
either, a process whose port refuses is dead at once. A node answers only while every member of its view has
answered a heartbeat of it within the lease, which is shorter than the silence after which a leader removes a
node: its lease has run out by then.

Sources: confirmation of suspects and doubt in oneself as in SWIM (Das et al., 2002) and Lifeguard (Dadgar et
al., 2017).
"""

from __future__ import annotations

from attrs import Factory, define

from dida.gossip import Replication
from dida.messages import Ok, Reply
from dida.outputs import Local
from dida.peer_messages import Heartbeat, Member, Suspect
from dida.timestamps import Timestamp

SUSPECT_AGAIN = 0.2
STALL = 0.4
"""Seconds between two ticks that make a node doubt itself, not the others."""
FOREVER = float("inf")


@define(eq=False)
class _Suspicion:
    since: float
    asked: float = -FOREVER
    silent: dict[str, float] = Factory(dict)
    """Other member to how long it has not heard the suspect either."""


@define
class Detection:
    """What one replica knows of the others' being alive."""

    local: Local
    replication: Replication
    gone: dict[str, float] = Factory(dict)
    """Components whose process is certainly dead, and from when on that counts."""
    heard: dict[str, float] = Factory(dict)
    _lease: dict[str, float] = Factory(dict)
    _entered_at: float = -FOREVER
    """When the view was entered, if this node was awake ever since."""
    _beat: dict[str, float] = Factory(dict)
    _beating: dict[str, float] = Factory(dict)
    _suspicions: dict[str, _Suspicion] = Factory(dict)
    _ticked: float | None = None

    # --- the lease ------------------------------------------------------------------------------

    def lease_until(self) -> float:
        """Until when this node may answer; later it must ask the members first."""
        others = self.local.others()
        length = self.local.config.lease
        return min((self._lease.get(m.component, -FOREVER) + length for m in others), default=FOREVER)

    def ask_all(self, now: float) -> None:
        """Heartbeats to those whose answer the lease lacks."""
        for member in self.local.others():
            if self._lease.get(member.component, -FOREVER) + self.local.config.lease <= now:
                self._heartbeat(member, now)

    def _heartbeat(self, member: Member, now: float) -> None:
        peer = member.component
        if peer not in self._beating:
            self._beating[peer] = self._beat[peer] = now
            have, oldest = self.replication.log.have, self.local.oldest
            self.local.send(member, Heartbeat(**self.local.stamp(), have=have, oldest=oldest, at=now))

    def on_heartbeat(self, message: Heartbeat, now: float) -> Reply:
        """A member asks whether this node is there: it may count on that for its lease."""
        self.replication.confirm(message.sender, message.have)
        return Ok((), {"have": self.replication.log.have})

    def on_beat(self, peer: str, sent: float, have: Timestamp | None, now: float) -> None:
        """The answer to the heartbeat of the time `sent`; None: it did not get through.

        The lease counts from then on: what is read late, after a pause say, renews nothing.
        """
        if self._beating.get(peer) == sent:
            del self._beating[peer]
        if have is not None and self.local.member(peer) is not None:
            self._lease[peer] = max(sent, self._lease.get(peer, -FOREVER))
            self.replication.confirm(peer, have)
            self.replication.changed = True

    # --- evidence -------------------------------------------------------------------------------

    def hear(self, component: str, now: float) -> None:
        """Something came from `component`: it lives."""
        self.heard[component] = now
        self._suspicions.pop(component, None)

    def bury(self, component: str, now: float) -> bool:
        """A member's process is dead; whether that is all. While this node held its lease, that member can't have
        removed it before.

        Otherwise (this node was paused, say) it may have, and others may go on with the state: they are asked first.
        """
        answered = max(self._lease.get(component, -FOREVER), self._entered_at)
        if now < answered + self.local.config.lease:
            self.gone[component] = now
            return True
        self.gone.setdefault(component, now + self.local.config.ping_timeout)
        return False

    def is_gone(self, component: str, now: float) -> bool:
        """Whether its process is certainly dead."""
        return now >= self.gone.get(component, FOREVER)

    def on_broken(self, url: str, now: float) -> None:
        """The connection to `url` broke: a hint that makes the heartbeat come at once."""
        for member in self.local.others():
            if member.url == url:
                self._beating.pop(member.component, None)
                self._heartbeat(member, now)

    def on_suspect(self, message: Suspect, now: float) -> Reply:
        """How long this node has not heard from the suspect; it asks at once."""
        member = self.local.member(message.component)
        if member is None:
            return Ok((), {"silent": 86_400.0})
        self._heartbeat(member, now)
        return Ok((), {"silent": now - self.heard.get(member.component, now)})

    def on_suspected(self, peer: str, message: Suspect, silent: float | None) -> None:
        """A member's word on a suspect."""
        suspicion = self._suspicions.get(message.component)
        if suspicion is not None and silent is not None:
            suspicion.silent[peer] = silent

    def dead(self, now: float) -> set[str]:
        """The members that are to be removed; suspects are asked about on the way."""
        config = self.local.config
        others = self.local.others()
        silent = {m.component for m in others if now - self.heard.get(m.component, now) > config.ping_timeout}
        dead = {m.component for m in others if self.is_gone(m.component, now)}
        witnesses = [m for m in others if m.component not in silent and m.component not in dead]
        for member in others:
            peer = member.component
            if peer not in silent or peer in dead:
                continue
            suspicion = self._suspicions.setdefault(peer, _Suspicion(now))
            least = config.ping_timeout - config.ping_interval
            agreed = all(suspicion.silent.get(m.component, 0) >= least for m in witnesses)
            if agreed or now - suspicion.since > 3 * config.ping_timeout:
                dead.add(peer)
            elif now - suspicion.asked >= SUSPECT_AGAIN:
                suspicion.asked = now
                for witness in witnesses:
                    self.local.send(witness, Suspect(**self.local.stamp(), component=peer))
        return dead

    def leads(self, now: float) -> bool:
        """Whether this node is the lowest member that is not suspected."""
        mine = self.local.me.replica
        timeout = self.local.config.ping_timeout
        return not any(
            m.replica < mine
            for m in self.local.others()
            if not self.is_gone(m.component, now) and now - self.heard.get(m.component, now) <= timeout
        )

    # --- time, and views ------------------------------------------------------------------------

    def look_at_clock(self, now: float) -> float:
        """Called with every tick: was this node itself away? So many seconds; 0 when it was not."""
        passed = now - self._ticked if self._ticked is not None else 0.0
        self._ticked = now
        if passed <= STALL:
            return 0.0
        self._doubt_myself(now)
        return passed

    def tick(self, now: float) -> None:
        """Heartbeats to those whose turn it is."""
        for member in self.local.others():
            if now - self._beat.get(member.component, -FOREVER) >= self.local.config.ping_interval:
                self._heartbeat(member, now)

    def _doubt_myself(self, now: float) -> None:
        self._entered_at = -FOREVER
        for member in self.local.others():
            self.heard[member.component] = now
        self._suspicions.clear()
        self._beating.clear()

    def enter(self, now: float) -> None:
        """A view begins: nothing is known yet of its members but that they are there."""
        view = self.local.view
        assert view is not None
        self._entered_at = now
        self.gone = {component: since for component, since in self.gone.items() if view.member(component) is not None}
        self.heard = {m.component: now for m in view.members}
        self._clear()

    def forget(self) -> None:
        """This node is a new component, in no view."""
        self.gone.clear()
        self._clear()

    def _clear(self) -> None:
        for table in (self._lease, self._beat, self._beating, self._suspicions):
            table.clear()
