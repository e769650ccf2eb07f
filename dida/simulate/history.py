"""What clients did, and which replies they received: the input of the checkers, from the simulator or from real
processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec
from attrs import asdict, define

from dida.versions import Version

OK, NO, UNKNOWN, FAILED, LOST = "ok", "no", "unknown", "failed", "lost"
"""How an operation ended: applied or answered; compared unequal, or nothing to compare with; may or may not have
happened; certainly did not happen; refused because of a lost update."""

FOREVER = float("inf")


class Shown(NamedTuple):
    """A version of a key and its value, as a reply shows it."""

    key: str
    version: Version
    value: str


@define(eq=False)
class Event:
    """One operation of one session. Times are of one clock for the whole history.

    `value` is what was written, or what was read (with `version`); for an updateif that was refused, `seen` and
    `version` are what it was compared with. `returned` is infinite while it is not known.
    """

    session: str
    verb: str
    key: str
    invoked: float
    value: str | None = None
    old: str | None = None
    latest: bool = False
    everywhere: bool = False
    """True for a write that is answered when all living members have it."""
    returned: float = FOREVER
    outcome: str = UNKNOWN
    version: Version | None = None
    seen: str | None = None
    wanted: Version | None = None
    """The version that a read asked for."""
    node: str = ""
    view: str = ""
    """The view of the node that answered, if known."""

    @property
    def changes(self) -> bool:
        """True if it is an operation that writes."""
        return self.verb != "read"

    @property
    def ordered(self) -> bool:
        """True if it belongs to the total order of its key: an updateif, or a read of the latest value."""
        return self.verb == "updateif" or self.latest

    @property
    def shown(self) -> Shown | None:
        """What the reply shows, if it shows something."""
        value = self.seen if self.outcome == NO else self.value
        if self.outcome not in (OK, NO) or self.version is None or value is None:
            return None
        return Shown(self.key, self.version, value)

    def __str__(self) -> str:
        words = [self.verb, self.key, self.old, self.value if self.changes else None]
        words += ["everywhere"] if self.everywhere else []
        words += ["latest"] if self.latest else [str(self.wanted)] if self.wanted is not None else []
        shown = self.shown
        answer = self.outcome if shown is None else f"{self.outcome} {shown.version} {shown.value}"
        return f"{self.session}: {' '.join(w for w in words if w is not None)} ({answer})"


History = list[Event]


def by_key(history: Iterable[Event]) -> dict[str, History]:
    """Return the history of each key, by time of invocation."""
    keys: dict[str, History] = {}
    for event in sorted(history, key=lambda e: e.invoked):
        keys.setdefault(event.key, []).append(event)
    return keys


def dumped(history: Iterable[Event]) -> Iterator[str]:
    """Yield the history as lines, each a JSON object, for tests of real processes to keep."""
    for event in history:
        members = {name: value for name, value in asdict(event).items() if value not in (None, FOREVER)}
        for name in ("version", "wanted"):
            if name in members:
                members[name] = str(members[name])
        yield msgspec.json.encode(members).decode()


def loaded(lines: Iterable[str]) -> History:
    """Return the history that `dumped` yielded."""
    history = []
    for line in lines:
        members = msgspec.json.decode(line)
        for name in ("version", "wanted"):
            if name in members:
                members[name] = Version.parse(members[name])
        history.append(Event(**members))
    return history
