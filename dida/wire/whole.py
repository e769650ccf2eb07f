"""What a node knows of the whole system: what it answers to `system`.

No node knows all. A storage node knows the storage, and the schedulers that use it; a scheduler its storage nodes and
workers. So who has the address of any node asks it, then those that it names, and joins what they say.
"""

from __future__ import annotations

from collections.abc import Iterable

from dida.addresses import NodeAddress, StorageAddress
from dida.wire.messages import Ok

MAX_SCHEDULERS = 10
"""Schedulers that a node knows."""
REMEMBERED = 30.0
"""Seconds for which a scheduler is known that says no more where it is."""


def whole(
    storage: Iterable[StorageAddress] = (),
    schedulers: Iterable[NodeAddress] = (),
    workers: Iterable[NodeAddress] = (),
    pcs: Iterable[NodeAddress] = (),
) -> Ok:
    """The answer of a node that knows these."""
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
    """The schedulers that use a node: they say every few seconds where they are."""

    def __init__(self) -> None:
        self._heard: dict[NodeAddress, float] = {}

    def hear(self, scheduler: NodeAddress, now: float) -> None:
        """This one says so."""
        self._heard.pop(scheduler, None)
        self._heard[scheduler] = now
        if len(self._heard) > MAX_SCHEDULERS:
            del self._heard[next(iter(self._heard))]

    def living(self, now: float) -> list[NodeAddress]:
        """Those that said so not long ago."""
        self._heard = {each: when for each, when in self._heard.items() if now - when <= REMEMBERED}
        return list(self._heard)
