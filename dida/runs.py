"""The scheduler's table of runs: what was started, what of it is confirmed, how it ended.

Pure: `now` comes in as seconds. A run is going on until it is done, or failed by a worker, by the loss
of the worker that executes it, or by its deadline; so every run ends. The newest `keep` runs stay known.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import attrs
from attrs import define, field

from dida.chain import Assignment, Step, steps
from dida.errors import NO_SUCH_RUN, DidaError, Unavailable
from dida.scheduling import LeastActive
from dida.timestamps import Timestamp

SLACK = 0.2
"""Seconds that a worker's word may be on its way."""

GOING_ON, DONE, FAILED = "going on", "done", "failed"


@define(eq=False)
class RunRecord:
    """One run."""

    id: str
    input: str
    chain: tuple[Assignment, ...]
    started: float
    after: Timestamp
    state: str = GOING_ON
    ms: float = 0.0
    reason: str = ""
    failed_at: int | None = None
    confirmed: dict[int, float] = field(factory=dict)
    """Position to milliseconds, of what is known to be executed."""
    progress: float = 0.0
    """When the current step became the current one, as far as is known here."""
    steps: list[Step] = field(factory=list)

    @property
    def output(self) -> str:
        """What the last operator returned."""
        return self.steps[-1].output if self.steps else ""

    @property
    def current(self) -> Assignment | None:
        """The first step that is not confirmed."""
        return next((each for each in self.chain if each.position not in self.confirmed), None)


class Runs:
    """The table. `suffix` makes the run ids of this life of the scheduler differ from those of others."""

    def __init__(self, policy: LeastActive, suffix: str, deadline: float = 120.0, keep: int = 10_000) -> None:
        self.policy = policy
        self.deadline = deadline
        self.keep = keep
        self.started = self.done = self.failed = self.dropped = 0
        self._suffix = suffix
        self._all: dict[str, RunRecord] = {}
        self._going_on: dict[str, RunRecord] = {}
        self._ended: dict[str, RunRecord] = {}

    def __getitem__(self, id: str) -> RunRecord:
        """The run; DidaError no-such-run when it is not known (any more)."""
        run = self._all.get(id)
        if run is None:
            raise DidaError(NO_SUCH_RUN, id)
        return run

    def newest_first(self) -> Iterator[RunRecord]:
        """All runs that are known."""
        return reversed(self._all.values())

    @property
    def going_on(self) -> int:
        """How many have not ended."""
        return len(self._going_on)

    def on_run(
        self,
        input: str,
        operators: Sequence[str],
        after: Mapping[str, int],
        workers: Mapping[str, tuple[str, int]],
        now: float,
    ) -> RunRecord:
        """A new run, its whole route assigned. `workers` are those that can be reached, and where."""
        if len(self._all) >= self.keep and not self._ended:
            raise Unavailable(f"{self.keep} runs are going on already: try again later, or raise --keep-runs")
        route = [self.policy.on_assign(workers) for _ in operators]
        self.started += 1
        run = RunRecord(
            id=f"r{self.started}-{self._suffix}",
            input=input,
            chain=tuple(
                Assignment(operator, position, worker, *workers[worker])
                for position, (operator, worker) in enumerate(zip(operators, route, strict=True))
            ),
            started=now,
            progress=now,
            after=dict(after),
        )
        self._all[run.id] = self._going_on[run.id] = run
        if len(self._all) > self.keep:
            oldest = next(iter(self._ended))
            del self._ended[oldest], self._all[oldest]
            self.dropped += 1
        return run

    def on_completed(self, id: str, position: int, ms: float, now: float) -> None:
        """A worker has executed the operator at `position`. Twice, or too late, changes nothing."""
        run = self[id]
        if run.state == GOING_ON and position < len(run.chain):
            self._confirm(run, position, ms)
            run.progress = now

    def on_ended(
        self, id: str, chain: Collection[Assignment], after: Mapping[str, int], now: float
    ) -> RunRecord | None:
        """The last operator was executed. None when the run had ended already."""
        run = self[id]
        if run.state != GOING_ON:
            return None
        for each in chain:
            if each.position < len(run.chain):
                self._confirm(run, each.position, each.ms)
        run.steps = steps(chain)
        run.after = dict(after)
        self.done += 1
        return self._end(run, DONE, now)

    def on_failed(
        self,
        id: str,
        reason: str,
        now: float,
        position: int | None = None,
        chain: Collection[Assignment] = (),
        after: Mapping[str, int] | None = None,
    ) -> RunRecord | None:
        """The run can't go on. None when it had ended already."""
        run = self[id]
        if run.state != GOING_ON:
            return None
        run.steps = steps(chain)
        run.reason = reason
        run.failed_at = position
        if after is not None:
            run.after = dict(after)
        self.failed += 1
        return self._end(run, FAILED, now)

    def on_worker_lost(self, worker: str, when: float, now: float) -> list[RunRecord]:
        """Fail the runs whose current step was with a worker when it died, at `when`.

        To be called a little later, so that what the worker said just before has arrived.
        """
        lost = []
        for run in list(self._going_on.values()):
            step = run.current
            if step is not None and step.worker == worker and run.progress <= when + SLACK:
                why = f"{_at(step)} was lost: the worker died, or its connection broke"
                ended = self.on_failed(run.id, why, now, step.position)
                lost += [ended] if ended else []
        return lost

    def tick(self, now: float) -> list[RunRecord]:
        """Fail the runs that are past their deadline."""
        late = []
        for run in list(self._going_on.values()):
            if now < run.started + self.deadline:
                break  # they are in the order in which they started
            step = run.current or run.chain[-1]
            why = f"{_at(step)} was not confirmed within the run's {self.deadline:g} s"
            ended = self.on_failed(run.id, why, now, step.position)
            late += [ended] if ended else []
        return late

    def left(self, run: RunRecord, now: float) -> float:
        """Seconds until the run's deadline."""
        return max(0.0, run.started + self.deadline - now)

    def _confirm(self, run: RunRecord, position: int, ms: float) -> None:
        if position not in run.confirmed:
            run.confirmed[position] = ms
            self.policy.on_confirm(run.chain[position].worker)

    def _end(self, run: RunRecord, state: str, now: float) -> RunRecord:
        for each in run.chain:
            if each.position not in run.confirmed:
                self.policy.on_confirm(each.worker)
        run.state = state
        run.ms = round((now - run.started) * 1000, 3)
        del self._going_on[run.id]
        self._ended[run.id] = run
        return run


def _at(step: Assignment) -> str:
    return f"{step.operator} at position {step.position} on {step.worker}"


def summary(run: RunRecord) -> dict[str, object]:
    """A run as `runs` lists it."""
    return {
        "run": run.id,
        "state": run.state,
        "input": run.input,
        "operators": [each.operator for each in run.chain],
        "ms": run.ms,
    }


def outcome(run: RunRecord) -> dict[str, object]:
    """The object of a `result` reply."""
    members: dict[str, object] = {
        "run": run.id,
        "input": run.input,
        "steps": [attrs.asdict(step) for step in run.steps],
        "ms": run.ms,
        "after": run.after,
    }
    if run.failed_at is not None:
        failed = run.chain[run.failed_at]
        members |= {"position": failed.position, "operator": failed.operator, "worker": failed.worker}
    return members
