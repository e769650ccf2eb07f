"""What a process may lack: file descriptors, memory, threads, room for temporary files.

Descriptors run out gradually, so some are kept in reserve: a node that has only those left accepts no more connections,
and a worker no more operators. With the reserve it can still reach other nodes and pass its work on.
"""

from __future__ import annotations

import errno
import os
import resource

from dida.errors import Unavailable

RESERVE = 32
"""Descriptors in reserve; an eighth of a limit below 256."""
LACKS = {
    errno.EMFILE: "file descriptors (ulimit -n)",
    errno.ENFILE: "file descriptors (of the machine)",
    errno.ENOMEM: "memory",
    errno.EAGAIN: "processes or threads (ulimit -u)",
    errno.ENOSPC: "room on the disk",
}


class Lacking(Unavailable):
    """This process lacks `what`; another process may be able to do it."""

    def __init__(self, what: str) -> None:
        super().__init__(f"this process has no more {what}")
        self.what = what


def lack_of(problem: BaseException) -> str:
    """Return what this process lacks if that has caused the error, else an empty string."""
    if isinstance(problem, Lacking):
        return problem.what
    if isinstance(problem, MemoryError):
        return "memory"
    if isinstance(problem, RuntimeError) and "can't start new thread" in str(problem):
        return "threads (ulimit -u)"
    return LACKS.get(problem.errno or 0, "") if isinstance(problem, OSError) else ""


def lack_of_descriptors() -> str:
    """Return what is lacking if only the reserve of descriptors is left, else an empty string."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        lowest = os.dup(0)  # the lowest number that is free
    except OSError as problem:
        return LACKS.get(problem.errno or 0, "") if problem.errno != errno.EBADF else ""
    os.close(lowest)
    few = limit != resource.RLIM_INFINITY and lowest >= limit - min(RESERVE, limit // 8)
    return LACKS[errno.EMFILE] if few else ""
