"""What operators print: it is kept with the step and logged by the worker, within limits.

`Printed` is what one step prints to standard output or standard error, from any thread; MAX_PRINTED bytes of it are
kept, the rest is counted. `Streams` replaces `sys.stdout` and `sys.stderr` in a worker and assigns what is printed to
its step by the context, which the threads and coroutines of a step share.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import Any

from twisted.logger import Logger

from dida.worker.isolated import log_all

MAX_PRINTED = 64 * 1024
"""The most bytes that are kept of what a step prints."""
MAX_LOGGED = 1000
"""The most characters of a line in the log."""
LINES_A_SECOND = 200
"""Log lines of operators per second and worker; also the largest burst."""

_log = Logger()
_step: ContextVar[Printed | None] = ContextVar("step", default=None)


class Printed:
    """What one step has printed."""

    def __init__(self, log: Callable[[str], None] = lambda line: None) -> None:
        self._log = log
        self._kept = bytearray()
        self._logged = 0
        """The part of the kept text that was logged."""
        self._more = 0

    def write(self, data: bytes) -> None:
        """Append to it; log whole lines."""
        room = MAX_PRINTED - len(self._kept)
        self._kept += data[:room]
        self._more += max(0, len(data) - room)
        end = self._kept.rfind(b"\n", self._logged) + 1
        if end:
            self._log_until(end)

    def end(self) -> str:
        """Return all of it when the step has ended; log the last line, too."""
        self._log_until(len(self._kept))
        return self.text

    @property
    def text(self) -> str:
        """What was printed so far."""
        text = bytes(self._kept).decode(errors="replace")
        return f"{text}… {self._more:,} bytes more" if self._more else text

    def _log_until(self, end: int) -> None:
        begin, self._logged = self._logged, end
        for line in bytes(self._kept[begin:end]).decode(errors="replace").splitlines():
            self._log(line[:MAX_LOGGED])

    def enter(self) -> Token[Printed | None]:
        """Assign what is printed in this context from now on to the step."""
        return _step.set(self)

    def leave(self, token: Token[Printed | None]) -> None:
        """Stop assigning it."""
        _step.reset(token)


class LogOfSteps:
    """The log lines of all steps of a worker: a limited rate, the others are counted."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._second = 0
        self._lines = 0

    def of(self, run: str, operator: str, position: int) -> Printed:
        """Return a new object for what a step prints."""

        def log(line: str) -> None:
            if self._has_room():
                text = "run {run}: {operator} at position {position} printed: {line}"
                _log.info(text, run=run, operator=operator, position=position, line=line)

        return Printed(log)

    def _has_room(self) -> bool:
        second = int(self._seconds())
        if second != self._second:
            left_out, self._second, self._lines = self._lines - LINES_A_SECOND, second, 0
            if left_out > 0:
                _log.warn("{lines} more lines that operators printed are not in this log", lines=left_out)
        self._lines += 1
        return self._lines <= LINES_A_SECOND


class Streams:
    """Standard output and error of a worker's process, and the level from which `logging` prints: INFO.

    What is printed outside of a step goes where it went before.
    """

    def __init__(self) -> None:
        self._before: tuple[Any, Any] | None = None

    def start(self) -> None:
        """Replace the streams."""
        self._before = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Stream(sys.stdout, 1), _Stream(sys.stderr, 2)
        log_all()

    def stop(self) -> None:
        """Restore the streams."""
        if self._before is not None and isinstance(sys.stdout, _Stream) and isinstance(sys.stderr, _Stream):
            sys.stdout, sys.stderr = self._before


class _Stream(io.TextIOBase):
    """`sys.stdout` or `sys.stderr`. Its descriptor is that of the process, whose output is the worker's."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, behind: Any, number: int) -> None:
        self.buffer = _Bytes(self)
        self._behind = behind
        self._number = number

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        step = _step.get()
        if step is None:
            self._behind.write(text)
        else:
            step.write(text.encode(errors="backslashreplace"))
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def flush(self) -> None:
        """Do nothing: the text is not buffered."""

    def close(self) -> None:
        """Do nothing: all steps share the stream."""

    def reconfigure(self, **options: object) -> None:
        """Ignore the changes, as a text file would accept them."""


class _Bytes(io.BufferedIOBase):
    """Its `buffer`."""

    def __init__(self, text: _Stream) -> None:
        self._text = text

    def write(self, data: Any) -> int:
        taken = bytes(data)
        step = _step.get()
        if step is None:
            self._text.write(taken.decode(errors="backslashreplace"))
        else:
            step.write(taken)
        return len(taken)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._text.fileno()

    def flush(self) -> None:
        """Do nothing: the text is not buffered."""

    def close(self) -> None:
        """Do nothing: all steps share the stream."""
