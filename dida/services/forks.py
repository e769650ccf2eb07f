"""What an operator's forked child gets of the node: nothing. Not its port, its connections, its pipes, its signals.

A child that kept them would keep the port taken after the node's end, and the connections open, so that nobody
notices the end. The numbers of the descriptors stay taken, by /dev/null: objects that the child has of them can be
closed, and write into nothing. Programs that are executed get none of them anyway (close-on-exec).
"""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable, Iterable
from typing import Any

Identity = tuple[int, int]


def leave_nothing_to_children(reactor: Any, others: Callable[[], Iterable[int]], in_child: Callable[[], None]) -> None:
    """From now on, in each forked child: no descriptor of the node's, the default signals, and `in_child` is called.

    The node's are those that are open now and no files, all of the reactor, and `others`. To be called in a process
    that is the node's alone, once its reactor runs.
    """
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    early = _open_now()
    armed = True

    def after_fork() -> None:
        nonlocal armed
        if not armed:
            return  # a child of a child: what has those numbers by now is its own
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
    """The descriptors that are open and no files: sockets, pipes, what the kernel waits with."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        identity = _identity(number)
        if number > 2 and identity is not None:
            found[number] = identity
    return found


def _identity(number: int) -> Identity | None:
    """What is open there; None when it is a file, a device, or nothing."""
    try:
        what = os.fstat(number)
    except OSError:
        return None
    if stat.S_ISREG(what.st_mode) or stat.S_ISDIR(what.st_mode) or stat.S_ISCHR(what.st_mode):
        return None
    return what.st_dev, what.st_ino
