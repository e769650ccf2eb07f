"""Which worker executes an operator: the two policies.

A policy counts, for each worker, the assignments that are not yet confirmed as completed. The route of
a whole chain is assigned at once; each assignment counts from then on. Whoever calls says which
workers can be reached now: one that is lost is assigned nothing more, and what it had counts until its
runs have ended, which they do.
"""

from __future__ import annotations

from collections.abc import Collection

from attrs import define

from dida.errors import Unavailable


@define
class Load:
    """What a policy knows of one worker."""

    active: int = 0
    """Assignments not yet confirmed."""
    assigned: int = 0
    """Assignments ever."""
    last: int = 0
    """When it was assigned something last, counted in assignments of all workers."""


class LeastActive:
    """The worker that is executing the fewest operators; of several, the one longest not assigned any."""

    name = "least-active"

    def __init__(self) -> None:
        self.loads: dict[str, Load] = {}
        self._count = 0

    def on_worker(self, worker: str) -> None:
        """There is such a worker."""
        self.loads.setdefault(worker, Load())

    def on_gone(self, worker: str) -> None:
        """There is no such worker any more; nothing that counts is with it."""
        self.loads.pop(worker, None)

    def on_assign(self, reachable: Collection[str]) -> str:
        """The worker for the next operator; Unavailable when there is none."""
        candidates = [worker for worker in self.loads if worker in reachable]
        if not candidates:
            raise Unavailable("no worker can be reached")
        worker = self._choose(candidates)
        self._count += 1
        load = self.loads[worker]
        load.active += 1
        load.assigned += 1
        load.last = self._count
        return worker

    def on_confirm(self, worker: str) -> None:
        """One assignment of that worker has ended, well or badly."""
        load = self.loads.get(worker)
        if load is not None and load.active:
            load.active -= 1

    def on_move(self, worker: str) -> None:
        """That worker has one assignment more, which was not chosen by the policy."""
        load = self.loads.get(worker)
        if load is not None:
            load.active += 1
            load.assigned += 1

    def _choose(self, candidates: list[str]) -> str:
        return min(candidates, key=lambda worker: (self.loads[worker].active, self.loads[worker].last))


class RoundRobin(LeastActive):
    """One after the other, whatever they are doing."""

    name = "round-robin"

    def _choose(self, candidates: list[str]) -> str:
        return min(candidates, key=lambda worker: self.loads[worker].last)


POLICIES = {policy.name: policy for policy in (LeastActive, RoundRobin)}
"""By the name that the option has."""
