"""What clients did and heard: the raw material of the checkers, from the simulator or from real processes."""

from __future__ import annotations

from attrs import define, field

from dida.timestamps import Timestamp
from dida.versions import Version

OK, NO, UNKNOWN, FAILED, LOST = "ok", "no", "unknown", "failed", "lost"
"""How an operation ended: applied or answered; compared unequal; may or may not have happened; certainly did
not happen; refused because of a lost update."""


@define(eq=False)
class Event:
    """One operation of one session. Times are of one clock for the whole history.

    `value` is what was written, or what was read (with `version`); for an updateif that was refused,
    `seen` and `version` are what it was compared with. `returned` is infinite while it is not known.
    """

    session: str
    verb: str
    key: str
    invoked: float
    value: str | None = None
    old: str | None = None
    latest: bool = False
    returned: float = float("inf")
    outcome: str = UNKNOWN
    version: Version | None = None
    seen: str | None = None
    node: str = ""
    after: Timestamp = field(factory=dict)


History = list[Event]
