"""The command that puts a node into the background returns when the node listens; with `--wait` when it is ready.

Twisted's own wait for it never ends when the node dies too early to tell. So the command forks before anything else:
its child becomes twistd, whose child becomes the node. All hold one end of a pipe, and the command waits at the other:
for the word that the node is ready, or for the end of all who could say it.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import suppress

from dida.protocols.clock import monotonic, sleep

READY = b"r"
END_TIME = 1.0
"""Seconds for twistd to end, once the node has ended."""
INTERVAL = 0.02
"""Seconds between two looks at whether it has."""


def fork_and_wait(command: str, name: str, seconds: float, log: str | None) -> int:
    """Fork; in the child, return the descriptor on which to say READY. The parent waits, and ends with the command."""
    ends = monotonic() + seconds
    hears, says = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(hears)
        _leave_to_children(says)
        return says
    os.close(says)
    status, problem = _outcome(hears, child, name, seconds, ends)
    if problem:
        where = "" if log is None else f"; its log is {log}"
        sys.stderr.write(f"twistd {command}: {problem}{where}\n")
        sys.stderr.flush()
    os._exit(status)


def _outcome(hears: int, child: int, name: str, seconds: float, ends: float) -> tuple[int, str]:
    """The exit status, and what to say."""
    readable, _, _ = select.select([hears], [], [], max(0.0, ends - monotonic()))
    if not readable:
        return 1, f"{name} is not ready after {seconds:g} s, and goes on"
    if os.read(hears, 1) == READY:
        return 0, ""
    status = _status(child)
    if status > 0:
        return status, ""  # it has said why
    return 1, f"{name} ended before it was ready"


def _status(child: int) -> int:
    """The exit status of twistd, which would wait for a node that is gone for ever: it holds the pipe that it reads."""
    ends = monotonic() + END_TIME
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if monotonic() >= ends:
            os.kill(child, signal.SIGKILL)
            return -signal.SIGKILL
        sleep(INTERVAL)
    return os.waitstatus_to_exitcode(ended[1])


def _leave_to_children(says: int) -> None:
    """From its first child on, the one that becomes the node, this process has nothing to say."""
    me = os.getpid()

    def let_go() -> None:
        if os.getpid() == me:
            os.close(says)

    os.register_at_fork(after_in_parent=let_go)


def say_ready(descriptor: int) -> None:
    """The node is ready; who has waited for it may be gone."""
    with suppress(BrokenPipeError):
        os.write(descriptor, READY)
    os.close(descriptor)
