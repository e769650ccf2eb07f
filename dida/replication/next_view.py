"""Which members the next view should have, by what one replica knows; how a view is changed is membership's business.

The first view waits for all named nodes, until the start deadline. A later one has the members that are alive and do
not leave, and the nodes that have joined. With `majority`, more than half of each of the current lists
(`View.lists`) must be among them.
"""

from __future__ import annotations

from attrs import define

from dida.addresses import StorageAddress
from dida.replication.context import ReplicaContext
from dida.replication.detection import Detection
from dida.replication.joining import Joining
from dida.replication.leaving import Leaving
from dida.replication.messages import Member, more_than_half

FRESH = 1.0
"""Seconds for which a node that asked to join counts as present before the first view."""


@define
class NextView:
    """One replica's choice of the next view's members."""

    context: ReplicaContext
    named: tuple[StorageAddress, ...]
    detection: Detection
    joining: Joining
    leaving: Leaving

    def members(self, needed: bool, now: float) -> tuple[Member, ...] | None:
        """Return the members of the view after the one in force.

        None if this node does not lead, cannot change the view, or would change nothing; with `needed` the view is
        changed even if its members stay the same.
        """
        view = self.context.view
        assert view is not None
        if not self.detection.leads(now):
            return None
        dead = self.detection.dead(now)
        ready = [j.member for j in self.joining.joiners.values() if j.loaded == view.name]
        living = tuple(m for m in view.members if m.component not in dead)
        stay = self._who_stay(living)
        if not self.may_change(stay):
            return None
        goes = len(stay) < len(living) and self.leaving.due(living, now)
        if len(living) == len(view.members) and not (ready or needed or goes):
            return None
        replaced = {m.replica for m in ready}
        return tuple(sorted([m for m in stay if m.replica not in replaced] + ready, key=lambda m: m.replica))

    def leavers(self, wanted: tuple[Member, ...], now: float) -> tuple[Member, ...]:
        """Return the living members that leave with the change to `wanted`."""
        if not self.context.stops:
            return ()
        dead = self.detection.dead(now)
        gone = (m for m in self.context.others() if m not in wanted and m.component not in dead)
        return tuple(m for m in gone if not self.leaving.stays(m))

    def _who_stay(self, living: tuple[Member, ...]) -> tuple[Member, ...]:
        """Return those of the living members that do not leave.

        Where they cannot make the next view, as few of the leaving ones as are needed stay, too: they go when others
        have come, or with the change after it.
        """
        if not self.context.stops or self.context.leaves:
            return living
        leavers = [m for m in living if not self.leaving.stays(m)]
        for go in range(len(leavers), 0, -1):
            stay = tuple(m for m in living if m not in leavers[:go])
            if self.may_change(stay):
                return stay
        return living

    def may_change(self, stay: tuple[Member, ...]) -> bool:
        """Return True if these members can make the next view."""
        if not self.context.config.majority:
            return bool(stay)
        return more_than_half(stay, self.lists())

    def first_members(self, started: float, fenced: bool, now: float) -> tuple[Member, ...] | None:
        """Return the members of the first view; None as long as others are in a view, or this node does not begin it.

        It has all named nodes, or those that are there `start_deadline` after `started`. A node that was `fenced`
        waits for the deadline.
        """
        if now - self.joining.view_met < 2 * self.context.config.ping_timeout:
            return None
        fresh = {r: m for r, (m, at) in self.joining.waiting.items() if now - at < FRESH}
        wanted = self._others_named
        late = now - max(started, self.joining.view_met) >= self.context.config.start_deadline
        if not (late or (not fenced and wanted <= set(fresh) and not self.joining.loaded)):
            return None
        if self.joining.loaded:
            fresh.clear()  # the node that gave it the state is gone; the others get the state when they join
        there = [self.context.me, *(m for r, m in fresh.items() if r in wanted or late)]
        members = sorted(there, key=lambda m: m.replica)
        if members[0].component != self.context.incarnation:
            return None
        if self.context.config.majority and not more_than_half(members, self.lists()):
            return None
        return tuple(members)

    @property
    def _others_named(self) -> set[int]:
        return {named.replica for named in self.named if str(named.address) != self.context.me.url}

    def lists(self) -> tuple[tuple[str, ...], ...]:
        """Return the lists of which, with `majority`, more than half must be among the members of the next view."""
        if not self.context.config.majority:
            return ()
        if self.context.view is None:
            return (tuple(map(str, sorted({self.context.me.replica, *self._others_named}))),)
        return self.context.view.lists(self.context.complete)
