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

import msgspec
from attrs import define, field

from dida.replication.batches import batches
from dida.timestamps import Timestamp, merge_into
from dida.versions import Version
from dida.wire.messages import FIRST, Epoch, Journal, KnownUpdate, No, Ok, Reply

PROMISE = 500
"""About the memory that the promise of a run takes, in bytes."""
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
    bytes: int = 0
    promised: Epoch = FIRST
    """Nothing of the run is executed in a lower epoch."""
    journals: dict[int, tuple[str, Journal]] = field(factory=dict)
    """Number to the key and the journal of an update of a run."""


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

    def has_expired(self, session: str) -> bool:
        """Return True if the session has expired here."""
        return session in self._expired

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

    def _keep(
        self, session: _Session, number: int, answer: Reply, key: str = "", journal: Journal | None = None
    ) -> None:
        session.answers[number] = answer
        heappush(session.numbers, number)
        size = _bytes(answer)
        if journal is not None:
            session.journals[number] = key, journal
            size += bytes_of_journal(journal)
        self.size += 1
        self.bytes += size
        session.bytes += size

    def _lose(self, session: _Session, number: int) -> None:
        size = _bytes(session.answers.pop(number))
        if number in session.journals:
            size += bytes_of_journal(session.journals.pop(number)[1])
        self.size -= 1
        self.bytes -= size
        session.bytes -= size

    def note(
        self, id: str, lowest: int, answer: Reply, now: float, key: str = "", journal: Journal | None = None
    ) -> None:
        """Remember the reply, and the journal of an update of a run; forget those of the session below `lowest`."""
        name, number = split(id)
        if self._expired.get(name):
            return
        session = self._sessions.pop(name, None) or _Session(now)
        self._sessions[name] = session  # the most recently used one is the last
        session.used = now
        if number not in session.answers and number >= session.lowest:
            self._keep(session, number, answer, key, journal)
        if lowest > session.lowest and not name.startswith(SINGLE):
            session.lowest = lowest
            while session.numbers and session.numbers[0] < lowest:
                self._lose(session, heappop(session.numbers))

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
            self.size -= len(session.answers) + (session.promised is not FIRST)
            self.bytes -= session.bytes
        self._expired.pop(name, None)
        self._expired[name] = ended
        if len(self._expired) > REMEMBERED:
            del self._expired[next(iter(self._expired))]

    # --- runs -----------------------------------------------------------------------------------

    def superseded(self, id: str | None, epoch: Epoch) -> Epoch | None:
        """Return the epoch to which the run of an update is fenced, if that is higher than the update's."""
        known = self._sessions.get(split(id)[0]) if id is not None else None
        if known is None or known.promised is FIRST:  # as for nearly all
            return None
        return known.promised if known.promised > epoch else None

    def promise(self, run: str, epoch: Epoch, now: float) -> Epoch | None:
        """Execute nothing more of the run in a lower epoch. Return the epoch of its fence if that is higher."""
        session = self._sessions.pop(run, None) or _Session(now)
        self._sessions[run] = session
        session.used = now
        if session.promised > epoch:
            return session.promised
        self._note_promise(session, epoch)
        return None

    def _note_promise(self, session: _Session, epoch: Epoch) -> None:
        if session.promised is FIRST and epoch > FIRST:
            self.size += 1
            self.bytes += PROMISE
            session.bytes += PROMISE
        session.promised = max(session.promised, epoch)

    def known_of(self, run: str) -> tuple[Timestamp, int]:
        """Return the timestamp of a run's executed updates, and their highest number, refused ones included."""
        session = self._sessions.get(run)
        after: Timestamp = {}
        if session is None:
            return after, 0
        for number in session.journals:
            merge_into(after, after_of(session.answers[number]))
        return after, max(session.answers, default=0)

    def updates_of(self, run: str, first: int) -> Iterator[KnownUpdate]:
        """Return the executed updates of a run from a number on, in their order."""
        session = self._sessions.get(run)
        for number in sorted(session.journals) if session is not None else ():
            if number >= first:
                assert session is not None
                key, journal = session.journals[number]
                words = session.answers[number].words
                yield KnownUpdate(number, Version.parse(words[0]) if words else None, key, journal)

    def dump(self, now: float) -> Iterator[list[Any]]:
        """Return everything as it is now, for a node that joins, a session in as many pieces as its replies need.

        Times are given as ages. Replies that are noted meanwhile are not in it.
        """
        sessions = [
            (
                [name, now - s.used, s.lowest, s.promised],
                [
                    [n, isinstance(a, Ok), list(a.words), after_of(a), *s.journals.get(n, ())]
                    for n, a in s.answers.items()
                ],
            )
            for name, s in self._sessions.items()
        ]
        return (
            [*session, some]
            for session, answers in sessions
            for some in (batches(answers, bytes_of_dumped) if answers else [[]])
        )

    @property
    def expired_sessions(self) -> list[str]:
        """The names of expired sessions, which a node that joins must know, too: it never executes their updates."""
        return list(self._expired)

    def load(self, dumped: list[Any], expired: list[str], now: float) -> None:
        """Add a part of a dump."""
        self._expired.update(dict.fromkeys(expired, False))
        for name, age, lowest, promised, answers in dumped:
            epoch = msgspec.convert(promised, Epoch)
            session = self._sessions.setdefault(name, _Session(now - age, lowest))
            self._note_promise(session, epoch)
            for number, is_ok, words, after, *more in answers:
                key, journal = (more[0], msgspec.convert(more[1], Journal)) if more else ("", None)
                self._keep(session, number, (answered if is_ok else not_applied)(tuple(words), after), key, journal)


def _bytes(answer: Reply) -> int:
    return 100 + sum(map(len, answer.words))


def bytes_of_journal(journal: Journal) -> int:
    """Return about the memory that a journal takes, in bytes."""
    return 200 + len(journal.entries)


def bytes_of_dumped(answer: list[Any]) -> int:
    """Return about the length of one reply of a dump, in bytes."""
    return 100 + sum(map(len, answer[2])) + (len(answer[4]) + bytes_of_journal(answer[5]) if len(answer) > 4 else 0)


def answered(words: tuple[str, ...] | list[str], after: Timestamp) -> Ok:
    """Return the `ok` of an operation on the storage."""
    return Ok(tuple(words), {"after": after})


def after_of(reply: Reply) -> Timestamp:
    """Return the timestamp that a reply carries."""
    after: Timestamp = reply.object.get("after", {})
    return after
