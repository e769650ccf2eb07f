"""The copy of a replica's state that a joiner gets, in parts that fit on a line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import define, field

from dida.replication.executed import ReplyCache
from dida.replication.log import Place
from dida.replication.messages import Record
from dida.replication.store import Store
from dida.timestamps import Timestamp


@define
class Snapshot:
    """The state of another replica as it comes in, part by part."""

    store: Store
    executed: ReplyCache
    held: dict[Place, Record] = field(factory=dict)
    final_counts: dict[str, int] = field(factory=dict)
    value_ts: Timestamp = field(factory=dict)
    have: Timestamp = field(factory=dict)
    exposed: dict[str, int] = field(factory=dict)

    def take(self, part: Mapping[str, Any], held: Iterable[Record], now: float) -> None:
        """The next part of a dump; `held` are the records that it has under that name."""
        self.store.load(part.get("records", []))
        self.executed.load(part.get("executed", []), part.get("expired", []), now)
        self.held.update({(record.stream, record.seq): record for record in held})
        if "have" in part:
            self.value_ts, self.have = dict(part["value_ts"]), dict(part["have"])
            self.exposed, self.final_counts = dict(part["exposed"]), dict(part["cuts"])


def _bytes_of_versions(item: list[Any]) -> int:
    return len(item[0]) + sum(60 + len(entry[2]) for entry in item[1])


def _bytes_of_answers(item: list[Any]) -> int:
    return len(item[0]) + sum(100 + sum(map(len, words)) for _, _, words, _ in item[3])
