"""The handoff of a request to the worker of its next operator, which must acknowledge it.

A worker that refuses, can't be reached or does not reply in time is replaced: the scheduler names another one
(`reassign`). Without a scheduler the request goes to another worker of its route, at last to this one itself. Then
the scheduler is notified who has it (`adopt`): it may have named a worker when nobody waited for that any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.task import deferLater

from dida import errors
from dida.addresses import Address
from dida.chains.messages import HOP_TIMEOUT, TRANSIENT, Adopt, Execute, Reassign, why_not
from dida.client.operations import epoch_in
from dida.errors import BadRequest, DidaError
from dida.protocols.link_pool import ConnectionPool
from dida.protocols.links import Unreachable
from dida.wire.messages import Error, Ok
from dida.worker.reports import ReportQueue

ASK_TIMEOUT = 2.0
"""Time-out for a scheduler to name another worker, in seconds."""
PAUSE = 0.2
"""Pause before the workers that refused are asked again, in seconds."""


class NotHandedOn(Exception):
    """No worker has accepted the request."""


class Handoff:
    """The handoff of one worker, `me`. `begin` executes a request here, or raises."""

    def __init__(
        self, reactor: Any, me: str, pool: ConnectionPool, reports: ReportQueue, begin: Callable[[Execute], None]
    ) -> None:
        self.leaving = False
        """True if this worker ends as soon as it has finished its steps."""
        self.elsewhere = 0
        """Requests that another worker than the first choice has accepted."""
        self._reactor = reactor
        self._me = me
        self._pool = pool
        self._reports = reports
        self._begin = begin
        self._scheduler_answers = False

    async def send(self, scheduler: Address, request: Execute, elsewhere: bool = False) -> None:
        """Return when a worker has accepted the request, or the run goes on without it. Raises NotHandedOn.

        With `elsewhere` another worker than this one is asked first.

        A worker that is leaving keeps no request that nobody accepts: the scheduler knows what was executed, and sends
        the next step itself once this worker is gone.
        """
        ends = self._reactor.seconds() + request.left
        avoid: list[str] = [self._me] if elsewhere else []
        sure = True  # no worker has begun the step in this epoch
        if elsewhere:
            other = await self._another(scheduler, request, avoid, sure)
            if other is None:
                return
            request = other
        while True:
            to = request.assignment
            try:
                if to.worker == self._me:
                    self._begin(request)
                    reply: Any = Ok()
                else:
                    reply = await self._pool.ask(to.host, to.port, request, HOP_TIMEOUT)
            except DidaError as problem:
                sure = sure and isinstance(problem, Unreachable)  # else it may have arrived
                refusal, why = problem.code, " ".join(problem.words)
            else:
                if isinstance(reply, Ok):
                    self.elsewhere += bool(avoid)
                    if avoid or request.ask:
                        self._reports.tell(scheduler, Adopt(request=request), request)
                    return
                refusal, why = (reply.code, why_not(reply)) if isinstance(reply, Error) else ("", "refused")
            if refusal == errors.SUPERSEDED:
                return
            if refusal not in TRANSIENT or self._reactor.seconds() >= ends:
                raise NotHandedOn(f"{to.worker}: {why}")
            if to.worker in avoid:  # all were asked
                if self.leaving and self._scheduler_answers:
                    return
                avoid.clear()
                await deferLater(self._reactor, PAUSE)
            avoid.append(to.worker)
            left = max(0.0, ends - self._reactor.seconds())
            other = await self._another(scheduler, attrs.evolve(request, left=left), avoid, sure)
            if other is None:
                return
            sure = sure or other.epoch != request.epoch
            request = other

    async def _another(self, scheduler: Address, request: Execute, avoid: list[str], sure: bool) -> Execute | None:
        """Return the request with another worker for its next step; None if the run goes on without it."""
        run, position, epoch = request.meta.run, request.next, request.epoch
        most = tuple(avoid[-100:])
        ask = Reassign(run=run, position=position, round=request.round, avoid=most, epoch=epoch, sure=sure)
        try:
            reply = await self._pool.ask(scheduler.host, scheduler.port, ask, ASK_TIMEOUT)
            if isinstance(reply, Error) and reply.code == errors.NO_SUCH_RUN:
                await self._pool.ask(scheduler.host, scheduler.port, Adopt(request=request), ASK_TIMEOUT)
                reply = await self._pool.ask(scheduler.host, scheduler.port, ask, ASK_TIMEOUT)
        except DidaError:
            self._scheduler_answers = False
            return self._by_the_route(request, avoid, sure)
        self._scheduler_answers = True
        if isinstance(reply, Error):
            return None if reply.code == errors.SUPERSEDED else self._by_the_route(request, avoid, sure)
        try:
            worker, host, port, attempt = reply.words
            named = epoch_in(reply.object)
            request = attrs.evolve(request, epoch=named, ask=request.ask or named != request.epoch)
            return request.with_step(worker=worker, host=host, port=int(port), attempt=int(attempt))
        except (ValueError, BadRequest):
            return self._by_the_route(request, avoid, sure)

    def _by_the_route(self, request: Execute, avoid: list[str], sure: bool) -> Execute:
        """Return the request with another worker of the route, or with this one.

        Only if no worker can have begun the step: two executions of one epoch could both count, and an epoch that the
        scheduler does not know would let it take the outcome of the older one. Else the same worker is asked again.
        """
        if not sure:
            return request
        attempt = request.assignment.attempt + 1
        wanted = request.assignment.operator
        for step in sorted(
            request.chain, key=lambda step: step.operator != wanted
        ):  # those that have it for certain first
            if step.worker not in avoid and step.worker != self._me:
                return request.with_step(worker=step.worker, host=step.host, port=step.port, attempt=attempt)
        return request.with_step(worker=self._me, attempt=attempt)
