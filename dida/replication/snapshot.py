"""Snapshots: the state of a replica as one atomic copy for a node that joins, in parts that fit on a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from attrs import define, field

from dida.replication.batches import batches
from dida.replication.executed import ReplyCache, bytes_of_dumped
from dida.replication.gossip import ReplicaState
from dida.replication.log import Place, bytes_of
from dida.replication.messages import Record
from dida.replication.store import Store
from dida.timestamps import Timestamp


def parts_of(state: ReplicaState, now: float) -> Iterator[dict[str, Any]]:
    """Return the parts of a snapshot taken now; each is made when it is asked for."""
    held = [state.held[place] for place in sorted(state.held)]
    end = {"value_ts": state.value_ts, "have": state.log.have, "cuts": dict(state.final_counts)}
    return chain(
        ({"records": some} for some in batches(state.store.dump(), _bytes_of_versions)),
        ({"executed": some} for some in batches(state.executed.dump(now), _bytes_of_answers)),
        ({"expired": some} for some in batches(state.executed.expired_sessions, len)),
        ({"held": some} for some in batches(held, bytes_of)),
        (end,),
    )


@define
class Snapshot:
    """The snapshot of another replica as it comes in, part by part."""

    store: Store
    executed: ReplyCache
    held: dict[Place, Record] = field(factory=dict)
    final_counts: dict[str, int] = field(factory=dict)
    value_ts: Timestamp = field(factory=dict)
    have: Timestamp = field(factory=dict)

    @classmethod
    def for_state(cls, state: ReplicaState) -> Snapshot:
        """Return an empty snapshot with the limits of `state`."""
        return cls(Store(state.store.max_versions), ReplyCache(state.executed.ttl))

    def take(self, part: Mapping[str, Any], held: Iterable[Record], now: float) -> None:
        """Add the next part; `held` are the records that it has under that name."""
        self.store.load(part.get("records", []))
        self.executed.load(part.get("executed", []), part.get("expired", []), now)
        self.held.update({(record.stream, record.seq): record for record in held})
        if "have" in part:
            self.value_ts, self.have = dict(part["value_ts"]), dict(part["have"])
            self.final_counts = dict(part["cuts"])

    def install(self, state: ReplicaState, now: float) -> None:
        """Replace whatever is in `state` by this snapshot, which is complete."""
        state.store, state.executed, state.held = self.store, self.executed, self.held
        state.value_ts, state.final_counts = self.value_ts, self.final_counts
        state.prepared.clear()
        state.log.restart(self.have)
        state.apply_held(now)


def _bytes_of_versions(item: list[Any]) -> int:
    return len(item[0]) + sum(60 + len(entry[2]) for entry in item[1])


def _bytes_of_answers(item: list[Any]) -> int:
    return len(item[0]) + sum(map(bytes_of_dumped, item[4]))
