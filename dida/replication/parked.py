"""Requests of clients that a replica cannot answer yet, and what each waits for.

A request that lacks updates waits for its stream to get that far; any other is tried again whenever something has
changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Any

from dida.replication.operations import PendingRequest
from dida.timestamps import Timestamp


class ParkedRequests:
    """The parked requests of one replica, by token, in order of arrival. Times are of the replica's clock."""

    def __init__(self) -> None:
        self.requests: dict[Any, PendingRequest] = {}
        self._restless: dict[Any, None] = {}
        """Those that any change may help; all others lack updates."""
        self._lacking: dict[str, list[tuple[int, int, Any]]] = {}
        """Stream to a heap of what lacks it: the count it needs, its order of arrival, its token."""
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self.requests)

    def add(self, waiting: PendingRequest, now: float, stream: str | None) -> None:
        """Park a request until `stream` has as much as its `after` asks for; None: until anything changes."""
        self.requests[waiting.token] = waiting
        if waiting.parked_at is None:
            waiting.parked_at = now
        if stream is None:
            self._restless[waiting.token] = None
        else:
            self._arrivals += 1
            heappush(self._lacking.setdefault(stream, []), (waiting.op.after[stream], self._arrivals, waiting.token))

    def take_all(self) -> list[PendingRequest]:
        """Remove and return all requests."""
        again = list(self.requests.values())
        self.clear()
        return again

    def take_supplied(self, value_ts: Timestamp) -> list[PendingRequest]:
        """Remove and return those that may have what they wait for, now that `value_ts` is applied."""
        tokens = list(self._restless)
        for stream, line in list(self._lacking.items()):
            while line and line[0][0] <= value_ts.get(stream, 0):
                token = heappop(line)[2]
                if token in self.requests:
                    tokens.append(token)
            if not line:
                del self._lacking[stream]
        self._restless.clear()
        return [self.requests.pop(token) for token in tokens]

    def take_late(self, now: float, patience: float = float("inf")) -> list[PendingRequest]:
        """Remove and return those whose deadline is over, or that have been parked for `patience` seconds."""
        late = [
            waiting
            for waiting in self.requests.values()
            if now >= waiting.deadline or (waiting.parked_at is not None and now - waiting.parked_at >= patience)
        ]
        for waiting in late:
            del self.requests[waiting.token]
            self._restless.pop(waiting.token, None)
        return late

    def forget_others(self, tried: Iterable[PendingRequest]) -> None:
        """Of requests that were tried again, those that are no longer parked begin a new wait when they come back."""
        for waiting in tried:
            if waiting.token not in self.requests:
                waiting.parked_at = None

    def clear(self) -> None:
        """Remove all requests."""
        self.requests.clear()
        self._restless.clear()
        self._lacking.clear()
