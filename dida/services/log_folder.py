"""The folder of a PCS's log files, which no other PCS uses at the same time."""

from __future__ import annotations

import fcntl
import os
from typing import IO

LOCK = ".pcs.lock"


class LogFolder:
    """Where the nodes of one PCS log: `top`, or a folder in it named after the PCS, when another PCS logs in `top`.

    Two PCSs that are started in one folder would else empty each other's files, as their nodes have the same ids.
    """

    def __init__(self, top: str, name: str) -> None:
        self.path = os.path.abspath(top)
        self._name = name
        self._lock: IO[bytes] | None = None

    def take(self) -> None:
        """From now on no other PCS logs there. OSError when nothing can be written."""
        lock = open(os.path.join(self.path, LOCK), "ab")  # noqa: SIM115 - held until `release`
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            self.path = os.path.join(self.path, self._name)
            os.makedirs(self.path, exist_ok=True)
        else:
            self._lock = lock

    def release(self) -> None:
        """Another PCS may have it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
