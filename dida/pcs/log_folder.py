"""The folder of a PCS's log files, which no other PCS uses at the same time."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import IO

KEPT_LOGS = 3
"""Older files of a node's log; `NAME.1` is the newest of them."""
LOCK = ".pcs.lock"
MOST = 1000
"""PCSs that log below one folder at a time."""


class LogFolder:
    """The folder of one PCS's logs: `top`, or `pcs-2`, `pcs-3` … in it while other PCSs use those before.

    Otherwise two PCSs in one folder would write into the same files, as their nodes have the same ids.
    """

    def __init__(self, top: str) -> None:
        self.path = self._top = os.path.abspath(top)
        self._lock: IO[bytes] | None = None

    def take(self) -> None:
        """Keep other PCSs out. OSError when the folder is not writable."""
        for number in range(1, MOST + 1):
            path = self._top if number == 1 else os.path.join(self._top, f"pcs-{number}")
            os.makedirs(path, exist_ok=True)
            lock = open(os.path.join(path, LOCK), "ab")  # noqa: SIM115 - held until `release`
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as problem:
                lock.close()
                if not isinstance(problem, BlockingIOError):
                    raise
            else:
                self.path, self._lock = path, lock
                return
        raise OSError(errno.EBUSY, f"{MOST} PCSs log there")

    def release(self) -> None:
        """Let other PCSs use it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
