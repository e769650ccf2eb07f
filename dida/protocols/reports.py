"""What a worker has to tell a scheduler, told until it is understood.

Reports to one scheduler leave in their order. While it can't be reached they wait, the newest MAX_WAITING of
them, and are sent when it is there again: started anew with the same URL, it knows nothing of the runs before,
so a report on a run that it does not know is preceded by the run's request (`adopt`). The newest outcomes that a
scheduler has taken are kept for the one after it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import attrs
from attrs import define, field
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.task import deferLater
from twisted.logger import Logger

from dida import errors
from dida.addresses import Address
from dida.chain_messages import Adopt, Completed, Ended, Execute, Failed
from dida.errors import DidaError
from dida.messages import Error, Ok, Request
from dida.protocols.links import Unreachable
from dida.protocols.peers import Peers

MAX_WAITING = 20_000
"""Reports that wait for schedulers; the oldest is dropped for a newer one."""
REPORT_TIMEOUT = 5.0
"""Seconds for a scheduler to answer a report."""
CHOOSE_AFTER = 0.005
"""Seconds for which the plan of a route is good: who has taken longer asks who is to execute the next step."""
CHOOSE_TIMEOUT = 2.0
"""Seconds for a scheduler to say who is to execute the next step."""
MAX_OUTCOMES = 500
MAX_BYTES = 8 * 2**20
"""Outcomes that are kept, and about how much memory they may take."""
AT_ONCE = 500
"""Reports without an answer."""
PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between two attempts to reach a scheduler; the last one repeats."""

_log = Logger()


@define(eq=False)
class Report:
    """One report and the request that it is about."""

    message: Request
    request: Execute
    dropped: bool = False

    @property
    def bytes(self) -> int:
        """About how much memory it takes."""
        return len(self.request.input) + sum(len(s.output) + 800 + 400 * len(s.records) for s in self.request.chain)


@define(eq=False)
class _Scheduler:
    """What waits for one scheduler."""

    at_once: DeferredSemaphore = field(factory=lambda: DeferredSemaphore(AT_ONCE))
    failures: int = 0


class Reports:
    """The reports of one worker. `spawn` owns the work that they are."""

    def __init__(self, reactor: Any, peers: Peers, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self.undelivered = 0
        """How many were given up."""
        self._reactor = reactor
        self._peers = peers
        self._spawn = spawn
        self._waiting: dict[Report, None] = {}
        self._schedulers: dict[Address, _Scheduler] = {}
        self._outcomes: dict[str, tuple[Address, Report]] = {}
        """By run."""
        self._bytes = 0

    @property
    def waiting(self) -> int:
        """Reports that no scheduler has understood yet."""
        return len(self._waiting)

    def tell(self, scheduler: Address, message: Request, request: Execute) -> None:
        """Have the scheduler told; `request` is the run's, for one that does not know the run."""
        if len(self._waiting) >= MAX_WAITING:
            oldest = next(iter(self._waiting))
            oldest.dropped = True
            del self._waiting[oldest]
            self.undelivered += 1
        report = Report(message, request)
        self._waiting[report] = None
        self._spawn(self._deliver(scheduler, report))

    def tell_outcomes(self, scheduler: Address, life: str) -> None:
        """A scheduler is there: it is told the outcomes that were told to one before it, with another `life`."""
        for run, (to, told) in list(self._outcomes.items()) if life else ():
            if to == scheduler and not run.endswith(f"-{life}"):
                self.tell(scheduler, told.message, told.request)

    def _keep(self, to: Address, told: Report) -> None:
        run = told.request.meta.run
        if run in self._outcomes:
            self._bytes -= self._outcomes.pop(run)[1].bytes
        self._outcomes[run] = (to, told)
        self._bytes += told.bytes
        while len(self._outcomes) > MAX_OUTCOMES or self._bytes > MAX_BYTES:
            _, oldest = self._outcomes.pop(next(iter(self._outcomes)))
            self._bytes -= oldest.bytes

    async def choose(self, scheduler: Address, done: Completed, following: Execute) -> Execute:
        """Report a step, and ask who is to execute the next one: by the plan of `following` when nobody answers."""
        try:
            asked = attrs.evolve(done, choose=True)
            reply = await self._peers.ask(scheduler.host, scheduler.port, asked, CHOOSE_TIMEOUT)
        except DidaError as problem:
            self.tell(scheduler, done, following)
            # It may have chosen another one, and send it the request, too.
            return following if isinstance(problem, Unreachable) else attrs.evolve(following, again=True)
        if not isinstance(reply, Ok):
            self.tell(scheduler, done, following)
        elif len(reply.words) >= 3 and reply.words[2].isdigit():
            worker, host, port = reply.words[:3]
            return following.with_step(worker=worker, host=host, port=int(port))
        return following

    async def _deliver(self, address: Address, report: Report) -> None:
        scheduler = self._schedulers.setdefault(address, _Scheduler())
        try:
            while not report.dropped:
                await scheduler.at_once.acquire()
                try:
                    done = await self._told(address, report)
                finally:
                    scheduler.at_once.release()
                if done:
                    scheduler.failures = 0
                    return
                scheduler.failures += 1
                await deferLater(self._reactor, PAUSES[min(scheduler.failures, len(PAUSES)) - 1])
        finally:
            self._waiting.pop(report, None)
            if not any(True for _ in self._waiting):
                self._schedulers.clear()

    async def _told(self, address: Address, report: Report) -> bool:
        """Whether the scheduler has answered, whatever it thinks of it."""
        try:
            reply = await self._ask(address, report.message)
            if isinstance(reply, Error) and reply.code == errors.NO_SUCH_RUN:
                reply = await self._ask(address, Adopt(request=report.request))
                if not isinstance(reply, Error):
                    reply = await self._ask(address, report.message)
        except DidaError:
            return False
        if isinstance(reply, Error):
            self.undelivered += 1
            _log.warn("{to} refused {message}: {why}", to=address, message=report.message, why=reply)
        elif isinstance(report.message, Ended | Failed) and not reply.words:
            self._keep(address, report)
        return True

    def _ask(self, address: Address, message: Request) -> Deferred[Any]:
        return self._peers.ask(address.host, address.port, message, REPORT_TIMEOUT)
