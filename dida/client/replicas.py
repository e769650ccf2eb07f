"""The storage nodes as a client knows them: which are alive or dead, which group has which keys, and the order of
asking.

The reply of a storage node to `watch` is authoritative. The meta record of a run is a hint: until a storage node has
sent a view, the newest hint counts; after that it only tells which nodes to ask last, and which to watch when no
other node replies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dida.addresses import StorageAddress
from dida.placement import Ring, Shards

MAX_DEAD = 1000
"""The most dead nodes that are remembered."""
SUSPICION = 5.0
"""Time for which a replica that did not reply in time is asked last, in seconds."""


class ReplicaDirectory:
    """The living storage nodes by replica number (suspected ones included), and the dead ones."""

    def __init__(self, members: Iterable[StorageAddress] = ()) -> None:
        self.groups = Shards((), None)
        self.views: dict[int, str] = {}
        """Group to the name of its newest view."""
        self._numbers: dict[int, int] = {}
        self._hearsay_number = 0
        self.dead: dict[str, None] = {}
        self._members: dict[int, StorageAddress] = {}
        self._suspected: dict[int, float] = {}
        self.hearsay: tuple[StorageAddress, ...] = ()
        """The living nodes by the newest hint."""
        self._unsure: set[StorageAddress] = set()
        """Members that are known by a hint only; empty once a view is known."""
        self._ring = Ring(())
        for member in members:
            self._put(member)
        self._place()

    @property
    def living(self) -> tuple[StorageAddress, ...]:
        """The living nodes, in the order of their numbers."""
        return tuple(self._members[number] for number in sorted(self._members))

    def __contains__(self, member: StorageAddress) -> bool:
        return self._members.get(member.replica) == member

    def __len__(self) -> int:
        return len(self._members)

    @property
    def unknown(self) -> bool:
        """True if no storage node was ever named."""
        return not (self._members or self.dead or self.hearsay or self.views)

    def add(self, member: StorageAddress) -> None:
        """Add a storage node, or change its address."""
        if member not in self:
            self._put(member)
            self._place()

    @property
    def number(self) -> int:
        """The sum of the view numbers of all groups: it grows with each view."""
        return max(self._hearsay_number, sum(self._numbers.values()))

    def on_view(
        self,
        view: str,
        number: int,
        members: Sequence[StorageAddress],
        dead: Iterable[str],
        groups: Sequence[Sequence[int]] = (),
        elsewhere: Iterable[StorageAddress] = (),
    ) -> None:
        """Take over a view: `members` are alive, `dead` are dead; of the nodes `elsewhere` only the addresses are
        known."""
        self.groups = Shards.told(groups)
        group = self.groups.of_replica(members[0].replica) if members else 0
        here = {member.id for member in members}
        if view and not any(self.views.values()):
            for member in self._unsure.difference(members):
                if member in self:
                    del self._members[member.replica]
            self._unsure.clear()
            self.dead.clear()
            self._hearsay_number = 0
        self.views[group] = view
        self._numbers[group] = number
        for id in dead:
            if id not in here:
                self._bury(id)
        for member in members:
            self._put(member)
        for member in elsewhere:
            if member.replica not in self._members and member.id not in self.dead:
                self._put(member)
        self._place()

    def on_hearsay(self, number: int, members: Sequence[StorageAddress], now: float) -> None:
        """Take note of a run's meta record: all living nodes in the view of that number (0: no view was known)."""
        self.hearsay = tuple(members)
        if any(self.views.values()):
            for member in self.living if number > self.number else ():
                if member not in members:
                    self.suspect(member, now + SUSPICION)
            return
        if number < self.number:
            return
        if number > self.number:
            self._hearsay_number = number
            here = {member.id for member in members}
            for old in self.living:
                if old.id not in here:
                    self._bury(old.id)
            self.dead = {id: None for id in self.dead if id not in here}
        for member in members:
            if member.id not in self.dead and member not in self:
                self._put(member)
                self._unsure.add(member)
        self._place()

    def suspect(self, member: StorageAddress, until: float) -> None:
        """Ask this node last until then, or until it replies."""
        self._suspected[member.replica] = max(until, self._suspected.get(member.replica, 0.0))

    def trust(self, member: StorageAddress) -> None:
        """Suspect this node no longer: it has replied."""
        self._suspected.pop(member.replica, None)

    def order(self, key: str, now: float) -> list[StorageAddress]:
        """Return the nodes in the order in which to ask for `key`: its owner first, suspected nodes last."""
        order = [self._members[int(name)] for name in self._ring.order(key)]
        if len(self.groups) > 1:
            holder = self.groups.of_key(key)
            order.sort(key=lambda member: self.groups.of_replica(member.replica) != holder)
        if self._suspected:
            order.sort(key=lambda member: self._suspected.get(member.replica, 0.0) > now)
        return order

    def apart(self) -> list[ReplicaDirectory]:
        """Return one directory for each group, with its living nodes."""
        if len(self.groups) == 1:
            return [self]
        return [
            ReplicaDirectory(member for member in self.living if self.groups.of_replica(member.replica) == group)
            for group in range(len(self.groups))
        ]

    def named(self, names: Iterable[object]) -> Iterator[StorageAddress]:
        """Return the living nodes with these numbers or ids."""
        for name in names:
            for member in self._members.values():
                if name in (member.replica, str(member.replica), member.id):
                    yield member

    def _put(self, member: StorageAddress) -> None:
        self.dead.pop(member.id, None)
        if self._members.get(member.replica) == member:
            return
        for old in list(self._members.values()):
            if old.id == member.id or old.address == member.address:
                del self._members[old.replica]
        self._members[member.replica] = member
        self._suspected.pop(member.replica, None)

    def _bury(self, id: str) -> None:
        self.dead[id] = None
        if len(self.dead) > MAX_DEAD:
            del self.dead[next(iter(self.dead))]
        for old in list(self._members.values()):
            if old.id == id:
                del self._members[old.replica]
                self._suspected.pop(old.replica, None)

    def _place(self) -> None:
        names = tuple(sorted(map(str, self._members)))
        if names != self._ring.names:
            self._ring = Ring(names)
