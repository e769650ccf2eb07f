"""Expected failures, and their codes on the wire.

A `DidaError` is an expected failure: it has a stable code (a lower-case word) and words that say what is wrong, where,
and what to do. It becomes one `error` line. Any other exception is a bug.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHOWN = 60
"""The most characters of a faulty word in an error."""

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
NOT_DETERMINISTIC = "not-deterministic"
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
    """The peer's fault: what it sent can't be understood. The connection stays open."""

    def __init__(self, *words: str) -> None:
        super().__init__(BAD_REQUEST, *words)


class UnknownVerb(DidaError):
    """The peer's fault: this node does not have the verb."""

    def __init__(self, verb: str) -> None:
        super().__init__(UNKNOWN_VERB, verb)


class Unavailable(DidaError):
    """It could not be done now, and nothing was changed: retry."""

    def __init__(self, *words: str) -> None:
        super().__init__(UNAVAILABLE, *words)


class UserError(DidaError):
    """The user's mistake in a file, an option or a command: one line says what is wrong, where, and what to do."""

    def __init__(self, text: str) -> None:
        super().__init__(BAD_REQUEST, text)

    def __str__(self) -> str:
        return self.words[0]


def shown(word: str) -> str:
    """Return a faulty word as an error shows it."""
    return repr(word if len(word) <= SHOWN else word[:SHOWN] + "…")
