"""The owners of a PCS's nodes: puppetmasters that send `own` for as long as they live.

An owner without an open `own` is gone a little later; its nodes are then ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from dida.errors import Unavailable
from dida.pcs.messages import Elsewhere

MAX_OWNERS = 100
"""Open `own` requests, and owners with nodes at other PCSs."""


class Owners:
    """The owners that are alive. `on_gone` is called with an owner without an open `own` for `orphaned` seconds."""

    def __init__(self, reactor: Any, on_gone: Callable[[str], None], orphaned: float) -> None:
        self._reactor = reactor
        self._on_gone = on_gone
        self._orphaned = orphaned
        self._held: Counter[str] = Counter()
        """Open `own` requests by owner."""
        self._orphans: dict[str, IDelayedCall] = {}
        """The end of the nodes of each owner without an open `own`."""
        self._elsewhere: dict[str, list[Elsewhere]] = {}
        self._ended = False

    @property
    def elsewhere(self) -> list[Elsewhere]:
        """The nodes that the owners have started at other PCSs."""
        return [node for nodes in self._elsewhere.values() for node in nodes]

    def own(self, owner: str, deadline: float) -> Deferred[None]:
        """Keep an owner's nodes until the result fires: at the deadline, or when it is cancelled."""
        if self._held.total() >= MAX_OWNERS:
            raise Unavailable(f"{MAX_OWNERS} owners are here already")
        self._held[owner] += 1
        orphan = self._orphans.pop(owner, None)
        if orphan is not None:
            orphan.cancel()
        holder: Deferred[None] = Deferred(lambda dropped: dropped.callback(None))
        timer = self._reactor.callLater(deadline, holder.callback, None)

        def released(result: Any) -> Any:
            if timer.active():
                timer.cancel()
            self._held[owner] -= 1
            self.watch(owner)
            return result

        return holder.addBoth(released)

    def know(self, owner: str, nodes: list[Elsewhere]) -> None:
        """Remember what an owner has started at other PCSs."""
        if owner not in self._elsewhere and len(self._elsewhere) >= MAX_OWNERS:
            raise Unavailable(f"{MAX_OWNERS} owners are here already")
        self._elsewhere[owner] = nodes
        self.watch(owner)

    def watch(self, owner: str) -> None:
        """Expect an `own` of this owner soon, unless one is open."""
        if owner and not self._held[owner]:
            del self._held[owner]
            if owner not in self._orphans and not self._ended:
                self._orphans[owner] = self._reactor.callLater(self._orphaned, self._gone, owner)

    def _gone(self, owner: str) -> None:
        del self._orphans[owner]
        self._elsewhere.pop(owner, None)
        self._on_gone(owner)

    def end(self) -> None:
        """Watch no owner any more."""
        self._ended = True
        for orphan in self._orphans.values():
            orphan.cancel()
        self._orphans.clear()
