"""The debug output of a worker: the steps in its log, and reports to a collector."""

from __future__ import annotations

from twisted.logger import Logger
from twisted.python.failure import Failure

from dida.addresses import Address
from dida.chains.messages import Execute, Output
from dida.protocols.link_pool import ConnectionPool

MAX_REPORTS = 100
"""The most debug reports in flight; further ones are dropped and counted."""
TIMEOUT = 5.0
"""Time-out for a report to the collector, in seconds."""

_log = Logger()


class DebugReporter:
    """The debug output of one worker; nothing waits for it."""

    def __init__(self, worker: str, pool: ConnectionPool) -> None:
        self.to: Address | None = None
        """The address of the collector, if there is one."""
        self.dropped = 0
        self._worker = worker
        self._pool = pool
        self._under_way = 0

    def show(self, request: Execute, output: str) -> None:
        """Log a step, and report it to the collector."""
        step = request.assignment
        _log.info(
            "run {run}: {operator} at position {position} returned {output!r}",
            run=request.meta.run,
            operator=step.operator,
            position=step.position,
            output=output,
        )
        if self.to is None:
            return
        if self._under_way >= MAX_REPORTS:
            self.dropped += 1
            return
        self._under_way += 1
        report = Output(
            run=request.meta.run,
            position=step.position,
            operator=step.operator,
            worker=self._worker,
            output=output,
            meta=request.meta,
        )
        self._pool.ask(self.to.host, self.to.port, report, TIMEOUT).addBoth(self._shown)

    def _shown(self, result: object) -> None:
        self._under_way -= 1
        if isinstance(result, Failure):
            self.dropped += 1
