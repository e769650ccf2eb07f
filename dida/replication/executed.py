"""Update ids and the replies to them, so that a retried update changes nothing.

An id is best `SESSION:N`; a session's ids below its lowest unanswered N are forgotten at once. A session that was idle
for the ttl expires, and so does one that its client has ended (`forget`): further updates of it are refused, never
executed. An id of another form is remembered for the ttl. The names of the newest expired sessions are kept.

Source: the client table of Viewstamped Replication (Liskov and Cowling, 2012).
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Any

from attrs import define, field

from dida.replication.batches import batches
from dida.timestamps import Timestamp
from dida.wire.messages import No, Ok, Reply

SINGLE = "\0"
"""Begins the session of an id that belongs to no session: no other id has the same."""
REMEMBERED = 100_000
"""Names of expired sessions that are kept."""
MAX_IDS = 200_000
"""Replies kept, over all sessions; beyond it new updates are refused, old ones are not forgotten."""
TOO_MANY_ANSWERS = "too many update ids are remembered: end sessions (forget), or try again later"
MAX_BYTES = 2**28
"""Memory that the replies may take, about, in bytes; a `no` carries the value, which may be long."""

CROWDED_TTL = 300.0
"""Time after which an idle session expires when the table is half full, in seconds; longer than any run by default."""


def whole(session: str, number: int) -> str:
    """Return the id of which `split` has made this session and number."""
    return session.removeprefix(SINGLE) if session.startswith(SINGLE) else f"{session}:{number}"


def not_applied(words: tuple[str, ...], after: Timestamp) -> No:
    """Return the reply to an updateif that found another value; `no` alone where there was no record."""
    return No(words, {"after": after} if words else {})


@define
class _Session:
    used: float
    lowest: int = 0
    answers: dict[int, Reply] = field(factory=dict)
    numbers: list[int] = field(factory=list)
    """The numbers of the replies, as a heap."""


def split(id: str) -> tuple[str, int]:
    """Return session and number of an id; an id of another form is a session on its own, with one number."""
    session, colon, number = id.rpartition(":")
    if session.startswith(SINGLE):
        return SINGLE + id, 0
    counts = len(number) < 16 and number.isascii() and number.isdigit() and (number[0] != "0" or number == "0")
    if colon and session and counts:
        return session, int(number)
    return SINGLE + id, 0


@define
class ReplyCache:
    """Session to its replies. Times are seconds of the caller's clock."""

    ttl: float = 3600.0
    _sessions: dict[str, _Session] = field(factory=dict)
    _expired: dict[str, bool] = field(factory=dict)
    """Name to True if its client has ended it."""
    size: int = 0
    bytes: int = 0

    def answer(self, id: str) -> Reply | None:
        """Return the first reply to this id, if it is known."""
        session, number = split(id)
        known = self._sessions.get(session)
        return known.answers.get(number) if known is not None else None

    def expired(self, id: str) -> bool:
        """Return True if the id's reply was forgotten: the update must not be executed."""
        session, number = split(id)
        known = self._sessions.get(session)
        return session in self._expired or (known is not None and number < known.lowest)

    def knows(self, session: str) -> bool:
        """Return True if the session is alive here, or has expired here."""
        return session in self._sessions or session in self._expired

    @property
    def sessions(self) -> int:
        """The number of known sessions, expired ones included."""
        return len(self._sessions) + len(self._expired)

    @property
    def full(self) -> bool:
        return self.size >= MAX_IDS or self.bytes >= MAX_BYTES

    def _keep(self, session: _Session, number: int, answer: Reply) -> None:
        session.answers[number] = answer
        heappush(session.numbers, number)
        self.size += 1
        self.bytes += _bytes(answer)

    def _lose(self, answer: Reply) -> None:
        self.size -= 1
        self.bytes -= _bytes(answer)

    def note(self, id: str, lowest: int, answer: Reply, now: float) -> None:
        """Remember the reply; forget those of the session below `lowest`."""
        name, number = split(id)
        if self._expired.get(name):
            return
        session = self._sessions.pop(name, None) or _Session(now)
        self._sessions[name] = session  # the most recently used one is the last
        session.used = now
        if number not in session.answers and number >= session.lowest:
            self._keep(session, number, answer)
        if lowest > session.lowest and not name.startswith(SINGLE):
            session.lowest = lowest
            while session.numbers and session.numbers[0] < lowest:
                self._lose(session.answers.pop(heappop(session.numbers)))

    def tick(self, now: float) -> None:
        """Expire idle sessions."""
        while self._sessions:
            name = next(iter(self._sessions))
            session = self._sessions[name]
            crowded = self.size >= MAX_IDS // 2 or self.bytes >= MAX_BYTES // 2
            idle = min(self.ttl, CROWDED_TTL) if crowded else self.ttl
            if session.used + idle > now:
                break
            self._drop(name, ended=False)

    def forget(self, name: str) -> None:
        """End a session: nobody retries its updates, and one that comes late must not be executed."""
        self._drop(name, ended=True)

    def _drop(self, name: str, ended: bool) -> None:
        session = self._sessions.pop(name, None)
        if session is not None:
            for answer in session.answers.values():
                self._lose(answer)
        self._expired.pop(name, None)
        self._expired[name] = ended
        if len(self._expired) > REMEMBERED:
            del self._expired[next(iter(self._expired))]

    def dump(self, now: float) -> Iterator[list[Any]]:
        """Return everything as it is now, for a node that joins, a session in as many pieces as its replies need.

        Times are given as ages. Replies that are noted meanwhile are not in it.
        """
        sessions = [(name, now - s.used, s.lowest, list(s.answers.items())) for name, s in self._sessions.items()]
        return (
            [name, age, lowest, [[n, isinstance(a, Ok), list(a.words), after_of(a)] for n, a in some]]
            for name, age, lowest, answers in sessions
            for some in (batches(answers, lambda answer: _bytes(answer[1])) if answers else [[]])
        )

    @property
    def expired_sessions(self) -> list[str]:
        """The names of expired sessions, which a node that joins must know, too: it never executes their updates."""
        return list(self._expired)

    def load(self, dumped: list[Any], expired: list[str], now: float) -> None:
        """Add a part of a dump."""
        self._expired.update(dict.fromkeys(expired, False))
        for name, age, lowest, answers in dumped:
            session = self._sessions.setdefault(name, _Session(now - age, lowest))
            for number, is_ok, words, after in answers:
                self._keep(session, number, (answered if is_ok else not_applied)(tuple(words), after))


def _bytes(answer: Reply) -> int:
    return 100 + sum(map(len, answer.words))


def answered(words: tuple[str, ...] | list[str], after: Timestamp) -> Ok:
    """Return the `ok` of an operation on the storage."""
    return Ok(tuple(words), {"after": after})


def after_of(reply: Reply) -> Timestamp:
    """Return the timestamp that a reply carries."""
    after: Timestamp = reply.object.get("after", {})
    return after
