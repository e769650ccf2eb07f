"""Requests of clients that a replica forwards to the homes of their keys, and whose replies it awaits."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from attrs import evolve

from dida.replication.context import ReplicaContext
from dida.replication.executed import CROWDED_TTL
from dida.replication.messages import Forward, Member
from dida.replication.operations import PendingRequest


class Forwards:
    """The forwarded requests of one replica, by the number of the message."""

    def __init__(self, context: ReplicaContext, secret: str) -> None:
        """`secret` is part of the ids of updates whose clients have given none; clients must not guess those."""
        self._context = context
        self._secret = secret
        self._forwarded: dict[int, tuple[PendingRequest, str]] = {}
        """Number of the message to the request, and the member that it was sent to."""
        self._last = 0
        self._last_id = 0
        self._session = 0
        self._session_used = 0.0

    def __len__(self) -> int:
        return len(self._forwarded)

    def send(self, waiting: PendingRequest, home: Member, now: float) -> None:
        """Forward a request to `home`."""
        if waiting.op.verb != "read":
            self.give_id(waiting, now)
        op = waiting.op
        self._last += 1
        self._forwarded[self._last] = waiting, home.component
        message = Forward(
            **self._context.stamp(),
            verb=op.verb,
            key=op.key,
            value=op.value,
            old=op.old,
            id=op.id,
            lowest=op.lowest,
            retry=op.retry or waiting.passed_on,
            concern=op.concern,
            after=op.after,
            journal=op.journal,
            deadline=max(0.0, waiting.deadline - now),
        )
        waiting.passed_on = waiting.passed_on or op.verb != "read"
        self._context.forward(home, message, self._last, waiting.deadline - now)

    def give_id(self, waiting: PendingRequest, now: float) -> None:
        """Give an update an id if its client has given none, for it may have to be sent, or begun, again."""
        own = self._context.own_ids
        if waiting.op.id is None:
            waiting.op = evolve(waiting.op, id=self._own_id(waiting.token, now), retry=False)
        if waiting.token in own:
            waiting.op = evolve(waiting.op, lowest=next(iter(own.values())))

    def _own_id(self, token: Any, now: float) -> str:
        """Return an id for an update whose client gave none; in a new session if the old one may have expired."""
        if now - self._session_used > min(self._context.config.session_ttl, CROWDED_TTL) / 2:
            self._session += 1
        self._session_used = now
        self._last_id += 1
        self._context.own_ids[token] = self._last_id
        return f"{self._context.incarnation}{self._secret}.{self._session}:{self._last_id}"

    def take(self, number: int) -> PendingRequest | None:
        """Remove and return the request of that message; None if it is no longer awaited."""
        waiting, _ = self._forwarded.pop(number, (None, ""))
        return waiting

    def take_all(self) -> list[PendingRequest]:
        """Remove and return all requests."""
        taken = [waiting for waiting, _ in self._forwarded.values()]
        self._forwarded.clear()
        return taken

    def take_of(self, tokens: Set[Any]) -> list[PendingRequest]:
        """Remove and return the requests of clients under these tokens."""
        numbers = [number for number, (waiting, _) in self._forwarded.items() if waiting.token in tokens]
        return [self._forwarded.pop(number)[0] for number in numbers]

    def take_back(self) -> list[PendingRequest]:
        """Remove and return the requests that were sent to nodes that are no longer members."""
        gone = [number for number, (_, home) in self._forwarded.items() if self._context.member(home) is None]
        return [self._forwarded.pop(number)[0] for number in gone]
