"""What can go wrong, and the code by which it is told on the wire.

A `DidaError` is an expected failure: it has a stable code (a lower-case word), words that say what,
where and what to do, and becomes one `error` line. Anything else that is raised is a bug.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHOWN = 60
"""Characters of a faulty word that an error shows."""

BAD_REQUEST = "bad-request"
UNKNOWN_VERB = "unknown-verb"
LINE_TOO_LONG = "line-too-long"
NO_SUCH_RECORD = "no-such-record"
NO_SUCH_VERSION = "no-such-version"
NO_SUCH_RUN = "no-such-run"
ID_IN_USE = "id-in-use"
NO_SUCH_OPERATOR = "no-such-operator"
NO_SUCH_NODE = "no-such-node"
NOT_HERE = "not-here"
UNAVAILABLE = "unavailable"
UNKNOWN_OUTCOME = "unknown-outcome"
FENCED = "fenced"
LOST_UPDATE = "lost-update"
SESSION_EXPIRED = "session-expired"
TIMED_OUT = "timed-out"
SUPERSEDED = "superseded"
STORAGE_FULL = "storage-full"
INTERNAL = "internal"


class DidaError(Exception):
    """An expected failure; `words` are the rest of its `error` line, `object` its members."""

    def __init__(self, code: str, *words: str, object: Mapping[str, Any] | None = None) -> None:
        super().__init__(code, *words)
        self.code = code
        self.words = words
        self.object: Mapping[str, Any] = object or {}

    def __str__(self) -> str:
        return ": ".join((self.code, " ".join(self.words))) if self.words else self.code


class BadRequest(DidaError):
    """The peer's fault: what it sent can't be understood. The connection stays."""

    def __init__(self, *words: str) -> None:
        super().__init__(BAD_REQUEST, *words)


class UnknownVerb(DidaError):
    """The peer's fault: no such verb at this node."""

    def __init__(self, verb: str) -> None:
        super().__init__(UNKNOWN_VERB, verb)


class Unavailable(DidaError):
    """It could not be done now, and nothing was changed: try again."""

    def __init__(self, *words: str) -> None:
        super().__init__(UNAVAILABLE, *words)


class UserError(DidaError):
    """The user's mistake in a file, an option or a command: one line says what, where, what to do."""

    def __init__(self, text: str) -> None:
        super().__init__(BAD_REQUEST, text)

    def __str__(self) -> str:
        return self.words[0]


def shown(word: str) -> str:
    """A faulty word as an error shows it."""
    return repr(word if len(word) <= SHOWN else word[:SHOWN] + "…")
