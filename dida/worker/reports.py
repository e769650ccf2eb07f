"""The reports of a worker to schedulers, retried until they are acknowledged.

Reports to one scheduler are sent in order; those that can wait are sent at the end of the turn, after the messages
between workers. While a scheduler can't be reached, a bounded number of reports waits. A scheduler that was restarted
with the same URL does not know the earlier runs, so a report about an unknown run is preceded by the run's request
(`adopt`). The newest outcomes that a scheduler has acknowledged are kept for the one after it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, islice
from typing import Any

import attrs
from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from dida import errors
from dida.addresses import Address
from dida.chains.messages import Adopt, Completed, Ended, Execute, Failed, Returned
from dida.errors import DidaError
from dida.protocols.link_pool import ConnectionPool
from dida.protocols.links import Unreachable
from dida.wire.messages import Error, Ok, Reply, Request

MAX_WAITING = 20_000
"""The most reports that wait for schedulers; the oldest is dropped for a newer one."""
REPORT_TIMEOUT = 5.0
"""Time-out for a report, in seconds."""
MAX_OUTCOMES = 500
MAX_BYTES = 8 * 2**20
"""The most outcomes that are kept, and about the memory that they may take, in bytes."""
AT_ONCE = 500
"""The most reports in flight."""
PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Pauses between attempts to reach a scheduler, in seconds; the last one repeats."""
AT_THE_MOMENT = 0.001
"""Age up to which an outcome is sent without its age, in seconds."""
MAX_AGO = 86_400.0
"""The highest age that is sent, in seconds."""

_log = Logger()


@define(eq=False)
class Report:
    """One report and the request that it is about."""

    number: int
    to: _Scheduler
    message: Request
    request: Execute
    at: float
    """The time of the event, on this worker's clock."""

    @property
    def bytes(self) -> int:
        """About the memory that it takes."""
        return len(self.request.input) + sum(len(s.output) + 800 + 400 * len(s.records) for s in self.request.chain)


@define(eq=False)
class _Scheduler:
    """One scheduler, and the reports for it."""

    address: Address
    unsent: dict[Report, None] = field(factory=dict)
    in_flight: int = 0
    failures: int = 0
    sending: IDelayedCall | None = None
    """The call that sends what is unsent."""
    awaited: set[Report] = field(factory=set)
    """Deferreds that wait for reports to be acknowledged."""
    waiting: list[Deferred[None]] = field(factory=list)


