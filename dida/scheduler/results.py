"""The results of runs, and the clients that wait for them."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from dida import errors
from dida.chains.run_record import RunRecord, outcome
from dida.errors import DidaError
from dida.protocols.deadlines import Deadline, Deadlines
from dida.protocols.lines import Answer
from dida.wire.messages import Ok, Reply
from dida.wire.runs import DONE, GOING_ON


class Results:
    """The clients that wait for the results of a scheduler's runs, each with its deadline."""

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._waiting: dict[str, dict[Deferred[Reply], Deadline]] = {}

    def waiting(self, run: str) -> int:
        """Return the number of clients that wait for the result of a run."""
        return len(self._waiting.get(run, ()))

    def of(self, run: RunRecord, seconds: float) -> Answer:
        """Return the run's result, or a Deferred of it; after `seconds` it fails with timed-out."""
        if run.state != GOING_ON:
            return _result(run)
        if not seconds:
            raise _still_going_on(run)
        waiting = self._waiting.setdefault(run.id, {})

        def too_late() -> None:
            del waiting[answer]
            answer.errback(_still_going_on(run))

        def cancelled(answer: Deferred[Reply]) -> None:
            if answer in waiting:
                self._deadlines.cancel(waiting.pop(answer))

        answer: Deferred[Reply] = Deferred(cancelled)
        waiting[answer] = self._deadlines.add(seconds, too_late)
        return answer

    def on_end(self, run: RunRecord) -> None:
        """Reply to the clients that wait for a run that has ended."""
        for answer in self._pop(run.id):
            answer.callback(_result(run))

    def close(self, problem: DidaError) -> None:
        """Fail all that wait."""
        for run in list(self._waiting):
            for answer in self._pop(run):
                answer.errback(problem)

    def _pop(self, run: str) -> list[Deferred[Reply]]:
        """Return those that wait for a run; they wait no longer."""
        waiting = self._waiting.pop(run, {})
        for deadline in waiting.values():
            self._deadlines.cancel(deadline)
        answers = list(waiting)
        waiting.clear()
        return answers


def _still_going_on(run: RunRecord) -> DidaError:
    step = run.current
    at = f", at {step.operator} at position {step.position} on {step.worker}" if step is not None else ""
    text = f"run {run.id} is still going on{at}: ask again, or give it a longer timeout"
    return DidaError(errors.TIMED_OUT, text)


def _result(run: RunRecord) -> Reply:
    if run.state == DONE:
        return Ok(("done", run.output), outcome(run))
    return Ok(("failed", run.reason), outcome(run))
