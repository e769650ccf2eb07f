"""Outcomes of runs that another scheduler may have continued, too: taken only if the storage bears them out.

A scheduler knows the epochs that it has given. A run that it has adopted, or that a client has started again, may have
a higher one somewhere, with a worker that is only paused. So before such an outcome is taken the run is fenced to an
epoch above all others, and its updates are compared with those of the outcome.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.python.failure import Failure

from dida import errors
from dida.chains.journal import borne_out
from dida.chains.records import Mark
from dida.chains.run_record import RunRecord
from dida.chains.runs import Runs
from dida.client.operations import epoch_of
from dida.client.storage_client import StorageClient
from dida.errors import DidaError, Unavailable
from dida.protocols.lines import Answer
from dida.wire.messages import Epoch, Ok, Reply
from dida.wire.runs import GOING_ON

SUPERSEDED = Ok(("superseded",))
"""The reply to an outcome that does not count."""


class Verification:
    """The verification of one scheduler's outcomes."""

    def __init__(self, reactor: Any, runs: Runs, storage_client: StorageClient) -> None:
        self._reactor = reactor
        self._runs = runs
        self._storage_client = storage_client
        self._locks: dict[str, DeferredLock] = {}
        """By run: one outcome after the other is verified."""
        self._open: set[Deferred[Reply]] = set()

    def stop(self) -> None:
        """Give up what is being verified: the workers report it to the next scheduler."""
        for work in list(self._open):
            work.cancel()

    def take(self, run: RunRecord, epoch: Epoch, mark: Mark, take: Callable[[Epoch], Reply]) -> Answer:
        """Call `take` with the epoch in which an outcome counts, at once or when it is verified; return its reply.

        `epoch` and `mark` are those of the execution that has reported the outcome.
        """
        if self._counts_as_it_is(run, epoch):
            return take(epoch)
        work = Deferred.fromCoroutine(self._verified(run, epoch, mark, take))
        if not work.called:
            self._open.add(work)
            work.addBoth(self._done, work)
        return work

    def _counts_as_it_is(self, run: RunRecord, epoch: Epoch) -> bool:
        return run.sealed or run.state != GOING_ON or epoch < run.epoch

    def _done(self, result: Any, work: Deferred[Reply]) -> Any:
        self._open.discard(work)
        if isinstance(result, Failure) and result.check(CancelledError):
            return Failure(Unavailable("the scheduler is shutting down"))
        return result

    async def _verified(self, run: RunRecord, epoch: Epoch, mark: Mark, take: Callable[[Epoch], Reply]) -> Reply:
        lock = self._locks.setdefault(run.id, DeferredLock())
        await lock.acquire()
        try:
            if self._counts_as_it_is(run, epoch):
                return take(epoch)
            sealed = self._runs.seal(run)
            good = await self._is_borne_out(run, sealed, mark)
            self._runs.on_sealed(run, sealed, self._reactor.seconds(), good)
            return take(sealed) if good else SUPERSEDED
        except DidaError as problem:
            if problem.code != errors.SUPERSEDED:
                raise
            self._runs.on_superseded(run.id, epoch_of(problem), self._reactor.seconds())
            return SUPERSEDED
        finally:
            lock.release()
            if not lock.locked:
                self._locks.pop(run.id, None)

    async def _is_borne_out(self, run: RunRecord, sealed: Epoch, mark: Mark) -> bool:
        """Fence the run, and compare. What the storage has forgotten was taken by a scheduler before."""
        if self._storage_client.replicas.unknown:
            return True
        try:
            shards = await self._storage_client.fence(run.id, sealed, run.ends - self._reactor.seconds())
        except DidaError as problem:
            if problem.code != errors.SESSION_EXPIRED:
                raise
            return True
        return borne_out(mark, shards)
