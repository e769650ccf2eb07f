"""Consistent hashing: which node a key belongs to, and who comes next when that one is dead.

Each name owns many points of a circle of 2^64 positions (virtual nodes, so that load spreads); a key
belongs to the first point at or after its own position. When a name goes, only its keys move.
Source: Karger et al., "Consistent Hashing and Random Trees" (1997); hash: MurmurHash3 x64, 128 bit.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import lru_cache

import mmh3

POINTS = 1024
"""Points per name: keeps the shares of 4 names within a few per cent of even."""


def _position(text: str) -> int:
    return mmh3.hash64(text.encode("utf-8", "surrogatepass"), signed=False)[0]


@lru_cache(maxsize=128)
def _placed(names: tuple[str, ...], points: int) -> tuple[list[int], list[str]]:
    """The circle: positions in order, and whose they are. Views come again, and hashing takes milliseconds."""
    placed = sorted((_position(f"{name}/{point}"), name) for name in names for point in range(points))
    return [position for position, _ in placed], [name for _, name in placed]


class Ring:
    """Names (of nodes, or of groups of nodes) on the circle; immutable."""

    def __init__(self, names: Iterable[str], points: int = POINTS) -> None:
        self.names = tuple(sorted(set(names)))
        self._positions, self._owners = _placed(self.names, points)

    def owner(self, key: str) -> str:
        """The name that `key` belongs to; LookupError on an empty ring."""
        if not self._owners:
            raise LookupError("the ring is empty")
        return self._owners[bisect_left(self._positions, _position(key)) % len(self._owners)]

    def order(self, key: str) -> Iterator[str]:
        """All names, the owner first, then whoever takes over from whom."""
        seen: set[str] = set()
        start = bisect_left(self._positions, _position(key)) if self._owners else 0
        for step in range(len(self._owners)):
            name = self._owners[(start + step) % len(self._owners)]
            if name not in seen:
                seen.add(name)
                yield name
                if len(seen) == len(self.names):
                    return
