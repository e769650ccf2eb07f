"""The outcomes of steps, in lines that are short enough: `completed`, `ended` and `failed` for the report queue."""

from __future__ import annotations

import attrs
from twisted.logger import Logger

from dida.addresses import Address
from dida.chains.journal import mark_before
from dida.chains.messages import Completed, Ended, Execute, Failed
from dida.chains.records import NO_MARK, Assignment, Mark
from dida.chains.texts import MAX_REASON, bounded
from dida.timestamps import Timestamp
from dida.wire import grammar
from dida.wire.messages import Request
from dida.worker.reports import ReportQueue

NO_ROOM = "(not kept: the line of this step has no room for it)"

_log = Logger()


class LineTooLong(Exception):
    """The chain does not fit on a line; the text says why and what to do."""


class Outcomes:
    """The outcomes of one worker's steps. No line is longer than `max_line` bytes."""

    def __init__(self, reports: ReportQueue, max_line: int) -> None:
        self._reports = reports
        self._max_line = max_line

    def completed(self, following: Execute, printed: str, choose: bool) -> Completed:
        """Return the report that a step was executed; `following` is the request of the next one.

        `choose`: ask the scheduler for the worker of that.
        """
        step = following.chain[following.next - 1]
        return Completed(
            run=following.meta.run,
            position=step.position,
            operator=step.operator,
            worker=step.worker,
            ms=step.ms,
            round=following.round,
            step=step,
            epoch=following.epoch,
            number=following.number,
            bytes=following.bytes,
            kept=following.kept,
            known=following.known,
            choose=choose,
            printed=self._fitting(printed, (step,), _most_of_known(following)),
        )

    def ended(self, scheduler: Address, request: Execute, printed: str) -> None:
        """Report the end of the run; raise LineTooLong if no line can carry its outputs."""
        kept = self._fitting(printed, request.chain)
        run, after = request.meta.run, request.meta.after
        ended = Ended(run=run, chain=request.chain, epoch=request.epoch, after=after, printed=kept)
        self.check(ended, request.chain)
        self._reports.tell(scheduler, ended, request)

    def failed(
        self,
        scheduler: Address,
        request: Execute,
        at: Assignment,
        why: str,
        bare: bool = False,
        lost: Timestamp | None = None,
        printed: str = "",
        mark: Mark = NO_MARK,
    ) -> None:
        """Report that the run can't go on. `bare`: without the steps before, which the scheduler knows."""
        reason = bounded(f"{at.operator} at position {at.position} {why}", MAX_REASON)
        failed = Failed(
            run=request.meta.run,
            position=at.position,
            operator=at.operator,
            worker=at.worker,
            reason=reason,
            chain=() if bare else request.chain[: request.next],
            after={} if bare else request.meta.after,
            lost=lost or {},
            round=request.round,
            epoch=request.epoch,
            mark=mark if mark != NO_MARK else mark_before(request),
            attempt=at.attempt,
            printed=self._fitting(printed, request.chain[: request.next]),
        )
        try:
            self.check(failed, failed.chain)
        except LineTooLong:
            failed = attrs.evolve(failed, chain=())
        _log.warn("run {run}: {reason}", run=failed.run, reason=reason)
        self._reports.tell(scheduler, failed, request)

    def fitting(self, request: Execute) -> Execute:
        """Return the request, without known values if it does not fit on a line with them."""
        try:
            self.check(request, request.chain)
        except LineTooLong:
            request = attrs.evolve(request, known=())
        return request

    def check(self, request: Request, chain: tuple[Assignment, ...]) -> None:
        """Raise LineTooLong if `request`, which carries `chain`, does not fit on a line."""
        more = 0
        if isinstance(request, Execute):
            more = 8 * len(str(request.kept)) if request.kept else 0
            more += _most_of_known(request)
        if _most_bytes(chain) + more < self._max_line:
            return
        size = len(grammar.encode(request)) + 32
        if size > self._max_line:
            too_long = f"{size} bytes, longer than a line may be ({self._max_line})"
            raise LineTooLong(f"{too_long}: return less, or raise --max-line")

    def _fitting(self, printed: str, chain: tuple[Assignment, ...], more: int = 0) -> str:
        """Return the printed text if the line that carries the chain, and `more` bytes, has room for it."""
        return printed if not printed or _most_bytes(chain) + more + 6 * len(printed) < self._max_line else NO_ROOM


def _most_of_known(request: Execute) -> int:
    """Return an upper limit for the length of what the run knows."""
    return sum(8 * (len(each.key) + len(each.value) + 50) for each in request.known)


def _most_bytes(chain: tuple[Assignment, ...]) -> int:
    """Return an upper limit for the length of the line of a chain."""
    return sum(len(each.output) + 400 + 200 * len(each.records) for each in chain) * 8
