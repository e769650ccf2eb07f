"""The named places at which a test can inject a fault: every step of every verb between storage nodes.

`VERB.send`: about to be sent · `VERB.receive`: about to be processed · `VERB.reply`: processed, about to be answered ·
`VERB.answered`: the reply is about to be processed. A turn of a replica is one step, so nothing between them could be
interrupted. At each place a node can be killed or paused, the message dropped (its connection breaks, or its reply
never comes) or duplicated.
"""

from __future__ import annotations

from collections.abc import Iterable

from dida.errors import UserError
from dida.replication.messages import PEER
from dida.wire.messages import form_of

STEPS = ("send", "receive", "reply", "answered")
ACTIONS = ("kill", "pause", "drop", "duplicate")

FAILPOINTS = tuple(f"{form_of(kind).verb}.{step}" for kind in PEER for step in STEPS)


def parse(text: str) -> tuple[str, str, int]:
    """Parse `NAME=ACTION`, or `NAME=ACTION@N` for the N-th time that a place is reached. UserError if it is neither."""
    name, _, rest = text.partition("=")
    action, _, times = rest.partition("@")
    if name not in FAILPOINTS:
        raise UserError(f"unknown failpoint {name!r}: expected VERB.STEP, as prepare.send, with {', '.join(STEPS)}")
    if action not in ACTIONS or (times and not times.isdecimal()):
        raise UserError(f"invalid failpoint {text!r}: expected NAME=ACTION or NAME=ACTION@N with {', '.join(ACTIONS)}")
    return name, action, int(times or 1)


class Failpoints:
    """The armed places of one process; each takes effect once, at its N-th time."""

    def __init__(self, armed: Iterable[tuple[str, str, int]] = ()) -> None:
        self._armed = {name: (action, times) for name, action, times in armed}

    def __bool__(self) -> bool:
        """Return True if any is still armed."""
        return bool(self._armed)

    def hit(self, name: str) -> str | None:
        """Return the action that a place has when it is reached; None if it has none."""
        if name not in self._armed:
            return None
        action, times = self._armed[name]
        if times > 1:
            self._armed[name] = (action, times - 1)
            return None
        del self._armed[name]
        return action
