"""How long a worker waits for others."""

from __future__ import annotations

from attrs import frozen


@frozen
class Timing:
    """The waiting times of a worker, in seconds."""

    register_every: float = 2.0
    """Between two registrations on the same connection."""
    choose_after: float = 0.005
    """Duration of a step up to which the planned route counts; after a longer step the scheduler is asked who executes
    the next one."""
    choose_timeout: float = 2.0
    """For the scheduler's reply to that."""
    lacking_time: float = 1.0
    """During which a worker takes no operators after it passed one on."""
    lacking_pause: float = 0.2
    """Before a step is passed on: if the others lack the same, it does not circulate faster."""
