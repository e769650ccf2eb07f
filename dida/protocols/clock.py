"""The two clocks of a process: one that never steps, for all that is waited for, and the time of day, for people.

Twisted's reactors count by the time of day: an administrator, or NTP, that sets it forward ends every wait at once, and
back makes every wait longer by as much.
"""

from __future__ import annotations

import time
from typing import Any, TypeVar

from twisted.internet.base import ReactorBase

_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Counts while the machine sleeps, too: a node that wakes up must not take its old lease for a new one."""
_Reactor = TypeVar("_Reactor")


def steady(reactor: _Reactor) -> _Reactor:
    """Make a reactor of Twisted's count by a clock that never steps, and return it; another one (a `task.Clock`) is
    left as it is.

    It goes on from where it is, so that this may be done at any time: what waits already, and times that were taken
    from it before, stay right. Call it before or after the reactor was started, as often as you like.
    """
    if isinstance(reactor, ReactorBase) and "seconds" not in vars(reactor):
        clock_gettime, boot = time.clock_gettime, _BOOT
        ahead = reactor.seconds() - clock_gettime(boot)

        def seconds() -> float:
            return clock_gettime(boot) + ahead

        patched: Any = reactor
        patched.seconds = seconds
        for call in patched.getDelayedCalls():
            call.seconds = seconds
    return reactor


def monotonic() -> float:
    """Seconds on the clock that never steps, for a process that has no reactor yet."""
    return time.clock_gettime(_BOOT)


def sleep(seconds: float) -> None:
    """Stop the process, which has no reactor yet, for so long."""
    time.sleep(seconds)


def time_of_day() -> float:
    """Seconds since 1970, for people: when a run or a step was begun. Nothing is waited for, or compared, by it."""
    return time.time()  # noqa: TID251 - the one place
