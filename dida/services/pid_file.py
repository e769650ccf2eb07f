"""A node's pid file: the process that holds it locked is alive, whatever number the file names.

The node keeps the file open and locked (flock) as long as it is alive. So an empty file, a file of nonsense and one
that names another process differ from the file of a living node. A node that shuts down shares its lock: its successor
waits for its end.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable

from twisted.logger import Logger

from dida.errors import UserError
from dida.pcs.processes import start_time
from dida.protocols.clock import monotonic, sleep

NOTICE = 1.0
"""Time-out for a node that was sent a signal to begin its shutdown, in seconds."""
INTERVAL = 0.05
"""Seconds between two looks at whether the lock is free."""

_log = Logger()


class PidFile:
    """The file `path` of the node `name`."""

    def __init__(self, path: str, name: str, notice: float = NOTICE) -> None:
        self.path = os.path.abspath(path)
        self._name = name
        self._notice = notice
        self._descriptor: int | None = None

    def fileno(self) -> int:
        """The descriptor that holds the lock; -1 without one."""
        return -1 if self._descriptor is None else self._descriptor

    def claim(self, patience: float, say: Callable[[str], None]) -> None:
        """Make sure that no other process is this node; one that is leaving may take so many seconds for it.

        `say` receives the reason for waiting. Raises UserError if the node is alive, or the file cannot be written.
        """
        self._check()
        ends = monotonic() + self._notice
        waiting = False
        while (descriptor := self._opened()) is not None:
            if _locked(descriptor, fcntl.LOCK_EX):
                if self._is_named(descriptor):
                    self._descriptor = descriptor
                    _log.warn("replacing the pid file {path}: it {why}", path=self.path, why=_why_stale(descriptor))
                    return
                os.close(descriptor)
                continue
            other = _content(descriptor) or "?"
            leaving = _locked(descriptor, fcntl.LOCK_SH)
            os.close(descriptor)
            if leaving and not waiting:
                waiting = True
                ends = monotonic() + patience
                say(f"{self._name} (process {other}) is leaving: waiting for its end")
            if monotonic() >= ends:
                if waiting:
                    raise UserError(f"{self._name} has not ended within {patience:g} s: end it by kill -9 {other}")
                raise UserError(f"{self._name} runs already, as process {other} ({self.path}): end it first")
            sleep(INTERVAL)

    def write(self) -> None:
        """Name this process in it; the lock is held from now on."""
        new = f"{self.path}.{os.getpid()}.new"
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        os.write(descriptor, b"%d\n" % os.getpid())
        os.fsync(descriptor)
        _locked(descriptor, fcntl.LOCK_EX)
        os.replace(new, self.path)
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = descriptor

    def leaving(self) -> None:
        """From now on a successor waits for the end of this process."""
        if self._descriptor is not None:
            _locked(self._descriptor, fcntl.LOCK_SH)

    def remove(self) -> None:
        """The node has ended. A file that is another node's by now stays."""
        if self._descriptor is not None and self._is_named(self._descriptor):
            try:
                os.unlink(self.path)
            except OSError as problem:
                _log.warn("can't remove {path}: {problem}", path=self.path, problem=problem.strerror)

    def _check(self) -> None:
        """Check now, while a command waits for the result, whether the file can be written."""
        if os.path.isdir(self.path):
            raise UserError(f"cannot write the pid file {self.path}: it is a folder")
        new = f"{self.path}.{os.getpid()}.new"
        try:
            os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
            os.unlink(new)
        except OSError as problem:
            reason = os.strerror(problem.errno or 0).lower()
            raise UserError(f"cannot write the pid file {self.path}: {reason}: name another one by --pidfile") from None

    def _opened(self) -> int | None:
        try:
            return os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as problem:
            _log.warn("replacing the pid file {path}: {why}", path=self.path, why=(problem.strerror or "").lower())
            return None

    def _is_named(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except OSError:
            return False


def _locked(descriptor: int, how: int) -> bool:
    """Take a lock, or change it; whether that was possible. A file that can't be locked is nobody's."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as problem:
        _log.warn("pid files can't be locked here: {problem}", problem=problem.strerror)
    return True


def _content(descriptor: int) -> str:
    try:
        return os.pread(descriptor, 100, 0).decode(errors="replace").strip("\0 \r\n")
    except OSError:
        return ""


def _why_stale(descriptor: int) -> str:
    content = _content(descriptor)
    if not content:
        return "is empty"
    if not (content.isascii() and content.isdecimal()):
        return "names no process"
    return f"names process {content}, which {'is another one' if start_time(int(content)) else 'has ended'}"
