"""The attempts to execute a step: as many as its class wants; and the second copy of what a run has written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import Logger

from dida import errors
from dida.chains.journal import History, Hole, Kept, resume
from dida.chains.messages import Execute
from dida.client.operations import epoch_of
from dida.client.sessions import CausalContext
from dida.client.storage_client import StorageClient
from dida.errors import DidaError
from dida.wire.messages import Epoch
from dida.worker.execution import NotDeterministic, Operators, Outcome, StepFailed, StepLost, StepSuperseded
from dida.worker.printing import Printed

SECURE_SECONDS = 15.0
"""Time-out for copying what a run has written to a second storage node, in seconds."""

_log = Logger()


class StepMoved(Exception):
    """The run goes on at another step."""

    def __init__(self, request: Execute) -> None:
        super().__init__(f"goes on at position {request.next}")
        self.request = request


class Attempts:
    """Executes the steps of one worker. `given_up` tells whether nobody wants the outcome of a run any more."""

    def __init__(
        self,
        reactor: Any,
        operators: Operators,
        storage_client: StorageClient,
        given_up: Callable[[str], bool],
        counts: dict[str, int],
        name: str,
    ) -> None:
        """`counts`: the worker's counters; `retried` is counted here. `name`: the worker in epochs, never reused."""
        self._name = name
        self._counts = counts
        self._reactor = reactor
        self._operators = operators
        self._storage_client = storage_client
        self._given_up = given_up

    async def ask(self, request: Execute) -> tuple[Execute, Mapping[int, Kept]]:
        """Fence older executions of the run; return the request as it goes on, and the known entries of its journal.

        Raises StepFailed and StepSuperseded.
        """
        if self._storage_client.replicas.unknown:
            return attrs.evolve(request, ask=False), {}
        try:
            shards = await self._storage_client.fence(request.meta.run, request.epoch, request.left)
            return resume(request, shards)
        except DidaError as problem:
            if problem.code == errors.SUPERSEDED:
                raise StepSuperseded(epoch_of(problem)) from None
            raise StepFailed(f"was not executed again: its run's journal cannot be read: {problem}") from None
        except Hole as problem:
            raise StepFailed(f"cannot be executed again: {problem}") from None

    def anew(self, request: Execute) -> Execute:
        """Return the request as a new execution, which fences the older ones first."""
        return attrs.evolve(request, epoch=Epoch(request.epoch.number + 1, self._name), ask=True)

    async def execute(
        self, request: Execute, known: Mapping[int, Kept], printed: Printed
    ) -> tuple[Execute, Outcome, History]:
        """Execute the operator until it succeeds or its retries are used up; return the request of the last attempt.

        Raises StepFailed, StepLost, StepSuperseded and StepMoved.
        """
        ends = self._reactor.seconds() + request.left
        history = History(request, known)
        tries = 0
        while True:
            versions = dict(request.meta.versions)
            try:
                left = max(0.0, ends - self._reactor.seconds())
                outcome = await self._operators.execute(request, self._storage_client, left, history, printed)
            except (StepFailed, StepLost, StepSuperseded) as problem:
                problem.tried = attrs.evolve(request, number=history.number)
                if self._given_up(request.meta.run):
                    raise CancelledError from None
                if not isinstance(problem, StepFailed):
                    raise
                if problem.trace and not problem.lack:
                    _log_trace(problem, request)
                policy = self._operators.policy(request.assignment.operator)
                pause = policy.pause(tries)
                if problem.lack or isinstance(problem, NotDeterministic):
                    raise
                if tries >= policy.retries or self._reactor.seconds() + pause >= ends:
                    if tries:
                        raise _after(tries, problem) from None
                    raise
                unsure, failed = problem.unsure, problem
            else:
                return request, outcome, history
            tries += 1
            self._counts["retried"] += 1
            await deferLater(self._reactor, pause)
            meta = attrs.evolve(request.meta, versions=versions)
            request = attrs.evolve(request, meta=meta).with_step(attempt=request.assignment.attempt + 1)
            if unsure:
                left = max(0.0, ends - self._reactor.seconds())
                again, known = await self.ask(attrs.evolve(self.anew(request), left=left, number=history.number))
                if again.next != request.next:
                    raise StepMoved(again)
                request, history = again, History(again, known)
            else:
                try:
                    history.begin()
                except Hole as hole:
                    raise StepFailed(f"{failed}, and can't be tried again: {hole}") from None

    async def secure(self, request: Execute, left: float) -> None:
        """Copy what the run has written to a second storage node, all at once. Raises StepFailed and StepLost."""
        written = {
            access.version.replica: access.key
            for step in request.chain
            for access in step.records
            if access.how == "written"
        }
        seen = CausalContext(request.meta.after, request.meta.versions)
        secure, seconds = self._storage_client.secure, min(left, SECURE_SECONDS)
        copies = [Deferred.fromCoroutine(secure(seen, key, replica, seconds)) for replica, key in written.items()]
        try:
            await gatherResults(copies, consumeErrors=True)
        except FirstError as first:
            problem = first.subFailure.value
            if not isinstance(problem, DidaError):
                first.subFailure.raiseException()
            if seen.lost:
                raise StepLost(seen.lost, request.assignment.records) from None
            text = f"was executed, but what the run has written may be on one storage node only: {problem}"
            failed = StepFailed(text)
            failed.mark = request.assignment.mark
            raise failed from None


def _after(tries: int, problem: StepFailed) -> StepFailed:
    failed = StepFailed(f"{problem} (tried {tries + 1} times)")
    failed.mark, failed.tried = problem.mark, problem.tried
    return failed


def _log_trace(problem: StepFailed, request: Execute) -> None:
    step = request.assignment
    _log.warn(
        "run {run}: {operator} at position {position} raised:\n{trace}",
        run=request.meta.run,
        operator=step.operator,
        position=step.position,
        trace=problem.trace,
    )
