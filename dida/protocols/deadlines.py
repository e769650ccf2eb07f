"""Many deadlines, and one timer of the reactor for all of them: most pass without anybody being late."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

from twisted.internet.interfaces import IDelayedCall, IReactorTime

SLACK = 64
"""Cancelled deadlines that may lie around, beside twice as many as those that count."""

Deadline = tuple[float, int]
"""When it is, and its number."""


class Deadlines:
    """Calls that are to be made at their times, unless they are cancelled, which they mostly are."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._heap: list[Deadline] = []
        self._calls: dict[Deadline, Callable[[], None]] = {}
        self._numbers = count()
        self._timer: IDelayedCall | None = None
        self._due = 0.0
        """When the timer goes off."""

    def add(self, seconds: float, call: Callable[[], None]) -> Deadline:
        """Have `call` called in so many seconds."""
        deadline = (self._clock.seconds() + max(0.0, seconds), next(self._numbers))
        self._calls[deadline] = call
        heapq.heappush(self._heap, deadline)
        if self._timer is None or deadline[0] < self._due:
            self._set_timer(deadline[0])
        return deadline

    def cancel(self, deadline: Deadline) -> None:
        """It was met. Nothing happens when it was missed, or cancelled before."""
        if self._calls.pop(deadline, None) is None:
            return
        if not self._calls:
            self._heap.clear()
            self._stop_timer()
        elif len(self._heap) > SLACK + 3 * len(self._calls):
            self._heap = list(self._calls)
            heapq.heapify(self._heap)

    def _set_timer(self, when: float) -> None:
        self._stop_timer()
        self._due = when
        self._timer = self._clock.callLater(max(0.0, when - self._clock.seconds()), self._look)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Make the calls whose time has come, and wait for the next one."""
        self._timer = None
        now = self._clock.seconds()
        late = []
        while self._heap and (self._heap[0][0] <= now or self._heap[0] not in self._calls):
            call = self._calls.pop(heapq.heappop(self._heap), None)
            if call is not None:
                late.append(call)
        if self._heap:
            self._set_timer(self._heap[0][0])
        for call in late:
            call()
