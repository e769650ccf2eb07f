"""Virtual time: one heap of events, ordered by (time, number)."""

from __future__ import annotations

import heapq
from collections.abc import Callable

LOOK = 0.01
"""Seconds of virtual time between two checks whether a run has reached its end."""
MAX_EVENTS = 400_000
"""Events of one run of a cluster; a cluster that comes to rest has some twenty thousand."""


class Storm(Exception):
    """The nodes keep each other busy for ever."""


class Events:
    """The events to come, and a clock that jumps from one to the next."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self.trace: Callable[[str], None] | None = None
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def at(self, delay: float, event: Callable[[], None]) -> None:
        """Have `event` happen after `delay` seconds."""
        self._number += 1
        heapq.heappush(self._heap, (self.now + delay, self._number, event))

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Let events happen up to the time `until`, or until `done`; return True if it is done.

        Storm after `MAX_EVENTS` events.
        """
        look = self.now
        while self._heap and self._heap[0][0] <= until:
            if self.now >= look:
                if done():
                    return True
                look = self.now + LOOK
            self.now, _, event = heapq.heappop(self._heap)
            self.events += 1
            event()
            if self.events > MAX_EVENTS:
                raise Storm(f"{self.events} events in {self.now:.1f} s: the nodes keep each other busy")
        self.now = max(self.now, until)
        return done()

    def say(self, text: str) -> None:
        """Print a line of the trace, if there is one."""
        if self.trace is not None:
            self.trace(f"{self.now:9.4f}  {text}")
