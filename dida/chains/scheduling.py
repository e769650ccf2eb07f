"""The policies: which worker executes an operator.

A policy counts, for each worker, the assignments that are not yet confirmed, and how many of them are being executed
(one of each run). The route of a whole chain is assigned at once, as a plan, and each assignment counts from then on.
When an operator's turn has come, its worker is chosen by what is being executed, and a planned one may be replaced
(`on_due`). The caller passes the reachable workers. A lost worker gets no more assignments; those that it has count
until their runs have ended, and every run ends.
"""

from __future__ import annotations

from collections.abc import Collection

from attrs import define

from dida.errors import Unavailable


@define
class Load:
    """The counts of one worker."""

    active: int = 0
    """Assignments not yet confirmed."""
    executing: int = 0
    """Of these, those whose turn it is."""
    assigned: int = 0
    """All assignments so far."""
    last: int = 0
    """The time of the last assignment, counted in assignments of all workers."""


class LeastActive:
    """The worker that executes the fewest operators; of several, the one with the fewest planned ones.

    If there are still several, it is the one longest not assigned any.
    """

    name = "least-active"
    due_anew = True
    """True if an operator whose turn has come may go to another worker than planned."""

    def __init__(self) -> None:
        self.loads: dict[str, Load] = {}
        self._count = 0

    def on_worker(self, worker: str) -> None:
        """Add a worker."""
        self.loads.setdefault(worker, Load())

    def on_gone(self, worker: str) -> None:
        """Remove a worker; none of its assignments counts."""
        self.loads.pop(worker, None)

    def on_assign(self, reachable: Collection[str], due: bool = True, before: str = "") -> str:
        """Choose the worker for an operator, for now or, if it is not `due`, for later; Unavailable if there is none.

        `before`: the worker of the step before in the plan.
        """
        candidates = [worker for worker in self.loads if worker in reachable]
        if not candidates:
            raise Unavailable("no worker can be reached")
        worker = self._choose(candidates, due)
        self._give(self.loads[worker])
        return worker

    def on_due(self, planned: str, reachable: Collection[str], before: str = "") -> str:
        """Choose the worker for an operator whose turn has come: the planned one, unless another one executes less.

        `before`: the worker that has executed the step before.
        """
        plan = self.loads.get(planned)
        candidates = [worker for worker in self.loads if worker in reachable and worker != planned]
        if plan is None or not candidates or not self.due_anew:
            return planned
        worker = self._choose(candidates, due=True)
        load = self.loads[worker]
        if planned in reachable and self._keeps(plan, load):
            return planned
        self._replan(plan, load)
        return worker

    def _keeps(self, plan: Load, other: Load) -> bool:
        """Return True if an operator stays with the worker of the plan, though there is that other one."""
        return (other.executing, other.active) >= (plan.executing, plan.active - 1)

    def _replan(self, plan: Load, load: Load) -> None:
        plan.active -= 1
        plan.assigned -= 1
        self._give(load)

    def on_turn(self, before: str, now: str) -> None:
        """Move a run's current operator from the worker `before` to `now`; empty: no worker."""
        for worker, change in ((before, -1), (now, 1)):
            if worker in self.loads:
                self.loads[worker].executing += change

    def on_confirm(self, worker: str) -> None:
        """End one assignment of a worker, done or failed."""
        load = self.loads.get(worker)
        if load is not None and load.active:
            load.active -= 1

    def on_move(self, worker: str) -> None:
        """Add an assignment to a worker that the policy did not choose."""
        load = self.loads.get(worker)
        if load is not None:
            load.active += 1
            load.assigned += 1

    def counts(self, workers: Collection[str], due: bool = True) -> str:
        """Return the counts of these workers, for an operator that is `due` or planned, as a text."""
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
    """One worker after the other, whatever they execute."""

    name = "round-robin"
    due_anew = False

    def _choose(self, candidates: list[str], due: bool) -> str:
        return min(candidates, key=lambda worker: self.loads[worker].last)


class Affinity(LeastActive):
    """The worker of the step before, unless another one executes fewer operators. A chain is planned for one worker."""

    name = "affinity"

    def on_assign(self, reachable: Collection[str], due: bool = True, before: str = "") -> str:
        if due or before not in reachable or before not in self.loads:
            return super().on_assign(reachable, due)
        self._give(self.loads[before])
        return before

    def on_due(self, planned: str, reachable: Collection[str], before: str = "") -> str:
        if before != planned and before in reachable and before in self.loads and planned in self.loads:
            self._replan(self.loads[planned], self.loads[before])
            planned = before
        return super().on_due(planned, reachable)

    def _keeps(self, plan: Load, other: Load) -> bool:
        return other.executing >= plan.executing


POLICIES = {policy.name: policy for policy in (LeastActive, RoundRobin, Affinity)}
"""By the name of the option."""
