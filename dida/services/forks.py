"""Forked children of an operator keep none of the node's ports, connections, pipes and signal handlers.

A child that kept them would hold the port, and the connections, after the node's end, so that other nodes would not
notice the end. The descriptors' numbers stay in use, by /dev/null: the child's objects can be closed, and their writes
go nowhere. Programs that are executed get none of them anyway (close-on-exec).
"""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable, Iterable
from typing import Any

Identity = tuple[int, int]


def leave_nothing_to_children(reactor: Any, others: Callable[[], Iterable[int]], in_child: Callable[[], None]) -> None:
    """Have each forked child close the node's descriptors, reset the signal handlers, and call `in_child`.

    The node's descriptors are those that are open now and not files, those of the reactor, and `others`. Call this in a
    node's own process, once its reactor runs.
    """
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    early = _open_now()
    armed = True

    def after_fork() -> None:
        nonlocal armed
        if not armed:
            return  # a child of a child: its descriptors with these numbers are its own
        armed = False
        signal.set_wakeup_fd(-1)
        for signaled in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD):
            signal.signal(signaled, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        theirs = {number for number, identity in early.items() if _identity(number) == identity}
        for each in (*reactor.getReaders(), *reactor.getWriters()):
            theirs.add(each.fileno())
        theirs.update(others())
        for number in theirs:
            if number > 2:
                os.dup2(nothing, number, inheritable=False)
        in_child()

    os.register_at_fork(after_in_child=after_fork)


def _open_now() -> dict[int, Identity]:
    """Return the open descriptors that are not files: sockets, pipes, epoll."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        identity = _identity(number)
        if number > 2 and identity is not None:
            found[number] = identity
    return found


def _identity(number: int) -> Identity | None:
    """Return what identifies an open descriptor; None for a file, a device or a closed descriptor."""
    try:
        what = os.fstat(number)
    except OSError:
        return None
    if stat.S_ISREG(what.st_mode) or stat.S_ISDIR(what.st_mode) or stat.S_ISCHR(what.st_mode):
        return None
    return what.st_dev, what.st_ino
