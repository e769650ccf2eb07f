"""What a process may lack to go on: file descriptors, memory, threads, room for temporary files.

Descriptors run out gradually, so some are kept back: a node that has only those left takes no more connections, and a
worker no more operators. With them it still reaches others, to pass on what it has.
"""

from __future__ import annotations

import errno
import os
import resource

from dida.errors import Unavailable

RESERVE = 32
"""Descriptors that are kept back; of a limit below 256 an eighth."""
LACKS = {
    errno.EMFILE: "file descriptors (ulimit -n)",
    errno.ENFILE: "file descriptors (of the machine)",
    errno.ENOMEM: "memory",
    errno.EAGAIN: "processes or threads (ulimit -u)",
    errno.ENOSPC: "room on the disk",
}


class Lacking(Unavailable):
    """This process can't do it for want of `what`; another one may."""

    def __init__(self, what: str) -> None:
        super().__init__(f"this process has no more {what}")
        self.what = what


def lack_of(problem: BaseException) -> str:
    """What this process lacks when its own code has met that; empty when it is something else."""
    if isinstance(problem, Lacking):
        return problem.what
    if isinstance(problem, MemoryError):
        return "memory"
    if isinstance(problem, RuntimeError) and "can't start new thread" in str(problem):
        return "threads (ulimit -u)"
    return LACKS.get(problem.errno or 0, "") if isinstance(problem, OSError) else ""


def lack_of_descriptors() -> str:
    """What is lacking when no more than the reserve of descriptors is left; else empty."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        lowest = os.dup(0)  # the lowest number that is free
    except OSError as problem:
        return LACKS.get(problem.errno or 0, "") if problem.errno != errno.EBADF else ""
    os.close(lowest)
    few = limit != resource.RLIM_INFINITY and lowest >= limit - min(RESERVE, limit // 8)
    return LACKS[errno.EMFILE] if few else ""
