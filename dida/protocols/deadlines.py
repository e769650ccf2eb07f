"""Many deadlines with one timer of the reactor. Most are cancelled before they pass.

`dida.protocols.links.LineClient` has a separate heap, and its docstring states why.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

from twisted.internet.interfaces import IDelayedCall, IReactorTime

SLACK = 64
"""The most cancelled deadlines that stay in the heap, beside twice as many as those that count."""

Deadline = tuple[float, int]
"""The time and the number of a deadline."""


class Deadlines:
    """Calls at their deadlines, unless they are cancelled, as most are."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._heap: list[Deadline] = []
        self._calls: dict[Deadline, Callable[[], None]] = {}
        self._numbers = count()
        self._timer: IDelayedCall | None = None
        self._due = 0.0
        """The time of the timer."""

    def add(self, seconds: float, call: Callable[[], None]) -> Deadline:
        """Call `call` after so many seconds."""
        deadline = (self._clock.seconds() + max(0.0, seconds), next(self._numbers))
        self._calls[deadline] = call
        heapq.heappush(self._heap, deadline)
        if self._timer is None or deadline[0] < self._due:
            self._set_timer(deadline[0])
        return deadline

    def cancel(self, deadline: Deadline) -> None:
        """Cancel a deadline. Does nothing if it has passed or was cancelled before."""
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
        """Make the calls that are due, and set the timer for the next one."""
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
