"""Strings of operators and scripts as the storage and the wire take them: keys and values by their characters."""

from __future__ import annotations

from dida import errors
from dida.errors import BadRequest, DidaError
from dida.versions import Version
from dida.wire import grammar

ENVELOPE = 4096
"""Bytes of a line that are reserved for everything but key and value."""


def plain(*values: object, max_line: int = grammar.MAX_LINE) -> tuple[str, ...]:
    """Return keys and values by their characters; bad-request, or line-too-long if they don't fit on a line."""
    texts = []
    size = ENVELOPE
    for value in values:
        if not isinstance(value, str):
            raise BadRequest(f"keys and values are strings, not {type(value).__name__}")
        text = str.__str__(value)
        if not text.isascii():
            _check(text)
        texts.append(text)
        size += 2 * len(text)
    if size > max_line:
        size = ENVELOPE + sum(len(grammar.quote(text).encode()) for text in texts)
    if size > max_line:
        raise DidaError(errors.LINE_TOO_LONG, f"{size} bytes are more than a line may have ({max_line})")
    return tuple(texts)


def plain_version(version: object) -> Version | None:
    """Return the version that a read wants, if it wants one; bad-request if it is not a version."""
    if version is None or isinstance(version, Version):
        return version
    raise BadRequest(f"a version must be a Version, not {type(version).__name__}: use Version.parse")


def _check(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRequest(grammar.SURROGATES) from None
