"""The storage nodes as a client of the storage knows them: who lives, who is dead, which group holds what, and
whom to ask first.

What a storage node itself says (`watch`) counts. What the meta record of a run says is hearsay: until a storage node
has told a view, the newest counts; after that it tells whom to ask last, and whom to watch when nobody else answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dida.addresses import StorageAddress
from dida.placement import Ring, Shards

MAX_DEAD = 1000
"""Dead nodes that are remembered."""
SUSPICION = 5.0
"""Seconds for which a replica that did not answer in time is asked last."""


class ReplicaDirectory:
    """The living storage nodes by replica number, those that are suspected among them, and the dead."""

    def __init__(self, members: Iterable[StorageAddress] = ()) -> None:
        self.groups = Shards((), None)
        self.views: dict[int, str] = {}
        """Group to the name of its newest view."""
        self._numbers: dict[int, int] = {}
        self._told = 0
        self.dead: dict[str, None] = {}
        self._members: dict[int, StorageAddress] = {}
        self._suspected: dict[int, float] = {}
        self.heard: tuple[StorageAddress, ...] = ()
        """Who lives by the newest hearsay."""
        self._unsure: set[StorageAddress] = set()
        """The members that are there by hearsay; none once a view is known."""
        self._ring = Ring(())
        for member in members:
            self._put(member)
        self._place()

    @property
    def living(self) -> tuple[StorageAddress, ...]:
        """In the order of their numbers."""
        return tuple(self._members[number] for number in sorted(self._members))

    def __contains__(self, member: StorageAddress) -> bool:
        return self._members.get(member.replica) == member

    def __len__(self) -> int:
        return len(self._members)

    @property
    def unknown(self) -> bool:
        """Whether nobody has ever told of a storage node."""
        return not (self._members or self.dead or self.heard or self.views)

    def add(self, member: StorageAddress) -> None:
        """Somebody says that there is such a node, (again) or at another address."""
        if member not in self:
            self._put(member)
            self._place()

    @property
    def number(self) -> int:
        """The sum of the numbers of all groups' views: it grows with each of them."""
        return max(self._told, sum(self._numbers.values()))

    def on_view(
        self,
        view: str,
        number: int,
        members: Sequence[StorageAddress],
        dead: Iterable[str],
        groups: Sequence[Sequence[int]] = (),
        elsewhere: Iterable[StorageAddress] = (),
    ) -> None:
        """What a storage node says: members live, dead ones are dead, of others it knows nothing more than that they
        are there."""
        self.groups = Shards.told(groups)
        group = self.groups.of_replica(members[0].replica) if members else 0
        here = {member.id for member in members}
        if view and not any(self.views.values()):
            for told in self._unsure.difference(members):
                if told in self:
                    del self._members[told.replica]
            self._unsure.clear()
            self.dead.clear()
            self._told = 0
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
        """What a run's meta record says: all of the living, in the view of that number (0: in none)."""
        self.heard = tuple(members)
        if any(self.views.values()):
            for member in self.living if number > self.number else ():
                if member not in members:
                    self.suspect(member, now + SUSPICION)
            return
        if number < self.number:
            return
        if number > self.number:
            self._told = number
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
        """Ask it last, until then or until it is heard of."""
        self._suspected[member.replica] = max(until, self._suspected.get(member.replica, 0.0))

    def trust(self, member: StorageAddress) -> None:
        """It was heard of."""
        self._suspected.pop(member.replica, None)

    def order(self, key: str, now: float) -> list[StorageAddress]:
        """Whom to ask for `key`: its owner, then who takes over; suspected ones last."""
        order = [self._members[int(name)] for name in self._ring.order(key)]
        if len(self.groups) > 1:
            holder = self.groups.of_key(key)
            order.sort(key=lambda member: self.groups.of_replica(member.replica) != holder)
        if self._suspected:
            order.sort(key=lambda member: self._suspected.get(member.replica, 0.0) > now)
        return order

    def apart(self) -> list[ReplicaDirectory]:
        """Each group's living by themselves."""
        if len(self.groups) == 1:
            return [self]
        return [
            ReplicaDirectory(member for member in self.living if self.groups.of_replica(member.replica) == group)
            for group in range(len(self.groups))
        ]

    def named(self, names: Iterable[object]) -> Iterator[StorageAddress]:
        """Those of the living that are meant by numbers or ids."""
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
