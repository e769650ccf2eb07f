"""Strings of operators and scripts, made fit for the storage and the wire in one place.

A `str` subclass (a member of an enum, a numpy string, …) counts by its characters, whatever it prints as. A value that
is not a string, or can't be encoded as UTF-8, is refused. Every string of an operator, however it is executed, passes
through here. So does the text of an exception that an operator raises.
"""

from __future__ import annotations

import inspect
import traceback

from attrs import frozen

from dida.chains.records import MAX_OUTPUT
from dida.errors import DidaError

MAX_TEXT = 500
"""The most characters of an exception's text."""
MAX_TRACE = 8000
"""The most characters of a traceback, most of them of its beginning."""
MAX_FRAMES = 20
MAX_REASON = 4000
"""The most characters of the reason why a run failed."""


class NotAnOutput(TypeError):
    """The operator did not return an output; the text, to be read after the operator's name, is the reason."""


def output_of(returned: object) -> str:
    """Return an operator's output by its characters. Raises NotAnOutput."""
    if not isinstance(returned, str):
        hint = ": write async def process_record" if inspect.isawaitable(returned) else ""
        if inspect.iscoroutine(returned):
            returned.close()
        raise NotAnOutput(f"returned {type(returned).__name__}, not a string{hint}")
    text = str.__str__(returned)
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        raise NotAnOutput("returned text that can't be encoded as UTF-8 (half a surrogate pair)") from None
    if size > MAX_OUTPUT:
        raise NotAnOutput(f"returned {size} bytes, more than the {MAX_OUTPUT} of an output: write it into the storage")
    return text


def bounded(text: str, limit: int) -> str:
    """Return at most so many characters of a text, with its end, without those that UTF-8 cannot encode."""
    if len(text) > limit:
        gap = f" … {len(text) - limit:,} characters more … "
        end = limit // 4
        text = text[: max(0, limit - end - len(gap))] + gap + text[-end:]
    return text.encode(errors="replace").decode()


def shown(value: object) -> str:
    """Return any value as a text in one line."""
    try:
        return bounded(repr(value), 100)
    except BaseException:  # noqa: BLE001 - it is the author's code
        return f"a {type(value).__name__}"


@frozen
class Raised:
    """An exception of an operator."""

    kind: str
    """The class's name; empty for a DidaError, whose text says all."""
    text: str
    trace: str

    @property
    def reason(self) -> str:
        """The exception in one line, to be read after the operator's name."""
        if not self.kind:
            return f"failed: {self.text}"
        return f"raised {self.kind}: {self.text}" if self.text else f"raised {self.kind}"


def raised(problem: BaseException) -> Raised:
    """Describe an exception, whatever it and its text are like."""
    try:
        text = str.__str__(str(problem))
        text = " ".join(text[: 2 * MAX_TEXT].split())[:MAX_TEXT]
    except BaseException:  # noqa: BLE001 - even its text is the author's code
        text = "(without text)"
    try:
        trace = "".join(traceback.format_exception(problem, limit=-MAX_FRAMES)).rstrip()
    except BaseException:  # noqa: BLE001 - likewise
        trace = f"{type(problem).__name__} (without traceback)"
    kind = "" if isinstance(problem, DidaError) else type(problem).__name__
    return Raised(bounded(kind, MAX_TEXT), bounded(text, MAX_TEXT), bounded(trace, MAX_TRACE))
