"""Timestamps: maps from the stream of an incarnation to a counter; a missing entry is 0.

A client only merges timestamps and sends them back. For a replica a timestamp names the updates that a state includes.
Source: Ladin, Liskov et al., "Providing High Availability Using Lazy Replication" (1992).
"""

from __future__ import annotations

from collections.abc import Mapping

Timestamp = dict[str, int]


def covers(high: Mapping[str, int], low: Mapping[str, int]) -> bool:
    """Return True if `low ≤ high`, entry by entry."""
    for name, count in low.items():  # noqa: SIM110 - on the path of every request, and all() takes twice as long
        if high.get(name, 0) < count:
            return False
    return True


def merge_into(target: Timestamp, other: Mapping[str, int]) -> None:
    """Raise each entry of `target` to that of `other` if `other`'s is larger."""
    for name, count in other.items():
        if target.get(name, 0) < count:
            target[name] = count


def merged(first: Mapping[str, int], *others: Mapping[str, int]) -> Timestamp:
    """Return the entry-wise maximum as a new map; fastest if the first map is the longest."""
    result = dict(first)
    for timestamp in others:
        merge_into(result, timestamp)
    return result


def lacking(have: Mapping[str, int], wanted: Mapping[str, int]) -> list[str]:
    """Return the streams of which `have` knows less than `wanted`, sorted."""
    return sorted(name for name, count in wanted.items() if have.get(name, 0) < count)
