"""The records that travel along a chain from worker to worker.

A run is a request: the `Meta` record, the input, and one `Assignment` per operator, which has its worker and, after the
execution, its outcome. The line of a request is `dida.chains.messages.Execute`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

import msgspec
from attrs import define, field, frozen
from msgspec import Struct

from dida.interfaces import MAX_OPERATORS, Access
from dida.versions import Version
from dida.wire.messages import Counter, Digest, Name, Timestamp

MAX_OUTPUT = 512 * 1024
"""The most bytes of the output of one operator, as UTF-8."""
SHORT = 6
"""Characters after the hyphen of a run's id that people see."""

Position = Annotated[int, msgspec.Meta(ge=0, lt=MAX_OPERATORS)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


@define
class Meta:
    """What a run carries along: its id, the addresses of nodes, and what it has seen of the storage."""

    run: Name
    scheduler: str
    """`host:port`"""
    storage: tuple[str, ...] = ()
    """The living storage nodes, each as `R=ID@host:port`."""
    view: Counter = 0
    """The number of the storage's view that `storage` was taken from; 0 if none was known."""
    versions: dict[str, Version] = field(factory=dict)
    """The version of every record that the run has read or written; later reads return the same version."""
    after: Timestamp = field(factory=dict)
    """The run's timestamp at the storage."""

    def of_step(self, position: int) -> StepMeta:
        """Return a copy for an operator, which may change it."""
        mine = dict(self.versions), dict(self.after)
        return StepMeta(self.run, self.scheduler, self.storage, self.view, *mine, position)


@define
class StepMeta(Meta):
    """The meta record as an operator gets it."""

    position: int = 0
    """The operator's place in the chain, from 0."""


class Mark(Struct, frozen=True, array_like=True, gc=False):
    """What a run has done by a moment: equal marks are of equal executions (`dida.chains.journal`)."""

    digest: Digest = 0
    """A hash chain over the input, the calls so far and the outputs."""
    updates: Counter = 0
    """The number of updates."""
    last: Digest = 0
    """The digest at the last one."""


NO_MARK = Mark()


class KnownValue(Struct, frozen=True, array_like=True, gc=False):
    """What a run has read or written: later steps read it without a storage node."""

    key: str
    version: Version
    value: str


class Assignment(Struct, frozen=True, omit_defaults=True, gc=False):
    """One operator of a chain and its worker; after the execution, also the outcome."""

    operator: Name
    position: Position
    worker: Name
    host: Name
    port: Port
    output: str = ""
    ms: float = 0.0
    attempt: Counter = 1
    """The number of the step's execution; above 1 after workers died, or after retries."""
    start: float = 0.0
    """The start of the execution, in seconds since 1970 on the worker's clock."""
    records: tuple[Access, ...] = ()
    """The accesses to records, in order. Before an execution: those of an earlier one."""
    after: Timestamp = {}
    """The run's timestamp at the end of the step."""
    mark: Mark = NO_MARK
    """What the run had done by the end of the step."""


@frozen
class Step:
    """One executed operator, as the result of a run shows it."""

    operator: str
    worker: str
    output: str
    ms: float
    start: float = 0.0
    attempt: int = 1
    why: str = ""
    """The reason for the worker: the scheduler's counts at each worker."""
    records: tuple[Access, ...] = ()
    printed: str = ""


def steps(
    chain: Iterable[Assignment], why: Mapping[int, str] | None = None, printed: Mapping[int, str] | None = None
) -> list[Step]:
    """Return the executed part of a chain as steps; `why` and `printed` are by position."""
    reasons, texts = why or {}, printed or {}
    return [
        Step(
            a.operator,
            a.worker,
            a.output,
            a.ms,
            a.start,
            a.attempt,
            reasons.get(a.position, ""),
            a.records,
            texts.get(a.position, ""),
        )
        for a in chain
    ]


def short_id(run: str) -> str:
    """Return a run's id as people see it; the scheduler accepts it, too."""
    head, hyphen, rest = run.partition("-")
    return head + hyphen + rest[:SHORT]


def versions_after(steps: Iterable[Assignment]) -> dict[str, Version]:
    """Return the versions that these steps, executed in this order, have left a run with."""
    versions: dict[str, Version] = {}
    for step in steps:
        for touch in step.records:
            if touch.how != "read" or touch.key not in versions:
                versions[touch.key] = touch.version
    return versions
