"""A change of the view, as its leader sees it: FLUSH and LEVEL, until the new view can be installed.

FLUSH stops the old view at all that go on, and at those that leave in order; each answers with what it has, and with
what it has prepared. The union of what they have is the base of the new view; what all of them have prepared is
committed as it begins, and all else that is prepared is dropped. LEVEL gives each member what it lacks of that; the
leader fetches what it lacks itself. The streams of dead incarnations are cut there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import Factory, define, evolve

from dida.replication.batches import batches
from dida.replication.context import ReplicaContext
from dida.replication.detection import FOREVER
from dida.replication.gossip import ReplicaState
from dida.replication.log import bytes_of
from dida.replication.messages import Fetch, Flush, Found, Level, Member
from dida.timestamps import Timestamp, covers, merge_into
from dida.wire.messages import Epoch


@define(eq=False)
class ViewChange:
    """One ballot: a change of the view that this node leads."""

    context: ReplicaContext
    state: ReplicaState
    number: int
    members: tuple[Member, ...]
    """Of the new view; this node is one of them."""
    leaving: tuple[Member, ...]
    """Members of the old view that leave in order: what they have is in the new one."""
    begun: float
    promises: Mapping[str, Mapping[str, Epoch]] = Factory(dict)
    """Of nodes that join, by incarnation: the epochs to which runs were fenced since their snapshots."""
    have: dict[str, Timestamp] = Factory(dict)
    """Incarnation to what it has, once it has stopped the old view."""
    prepared: dict[str, set[Found]] = Factory(dict)
    """Incarnation to what it has prepared."""
    base: Timestamp | None = None
    """What all members of the new view will have logged; None until all have answered the FLUSH."""
    found: tuple[Found, ...] = ()
    """What they will commit as prepared, beyond that."""
    asked: dict[str, float] = Factory(dict)
    """Incarnation to when it was sent a message of the present phase last."""
    answered: set[str] = Factory(set)
    """Of those that may be in a view without this node, which leaves: who has promised to enter none, or cannot."""
    lost: bool = False
    """True if it can never be completed: one of its members has gone to another view."""

    def __attrs_post_init__(self) -> None:
        self._look_here()

    def _look_here(self) -> None:
        me = self.context.incarnation
        self.have[me] = self.state.log.have
        self.prepared[me] = {each.name for each in self.state.prepared.values()}

    @property
    def others(self) -> list[Member]:
        """The members of the new view without this node."""
        return [m for m in self.members if m.component != self.context.incarnation]

    def advance(self, now: float, heirs: Sequence[Member] = ()) -> bool:
        """Send what is needed next to those that have not answered; return True when all members have the base.

        `heirs` may be in a view without this node, which leaves: they must promise to follow this change.
        """
        if self.lost:
            return False
        again = self.context.config.call_timeout / 4
        others = self.others
        if self.base is None:
            self._flush(others, again, now)
            heirs = [m for m in heirs if m.component not in self.answered]
            self._ask(heirs, again, now)
            if heirs or len(self.have) < len(self.members) + len(self.leaving):
                return False
            self.base = {}
            for have in self.have.values():
                merge_into(self.base, have)
            # a node that joins has nothing prepared: it was asked for nothing
            old = [prepared for peer, prepared in self.prepared.items() if self._is_member(peer)]
            self.found = tuple(sorted(set.intersection(*old))) if old else ()
            self.asked.clear()
        return self._level(others, again, now)

    def _is_member(self, peer: str) -> bool:
        """Return True if it is in the view that is changed."""
        return self.context.member(peer) is not None

    def _flush(self, others: list[Member], again: float, now: float) -> None:
        for member in (*others, *self.leaving):
            peer = member.component
            if peer not in self.have and now - self.asked.get(peer, -FOREVER) >= again:
                self.asked[peer] = now
                stamp = self.context.stamp()
                message = Flush(**stamp, number=self.number, members=self.members, leaving=self.leaving)
                if peer in self.promises:
                    message = evolve(message, promises=dict(self.promises[peer]))
                self.context.send(member, message)

    def _ask(self, heirs: Sequence[Member], again: float, now: float) -> None:
        for member in heirs:
            if now - self.asked.get(member.component, -FOREVER) >= again:
                self.asked[member.component] = now
                stamp, leaving = self.context.stamp(), (*self.leaving, member)
                self.context.send(member, Flush(**stamp, number=self.number, members=self.members, leaving=leaving))

    def _level(self, others: list[Member], again: float, now: float) -> bool:
        assert self.base is not None
        log = self.state.log
        complete = covers(log.have, self.base)
        self._look_here()
        for member in (*others, *self.leaving):
            peer = member.component
            if now - self.asked.get(peer, -FOREVER) < again:
                continue
            if not complete and not covers(log.have, self.have[peer]):
                self.asked[peer] = now
                self.context.send(member, Fetch(**self.context.stamp(), have=log.have))
            elif complete and member not in self.leaving and not self._has_all(peer):
                self.asked[peer] = now
                ranges = log.since(self.have[peer], self.base)
                names = self._lacks(peer)
                lacks = (each for each in self.state.prepared.values() if each.name in names)
                prepared = tuple(next(batches(lacks, lambda each: 100 + bytes_of(each.record)), ()))
                stamp = self.context.stamp()
                self.context.send(member, Level(**stamp, number=self.number, ranges=ranges, prepared=prepared))
        return complete and all(self._has_all(m.component) for m in self.members)

    def _lacks(self, peer: str) -> set[Found]:
        return set(self.found) - self.prepared[peer]

    def _has_all(self, peer: str) -> bool:
        assert self.base is not None
        return covers(self.have[peer], self.base) and not self._lacks(peer)
