"""Write concerns: plain writes that are answered only when enough members have them."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from attrs import Factory, define, evolve, frozen

from dida.errors import UNKNOWN_OUTCOME
from dida.replication.context import ReplicaContext
from dida.replication.gossip import ReplicaState, write_answer
from dida.replication.messages import Record
from dida.wire.messages import Concern, Error


@frozen
class _Waiting:
    record: Record
    concern: Concern
    token: Any
    deadline: float


@define
class Concerns:
    """The writes of one replica that wait for other members.

    Current members count: a removed one does not, one that has joined since does.
    """

    context: ReplicaContext
    state: ReplicaState
    _waiting: list[_Waiting] = Factory(list)

    def wait(self, record: Record, concern: Concern, token: Any, deadline: float) -> None:
        """Answer the write under `token` when enough members have it and what it depends on."""
        self._waiting.append(_Waiting(record, concern, token, deadline))
        self.state.confirmed = True
        self.state.hasten(record.ts)

    def check(self, now: float, may_answer: bool) -> None:
        """Answer the writes that enough members have, if this node may answer; late ones may have taken effect."""
        self.state.confirmed = False
        if not self._waiting:
            return
        left = []
        for waiting in self._waiting:
            others_wanted = self.context.holders_wanted(waiting.concern) - 1
            if may_answer and self.state.holders(waiting.record) >= others_wanted:
                self.context.answer(waiting.token, write_answer(waiting.record))
            elif now >= waiting.deadline:
                text = "too few members confirmed the write in time"
                self.context.answer(waiting.token, Error(UNKNOWN_OUTCOME, (text,)))
            else:
                left.append(waiting)
        self._waiting = left

    def give_up(self, tokens: Set[Any], now: float) -> None:
        """End the wait for these writes with the next check: their clients are gone."""
        self._waiting = [evolve(w, deadline=now) if w.token in tokens else w for w in self._waiting]

    def expire(self, now: float) -> None:
        """End all waits with the next check, as at their deadlines."""
        self._waiting = [evolve(w, deadline=min(now, w.deadline)) for w in self._waiting]

    def tokens(self) -> list[Any]:
        """Return the tokens of the writes that still wait."""
        return [waiting.token for waiting in self._waiting]
