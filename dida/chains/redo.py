"""Going back in a chain: from which step it is executed again when updates that it depends on are lost.

A storage node that crashes before it has gossiped takes acknowledged writes with it. The request that travels
along the chain has, of each step, what it has read and written and the run's front-end timestamp after it; so
the chain is its own redo log. It goes back to the first step by which a lost stream has entered the run's
timestamp, with what the run knew before that step, and executes from there. The ids of the updates are the same
as before: what has survived answers as it did, what was lost is done again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from attrs import evolve

from dida.chains.messages import Execute
from dida.chains.records import Assignment
from dida.interfaces import Access
from dida.timestamps import Timestamp
from dida.versions import Version

MAX_ROUNDS = 10
"""How often one run goes back."""


def first_reads(records: Iterable[Access]) -> dict[str, Version]:
    """Of each key that a step has read before it wrote it, the version."""
    first: dict[str, Access] = {}
    for touch in records:
        first.setdefault(touch.key, touch)
    return {key: touch.version for key, touch in first.items() if touch.how == "read"}


def of_applied(records: Iterable[Access]) -> tuple[Access, ...]:
    """Of what a try of a step has touched, that of the keys that it has changed: the next try reads those again.

    All else is read anew, for it may be what made the try fail.
    """
    records = tuple(records)
    changed = {touch.key for touch in records if touch.how in ("written", "updated")}
    refused = {touch.key for touch in records if touch.how == "refused"}
    return tuple(touch for touch in records if touch.key in changed - refused)


def versions_after(steps: Iterable[Assignment]) -> dict[str, Version]:
    """The version of each record that these steps, executed in this order, have left a run with."""
    versions: dict[str, Version] = {}
    for step in steps:
        for touch in step.records:
            if touch.how != "read" or touch.key not in versions:
                versions[touch.key] = touch.version
    return versions


def rewound(request: Execute, position: int, lost: Iterable[str] = ()) -> Execute:
    """The request as it was before the step at `position`, and without the entries of `lost` streams."""
    after = dict(request.chain[position - 1].after if position else request.since)
    meta = evolve(request.meta, versions=versions_after(request.chain[:position]), after=after)
    return without(evolve(request, meta=meta, next=position, again=True), lost)


def without(request: Execute, lost: Iterable[str]) -> Execute:
    """The request without the entries of `lost` streams: what comes of it is not to name them again."""
    gone = set(lost)
    after = {stream: count for stream, count in request.meta.after.items() if stream not in gone}
    return evolve(request, meta=evolve(request.meta, after=after))


def step_to_redo(request: Execute, lost: Timestamp) -> int | None:
    """The first step by which what is lost has entered the run; None when it was there from the start.

    `request` is as it was before the step that has heard of it, which may be that step itself.
    """
    if any(request.since.get(stream, 0) >= count for stream, count in lost.items()):
        return None
    known = [request.since, *(step.after for step in request.chain[: request.next]), lost]
    rises = pairwise(known)
    entered = (any(high.get(stream, 0) > low.get(stream, 0) for stream in lost) for low, high in rises)
    return next(position for position, here in enumerate(entered) if here)


def lost_records(chain: Sequence[Assignment], lost: Iterable[str]) -> str:
    """The records of the nodes that took `lost` streams with them, in words: what the chain has written there.

    When it has written nothing there, it is what it has read of them.
    """
    nodes = {int(number) for stream in lost if (number := stream.partition(":")[0]).isdigit()}
    touched = [touch for step in chain for touch in step.records if touch.version.replica in nodes]
    written = [touch for touch in touched if touch.how != "read"]
    named = dict.fromkeys(f"{touch.key[:100]} {touch.version}" for touch in written or touched)
    return ", ".join(list(named)[:10])
