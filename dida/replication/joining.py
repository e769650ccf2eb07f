"""Joining a view: a node without one asks to be taken in, and the leader gives it a snapshot before it counts.

The snapshot is one atomic copy, sent in parts; parts of different snapshots are never mixed. From then on the leader
keeps new updates for the joiner as for a member, and the view that takes it in brings all members to one state.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attrs import Factory, define

from dida.addresses import Address, StorageAddress
from dida.errors import BAD_REQUEST, UserError
from dida.replication.context import ReplicaContext
from dida.replication.detection import FOREVER, Detection
from dida.replication.gossip import ReplicaState
from dida.replication.messages import Heartbeat, Join, Load, Member, Record
from dida.replication.outputs import Send
from dida.replication.snapshot import Snapshot, parts_of
from dida.wire.messages import Epoch, Error, Ok, Reply

JOIN_AGAIN = 0.1
PROBE_AGAIN = 1.0
MAX_PROMISES = 500
"""The most promises that are kept for a node that joins, until it is given another snapshot."""


@define(eq=False)
class Joiner:
    """A node that wants to be a member. `loaded` is the view whose state it has."""

    member: Member
    heard: float
    loaded: str
    parts: Iterator[dict[str, Any]] | None = None
    """The parts of its snapshot after `part`."""
    copy: int = 0
    """The number of its snapshot: parts of two must not be mixed."""
    part: dict[str, Any] = Factory(dict)
    """The part that it is given now, which has this `number`."""
    number: int = 0
    following: dict[str, Any] | None = None
    """The part after that; None: it is the last one."""
    asked: float = -FOREVER
    promises: dict[str, Epoch] = Factory(dict)
    """The epochs to which runs were fenced since the snapshot was taken."""


@define
class Joining:
    """One replica's share in joining: as a node that joins, and as the leader that takes others in."""

    context: ReplicaContext
    state: ReplicaState
    detection: Detection
    named: tuple[StorageAddress, ...]
    loaded: str = ""
    """The view whose state this node was given, while it is in none."""
    _given: tuple[str, int] = ("", 0)
    """The node that gave it, and the number of its snapshot: the updates that the leader keeps belong to that one."""
    waiting: dict[int, tuple[Member, float]] = Factory(dict)
    """Without a view: other nodes without one, and when they were heard last."""
    joiners: dict[int, Joiner] = Factory(dict)
    _urls: dict[str, None] = Factory(dict)
    _probed: float = -FOREVER
    asked_at: float = -FOREVER
    """In a view: when a node asked last to be taken in, perhaps before the view began."""
    view_met: float = -FOREVER
    """When this node heard last of a node that is in a view."""
    _told: str = ""
    """The view in force there."""
    _copies: int = 0
    _copy: Snapshot | None = None
    """The snapshot that is coming in."""
    _parts: int = 0
    """How many parts of it have come."""
    _transfer: tuple[str, str, int] = ("", "", 0)
    """Of that snapshot: the view of the leader that gives it, the leader, and its number."""

    # --- finding others -------------------------------------------------------------------------

    def _addresses(self) -> list[str]:
        """Return the URLs of storage nodes: of named ones, and of those met since."""
        known = [str(named.address) for named in self.named] + list(self._urls)
        return [url for url in dict.fromkeys(known) if url != self.context.me.url]

    @property
    def knows_others(self) -> bool:
        """True if there is, or was, any other storage node."""
        return bool(self._addresses())

    def seek(self, now: float) -> None:
        """Without a view: ask all known nodes to be taken in."""
        if now - self._probed >= JOIN_AGAIN:
            self._probed = now
            stamp, heard = self.context.stamp(), tuple(m for m, _ in self.waiting.values())
            for url in self._addresses():
                me, loaded, (giver, copy) = self.context.me, self.loaded, self._given
                message = Join(**stamp, member=me, heard=heard, loaded=loaded, giver=giver, copy=copy, told=self._told)
                self.context.out.append(Send(url, "", message, self.context.config.call_timeout))

    def probe(self, now: float) -> None:
        """In a view: find out whether nodes outside it have another."""
        if now - self._probed >= PROBE_AGAIN:
            self._probed = now
            inside = {m.url for m in self.context.view.members} if self.context.view is not None else set()
            for url in self._addresses():
                if url not in inside:
                    message = Heartbeat(**self.context.stamp())
                    self.context.out.append(Send(url, "", message, self.context.config.call_timeout))

    def remember(self, member: Member) -> None:
        self._urls[member.url] = None
        if len(self._urls) > 1000:
            del self._urls[next(iter(self._urls))]

    def probe_at_once(self) -> None:
        """Probe with the next tick: something is strange."""
        self._probed = -FOREVER

    def drop(self, url: str) -> None:
        """Forget nodes at `url`, where nobody listens."""
        self.waiting = {r: (m, at) for r, (m, at) in self.waiting.items() if m.url != url}
        self.joiners = {r: j for r, j in self.joiners.items() if j.member.url != url}

    # --- the leader's side ----------------------------------------------------------------------

    def on_join(self, message: Join, now: float) -> Reply:
        """Let a node without a view become a member; without a view here, note that it is present."""
        member = message.member
        view = self.context.view
        for other in (member, *message.heard):
            try:
                Address.parse(other.url)
            except UserError as problem:
                return Error(BAD_REQUEST, (str(problem),))
        if view is None:
            if member.replica == self.context.me.replica and member.url != self.context.me.url:
                return self._same_number(member, self.context.me, "")
            for other in (member, *message.heard):
                self.remember(other)
            self.waiting[member.replica] = (member, now)
            return Ok((), {"heard": [m for m, _ in self.waiting.values()]})
        if view.member(member.component) is not None:
            return self.context.other_view()
        old = next((m for m in view.members if m.replica == member.replica), None)
        if old is not None and old.url != member.url:
            return self._same_number(member, old, view.name)
        same = next((m for m in view.members if m.id == member.id and m.replica != member.replica), None)
        if same is not None:
            self.context.note(f"{member.url} wants the id {member.id}, which replica {same.replica} at {same.url} has")
            text = f"{same.id} is already replica {same.replica} at {same.url}: give this node another id"
            return Error(BAD_REQUEST, (text,), {"view": view.name})
        # a Join may be read late, when a later incarnation is the member: one that has heard of this view is later
        if old is not None and message.told == view.name and not self.detection.bury(old.component, now):
            self.probe_at_once()
        self.remember(member)
        joiner = self.joiners.get(member.replica)
        if joiner is None or joiner.member.component != member.component:
            joiner = self.joiners[member.replica] = Joiner(member, now, "")
        joiner.heard = self.asked_at = now
        # only the node that gave the snapshot has kept the updates since: another leader gives a new one
        this_copy = (message.giver, message.copy) == (self.context.incarnation, joiner.copy)
        joiner.loaded = message.loaded if this_copy and member.component in self.state.table else ""
        return Ok((), {"heard": list(view.members), "view": view.name})

    def _same_number(self, member: Member, old: Member, view: str) -> Reply:
        self.context.note_once(f"{member.id} at {member.url} wants replica number {old.replica}, which {old.id} has")
        text = f"replica {old.replica} is already {old.id} at {old.url}: give this node another number"
        return Error(BAD_REQUEST, (text,), {"view": view})

    def on_joined(self, heard: tuple[Member, ...], view: str, now: float) -> None:
        """Process the reply to a Join: other nodes to ask, and the view that they are in, if any."""
        if view:
            self.view_met = now
            self._told = view
        for member in heard:
            self.remember(member)

    def load_joiners(self, now: float) -> None:
        """As the leader, give joiners their snapshots, part by part."""
        timeout = self.context.config.ping_timeout
        self.joiners = {r: j for r, j in self.joiners.items() if now - j.heard < timeout}
        joining = {j.member.component for j in self.joiners.values()}
        members = {m.component for m in self.context.others()}
        for incarnation in [c for c in self.state.table if c not in members and c not in joining]:
            del self.state.table[incarnation]
        if not self.detection.leads(now):
            return
        for joiner in self.joiners.values():
            if joiner.loaded != self.context.view_name and now - joiner.asked >= self.context.config.call_timeout:
                if joiner.parts is None:
                    self._copies += 1
                    joiner.copy = self._copies
                    joiner.parts = parts_of(self.state, now)
                    joiner.promises.clear()
                    self.state.table[joiner.member.component] = dict(self.state.log.have)
                    joiner.part, joiner.following = next(joiner.parts), next(joiner.parts, None)
                    joiner.number = 0
                self._send_part(joiner, now)

    def note_promise(self, run: str, epoch: Epoch) -> None:
        """Keep a promise for the nodes that join, whose snapshots may lack it."""
        for joiner in self.joiners.values():
            if joiner.copy == 0:
                continue
            joiner.promises[run] = epoch
            if len(joiner.promises) > MAX_PROMISES:
                joiner.parts, joiner.loaded, joiner.copy = None, "", 0  # it begins again with another snapshot
                joiner.promises.clear()

    def promises(self) -> dict[str, dict[str, Epoch]]:
        """Return what `note_promise` has kept, by the incarnation that joins."""
        return {joiner.member.component: joiner.promises for joiner in self.joiners.values()}

    def _send_part(self, joiner: Joiner, now: float) -> None:
        joiner.asked = now
        last = joiner.following is None
        stamp, state = self.context.stamp(), joiner.part
        self.context.send(joiner.member, Load(**stamp, copy=joiner.copy, part=joiner.number, last=last, state=state))

    def on_loaded(self, peer: str, message: Load, arrived: bool, now: float) -> None:
        """Process the reply to a part of a snapshot."""
        joiner = next((j for j in self.joiners.values() if j.member.component == peer), None)
        if joiner is None or joiner.parts is None or (message.copy, message.part) != (joiner.copy, joiner.number):
            return
        if not arrived or message.view != self.context.view_name:
            joiner.parts = None  # it begins again
            return
        joiner.heard = now
        if joiner.following is None:
            joiner.loaded = self.context.view_name
            joiner.parts = None
        else:
            joiner.part, joiner.following = joiner.following, next(joiner.parts, None)
            joiner.number += 1
            self._send_part(joiner, now)

    # --- the joiner's side ----------------------------------------------------------------------

    def on_load(self, message: Load, held: tuple[Record, ...], now: float) -> Reply:
        """Take a part of a snapshot; with the last one it replaces the state, at once."""
        if self.context.view is not None:
            return self.context.other_view()
        self.view_met = now
        transfer = (message.view, message.sender, message.copy)
        if message.part == 0 and (transfer[:2] != self._transfer[:2] or transfer > self._transfer):
            self._copy, self._parts = Snapshot.for_state(self.state), 0
            self._transfer = transfer
        if self._copy is None or message.part != self._parts or transfer != self._transfer:
            return Error(BAD_REQUEST, (f"unexpected part {message.part}: {self._parts} is next",))
        self._copy.take(message.state, held, now)
        self._parts += 1
        if message.last:
            self._copy.install(self.state, now)
            self.loaded, self._given = message.view, (message.sender, message.copy)
            self._copy = None  # further parts are refused
        return Ok()

    def enter(self) -> None:
        """A view begins: forget who joins."""
        self.joiners.clear()
        self.waiting.clear()
        self.loaded = ""
        self._copy = None

    def forget(self) -> None:
        """Begin again as a new incarnation, in no view."""
        self.enter()
        self._probed = -FOREVER
