"""The parsers of a command's words: each returns the value of one word, or raises UserError with what to write."""

from __future__ import annotations

from dida.addresses import Address
from dida.errors import SHOWN, UserError, shown
from dida.interfaces import is_class_name
from dida.versions import Version

MAX_ID = 100
"""Longest node id, in characters."""
MAX_MILLISECONDS = 86_400_000
"""Longest wait or gossip delay, in milliseconds."""
JSON = "--json"


def node_id(word: str) -> str:
    """Return a node's id."""
    if not 0 < len(word) <= MAX_ID or "=" in word or " " in word or not word.isprintable():
        raise UserError(f"invalid node id {shown(word)}: write one word of up to {MAX_ID} characters, without '='")
    return word


def address(word: str) -> Address:
    """Return the address in a URL."""
    if len(word) > SHOWN * 5:
        raise UserError(f"invalid URL {shown(word)}: expected http://HOST:PORT, as in http://localhost:5001")
    return Address.parse(word)


def milliseconds(word: str) -> int:
    """Return a number of milliseconds."""
    if not (word.isascii() and word.isdigit() and len(word) < 12 and int(word) <= MAX_MILLISECONDS):
        raise UserError(f"invalid number of milliseconds {shown(word)}: write one from 0 to {MAX_MILLISECONDS}")
    return int(word)


def ignored_number(word: str) -> str:
    """Accept the further number that scripts in the wild have."""
    if not (word.isascii() and word.isdigit()):
        raise UserError(f"unexpected {shown(word)} after the scheduler's URL: only a number may follow")
    return word


def client_number(word: str) -> int:
    """Return the number of a client command, from 1; 0 for LAST."""
    if word.lower() == "last":
        return 0
    if not (word.isascii() and word.isdigit() and 0 < len(word) < 8 and int(word)):
        raise UserError(f"invalid run {shown(word)}: write LAST, or the number of the client command, from 1")
    return int(word)


def outcome(word: str) -> str:
    """Return `done` or `failed`."""
    if word.lower() not in ("done", "failed"):
        raise UserError(f"invalid outcome of a run {shown(word)}: write done or failed")
    return word.lower()


def version(word: str) -> Version:
    """Return a version."""
    try:
        return Version.parse(word)
    except ValueError as problem:
        raise UserError(str(problem)) from None


def operator_names(words: str) -> tuple[str, ...]:
    """Return the class names of operators."""
    names = tuple(words.split())
    for name in names:
        if not is_class_name(name):
            raise UserError(f"invalid class name {shown(name)}: write it as in the operator's file")
    return names


def json_flag(word: str) -> bool:
    """Accept the flag that asks for JSON."""
    if word != JSON:
        raise UserError(f"unexpected {shown(word)}: only {JSON} may follow")
    return True
