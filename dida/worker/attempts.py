"""The attempts to execute a step: as many as its class wants; and the second copy of what a run has written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.task import deferLater
from twisted.logger import Logger

from dida.chains import redo
from dida.chains.messages import Execute
from dida.client.sessions import CausalContext, StepRequestIds
from dida.client.storage_client import StorageClient
from dida.errors import DidaError
from dida.worker.execution import Operators, Outcome, StepFailed, StepLost
from dida.worker.printing import Printed

SECURE_SECONDS = 15.0
"""Time-out for copying what a run has written to a second storage node, in seconds."""

_log = Logger()


class Attempts:
    """Executes the steps of one worker. `given_up` tells whether nobody wants the outcome of a run any more."""

    def __init__(
        self,
        reactor: Any,
        operators: Operators,
        storage_client: StorageClient,
        given_up: Callable[[str], bool],
        counts: dict[str, int],
    ) -> None:
        """`counts`: the worker's counters; `retried` is counted here."""
        self._counts = counts
        self._reactor = reactor
        self._operators = operators
        self._storage_client = storage_client
        self._given_up = given_up

    async def execute(self, request: Execute, printed: Printed) -> tuple[Execute, Outcome]:
        """Execute the operator until it succeeds or its retries are used up; return the request of the last attempt.

        Raises StepFailed and StepLost.
        """
        ids = StepRequestIds(request.meta.run, request.next, request.again)
        ends = self._reactor.seconds() + request.left
        tries = 0
        while True:
            try:
                left = max(0.0, ends - self._reactor.seconds())
                outcome = await self._operators.execute(request, self._storage_client, left, ids, printed)
            except (StepFailed, StepLost) as problem:
                if self._given_up(request.meta.run):
                    raise CancelledError from None
                if isinstance(problem, StepLost):
                    raise
                if problem.trace and not problem.lack:
                    _log_trace(problem, request)
                policy = self._operators.policy(request.assignment.operator)
                pause = policy.pause(tries)
                if problem.lack:
                    raise
                if tries >= policy.retries or self._reactor.seconds() + pause >= ends:
                    if tries:
                        raise StepFailed(f"{problem} (tried {tries + 1} times)") from None
                    raise
                kept = redo.of_applied(problem.records)
            else:
                return request, outcome
            tries += 1
            self._counts["retried"] += 1
            await deferLater(self._reactor, pause)
            ids.restart()
            attempt = request.assignment.attempt + 1
            request = redo.rewound(request, request.next).with_step(records=kept, attempt=attempt)

    async def secure(self, request: Execute, left: float) -> None:
        """Copy what the run has written to a second storage node. Raises StepFailed and StepLost."""
        written = {
            access.version.replica: access.key
            for step in request.chain
            for access in step.records
            if access.how == "written"
        }
        seen = CausalContext(request.meta.after, request.meta.versions)
        for replica, key in written.items():
            try:
                await self._storage_client.secure(seen, key, replica, min(left, SECURE_SECONDS))
            except DidaError as problem:
                if seen.lost:
                    raise StepLost(seen.lost, request.assignment.records) from None
                text = f"was executed, but what the run has written may be on one storage node only: {problem}"
                raise StepFailed(text) from None


def _log_trace(problem: StepFailed, request: Execute) -> None:
    step = request.assignment
    _log.warn(
        "run {run}: {operator} at position {position} raised:\n{trace}",
        run=request.meta.run,
        operator=step.operator,
        position=step.position,
        trace=problem.trace,
    )
