"""A node's log file: opened for appending, begun anew at a size, a bounded number of older ones kept.

All nodes write theirs by this, however they were started. The descriptor stays the same when the file changes, so
that nobody writes into a closed one. Where standard output and standard errors are the log, too, they move along.
"""

from __future__ import annotations

import os
import stat
from threading import Lock

from twisted.logger import Logger

from dida.pcs.log_folder import KEPT_LOGS

LOG_SIZE = 5_000_000
"""Bytes of a log file before a new one is begun."""
STREAMS = (1, 2)

_log = Logger()


class NodeLog:
    """The log in the file `path`; OSError when it can't be opened. `write` may be called by any thread."""

    def __init__(self, path: str, size: int = LOG_SIZE, kept: int = KEPT_LOGS) -> None:
        self.path = os.path.abspath(path)
        self._size = size
        self._kept = kept
        self._changing = Lock()
        self._mine = True
        self._descriptor = self._opened()

    def fileno(self) -> int:
        """The descriptor of the file."""
        return self._descriptor

    def write(self, text: str) -> None:
        """Append a text, in a new file if it does not fit any more; of one that never fits the end is left out."""
        data = text.encode(errors="backslashreplace")
        if len(data) > self._size:
            data = data[: self._size] + b"\n(%d bytes left out)\n" % (len(data) - self._size)
        try:
            if (length := os.fstat(self._descriptor).st_size) and length + len(data) > self._size:
                self.rotate()
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            return  # a full disk: there is nowhere to tell it, and the node goes on

    def flush(self) -> None:
        """Nothing is held back."""

    def reopen(self) -> None:
        """Go on in the file of that name, a new one if it was renamed or removed."""
        try:
            new = self._opened()
        except OSError as problem:
            _log.error("cannot reopen {path}: {problem}", path=self.path, problem=problem.strerror)
            return
        try:
            old = os.fstat(self._descriptor)
            os.fchmod(new, stat.S_IMODE(old.st_mode))
            moved = [stream for stream in STREAMS if _is(stream, old)]
            for descriptor in (self._descriptor, *moved):
                os.dup2(new, descriptor, inheritable=descriptor in STREAMS)
        finally:
            os.close(new)

    def rotate(self) -> None:
        """Begin a new file; the older ones move up, and the oldest goes."""
        if not self._mine or not self._changing.acquire(blocking=False):
            return
        try:
            names = [self.path, *(f"{self.path}.{number}" for number in range(1, self._kept + 1))]
            for older, newer in zip(names[:0:-1], names[-2::-1], strict=True):
                if os.path.exists(newer):
                    os.replace(newer, older)
            self.reopen()
        except OSError as problem:
            _log.error("cannot begin {path} anew: {problem}", path=self.path, problem=problem.strerror)
        finally:
            self._changing.release()

    def look(self) -> None:
        """Bound what was written past `write`, by programs that an operator has started."""
        try:
            if os.fstat(self._descriptor).st_size > self._size:
                self.rotate()
            if os.stat(f"{self.path}.1").st_size > 2 * self._size:
                os.truncate(f"{self.path}.1", 2 * self._size)  # somebody may still append there
        except OSError:
            return  # there is no older file

    def disown(self) -> None:
        """Only write from now on: this is a forked child, and the log another process's."""
        self._mine = False

    def _opened(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _is(descriptor: int, file: os.stat_result) -> bool:
    """Whether that is what is open there."""
    try:
        return os.path.samestat(os.fstat(descriptor), file)
    except OSError:
        return False
