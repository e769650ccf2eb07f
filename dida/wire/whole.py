"""What a node knows of the whole system: its reply to `system`.

No node knows all. A storage node knows the storage, and the schedulers that use it; a scheduler knows its storage nodes
and workers. A client that has the address of any node asks it, then the nodes that it names, and joins the replies.
"""

from __future__ import annotations

from collections.abc import Iterable

from dida.addresses import NodeAddress, StorageAddress
from dida.wire.messages import Ok

MAX_SCHEDULERS = 10
"""The most schedulers that a node knows."""
REMEMBERED = 30.0
"""Time after which a scheduler that does not send its address any more is forgotten, in seconds."""


def whole(
    storage: Iterable[StorageAddress] = (),
    schedulers: Iterable[NodeAddress] = (),
    workers: Iterable[NodeAddress] = (),
    pcs: Iterable[NodeAddress] = (),
) -> Ok:
    """Return the reply of a node that knows these nodes."""
    return Ok(
        (),
        {
            "storage": [{"replica": each.replica, "id": each.id, "url": str(each.address)} for each in storage],
            "schedulers": _listed(schedulers),
            "workers": _listed(workers),
            "pcs": _listed(pcs),
            "http": [],
        },
    )


def _listed(nodes: Iterable[NodeAddress]) -> list[dict[str, str]]:
    return [{"id": each.id, "url": str(each.address)} for each in nodes]


class Schedulers:
    """The schedulers that use a node: they send their addresses every few seconds."""

    def __init__(self) -> None:
        self._seen_at: dict[NodeAddress, float] = {}

    def note(self, scheduler: NodeAddress, now: float) -> None:
        """Take note of a scheduler's address."""
        self._seen_at.pop(scheduler, None)
        self._seen_at[scheduler] = now
        if len(self._seen_at) > MAX_SCHEDULERS:
            del self._seen_at[next(iter(self._seen_at))]

    def living(self, now: float) -> list[NodeAddress]:
        """Return the schedulers that have sent their addresses recently."""
        self._seen_at = {each: when for each, when in self._seen_at.items() if now - when <= REMEMBERED}
        return list(self._seen_at)
