"""What a worker lacks (descriptors, threads, memory): for a while it takes no more operators."""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger

from dida.protocols.shortage import lack_of_descriptors

LACKING_TOLD = 10.0
"""Shortest interval between two log lines about a shortage, in seconds."""

_log = Logger()


class Shortage:
    """The last shortage of one worker, which takes no operators for `lasts` seconds then."""

    def __init__(self, reactor: Any, lasts: float) -> None:
        self.lasts = lasts
        self._reactor = reactor
        self._what = ""
        self._until = 0.0
        self._logged = float("-inf")

    def note(self, what: str) -> None:
        """Take no operators for a while, because `what` is lacking."""
        now = self._reactor.seconds()
        self._what = what
        self._until = now + self.lasts
        if now >= self._logged + LACKING_TOLD:
            self._logged = now
            _log.warn("no more {what}: steps are passed on to other workers", what=what)

    def now(self) -> str:
        """Return what is lacking for one more operator; empty if nothing is."""
        if self._reactor.seconds() < self._until:
            return self._what
        return lack_of_descriptors()
