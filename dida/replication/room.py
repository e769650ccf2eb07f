"""How much memory the state of a replica takes, about, and whether there is room for a write.

It is computed from the counts and sizes of records, log and remembered replies, and from what their objects take in
this Python: that costs nothing, and the same writes are refused wherever they come from. The service measures what a
node takes before it has a record (`Config.own_memory`). Replication goes on however much is used: a member that refused
what the others have would not be a member.
"""

from __future__ import annotations

from attrs import define

from dida.replication.gossip import ReplicaState

MIB = 2**20
WARN_AT = 0.8
"""Share of the limit from which on the node warns."""
CALM_AT = 0.7
"""Share of the limit below which it may warn again."""
OVERWRITING = 1.05
"""Share of the limit up to which writes go on that only replace a version: the log has both for a while."""
LOGGED = 500
"""Bytes that a record in the log takes beside its key, its value and the 100 bytes that the log counts."""
ANSWERED = 600
"""Bytes that the reply to an update takes beside its words."""
SESSION = 450
"""Bytes of a session of update ids, beside its replies; and of the name of an expired one, at most."""


def used(state: ReplicaState) -> int:
    """Return how many bytes this node takes, about."""
    log, executed = state.log, state.executed
    records = state.store.bytes + log.bytes + LOGGED * log.size
    answers = executed.bytes + ANSWERED * executed.size + SESSION * executed.sessions
    return state.context.config.own_memory + records + answers


def refusal(state: ReplicaState, key: str, value: str) -> str:
    """Return why there is no room for another version of a record; empty if there is."""
    most = state.context.config.max_memory
    if most is None:
        return ""
    taken = used(state)
    if taken < most or (taken < OVERWRITING * most and not state.store.grows(key, value)):
        return ""
    state.context.refused_for_room = True
    return f"{taken // MIB} of {most // MIB} MiB are used: give the storage nodes more (--max-memory), or add nodes"


@define
class Gauge:
    """The lines for the log as memory fills."""

    _level: float = 0.0

    def look(self, state: ReplicaState) -> str:
        """Return a line for the log if the node comes near its limit, or reaches it; else an empty string."""
        most = state.context.config.max_memory
        if most is None:
            return ""
        taken = used(state)
        share = taken / most
        if share < CALM_AT:
            self._level = 0.0
        refused, state.context.refused_for_room = state.context.refused_for_room, False
        # a log that was cut since the refusal may have brought it below the limit again
        level = 1.0 if refused or share >= 1.0 else WARN_AT if share >= WARN_AT else 0.0
        if level <= self._level:
            return ""
        self._level = level
        text = f"memory: {taken // MIB} of {most // MIB} MiB (--max-memory) are used"
        return f"{text}: writes that need more are refused (storage-full)" if level == 1.0 else text


def warns(state: ReplicaState) -> bool:
    """Return True if the node is near its limit, or above."""
    most = state.context.config.max_memory
    return most is not None and used(state) >= WARN_AT * most
