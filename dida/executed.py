"""Update ids and their answers, so that an update asked for again changes nothing.

An id is best `SESSION:N`; a session's ids below its lowest unanswered N are forgotten at once. A session
that was idle for the ttl expires, and so does one that its client has ended (`forget`): its further updates are told
so, and never executed. An id of another form is remembered for the ttl. Expired sessions are remembered by name, the
newest ones.
"""

from __future__ import annotations

from typing import Any

from attrs import define, field

from dida.messages import No, Ok, Reply
from dida.timestamps import Timestamp

SINGLE = "\0"
"""Begins the session of an id that is none of a session: no other id has the same."""
REMEMBERED = 100_000
"""Names of expired sessions that are kept."""
MAX_IDS = 200_000
"""Answers kept, over all sessions; beyond it new updates are refused, not old ones forgotten."""


CROWDED_TTL = 300.0
"""Seconds after which an idle session expires when the table is half full; longer than any run lasts by default."""


@define
class _Session:
    used: float
    lowest: int = 0
    answers: dict[int, Reply] = field(factory=dict)


def split(id: str) -> tuple[str, int]:
    """Session and number of an id; an id of another form is a session of its own, with one number."""
    session, colon, number = id.rpartition(":")
    counts = len(number) < 16 and number.isascii() and number.isdigit() and (number[0] != "0" or number == "0")
    if colon and session and counts:
        return session, int(number)
    return SINGLE + id, 0


@define
class Executed:
    """Session to its answers. Times are seconds of the caller's clock."""

    ttl: float = 3600.0
    _sessions: dict[str, _Session] = field(factory=dict)
    _expired: dict[str, bool] = field(factory=dict)
    """Name to whether its client has ended it."""
    size: int = 0

    def answer(self, id: str) -> Reply | None:
        """The first answer to this id, where it is known."""
        session, number = split(id)
        known = self._sessions.get(session)
        return known.answers.get(number) if known is not None else None

    def expired(self, id: str) -> bool:
        """Whether the id's answer was forgotten: it must not be executed."""
        session, number = split(id)
        known = self._sessions.get(session)
        return session in self._expired or (known is not None and number < known.lowest)

    def knows(self, session: str) -> bool:
        """Whether the session is alive here, or has expired here."""
        return session in self._sessions or session in self._expired

    @property
    def full(self) -> bool:
        return self.size >= MAX_IDS

    def note(self, id: str, lowest: int, answer: Reply, now: float) -> None:
        """Remember the answer; forget what the session no longer asks for."""
        name, number = split(id)
        if self._expired.get(name):
            return
        session = self._sessions.pop(name, None) or _Session(now)
        self._sessions[name] = session  # the most recently used one is the last
        session.used = now
        if number not in session.answers and number >= session.lowest:
            session.answers[number] = answer
            self.size += 1
        if lowest > session.lowest and not name.startswith(SINGLE):
            gone = range(session.lowest, lowest)
            session.lowest = lowest
            for old in gone if len(gone) < len(session.answers) else [n for n in session.answers if n < lowest]:
                if session.answers.pop(old, None) is not None:
                    self.size -= 1

    def tick(self, now: float) -> None:
        """Let idle sessions expire."""
        while self._sessions:
            name = next(iter(self._sessions))
            session = self._sessions[name]
            idle = self.ttl if self.size < MAX_IDS // 2 else min(self.ttl, CROWDED_TTL)
            if session.used + idle > now:
                break
            self._drop(name, ended=False)

    def forget(self, name: str) -> None:
        """The session has ended: nobody asks for its updates again, and none that comes late is to be executed."""
        self._drop(name, ended=True)

    def _drop(self, name: str, ended: bool) -> None:
        session = self._sessions.pop(name, None)
        if session is not None:
            self.size -= len(session.answers)
        self._expired.pop(name, None)
        self._expired[name] = ended
        if len(self._expired) > REMEMBERED:
            del self._expired[next(iter(self._expired))]

    def dump(self, now: float) -> list[Any]:
        """Everything, for a node that joins; times as ages."""
        return [
            [
                name,
                now - s.used,
                s.lowest,
                [[n, isinstance(a, Ok), list(a.words), after_of(a)] for n, a in s.answers.items()],
            ]
            for name, s in self._sessions.items()
        ]

    @property
    def expired_sessions(self) -> list[str]:
        """What a node that joins must know, too: their ids are not to be executed again."""
        return list(self._expired)

    def load(self, dumped: list[Any], expired: list[str], now: float) -> None:
        """Take over a part of a dump."""
        self._expired.update(dict.fromkeys(expired, False))
        for name, age, lowest, answers in dumped:
            session = _Session(now - age, lowest)
            for number, is_ok, words, after in answers:
                session.answers[number] = answered(words, after) if is_ok else No(tuple(words), {"after": after})
            self._sessions[name] = session
            self.size += len(session.answers)


def answered(words: tuple[str, ...] | list[str], after: Timestamp) -> Ok:
    """The `ok` of an operation on the storage."""
    return Ok(tuple(words), {"after": after})


def after_of(reply: Reply) -> Timestamp:
    """The timestamp that an answer carries."""
    after: Timestamp = reply.object.get("after", {})
    return after
