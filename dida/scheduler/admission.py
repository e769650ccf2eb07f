"""The admission of runs: what a `run` request waits for, and whether it starts a run.

The steps, in this order: a known client id gets its first reply. An unknown one waits until the workers have reported
the runs that earlier incarnations of the scheduler have started. Then the request waits for a worker. If no worker is
known to have an operator, the workers are asked for it, and the request is refused when all of them lack it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from dida import errors
from dida.chains.run_ids import computed
from dida.chains.run_record import RunRecord
from dida.chains.runs import Runs
from dida.errors import BadRequest, DidaError, Unavailable
from dida.interfaces import is_class_name
from dida.protocols.clock import time_of_day
from dida.protocols.deadlines import Deadlines
from dida.protocols.lines import Answer, ok
from dida.scheduler.waiting import WaitingRoom
from dida.scheduler.workers import Workers
from dida.wire import grammar
from dida.wire.messages import Reply
from dida.wire.runs import Run

PART = 0.9
"""The part of a request's deadline in which it may wait; the rest is for its reply."""
MAX_QUESTIONS = 10_000
"""The most requests about runs that wait for the workers' reports."""
LEAST_PATIENCE = 0.8
"""Shortest time for which a request about an unknown run waits for the workers' reports, in seconds."""


class Admission:
    """The admission of one scheduler's runs. `begin` sends a new run to its first worker."""

    def __init__(
        self,
        reactor: Any,
        deadlines: Deadlines,
        runs: Runs,
        workers: Workers,
        max_line: int,
        begin: Callable[[RunRecord], None],
    ) -> None:
        self._reactor = reactor
        self._runs = runs
        self._workers = workers
        self._max_line = max_line
        self._begin = begin
        self._for_worker = WaitingRoom(deadlines, runs.keep, "too many runs wait for a worker")
        self._for_reports = WaitingRoom(deadlines, MAX_QUESTIONS, "too many requests wait for the workers' reports")

    def admit(self, request: Run) -> Answer:
        """Start the run, now or as soon as possible. A request whose id is known starts nothing."""
        for name in request.operator:
            if not is_class_name(name):
                raise BadRequest(f"{name!r} is not a class name of an operator; expected: {Run.usage}")
        if self._known(request) is not None:
            return self._start(request)
        if self._needs_no_reports(request) and self._has_worker and self._has_operators(request):
            return self._start(request)
        return Deferred.fromCoroutine(self._start_later(request, self._now() + request.deadline * PART))

    def find(self, run: str, seconds: float) -> RunRecord | Deferred[RunRecord]:
        """Return the run; wait for an unknown one while workers may still report it. Raises no-such-run."""
        try:
            return self._runs[run]
        except DidaError:
            if self._workers.all_reported:
                raise
        return Deferred.fromCoroutine(self._find(run, self._now() + max(seconds * PART, LEAST_PATIENCE)))

    def on_adopted(self, run: RunRecord) -> None:
        """Reply to the requests that wait for a run that a worker has reported."""
        if not run.start:
            run.start = round(time_of_day() - (self._now() - run.started), 3)
        self._for_reports.call(run.id)

    def on_workers(self) -> None:
        """Look at the waiting requests: other workers can be reached than before, or all have reported."""
        if self._workers.all_reported:
            self._for_reports.call_all()
        if self._has_worker:
            self._for_worker.call_all()

    def close(self, problem: DidaError) -> None:
        """Fail all waiting requests."""
        self._for_reports.close(problem)
        self._for_worker.close(problem)

    # --- one line -------------------------------------------------------------------------------

    def _known(self, request: Run) -> str | None:
        """Return the id of the run that the same request has started; id-in-use if another request has its client
        id."""
        if request.id is None:
            return None
        return self._runs.ids.known(request.id, request.input, request.operator, request.application)

    def _needs_no_reports(self, request: Run) -> bool:
        """Return True if nobody can report any more that the request was received before."""
        return self._workers.all_reported or request.id is None or not request.retry

    @property
    def _has_worker(self) -> bool:
        return bool(self._workers.reachable) and self._workers.ready

    async def _start_later(self, request: Run, ends: float) -> Reply:
        if request.id is not None:
            name = computed(request.id, request.input, request.operator, request.application)
            while not self._needs_no_reports(request) and self._known(request) is None:
                if self._now() >= ends:
                    text = "not all workers have reported their runs yet: retry with the same id"
                    raise Unavailable(text)
                await self._for_reports.wait(name, ends - self._now())
        if not self._has_worker and self._known(request) is None:
            await self._for_worker.wait("", ends - self._now())
        if self._workers.reachable and self._known(request) is None and not self._has_operators(request):
            await self._ask_for_operators(request, ends)
        return self._start(request)

    def _has_operators(self, request: Run) -> bool:
        return self._runs.catalog.all_found(request.operator, self._workers.reachable)

    async def _ask_for_operators(self, request: Run, ends: float) -> None:
        """Ask all workers for their operators; no-such-operator when all of them lack one."""
        patience = min(self._workers.timing.ask_timeout, max(0.0, ends - self._now()))
        replied = self._workers.ask_for_operators().addTimeout(patience, self._reactor, lambda late, seconds: False)
        if not await replied:
            return  # not all have replied since this request came
        name = self._runs.catalog.missing(request.operator, self._workers.reachable)
        if name is not None:
            hint = self._runs.catalog.hint(name, self._workers.reachable)
            raise DidaError(errors.NO_SUCH_OPERATOR, name, hint)

    async def _find(self, run: str, ends: float) -> RunRecord:
        while True:
            try:
                return self._runs[run]
            except DidaError:
                if self._workers.all_reported or self._now() >= ends:
                    raise
            await self._for_reports.wait(run, ends - self._now())

    def _start(self, request: Run) -> Reply:
        known = self._known(request)  # it may have been started meanwhile
        if known is not None:
            return ok(known)
        if not self._workers.reachable:
            raise Unavailable("no worker can be reached: start one with --scheduler URL, or name it with --worker")
        if len(request.input) + 300 * len(request.operator) > self._max_line // 8:
            size = len(grammar.encode(request)) + 400 * len(request.operator) + 1000
            if size > self._max_line:
                raise DidaError(errors.LINE_TOO_LONG, "the input is too long for requests between workers: send less")
        run = self._runs.on_run(
            request.input,
            request.operator,
            request.after,
            self._workers.reachable,
            self._now(),
            client_id=request.id or "",
            application=request.application,
            again=request.id is not None and request.retry,
        )
        run.start = round(time_of_day(), 3)
        self._begin(run)
        return ok(run.id)

    def _now(self) -> float:
        now: float = self._reactor.seconds()
        return now
