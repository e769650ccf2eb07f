"""The storage nodes that hold a key: consistent hashing, and groups of nodes for partial replication.

A ring: each name owns many points of a circle of 2^64 positions (virtual nodes, so that load spreads). A key belongs to
the first point at or after its own position. When a name goes, only its keys move. Source: Karger et al., "Consistent
Hashing and Random Trees" (1997); hash: MurmurHash3 x64, 128 bit.

Shards: the named nodes, in the order of their replica numbers, are split into groups of R; the rest joins the last
group, so that no record has fewer than R copies. A node that was not named belongs to the group that its number falls
into. A ring over the groups decides which group holds a key, and the ring over its members decides the order within the
group. Every node that knows the named nodes and R computes the same groups.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import mmh3

POINTS = 1024
"""Points per name: enough for the shares of 4 names to differ by a few per cent only."""


def _position(text: str) -> int:
    return mmh3.hash64(text.encode("utf-8", "surrogatepass"), signed=False)[0]


@lru_cache(maxsize=128)
def _placed(names: tuple[str, ...], points: int) -> tuple[list[int], list[str]]:
    """The circle: sorted positions and their owners. Cached: views come again, and hashing takes milliseconds."""
    placed = sorted((_position(f"{name}/{point}"), name) for name in names for point in range(points))
    return [position for position, _ in placed], [name for _, name in placed]


class Ring:
    """Names (of nodes, or of groups of nodes) on the circle; immutable."""

    def __init__(self, names: Iterable[str], points: int = POINTS) -> None:
        self.names = tuple(sorted(set(names)))
        self._positions, self._owners = _placed(self.names, points)

    def owner(self, key: str) -> str:
        """Return the name to which `key` belongs; LookupError on an empty ring."""
        if not self._owners:
            raise LookupError("the ring is empty")
        return self._owners[bisect_left(self._positions, _position(key)) % len(self._owners)]

    def order(self, key: str) -> Iterator[str]:
        """Return all names: the owner first, then its successors in order."""
        seen: set[str] = set()
        start = bisect_left(self._positions, _position(key)) if self._owners else 0
        for step in range(len(self._owners)):
            name = self._owners[(start + step) % len(self._owners)]
            if name not in seen:
                seen.add(name)
                yield name
                if len(seen) == len(self.names):
                    return


class Shards:
    """Replica numbers in groups of `factor`; one group of all if it is None."""

    def __init__(self, named: Iterable[int], factor: int | None) -> None:
        self._named = sorted(set(named))
        self.factor = factor
        self._count = max(1, len(self._named) // factor) if factor else 1
        self._ring = Ring(map(str, range(self._count)))

    @classmethod
    def told(cls, groups: Sequence[Sequence[int]]) -> Shards:
        """The groups as a storage node sends them."""
        named = [replica for group in groups for replica in group]
        return cls(named, len(groups[0]) if len(groups) > 1 else None)

    def __len__(self) -> int:
        return self._count

    def of_replica(self, replica: int) -> int:
        """Return the group of a replica, from 0."""
        if not self.factor:
            return 0
        return min(bisect_left(self._named, replica) // self.factor, self._count - 1)

    def of_key(self, key: str) -> int:
        """Return the group that holds a key."""
        return int(self._ring.owner(key)) if self._count > 1 else 0

    def replicas(self, group: int) -> list[int]:
        """Return the named replicas of a group."""
        return [replica for replica in self._named if self.of_replica(replica) == group]
