"""Who is in: failure detection, views and their changes, joins, fences, leases.

Theory of operation. Members send each other heartbeats. Silence makes a suspect; a suspect is dead when
the others do not hear it either, a process whose port refuses is dead at once. The lowest unsuspected
member leads a change of the view: FLUSH stops the old view at all that go on, LEVEL gives everyone what
any of them has (there the streams of the dead are cut), INSTALL begins the new view. A leader that dies
midway is followed by the next with a higher number; each member obeys the highest it has promised.

A node answers only while every member of its view has answered a heartbeat of it within the lease, which is
shorter than the silence after which a leader removes a node: its lease has run out by then. So one that was
paused, or cut off, asks before it answers, hears that it was removed, and comes back as a new component with
fresh state.

Sources: virtual synchrony (Birman and Joseph, 1987); ballots as in Paxos (Lamport, 1998); confirmation of
suspects and doubt in oneself as in SWIM (Das et al., 2002) and Lifeguard (Dadgar et al., 2017).
"""

from __future__ import annotations

from typing import Any

from attrs import Factory, define

from dida.addresses import StorageAddress
from dida.gossip import Replication
from dida.messages import Error, Ok, Reply
from dida.outputs import Local, Send
from dida.peer_messages import (
    Fetch,
    Flush,
    Heartbeat,
    Install,
    Join,
    Level,
    Load,
    Member,
    Range,
    Record,
    Suspect,
    View,
    component_of,
)
from dida.timestamps import Timestamp, covers, merge_into

OTHER_VIEW = "other-view"
"""The error that tells a peer that it is in another view than this node; carries this node's view."""
CHANGING = "changing"
"""The error that tells a peer that the view is being changed: try again."""

JOIN_AGAIN = 0.1
PROBE_AGAIN = 1.0
SUSPECT_AGAIN = 0.2
STALL = 0.4
"""Seconds between two ticks that make a node doubt itself, not the others."""
KEPT_CUTS = 4096
FOREVER = float("inf")


@define(eq=False)
class _Suspicion:
    since: float
    asked: float = -FOREVER
    silent: dict[str, float] = Factory(dict)
    """Other member to how long it has not heard the suspect either."""


@define(eq=False)
class _Ballot:
    """A change of the view that this node leads."""

    number: int
    members: tuple[Member, ...]
    begun: float
    have: dict[str, Timestamp] = Factory(dict)
    base: Timestamp | None = None
    asked: dict[str, float] = Factory(dict)


@define(eq=False)
class _Joiner:
    member: Member
    heard: float
    loaded: str
    parts: list[dict[str, Any]] | None = None
    copy: int = 0
    """Which copy of the state `parts` is: their parts must not be mixed."""
    have: Timestamp = Factory(dict)
    next: int = 0
    asked: float = -FOREVER


