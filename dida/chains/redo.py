"""Going back in a chain: the step from which it is executed again when updates that it depends on are lost.

A storage node that crashes before it has gossiped loses acknowledged writes. The request that travels along the chain
has, for each step, what it has read and written and the run's timestamp after it. So the chain is its own redo log. It
goes back to the first step by which a lost stream has entered the run's timestamp, with what the run knew before that
step, and executes from there, as a new execution: what has survived is answered from the run's journal, what was lost
is executed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from attrs import evolve

from dida.chains.journal import MAX_CALLS
from dida.chains.messages import Execute
from dida.chains.records import Assignment, versions_after
from dida.timestamps import Timestamp

MAX_ROUNDS = 10
"""The most times that one run goes back."""


def rewound(request: Execute, position: int, lost: Iterable[str] = ()) -> Execute:
    """Return the request as it was before the step at `position`, without the entries of `lost` streams."""
    after = dict(request.chain[position - 1].after if position else request.since)
    meta = evolve(request.meta, versions=versions_after(request.chain[:position]), after=after)
    kept = tuple(each for each in request.kept if each[0][1] <= position * MAX_CALLS)
    return without(evolve(request, meta=meta, next=position, kept=kept), lost)


def without(request: Execute, lost: Iterable[str]) -> Execute:
    """Return the request without the entries of `lost` streams, so that its outcome does not name them again."""
    gone = set(lost)
    after = {stream: count for stream, count in request.meta.after.items() if stream not in gone}
    return evolve(request, meta=evolve(request.meta, after=after))


def step_to_redo(request: Execute, lost: Timestamp) -> int | None:
    """Return the first step by which a lost stream has entered the run; None if it was there from the start.

    `request` is as it was before the step that met the loss, which may be that step itself.
    """
    if any(request.since.get(stream, 0) >= count for stream, count in lost.items()):
        return None
    known = [request.since, *(step.after for step in request.chain[: request.next]), lost]
    rises = pairwise(known)
    entered = (any(high.get(stream, 0) > low.get(stream, 0) for stream in lost) for low, high in rises)
    return next(position for position, here in enumerate(entered) if here)


def lost_records(chain: Sequence[Assignment], lost: Iterable[str]) -> str:
    """Return the names of the records that the chain has written at the nodes of `lost` streams.

    If it has written nothing there, return what it has read of them.
    """
    nodes = {int(number) for stream in lost if (number := stream.partition(":")[0]).isdigit()}
    touched = [touch for step in chain for touch in step.records if touch.version.replica in nodes]
    written = [touch for touch in touched if touch.how != "read"]
    named = dict.fromkeys(f"{touch.key[:100]} {touch.version}" for touch in written or touched)
    return ", ".join(list(named)[:10])
