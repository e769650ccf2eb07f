"""The steps that a worker has or had, so that a request that comes twice is executed once.

A request is recognised by its run and position. It is new if it has a higher epoch; also if a client has had the run
started again by another incarnation of the scheduler, which did not know the run and its epochs.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import define, field

from dida.chains.messages import Execute
from dida.wire.messages import Epoch

MAX_KNOWN = 50_000
"""The most ended steps, and cancelled runs, that are remembered."""


@define(eq=False)
class _Known:
    scheduler: str
    life: str
    epoch: Epoch
    request: Execute | None
    """True until the step has ended."""
    at: float
    """The time at which it came."""

    def covers(self, request: Execute) -> bool:
        """Return True if that request needs no further execution."""
        if request.life != self.life:
            return request.epoch == self.epoch
        return request.epoch <= self.epoch


@define
class Steps:
    """The steps of one worker."""

    duplicates: int = field(default=0, init=False)
    """Requests that came twice."""
    in_hand: int = field(default=0, init=False)
    """The number of steps that were accepted and have not ended."""
    _known: dict[tuple[str, int], _Known] = field(factory=dict, init=False)
    _cancelled: dict[str, None] = field(factory=dict, init=False)

    def covers(self, request: Execute) -> bool:
        """Return True if the request came before and needs no further execution."""
        known = self._known.get((request.meta.run, request.next))
        return known is not None and known.covers(request)

    def begin(self, request: Execute, now: float = 0.0) -> bool:
        """Return True if the request is new and must be executed; call `end` afterwards."""
        key = (request.meta.run, request.next)
        known = self._known.pop(key, None)
        if known is not None and known.covers(request):
            self._known[key] = known
            self.duplicates += 1
            return False
        self._known[key] = _Known(request.meta.scheduler, request.life, request.epoch, request, now)
        self.in_hand += 1
        if len(self._known) > MAX_KNOWN:
            oldest = next(iter(self._known))
            if self._known[oldest].request is None:
                del self._known[oldest]
        return True

    def end(self, request: Execute) -> None:
        """End a step; what follows it belongs to others."""
        self.in_hand -= 1
        known = self._known.get((request.meta.run, request.next))
        if known is not None and known.request is request:
            known.request = None

    def requests(self, scheduler: str) -> Iterator[tuple[Execute, float]]:
        """Return the requests in hand of that scheduler's runs, each with the time at which it came."""
        for known in self._known.values():
            if known.request is not None and known.request.meta.scheduler == scheduler:
                yield known.request, known.at

    def cancel(self, run: str) -> None:
        """Begin nothing more of that run."""
        self._cancelled[run] = None
        if len(self._cancelled) > MAX_KNOWN:
            del self._cancelled[next(iter(self._cancelled))]

    def cancelled(self, run: str) -> bool:
        """Return True if the run was cancelled."""
        return run in self._cancelled
