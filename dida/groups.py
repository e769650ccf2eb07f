"""Partial replication: the pool of storage nodes in groups, each key on one of them.

The named nodes, in the order of their replica numbers, are split into groups of R; what is left over joins
the last group, so that no record has fewer than R copies. A node that was not named belongs to the group
that its number falls into. Which group holds a key is decided by a ring over the groups, and within the
group by the ring over its members. Everybody who knows the named nodes and R knows the groups.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from dida.ring import Ring


class Groups:
    """Replica numbers in groups of `factor`; one group of all when it is None."""

    def __init__(self, named: Iterable[int], factor: int | None) -> None:
        self._named = sorted(set(named))
        self.factor = factor
        self._count = max(1, len(self._named) // factor) if factor else 1
        self._ring = Ring(map(str, range(self._count)))

    @classmethod
    def told(cls, groups: Sequence[Sequence[int]]) -> Groups:
        """The groups as a storage node tells them."""
        named = [replica for group in groups for replica in group]
        return cls(named, len(groups[0]) if len(groups) > 1 else None)

    def __len__(self) -> int:
        return self._count

    def of_replica(self, replica: int) -> int:
        """The group that a replica belongs to, from 0."""
        if not self.factor:
            return 0
        return min(bisect_left(self._named, replica) // self.factor, self._count - 1)

    def of_key(self, key: str) -> int:
        """The group that holds a key."""
        return int(self._ring.owner(key)) if self._count > 1 else 0

    def replicas(self, group: int) -> list[int]:
        """The named replicas of a group."""
        return [replica for replica in self._named if self.of_replica(replica) == group]