class ReportQueue:
    """The reports of one worker; `on_idle` is called when none is left.

    `choose_timeout`: time-out for asking a scheduler who executes the next step, in seconds.
    """

    def __init__(
        self,
        reactor: Any,
        pool: ConnectionPool,
        on_idle: Callable[[], None],
        choose_timeout: float,
        max_outcomes: int = MAX_OUTCOMES,
        max_waiting: int = MAX_WAITING,
        at_once: int = AT_ONCE,
    ) -> None:
        self.choose_timeout = choose_timeout
        self.max_outcomes = max_outcomes
        self.max_waiting = max_waiting
        self.at_once = at_once
        self.undelivered = 0
        """The number of reports that were dropped."""
        self._reactor = reactor
        self._pool = pool
        self._on_idle = on_idle
        self._numbers = count()
        self._waiting: dict[Report, None] = {}
        self._schedulers: dict[Address, _Scheduler] = {}
        self._outcomes: dict[str, tuple[Address, Report]] = {}
        """By run."""
        self._bytes = 0

    @property
    def waiting(self) -> int:
        """The number of reports that no scheduler has acknowledged."""
        return len(self._waiting)

    def stop(self) -> None:
        """Drop the waiting reports."""
        self._waiting.clear()
        for scheduler in self._schedulers.values():
            scheduler.unsent.clear()
            scheduler.awaited.clear()
            if scheduler.sending is not None:
                scheduler.sending.cancel()
        self._schedulers.clear()

    def tell(
        self, address: Address, message: Request, request: Execute, soon: bool = True, at: float | None = None
    ) -> None:
        """Report to the scheduler; `request` is the run's, for a scheduler that does not know the run.

        Without `soon` the report may wait for the end of the turn. `at` is the time of the event, if that is not now.
        """
        scheduler = self._schedulers.get(address)
        if scheduler is None:
            scheduler = self._schedulers[address] = _Scheduler(address)
        if len(self._waiting) >= self.max_waiting:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.to.unsent.pop(oldest, None)
            self._forget(oldest)
            self.undelivered += 1
        at = self._reactor.seconds() if at is None else at
        report = Report(next(self._numbers), scheduler, message, request, at)
        self._waiting[report] = scheduler.unsent[report] = None
        if scheduler.failures and (scheduler.sending is not None or scheduler.in_flight):
            return  # it follows those that are retried
        if soon:
            self._send(scheduler)
        elif scheduler.sending is None:
            scheduler.sending = self._reactor.callLater(0, self._send_waiting, scheduler)

    def tell_outcomes(self, scheduler: Address, life: str) -> None:
        """Send a scheduler the outcomes that an earlier one, with another `life`, has acknowledged."""
        for to, report in list(self._outcomes.values()) if life else ():
            if to == scheduler and not report.request.began_in(life):
                self.tell(scheduler, report.message, report.request, at=report.at)

    def when_told(self, address: Address) -> Deferred[None]:
        """Return a Deferred that fires when that scheduler has acknowledged all that waits for it now."""
        scheduler = self._schedulers.get(address)
        if scheduler is None:
            return succeed(None)
        scheduler.awaited = {report for report in self._waiting if report.to is scheduler}
        if not scheduler.awaited:
            return succeed(None)
        done: Deferred[None] = Deferred()
        scheduler.waiting = [each for each in scheduler.waiting if not each.called] + [done]
        if scheduler.failures and scheduler.sending is not None:
            scheduler.sending.cancel()
            self._send_again(scheduler)
        return done

    def _keep(self, to: Address, report: Report) -> None:
        run = report.request.meta.run
        if run in self._outcomes:
            self._bytes -= self._outcomes.pop(run)[1].bytes
        self._outcomes[run] = (to, report)
        self._bytes += report.bytes
        while len(self._outcomes) > self.max_outcomes or self._bytes > MAX_BYTES:
            _, oldest = self._outcomes.pop(next(iter(self._outcomes)))
            self._bytes -= oldest.bytes

    async def choose(self, scheduler: Address, done: Completed, following: Execute) -> Execute:
        """Report a step, and ask who executes the next one; if nobody replies, it is the one that is planned in
        `following`."""
        try:
            reply = await self._pool.ask(scheduler.host, scheduler.port, done, self.choose_timeout)
        except DidaError as problem:
            done = attrs.evolve(done, choose=False)
            self.tell(scheduler, done, following)
            if not isinstance(problem, Unreachable):  # it may have chosen another one
                self.tell(scheduler, Adopt(request=following), following)
            return following
        if not isinstance(reply, Ok):
            self.tell(scheduler, attrs.evolve(done, choose=False), following)
        elif len(reply.words) >= 3 and reply.words[2].isdigit():
            worker, host, port = reply.words[:3]
            return following.with_step(worker=worker, host=host, port=int(port))
        return following

    def _send_waiting(self, scheduler: _Scheduler) -> None:
        scheduler.sending = None
        self._send(scheduler)

    def _send(self, scheduler: _Scheduler) -> None:
        """Send what is unsent, up to the limit in flight."""
        for report in list(islice(scheduler.unsent, self.at_once - scheduler.in_flight)):
            del scheduler.unsent[report]
            scheduler.in_flight += 1
            asked = self._ask(scheduler, self._dated(report)).addCallback(self._answered, report)
            asked.addCallbacks(self._acknowledged, self._unacknowledged, callbackArgs=(report,), errbackArgs=(report,))

    def _ago(self, report: Report) -> float:
        now: float = self._reactor.seconds()
        return min(max(0.0, now - report.at), MAX_AGO)

    def _dated(self, report: Report) -> Request:
        """Return the message; an outcome, or a step in hand, carries its age, which is the same on every machine."""
        ago, message = self._ago(report), report.message
        if ago <= AT_THE_MOMENT or not isinstance(message, Adopt | Completed | Ended | Failed):
            return message
        changes: dict[str, Any] = {"late": round(message.late + ago, 3)} if isinstance(message, Adopt) else {}
        return attrs.evolve(message, ago=round(min(message.ago + ago, MAX_AGO), 3), **changes)

    def _ask(self, scheduler: _Scheduler, message: Request) -> Deferred[Reply]:
        to = scheduler.address
        return self._pool.ask(to.host, to.port, message, REPORT_TIMEOUT)

    def _answered(self, reply: Reply, report: Report) -> Reply | Deferred[Reply]:
        if isinstance(reply, Error) and reply.code == errors.NO_SUCH_RUN:
            ago = round(self._ago(report), 3)
            late = ago if isinstance(report.message, Completed | Returned) else 0.0  # else the run ends with it
            adopted = self._ask(report.to, Adopt(request=report.request, ago=ago, late=late))
            return adopted.addCallback(
                lambda reply: reply if isinstance(reply, Error) else self._ask(report.to, self._dated(report))
            )
        return reply

    def _acknowledged(self, reply: Reply, report: Report) -> None:
        """Take the scheduler's acknowledgement, even if it is an error."""
        if isinstance(reply, Error):
            self.undelivered += 1
            _log.warn("{to} refused {message}: {why}", to=report.to.address, message=report.message, why=reply)
        elif isinstance(report.message, Ended | Failed) and not reply.words:
            self._keep(report.to.address, report)
        scheduler = report.to
        scheduler.in_flight -= 1
        if scheduler.failures:
            scheduler.failures = 0
            if scheduler.sending is not None:
                scheduler.sending.cancel()
                scheduler.sending = None
        if scheduler.sending is None:
            self._send(scheduler)
        waited = self._waiting.pop(report, report) is None
        self._forget(report)
        if waited and not self._waiting:
            self._schedulers.clear()
            self._on_idle()

    def _forget(self, report: Report) -> None:
        """Remove a report that was acknowledged or dropped, and notify those that wait for it."""
        scheduler = report.to
        scheduler.awaited.discard(report)
        if not scheduler.awaited:
            waiting, scheduler.waiting = scheduler.waiting, []
            for each in waiting:
                if not each.called:
                    each.callback(None)

    def _unacknowledged(self, failure: Failure, report: Report) -> None:
        """Send it again after a pause, in the same order."""
        if failure.check(DidaError) is None:
            _log.failure("a report ended in a bug", failure)
        scheduler = report.to
        scheduler.in_flight -= 1
        if report not in self._waiting:
            return
        scheduler.unsent[report] = None
        if not scheduler.failures or scheduler.sending is None:
            if scheduler.sending is not None:
                scheduler.sending.cancel()
            pause = PAUSES[min(scheduler.failures, len(PAUSES) - 1)]
            scheduler.failures += 1
            scheduler.sending = self._reactor.callLater(pause, self._send_again, scheduler)

    def _send_again(self, scheduler: _Scheduler) -> None:
        scheduler.unsent = dict.fromkeys(sorted(scheduler.unsent, key=lambda report: report.number))
        self._send_waiting(scheduler)
