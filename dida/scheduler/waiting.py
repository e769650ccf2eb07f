"""Requests that wait for something to become known, each for a bounded time, at most so many at once."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from dida.errors import DidaError, Unavailable
from dida.protocols.deadlines import Deadline, Deadlines


class WaitingRoom:
    """Who waits, by what for. Each goes when that is called, or when its time is over, and looks for itself then."""

    def __init__(self, deadlines: Deadlines, limit: int, full: str) -> None:
        """`full` tells the one for whom there is no room, why."""
        self._deadlines = deadlines
        self._limit = limit
        self._full = full
        self._size = 0
        self._waiting: dict[str, dict[Deferred[None], Deadline]] = {}

    def __len__(self) -> int:
        return self._size

    def wait(self, name: str, seconds: float) -> Deferred[None]:
        """Fires when `name` is called, after `seconds` at the latest. Unavailable when the room is full."""
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
        """Let those go who wait for that."""
        for waiting in list(self._waiting.get(name, ())):
            if self._leave(name, waiting):
                waiting.callback(None)

    def call_all(self) -> None:
        """Let all go."""
        for name in list(self._waiting):
            self.call(name)

    def close(self, problem: DidaError) -> None:
        """All are told that there is nothing to wait for."""
        for name, here in list(self._waiting.items()):
            for waiting in list(here):
                if self._leave(name, waiting):
                    waiting.errback(problem)

    def _leave(self, name: str, waiting: Deferred[None]) -> bool:
        """Whether it was still there."""
        here = self._waiting.get(name, {})
        deadline = here.pop(waiting, None)
        if deadline is None:
            return False
        self._deadlines.cancel(deadline)
        self._size -= 1
        if not here:
            del self._waiting[name]
        return True
