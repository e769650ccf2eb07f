"""Sending a run's current step to its worker, or to another one when that refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from dida import errors
from dida.addresses import Address
from dida.chains.messages import HOP_TIMEOUT, TRANSIENT, Execute, why_not
from dida.chains.records import Assignment
from dida.chains.run_record import RunRecord
from dida.chains.runs import Runs
from dida.errors import DidaError, Unavailable
from dida.protocols.links import Unreachable
from dida.scheduler.workers import Workers
from dida.wire.messages import Error, Reply
from dida.wire.runs import GOING_ON

_log = Logger()


class Dispatch:
    """Sends the current steps of runs to their workers.

    `request` builds the request of a run; `on_failed` is called with a run that failed because a worker refused it.
    """

    def __init__(
        self,
        reactor: Any,
        runs: Runs,
        workers: Workers,
        request: Callable[[RunRecord], Execute],
        on_failed: Callable[[RunRecord | None], None],
    ) -> None:
        self._reactor = reactor
        self._runs = runs
        self._workers = workers
        self._request = request
        self._on_failed = on_failed
        self._sending: set[str] = set()
        """Runs whose request is in flight to a worker."""

    def send(self, run: RunRecord) -> None:
        """Send the current step of a run to its worker; choose another one when that refuses."""
        step = run.current
        if step is None or run.id in self._sending:
            return
        worker = self._workers.find(step.worker, Address(step.host, step.port))
        if worker is None:
            self._refused(run, step, errors.UNAVAILABLE, "its worker is gone")
            return
        self._sending.add(run.id)
        request = self._request(run)
        epoch = run.epoch  # `request` may have begun another one

        def answered(result: Reply | Failure) -> None:
            self._sending.discard(run.id)
            if run.epoch != epoch:
                return  # it goes on as another execution, which is sent with the next tick
            if isinstance(result, Failure):
                if result.check(DidaError) is None:
                    _log.failure("a run could not be sent", result)
                problem = result.value if isinstance(result.value, DidaError) else Unavailable("a bug")
                sure = isinstance(problem, Unreachable)
                self._refused(run, step, errors.UNAVAILABLE, " ".join(problem.words), sure)
            elif isinstance(result, Error):
                self._refused(run, step, result.code, why_not(result))
            elif run.current is not None and run.current.attempt == step.attempt:
                run.unsent = ""
                run.progress = max(run.progress, self._reactor.seconds())

        worker.link.ask(request, HOP_TIMEOUT).addBoth(answered)

    def _refused(self, run: RunRecord, step: Assignment, code: str, why: str, sure: bool = True) -> None:
        """Choose another worker for a step that its worker did not take, or fail the run.

        `sure`: the worker has not begun it.
        """
        if run.state != GOING_ON or run.current is not step:
            return
        run.unsent = f"{step.worker} did not accept it: {why}"
        now = self._reactor.seconds()
        if code not in TRANSIENT:
            text = f"{step.operator} at position {step.position} was not begun by {step.worker}: {why}"
            self._on_failed(self._runs.on_failed(run.id, text, now, step.position))
        elif self._workers.reachable:
            where = self._workers.reachable
            self._runs.on_reassign(run.id, step.position, (step.worker,), where, now, run.round, sure=sure)
        elif not sure:
            self._runs.anew(run)
