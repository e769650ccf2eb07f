"""The verbs of the scheduler's clients: start a run, read its result, list runs and workers, cancel.

The verbs between the scheduler and its workers are in `dida.chains.messages`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
from attrs import field, frozen

from dida.interfaces import MAX_OPERATORS, is_class_name
from dida.wire.messages import Name, Request, Seconds, Timestamp

STATES = GOING_ON, DONE, FAILED = "going on", "done", "failed"
"""The states of a run."""

Operators = Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=MAX_OPERATORS)]
ClientId = Annotated[str, msgspec.Meta(max_length=200)]
"""A name that a client gives; empty if it gives none."""


@frozen
class Run(Request):
    usage: ClassVar[str] = "run INPUT OPERATOR…"
    about: ClassVar[str] = (
        "start a chain: ok RUN; {after: TS, id: S, application: NAME, wait: seconds}; a repeated id starts nothing"
    )
    input: str
    operator: Operators
    after: Timestamp = field(factory=dict, kw_only=True)
    id: Name | None = field(default=None, kw_only=True)
    """The client's id for the run."""
    retry: bool = field(default=True, kw_only=True)
    """False: the client promises that it sends this id for the first time (saves asking workers and storage nodes)."""
    application: ClientId = field(default="", kw_only=True)
    wait: Seconds = field(default=0.0, kw_only=True)
    """Seconds to wait for the run's end: the reply is then that of `result`."""

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "deadline", max(self.deadline, self.wait))


@frozen
class Result(Request):
    usage: ClassVar[str] = "result RUN"
    about: ClassVar[str] = "ok done OUTPUT or ok failed REASON once it has ended; {timeout: seconds} to wait"
    run: Name
    timeout: Seconds | None = field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.timeout is not None:
            object.__setattr__(self, "deadline", self.timeout)


@frozen
class ListRuns(Request):
    usage: ClassVar[str] = "runs"
    about: ClassVar[str] = "the runs, newest first; {limit, state, operator, application, since, from: RUN}"
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = field(default=1000, kw_only=True)
    state: str | None = field(default=None, kw_only=True)
    operator: Name | None = field(default=None, kw_only=True)
    """Runs whose chain has this operator."""
    application: ClientId | None = field(default=None, kw_only=True)
    """Runs of this application; empty: runs without an application's name."""
    since: Annotated[float, msgspec.Meta(ge=0)] | None = field(default=None, kw_only=True)
    """Runs that began at this time or later, in seconds since 1970 on the scheduler's clock."""
    from_: Annotated[str, msgspec.Meta(max_length=200)] = field(default="", kw_only=True)
    """The run to begin with; empty: the newest."""

    def __attrs_post_init__(self) -> None:
        if self.state not in (None, *STATES):
            raise ValueError(f"unknown state {self.state!r}: expected {', '.join(STATES)}")
        if self.operator is not None and not is_class_name(self.operator):
            raise ValueError(f"operator {self.operator!r} is not a class name")


@frozen
class Cancel(Request):
    usage: ClassVar[str] = "cancel RUN"
    about: ClassVar[str] = "end a run: it has failed as cancelled; what it has written stays"
    run: Name


@frozen
class ListWorkers(Request):
    usage: ClassVar[str] = "workers"
    about: ClassVar[str] = "the workers and how many operators each executes"
