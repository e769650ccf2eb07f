"""Which worker executes an operator: the two policies.

A policy counts, for each worker, the assignments that are not yet confirmed as completed, and how many of them
are being executed: of each run one. The route of a whole chain is assigned at once, as a plan; each assignment counts
from then on. An operator whose turn has come is what matters: its worker is chosen by what is being executed, and
one that was planned is chosen anew (`on_due`). Whoever calls says which workers can be reached now: one that is lost
is assigned nothing more, and what it had counts until its runs have ended, which they do.
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
    executing: int = 0
    """Of these, those whose turn it is."""
    assigned: int = 0
    """Assignments ever."""
    last: int = 0
    """When it was assigned something last, counted in assignments of all workers."""


class LeastActive:
    """The worker that is executing the fewest operators; of several, the one with the fewest that are planned.

    If there still are several, it is the one longest not assigned any.
    """

    name = "least-active"
    due_anew = True
    """Whether an operator whose turn has come may go to another worker than was planned."""

    def __init__(self) -> None:
        self.loads: dict[str, Load] = {}
        self._count = 0

    def on_worker(self, worker: str) -> None:
        """There is such a worker."""
        self.loads.setdefault(worker, Load())

    def on_gone(self, worker: str) -> None:
        """There is no such worker any more; nothing that counts is with it."""
        self.loads.pop(worker, None)

    def on_assign(self, reachable: Collection[str], due: bool = True) -> str:
        """The worker for an operator, for now or, when it is not `due`, later; Unavailable when there is none."""
        candidates = [worker for worker in self.loads if worker in reachable]
        if not candidates:
            raise Unavailable("no worker can be reached")
        worker = self._choose(candidates, due)
        self._give(self.loads[worker])
        return worker

    def on_due(self, planned: str, reachable: Collection[str]) -> str:
        """The worker for an operator whose turn has come: the planned one, unless another one is executing less."""
        plan = self.loads.get(planned)
        candidates = [worker for worker in self.loads if worker in reachable and worker != planned]
        if plan is None or not candidates or not self.due_anew:
            return planned
        worker = self._choose(candidates, due=True)
        load = self.loads[worker]
        if planned in reachable and (load.executing, load.active) >= (plan.executing, plan.active - 1):
            return planned
        plan.active -= 1
        plan.assigned -= 1
        self._give(load)
        return worker

    def on_turn(self, before: str, now: str) -> None:
        """The operator of a run whose turn it is was at the worker `before`, and is at `now`; empty: at none."""
        for worker, change in ((before, -1), (now, 1)):
            if worker in self.loads:
                self.loads[worker].executing += change

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

    def counts(self, workers: Collection[str], due: bool = True) -> str:
        """What counts at these workers for an operator that is `due`, or planned, in words."""
        loads = ((load.executing if due else load.active, worker) for worker, load in self.loads.items())
        shown = sorted(each for each in loads if each[1] in workers)
        rest = f" and {len(shown) - 10} more" if len(shown) > 10 else ""
        return f"{self.name}: " + ", ".join(f"{worker} {count}" for count, worker in shown[:10]) + rest

    def _give(self, load: Load) -> None:
        self._count += 1
        load.active += 1
        load.assigned += 1
        load.last = self._count

    def _choose(self, candidates: list[str], due: bool) -> str:
        loads = self.loads
        return min(candidates, key=lambda id: (due and loads[id].executing, loads[id].active, loads[id].last))


class RoundRobin(LeastActive):
    """One after the other, whatever they are doing."""

    name = "round-robin"
    due_anew = False

    def _choose(self, candidates: list[str], due: bool) -> str:
        return min(candidates, key=lambda worker: self.loads[worker].last)


POLICIES = {policy.name: policy for policy in (LeastActive, RoundRobin)}
"""By the name that the option has."""
