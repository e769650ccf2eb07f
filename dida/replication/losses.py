"""What a replica has that others may lack, and what it discards when they go on without it."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import Factory, define

from dida.replication.messages import View
from dida.timestamps import Timestamp


def beyond(have: Timestamp, known: Timestamp) -> int:
    """Return how many updates of `have` are not in `known`."""
    return sum(max(0, count - known.get(stream, 0)) for stream, count in have.items())


@define
class Losses:
    """The updates of one replica that are lost if another side of a partition prevails."""

    discarded: int = 0
    """Updates that this process has discarded, at most."""
    alone: int = 0
    """Updates in the view in force that replicas removed for their silence may lack."""
    _silent: set[int] = Factory(set)
    """Replicas that were removed for their silence and are not back: they may be alive, in another view."""

    def enter(
        self, view: View, base: Timestamp, old_base: Timestamp | None, confirmed: Mapping[int, Timestamp]
    ) -> None:
        """A view begins with `base`; the one before began with `old_base` (None: there was none).

        `confirmed`: replica removed for its silence to what it has confirmed.
        """
        if not self._silent:
            self.alone = max((beyond(base, has) for has in confirmed.values()), default=0)
        elif old_base is not None:
            self.alone += beyond(base, old_base)
        self._silent |= confirmed.keys()
        self._silent -= {m.replica for m in view.members}

    def discard(self, updates: int) -> None:
        """This replica forgets its state, with so many updates that nobody else may have."""
        self.alone = 0
        self._silent.clear()
        self.discarded += updates
