"""A node's log file: opened for appending, rotated by size, with a bounded number of older files.

All nodes use it, however they were started. The descriptor stays the same when the file changes, so no thread writes
into a closed one. Standard output and standard error follow the log if they are the same file.
"""

from __future__ import annotations

import os
import stat
from threading import Lock

from twisted.logger import Logger

from dida.pcs.log_folder import KEPT_LOGS

LOG_SIZE = 5_000_000
"""Size at which a log file is rotated, in bytes."""
STREAMS = (1, 2)

_log = Logger()


class NodeLog:
    """The log in the file `path`; OSError when it cannot be opened. `write` may be called by any thread."""

    def __init__(self, path: str, size: int = LOG_SIZE, kept: int = KEPT_LOGS) -> None:
        self.path = os.path.abspath(path)
        self._size = size
        self._kept = kept
        self._changing = Lock()
        self._mine = True
        self._descriptor = self._opened()

    def fileno(self) -> int:
        """Return the descriptor of the file."""
        return self._descriptor

    def write(self, text: str) -> None:
        """Append a text, in a new file if the old one is full; cut a text that is larger than a file."""
        data = text.encode(errors="backslashreplace")
        if len(data) > self._size:
            data = data[: self._size] + b"\n(%d bytes left out)\n" % (len(data) - self._size)
        try:
            if (length := os.fstat(self._descriptor).st_size) and length + len(data) > self._size:
                self.rotate()
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            return  # a full disk: it cannot be logged, and the node goes on

    def flush(self) -> None:
        """Do nothing: each write goes to the file at once."""

    def reopen(self) -> None:
        """Open the file by its name again, as it may have been renamed or removed."""
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
        """Begin a new file; rename the older ones, and remove the oldest."""
        if not self._mine or not self._changing.acquire(blocking=False):
            return
        try:
            names = [self.path, *(f"{self.path}.{number}" for number in range(1, self._kept + 1))]
            for older, newer in zip(names[:0:-1], names[-2::-1], strict=True):
                if os.path.exists(newer):
                    os.replace(newer, older)
            self.reopen()
        except OSError as problem:
            _log.error("cannot rotate {path}: {problem}", path=self.path, problem=problem.strerror)
        finally:
            self._changing.release()

    def look(self) -> None:
        """Rotate the file if other programs, started by operators, have made it too large."""
        try:
            if os.fstat(self._descriptor).st_size > self._size:
                self.rotate()
            if os.stat(f"{self.path}.1").st_size > 2 * self._size:
                os.truncate(f"{self.path}.1", 2 * self._size)  # another program may still append to it
        except OSError:
            return  # there is no older file

    def disown(self) -> None:
        """Rotate no more: in a forked child, the log is the parent's."""
        self._mine = False

    def _opened(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _is(descriptor: int, file: os.stat_result) -> bool:
    """Return True if that file is open at the descriptor."""
    try:
        return os.path.samestat(os.fstat(descriptor), file)
    except OSError:
        return False