@define
class Membership:
    """One replica's share in the agreement on who is a member."""

    local: Local
    replication: Replication
    named: tuple[StorageAddress, ...]
    started: float
    entered: bool = False
    """A view was entered: the owner restarts the transactions, and takes this back."""
    fenced: str | None = None
    """This node was removed: the owner fails what waits, forgets the state, and takes this back."""
    promised: tuple[int, str] = (0, "")
    base: Timestamp = Factory(dict)
    cuts: dict[str, int] = Factory(dict)
    """Stream of a removed component to how much of it survived; the newest ones."""
    departed: dict[int, Member] = Factory(dict)
    """Replica to the member that was removed last."""
    gone: dict[str, float] = Factory(dict)
    """Components whose process is certainly dead, and from when on that counts."""
    heard: dict[str, float] = Factory(dict)
    loaded: str = ""
    changing_since: float | None = None
    lives: int = 0
    discarded: int = 0
    halted: dict[str, float] = Factory(dict)
    """Members that said they are in a change of the view, and since when."""
    _lease: dict[str, float] = Factory(dict)
    _entered_at: float = -FOREVER
    """When the view was entered, if this node was awake ever since."""
    _beat: dict[str, float] = Factory(dict)
    _beating: dict[str, float] = Factory(dict)
    _suspicions: dict[str, _Suspicion] = Factory(dict)
    _waiting: dict[int, tuple[Member, float]] = Factory(dict)
    """While without a view: other nodes without one, and when they were heard."""
    _joiners: dict[int, _Joiner] = Factory(dict)
    _ballot: _Ballot | None = None
    _urls: dict[str, None] = Factory(dict)
    _probed: float = -FOREVER
    _copies: int = 0
    _parts: list[dict[str, Any]] = Factory(list)
    _transfer: tuple[str, str, int] = ("", "", 0)
    """Of the copy that comes in: the giver's view, the giver, and its number."""
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
            self.halted.pop(peer, None)
            self._lease[peer] = max(sent, self._lease.get(peer, -FOREVER))
            self.replication.confirm(peer, have)
            self.replication.changed = True

    # --- evidence -------------------------------------------------------------------------------

    def hear(self, component: str, now: float) -> None:
        """Something came from `component`: it lives."""
        self.heard[component] = now
        self._suspicions.pop(component, None)

    def on_refused(self, url: str, at: float, now: float) -> None:
        """Nobody listened at `url` when a connection was tried at the time `at`: the process is dead.

        What this node learns late, because it was paused, says nothing about now.
        """
        if now - at > STALL:
            return
        for member in self.local.others():
            if member.url == url and member.component not in self.gone:
                self._bury(member.component, now)
                self.local.note(f"{member.id} ({url}) is gone: its port refuses")
        self._waiting = {r: (m, at) for r, (m, at) in self._waiting.items() if m.url != url}
        self._joiners = {r: j for r, j in self._joiners.items() if j.member.url != url}

    def _bury(self, component: str, now: float) -> None:
        """A member's process is dead. While this node held its lease it can't have removed this node before.

        Otherwise (this node was paused, say) it may have, and others may go on with the state: they are asked first.
        """
        answered = max(self._lease.get(component, -FOREVER), self._entered_at)
        if now < answered + self.local.config.lease:
            self.gone[component] = now
        else:
            self.gone.setdefault(component, now + self.local.config.ping_timeout)
            self._probed = -FOREVER

    def _is_gone(self, component: str, now: float) -> bool:
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

    def _dead(self, now: float) -> set[str]:
        """The members that are to be removed; suspects are asked about on the way."""
        config = self.local.config
        others = self.local.others()
        silent = {m.component for m in others if now - self.heard.get(m.component, now) > config.ping_timeout}
        dead = {m.component for m in others if self._is_gone(m.component, now)}
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

    # --- what happens by itself -----------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Heartbeats, suspicions, joins, probes, and the change of the view where this node leads it."""
        if self._ticked is not None and now - self._ticked > STALL:
            self._doubt_myself(now)
        self._ticked = now
        if self.local.view is None:
            self._seek(now)
        else:
            for member in self.local.others():
                if now - self._beat.get(member.component, -FOREVER) >= self.local.config.ping_interval:
                    self._heartbeat(member, now)
            self._probe(now)
            self._load_joiners(now)
        self._lead(now)

    def _doubt_myself(self, now: float) -> None:
        self._entered_at = -FOREVER
        for member in self.local.others():
            self.heard[member.component] = now
        self._suspicions.clear()
        self._beating.clear()

    def _addresses(self) -> list[str]:
        """Where storage nodes are, or were: named ones, and those met since."""
        known = [str(named.address) for named in self.named] + list(self._urls)
        return [url for url in dict.fromkeys(known) if url != self.local.me.url]

    def _seek(self, now: float) -> None:
        """Without a view: ask all known nodes to be taken in."""
        if now - self._probed >= JOIN_AGAIN:
            self._probed = now
            heard = tuple(m for m, _ in self._waiting.values())
            for url in self._addresses():
                message = Join(**self.local.stamp(), member=self.local.me, heard=heard, loaded=self.loaded)
                self.local.out.append(Send(url, "", message, self.local.config.call_timeout))

    def _probe(self, now: float) -> None:
        """In a view: see whether those outside it have another."""
        if now - self._probed >= PROBE_AGAIN:
            self._probed = now
            inside = {m.url for m in self.local.view.members} if self.local.view is not None else set()
            for url in self._addresses():
                if url not in inside:
                    message = Heartbeat(**self.local.stamp())
                    self.local.out.append(Send(url, "", message, self.local.config.call_timeout))

    def _remember(self, member: Member) -> None:
        self._urls[member.url] = None
        if len(self._urls) > 1000:
            del self._urls[next(iter(self._urls))]

    # --- joining --------------------------------------------------------------------------------

    def on_join(self, message: Join, now: float) -> Reply:
        """A node without a view wants to be a member (or, at the start, is there as this one is)."""
        member = message.member
        view = self.local.view
        if view is None:
            if member.replica == self.local.me.replica and member.url != self.local.me.url:
                return self._same_number(member, self.local.me)
            for other in (member, *message.heard):
                self._remember(other)
            self._waiting[member.replica] = (member, now)
            return Ok((), {"heard": [m for m, _ in self._waiting.values()]})
        if view.member(member.component) is not None:
            return self.other_view()
        old = next((m for m in view.members if m.replica == member.replica), None)
        if old is not None:
            if old.url != member.url:
                return self._same_number(member, old)
            self._bury(old.component, now)
        self._remember(member)
        joiner = self._joiners.get(member.replica)
        if joiner is None or joiner.member.component != member.component:
            joiner = self._joiners[member.replica] = _Joiner(member, now, "")
        joiner.heard = now
        # only who gave the state has kept the updates since: another leader gives it anew
        joiner.loaded = message.loaded if member.component in self.replication.table else ""
        return Ok((), {"heard": list(view.members)})

    def _same_number(self, member: Member, old: Member) -> Reply:
        self.local.note(f"{member.id} at {member.url} wants replica number {old.replica}, which {old.id} has")
        return Error("bad-request", (f"replica {old.replica} is {old.id} at {old.url}: give this one another number",))

    def on_joined(self, heard: tuple[Member, ...]) -> None:
        """The answer to a Join: other nodes to ask."""
        for member in heard:
            self._remember(member)

    def _load_joiners(self, now: float) -> None:
        """The leader gives those who join the whole state, part by part, then takes them in."""
        timeout = self.local.config.ping_timeout
        self._joiners = {r: j for r, j in self._joiners.items() if now - j.heard < timeout}
        joining = {j.member.component for j in self._joiners.values()}
        members = {m.component for m in self.local.others()}
        for component in [c for c in self.replication.table if c not in members and c not in joining]:
            del self.replication.table[component]
        if not self._leads(now):
            return
        for joiner in self._joiners.values():
            if joiner.loaded != self.local.view_name and now - joiner.asked >= self.local.config.call_timeout:
                if joiner.parts is None:
                    self._copies += 1
                    joiner.copy = self._copies
                    joiner.parts = [*self.replication.dump(now), {"cuts": dict(self.cuts)}]
                    joiner.have = self.replication.log.have
                    self.replication.table[joiner.member.component] = dict(joiner.have)
                    joiner.next = 0
                self._load_next(joiner, now)

    def _load_next(self, joiner: _Joiner, now: float) -> None:
        if joiner.parts is not None and joiner.next < len(joiner.parts):
            joiner.asked = now
            state = joiner.parts[joiner.next]
            stamp, parts = self.local.stamp(), len(joiner.parts)
            self.local.send(joiner.member, Load(**stamp, copy=joiner.copy, part=joiner.next, parts=parts, state=state))

    def on_loaded(self, peer: str, message: Load, arrived: bool, now: float) -> None:
        """The answer to a part of the state."""
        joiner = next((j for j in self._joiners.values() if j.member.component == peer), None)
        if joiner is None or joiner.parts is None or (message.copy, message.part) != (joiner.copy, joiner.next):
            return
        if not arrived or message.view != self.local.view_name:
            joiner.parts = None  # begin again
            return
        joiner.heard = now
        joiner.next += 1
        if joiner.next < len(joiner.parts):
            self._load_next(joiner, now)
        else:
            joiner.loaded = self.local.view_name
            joiner.parts = None

    def on_load(self, message: Load, held: tuple[Record, ...], now: float) -> Reply:
        """A part of the whole state; with the last one it is taken over, as one."""
        if self.local.view is not None:
            return self.other_view()
        transfer = (message.view, message.sender, message.copy)
        if message.part == 0 and (transfer[:2] != self._transfer[:2] or transfer > self._transfer):
            self._parts = []
            self._transfer = transfer
        if message.part != len(self._parts) or transfer != self._transfer:
            return Error("bad-request", (f"part {message.part} came, {len(self._parts)} is next",))
        self._parts.append({**message.state, "held": held})
        if len(self._parts) == message.parts:
            records = [record for part in self._parts for record in part["held"]]
            self.replication.load(self._parts, records, now)
            self.cuts = {stream: count for part in self._parts for stream, count in part.get("cuts", {}).items()}
            self.loaded = message.view
            self._parts = [{}] * message.parts  # of this copy no part is taken any more
        return Ok()

    # --- leading a change -----------------------------------------------------------------------

    def _leads(self, now: float) -> bool:
        """Whether this node is the lowest member that is not suspected."""
        mine = self.local.me.replica
        timeout = self.local.config.ping_timeout
        return not any(
            m.replica < mine
            for m in self.local.others()
            if not self._is_gone(m.component, now) and now - self.heard.get(m.component, now) <= timeout
        )

    def _wanted(self, now: float) -> tuple[Member, ...] | None:
        """The members that the next view should have; None when there is nothing to change."""
        view = self.local.view
        if view is None:
            return self._first_members(now)
        if not self._leads(now):
            return None
        dead = self._dead(now)
        ready = [j.member for j in self._joiners.values() if j.loaded == view.name]
        stay = [m for m in view.members if m.component not in dead]
        if self.local.config.majority and 2 * len(stay) <= len(view.members):
            return None
        halts = [*self.halted.values(), *([self.changing_since] if self.changing_since is not None else [])]
        stuck = any(now - since > self.local.config.call_timeout for since in halts)
        if len(stay) == len(view.members) and not ready and not stuck and self._ballot is None:
            return None
        replaced = {m.replica for m in ready}
        return tuple(sorted([m for m in stay if m.replica not in replaced] + ready, key=lambda m: m.replica))

    def _first_members(self, now: float) -> tuple[Member, ...] | None:
        """The first view is complete when all that were named are there, or the deadline is over."""
        fresh = {r: m for r, (m, at) in self._waiting.items() if now - at < 1.0}
        wanted = {named.replica for named in self.named if str(named.address) != self.local.me.url}
        late = now - self.started >= self.local.config.start_deadline
        if self.loaded or not (late or (self.lives == 0 and wanted <= set(fresh))):
            return None
        members = sorted(
            [self.local.me, *(m for r, m in fresh.items() if r in wanted or late)], key=lambda m: m.replica
        )
        if members[0].component != self.local.component:
            return None
        if self.local.config.majority and 2 * len(members) <= len(wanted) + 1:
            return None
        return tuple(members)

    def _lead(self, now: float) -> None:
        wanted = self._wanted(now)
        if self.local.view is not None and not self._leads(now):
            self._dead(now)  # this node's word is asked for, and the leader may be the suspect
        ballot = self._ballot
        if wanted is None:
            if ballot is not None and self.local.view is None:
                self._ballot = None
            return
        outdated = ballot is None or ballot.members != wanted or self.promised != (ballot.number, self.local.component)
        if outdated or (ballot is not None and now - ballot.begun > 3 * self.local.config.call_timeout):
            known = self.local.view.number if self.local.view is not None else 0
            ballot = self._ballot = _Ballot(max(self.promised[0], known) + 1, wanted, now)
            self.promised = (ballot.number, self.local.component)
            self._stop(now)
            ballot.have[self.local.component] = self.replication.log.have
        assert ballot is not None
        self._push_on(ballot, now)

    def _stop(self, now: float) -> None:
        """The old view is no longer in force here."""
        self.local.serving = False
        self.changing_since = now

    def _push_on(self, ballot: _Ballot, now: float) -> None:
        """Send what the ballot needs next, to those who have not answered."""
        again = self.local.config.call_timeout / 4
        others = [m for m in ballot.members if m.component != self.local.component]
        if ballot.base is None:
            for member in others:
                peer = member.component
                if peer not in ballot.have and now - ballot.asked.get(peer, -FOREVER) >= again:
                    ballot.asked[peer] = now
                    message = Flush(**self.local.stamp(), number=ballot.number, members=ballot.members)
                    self.local.send(member, message)
            if len(ballot.have) < len(ballot.members):
                return
            ballot.base = {}
            for have in ballot.have.values():
                merge_into(ballot.base, have)
            ballot.asked.clear()
        self._level(ballot, others, again, now)

    def _level(self, ballot: _Ballot, others: list[Member], again: float, now: float) -> None:
        assert ballot.base is not None
        log = self.replication.log
        complete = covers(log.have, ballot.base)
        ballot.have[self.local.component] = log.have
        for member in others:
            peer = member.component
            if now - ballot.asked.get(peer, -FOREVER) < again:
                continue
            if not complete and not covers(log.have, ballot.have[peer]):
                ballot.asked[peer] = now
                self.local.send(member, Fetch(**self.local.stamp(), have=log.have))
            elif complete and not covers(ballot.have[peer], ballot.base):
                ballot.asked[peer] = now
                ranges = log.since(ballot.have[peer], ballot.base)
                self.local.send(member, Level(**self.local.stamp(), number=ballot.number, ranges=ranges))
        if complete and all(covers(have, ballot.base) for have in ballot.have.values()):
            view = View(ballot.number, self.local.component, ballot.members)
            stamp = self.local.stamp()
            self._ballot = None
            for member in others:
                self.local.send(member, Install(**stamp, installs=view, base=ballot.base))
            self._enter(view, ballot.base, now)

    def on_flushed(self, peer: str, message: Flush, have: Timestamp | None, now: float) -> None:
        """A member has stopped the old view; what it has."""
        ballot = self._ballot
        if ballot is None or ballot.number != message.number or ballot.base is not None:
            return
        if have is not None:
            ballot.have[peer] = have
            self._push_on(ballot, now)

    def on_levelled(self, peer: str, message: Level, have: Timestamp | None, now: float) -> None:
        """A member has taken a part of what it lacked."""
        ballot = self._ballot
        if ballot is not None and ballot.number == message.number and have is not None and ballot.base is not None:
            ballot.have[peer] = have
            ballot.asked.pop(peer, None)
            self._push_on(ballot, now)

    def on_fetched(self, peer: str, ranges: tuple[Range, ...], now: float) -> bool:
        """An answer to the leader's fetch in a change; False when it belongs to no change."""
        ballot = self._ballot
        if self.local.serving or ballot is None or ballot.base is None or peer not in ballot.have:
            return False
        self.replication.accept(ranges, now)
        ballot.asked.pop(peer, None)
        self._push_on(ballot, now)
        return True

    # --- following a change ---------------------------------------------------------------------

    def on_flush(self, message: Flush, now: float) -> Reply:
        """Promise to follow this ballot and no lower one; stop the old view; say what is here."""
        if not any(m.component == self.local.component for m in message.members):
            return self.other_view()
        if (message.number, message.sender) < self.promised:
            return Error(CHANGING, (), {"promised": self.promised[0]})
        if self.local.view is None and message.view != self.loaded:
            return Error(CHANGING, ("not loaded",))
        if (message.number, message.sender) != self.promised:
            self.promised = (message.number, message.sender)
            self._ballot = None
        self._stop(now)
        return Ok((), {"have": self.replication.log.have})

    def on_changing(self, peer: str, number: int, now: float) -> None:
        """A member is in a change of the view; where it follows a higher ballot, the next one here is higher still."""
        if self.local.member(peer) is not None:
            self.halted.setdefault(peer, now)
        if number > self.promised[0]:
            self.promised = (number, "")

    def on_level(self, message: Level, now: float) -> Reply:
        """Take what survivors have, without showing it."""
        if (message.number, message.sender) != self.promised:
            return Error(CHANGING, (), {"promised": self.promised[0]})
        self.changing_since = now
        self.replication.accept(message.ranges, now)
        return Ok((), {"have": self.replication.log.have})

    def on_install(self, view: View, base: Timestamp, now: float) -> Reply:
        """The new view begins here; or, when this node is not in it, it ends here."""
        mine = self.local.view
        if mine is not None and mine.name == view.name:
            return Ok()
        if mine is not None and mine.rank > view.rank:
            return self.other_view()
        if view.member(self.local.component) is None:
            if mine is not None:
                self.fence(view, now)
            return self.other_view()
        if self.replication.log.have != base:
            self.fence(view, now)
            return self.other_view()
        self._enter(view, base, now)
        return Ok()

    def _enter(self, view: View, base: Timestamp, now: float) -> None:
        old = self.local.view
        live = {m.component for m in view.members}
        for stream, count in base.items():
            if component_of(stream) not in live:
                self.cuts.pop(stream, None)
                self.cuts[stream] = count
        while len(self.cuts) > KEPT_CUTS:
            del self.cuts[next(iter(self.cuts))]
        removed = [m for m in old.members if m.component not in live] if old is not None else []
        for member in removed:
            self.departed[member.replica] = member
            self._remember(member)
        for member in view.members:
            self.departed.pop(member.replica, None)
            self._remember(member)
        self.local.enter(view)
        stayed = [m.component for m in old.members] if old is not None else []
        self.replication.settle(base, live, stayed, now)
        self.base = dict(base)
        self._entered_at = now
        self.gone = {component: since for component, since in self.gone.items() if component in live}
        self.heard = {m.component: now for m in view.members}
        for table in (
            self._lease,
            self._beat,
            self._beating,
            self._suspicions,
            self._joiners,
            self._waiting,
            self.halted,
        ):
            table.clear()
        self._ballot = None
        self.loaded = ""
        follows_another = self.promised > (view.number, view.leader)
        self.promised = max(self.promised, (view.number, view.leader))
        self.local.serving = not follows_another
        self.changing_since = now if follows_another else None
        text = ", ".join(m.id for m in view.members)
        without = f"; without {', '.join(m.id for m in removed)}" if removed else ""
        self.local.note(f"view {view.number}: {text}{without}")
        self.entered = True
        self.ask_all(now)

    # --- other views ----------------------------------------------------------------------------

    def other_view(self) -> Reply:
        """What a peer hears whose view is not this node's."""
        view = self.local.view
        return Error(OTHER_VIEW, (), {"view": view, "base": self.base} if view is not None else {})

    def on_other_view(self, peer: str, view: View | None, base: Timestamp, now: float) -> None:
        """A peer is in another view: follow it, help it, or find out that this node was removed."""
        mine = self.local.view
        if view is None or mine is None:
            if view is not None:
                self.on_joined(view.members)
                if view.member(self.local.component) is not None:
                    self.on_install(view, base, now)
            elif mine is not None and peer:
                self._install_at(peer)
            return
        if view.name == mine.name:
            return
        if view.rank > mine.rank:
            if view.member(self.local.component) is not None and self.replication.log.have == base:
                self._enter(view, base, now)
            else:
                self.fence(view, now)
        elif peer:
            self._install_at(peer)

    def _install_at(self, peer: str) -> None:
        member = self.local.member(peer)
        if member is not None and self.local.view is not None:
            message = Install(**self.local.stamp(), installs=self.local.view, base=self.base)
            self.local.send(member, message)

    def fence(self, view: View, now: float) -> None:
        """This node was removed while it lived, or taken in with a state that it no longer has (two sides of a
        partition gave it theirs): it forgets its state and asks to join as a new component."""
        have = self.replication.log.have if self.local.view is not None else {}
        lost = sum(n - self.base.get(s, 0) for s, n in have.items())
        self.discarded += lost
        self.lives += 1
        component = f"{component_of(self.local.component).split('~')[0]}~{self.lives}"
        what = "removed from the view" if self.local.view is not None else "not as it was when it was taken in"
        text = f"{what} by {view.leader} (view {view.number}); back as {component}"
        self.local.note(text + (f", discarding {lost} updates since view {self._number()}" if lost else ""))
        for member in (*view.members, *(self.local.view.members if self.local.view is not None else ())):
            self._remember(member)
        self.local.me = Member(component, self.local.me.replica, self.local.me.id, self.local.me.url)
        self.local.enter(None)
        self.local.serving = False
        self.local.exposed = 0
        self.changing_since = None
        self.promised = (0, "")
        self.base = {}
        self.loaded = ""
        self.started = now
        self._ballot = None
        self._parts = []
        self._probed = -FOREVER
        for table in (
            self._lease,
            self._beat,
            self._beating,
            self._suspicions,
            self._waiting,
            self.halted,
        ):
            table.clear()
        self._joiners.clear()
        self.gone.clear()
        self.fenced = text

    def _number(self) -> int:
        return self.local.view.number if self.local.view is not None else 0
