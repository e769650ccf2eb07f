"""The two clocks of a process: a steady one for all deadlines, and the time of day for people.

Twisted's reactors use the time of day: when an administrator or NTP sets it forward, every wait ends at once; when it
is set back, every wait gets longer.
"""

from __future__ import annotations

import time
from typing import Any, TypeVar

from twisted.internet.base import ReactorBase

_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""It goes on while the machine sleeps: a node that wakes up must not use a lease that has expired."""
_Reactor = TypeVar("_Reactor")


def steady(reactor: _Reactor) -> _Reactor:
    """Make a reactor of Twisted use the steady clock and return it; leave any other reactor (a `task.Clock`) as it is.

    The reactor's time goes on from its present value, so pending calls and times taken before stay right. Call it
    before or after the reactor was started, as often as you like.
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
    """Return the seconds on the steady clock, for a process that has no reactor yet."""
    return time.clock_gettime(_BOOT)


def sleep(seconds: float) -> None:
    """Block the process, which has no reactor yet, for so many seconds."""
    time.sleep(seconds)


def time_of_day() -> float:
    """Return the seconds since 1970, for people: when a run or a step began. No deadline depends on it."""
    return time.time()  # noqa: TID251 - the one place
