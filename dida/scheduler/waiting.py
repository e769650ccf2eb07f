"""Requests that wait for something to become known: each for a bounded time, and a bounded number of them."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from dida.errors import DidaError, Unavailable
from dida.protocols.deadlines import Deadline, Deadlines


class WaitingRoom:
    """Waiting requests by the name of what they wait for. Each goes on when that is called or when its time is over."""

    def __init__(self, deadlines: Deadlines, limit: int, full: str) -> None:
        """`full`: the error text when too many requests wait."""
        self._deadlines = deadlines
        self._limit = limit
        self._full = full
        self._size = 0
        self._waiting: dict[str, dict[Deferred[None], Deadline]] = {}

    def __len__(self) -> int:
        return self._size

    def wait(self, name: str, seconds: float) -> Deferred[None]:
        """Return a Deferred that fires when `name` is called, at the latest after `seconds`; Unavailable if too many
        wait."""
        if self._size >= self._limit:
            raise Unavailable(self._full)
        here = self._waiting.setdefault(name, {})

        def given_up(waiting: Deferred[None]) -> None:
            self._leave(name, waiting)

        def too_late() -> None:
            self._leave(name, waiting)
            waiting.callback(None)

        waiting: Deferred[None] = Deferred(given_up)

        here[waiting] = self._deadlines.add(seconds, too_late)
        self._size += 1
        return waiting

    def call(self, name: str) -> None:
        """Let those go on that wait for `name`."""
        for waiting in list(self._waiting.get(name, ())):
            if self._leave(name, waiting):
                waiting.callback(None)

    def call_all(self) -> None:
        """Let all go on."""
        for name in list(self._waiting):
            self.call(name)

    def close(self, problem: DidaError) -> None:
        """Fail all that wait."""
        for name, here in list(self._waiting.items()):
            for waiting in list(here):
                if self._leave(name, waiting):
                    waiting.errback(problem)

    def _leave(self, name: str, waiting: Deferred[None]) -> bool:
        """Remove a waiting request; return False if it was not there."""
        here = self._waiting.get(name, {})
        deadline = here.pop(waiting, None)
        if deadline is None:
            return False
        self._deadlines.cancel(deadline)
        self._size -= 1
        if not here:
            del self._waiting[name]
        return True
