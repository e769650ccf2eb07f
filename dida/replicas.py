"""The storage nodes as a client of the storage knows them: who lives, who is dead, whom to ask first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dida.addresses import StorageAddress
from dida.ring import Ring

MAX_DEAD = 1000
"""Dead nodes that are remembered."""


class Replicas:
    """The living storage nodes by replica number, those that are suspected among them, and the dead."""

    def __init__(self, members: Iterable[StorageAddress] = ()) -> None:
        self.view: str | None = None
        self.number = 0
        self.dead: dict[str, None] = {}
        self._members: dict[int, StorageAddress] = {}
        self._suspected: dict[int, float] = {}
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

    def add(self, member: StorageAddress) -> None:
        """Somebody says that there is such a node, (again) or at another address."""
        if member not in self:
            self._put(member)
            self._place()

    def on_view(self, view: str | None, number: int, members: Sequence[StorageAddress], dead: Iterable[str]) -> None:
        """What a storage node says: members live, dead ones are dead, of others it knows nothing."""
        self.view = view
        self.number = number
        here = {member.id for member in members}
        for id in dead:
            if id not in here:
                self._bury(id)
        for member in members:
            self._put(member)
        self._place()

    def on_hearsay(self, number: int, members: Sequence[StorageAddress]) -> None:
        """What a run's meta record says: all of the living, in the view of that number (0: in none)."""
        if number < self.number:
            return
        if number > self.number:
            self.number = number
            here = {member.id for member in members}
            for old in self.living:
                if old.id not in here:
                    self._bury(old.id)
            self.dead = {id: None for id in self.dead if id not in here}
        for member in members:
            if member.id not in self.dead:
                self._put(member)
        self._place()

    def suspect(self, member: StorageAddress, until: float) -> None:
        """Ask it last, until then or until it is heard of."""
        self._suspected[member.replica] = until

    def trust(self, member: StorageAddress) -> None:
        """It was heard of."""
        self._suspected.pop(member.replica, None)

    def order(self, key: str, now: float) -> list[StorageAddress]:
        """Whom to ask for `key`: its owner, then who takes over; suspected ones last."""
        order = [self._members[int(name)] for name in self._ring.order(key)]
        if self._suspected:
            order.sort(key=lambda member: self._suspected.get(member.replica, 0.0) > now)
        return order

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
