"""The named places at which a test can make something go wrong: every step of every verb between storage nodes.

`VERB.send`: about to be sent · `VERB.receive`: about to be taken · `VERB.reply`: taken, about to be answered ·
`VERB.answered`: the answer is about to be taken. A turn of a replica is one step, so between them nothing happens
that could be interrupted. At each a node can be killed or paused, the message dropped (its connection breaks, or its
answer never comes) or doubled.
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
    """`NAME=ACTION`, or `NAME=ACTION@N` for the N-th time that the place is reached; UserError when it is neither."""
    name, _, rest = text.partition("=")
    action, _, times = rest.partition("@")
    if name not in FAILPOINTS:
        raise UserError(f"{name!r} is no failpoint: one is VERB.STEP, as decide.send; the steps are {', '.join(STEPS)}")
    if action not in ACTIONS or (times and not times.isdecimal()):
        raise UserError(f"{text!r} arms no failpoint: write NAME=ACTION or NAME=ACTION@N with {', '.join(ACTIONS)}")
    return name, action, int(times or 1)


class Failpoints:
    """The armed places of one process; each goes off once, at its N-th time."""

    def __init__(self, armed: Iterable[tuple[str, str, int]] = ()) -> None:
        self._armed = {name: (action, times) for name, action, times in armed}

    def __bool__(self) -> bool:
        """Whether any is still armed."""
        return bool(self._armed)

    def hit(self, name: str) -> str | None:
        """The place is reached: what is to happen there, if anything."""
        if name not in self._armed:
            return None
        action, times = self._armed[name]
        if times > 1:
            self._armed[name] = (action, times - 1)
            return None
        del self._armed[name]
        return action
