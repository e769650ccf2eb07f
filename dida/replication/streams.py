"""Incarnations of replicas, and the streams in which each numbers its updates.

An **incarnation** is one life of one replica, `REPLICA:EPOCH`: a process draws its epoch when it starts, and adds `~N`
to it when it begins again for the N-th time, because the others had removed it. No incarnation comes twice, so what an
earlier one sent is never mistaken for news. On the wire and in `status` an incarnation is called `component`.

It numbers its updates in two **streams**: plain writes (named like the incarnation) and the commits that it
coordinates (with a `!` behind the name). A timestamp counts each stream separately, so a plain write never waits for a
commit that is still being acknowledged, and "all members hold the commits up to n" is one comparison.
"""

from __future__ import annotations

COMMITS = "!"


def commit_stream(incarnation: str) -> str:
    """Return the name of the stream of the commits that `incarnation` coordinates."""
    return incarnation + COMMITS


def is_commit(stream: str) -> bool:
    """Return True if the records of `stream` are commits."""
    return stream.endswith(COMMITS)


def incarnation_of(stream: str) -> str:
    """Return the incarnation whose stream this is."""
    return stream.removesuffix(COMMITS)


def replica_of(incarnation: str) -> int | None:
    """Return the replica number in the name of an incarnation; None if there is none."""
    replica = incarnation.partition(":")[0]
    return int(replica) if replica.isdecimal() else None


def successor(incarnation: str, number: int) -> str:
    """Return the name under which the process of `incarnation` begins again for the `number`-th time."""
    return f"{incarnation.partition('~')[0]}~{number}"
